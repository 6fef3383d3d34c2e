//! What is served: API groups, their resources, and the documents that describe them. Each is made when it is first
//! asked for and kept as bytes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::kinds::{Kind, registry};
use crate::openapi;
use crate::server::access::REVIEWS;
use crate::server::dispatch::paths;
use crate::server::route::Route;

/// Rendered documents.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    rendered: Mutex<BTreeMap<String, Arc<Document>>>,
}

#[derive(Debug)]
struct Document {
    bytes: Bytes,
    content_type: &'static str,
    etag: String,
}

/// How a client wants discovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// All groups and resources in one list.
    pub(crate) aggregated: bool,
    /// YAML where JSON is usual.
    pub(crate) yaml: bool,
}

const JSON: &str = "application/json";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The answer to a path that is not an object; `None` where there is nothing.
pub(crate) fn answer(
    documents: &Documents,
    route: &Route,
    wish: Wish,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Option<Response> {
    let protobuf = headers
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|accept| accept.trim_start().starts_with("application/com.github.proto-openapi.spec.v2"));
    let document = match route {
        Route::Root => documents.json("/", || Some(paths())),
        Route::Version => documents.json("/version", || Some(version())),
        Route::CoreVersions if wish.aggregated => documents.aggregated("", true),
        Route::Groups if wish.aggregated => documents.aggregated("groups", false),
        Route::CoreVersions => documents.json("/api", || Some(core_versions())),
        Route::Groups => documents.json("/apis", || Some(groups())),
        Route::Group(name) => documents.json(&format!("/apis/{name}"), || group(name)),
        Route::GroupVersion(gv) => {
            documents.json(&format!("resources {}/{}", gv.group, gv.version), || resources(&gv.group, &gv.version))
        }
        Route::OpenApiV2 if protobuf => documents
            .get("/openapi/v2.pb", PROTOBUF, || Some(Bytes::from(openapi::v2_protobuf(registry()))))
            .filter(|document| !document.bytes.is_empty()),
        Route::OpenApiV2 => documents.json("/openapi/v2", || Some(openapi::v2(registry()))),
        Route::OpenApiV3Index => documents.json("/openapi/v3", || Some(openapi::v3_index(registry()))),
        Route::OpenApiV3(gv) => {
            let path = match gv.group.as_str() {
                "" => format!("api/{}", gv.version),
                group => format!("apis/{group}/{}", gv.version),
            };
            documents.json(&format!("/openapi/v3/{path}"), || openapi::v3(registry(), &path))
        }
        Route::Health | Route::Metrics | Route::Resource(_) | Route::Unknown => None,
    }?;
    Some(respond(&document, wish, headers, query))
}

fn respond(document: &Document, wish: Wish, headers: &HeaderMap, query: Option<&str>) -> Response {
    let unchanged = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()) == Some(document.etag.as_str());
    let as_yaml = || {
        let value: Value = serde_json::from_slice(&document.bytes).ok()?;
        serde_saphyr::to_string(&value).ok()
    };
    let (status, content_type, body) = match (unchanged, wish.yaml.then(as_yaml).flatten()) {
        (true, _) => (StatusCode::NOT_MODIFIED, document.content_type, Body::empty()),
        (false, Some(yaml)) => (StatusCode::OK, "application/yaml", Body::from(yaml)),
        (false, None) => (StatusCode::OK, document.content_type, Body::from(document.bytes.clone())),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    out.insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(etag) = HeaderValue::from_str(&document.etag) {
        out.insert(header::ETAG, etag);
    }
    // A URL with the document's hash in it is for ever.
    let cache = if query.is_some_and(|q| q.contains("hash=")) { "public, immutable" } else { "no-cache, private" };
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

impl Documents {
    fn json(&self, name: &str, make: impl FnOnce() -> Option<Value>) -> Option<Arc<Document>> {
        self.get(name, JSON, || make().map(|value| Bytes::from(value.to_string())))
    }

    fn aggregated(&self, name: &str, core: bool) -> Option<Arc<Document>> {
        self.get(&format!("aggregated {name}"), AGGREGATED, || Some(Bytes::from(aggregated(core).to_string())))
    }

    fn get(
        &self,
        name: &str,
        content_type: &'static str,
        make: impl FnOnce() -> Option<Bytes>,
    ) -> Option<Arc<Document>> {
        let mut rendered = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = rendered.get(name) {
            return Some(Arc::clone(document));
        }
        // Only what exists is kept, so that wrong paths cannot fill the memory.
        let bytes = make()?;
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let etag = format!("\"{:016X}\"", hasher.finish());
        let document = Arc::new(Document { bytes, content_type, etag });
        rendered.insert(name.to_owned(), Arc::clone(&document));
        Some(document)
    }
}

/// `/version`. kubectl warns when its minor version is more than one away: 33 suits 32 to 34.
fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": format!("v1.33.0+trainyard-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": format!("linux/{}", platform()),
    })
}

fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn core_versions() -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
    })
}

/// Groups with versions, reviews included; the core group is left out.
fn group_versions() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<_> = registry().groups().into_iter().filter(|(group, _)| !group.is_empty()).collect();
    for (group, _, _) in REVIEWS {
        if groups.iter().all(|(known, _)| *known != group) {
            groups.push((group, vec!["v1"]));
        }
    }
    groups
}

fn group_entry(name: &str, versions: &[&str]) -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({
        "name": name,
        "versions": versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(version),
    })
}

