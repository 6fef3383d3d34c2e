//! The API through its two doors: the in-process client and a socket.

mod agreement;
mod bounds;
mod service;

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt as _;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use trainyard_runtime::embedded::{Embedded, OpenError, Options, ServeError};

struct World {
    embedded: Embedded,
    home: tempfile::TempDir,
}

async fn world() -> World {
    let home = tempfile::tempdir().expect("a folder");
    let embedded = Embedded::open(Options::new(home.path())).await.expect("opens");
    World { embedded, home }
}

impl World {
    /// A request through the in-process client: code and JSON.
    async fn call(&self, method: Method, path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        let request = request.body(kube::client::Body::from(body.into())).expect("a request");
        let response = self.embedded.client().send(request).await.expect("answered");
        let code = response.status().as_u16();
        let bytes = response.into_body().collect_bytes().await.expect("a body");
        (
            code,
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes).into_owned())),
        )
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, "application/json", "").await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.call(Method::POST, path, "application/json", body.to_string()).await
    }
}

/// A request over a socket, by hand, so that headers can lie.
async fn raw(address: SocketAddr, head: &str) -> (u16, String) {
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("connects");
    socket.write_all(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes()).await.expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("answered");
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (code, answer)
}

fn address(url: &str) -> SocketAddr {
    url.split("//").nth(1).and_then(|authority| authority.parse().ok()).expect("an address")
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "schedulingGates": [{"name": "trainyard.dev/gang"}],
        "containers": [{"name": "main", "image": "none", "command": ["true"]}]}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn the_typed_client_creates_reads_patches_and_deletes() {
    let world = world().await;
    let maps: Api<ConfigMap> = Api::namespaced(world.embedded.client(), "default");
    let made = maps.create(&PostParams::default(), &serde_json::from_value(config_map("one")).expect("typed")).await;
    assert!(made.expect("created").metadata.uid.is_some());
    let patch = Patch::Merge(json!({"data": {"b": "2"}}));
    let patched = maps.patch("one", &PatchParams::default(), &patch).await.expect("patched");
    assert_eq!(patched.data.expect("data").len(), 2);
    let listed = maps.list(&ListParams::default().fields("metadata.name=one")).await.expect("listed");
    assert_eq!(listed.items.len(), 1);
    maps.delete("one", &DeleteParams::default()).await.expect("deleted");
    assert!(maps.get_opt("one").await.expect("asked").is_none());
}

#[tokio::test]
async fn a_watch_tells_every_change_and_resumes() {
    let world = world().await;
    let maps: Api<ConfigMap> = Api::namespaced(world.embedded.client(), "default");
    let start = maps.list(&ListParams::default()).await.expect("listed").metadata.resource_version.expect("a version");
    world.post(MAPS, config_map("w")).await;
    let mut seen = Vec::new();
    let mut version = start.clone();
    for expected in ["ADDED", "DELETED"] {
        let stream = maps.watch(&WatchParams::default().timeout(20), &version).await.expect("watching");
        let mut stream = std::pin::pin!(stream);
        let event = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("in time");
        let (kind, object) = match event.expect("an event").expect("no error") {
            WatchEvent::Added(object) => ("ADDED", object),
            WatchEvent::Deleted(object) => ("DELETED", object),
            other @ (WatchEvent::Modified(_) | WatchEvent::Bookmark(_) | WatchEvent::Error(_)) => panic!("{other:?}"),
        };
        assert_eq!(kind, expected);
        version = object.metadata.resource_version.clone().expect("a version");
        seen.push(object.metadata.name);
        world.call(Method::DELETE, &format!("{MAPS}/w"), "application/json", "").await;
    }
    assert_eq!(seen, [Some("w".to_owned()), Some("w".to_owned())]);
}

