//! The three patches, by the examples of the RFCs and of the upstream documentation, and by properties.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use serde_json::{Map, Value, json};
use trainyard_runtime_core::patch::{PatchError, json as json_patch, merge, strategic};
use trainyard_runtime_core::schema::{Annotation, Builder, ListType, Schema, Strategy};

fn annotate(_owner: &str, field: &str) -> Option<Annotation> {
    let keyed = |key: &str| {
        Some(Annotation {
            list_type: Some(ListType::Map([key.into()].into())),
            strategy: Some(Strategy::MergeKey(key.into())),
            ..Annotation::default()
        })
    };
    match field {
        "containers" | "env" | "volumes" => keyed("name"),
        "ports" => keyed("containerPort"),
        "finalizers" => Some(Annotation {
            list_type: Some(ListType::Set),
            strategy: Some(Strategy::Union),
            ..Annotation::default()
        }),
        _ => None,
    }
}

fn schema() -> Schema {
    let strings = json!({"type": "array", "items": {"type": "string"}});
    let env = json!({"type": "object", "properties": {"name": {"type": "string"}, "value": {"type": "string"}}});
    let port =
        json!({"type": "object", "properties": {"containerPort": {"type": "integer"}, "name": {"type": "string"}}});
    let container = json!({"type": "object", "properties": {"name": {"type": "string"}, "image": {"type": "string"}, "args": strings,
        "env": {"type": "array", "items": env}, "ports": {"type": "array", "items": port}}});
    let volume = json!({"type": "object", "properties": {"name": {"type": "string"}, "emptyDir": {"type": "object"}, "hostPath": {"type": "object"}}});
    let root = json!({"type": "object", "properties": {
        "metadata": {"type": "object", "properties": {"labels": {"type": "object", "additionalProperties": {"type": "string"}}, "finalizers": strings}},
        "spec": {"type": "object", "properties": {"replicas": {"type": "integer"}, "strategy": {"type": "object", "properties": {
                "type": {"type": "string"}, "rollingUpdate": {"type": "object"}}},
            "containers": {"type": "array", "items": container}, "volumes": {"type": "array", "items": volume}, "tolerations": strings}}}});
    Builder::new(&Map::new(), &annotate, BTreeMap::new()).schema("", &root)
}

fn patched(document: Value, patch: Value) -> Value {
    strategic(&document, &patch, &schema()).expect("a patch that fits")
}

#[test]
fn merge_patch_follows_the_table_of_the_rfc() {
    let rows = [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ];
    for (document, patch, wanted) in rows {
        assert_eq!(merge(&document, &patch), Ok(wanted), "{document} + {patch}");
    }
    assert_eq!(merge(&json!({}), &json!(["a"])).map_err(|error| error.code()), Err(400));
}

#[test]
fn json_patch_does_all_or_nothing() {
    let document = json!({"spec": {"replicas": 1, "list": ["a", "b"]}});
    let patch = json!([{"op": "test", "path": "/spec/replicas", "value": 1}, {"op": "replace", "path": "/spec/replicas", "value": 2},
        {"op": "add", "path": "/spec/list/-", "value": "c"}, {"op": "remove", "path": "/spec/list/0"},
        {"op": "move", "from": "/spec/list/0", "path": "/spec/first"}, {"op": "copy", "from": "/spec/first", "path": "/spec/again"}]);
    assert_eq!(
        json_patch(&document, &patch),
        Ok(json!({"spec": {"replicas": 2, "list": ["c"], "first": "b", "again": "b"}}))
    );
    let error = json_patch(
        &document,
        &json!([{"op": "replace", "path": "/spec/replicas", "value": 3}, {"op": "test", "path": "/spec/replicas", "value": 1}]),
    );
    assert_eq!(error.clone().map_err(|error| error.code()), Err(422));
    assert!(error.expect_err("a failed test").to_string().contains("operation 1 at \"/spec/replicas\""));
    assert!(matches!(json_patch(&document, &json!({})), Err(PatchError::Malformed(_))));
    for wrong in [json!([{"op": "jump", "path": "/a"}]), json!([{"op": "add", "path": "a"}])] {
        assert!(matches!(json_patch(&document, &wrong), Err(PatchError::Mismatch(_))), "{wrong}");
    }
}

