//! The condition list of `kubeflow.org/v1` statuses.