fn groups() -> Value {
    let groups: Vec<Value> = group_versions().iter().map(|(name, versions)| group_entry(name, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group(name: &str) -> Option<Value> {
    let (_, versions) = group_versions().into_iter().find(|(group, _)| *group == name)?;
    let mut entry = group_entry(name, &versions);
    entry["kind"] = Value::from("APIGroup");
    entry["apiVersion"] = Value::from("v1");
    Some(entry)
}

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const READ_VERBS: [&str; 3] = ["get", "list", "watch"];

fn verbs(kind: &Kind) -> &'static [&'static str] {
    if kind.read_only { &READ_VERBS } else { &VERBS }
}

/// A subresource, as both forms of discovery show it.
struct Subresource {
    name: &'static str,
    verbs: &'static [&'static str],
    /// Group, version, kind.
    returns: (&'static str, &'static str, &'static str),
}

fn subresources(kind: &'static Kind) -> Vec<Subresource> {
    let own = (kind.group, kind.version, kind.kind);
    let mut found = Vec::new();
    if kind.status {
        found.push(Subresource { name: "status", verbs: &["get", "patch", "update"], returns: own });
    }
    if kind.scale.is_some() {
        let returns = ("autoscaling", "v1", "Scale");
        found.push(Subresource { name: "scale", verbs: &["get", "patch", "update"], returns });
    }
    for name in kind.subresources.iter().copied() {
        let (verbs, returns): (&[&str], _) = match name {
            "log" => (&["get"], own),
            "binding" => (&["create"], ("", "v1", "Binding")),
            "eviction" => (&["create"], ("policy", "v1", "Eviction")),
            // Known to the registry, not served (yet): not announced.
            _ => continue,
        };
        found.push(Subresource { name, verbs, returns });
    }
    found
}

fn resources(group: &str, version: &str) -> Option<Value> {
    let mut resources: Vec<Value> = Vec::new();
    for kind in registry().of(group, version) {
        let mut entry = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "verbs": verbs(kind),
        });
        if !kind.short_names.is_empty() {
            entry["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        resources.push(entry);
        for sub in subresources(kind) {
            let (sub_group, sub_version, sub_kind) = sub.returns;
            let mut entry = json!({
                "name": format!("{}/{}", kind.plural, sub.name), "singularName": "", "namespaced": kind.namespaced,
                "kind": sub_kind, "verbs": sub.verbs,
            });
            if (sub_group, sub_version) != (kind.group, kind.version) {
                entry["group"] = Value::from(sub_group);
                entry["version"] = Value::from(sub_version);
            }
            resources.push(entry);
        }
    }
    for (_, plural, kind) in REVIEWS.iter().filter(|(known, _, _)| *known == group && version == "v1") {
        resources.push(json!({
            "name": plural, "singularName": kind.to_lowercase(), "namespaced": false, "kind": kind, "verbs": ["create"],
        }));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    (!resources.is_empty()).then(|| {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
    })
}

fn aggregated(core: bool) -> Value {
    let groups = if core { vec![("", vec!["v1"])] } else { group_versions() };
    let items: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| json!({"version": version, "freshness": "Current", "resources": aggregated_resources(group, version)}))
                .collect();
            let meta = if group.is_empty() { json!({"creationTimestamp": null}) } else { json!({"name": group, "creationTimestamp": null}) };
            json!({"metadata": meta, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn response_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn aggregated_resources(group: &str, version: &str) -> Vec<Value> {
    let scope = |namespaced: bool| if namespaced { "Namespaced" } else { "Cluster" };
    let mut resources: Vec<Value> = registry()
        .of(group, version)
        .map(|kind| {
            let subresources: Vec<Value> = subresources(kind)
                .iter()
                .map(|sub| {
                    let (group, version, kind) = sub.returns;
                    json!({"subresource": sub.name, "responseKind": response_kind(group, version, kind), "verbs": sub.verbs})
                })
                .collect();
            let mut entry = json!({
                "resource": kind.plural, "responseKind": response_kind(group, version, kind.kind),
                "scope": scope(kind.namespaced), "singularResource": kind.singular, "verbs": verbs(kind),
            });
            for (field, values) in [("shortNames", kind.short_names), ("categories", kind.categories)] {
                if !values.is_empty() {
                    entry[field] = json!(values);
                }
            }
            if !subresources.is_empty() {
                entry["subresources"] = Value::Array(subresources);
            }
            entry
        })
        .collect();
    for (_, plural, kind) in REVIEWS.iter().filter(|(known, _, _)| *known == group && version == "v1") {
        resources.push(json!({
            "resource": plural, "responseKind": response_kind(group, version, kind), "scope": scope(false),
            "singularResource": kind.to_lowercase(), "verbs": ["create"],
        }));
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_discovery_name_the_same_resources() {
        for (group, versions) in group_versions() {
            for version in versions {
                let legacy = resources(group, version).expect("a group that is listed has resources");
                let mut names: Vec<String> = legacy["resources"]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .filter_map(|r| r["name"].as_str().map(str::to_owned))
                    .filter(|name| !name.contains('/'))
                    .collect();
                let mut others: Vec<String> = aggregated_resources(group, version)
                    .iter()
                    .filter_map(|r| r["resource"].as_str().map(str::to_owned))
                    .collect();
                names.sort();
                others.sort();
                assert_eq!(names, others, "{group}/{version}");
            }
        }
    }

    #[test]
    fn an_unchanged_document_is_not_sent_twice() {
        let documents = Documents::default();
        let first = answer(&documents, &Route::Version, Wish::default(), &HeaderMap::new(), None).expect("there");
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        let second = answer(&documents, &Route::Version, Wish::default(), &headers, None).expect("there");
        assert_eq!(second.status(), StatusCode::NOT_MODIFIED);
    }
}
