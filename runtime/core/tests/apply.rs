//! Server-side apply, by the examples of the upstream documentation and by properties.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use trainyard_runtime_core::apply::{
    ApplyError, ApplyOptions, UpdateOptions, apply, split_scale, track_scale, track_update,
};
use trainyard_runtime_core::schema::{Annotation, Builder, ListType, Schema, Strategy};

fn annotate(_owner: &str, field: &str) -> Option<Annotation> {
    let keyed = |keys: &[&str], key: &str| Annotation {
        list_type: Some(ListType::Map(keys.iter().map(|key| (*key).into()).collect())),
        strategy: Some(Strategy::MergeKey(key.into())),
        ..Annotation::default()
    };
    match field {
        "containers" | "env" => Some(keyed(&["name"], "name")),
        "ports" => Some(keyed(&["containerPort", "protocol"], "containerPort")),
        "protocol" => Some(Annotation { default: Some(json!("TCP")), ..Annotation::default() }),
        "finalizers" => Some(Annotation {
            list_type: Some(ListType::Set),
            strategy: Some(Strategy::Union),
            ..Annotation::default()
        }),
        "nodeSelector" => Some(Annotation { atomic: true, ..Annotation::default() }),
        _ => None,
    }
}

/// A small Deployment: a keyed list inside a keyed list, a set, a map, an atomic list and map.
fn schema() -> Schema {
    let strings = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let list = |items: Value| json!({"type": "array", "items": items});
    let env = json!({"type": "object", "properties": {"name": {"type": "string"}, "value": {"type": "string"}}});
    let port =
        json!({"type": "object", "properties": {"containerPort": {"type": "integer"}, "protocol": {"type": "string"}}});
    let container = json!({"type": "object", "properties": {"name": {"type": "string"}, "image": {"type": "string"},
        "args": list(json!({"type": "string"})), "env": list(env), "ports": list(port)}});
    let spec = json!({"type": "object", "properties": {"replicas": {"type": "integer"}, "paused": {"type": "boolean"},
        "containers": list(container), "nodeSelector": strings}});
    let metadata = json!({"type": "object", "properties": {"name": {"type": "string"}, "labels": strings, "annotations": strings,
        "finalizers": list(json!({"type": "string"})), "managedFields": list(json!({}))}});
    let root = json!({"type": "object", "properties": {"apiVersion": {"type": "string"}, "kind": {"type": "string"},
        "metadata": metadata, "spec": spec, "status": {"type": "object", "properties": {"ready": {"type": "integer"}}}}});
    let definitions = serde_json::Map::new();
    Builder::new(&definitions, &annotate, BTreeMap::new()).schema("", &root)
}

const NOW: i64 = 1_700_000_000_000;

fn options(manager: &str) -> ApplyOptions<'_> {
    ApplyOptions { manager, force: false, now_ms: NOW, subresource: None, has_status: true, api_version: "apps/v1" }
}

fn forced(manager: &str) -> ApplyOptions<'_> {
    ApplyOptions { force: true, ..options(manager) }
}

fn by(manager: &str) -> UpdateOptions<'_> {
    UpdateOptions { manager, now_ms: NOW, subresource: None, has_status: true, api_version: "apps/v1" }
}

fn object(labels: Value, spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "labels": labels}, "spec": spec})
}

fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    entries
        .into_iter()
        .find(|entry| entry["manager"] == manager)
        .map(|entry| entry["fieldsV1"].clone())
        .unwrap_or(Value::Null)
}

#[test]
fn a_created_object_names_its_owner_field_by_field() {
    let container = json!({"name": "c", "image": "i", "args": ["1"], "ports": [{"containerPort": 80}]});
    let config =
        object(json!({"app": "x"}), json!({"replicas": 3, "nodeSelector": {"a": "b"}, "containers": [container]}));
    let created = apply(None, &config, &schema(), options("kubectl")).expect("no conflicts");
    assert_eq!(
        created["metadata"]["managedFields"],
        json!([{"apiVersion": "apps/v1", "fieldsType": "FieldsV1", "manager": "kubectl", "operation": "Apply", "time": "2023-11-14T22:13:20Z",
            "fieldsV1": {"f:metadata": {"f:labels": {"f:app": {}}}, "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:args": {},
                "f:image": {}, "f:name": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}},
                "f:nodeSelector": {}, "f:replicas": {}}}}])
    );
}