#[test]
fn a_small_json_patch_cannot_make_a_huge_object() {
    let doubling: Vec<Value> =
        (0..100).map(|round| json!({"op": "copy", "from": "", "path": format!("/a{round}")})).collect();
    assert!(matches!(json_patch(&json!({"x": 1}), &json!(doubling)), Err(PatchError::TooLarge(_))));
    let wide: Vec<Value> =
        (0..100).map(|round| json!({"op": "copy", "from": "/x", "path": format!("/x/a{round}")})).collect();
    assert!(matches!(json_patch(&json!({"x": {"y": [0, 1, 2, 3]}}), &json!(wide)), Err(PatchError::TooLarge(_))));
    let many: Vec<Value> = (0..10_001).map(|_| json!({"op": "test", "path": "/x", "value": 1})).collect();
    assert!(matches!(json_patch(&json!({"x": 1}), &json!(many)), Err(PatchError::TooLarge(_))));
}

#[test]
fn keyed_lists_merge_by_key_and_new_items_come_first() {
    let live =
        json!({"spec": {"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}]}});
    let result =
        patched(live, json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}}));
    let names =
        json!([{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}]);
    assert_eq!(result["spec"]["containers"], names);
    let result =
        patched(json!({"spec": {"containers": [{"name": "a"}]}}), json!({"spec": {"containers": [{"name": "c"}]}}));
    assert_eq!(result["spec"]["containers"], json!([{"name": "c"}, {"name": "a"}]), "as upstream");
}

#[test]
fn directives_delete_replace_and_order() {
    let live = json!({"metadata": {"finalizers": ["a", "b", "c"]}, "spec": {
        "containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1", "ports": [{"containerPort": 80}]}],
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}, "volumes": [{"name": "v", "emptyDir": {}}]}});
    let deleted = patched(live.clone(), json!({"spec": {"containers": [{"$patch": "delete", "name": "a"}]}}));
    assert_eq!(deleted["spec"]["containers"].as_array().map(Vec::len), Some(1));
    let replaced = patched(live.clone(), json!({"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}}));
    assert_eq!(replaced["spec"]["containers"], json!([{"name": "z"}]));
    let map = patched(live.clone(), json!({"spec": {"strategy": {"$patch": "replace", "type": "Recreate"}}}));
    assert_eq!(map["spec"]["strategy"], json!({"type": "Recreate"}));
    let retained = patched(live.clone(), json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}));
    assert_eq!(retained["spec"]["strategy"], json!({"type": "Recreate"}));
    let volume = patched(
        live.clone(),
        json!({"spec": {"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/"}}]}}),
    );
    assert_eq!(volume["spec"]["volumes"], json!([{"name": "v", "hostPath": {"path": "/"}}]));
    let ordered =
        patched(live.clone(), json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}));
    assert_eq!(ordered["spec"]["containers"][0]["name"], "b");
    let union =
        patched(live.clone(), json!({"metadata": {"finalizers": ["d"], "$deleteFromPrimitiveList/finalizers": ["b"]}}));
    assert_eq!(union["metadata"]["finalizers"], json!(["d", "a", "c"]));
    let order = json!({"metadata": {"$setElementOrder/finalizers": ["c", "a", "d"], "finalizers": ["d"], "$deleteFromPrimitiveList/finalizers": ["b"]}});
    assert_eq!(patched(live.clone(), order)["metadata"]["finalizers"], json!(["c", "a", "d"]));
    let atomic = patched(json!({"spec": {"tolerations": ["a"]}}), json!({"spec": {"tolerations": ["b"]}}));
    assert_eq!(atomic["spec"]["tolerations"], json!(["b"]));
    let emptied = patched(live, json!({"spec": {"strategy": {"$patch": "delete"}}}));
    assert_eq!(emptied["spec"]["strategy"], json!({}));
}

