//! Columns of `kubectl get`.

/// One column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Header.
    pub name: &'static str,
    /// `string`, `integer`, `date`…
    pub kind: &'static str,
    /// `name` for the name of the object, else empty.
    pub format: &'static str,
    /// What it says.
    pub description: &'static str,
    /// 0: always shown; 1: shown by `-o wide`.
    pub priority: i32,
    /// Where the value is; `None` for cells that the table writer computes.
    pub json_path: Option<&'static str>,
}

/// A cell that the table writer computes.
const fn cell(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, format: "", description, priority: 0, json_path: None }
}

/// A cell found at a path.
const fn at(name: &'static str, kind: &'static str, json_path: &'static str, description: &'static str) -> Column {
    Column { name, kind, format: "", description, priority: 0, json_path: Some(json_path) }
}

/// A column that only `-o wide` shows.
const fn wide(column: Column) -> Column {
    Column { priority: 1, ..column }
}

const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace.",
    priority: 0,
    json_path: Some(".metadata.name"),
};
const AGE: Column = at("Age", "date", ".metadata.creationTimestamp", "How long ago the object was created.");
const CREATED: Column = at("Created At", "date", ".metadata.creationTimestamp", "When the object was created.");
const STATE: Column = at("State", "string", ".status.conditions[-1:].type", "The latest condition.");

const CONTAINERS: Column = wide(cell("Containers", "string", "Names of the containers in the template."));
const IMAGES: Column = wide(cell("Images", "string", "Images of the containers in the template."));
const SELECTOR: Column = wide(cell("Selector", "string", "Label selector of the pods."));

pub(super) const DEFAULT: &[Column] = &[NAME, AGE];
pub(super) const STATE_AGE: &[Column] = &[NAME, STATE, AGE];
pub(super) const AGE_STATE: &[Column] = &[NAME, AGE, STATE];
pub(super) const CREATED_AT: &[Column] = &[NAME, CREATED];

pub(super) const POD: &[Column] = &[
    NAME,
    cell("Ready", "string", "How many of the containers are ready."),
    cell("Status", "string", "The phase, or the reason that says more."),
    cell("Restarts", "string", "How often containers were restarted, and when last."),
    AGE,
    wide(at("IP", "string", ".status.podIP", "Address of the pod.")),
    wide(at("Node", "string", ".spec.nodeName", "Node that the pod is bound to.")),
    wide(at("Nominated Node", "string", ".status.nominatedNodeName", "Node that is being cleared for the pod.")),
    wide(cell("Readiness Gates", "string", "How many readiness gates are open.")),
];
pub(super) const SERVICE: &[Column] = &[
    NAME,
    at("Type", "string", ".spec.type", "How the service is exposed."),
    at("Cluster-IP", "string", ".spec.clusterIP", "Address inside the cluster."),
    cell("External-IP", "string", "Address outside the cluster."),
    cell("Port(s)", "string", "Ports and protocols."),
    AGE,
    SELECTOR,
];
pub(super) const CONFIG_MAP: &[Column] = &[NAME, cell("Data", "string", "Number of entries."), AGE];
pub(super) const SECRET: &[Column] = &[
    NAME,
    at("Type", "string", ".type", "What the secret is for."),
    cell("Data", "string", "Number of entries."),
    AGE,
];
pub(super) const NAMESPACE: &[Column] =
    &[NAME, at("Status", "string", ".status.phase", "Whether it is being deleted."), AGE];
