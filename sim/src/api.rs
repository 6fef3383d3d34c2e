//! The API server: the object store's core, its garbage collector, and the few rules that the server adds.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use trainyard_coordinator_core::gang::{QUEUE_API_VERSION, QUEUE_KINDS};
use trainyard_coordinator_core::manifest::dialects;
use trainyard_proto::plan::ObjectRef;
use trainyard_runtime_core::gc::{Action as GcAction, Graph};
use trainyard_runtime_core::patch::merge;
use trainyard_runtime_core::store::{
    Change, ChangeKind, Command, Create, Delete, Key, Limits, NewObject, Object, Part, Preconditions, Propagation,
    Resource, ResourceRules, Store, StoreError, Update,
};

use crate::estate::CLASS_VERSION;

/// Our scheduling gate; a binding takes it off.
const GATE: &str = "trainyard.dev/gang";

/// What is at a path of fields. A JSON pointer would be copied twice for each of them.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, field| value.get(field))
}

/// Which resource a kind is.
#[derive(Clone, Debug)]
pub(crate) struct Kinds {
    /// (apiVersion, kind) and resource; so few that looking through them is fastest.
    all: Vec<(String, String, Resource)>,
}

impl Kinds {
    fn rules() -> Vec<((String, String), ResourceRules)> {
        let builtin = |group: &str, version: &str, kind: &str, plural: &str| {
            let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
            ((api_version, kind.to_owned()), ResourceRules::builtin(Resource::new(group, plural), true))
        };
        let mut rules = vec![
            (("v1".to_owned(), "Pod".to_owned()), ResourceRules::pods()),
            (("v1".to_owned(), "Namespace".to_owned()), ResourceRules::namespaces()),
            (("v1".to_owned(), "Node".to_owned()), ResourceRules::builtin(Resource::new("", "nodes"), false)),
            builtin("", "v1", "Service", "services"),
            builtin("batch", "v1", "Job", "jobs"),
            builtin("apps", "v1", "ReplicaSet", "replicasets"),
            builtin("apps", "v1", "Deployment", "deployments"),
        ];
        let class = ResourceRules::plain(Resource::new("scheduling.k8s.io", "priorityclasses"), false);
        rules.push(((CLASS_VERSION.to_owned(), "PriorityClass".to_owned()), class));
        let group = QUEUE_API_VERSION.split('/').next().unwrap_or_default();
        for (kind, plural, namespaced) in QUEUE_KINDS {
            let custom = ResourceRules::custom(Resource::new(group, plural), namespaced);
            rules.push(((QUEUE_API_VERSION.to_owned(), kind.to_owned()), custom));
        }
        for dialect in dialects() {
            let info = dialect.info();
            let resource = Resource::new(info.group, info.plural);
            rules.push((
                (info.api_version.to_owned(), info.kind.to_owned()),
                ResourceRules::custom(resource, info.namespaced),
            ));
        }
        rules
    }

    pub(crate) fn resource(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        let mut all = self.all.iter();
        all.find(|(version, name, _)| name == kind && version == api_version).map(|(.., resource)| resource)
    }

    pub(crate) fn key(&self, object: &ObjectRef) -> Option<Key> {
        let resource = self.resource(&object.api_version, &object.kind)?;
        Some(Key::new(resource.clone(), object.namespace.as_str(), object.name.as_str()))
    }
}

/// The server.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) kinds: Kinds,
    /// Every change of each resource, in order. Watches are positions in it.
    pub(crate) logs: BTreeMap<Resource, Vec<Arc<Change>>>,
    /// The objects of each resource as they are, by key.
    current: BTreeMap<Resource, BTreeMap<Key, Arc<Object>>>,
    graph: Graph,
    next_uid: u64,
    /// The disk is full for this many more writes.
    refused: u32,
}

impl Api {
    pub(crate) fn new() -> Self {
        let rules = Kinds::rules();
        let kind = |((version, kind), rules): &((String, String), ResourceRules)| {
            (version.clone(), kind.clone(), rules.resource.clone())
        };
        let kinds = Kinds { all: rules.iter().map(kind).collect() };
        let store = Store::new(rules.into_iter().map(|(_, rules)| rules), Limits::default());
        Self {
            store,
            kinds,
            logs: BTreeMap::new(),
            current: BTreeMap::new(),
            graph: Graph::new([]),
            next_uid: 0,
            refused: 0,
        }
    }

    fn step(&mut self, now_ms: i64, command: Command) -> Result<Arc<Object>, StoreError> {
        if self.refused > 0 {
            self.refused -= 1;
            return Err(StoreError::BadRequest { message: "the disk is full".to_owned() });
        }
        let before = self.store.resource_version();
        let outcome = self.store.step(now_ms, command)?;
        for change in self.store.changes_since(before)? {
            self.graph.observe(&change);
            let key = change.object.key();
            let current = self.current.entry(key.resource.clone()).or_default();
            match change.kind {
                ChangeKind::Put => current.insert(key.clone(), Arc::clone(&change.object)),
                ChangeKind::Delete => current.remove(key),
            };
            self.logs.entry(change.object.key().resource.clone()).or_default().push(change);
        }
        Ok(outcome.object)
    }

    /// From now on refuse this many writes, whoever makes them: the disk is full.
    pub(crate) const fn refuse_writes(&mut self, count: u32) {
        self.refused = count;
    }

