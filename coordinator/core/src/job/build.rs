//! Pods and services from the model. Building cannot fail: all that can be wrong was found when the manifest was lowered.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodSchedulingGate, PodSpec, Service, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;
use serde_json::{Value, json};
use trainyard_proto::plan::{Action, ObjectRef};

use super::deputy::Terms;
use crate::gang::cluster::may_be_bound_here;
use crate::model::{EnvInto, EnvModel, EnvValue, JobModel, Replica, Role, Scheduler, ServiceModel};
use crate::{fnv, label};

/// The scheduler of pods that are left to Volcano.
const VOLCANO: &str = "volcano";

/// What pods need to know beside the model.
#[derive(Debug)]
pub(super) struct Site<'job> {
    pub(super) model: &'job JobModel,
    pub(super) generation: u64,
    /// Restarts so far.
    pub(super) restarts: u32,
    pub(super) port: u16,
    /// Whether our scheduler places the pods.
    pub(super) gated: bool,
    /// Whether it binds them, too, where it can.
    pub(super) binds: bool,
    /// The PodGroup of Kubernetes' own that pods belong to.
    pub(super) native_group: Option<String>,
    /// What another scheduler says of the pods of a role.
    pub(super) terms: BTreeMap<String, Terms>,
    /// Whether launchers are told nothing that they assume anyway, and the rest as one variable: each costs an API server a part of what a
    /// pod costs it.
    pub(super) terse: bool,
    /// Image from which pods get our program.
    pub(super) launcher: Option<&'job str>,
    /// Nodes to be looked at last.
    pub(super) avoid: Vec<&'job str>,
    /// Queue that the pods are in.
    pub(super) queue: Option<&'job str>,
    /// Annotations of the job that its pods carry as well.
    pub(super) passed_on: &'job BTreeMap<String, String>,
}

