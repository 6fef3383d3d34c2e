//! What kube-apiserver was seen to answer, and clients may count on.

use http::Method;
use serde_json::{Value, json};

use super::{MAPS, World, config_map, world};

const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const JOBS: &str = "/apis/kubeflow.org/v1/namespaces/default/pytorchjobs";

impl World {
    async fn patch(&self, path: &str, how: &str, patch: Value) -> (u16, Value) {
        self.call(Method::PATCH, path, how, patch.to_string()).await
    }

    async fn put(&self, path: &str, object: Value) -> (u16, Value) {
        self.call(Method::PUT, path, "application/json", object.to_string()).await
    }
}

/// The fields that a refusal names.
fn fields(status: &Value) -> Vec<&str> {
    let causes = status["details"]["causes"].as_array().map_or(&[][..], Vec::as_slice);
    causes.iter().filter_map(|cause| cause["field"].as_str()).collect()
}

fn job(spec: Value) -> Value {
    json!({"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "j"}, "spec": spec})
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once() {
    let world = world().await;
    world.post(MAPS, config_map("a")).await;
    let wrong = json!({"metadata": {"labels": {"bad key": "x"}}, "data": {"bad key": "x"}});
    let (code, status) = world.patch(&format!("{MAPS}/a"), MERGE, wrong).await;
    assert_eq!((code, fields(&status)), (422, vec!["metadata.labels", "data[bad key]"]));
    let owner = json!({"apiVersion": "v1", "kind": "Event", "name": "e", "uid": "u"});
    let mut nameless = job(json!({"pytorchReplicaSpecs": {"Worker": {"replicas": 1}}}));
    nameless["metadata"] = json!({"ownerReferences": [owner]});
    let (code, status) = world.post(JOBS, nameless).await;
    assert_eq!((code, fields(&status)), (422, vec!["metadata.name", "metadata.ownerReferences"]));
    // One that is on its way out takes no new finalizers, whatever else is wrong.
    world.patch(&format!("{MAPS}/a"), MERGE, json!({"metadata": {"finalizers": ["example.com/hold"]}})).await;
    let (code, _) =
        world.call(Method::DELETE, &format!("{MAPS}/a?orphanDependents=false"), "application/json", "").await;
    assert_eq!(code, 202, "it is still there");
    let held = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}, "data": {"bad key": "x"}});
    let (code, status) = world.patch(&format!("{MAPS}/a"), MERGE, held).await;
    assert_eq!((code, fields(&status)), (422, vec!["metadata.finalizers", "data[bad key]"]));
}

#[tokio::test]
async fn a_patch_changes_no_uid_and_a_put_means_one_object() {
    let world = world().await;
    world.post(MAPS, config_map("a")).await;
    let one = format!("{MAPS}/a");
    let other = json!({"metadata": {"uid": "other"}});
    let (code, status) = world.patch(&one, MERGE, other).await;
    assert_eq!((code, fields(&status)), (422, vec!["metadata.uid"]));
    // Who says an old version as well is told of that first.
    let (code, _) = world.patch(&one, MERGE, json!({"metadata": {"uid": "other", "resourceVersion": "1"}})).await;
    assert_eq!(code, 409);
    let mut meant = config_map("a");
    meant["metadata"]["uid"] = json!("other");
    let (code, status) = world.put(&one, meant.clone()).await;
    let told = status["message"].as_str().unwrap_or_default();
    assert!(code == 409 && told.contains("Key: /registry/configmaps/default/a,"), "{status}");
    // There is none that has it.
    meant["metadata"]["name"] = json!("b");
    let (code, status) = world.patch(&format!("{MAPS}/b?fieldManager=m"), APPLY, meant).await;
    let told = status["message"].as_str().unwrap_or_default();
    assert!(code == 409 && told.contains("uid mismatch: the provided object specified uid other"), "{status}");
}

#[tokio::test]
async fn ownership_of_kubernetes_own_kinds_is_reset_by_a_list_of_nobody() {
    let world = world().await;
    world.post(MAPS, config_map("a")).await;
    world.post(JOBS, job(json!({"pytorchReplicaSpecs": {"Worker": {"replicas": 1}}}))).await;
    let nobody = json!({"metadata": {"managedFields": []}});
    let (_, map) = world.patch(&format!("{MAPS}/a"), MERGE, nobody.clone()).await;
    assert_eq!(map["metadata"]["managedFields"], Value::Null);
    let (_, job) = world.patch(&format!("{JOBS}/j"), MERGE, nobody).await;
    assert_eq!(job["metadata"]["managedFields"].as_array().map(Vec::len), Some(1), "{job}");
}

#[tokio::test]
async fn replicas_of_custom_kinds_are_numbers_that_there_can_be() {
    let world = world().await;
    let field = ".spec.pytorchReplicaSpecs.Worker.replicas";
    let (code, status) = world.post(JOBS, job(json!({"pytorchReplicaSpecs": {"Worker": {"replicas": -1}}}))).await;
    assert_eq!((code, fields(&status)), (422, vec![field]));
    let mut made = job(json!({"pytorchReplicaSpecs": {"Master": {"replicas": 1}}}));
    // Nobody looks at the status of what is made.
    made["status"] = json!({"replicaStatuses": {"Worker": {"active": -1}}});
    assert_eq!(world.post(JOBS, made).await.0, 201);
    let (code, status) = world.get(&format!("{JOBS}/j/scale")).await;
    assert_eq!(code, 400, "{status}");
    assert!(status["message"].as_str().is_some_and(|told| told.contains("does not exist")), "{status}");
}

