//! Kinds of `trainer.kubeflow.org/v1alpha1`, as Kubeflow Trainer 2 defines them (with the older spellings of 2.0 and 2.1).

mod runtime;
mod trainjob;

pub use runtime::{
    ClusterTrainingRuntime, JobSetSpec, JobSetTemplateSpec, MlPolicy, ReplicatedJob, TrainingRuntime,
    TrainingRuntimeSpec,
};
pub use trainjob::{
    DatasetInitializer, Initializer, JobStatus, RuntimeRef, TrainJob, TrainJobSpec, TrainJobStatus, Trainer,
    TrainerStatus,
};