pub(super) const NODE: &[Column] = &[
    NAME,
    cell("Status", "string", "Whether the node is ready."),
    cell("Roles", "string", "Roles of the node."),
    AGE,
    at("Version", "string", ".status.nodeInfo.kubeletVersion", "Version of the node agent."),
    wide(cell("Internal-IP", "string", "Address inside the cluster.")),
    wide(cell("External-IP", "string", "Address outside the cluster.")),
    wide(at("OS-Image", "string", ".status.nodeInfo.osImage", "Operating system.")),
    wide(at("Kernel-Version", "string", ".status.nodeInfo.kernelVersion", "Kernel.")),
    wide(at("Container-Runtime", "string", ".status.nodeInfo.containerRuntimeVersion", "What runs the pods.")),
];
pub(super) const EVENT: &[Column] = &[
    cell("Last Seen", "string", "When it happened last."),
    at("Type", "string", ".type", "Normal or Warning."),
    at("Reason", "string", ".reason", "Short, for machines."),
    cell("Object", "string", "What it is about."),
    wide(cell("Subobject", "string", "Part of the object.")),
    wide(cell("Source", "string", "Who says so.")),
    cell("Message", "string", "For people."),
    wide(cell("First Seen", "string", "When it happened first.")),
    wide(cell("Count", "string", "How often it happened.")),
    Column { priority: 1, ..NAME },
];
pub(super) const SERVICE_ACCOUNT: &[Column] = &[NAME, cell("Secrets", "string", "Number of secrets."), AGE];
pub(super) const PVC: &[Column] = &[
    NAME,
    at("Status", "string", ".status.phase", "Whether a volume is bound."),
    at("Volume", "string", ".spec.volumeName", "The bound volume."),
    cell("Capacity", "string", "Size of the bound volume."),
    cell("Access Modes", "string", "How it can be mounted."),
    at("StorageClass", "string", ".spec.storageClassName", "Class of the claim."),
    at("VolumeAttributesClass", "string", ".spec.volumeAttributesClassName", "Attributes of the volume."),
    AGE,
    wide(at("VolumeMode", "string", ".spec.volumeMode", "Filesystem or Block.")),
];
pub(super) const PV: &[Column] = &[
    NAME,
    cell("Capacity", "string", "Size."),
    cell("Access Modes", "string", "How it can be mounted."),
    at("Reclaim Policy", "string", ".spec.persistentVolumeReclaimPolicy", "What happens when the claim goes."),
    at("Status", "string", ".status.phase", "Whether a claim is bound."),
    cell("Claim", "string", "The bound claim."),
    at("StorageClass", "string", ".spec.storageClassName", "Class of the volume."),
    at("VolumeAttributesClass", "string", ".spec.volumeAttributesClassName", "Attributes of the volume."),
    at("Reason", "string", ".status.reason", "Why it is in this state."),
    AGE,
    wide(at("VolumeMode", "string", ".spec.volumeMode", "Filesystem or Block.")),
];
pub(super) const RESOURCE_QUOTA: &[Column] = &[
    NAME,
    cell("Request", "string", "Used and allowed requests."),
    cell("Limit", "string", "Used and allowed limits."),
    AGE,
];
pub(super) const LEASE: &[Column] =
    &[NAME, at("Holder", "string", ".spec.holderIdentity", "Who holds the lease."), AGE];
