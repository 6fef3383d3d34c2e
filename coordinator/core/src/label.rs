//! Labels, annotations and other names that appear on objects.

/// Controller that made a pod: `pytorchjob-controller`, `trainingjob-controller`, ….
pub const OPERATOR_NAME: &str = "training.kubeflow.org/operator-name";
/// Job that a pod or service belongs to.
pub const JOB_NAME: &str = "training.kubeflow.org/job-name";
/// Lower-case role of a pod.
pub const REPLICA_TYPE: &str = "training.kubeflow.org/replica-type";
/// Index of a pod in its role.
pub const REPLICA_INDEX: &str = "training.kubeflow.org/replica-index";
/// `master` on the pod that decides the job's success.
pub const JOB_ROLE: &str = "training.kubeflow.org/job-role";

/// Annotation on pods: name of the gang.
pub const GANG: &str = "trainyard.dev/gang";
/// Annotation on pods: how many pods of the gang must start together.
pub const GANG_SIZE: &str = "trainyard.dev/gang-size";
/// Annotation on pods of elastic jobs: with how many pods the gang goes on if it has to make room.
pub const GANG_LEAST: &str = "trainyard.dev/gang-least";
/// Annotation on jobs: where the pods of their gang are to go on a cluster, as JSON, written before the first of them is let go.
pub const PLACEMENT: &str = "trainyard.dev/placement";
/// Annotation on pods that were made on their node: when it was decided, as [`PLACEMENT`] says it.
pub const PLACED: &str = "trainyard.dev/placed";
/// Annotation on pods that others made and that waited at our gate: when it was lifted, and for which node, as JSON.
pub const LET_GO: &str = "trainyard.dev/let-go";
/// Scheduling gate that is taken off when the gang is placed.
pub const GANG_GATE: &str = "trainyard.dev/gang";

/// `schedulerName` of pods that the operator binds by itself.
pub const SCHEDULER_NAME: &str = "trainyard";
/// Annotation on the first pod of a gang that waits: what is set aside for it, as JSON.
pub const RESERVATION: &str = "trainyard.dev/reservation";
/// Annotation on pods: the gang for which they have to make room. They are deleted next, all of their gang.
pub const PREEMPTED: &str = "trainyard.dev/preempted-for";
/// Annotation on pods: the gang for which they alone have to make room. They are deleted next, and the others of their gang go on.
pub const SHRUNK: &str = "trainyard.dev/shrunk-for";
/// Annotation on pods: after so many seconds their job is ended, as its `activeDeadlineSeconds` says.
pub const RUN_LIMIT: &str = "trainyard.dev/run-limit-seconds";
/// Annotation on Topologies: how fast nodes of each level reach each other, as JSON.
pub const LINKS: &str = "trainyard.dev/links";
/// Annotation on pods: label of the topology level within one domain of which the gang has to be.
pub const REQUIRED_TOPOLOGY: &str = "kueue.x-k8s.io/podset-required-topology";
/// Annotation on pods: label of the topology level within one domain of which the gang should be.
pub const PREFERRED_TOPOLOGY: &str = "kueue.x-k8s.io/podset-preferred-topology";
/// Annotation on pods: label of the topology level within one domain of which each slice of the pods has to be.
pub const SLICE_TOPOLOGY: &str = "kueue.x-k8s.io/podset-slice-required-topology";
/// Annotation on pods: how many pods are a slice.
pub const SLICE_SIZE: &str = "kueue.x-k8s.io/podset-slice-size";
/// Label on jobs, and on the pods of others: the LocalQueue that they wait in.
pub const QUEUE_NAME: &str = "kueue.x-k8s.io/queue-name";
/// Annotation on ClusterQueues: what they use and used, as JSON.
pub const USAGE: &str = "trainyard.dev/usage";
/// Annotation on pods: the flavors of their queue that they were given, as `RESOURCE=FLAVOR,…`.
pub const FLAVORS: &str = "trainyard.dev/flavors";
/// Annotation on pods: queue that the gang waits in.
pub const QUEUE: &str = "trainyard.dev/queue";
/// Annotation on pods: priority as a number; without it, the pod's own priority counts.
pub const PRIORITY: &str = "trainyard.dev/priority";
/// Annotation on pods: name of the gang's PriorityClass. It is not the pod's own `priorityClassName`, since a class that does
/// not exist would keep the pod from being created.
pub const PRIORITY_CLASS: &str = "trainyard.dev/priority-class";
/// Annotation on pods: the incarnation of the gang that the pod belongs to. Also the environment variable
/// `TRAINYARD_GENERATION`.
pub const GENERATION: &str = "trainyard.dev/generation";
/// Annotation on pods and services: the port that the ranks meet on.
pub const MASTER_PORT: &str = "trainyard.dev/master-port";
/// Annotation on pods: what the pod was made from, as a hash. A pod that waits is made anew when that has changed.
pub const TEMPLATE_HASH: &str = "trainyard.dev/template-hash";
/// Annotation on pods of ReplicaSets: how many pods before it ended in a row.
pub const FAILURES: &str = "trainyard.dev/failures";
/// Annotation on jobs: the restart ledger, as JSON.
pub const LEDGER: &str = "trainyard.dev/restarts";
/// Annotation on jobs and pods: W3C trace parent.
pub const TRACEPARENT: &str = "trainyard.dev/traceparent";
/// Annotation on jobs and pods: folder in which containers start that name none.
pub const WORKING_DIR: &str = "trainyard.dev/working-dir";
/// Annotations of a job that its pods carry as well.
pub const PASSED_ON: &[&str] = &[TRACEPARENT, WORKING_DIR];
/// Annotation on jobs: `keep` leaves `torchrun` as it is.
pub const TORCHRUN: &str = "trainyard.dev/torchrun";
/// Annotation on jobs: the last generation of ranks whose number is taken.
pub const GENERATIONS: &str = "trainyard.dev/generations";
/// Annotation on pods: the newest checkpoint, as JSON, written by the node agent.
pub const CHECKPOINT: &str = "trainyard.dev/checkpoint";
/// Annotation on pods: progress, as JSON, written by the node agent.
pub const PROGRESS: &str = "trainyard.dev/progress";
/// Annotation on jobs: who lets their pods go (see [`crate::model::Scheduler`]), for kinds that have no field for it.
pub const SCHEDULER: &str = "trainyard.dev/scheduler";
/// Label on jobs: their queue in Kueue.
pub const KUEUE_QUEUE: &str = "kueue.x-k8s.io/queue-name";
/// Annotations on pods: their group in Volcano, by its older and its newer name.
pub const VOLCANO_GROUP: [&str; 2] = ["scheduling.k8s.io/group-name", "scheduling.volcano.sh/group-name"];
/// `spec.managedBy` value that means this controller.
pub const MANAGED_BY: &str = "trainyard.dev/trainyard";