#[tokio::test]
async fn a_scale_to_what_there_is_is_a_write() {
    let world = world().await;
    let spec = json!({"pytorchReplicaSpecs": {"Worker": {"replicas": 1}}, "runPolicy": {"backoffLimit": 1}});
    world.post(JOBS, job(spec)).await;
    let version = async || world.get(&format!("{JOBS}/j")).await.1["metadata"]["resourceVersion"].clone();
    let mut versions = vec![version().await];
    for replicas in [1, 1, 1, 2] {
        let patch = json!({"spec": {"replicas": replicas}});
        assert_eq!(world.patch(&format!("{JOBS}/j/scale"), MERGE, patch).await.0, 200);
        versions.push(version().await);
    }
    // Its owner is set apart, then forgotten; after that nothing changes until the number does.
    versions.dedup();
    assert_eq!(versions.len(), 4, "{versions:?}");
    let (_, object) = world.get(&format!("{JOBS}/j")).await;
    assert_eq!(object["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"], 2);
}

#[tokio::test]
async fn an_applied_object_has_its_place_and_may_leave_nothing() {
    let world = world().await;
    let map = |data: &str, namespace: &str| {
        let mut map = config_map("a");
        map["data"]["a"] = Value::from(data);
        map["metadata"]["namespace"] = Value::from(namespace);
        map
    };
    let at = |manager: &str| format!("{MAPS}/a?fieldManager={manager}");
    assert_eq!(world.patch(&at("one"), APPLY, map("1", "elsewhere")).await.0, 400);
    assert_eq!(world.patch(&at("one"), APPLY, map("1", "default")).await.0, 201);
    // Whose it is is looked at before where it is.
    assert_eq!(world.patch(&at("two"), APPLY, map("2", "elsewhere")).await.0, 409);
    let mut nameless = map("1", "default");
    nameless["metadata"] = json!({});
    assert_eq!(world.patch(&at("two"), APPLY, nameless).await.0, 200);
    let job_at = format!("{JOBS}/j?fieldManager=one");
    let replicas = job(json!({"pytorchReplicaSpecs": {"Worker": {"replicas": 1}}}));
    assert_eq!(world.patch(&job_at, APPLY, replicas).await.0, 201);
    let (code, status) = world.patch(&job_at, APPLY, job(json!({}))).await;
    assert_eq!((code, fields(&status)), (422, vec!["spec"]));
    let mut status_of = job(json!({}));
    status_of["metadata"]["resourceVersion"] = Value::from("1");
    status_of["status"] = json!({"startTime": "2026-01-01T00:00:00Z"});
    let (code, _) = world.patch(&format!("{JOBS}/j/status?fieldManager=two"), APPLY, status_of).await;
    assert_eq!(code, 409, "the version is another one");
}

#[tokio::test]
async fn some_writes_say_which_version_they_are_of() {
    let world = world().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = |spec: Value| json!({"metadata": {"name": "l"}, "spec": spec});
    world.post(leases, lease(json!({"holderIdentity": "me"}))).await;
    let (code, status) = world.put(&format!("{leases}/l"), lease(json!({"leaseTransitions": -1}))).await;
    assert_eq!((code, fields(&status)), (422, vec!["metadata.resourceVersion"]), "before anything else is looked at");
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    world.post(classes, json!({"metadata": {"name": "c"}, "provisioner": "example.com/a"})).await;
    let (code, status) = world.patch(&format!("{classes}/c"), MERGE, json!({"parameters": {}})).await;
    assert_eq!((code, fields(&status)), (422, vec!["parameters"]));
}

#[tokio::test]
async fn a_headless_service_keeps_its_address_and_nobody_owns_it_then() {
    let world = world().await;
    let services = "/api/v1/namespaces/default/services";
    let object =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"clusterIP": "None"}});
    assert_eq!(world.patch(&format!("{services}/s?fieldManager=one"), APPLY, object).await.0, 201);
    let (code, service) = world.patch(&format!("{services}/s"), MERGE, json!({"spec": {"clusterIP": null}})).await;
    assert_eq!((code, &service["spec"]["clusterIP"]), (200, &json!("None")));
    assert!(service["metadata"]["managedFields"].is_null(), "{service}");
    let selecting = json!({"spec": {"selector": {"a": "b"}}});
    let (code, status) = world.patch(&format!("{services}/s"), MERGE, selecting).await;
    assert_eq!((code, fields(&status)), (422, vec!["spec.ipFamilyPolicy", "spec.ipFamilies[1]"]));
}

#[tokio::test]
async fn a_newer_event_is_asked_most_when_it_is_made() {
    let world = world().await;
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let mut event = json!({"metadata": {"name": "e"}, "regarding": {"namespace": "default"}, "series": {"count": 1}});
    let (code, status) = world.post(events, event.clone()).await;
    assert_eq!((code, fields(&status)), (422, vec!["series.count", "series.lastObservedTime", "eventTime", "type"]));
    for (field, value) in
        [("reportingController", "x.y/z"), ("reportingInstance", "i"), ("action", "A"), ("reason", "R")]
    {
        event[field] = Value::from(value);
    }
    event["type"] = Value::from("Normal");
    event["eventTime"] = Value::from("2026-01-01T00:00:00.000000Z");
    event["series"] = Value::Null;
    let (code, status) = world.post(events, event).await;
    assert_eq!(code, 201, "{status}");
    let (code, status) = world.patch(&format!("{events}/e"), MERGE, json!({"type": "Odd", "deprecatedCount": 1})).await;
    assert_eq!((code, fields(&status)), (422, vec!["count", "type"]));
}