pub(super) const JOB: &[Column] = &[
    NAME,
    cell("Status", "string", "Running, Complete, Failed or Suspended."),
    cell("Completions", "string", "Pods that succeeded, of those wanted."),
    cell("Duration", "string", "From start to completion."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
pub(super) const DEPLOYMENT: &[Column] = &[
    NAME,
    cell("Ready", "string", "Ready replicas, of those wanted."),
    cell("Up-to-date", "string", "Replicas of the latest template."),
    cell("Available", "string", "Replicas that are available."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
pub(super) const REPLICA_SET: &[Column] = &[
    NAME,
    at("Desired", "integer", ".spec.replicas", "Replicas wanted."),
    cell("Current", "integer", "Replicas that exist."),
    cell("Ready", "integer", "Replicas that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
pub(super) const PRIORITY_CLASS: &[Column] = &[
    NAME,
    at("Value", "integer", ".value", "Higher goes first."),
    cell("Global-Default", "boolean", "Whether pods without a class get it."),
    AGE,
    at("PreemptionPolicy", "string", ".preemptionPolicy", "Whether it displaces lower ones."),
];
pub(super) const STORAGE_CLASS: &[Column] = &[
    NAME,
    at("Provisioner", "string", ".provisioner", "Who makes volumes."),
    at("ReclaimPolicy", "string", ".reclaimPolicy", "What happens when the claim goes."),
    at("VolumeBindingMode", "string", ".volumeBindingMode", "When a volume is bound."),
    cell("AllowVolumeExpansion", "string", "Whether volumes can grow."),
    AGE,
];
pub(super) const EXPERIMENT: &[Column] = &[
    NAME,
    at("Phase", "string", ".status.phase", "Where the experiment is in its life."),
    at("Trials", "integer", ".status.trials.started", "Trials that were started."),
    at("Running", "integer", ".status.trials.running", "Trials that have not ended."),
    at("Failed", "integer", ".status.trials.failed", "Trials that told nothing of use."),
    at("Best", "string", ".status.best.summary", "The values of the best trial."),
    AGE,
    wide(at("Message", "string", ".status.message", "Why it is in this phase.")),
];
pub(super) const TRIAL: &[Column] = &[
    NAME,
    at("Phase", "string", ".status.phase", "Where the trial is in its life."),
    at("Values", "string", ".status.summary", "The values of the objectives."),
    at("Step", "integer", ".status.report.step", "How far it was when it last told its values."),
    AGE,
    wide(at("Message", "string", ".status.message", "Why it failed or was stopped.")),
];
const TYPE: Column = at("Type", "string", ".status.conditions[-1:].type", "The latest condition.");
const STATUS: Column = at("Status", "string", ".status.conditions[-1:].status", "Whether that holds.");
pub(super) const TYPE_STATUS: &[Column] = &[NAME, TYPE, STATUS, AGE];
pub(super) const SUGGESTION: &[Column] = &[
    NAME,
    TYPE,
    STATUS,
    at("Requested", "string", ".spec.requests", "How many were asked for."),
    at("Assigned", "string", ".status.suggestionCount", "How many were suggested."),
    AGE,
];
pub(super) const TRAINING_JOB: &[Column] = &[
    NAME,
    at("Phase", "string", ".status.phase", "Where the job is in its life."),
    cell("Ready", "string", "Running replicas, of those wanted."),
    cell("Progress", "string", "Steps done, of those planned."),
    AGE,
    wide(cell("Duration", "string", "From start to completion.")),
    wide(at("Message", "string", ".status.message", "Why it is in this phase.")),
];
const ACTIVE: Column =
    at("Active", "string", ".status.conditions[?(@.type==\"Active\")].status", "Whether it can admit jobs.");
pub(super) const CLUSTER_QUEUE: &[Column] = &[
    NAME,
    at("Cohort", "string", ".spec.cohort", "The cohort that it is part of."),
    at("Pending", "integer", ".status.pendingWorkloads", "How many jobs wait."),
    at("Admitted", "integer", ".status.admittedWorkloads", "How many jobs have their places."),
    ACTIVE,
    AGE,
];
pub(super) const CLUSTER_QUEUE_V1BETA2: &[Column] = &[
    NAME,
    at("Cohort", "string", ".spec.cohortName", "The cohort that it is part of."),
    at("Pending", "integer", ".status.pendingWorkloads", "How many jobs wait."),
    at("Admitted", "integer", ".status.admittedWorkloads", "How many jobs have their places."),
    ACTIVE,
    AGE,
];
pub(super) const LOCAL_QUEUE: &[Column] =
    &[NAME, at("ClusterQueue", "string", ".spec.clusterQueue", "Where its jobs wait."), ACTIVE, AGE];
pub(super) const JOB_SET: &[Column] = &[
    NAME,
    at("TerminalState", "string", ".status.terminalState", "How it ended."),
    at("Restarts", "string", ".status.restarts", "How often it was restarted."),
    at("Completed", "string", ".status.conditions[?(@.type==\"Completed\")].status", "Whether it completed."),
    at("Suspended", "string", ".spec.suspend", "Whether it is suspended."),
    AGE,
];