#[test]
fn a_field_of_another_manager_is_a_conflict_until_forced() {
    let schema = schema();
    let live = apply(None, &object(json!({}), json!({"replicas": 3})), &schema, options("kubectl")).expect("created");
    let wanted = object(json!({}), json!({"replicas": 5}));
    let error = apply(Some(&live), &wanted, &schema, options("other")).expect_err("a conflict");
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"kubectl\": .spec.replicas");
    let ApplyError::Conflicts(conflicts) = error else { panic!("a conflict") };
    assert_eq!((conflicts[0].manager.as_str(), conflicts[0].field.as_str()), ("kubectl", ".spec.replicas"));

    let forced = apply(Some(&live), &wanted, &schema, forced("other")).expect("forced");
    assert_eq!(forced["spec"]["replicas"], 5);
    assert_eq!(owned(&forced, "other"), json!({"f:metadata": {"f:labels": {}}, "f:spec": {"f:replicas": {}}}));
    assert_eq!(owned(&forced, "kubectl")["f:spec"], Value::Null, "the field changed hands");
}

#[test]
fn equal_values_are_shared_without_conflict() {
    let schema = schema();
    let wanted = object(json!({"a": "1"}), json!({"replicas": 3}));
    let live = apply(None, &wanted, &schema, options("one")).expect("created");
    let shared = apply(Some(&live), &wanted, &schema, options("two")).expect("no conflict");
    assert_eq!(owned(&shared, "one"), owned(&shared, "two"));
    // One lets go: the field stays, for the other still wants it.
    let rest =
        apply(Some(&shared), &object(json!({"a": "1"}), json!({})), &schema, options("one")).expect("no conflict");
    assert_eq!(rest["spec"]["replicas"], 3);
    let none = apply(Some(&rest), &object(json!({"a": "1"}), json!({})), &schema, options("two")).expect("no conflict");
    assert_eq!(none["spec"]["replicas"], Value::Null);
}

