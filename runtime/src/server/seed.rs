//! What exists at the first start.

use serde_json::{Value, json};
use trainyard_runtime_core::store::{Key, Resource, StoreError};

use crate::store::{Store, WriteOptions};

/// The namespaces of a cluster with Kubeflow on it.
const NAMESPACES: [&str; 5] = ["default", "kube-system", "kube-node-lease", "kubeflow-system", "kubeflow"];

/// The version of the Kubeflow trainer that we are compatible with; its SDK reads it from the ConfigMap below.
const TRAINER_VERSION: &str = "v2.3.0";

/// Creates what is missing. What a user has changed stays as it is.
pub(crate) async fn seed(store: &Store) -> Result<(), StoreError> {
    let namespaces = NAMESPACES.into_iter().map(|name| {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        create(store, "namespaces", "", name, object)
    });
    futures::future::try_join_all(namespaces).await?;
    let accounts = NAMESPACES.into_iter().map(|namespace| {
        let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        create(store, "serviceaccounts", namespace, "default", object)
    });
    let version = create(
        store,
        "configmaps",
        "kubeflow-system",
        "kubeflow-trainer-public",
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kubeflow-trainer-public"},
            "data": {"kubeflow_trainer_version": TRAINER_VERSION},
        }),
    );
    futures::future::try_join(futures::future::try_join_all(accounts), version).await?;
    Ok(())
}

async fn create(store: &Store, plural: &str, namespace: &str, name: &str, object: Value) -> Result<(), StoreError> {
    let resource = Resource::new("", plural);
    if store.get(&Key::new(resource.clone(), namespace, name)).is_ok() {
        return Ok(());
    }
    match store.create(&resource, namespace, object, WriteOptions::default()).await {
        Ok(_) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
