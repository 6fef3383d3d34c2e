//! ResourceQuotas through the API: refusals, and a status that follows what is used.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, ResourceQuota};
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;
use trainyard_runtime::embedded::{Embedded, Options};

async fn create(api: &Api<ConfigMap>, name: &str) -> Result<(), kube::Error> {
    let map = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    api.create(&PostParams::default(), &map).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_says_how_much_of_it_is_used() {
    let home = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(Options::new(home.path())).await.unwrap();
    let api = Api::namespaced(embedded.client(), "default");
    let quotas: Api<ResourceQuota> = Api::namespaced(embedded.client(), "default");
    create(&api, "before").await.unwrap();
    let hard = json!({"configmaps": "3", "requests.cpu": "1500m", "pods": 2});
    let quota = serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": {"hard": hard}})).unwrap();
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    create(&api, "second").await.unwrap();
    create(&api, "third").await.unwrap();
    let refused = create(&api, "fourth").await.unwrap_err().to_string();
    let expected = "configmaps \"fourth\" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=3, limited: \
                    configmaps=3";
    assert!(refused.contains(expected), "{refused}");
    let shows = async |configmaps: &str| {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let status = quotas.get("q").await.unwrap().status.unwrap_or_default();
            let used = status.used.unwrap_or_default();
            let found = |name: &str| used.get(name).map(|quantity| quantity.0.clone()).unwrap_or_default();
            if found("configmaps") == configmaps {
                assert_eq!((found("requests.cpu").as_str(), found("pods").as_str()), ("0", "0"));
                assert_eq!(status.hard.unwrap_or_default().len(), 3);
                return;
            }
            assert!(Instant::now() < deadline, "{used:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    shows("3").await;
    api.delete("second", &DeleteParams::default()).await.unwrap();
    shows("2").await;
    create(&api, "fourth").await.unwrap();
    shows("3").await;
    embedded.shutdown().await;
}