#[test]
fn items_no_longer_applied_go_and_those_of_others_stay() {
    let schema = schema();
    let two = object(
        json!({"a": "1", "b": "2"}),
        json!({"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]}),
    );
    let live = apply(None, &two, &schema, options("kubectl")).expect("created");
    // An injector adds a side car and an env to the first container.
    let mut injected = live.clone();
    injected["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "1"}]);
    injected["spec"]["containers"].as_array_mut().expect("a list").push(json!({"name": "side", "image": "s"}));
    track_update(Some(&live), &mut injected, &schema, by("injector"));
    let one = object(json!({"b": "2"}), json!({"containers": [{"name": "c", "image": "j"}]}));
    let after = apply(Some(&injected), &one, &schema, options("kubectl")).expect("no conflict");
    assert_eq!(after["metadata"]["labels"], json!({"b": "2"}));
    let left =
        json!([{"name": "c", "image": "j", "env": [{"name": "A", "value": "1"}]}, {"name": "side", "image": "s"}]);
    assert_eq!(after["spec"]["containers"], left);
}

#[test]
fn items_of_others_stand_before_new_ones() {
    let schema = schema();
    let with = |env: &[&str]| {
        let env: Vec<Value> = env.iter().map(|name| json!({"name": name, "value": "1"})).collect();
        object(json!({}), json!({"containers": [{"name": "c", "env": env}]}))
    };
    let names = |object: &Value| -> String {
        let env = object["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
        env.iter().filter_map(|item| item["name"].as_str()).collect()
    };
    let live = apply(None, &with(&["A", "B"]), &schema, options("one")).expect("created");
    let both = apply(Some(&live), &with(&["C"]), &schema, options("two")).expect("disjoint");
    assert_eq!(names(&both), "ABC");
    let turned = apply(Some(&both), &with(&["B", "A"]), &schema, options("one")).expect("his own");
    assert_eq!(names(&turned), "BAC");
}

#[test]
fn an_update_takes_what_it_changes() {
    let schema = schema();
    let config = object(json!({}), json!({"replicas": 3, "paused": true}));
    let live = apply(None, &config, &schema, options("kubectl")).expect("created");
    let mut edited = live.clone();
    edited["spec"]["replicas"] = json!(7);
    track_update(Some(&live), &mut edited, &schema, by("kubectl-edit"));
    assert_eq!(owned(&edited, "kubectl-edit"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(owned(&edited, "kubectl")["f:spec"], json!({"f:paused": {}}));
    let error = apply(Some(&edited), &config, &schema, options("kubectl")).expect_err("conflict");
    let described = "\"kubectl-edit\" using apps/v1";
    assert_eq!(error.to_string(), format!("Apply failed with 1 conflict: conflict with {described}: .spec.replicas"));
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let schema = schema();
    let first = object(json!({"a": "1"}), json!({"replicas": 3, "containers": [{"name": "c", "image": "i"}]}));
    let live = apply(None, &first, &schema, options("one")).expect("created");
    let wanted = object(json!({"a": "2"}), json!({"containers": [{"name": "c", "image": "j"}]}));
    let error = apply(Some(&live), &wanted, &schema, options("two")).expect_err("conflicts");
    let listed = "conflicts with \"one\":\n- .metadata.labels.a\n- .spec.containers[name=\"c\"].image";
    assert_eq!(error.to_string(), format!("Apply failed with 2 conflicts: {listed}"));
}

#[test]
fn the_status_is_out_of_reach_of_the_object_and_the_other_way_round() {
    let schema = schema();
    let mut wanted = object(json!({}), json!({"replicas": 1}));
    wanted["status"] = json!({"ready": 1});
    let live = apply(None, &wanted, &schema, options("kubectl")).expect("created");
    assert_eq!(owned(&live, "kubectl")["f:status"], Value::Null);
    let mut status = object(json!({"sneaky": "1"}), json!({"replicas": 9}));
    status["status"] = json!({"ready": 2});
    let native = ApplyOptions { subresource: Some("status"), ..options("controller") };
    let after = apply(Some(&live), &status, &schema, native).expect("no conflict");
    assert_eq!((&after["spec"]["replicas"], &after["status"]["ready"]), (&json!(1), &json!(2)));
    assert_eq!(
        after["metadata"]["labels"],
        json!({"sneaky": "1"}),
        "labels of Kubernetes' own kinds change with either"
    );
    let custom = ApplyOptions { api_version: "example.com/v1", ..native };
    let after = apply(Some(&live), &status, &schema, custom).expect("no conflict");
    assert_eq!((&after["spec"]["replicas"], &after["status"]["ready"]), (&json!(1), &json!(2)));
    assert_eq!(after["metadata"]["labels"], json!({}));
    assert_eq!(owned(&after, "controller"), json!({"f:status": {"f:ready": {}}}));
}

#[test]
fn client_side_apply_moves_to_server_side_apply() {
    let schema = schema();
    let config = object(json!({}), json!({"replicas": 3}));
    let mut live = config.clone();
    live["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": config.to_string()});
    track_update(None, &mut live, &schema, by("kubectl-client-side-apply"));
    let wanted = object(json!({}), json!({"replicas": 4}));
    let error = apply(Some(&live), &wanted, &schema, options("helm")).expect_err("somebody else's");
    assert!(error.to_string().contains("kubectl-client-side-apply"), "{error}");
    let moved = apply(Some(&live), &wanted, &schema, options("kubectl")).expect("his own");
    assert_eq!(moved["spec"]["replicas"], 4);
    let annotation =
        moved["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str().expect("kept");
    assert_eq!(serde_json::from_str::<Value>(annotation).expect("JSON")["spec"]["replicas"], 4);
    // What somebody else changed since is not his any more.
    let taken =
        apply(Some(&moved), &object(json!({}), json!({"replicas": 9})), &schema, forced("other")).expect("forced");
    let error = apply(Some(&taken), &wanted, &schema, options("kubectl")).expect_err("changed since");
    assert!(error.to_string().contains("conflict with \"other\": .spec.replicas"), "{error}");
}

#[test]
fn clients_may_hand_ownership_over_and_reset_it() {
    let schema = schema();
    let live = apply(None, &object(json!({}), json!({"replicas": 3})), &schema, options("one")).expect("created");
    let mut handed = live.clone();
    handed["metadata"]["managedFields"][0]["manager"] = json!("two");
    track_update(Some(&live), &mut handed, &schema, by("kubectl"));
    assert_ne!(owned(&handed, "two"), Value::Null);
    let mut reset = live.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    track_update(Some(&live), &mut reset, &schema, by("kubectl"));
    assert_eq!(reset["metadata"].get("managedFields"), None);
    let mut emptied = live.clone();
    emptied["metadata"]["managedFields"] = json!([]);
    track_update(Some(&live), &mut emptied, &schema, by("kubectl"));
    assert_eq!(emptied["metadata"]["managedFields"], live["metadata"]["managedFields"]);
}

#[test]
fn an_untracked_object_is_owned_by_before_first_apply() {
    let live = object(json!({}), json!({"replicas": 3}));
    let wanted = object(json!({}), json!({"replicas": 4}));
    let error = apply(Some(&live), &wanted, &schema(), options("kubectl")).expect_err("conflict");
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn ordinary_writes_to_an_untracked_object_own_nothing() {
    let live = object(json!({}), json!({"replicas": 3}));
    let mut next = live.clone();
    next["spec"]["replicas"] = json!(4);
    track_update(Some(&live), &mut next, &schema(), by("kubectl"));
    assert_eq!(next["metadata"].get("managedFields"), None);
}

#[test]
fn old_writers_are_folded() {
    let schema = schema();
    let mut live = object(json!({}), json!({}));
    for writer in 0..40_i64 {
        let mut next = live.clone();
        next["metadata"]["labels"][format!("l{writer}")] = json!("x");
        track_update(
            (writer > 0).then_some(&live),
            &mut next,
            &schema,
            UpdateOptions { now_ms: writer * 1000, ..by(&format!("w{writer}")) },
        );
        live = next;
    }
    assert!(live["metadata"]["managedFields"].as_array().expect("a list").len() <= 11);
    assert!(owned(&live, "ancient-changes")["f:metadata"]["f:labels"].as_object().expect("fields").len() >= 29);
}

#[test]
fn items_that_cannot_be_told_apart_are_refused() {
    let twice = object(json!({}), json!({"containers": [{"name": "c"}, {"name": "c"}]}));
    let error = apply(None, &twice, &schema(), options("kubectl")).expect_err("ambiguous");
    assert_eq!(
        error.to_string(),
        "failed to create typed patch object (/x; apps/v1, Kind=Deployment): .spec.containers: duplicate entries for \
         key [name=\"c\"]"
    );
    let nameless = object(json!({}), json!({"containers": [{"image": "c"}]}));
    let error = apply(None, &nameless, &schema(), options("kubectl")).expect_err("keyless");
    assert!(error.to_string().contains("omits its key"), "{error}");
}

prop_compose! {
    fn configs()(labels in proptest::collection::btree_map("[ab]", "[01]", 0..3),
        finalizers in proptest::collection::btree_set("[pq]", 0..3),
        replicas in proptest::option::of(1..4_i64),
        selector in proptest::option::of("[xy]"),
        containers in proptest::collection::btree_map(
            "[cde]", (proptest::option::of("[ij]"), proptest::collection::btree_map("[AB]", "[01]", 0..3)), 0..4)) -> Value {
        let containers: Vec<Value> = containers.into_iter().map(|(name, (image, env))| {
            let mut container = json!({"name": name});
            if let Some(image) = image { container["image"] = json!(image); }
            if !env.is_empty() {
                container["env"] = env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            }
            container
        }).collect();
        let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {}});
        if !labels.is_empty() { object["metadata"]["labels"] = json!(labels); }
        if !finalizers.is_empty() { object["metadata"]["finalizers"] = json!(finalizers); }
        if let Some(replicas) = replicas { object["spec"]["replicas"] = json!(replicas); }
        if let Some(selector) = selector { object["spec"]["nodeSelector"] = json!({"n": selector}); }
        if !containers.is_empty() { object["spec"]["containers"] = json!(containers); }
        object
    }
}

/// Every leaf of `config` has its value in `object`; items of keyed lists are found by name.
fn contains(object: &Value, config: &Value) -> bool {
    match (object, config) {
        (Value::Object(there), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| there.get(key).is_some_and(|there| contains(there, value)))
        }
        (Value::Array(there), Value::Array(wanted)) => wanted.iter().all(|item| {
            let same = |other: &Value| {
                item.get("name").map_or(item == other, |name| other.get("name") == Some(name) && contains(other, item))
            };
            there.iter().any(same)
        }),
        (there, wanted) => there == wanted,
    }
}

fn nothing() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}})
}

