//! What one request can cost is bounded.

use http::Method;
use serde_json::{Value, json};

use super::{MAPS, config_map, world};

/// Far more owners than anybody has: an answer, and a short one, whichever way they come in.
#[tokio::test]
async fn thousands_of_owners_are_refused_in_a_few_words() {
    let world = world().await;
    let owner = |n: usize| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": format!("u-{n}"), "controller": true});
    let owned = |name: &str| {
        let mut value = config_map(name);
        value["metadata"]["ownerReferences"] = Value::from((0..15_000).map(owner).collect::<Vec<_>>());
        value
    };
    world.post(MAPS, config_map("there")).await;
    let patch = owned("there").to_string();
    let apply = format!("{MAPS}/new?fieldManager=m");
    let answers = [
        world.post(MAPS, owned("new")).await,
        world.call(Method::PUT, &format!("{MAPS}/there"), "application/json", patch.clone()).await,
        world.call(Method::PATCH, &format!("{MAPS}/there"), "application/merge-patch+json", patch.clone()).await,
        world.call(Method::PATCH, &format!("{MAPS}/there"), "application/strategic-merge-patch+json", patch).await,
        world.call(Method::PATCH, &apply, "application/apply-patch+yaml", owned("new").to_string()).await,
    ];
    for (code, status) in answers {
        let said = status.to_string();
        assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{}", said.get(..2_000).unwrap_or(&said));
        assert!(said.len() < 1_000 && said.contains("must have at most 64 items"), "{} bytes", said.len());
    }
}

/// What could not be read back is refused, with its place; a body that no parser takes is a bad request.
#[tokio::test]
async fn nesting_is_bounded() {
    let world = world().await;
    let jobs = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/default/trainjobs";
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    let job = |name: String, levels: usize| {
        let overrides = json!([{"targetJobs": [{"name": "node"}], "spec": {"x": nested(levels)}}]);
        let spec = json!({"runtimeRef": {"name": "r"}, "podTemplateOverrides": overrides});
        json!({"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": {"name": name}, "spec": spec})
    };
    let mut codes = Vec::new();
    for levels in [40, 94, 96, 110, 121, 140] {
        let (code, status) = world.post(jobs, job(format!("j{levels}"), levels)).await;
        if code == 422 {
            let field = status["details"]["causes"][0]["field"].as_str().unwrap_or_default();
            assert!(field.starts_with("spec.podTemplateOverrides[0].spec.x[0]"), "{levels}: {status}");
        }
        codes.push(code);
    }
    assert_eq!(codes, [201, 201, 422, 422, 422, 400]);
    let deeper = json!([{"op": "add", "path": "/spec/podTemplateOverrides/0/spec/y", "value": nested(96)}]).to_string();
    let path = format!("{jobs}/j40");
    let (code, _) = world.call(Method::PATCH, &path, "application/json-patch+json", deeper).await;
    assert!(matches!(code, 413 | 422), "{code}");
}