#[tokio::test]
async fn refusals_are_statuses_with_the_usual_codes() {
    let world = world().await;
    world.post(MAPS, config_map("there")).await;
    let typo = json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"contaners": []}});
    let table = [
        (world.get(&format!("{MAPS}/absent")).await, 404, "NotFound"),
        (world.get("/api/v1/namespaces/default/nonsense").await, 404, "NotFound"),
        (world.post(MAPS, config_map("there")).await, 409, "AlreadyExists"),
        (world.post("/api/v1/namespaces/nowhere/configmaps", config_map("x")).await, 404, "NotFound"),
        (world.post(MAPS, config_map("Not_A_Name")).await, 422, "Invalid"),
        (world.post("/api/v1/configmaps", config_map("x")).await, 405, "MethodNotAllowed"),
        (world.post(MAPS, json!({"kind": "Pod", "metadata": {"name": "x"}})).await, 400, "BadRequest"),
        (world.post(&format!("{PODS}?fieldValidation=Strict"), typo).await, 400, "BadRequest"),
        (world.get(&format!("{MAPS}?fieldSelector=data.a%3D1")).await, 400, "BadRequest"),
        (world.get(&format!("{MAPS}?limit=x")).await, 400, "BadRequest"),
        (world.call(Method::POST, MAPS, "application/xml", "<a/>").await, 415, "UnsupportedMediaType"),
        (world.call(Method::PUT, MAPS, "application/json", "{}").await, 405, "MethodNotAllowed"),
        (world.call(Method::POST, MAPS, "application/json", vec![b' '; 4 << 20]).await, 413, "RequestEntityTooLarge"),
    ];
    for ((code, status), expected, reason) in table {
        assert_eq!((code, status["reason"].as_str()), (expected, Some(reason)), "{status}");
        assert_eq!(
            (status["kind"].as_str(), status["code"].as_u64()),
            (Some("Status"), Some(expected.into())),
            "{status}"
        );
    }
    let (_, status) = world.post(MAPS, config_map("Not_A_Name")).await;
    assert_eq!(status["details"]["causes"][0]["field"], "metadata.name");
}

#[tokio::test]
async fn yaml_protobuf_and_json_bodies_make_the_same_objects() {
    let world = world().await;
    let yaml = "kind: ConfigMap\nmetadata: {name: y}\ndata: {a: '1'}\n";
    let protobuf = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x0d\x0a\x03\x0a\x01p\x12\x06\x0a\x01a\x12\x011";
    let (from_yaml, y) = world.call(Method::POST, MAPS, "application/yaml", yaml).await;
    let (from_protobuf, p) = world.call(Method::POST, MAPS, "application/vnd.kubernetes.protobuf", &protobuf[..]).await;
    assert_eq!((from_yaml, from_protobuf), (201, 201), "{y} {p}");
    assert_eq!(y["data"], p["data"]);
}

#[tokio::test]
async fn a_stale_put_conflicts_and_a_dry_run_changes_nothing() {
    let world = world().await;
    let (_, old) = world.post(MAPS, config_map("c")).await;
    let path = format!("{MAPS}/c");
    let merge = "application/merge-patch+json";
    let (code, _) = world.call(Method::PATCH, &format!("{path}?dryRun=All"), merge, r#"{"data":{"a":"2"}}"#).await;
    assert_eq!(code, 200);
    assert_eq!(world.get(&path).await.1["data"]["a"], "1");
    world.call(Method::PATCH, &path, merge, r#"{"data":{"a":"3"}}"#).await;
    let (code, status) = world.call(Method::PUT, &path, "application/json", old.to_string()).await;
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")), "{status}");
}

#[tokio::test]
async fn apply_creates_owns_and_conflicts() {
    let world = world().await;
    let apply = |manager: &str, colour: &str| {
        let path = format!("{MAPS}/s?fieldManager={manager}");
        let body = format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: s}}, data: {{colour: {colour}}}}}");
        (path, body)
    };
    let send = async |(path, body): (String, String)| {
        world.call(Method::PATCH, &path, "application/apply-patch+yaml", body).await
    };
    assert_eq!(send(apply("one", "red")).await.0, 201);
    let (code, same) = send(apply("one", "red")).await;
    assert_eq!(code, 200, "{same}");
    let (code, status) = send(apply("two", "blue")).await;
    assert_eq!(code, 409);
    assert_eq!(status["details"]["causes"][0]["field"], ".data.colour", "{status}");
    let (path, body) = apply("two", "blue");
    assert_eq!(send((format!("{path}&force=true"), body)).await.1["data"]["colour"], "blue");
}