thread_local! {
    static SCHEMA: Arc<Schema> = Arc::new(schema());
}

/// Managers in the order of the list, each with whether he owns the number of replicas.
fn owners(object: &Value) -> Vec<(String, String, bool)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let owns = |entry: &Value| !entry["fieldsV1"]["f:spec"]["f:replicas"].is_null();
    entries.iter().map(|entry| (text(entry, "manager"), text(entry, "subresource"), owns(entry))).collect()
}

fn scaled(old: &Value, replicas: i64, manager: &str) -> Value {
    let mut new = old.clone();
    new["spec"]["replicas"] = json!(replicas);
    let options = UpdateOptions { subresource: Some("scale"), ..by(manager) };
    track_scale(old, &mut new, ".spec.replicas", replicas != 0, options);
    new
}

#[test]
fn who_scales_owns_the_number_and_whoever_owned_it_keeps_the_rest() {
    let mut made = object(json!({}), json!({"replicas": 1, "paused": true}));
    track_update(None, &mut made, &schema(), by("one"));
    let two = scaled(&made, 2, "two");
    let owner = |name: &str, part: &str, owns: bool| (name.to_owned(), part.to_owned(), owns);
    assert_eq!(owners(&two), [owner("one", "", false), owner("two", "scale", true)]);
    // None says nothing, and what nobody owns stays nobody's.
    let none = scaled(&two, 0, "two");
    assert_eq!(owners(&none), [owner("one", "", false)]);
    assert_eq!(owners(&scaled(&none, 3, "two")), [owner("one", "", false)]);
}

