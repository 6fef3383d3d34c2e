//! The disk of the state folder is full: writes are refused with the reason, reads and deletions go on, and everything
//! goes on when there is room again. On a small file system of its own, so it needs the right to mount one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::json;
use trainyard_runtime::embedded::{Embedded, Options};

/// A file system of a few megabytes, unmounted at the end.
struct Small(tempfile::TempDir);

impl Small {
    /// Nothing where this user may not mount.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(folder.path()).output();
        match mounted {
            Ok(done) if done.status.success() => Some(Self(folder)),
            Ok(done) => {
                eprintln!("SKIPPED: cannot mount a tmpfs here: {}", String::from_utf8_lossy(&done.stderr));
                None
            }
            Err(error) => {
                eprintln!("SKIPPED: cannot mount a tmpfs here: {error}");
                None
            }
        }
    }

    /// Writes until nothing more fits, as a job that logs does.
    fn fill(&self) {
        let mut ballast = std::fs::File::create(self.0.path().join("ballast")).unwrap();
        while ballast.write_all(&[1; 4096]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.path().join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: the store may still have its files open when a test has failed.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

async fn open(folder: &Path) -> (Embedded, Api<ConfigMap>) {
    let embedded = Embedded::open(Options::new(folder.join("home"))).await.unwrap();
    let api = Api::namespaced(embedded.client(), "default");
    (embedded, api)
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"k": "x".repeat(1024)}})).unwrap()
}

async fn create(api: &Api<ConfigMap>, name: &str) -> Result<(), kube::Error> {
    api.create(&PostParams::default(), &config_map(name)).await.map(drop)
}

async fn names(api: &Api<ConfigMap>) -> BTreeSet<String> {
    let list = api.list(&ListParams::default()).await.unwrap();
    list.items.into_iter().filter_map(|map| map.metadata.name).collect()
}

/// Creates until it is refused; what was acknowledged, and the refusal.
async fn create_until_refused(api: &Api<ConfigMap>, prefix: &str) -> (Vec<String>, kube::core::Status) {
    let mut acknowledged = Vec::new();
    for n in 0..20_000 {
        let name = format!("{prefix}-{n}");
        match create(api, &name).await {
            Ok(()) => acknowledged.push(name),
            Err(kube::Error::Api(status)) => return (acknowledged, *status),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the disk does not fill up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_takes_deletions_and_recovers() {
    let Some(small) = Small::mount() else { return };
    let (embedded, api) = open(small.0.path()).await;
    for n in 0..300 {
        create(&api, &format!("early-{n}")).await.unwrap();
    }
    small.fill();
    let (late, refused) = create_until_refused(&api, "late").await;
    assert_eq!(refused.code, 507, "{refused:?}");
    assert_eq!(refused.reason, "InsufficientStorage");
    assert!(refused.message.contains("is full; free some space") && refused.message.contains("delete"), "{refused:?}");
    let before = names(&api).await;
    assert!(late.iter().all(|name| before.contains(name)), "what was acknowledged is there");
    assert!(!before.contains(&format!("late-{}", late.len())), "what was refused is not");

    // What would be refused anyway says why, and no write is acknowledged by mistake.
    assert!(matches!(create(&api, "early-0").await, Err(kube::Error::Api(status)) if status.code == 409));
    for n in 0..300 {
        api.delete(&format!("early-{n}"), &DeleteParams::default()).await.unwrap();
    }
    assert!(matches!(create(&api, "still-full").await, Err(kube::Error::Api(status)) if status.code == 507));

    small.free();
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = create(&api, "after").await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = names(&api).await;
    assert!(after.contains("after") && !after.contains("early-0"));
    embedded.shutdown().await;
    let (embedded, api) = open(small.0.path()).await;
    assert_eq!(names(&api).await, after, "the same after a restart");
    embedded.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_can_be_deleted_on_a_full_disk() {
    let Some(small) = Small::mount() else { return };
    let (embedded, api) = open(small.0.path()).await;
    let client = embedded.client();
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    let doomed = serde_json::from_value(json!({"metadata": {"name": "doomed"}})).unwrap();
    namespaces.create(&PostParams::default(), &doomed).await.unwrap();
    let inside: Api<ConfigMap> = Api::namespaced(client.clone(), "doomed");
    for n in 0..50 {
        create(&inside, &format!("m-{n}")).await.unwrap();
    }
    small.fill();
    create_until_refused(&api, "late").await;
    namespaces.delete("doomed", &DeleteParams::default()).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while namespaces.get_opt("doomed").await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "the namespace stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(names(&inside).await.is_empty());
    let events: Api<Event> = Api::namespaced(client, "default");
    assert!(events.list(&ListParams::default()).await.is_ok());
    embedded.shutdown().await;
}