#[tokio::test]
async fn binding_lifts_our_gate_once_and_deleting_is_graceful() {
    let world = world().await;
    let (code, made) = world.post(PODS, pod("p")).await;
    assert_eq!((code, &made["status"]["phase"]), (201, &json!("Pending")), "{made}");
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "here"}});
    assert_eq!(world.post(&format!("{PODS}/p/binding"), binding.clone()).await.0, 201);
    let (_, bound) = world.get(&format!("{PODS}/p")).await;
    assert_eq!(bound["spec"]["nodeName"], "here");
    assert!(bound["spec"].get("schedulingGates").is_none(), "{bound}");
    assert_eq!(world.post(&format!("{PODS}/p/binding"), binding).await.0, 409);
    let (_, leaving) = world.call(Method::DELETE, &format!("{PODS}/p"), "application/json", "").await;
    assert!(leaving["metadata"]["deletionTimestamp"].is_string(), "{leaving}");
    let now = r#"{"gracePeriodSeconds":0}"#;
    world.call(Method::DELETE, &format!("{PODS}/p"), "application/json", now).await;
    assert_eq!(world.get(&format!("{PODS}/p")).await.0, 404);
}

#[tokio::test]
async fn a_quota_refuses_the_pod_too_many_and_services_get_addresses() {
    let world = world().await;
    let quota = json!({"kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}});
    assert_eq!(world.post("/api/v1/namespaces/default/resourcequotas", quota).await.0, 201);
    assert_eq!(world.post(PODS, pod("first")).await.0, 201);
    let (code, status) = world.post(PODS, pod("second")).await;
    assert_eq!(code, 403);
    assert!(status["message"].as_str().is_some_and(|m| m.contains("exceeded quota: q")), "{status}");
    let service = |name: &str, ip: Value| json!({"kind": "Service", "metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
    let services = "/api/v1/namespaces/default/services";
    let (_, one) = world.post(services, service("one", Value::Null)).await;
    let (_, headless) = world.post(services, service("none", json!("None"))).await;
    assert!(one["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.96.")), "{one}");
    assert_eq!(headless["spec"]["clusterIP"], "None");
}

#[tokio::test]
async fn events_are_seen_under_both_names() {
    let world = world().await;
    let event = json!({"kind": "Event", "metadata": {"name": "e"}, "reason": "R", "message": "hello", "type": "Normal",
        "involvedObject": {"kind": "Pod", "name": "p"}});
    let (code, made) = world.post("/api/v1/namespaces/default/events", event).await;
    assert_eq!(code, 201, "{made}");
    let (code, seen) = world.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await;
    assert_eq!((code, &seen["note"], &seen["regarding"]["name"]), (200, &json!("hello"), &json!("p")), "{seen}");
    let (_, found) = world.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp").await;
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn logs_are_cut_as_asked_and_followed_to_the_end() {
    let world = world().await;
    let pods: Api<Pod> = Api::namespaced(world.embedded.client(), "default");
    let (_, made) = world.post(PODS, pod("p")).await;
    let early = world.get(&format!("{PODS}/p/log")).await;
    assert_eq!(early.0, 400, "{}", early.1);
    let uid = made["metadata"]["uid"].as_str().expect("a uid");
    let folder = world.home.path().join("pods").join(uid).join("containers/main");
    std::fs::create_dir_all(&folder).expect("a folder");
    let log = folder.join("0.log");
    let line = |second: u32, text: &str| format!("2026-01-01T00:00:0{second}.000000000Z stdout F {text}\n");
    std::fs::write(&log, format!("{}{}", line(1, "one"), line(2, "two"))).expect("written");
    let all = world.get(&format!("{PODS}/p/log")).await;
    assert_eq!(all, (200, json!("one\ntwo\n")));
    assert_eq!(world.get(&format!("{PODS}/p/log?tailLines=1")).await.1, json!("two\n"));
    assert_eq!(world.get(&format!("{PODS}/p/log?limitBytes=2")).await.1, json!("on"));
    assert_eq!(world.get(&format!("{PODS}/p/log?sinceTime=2026-01-01T00:00:02Z")).await.1, json!("two\n"));
    let stamped = world.get(&format!("{PODS}/p/log?timestamps=true&tailLines=1")).await;
    assert_eq!(stamped.1, json!("2026-01-01T00:00:02.000000000Z two\n"));
    assert_eq!(world.get(&format!("{PODS}/p/log?container=other")).await.0, 400);

    let client = world.embedded.client();
    let request =
        Request::get(format!("{PODS}/p/log?follow=true")).body(kube::client::Body::empty()).expect("a request");
    let followed = client.send(request).await.expect("followed").into_body();
    let mut grown = std::fs::OpenOptions::new().append(true).open(&log).expect("opens");
    std::io::Write::write_all(&mut grown, line(3, "three").as_bytes()).expect("written");
    let done = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    pods.patch_status("p", &PatchParams::default(), &done).await.expect("patched");
    let text = tokio::time::timeout(Duration::from_secs(10), followed.collect_bytes()).await.expect("it ends");
    assert_eq!(text.expect("read"), "one\ntwo\nthree\n");
}

#[tokio::test]
async fn logs_are_read_and_followed_through_their_rotation() {
    let world = world().await;
    let pods: Api<Pod> = Api::namespaced(world.embedded.client(), "default");
    let (_, made) = world.post(PODS, pod("p")).await;
    let folder = world.home.path().join("pods").join(made["metadata"]["uid"].as_str().expect("a uid"));
    let folder = folder.join("containers/main");
    std::fs::create_dir_all(&folder).expect("a folder");
    let line = |tag: &str, text: &str| format!("2026-01-01T00:00:01.000000000Z stdout {tag} {text}\n");
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("written");
    let rotate = || {
        let _ = std::fs::rename(folder.join("0.log.1"), folder.join("0.log.2"));
        std::fs::rename(folder.join("0.log"), folder.join("0.log.1")).expect("renamed");
    };
    write("0.log", line("F", "one") + &line("P", "tw"));
    rotate();
    write("0.log", line("F", "o") + &line("F", "three"));
    assert_eq!(world.get(&format!("{PODS}/p/log")).await.1, json!("one\ntwo\nthree\n"));
    assert_eq!(world.get(&format!("{PODS}/p/log?tailLines=2")).await.1, json!("two\nthree\n"));

    let path = format!("{PODS}/p/log?follow=true&tailLines=1");
    let request = Request::get(path).body(kube::client::Body::empty()).expect("a request");
    let mut followed = world.embedded.client().send(request).await.expect("followed").into_body();
    let first = followed.frame().await.expect("a frame").expect("read").into_data().expect("data");
    assert_eq!(first, "three\n");
    // Two rotations between two looks, with a last line in the file that the follower has.
    let mut old = std::fs::OpenOptions::new().append(true).open(folder.join("0.log")).expect("opens");
    rotate();
    std::io::Write::write_all(&mut old, line("F", "four").as_bytes()).expect("written");
    write("0.log", line("F", "five"));
    rotate();
    write("0.log", line("F", "six"));
    let done = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    pods.patch_status("p", &PatchParams::default(), &done).await.expect("patched");
    let rest = tokio::time::timeout(Duration::from_secs(10), followed.collect_bytes()).await.expect("it ends");
    assert_eq!(rest.expect("read"), "four\nfive\nsix\n");
}

#[tokio::test]
async fn web_pages_are_kept_out_and_local_clients_let_in() {
    let world = world().await;
    let info = world.embedded.serve("127.0.0.1:0".parse().expect("an address")).await.expect("serves");
    let at = address(&info.url);
    let code = async |head: &str| raw(at, head).await.0;
    assert_eq!(code("GET /api/v1/namespaces HTTP/1.1\r\nhost: localhost").await, 200);
    assert_eq!(code("GET /api/v1/namespaces HTTP/1.1\r\nhost: evil.example").await, 403);
    assert_eq!(code("GET /api/v1/namespaces HTTP/1.1\r\nhost: localhost\r\norigin: http://evil.example").await, 403);
    assert_eq!(code("GET /api/v1/namespaces HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer wrong").await, 401);
    let token = info.token.clone().expect("a token");
    let shown = format!("GET /api/v1/namespaces HTTP/1.1\r\nhost: evil.example\r\nauthorization: Bearer {token}");
    assert_eq!(code(&shown).await, 200);
    let (code, page) = raw(at, "GET /metrics HTTP/1.1\r\nhost: localhost").await;
    assert_eq!(code, 200);
    assert!(page.contains("trainyard_api_requests_total"), "{page}");
    assert!(!page.contains(&token) && !format!("{info:?}").contains(&token));
}

#[tokio::test]
async fn other_addresses_need_tls_and_tokens() {
    let world = world().await;
    let refused = world.embedded.serve("0.0.0.0:0".parse().expect("an address")).await;
    assert!(matches!(refused, Err(ServeError::Unprotected { .. })), "{refused:?}");
}

#[tokio::test]
async fn with_a_token_file_everybody_shows_one_and_gets_what_its_role_says() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join("tokens");
    std::fs::write(&path, "0123456789abcdef ann default=view\n").expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let mut options = Options::new(home.path().join("home"));
    options.token_file = Some(path);
    let embedded = Embedded::open(options).await.expect("opens");
    let info = embedded.serve("127.0.0.1:0".parse().expect("an address")).await.expect("serves");
    let at = address(&info.url);
    let ann = "host: localhost\r\nauthorization: Bearer 0123456789abcdef";
    assert_eq!(raw(at, "GET /api/v1/namespaces/default/pods HTTP/1.1\r\nhost: localhost").await.0, 401);
    assert_eq!(raw(at, &format!("GET /api/v1/namespaces/default/pods HTTP/1.1\r\n{ann}")).await.0, 200);
    assert_eq!(raw(at, &format!("GET /api/v1/namespaces/default/secrets HTTP/1.1\r\n{ann}")).await.0, 403);
    assert_eq!(raw(at, &format!("DELETE /api/v1/namespaces/default/pods HTTP/1.1\r\n{ann}")).await.0, 403);
    assert_eq!(raw(at, &format!("GET /api/v1/namespaces/kubeflow/pods HTTP/1.1\r\n{ann}")).await.0, 403);
    assert_eq!(raw(at, "GET /healthz HTTP/1.1\r\nhost: localhost").await.0, 200);
    embedded.shutdown().await;
}

#[tokio::test]
async fn a_home_has_one_owner_and_keeps_its_objects() {
    let world = world().await;
    world.post(MAPS, config_map("kept")).await;
    let second = Embedded::open(Options::new(world.home.path())).await;
    assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
    let World { embedded, home } = world;
    embedded.shutdown().await;
    let embedded = Embedded::open(Options::new(home.path())).await.expect("opens again");
    let world = World { embedded, home };
    assert_eq!(world.get(&format!("{MAPS}/kept")).await.0, 200);
}

#[tokio::test]
async fn versions_that_are_no_longer_kept_are_gone() {
    let World { embedded, home } = world().await;
    embedded.shutdown().await;
    // The changes of an earlier process are not kept: its versions can be neither listed nor resumed.
    let embedded = Embedded::open(Options::new(home.path())).await.expect("opens again");
    let world = World { embedded, home };
    let system = "/api/v1/namespaces/kubeflow-system/configmaps";
    let (code, status) = world.get(&format!("{system}?resourceVersion=1&resourceVersionMatch=Exact")).await;
    assert_eq!((code, status["reason"].as_str()), (410, Some("Expired")), "{status}");
    let (code, event) = world.get(&format!("{system}?watch=1&resourceVersion=1&timeoutSeconds=5")).await;
    assert_eq!((code, &event["type"], &event["object"]["code"]), (200, &json!("ERROR"), &json!(410)), "{event}");
}

#[tokio::test]
async fn stopping_ends_watches_and_takes_the_announcement_back() {
    let world = world().await;
    let info = world.embedded.serve("127.0.0.1:0".parse().expect("an address")).await.expect("serves");
    assert_eq!(trainyard_runtime::embedded::running(world.home.path()).map(|found| found.url), Some(info.url.clone()));
    let client = trainyard_runtime::embedded::connect(&info).expect("a client");
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let stream = maps.watch(&WatchParams::default(), "0").await.expect("watching");
    let mut stream = Box::pin(stream);
    let World { embedded, home } = world;
    let ended = tokio::spawn(async move { while stream.next().await.is_some() {} });
    tokio::time::timeout(Duration::from_secs(10), embedded.shutdown()).await.expect("stops in time");
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the watch ends").expect("no panic");
    assert!(trainyard_runtime::embedded::running(home.path()).is_none());
}
