//! Addresses of services, as a kube-apiserver treats them.

use http::Method;
use serde_json::{Value, json};

use super::{World, world};

const SERVICES: &str = "/api/v1/namespaces/default/services";

impl World {
    async fn service(&self, name: &str, spec: Value) -> (u16, Value) {
        let mut spec = spec;
        spec["ports"] = json!([{"port": 80}]);
        self.post(SERVICES, json!({"kind": "Service", "metadata": {"name": name}, "spec": spec})).await
    }

    async fn change(&self, name: &str, spec: Value) -> (u16, Value) {
        let patch = json!({ "spec": spec }).to_string();
        self.call(Method::PATCH, &format!("{SERVICES}/{name}"), "application/merge-patch+json", patch).await
    }
}

/// What is said of a refusal: its code, the field, and the message behind the field.
fn refusal((code, status): (u16, Value)) -> (u16, String) {
    let cause = &status["details"]["causes"][0];
    let text = |field: &str| cause[field].as_str().unwrap_or_default().to_owned();
    (code, format!("{}: {}", text("field"), text("message")))
}

#[tokio::test]
async fn wrong_addresses_are_refused_in_the_words_of_the_api_server() {
    let world = world().await;
    assert_eq!(world.service("g", json!({"clusterIP": "10.96.77.7"})).await.0, 201);
    let not_ip = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    let outside = "the provided network does not match the current range";
    let table = [
        (json!({"clusterIP": "nonsense"}), format!("spec.clusterIPs[0]: Invalid value: \"nonsense\": {not_ip}")),
        (json!({"clusterIP": "none"}), format!("spec.clusterIPs[0]: Invalid value: \"none\": {not_ip}")),
        (
            json!({"clusterIP": "1.2.3.4"}),
            format!("spec.clusterIPs: Invalid value: [\"1.2.3.4\"]: failed to allocate IP 1.2.3.4: {outside}"),
        ),
        (
            json!({"clusterIP": "10.96.255.255"}),
            format!("spec.clusterIPs: Invalid value: [\"10.96.255.255\"]: failed to allocate IP 10.96.255.255: {outside}"),
        ),
        (
            json!({"clusterIP": "fd00::1"}),
            "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster".to_owned(),
        ),
        (
            json!({"clusterIP": "10.96.77.7"}),
            "spec.clusterIPs: Invalid value: [\"10.96.77.7\"]: failed to allocate IP 10.96.77.7: provided IP is already \
             allocated"
                .to_owned(),
        ),
        (
            json!({"clusterIP": "10.96.77.9", "clusterIPs": ["10.96.77.10"]}),
            "spec.clusterIPs: Invalid value: [\"10.96.77.10\"]: first value must match `clusterIP`".to_owned(),
        ),
        (
            json!({"clusterIPs": ["10.96.77.11"]}),
            "spec.clusterIPs: Invalid value: [\"10.96.77.11\"]: must be empty when `clusterIP` is not specified".to_owned(),
        ),
        (
            json!({"clusterIP": "10.96.77.12", "clusterIPs": ["10.96.77.12", "10.96.77.13"]}),
            "spec.clusterIPs: Invalid value: [\"10.96.77.12\",\"10.96.77.13\"]: may specify no more than one IP for each \
             IP family"
                .to_owned(),
        ),
        (
            json!({"clusterIP": "10.96.77.14", "type": "ExternalName", "externalName": "x.y"}),
            "spec.clusterIPs: Forbidden: may not be set for ExternalName services".to_owned(),
        ),
        (
            json!({"clusterIP": "None", "type": "NodePort"}),
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services".to_owned(),
        ),
    ];
    for (spec, expected) in table {
        assert_eq!(refusal(world.service("s", spec.clone()).await), (422, expected), "{spec}");
    }
}

#[tokio::test]
async fn an_address_stays_and_is_nobody_elses() {
    let world = world().await;
    world.service("g", json!({"clusterIP": "10.96.77.7"})).await;
    let frozen =
        |shown: &str| (422, format!("spec.clusterIPs[0]: Invalid value: [\"{shown}\"]: may not change once set"));
    for other in ["10.96.77.8", "None"] {
        assert_eq!(refusal(world.change("g", json!({"clusterIP": other})).await), frozen(other));
    }
    let both = json!({"clusterIP": null, "clusterIPs": null});
    for unset in [json!({"clusterIP": null}), both] {
        let (code, kept) = world.change("g", unset).await;
        assert_eq!((code, &kept["spec"]["clusterIP"]), (200, &json!("10.96.77.7")), "{kept}");
    }
    // A name of something outside has no address; when it becomes a service of the cluster it gets one, its own.
    let external = json!({"type": "ExternalName", "externalName": "x.y"});
    assert_eq!(world.service("e", external.clone()).await.0, 201);
    let inside = |ip: Value| json!({"type": "ClusterIP", "externalName": null, "clusterIP": ip});
    let (code, said) = refusal(world.change("e", inside(json!("10.96.77.7"))).await);
    assert!(code == 422 && said.ends_with("provided IP is already allocated"), "{code} {said}");
    let (_, now) = world.change("e", inside(Value::Null)).await;
    assert!(now["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.96.")), "{now}");
    let (_, gone) = world.change("g", external).await;
    assert_eq!((gone["spec"].get("clusterIP"), gone["spec"].get("clusterIPs")), (None, None), "{gone}");
    assert_eq!(world.service("h", json!({"clusterIP": "10.96.77.7"})).await.0, 201, "it is free again");
    let apply = |name: &str| {
        let spec = json!({"clusterIP": "10.96.77.7", "ports": [{"port": 1}]});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}).to_string()
    };
    let path = format!("{SERVICES}/a?fieldManager=m");
    let (code, _) = world.call(Method::PATCH, &path, "application/apply-patch+yaml", apply("a")).await;
    assert_eq!(code, 422, "an apply that creates is no way around");
}