#[test]
fn no_directive_is_stored() {
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a", "$retainKeys": ["name"]},
        {"name": "gone", "$patch": "delete"}], "strategy": {"$retainKeys": ["type"], "type": "x", "rollingUpdate": null}}});
    let result = patched(json!({}), patch);
    assert_eq!(result, json!({"spec": {"containers": [{"name": "a"}], "strategy": {"type": "x"}}}));
}

#[test]
fn malformed_strategic_patches_are_refused() {
    let live = json!({"spec": {"containers": [{"name": "a"}], "strategy": {"type": "x"}}});
    let wrong = [
        json!([]),
        json!({"spec": {"$patch": "explode"}}),
        json!({"spec": {"containers": [{"image": "x"}]}}),
        json!({"spec": {"containers": ["x"]}}),
        json!({"spec": {"$setElementOrder/containers": "a"}}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}}),
        json!({"spec": {"$deleteFromPrimitiveList/tolerations": 1}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}}),
    ];
    for patch in wrong {
        assert!(matches!(strategic(&live, &patch, &schema()), Err(PatchError::Malformed(_))), "{patch}");
    }
    let error = strategic(&live, &json!({"spec": {"containers": [{"image": "x"}]}}), &schema())
        .expect_err("keyless")
        .to_string();
    assert_eq!(error, "map: map[image:x] does not contain declared merge key: name");
}

/// The patch that `kubectl` would compute from `old` to `new`: the model of the property below.
fn difference(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return new.clone() };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match (old.get(key), value) {
            (Some(before), after) if before == after => {}
            (Some(Value::Object(_)), Value::Object(_)) => drop(patch.insert(key.clone(), difference(&old[key], value))),
            (Some(Value::Array(before)), Value::Array(after)) if matches!(key.as_str(), "containers" | "env") => {
                keyed_difference(key, before, after, &mut patch);
            }
            (Some(Value::Array(before)), Value::Array(after)) if key == "finalizers" => {
                let gone: Vec<&Value> = before.iter().filter(|item| !after.contains(item)).collect();
                let fresh: Vec<&Value> = after.iter().filter(|item| !before.contains(item)).collect();
                patch.insert(format!("$deleteFromPrimitiveList/{key}"), json!(gone));
                patch.insert(format!("$setElementOrder/{key}"), json!(after));
                patch.insert(key.clone(), json!(fresh));
            }
            _ => drop(patch.insert(key.clone(), value.clone())),
        }
    }
    Value::Object(patch)
}

fn keyed_difference(key: &str, before: &[Value], after: &[Value], patch: &mut Map<String, Value>) {
    let mut items = Vec::new();
    for item in after {
        match before.iter().find(|old| old["name"] == item["name"]) {
            Some(old) if old == item => {}
            Some(old) => {
                let mut change = difference(old, item);
                change["name"] = item["name"].clone();
                items.push(change);
            }
            None => items.push(item.clone()),
        }
    }
    for old in before.iter().filter(|old| !after.iter().any(|item| item["name"] == old["name"])) {
        items.push(json!({"$patch": "delete", "name": old["name"]}));
    }
    let order: Vec<Value> = after.iter().map(|item| json!({"name": item["name"]})).collect();
    patch.insert(format!("$setElementOrder/{key}"), json!(order));
    patch.insert(key.to_owned(), json!(items));
}

prop_compose! {
    fn containers()(names in proptest::collection::btree_map("[a-e]", (proptest::option::of("[ij]"), proptest::collection::btree_map("[A-C]", "[01]", 0..3)), 0..5),
        seed in 0..120_usize) -> Vec<Value> {
        let mut containers: Vec<Value> = names.into_iter().map(|(name, (image, env))| {
            let mut container = json!({"name": name});
            if let Some(image) = image { container["image"] = json!(image); }
            if !env.is_empty() { container["env"] = env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect(); }
            container
        }).collect();
        // Any order: rotate and swap by the seed.
        if !containers.is_empty() {
            let count = containers.len();
            containers.rotate_left(seed % count);
            containers.swap(seed / 5 % count, seed / 25 % count);
        }
        containers
    }
}

