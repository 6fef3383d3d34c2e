//! Selectors: what they select, and what they refuse.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use proptest::prelude::*;
use serde_json::json;
use trainyard_runtime_core::selector::{FieldSelector, LabelSelector};

fn selects(selector: &str, labels: &[(&str, &str)]) -> bool {
    let selector = LabelSelector::parse(selector).unwrap();
    selector.matches(|key| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v))
}

#[test]
fn label_selectors_select_as_the_api_documents() {
    let web = [("app", "web"), ("tier", "front"), ("cores", "8")];
    let table = [
        ("", true),
        ("app=web", true),
        ("app==web", true),
        (" app = web , tier = front ", true),
        ("app!=web", false),
        ("app!=db", true),
        ("absent!=db", true),
        ("app in (web,db)", true),
        ("app in (db)", false),
        ("absent in (db)", false),
        ("absent notin (db)", true),
        ("app notin (web , db)", false),
        ("app", true),
        ("absent", false),
        ("!absent", true),
        ("! app", false),
        ("cores>4", true),
        ("cores > 8", false),
        ("cores<9", true),
        ("app<9", false),
        ("app=", false),
        ("app in (,web)", true),
        ("app=web,tier in (front),!absent,cores>1", true),
    ];
    for (selector, expected) in table {
        assert_eq!(selects(selector, &web), expected, "{selector:?}");
    }
    assert!(selects("app=", &[("app", "")]));
    assert!(selects("in=x", &[("in", "x")]), "operators' names are keys too");
    assert!(selects("kubernetes.io/metadata.name=a", &[("kubernetes.io/metadata.name", "a")]));
}

#[test]
fn broken_label_selectors_are_refused() {
    for text in [
        "a,,b",
        ",",
        "a=b,",
        "=x",
        "a in x",
        "a in (x",
        "a in (x y)",
        "a notin",
        "a b",
        "a>x",
        "-a",
        "a=b/c",
        "a/b/c",
        "/a",
        "a==b==c",
        "!a=b",
        "a=é",
    ] {
        assert!(LabelSelector::parse(text).is_err(), "{text:?}");
    }
    let long = "x".repeat(64);
    assert!(LabelSelector::parse(&long).is_err());
}

#[test]
fn label_selector_objects_mean_the_same() {
    let selector = LabelSelector::from_json(&json!({
        "matchLabels": { "app": "web" },
        "matchExpressions": [
            { "key": "tier", "operator": "NotIn", "values": ["back"] },
            { "key": "old", "operator": "DoesNotExist" },
        ],
    }));
    assert_eq!(selector, LabelSelector::parse("app=web,tier notin (back),!old"));
    for wrong in [
        json!({ "matchExpressions": [{ "key": "a", "operator": "In", "values": [] }] }),
        json!({ "matchExpressions": [{ "key": "a", "operator": "Exists", "values": ["x"] }] }),
        json!({ "matchExpressions": [{ "key": "a", "operator": "Near", "values": ["x"] }] }),
        json!({ "matchLabels": { "a": 1 } }),
    ] {
        assert!(LabelSelector::from_json(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn field_selectors_compare_text() {
    let pod = json!({
        "metadata": { "name": "a", "namespace": "default" },
        "spec": { "nodeName": "n1", "hostNetwork": true },
        "status": { "phase": "Running", "count": 3 },
    });
    let table = [
        ("", true),
        ("metadata.name=a", true),
        ("metadata.name==a,metadata.namespace=default", true),
        ("metadata.name!=a", false),
        ("status.phase!=Running", false),
        ("status.phase=Running,spec.nodeName=n1", true),
        ("spec.nodeName=", false),
        ("spec.schedulerName=", true),
        ("spec.schedulerName!=", false),
        ("spec.hostNetwork=true", true),
        ("spec.unschedulable=false", true),
        ("status.count=3", true),
    ];
    for (text, expected) in table {
        assert_eq!(FieldSelector::parse(text).unwrap().matches(&pod), expected, "{text:?}");
    }
    assert_eq!(FieldSelector::parse("metadata.name=a").unwrap().exact("metadata.name"), Some("a"));
    let escaped = FieldSelector::parse(r"reason=a\,b\=c").unwrap();
    assert_eq!(escaped.requirements[0].value, "a,b=c");
    for text in ["metadata.name", "a=b=c", r"a=\x", "a=b\\"] {
        assert!(FieldSelector::parse(text).is_err(), "{text:?}");
    }
}

proptest! {
    /// Whatever is written, parsing answers, and what it accepts can be asked.
    #[test]
    fn parsing_never_panics(text in "[a-z0-9=!<>,() ./\\\\é-]{0,24}") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            let _ = selector.matches(|_| Some("1"));
        }
        if let Ok(selector) = FieldSelector::parse(&text) {
            let _ = selector.matches(&json!({ "a": { "b": 1 } }));
        }
    }

    /// A set-based term and the terms it stands for select the same.
    #[test]
    fn sets_are_alternatives(values in prop::collection::vec("[a-c]{1,2}", 1..4), label in prop::option::of("[a-c]{1,2}")) {
        let look = |_: &str| label.as_deref();
        let list = values.join(",");
        let any = values.iter().any(|v| LabelSelector::parse(&format!("k={v}")).unwrap().matches(look));
        let none = values.iter().all(|v| LabelSelector::parse(&format!("k!={v}")).unwrap().matches(look));
        prop_assert_eq!(LabelSelector::parse(&format!("k in ({list})")).unwrap().matches(look), any);
        prop_assert_eq!(LabelSelector::parse(&format!("k notin ({list})")).unwrap().matches(look), none);
        prop_assert_eq!(any, !none);
    }
}
