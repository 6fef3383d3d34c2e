//! Cluster addresses of services.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::sync::MutexGuard;
use trainyard_runtime_core::store::{ListQuery, Resource};

use super::Api;
use super::check::map_at;

/// The first address handed out; 10.96.0.1 is the API server's own on a cluster.
const FIRST: u32 = 0x0a60_000a;
/// Behind the last: the range is 10.96.0.0/16, as kubeadm has it.
const END: u32 = 0x0a61_0000;

/// Gives a new service an address, unless it is headless, has one or is external. The guard keeps the address free
/// until the service is stored.
pub(super) async fn assign<'a>(api: &'a Api, service: &mut Value) -> Option<MutexGuard<'a, ()>> {
    let external = service["spec"]["type"] == "ExternalName";
    let given = service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let gate = if external || !given.is_empty() { None } else { Some(api.address_gate.lock().await) };
    let address = match (&gate, given) {
        (Some(_), _) => free(api)?,
        (None, given) => given,
    };
    let spec = map_at(service, "spec")?;
    spec.entry("type").or_insert_with(|| Value::from("ClusterIP"));
    if !external {
        spec.insert("clusterIP".to_owned(), Value::from(address.as_str()));
        spec.insert("clusterIPs".to_owned(), json!([address]));
    }
    gate
}

fn free(api: &Api) -> Option<String> {
    let services = api.store.list(&Resource::new("", "services"), &ListQuery::default()).ok()?;
    let taken: BTreeSet<u32> = services
        .items
        .iter()
        .filter_map(|service| service.value()["spec"]["clusterIP"].as_str()?.parse::<std::net::Ipv4Addr>().ok())
        .map(u32::from)
        .collect();
    (FIRST..END).find(|address| !taken.contains(address)).map(|address| std::net::Ipv4Addr::from(address).to_string())
}