    pub(crate) fn create(
        &mut self,
        now_ms: i64,
        object: &ObjectRef,
        mut value: Value,
    ) -> Result<Arc<Object>, StoreError> {
        let Some(resource) = self.kinds.resource(&object.api_version, &object.kind).cloned() else {
            return Err(StoreError::BadRequest { message: format!("no kind {}", object.kind) });
        };
        self.next_uid += 1;
        let is_pod = object.kind == "Pod";
        if is_pod {
            value["status"] = json!({"phase": "Pending"});
        }
        let new = NewObject {
            uid: format!("uid-{:05}", self.next_uid),
            suffix: format!("{:05}", self.next_uid),
            keep_status: is_pod,
        };
        self.step(
            now_ms,
            Command::Create(Create { resource, namespace: object.namespace.clone(), value, new, dry_run: false }),
        )
    }

    /// A merge patch of the main resource or its status. uid and resourceVersion in it are preconditions.
    pub(crate) fn patch(
        &mut self,
        now_ms: i64,
        key: &Key,
        patch: &Value,
        part: Part,
    ) -> Result<Arc<Object>, StoreError> {
        let current = self.store.get(key).ok_or_else(|| StoreError::not_found(key))?;
        let value =
            merge(current.value(), patch).map_err(|error| StoreError::BadRequest { message: error.to_string() })?;
        self.step(now_ms, Command::Update(Update { key: key.clone(), value, part, dry_run: false }))
    }

    pub(crate) fn delete(
        &mut self,
        now_ms: i64,
        key: &Key,
        uid: Option<&str>,
        resource_version: Option<&str>,
        grace_seconds: Option<i64>,
    ) -> Result<Arc<Object>, StoreError> {
        self.step(
            now_ms,
            Command::Delete(Delete {
                key: key.clone(),
                preconditions: Preconditions {
                    uid: uid.map(str::to_owned),
                    resource_version: resource_version.map(str::to_owned),
                },
                grace_seconds,
                propagation: Some(Propagation::Background),
                dry_run: false,
            }),
        )
    }

    /// POST pods/binding.
    pub(crate) fn bind(
        &mut self,
        now_ms: i64,
        key: &Key,
        uid: Option<&str>,
        node: &str,
    ) -> Result<Arc<Object>, StoreError> {
        let current = self.store.get(key).ok_or_else(|| StoreError::not_found(key))?;
        let taken = current.value()["spec"]["nodeName"].is_string();
        if taken || current.is_deleting() || uid.is_some_and(|uid| **current.uid() != *uid) {
            return Err(StoreError::modified(key));
        }
        let gates: Vec<Value> = current.value()["spec"]["schedulingGates"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|gate| gate["name"] != GATE)
            .cloned()
            .collect();
        let mut conditions = current.value()["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions.push(json!({"type": "PodScheduled", "status": "True"}));
        let patch = json!({
            "spec": {"nodeName": node, "schedulingGates": if gates.is_empty() { Value::Null } else { json!(gates) }},
            "status": {"conditions": conditions},
        });
        self.patch(now_ms, key, &patch, Part::Whole)
    }

    /// Let the garbage collector do what it wants to do now. Returns how many writes that were.
    pub(crate) fn collect_garbage(&mut self, now_ms: i64) -> usize {
        let steps = self.graph.plan();
        let count = steps.len();
        for step in steps {
            if self.carry_out(now_ms, step.action).is_err() {
                self.graph.retry(&step.cause);
            }
        }
        count
    }

    fn carry_out(&mut self, now_ms: i64, action: GcAction) -> Result<(), StoreError> {
        match action {
            GcAction::Delete { key, uid, propagation } => {
                self.step(
                    now_ms,
                    Command::Delete(Delete {
                        preconditions: Preconditions { uid: Some(uid.to_string()), resource_version: None },
                        propagation: Some(propagation),
                        ..Delete::of(key)
                    }),
                )?;
            }
            GcAction::RemoveOwners { key, uid, owners } => {
                let current = self.store.get(&key).ok_or_else(|| StoreError::not_found(&key))?;
                let mut left = current.value()["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
                left.retain(|owner| !owners.iter().any(|gone| owner["uid"] == **gone));
                let patch = json!({"metadata": {"uid": *uid, "ownerReferences": left}});
                self.patch(now_ms, &key, &patch, Part::Main)?;
            }
            GcAction::RemoveFinalizer { key, uid, finalizer } => {
                let current = self.store.get(&key).ok_or_else(|| StoreError::not_found(&key))?;
                let left: Vec<&str> = current.finalizers().filter(|one| *one != finalizer).collect();
                let patch = json!({"metadata": {"uid": *uid, "finalizers": left}});
                self.patch(now_ms, &key, &patch, Part::Main)?;
            }
            // Nobody here deletes in the foreground, or a namespace.
            GcAction::Unblock { .. } | GcAction::FinalizeNamespace { .. } => {}
        }
        Ok(())
    }

    pub(crate) fn of_kind<'a>(
        &'a self,
        api_version: &str,
        kind: &str,
    ) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let resource = self.kinds.resource(api_version, kind);
        resource.and_then(|resource| self.current.get(resource)).into_iter().flat_map(BTreeMap::values)
    }

    /// How many changes there have been of a kind.
    pub(crate) fn changes_of(&self, api_version: &str, kind: &str) -> usize {
        self.kinds.resource(api_version, kind).and_then(|resource| self.logs.get(resource)).map_or(0, Vec::len)
    }

    /// Everything, for a failure report.
    pub(crate) fn dump(&self) -> Value {
        self.store.objects().map(|object| object.value().clone()).collect()
    }
}