impl Site<'_> {
    fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: self.model.owner.api_version.clone(),
            kind: self.model.owner.kind.clone(),
            name: self.model.owner.name.clone(),
            uid: self.model.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    fn metadata(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.model.owner.namespace.clone()),
            owner_references: Some(vec![self.owner()]),
            ..ObjectMeta::default()
        }
    }

    /// What the pods of all replicas are made from, by pod name: as a hash of all that the user may change while they wait.
    /// Not in it are the port, which the job keeps, and the generation, by which pods are told apart anyway.
    pub(super) fn template_hashes(&self) -> BTreeMap<&str, String> {
        let policy = &self.model.policy;
        let queue = policy.queue.as_ref().and(self.queue);
        let shared = json_text(&(queue, policy.priority, &policy.priority_class));
        let mut hashes = BTreeMap::new();
        for role in &self.model.roles {
            let template = fnv::texts(&[&json_text(&role.template), &shared]).to_string();
            hashes.extend(role.replicas.iter().map(|replica| {
                let hash = fnv::texts(&[&template, &json_text(replica)]);
                (replica.name.as_str(), format!("{hash:016x}"))
            }));
        }
        hashes
    }

    /// The pod of a replica; with a place, on that node, by the decision of that time.
    pub(super) fn pod(
        &self,
        role: &Role,
        replica: &Replica,
        template_hash: &str,
        place: Option<(&str, i64)>,
    ) -> Action {
        let template = role.template.metadata.clone().unwrap_or_default();
        let mut labels = template.labels.unwrap_or_default();
        labels.extend(replica.labels.clone());
        let mut annotations = template.annotations.unwrap_or_default();
        self.annotate(&mut annotations);
        annotations.insert(label::TEMPLATE_HASH.to_owned(), template_hash.to_owned());
        let mut spec = role.template.spec.clone().unwrap_or_default();
        self.complete(&mut spec, role, replica);
        if let Some(terms) = self.terms.get(&role.name) {
            labels.extend(terms.labels.clone());
            annotations.extend(terms.annotations.clone());
            lay_terms(&mut spec, terms);
        }
        if let Some((node, at_ms)) = place {
            annotations.insert(label::PLACED.to_owned(), at_ms.to_string());
            spec.node_name = Some(node.to_owned());
        }
        let pod = Pod {
            metadata: ObjectMeta {
                labels: Some(labels),
                annotations: Some(annotations),
                ..self.metadata(&replica.name)
            },
            spec: Some(spec),
            status: None,
        };
        let mut body = serde_json::to_value(pod).expect("a pod serialises");
        if let Some(group) = &self.native_group {
            // Younger than the Kubernetes that our types are of.
            body["spec"]["schedulingGroup"] = json!({ "podGroupName": group });
        }
        self.create("v1", "Pod", &replica.name, body)
    }

    fn annotate(&self, annotations: &mut BTreeMap<String, String>) {
        let policy = &self.model.policy;
        let mut put = |name: &str, value: String| annotations.insert(name.to_owned(), value);
        put(label::GENERATION, self.generation.to_string());
        put(label::MASTER_PORT, self.port.to_string());
        if self.gated {
            put(label::GANG, self.model.owner.name.clone());
            put(label::GANG_SIZE, policy.min_available.to_string());
            // Launchers go on with fewer; of a gang without them each pod that is missing is a failure.
            if let Some(config) = self.model.rendezvous.as_ref().filter(|config| config.least < config.most) {
                put(label::GANG_LEAST, config.least.max(policy.min_available).to_string());
            }
        }
        if policy.scheduler == Scheduler::Volcano {
            for name in label::VOLCANO_GROUP {
                put(name, self.model.owner.name.clone());
            }
        }
        if let Some(queue) = self.queue {
            put(label::QUEUE, queue.to_owned());
        }
        if let Some(priority) = policy.priority {
            put(label::PRIORITY, priority.to_string());
        }
        if let Some(class) = &policy.priority_class {
            put(label::PRIORITY_CLASS, class.clone());
        }
        // What runs ends by then: places may be promised as of that moment.
        if let Some(limit) = policy.active_deadline_ms {
            put(label::RUN_LIMIT, (limit / 1000).to_string());
        }
        for (name, value) in self.passed_on {
            put(name, value.clone());
        }
    }

    fn complete(&self, spec: &mut PodSpec, role: &Role, replica: &Replica) {
        let env: Vec<EnvVar> = replica.env.iter().map(|variable| self.variable(variable)).collect();
        for container in &mut spec.containers {
            if role.env_into == EnvInto::All || container.name == role.main_container {
                let told = |variable: &&EnvVar| !self.terse || !super::launcher::assumes(container, variable);
                let mut env: Vec<EnvVar> = env.iter().filter(told).cloned().collect();
                // Only a program that came with this one takes it apart: that of a user's image may be older.
                if self.terse && self.launcher.is_some() {
                    env = super::launcher::pack(container, env);
                }
                container.env.get_or_insert_default().extend(env);
            }
            self.number_port(container, role.port_name.as_deref());
        }
        if replica.hostname.is_some() {
            spec.hostname.clone_from(&replica.hostname);
        }
        super::avoid::avoid(spec, &self.avoid);
        if let Some(image) = self.launcher {
            super::launcher::bring(spec, image);
        }
        if self.model.policy.scheduler == Scheduler::Volcano {
            spec.scheduler_name = Some(VOLCANO.to_owned());
        }
        if !self.gated {
            return;
        }
        if self.binds_here(spec) {
            spec.scheduler_name = Some(label::SCHEDULER_NAME.to_owned());
        } else {
            let gates = spec.scheduling_gates.get_or_insert_default();
            if gates.iter().all(|gate| gate.name != label::GANG_GATE) {
                gates.push(PodSchedulingGate { name: label::GANG_GATE.to_owned() });
            }
        }
    }

    /// Whether such a pod is bound here, and not by the cluster's scheduler.
    pub(super) fn binds_here(&self, spec: &PodSpec) -> bool {
        self.gated && self.binds && self.native_group.is_none() && may_be_bound_here(spec)
    }

    fn number_port(&self, container: &mut Container, name: Option<&str>) {
        let ports = container.ports.iter_mut().flatten();
        for port in ports.filter(|port| name.is_some() && port.name.as_deref() == name) {
            port.container_port = i32::from(self.port);
        }
    }

    fn variable(&self, variable: &EnvModel) -> EnvVar {
        let name = variable.name.clone();
        let text = |value: String| EnvVar { name: name.clone(), value: Some(value), value_from: None };
        match &variable.value {
            EnvValue::Text(value) => text(value.clone()),
            EnvValue::Port(before) => text(format!("{before}{}", self.port)),
            EnvValue::Generation => text(self.generation.to_string()),
            EnvValue::Restarts => text(self.restarts.to_string()),
            EnvValue::Field(path) => EnvVar {
                name: name.clone(),
                value: None,
                value_from: Some(EnvVarSource {
                    field_ref: Some(ObjectFieldSelector { field_path: path.clone(), api_version: None }),
                    ..EnvVarSource::default()
                }),
            },
        }
    }

    /// A headless service.
    pub(super) fn service(&self, service: &ServiceModel) -> Action {
        let mut ports = service.ports.clone();
        for port in ports.iter_mut().filter(|port| service.port_name.is_some() && port.name == service.port_name) {
            port.port = i32::from(self.port);
        }
        let annotations = BTreeMap::from([(label::MASTER_PORT.to_owned(), self.port.to_string())]);
        let body = Service {
            metadata: ObjectMeta {
                labels: Some(service.labels.clone()),
                annotations: Some(annotations),
                ..self.metadata(&service.name)
            },
            spec: Some(ServiceSpec {
                cluster_ip: Some("None".to_owned()),
                selector: Some(service.selector.clone()),
                ports: (!ports.is_empty()).then_some(ports),
                publish_not_ready_addresses: service.publish_not_ready.then_some(true),
                ..ServiceSpec::default()
            }),
            status: None,
        };
        self.create("v1", "Service", &service.name, serde_json::to_value(body).expect("a service serialises"))
    }

    /// Another object of the model.
    pub(super) fn extra(&self, body: &Value) -> Action {
        let mut body = body.clone();
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api_version, kind) = (text(&body, "apiVersion"), text(&body, "kind"));
        let name = body.get("metadata").map(|metadata| text(metadata, "name")).unwrap_or_default();
        if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
            let owner = serde_json::to_value([self.owner()]).expect("an owner reference serialises");
            metadata.insert("ownerReferences".to_owned(), owner);
            metadata.insert("namespace".to_owned(), Value::String(self.model.owner.namespace.clone()));
        }
        self.create(&api_version, &kind, &name, body)
    }

    fn create(&self, api_version: &str, kind: &str, name: &str, body: Value) -> Action {
        let object = ObjectRef {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: self.model.owner.namespace.clone(),
            name: name.to_owned(),
        };
        Action::Create { object, body }
    }
}

fn lay_terms(spec: &mut PodSpec, terms: &Terms) {
    if !terms.node_selector.is_empty() {
        spec.node_selector.get_or_insert_default().extend(terms.node_selector.clone());
    }
    if !terms.tolerations.is_empty() {
        spec.tolerations.get_or_insert_default().extend(terms.tolerations.clone());
    }
}

fn json_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data with string keys serialises")
}
