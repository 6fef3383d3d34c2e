//! Cluster addresses of services.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use tokio::sync::MutexGuard;
use trainyard_runtime_core::schema::CauseReason;
use trainyard_runtime_core::store::{ListQuery, Object, Resource};

use super::Api;
use super::check::{invalid_field, map_at};
use super::status::ApiError;
use crate::kinds::Kind;

/// 10.96.0.0/16 without its network and broadcast addresses: the range that kubeadm has.
const RANGE: RangeInclusive<u32> = 0x0a60_0001..=0x0a60_fffe;
/// The first address handed out; 10.96.0.1 is the API server's own on a cluster.
const FIRST: u32 = 0x0a60_000a;

/// The addresses of all services. They are read when the first one is asked for: headless services, which jobs have by the thousand, need none.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken(Arc<Services>);

#[derive(Debug, Default)]
struct Services {
    all: Vec<Arc<Object>>,
    addresses: OnceLock<BTreeSet<u32>>,
}

impl Services {
    fn addresses(&self) -> &BTreeSet<u32> {
        let of = |spec: &Value| spec["clusterIP"].as_str()?.parse::<Ipv4Addr>().ok().map(u32::from);
        let read = || self.all.iter().filter_map(|service| of(&service.on_its_own().value()["spec"])).collect();
        self.addresses.get_or_init(read)
    }
}

/// The addresses that are taken. While the guard is held nobody else gets one.
pub(super) async fn taken(api: &Api) -> (MutexGuard<'_, ()>, Taken) {
    let gate = api.address_gate.lock().await;
    // A list without limit and at the latest state cannot be refused.
    let services = api.store.list(&Resource::new("", "services"), &ListQuery::default()).map(|page| page.items);
    (gate, Taken(Arc::new(Services { all: services.unwrap_or_default(), addresses: OnceLock::new() })))
}

impl Taken {
    /// Sees that a service has an address and nobody else has it, unless it is headless or external. `old` is the service
    /// before, where there was one; the fields themselves have been found valid.
    pub(super) fn settle(&self, kind: &Kind, old: Option<&Value>, service: &mut Value) -> Result<(), ApiError> {
        if service["spec"]["type"] == "ExternalName" {
            return Ok(());
        }
        let given = service["spec"]["clusterIP"].as_str().unwrap_or_default();
        let had = old.and_then(|old| old["spec"]["clusterIP"].as_str()).unwrap_or_default();
        let address = match given.parse::<Ipv4Addr>() {
            Err(_) if given.is_empty() => self.free()?,
            Ok(asked) if given != had => {
                self.check(kind, service, asked)?;
                given.to_owned()
            }
            Ok(_) | Err(_) => given.to_owned(),
        };
        let Some(spec) = map_at(service, "spec") else { return Ok(()) };
        spec.entry("type").or_insert_with(|| Value::from("ClusterIP"));
        spec.insert("clusterIP".to_owned(), Value::from(address.as_str()));
        spec.insert("clusterIPs".to_owned(), json!([address]));
        Ok(())
    }

    fn check(&self, kind: &Kind, service: &Value, asked: Ipv4Addr) -> Result<(), ApiError> {
        let why = if !RANGE.contains(&u32::from(asked)) {
            "the provided network does not match the current range"
        } else if self.0.addresses().contains(&u32::from(asked)) {
            "provided IP is already allocated"
        } else {
            return Ok(());
        };
        let name = service["metadata"]["name"].as_str().unwrap_or_default();
        let message = format!("Invalid value: {}: failed to allocate IP {asked}: {why}", json!([asked.to_string()]));
        Err(invalid_field(kind, name, CauseReason::Invalid, "spec.clusterIPs", message))
    }

    fn free(&self) -> Result<String, ApiError> {
        let taken = self.0.addresses();
        let free = (FIRST..=*RANGE.end()).find(|address| !taken.contains(address));
        let full = || ApiError::internal("failed to allocate a serviceIP: range is full");
        free.map(|address| Ipv4Addr::from(address).to_string()).ok_or_else(full)
    }
}