#[test]
fn a_scale_to_what_there_is_sets_the_number_apart_and_then_nobody_owns_it() {
    let mut made = object(json!({}), json!({"replicas": 1, "paused": true}));
    track_update(None, &mut made, &schema(), by("one"));
    let same = scaled(&made, 1, "two");
    let owner = |owns: bool| ("one".to_owned(), String::new(), owns);
    assert_eq!(owners(&same), [owner(true), owner(false)]);
    // Of two entries of one manager the last counts.
    assert_eq!(owners(&scaled(&same, 1, "two")), [owner(false)]);
    let mut split = made.clone();
    split_scale(&mut split, ".spec.replicas");
    assert_eq!(owners(&split), [owner(true), owner(false)]);
    let applied = apply(None, &object(json!({}), json!({"replicas": 1})), &schema(), options("one")).expect("created");
    assert_eq!(owners(&scaled(&applied, 1, "two")), [owner(true)], "who applies speaks no version");
}

#[test]
fn what_nothing_is_left_of_is_a_null() {
    let custom = ApplyOptions { api_version: "example.com/v1", ..options("one") };
    let live = apply(None, &object(json!({}), json!({"replicas": 1})), &schema(), custom).expect("created");
    let emptied = apply(Some(&live), &object(json!({}), json!({})), &schema(), custom).expect("applied");
    assert_eq!(emptied["spec"], Value::Null);
}