prop_compose! {
    fn objects()(containers in containers(), labels in proptest::collection::btree_map("[ab]", "[01]", 0..3),
        finalizers in proptest::collection::vec("[pqrs]", 0..4), replicas in proptest::option::of(0..3_i64),
        tolerations in proptest::collection::vec("[xy]", 0..3)) -> Value {
        let mut seen = BTreeSet::new();
        let finalizers: Vec<String> = finalizers.into_iter().filter(|name| seen.insert(name.clone())).collect();
        let mut object = json!({"metadata": {"labels": labels, "finalizers": finalizers}, "spec": {"containers": containers, "tolerations": tolerations}});
        if let Some(replicas) = replicas { object["spec"]["replicas"] = json!(replicas); }
        object
    }
}

/// Any JSON at all, directives included.
fn anything() -> impl proptest::strategy::Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-c$]{0,3}".prop_map(Value::from),
        Just(json!("replace")),
        Just(json!("delete")),
        Just(json!("merge"))
    ];
    leaf.prop_recursive(5, 48, 5, |inner| {
        let keys = prop_oneof![
            Just("$patch".to_owned()),
            Just("$retainKeys".to_owned()),
            Just("$setElementOrder/containers".to_owned()),
            Just("$deleteFromPrimitiveList/finalizers".to_owned()),
            Just("name".to_owned()),
            Just("spec".to_owned()),
            Just("metadata".to_owned()),
            Just("containers".to_owned()),
            Just("finalizers".to_owned()),
            Just("env".to_owned()),
            "[a-c]".prop_map(String::from)
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(keys, inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_strategic_patch_of_a_difference_makes_the_target(old in objects(), new in objects()) {
        let schema = schema();
        let patch = difference(&old, &new);
        let result = strategic(&old, &patch, &schema).expect("a patch as kubectl makes it");
        prop_assert_eq!(&result, &new, "by {}", patch);
        // A second time changes nothing.
        prop_assert_eq!(strategic(&result, &patch, &schema).expect("the same patch"), new);
    }

    #[test]
    fn a_merge_patch_of_a_difference_makes_the_target(old in objects(), new in objects()) {
        let mut patch = Map::new();
        for (key, value) in new.as_object().expect("an object") { patch.insert(key.clone(), value.clone()); }
        if new["spec"].get("replicas").is_none() { patch["spec"]["replicas"] = Value::Null; }
        for label in ["a", "b"] {
            if new["metadata"]["labels"].get(label).is_none() { patch["metadata"]["labels"][label] = Value::Null; }
        }
        prop_assert_eq!(merge(&old, &Value::Object(patch)), Ok(new));
    }

    #[test]
    fn no_patch_panics(document in anything(), patch in anything()) {
        let schema = schema();
        let _ = strategic(&document, &patch, &schema);
        let _ = merge(&document, &patch);
        let _ = json_patch(&document, &patch);
    }

    #[test]
    fn a_json_patch_and_its_opposite_change_nothing(old in objects(), new in objects()) {
        let forth = json!([{"op": "test", "path": "/spec", "value": old["spec"]}, {"op": "replace", "path": "/spec", "value": new["spec"]}]);
        let back = json!([{"op": "test", "path": "/spec", "value": new["spec"]}, {"op": "replace", "path": "/spec", "value": old["spec"]}]);
        let there = json_patch(&old, &forth).expect("fits");
        prop_assert_eq!(&there["spec"], &new["spec"]);
        prop_assert_eq!(json_patch(&there, &back), Ok(old));
    }
}

#[test]
fn replace_sets_a_field_that_an_object_does_not_have_and_no_item_of_a_list() {
    let document = json!({"metadata": {"annotations": {}}, "list": []});
    let patch = |path: &str| json_patch(&document, &json!([{"op": "replace", "path": path, "value": "1"}]));
    assert_eq!(patch("/metadata/annotations/a").expect("sets")["metadata"]["annotations"]["a"], "1");
    assert!(patch("/list/0").is_err());
    assert!(patch("/absent/a").is_err());
}
