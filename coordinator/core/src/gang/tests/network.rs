//! How fast nodes reach each other, from objects to what is told.

use super::super::{layouts, picture};
use super::*;

const LEVELS: [&str; 3] =
    ["topology.kubernetes.io/zone", "cloud.provider.com/topology-block", "cloud.provider.com/topology-rack"];

fn topology(links: &str) -> Value {
    let levels: Vec<Value> = LEVELS.iter().map(|label| json!({"nodeLabel": label})).collect();
    let metadata = json!({"name": "all", "uid": "all", "annotations": {label::LINKS: links}});
    json!({"apiVersion": super::super::QUEUE_API_VERSION, "kind": "Topology", "metadata": metadata, "spec": {"levels": levels}})
}

/// A node in a zone and a block of its own name's first letter.
fn placed(name: &str, rack: &str) -> Value {
    let mut node = node(name, 4, rack);
    node["metadata"]["labels"][LEVELS[0]] = json!("z");
    node["metadata"]["labels"][LEVELS[1]] = json!("b");
    node
}

#[test]
fn a_wider_domain_is_slower_unless_the_topology_says_otherwise() {
    let nodes = [placed("n0", "r0"), placed("n1", "r1")];
    let usual = picture(&world(&nodes, vec![], vec![]).view, NOW).policy;
    let rates: Vec<u64> = usual.levels.iter().map(|level| level.bytes_per_s).collect();
    assert_eq!(rates, [12_500_000_000, 25_000_000_000, 50_000_000_000]);
    assert!(usual.node_bytes_per_s > rates[2] && usual.cluster_bytes_per_s < rates[0]);
    let told = format!(
        r#"{{"{}": {{"gigabitsPerSecond": 3200, "latencyMicroseconds": 2}}, "cluster": {{"latencyMicroseconds": 7}}}}"#,
        LEVELS[2]
    );
    let policy = picture(&world(&nodes, vec![], vec![topology(&told)]).view, NOW).policy;
    assert_eq!((policy.levels[2].bytes_per_s, policy.levels[2].latency_ns), (400_000_000_000, 2_000));
    assert_eq!(policy.levels[..2], usual.levels[..2]);
    assert_eq!((policy.cluster_bytes_per_s, policy.cluster_latency_ns), (usual.cluster_bytes_per_s, 7_000));
}

#[test]
fn what_does_not_read_of_the_links_is_told() {
    for (links, words) in [
        ("fast", "the annotation trainyard.dev/links is no JSON object: expected ident at line 1 column 3"),
        (
            r#"{"row": {}}"#,
            "the annotation trainyard.dev/links names row, which is none of topology.kubernetes.io/zone, cloud.provider.com/topology-block, cloud.provider.com/topology-rack, node, cluster",
        ),
        (
            r#"{"node": {"gigabitsPerSecond": 0}}"#,
            "gigabitsPerSecond of node in the annotation trainyard.dev/links is 0, not a whole number above it",
        ),
        (
            r#"{"node": {"gigabits": 5}}"#,
            "node in the annotation trainyard.dev/links does not read: unknown field `gigabits`, expected `gigabitsPerSecond` or `latencyMicroseconds`",
        ),
    ] {
        let mut world = world(&[node("n", 4, "r")], vec![], vec![topology(links)]);
        world.step();
        let conditions = &world.view.queues[0]["status"]["conditions"];
        assert_eq!(
            (&conditions[0]["status"], conditions[0]["message"].as_str()),
            (&json!("False"), Some(words)),
            "{links}"
        );
    }
}

#[test]
fn the_predicted_time_is_told_of_what_runs_and_of_what_would_start() {
    let nodes = [placed("n0", "r0"), placed("n1", "r0"), placed("n2", "r1")];
    let runs = on(gang("runs", 2, 1, HOUR, &json!({})), "n2", NOW - HOUR);
    let mut world = world(&nodes, vec![runs, gang("starts", 8, 1, 0, &json!({}))], vec![]);
    let words = |world: &World| {
        layouts(&world.view, NOW).iter().map(|one| format!("{}: {}", one.name, one.words())).collect::<Vec<_>>()
    };
    // 2 (m - 1) / m times 1 GiB, inside a node at 300 GB/s and between two nodes of a rack at 50 GB/s, with twice 5 \u{b5}s.
    let expected = [
        "runs: predicted all-reduce of 1 GiB: 3.58 ms (2 pods on 1 node)",
        "starts: predicted all-reduce of 1 GiB: 26 ms (8 pods on 2 nodes)",
    ];
    let told = words(&world);
    assert_eq!(told, expected);
    world.step();
    let mut again = words(&world);
    again.sort();
    assert_eq!(again, told, "where it runs it is as it was foretold");
}