proptest! {
    #[test]
    fn applying_twice_changes_nothing(first in configs(), second in configs()) {
        let schema = SCHEMA.with(Arc::clone);
        let live = apply(None, &first, &schema, options("one")).expect("created");
        let once = apply(Some(&live), &second, &schema, forced("two")).expect("forced");
        let later = ApplyOptions { now_ms: NOW + 60_000, ..forced("two") };
        let twice = apply(Some(&once), &second, &schema, later).expect("forced");
        prop_assert_eq!(&once, &twice);
        prop_assert!(contains(&twice, &second));
    }

    #[test]
    fn what_a_single_manager_applies_is_what_there_is(first in configs(), second in configs()) {
        let schema = SCHEMA.with(Arc::clone);
        let live = apply(None, &first, &schema, options("one")).expect("created");
        let mut after = apply(Some(&live), &second, &schema, options("one")).expect("no one else to conflict with");
        after["metadata"].as_object_mut().expect("metadata").remove("managedFields");
        prop_assert!(contains(&after, &second), "{after} lacks something of {second}");
        prop_assert!(contains(&second, &after), "{after} has more than {second}");
    }

    #[test]
    fn managers_of_disjoint_fields_never_conflict(ours in configs(), theirs in configs()) {
        let schema = SCHEMA.with(Arc::clone);
        // Disjoint by construction: only containers, and those have other names.
        let containers = theirs["spec"].get("containers").map(Value::to_string).unwrap_or_default().replace("{\"name\":\"c", "{\"name\":\"zc")
            .replace("{\"name\":\"d", "{\"name\":\"zd").replace("{\"name\":\"e", "{\"name\":\"ze");
        let mut theirs = nothing();
        if let Ok(containers) = serde_json::from_str::<Value>(&containers) {
            theirs["spec"] = json!({"containers": containers});
        }
        let live = apply(None, &ours, &schema, options("ours")).expect("created");
        let both = apply(Some(&live), &theirs, &schema, options("theirs")).expect("nothing in common");
        prop_assert!(contains(&both, &ours) && contains(&both, &theirs));
        let again = apply(Some(&both), &ours, &schema, options("ours")).expect("nothing in common");
        prop_assert_eq!(again, both);
    }

    #[test]
    fn a_dropped_field_goes_only_if_nobody_else_owns_it(ours in configs(), theirs in configs()) {
        let schema = SCHEMA.with(Arc::clone);
        let live = apply(None, &ours, &schema, options("ours")).expect("created");
        let both = apply(Some(&live), &theirs, &schema, forced("theirs")).expect("forced");
        let rest = apply(Some(&both), &nothing(), &schema, options("ours")).expect("takes nothing");
        prop_assert!(contains(&rest, &theirs), "{rest} lost something of {theirs}");
        let none = apply(Some(&rest), &nothing(), &schema, options("theirs")).expect("takes nothing");
        prop_assert_eq!(none["spec"].get("replicas"), None);
        prop_assert_eq!(none["spec"].get("containers"), None);
        prop_assert_eq!(none["metadata"].get("managedFields"), None);
    }

    #[test]
    fn every_field_has_an_owner_after_a_write(first in configs(), second in configs()) {
        let schema = SCHEMA.with(Arc::clone);
        let mut live = first;
        track_update(None, &mut live, &schema, by("one"));
        let mut next = second.clone();
        track_update(Some(&live), &mut next, &schema, by("two"));
        // Whoever applies another value now meets a conflict with the writer of the field.
        if let Some(replicas) = second["spec"]["replicas"].as_i64() {
            let mut wanted = nothing();
            wanted["spec"] = json!({"replicas": replicas + 1});
            prop_assert!(apply(Some(&next), &wanted, &schema, options("three")).is_err());
        }
    }
}
