//! Quota by flavor: which of a queue's flavors gangs are given, and what follows from it.

use super::*;

/// A node of a pool.
fn pooled(name: &str, cpus: u32, pool: &str) -> Value {
    let mut node = node(name, cpus, "r");
    node["metadata"]["labels"]["pool"] = json!(pool);
    node
}

/// A queue with quota for CPUs of these flavors, in this order.
fn of_flavors(name: &str, flavors: &[(&str, u32)], more: &Value) -> Value {
    let mut queue = cluster_queue(name, 0, more);
    let quota = |cpus: u32| json!([{"name": "cpu", "nominalQuota": cpus}]);
    let all = flavors.iter().map(|(flavor, cpus)| json!({"name": flavor, "resources": quota(*cpus)}));
    queue["spec"]["resourceGroups"][0]["flavors"] = all.collect();
    queue
}

fn pools() -> Vec<Value> {
    ["spot", "firm"].iter().map(|name| flavor(name, &json!({ "pool": name }))).collect()
}

/// Four CPUs of each pool, and one queue that has quota for some of each.
fn two_pools(spot: u32, firm: u32, more: &Value, pods: Vec<Vec<Value>>) -> World {
    let mut queues = vec![of_flavors("team", &[("spot", spot), ("firm", firm)], more), local_queue("q", "team")];
    queues.extend(pools());
    world(&[pooled("s", 4, "spot"), pooled("f", 4, "firm")], pods, queues)
}

fn job(name: &str, pods: usize, cpus: u32, age_ms: i64) -> Vec<Value> {
    gang(name, pods, cpus, age_ms, &queued("q", 0))
}

fn flavors_of(world: &World, pod: &str) -> Option<String> {
    let pod = world.view.pods.iter().find(|one| one.metadata.name.as_deref() == Some(pod))?;
    pod.metadata.annotations.as_ref()?.get(label::FLAVORS).cloned()
}

fn node_of(world: &World, pod: &str) -> Option<String> {
    let pod = world.view.pods.iter().find(|one| one.metadata.name.as_deref() == Some(pod))?;
    pod.spec.as_ref()?.node_name.clone()
}

#[test]
fn the_first_flavor_with_quota_is_given_and_written_down() {
    let pods = vec![job("a", 2, 1, 3000), job("b", 2, 1, 2000), job("c", 1, 1, 1000)];
    let mut world = two_pools(2, 3, &json!({}), pods);
    world.step();
    let given = |pod: &str| (flavors_of(&world, pod).unwrap_or_default(), node_of(&world, pod).unwrap_or_default());
    let of = |flavor: &str, node: &str| (format!("cpu={flavor}"), node.to_owned());
    assert_eq!(["a-0", "a-1"].map(given), [of("spot", "s"), of("spot", "s")]);
    // The quota of spot is used, not its node: the next is given.
    assert_eq!(["b-0", "b-1", "c-0"].map(given), [of("firm", "f"), of("firm", "f"), of("firm", "f")]);
    world.step();
    world.rests();
    // Nothing is left of either.
    world.add(job("d", 1, 1, 0));
    let placement = world.look();
    assert_eq!(codes(&placement), [("d", WaitCode::QuotaUsed)]);
    let message = &placement.waiting[0].message;
    assert!(
        message.contains("1 CPU of flavor spot") && message.contains("0 CPUs of flavor spot are left"),
        "{message}"
    );
    let states = super::super::queues(&world.view, NOW);
    let quota: Vec<_> =
        states[1].quota.iter().map(|one| (one.flavor.as_deref().unwrap(), one.entitled, one.used)).collect();
    assert_eq!(quota, [("firm", 3000, 3000), ("spot", 2000, 2000)]);
}

#[test]
fn quota_of_one_flavor_does_not_count_for_another() {
    // Two CPUs of each are no three of one.
    let placement = two_pools(2, 2, &json!({}), vec![job("a", 1, 3, 0)]).look();
    assert_eq!(codes(&placement), [("a", WaitCode::AboveQuota)]);
    // A gang is told of the flavor that it could have.
    let placement =
        two_pools(2, 3, &json!({}), vec![on(job("old", 1, 1, HOUR), "f", NOW - HOUR), job("a", 1, 3, 0)]).look();
    assert_eq!(codes(&placement), [("a", WaitCode::QuotaUsed)]);
    assert!(placement.waiting[0].message.contains("of flavor firm"), "{}", placement.waiting[0].message);
}

/// What is written is kept where the node does not tell, as of flavors without labels.
#[test]
fn what_was_given_is_known_after_a_restart() {
    let mut queues = vec![of_flavors("team", &[("one", 2), ("two", 2)], &json!({})), local_queue("q", "team")];
    queues.extend([flavor("one", &json!({})), flavor("two", &json!({}))]);
    let mut world = world(&[node("n", 8, "r")], vec![job("a", 1, 2, 2000), job("b", 1, 2, 1000)], queues);
    world.step();
    assert_eq!(
        (flavors_of(&world, "a-0"), flavors_of(&world, "b-0")),
        (Some("cpu=one".into()), Some("cpu=two".into()))
    );
    world.patch("Pod", "a-0", &json!({"status": {"phase": "Succeeded"}}));
    world.add(job("c", 1, 2, 0));
    world.step();
    assert_eq!(flavors_of(&world, "c-0").as_deref(), Some("cpu=one"), "two is still used by b");
    world.step();
    world.rests();
}

#[test]
fn a_gang_that_lost_a_pod_keeps_its_flavor() {
    let mut runs = on(job("a", 2, 1, HOUR), "f", NOW - HOUR);
    runs[1] = job("a", 2, 1, 0).remove(1);
    let mut world = two_pools(4, 2, &json!({}), vec![runs]);
    world.step();
    assert_eq!((node_of(&world, "a-1"), flavors_of(&world, "a-1")), (Some("f".into()), Some("cpu=firm".into())));
}

#[test]
fn another_flavor_is_tried_before_somebody_is_stopped_unless_the_queue_says_otherwise() {
    let contest = |fungibility: &Value| {
        let more = json!({"preemption": {"withinClusterQueue": "LowerPriority"}, "flavorFungibility": fungibility});
        let low = on(gang("low", 1, 4, HOUR, &queued("q", 0)), "s", NOW - HOUR);
        two_pools(4, 4, &more, vec![low, gang("high", 1, 4, 0, &queued("q", 5))])
    };
    let mut world = contest(&Value::Null);
    assert_eq!(done(&world.step()), [("mark", "high-0"), ("bind", "high-0")]);
    assert_eq!(flavors_of(&world, "high-0").as_deref(), Some("cpu=firm"));
    assert_eq!(done(&contest(&json!({"whenCanPreempt": "Preempt"})).look()), [("mark", "low-0")]);
}

#[test]
fn another_flavor_is_tried_before_something_is_borrowed_if_the_queue_says_so() {
    let borrow = |fungibility: &Value| {
        let more = json!({"cohort": "all", "flavorFungibility": fungibility});
        let mut world = two_pools(1, 2, &more, vec![job("a", 1, 2, 0)]);
        world.view.queues.push(of_flavors("rich", &[("spot", 3), ("firm", 2)], &json!({"cohort": "all"})));
        world.step();
        flavors_of(&world, "a-0")
    };
    assert_eq!(borrow(&Value::Null).as_deref(), Some("cpu=spot"));
    assert_eq!(borrow(&json!({"whenCanBorrow": "TryNextFlavor"})).as_deref(), Some("cpu=firm"));
}

#[test]
fn what_is_lent_is_lent_by_flavor() {
    let more = json!({"cohort": "all"});
    let mut world = two_pools(1, 0, &more, vec![job("a", 1, 3, 0)]);
    // Another queue lends firm, not spot.
    world.view.queues.push(of_flavors("rich", &[("firm", 3)], &more));
    world.step();
    assert_eq!(flavors_of(&world, "a-0").as_deref(), Some("cpu=firm"));
    // What is borrowed is taken back in the flavor in which it was lent.
    let more = json!({"cohort": "all", "preemption": {"reclaimWithinCohort": "Any"}});
    world.view.queues.pop();
    world.view.queues.extend([of_flavors("rich", &[("firm", 3)], &more), local_queue("r", "rich")]);
    world.patch("Pod", "a-0", &json!({"status": {"phase": "Running", "startTime": instant::text(NOW - HOUR)}}));
    world.add(gang("mine", 1, 2, 0, &queued("r", 0)));
    assert_eq!(done(&world.look()), [("mark", "a-0")]);
}

#[test]
fn a_flavor_is_given_only_to_pods_that_tolerate_its_taints_and_gives_them_its_tolerations() {
    let tainted = |tolerations: &Value| {
        let mut world = two_pools(4, 4, &json!({}), vec![job("a", 1, 1, 0)]);
        let taint = json!({"key": "cheap", "value": "yes", "effect": "NoSchedule"});
        world.patch("ResourceFlavor", "spot", &json!({"spec": {"nodeTaints": [taint], "tolerations": tolerations}}));
        let node = world.view.nodes.iter_mut().find(|node| node.metadata.name.as_deref() == Some("s")).unwrap();
        node.spec.get_or_insert_default().taints = Some(vec![serde_json::from_value(taint).unwrap()]);
        world
    };
    let mut plain = tainted(&json!([]));
    plain.step();
    assert_eq!(node_of(&plain, "a-0").as_deref(), Some("f"));
    let tolerates = json!([{"key": "cheap", "operator": "Exists"}]);
    let mut own = tainted(&json!([]));
    own.patch("Pod", "a-0", &json!({"spec": {"tolerations": tolerates}}));
    own.step();
    assert_eq!(node_of(&own, "a-0").as_deref(), Some("s"));
    let mut given = tainted(&tolerates);
    given.step();
    assert_eq!(node_of(&given, "a-0").as_deref(), Some("s"));
    let spec = serde_json::to_value(&given.pod("a-0").spec).unwrap();
    assert_eq!(spec["tolerations"], tolerates);
    // Where all flavors are out of the question, that is told.
    let mut none = tainted(&json!([]));
    none.view.queues[0] = of_flavors("team", &[("spot", 4)], &json!({}));
    let placement = none.look();
    assert_eq!(codes(&placement), [("a", WaitCode::NoMatchingNode)]);
    assert!(placement.waiting[0].message.contains("flavor spot has the taint cheap=yes"), "{placement:?}");
}

#[test]
fn each_role_is_given_a_flavor_of_its_own() {
    let mut pods = job("a", 2, 1, 0);
    for (pod, (role, pool)) in pods.iter_mut().zip([("launcher", "firm"), ("worker", "spot")]) {
        pod["metadata"]["labels"][label::REPLICA_TYPE] = json!(role);
        pod["spec"]["nodeSelector"] = json!({ "pool": pool });
    }
    let mut world = two_pools(4, 4, &json!({}), vec![pods]);
    world.step();
    let given = |pod: &str| flavors_of(&world, pod).unwrap_or_default();
    assert_eq!(["a-0", "a-1"].map(given), ["cpu=firm", "cpu=spot"]);
}

#[test]
fn places_are_set_aside_in_a_flavor_and_kept_there() {
    let limited = |mut pods: Vec<Value>, seconds: i64| {
        pods.iter_mut().for_each(|pod| pod["spec"]["activeDeadlineSeconds"] = json!(seconds));
        pods
    };
    let pods = vec![
        limited(on(job("spot", 1, 4, HOUR), "s", NOW - 1000), 7200),
        limited(on(job("firm", 1, 2, HOUR), "f", NOW - 1000), 3600),
        limited(job("large", 1, 4, 1000), 600),
    ];
    let mut world = two_pools(3, 4, &json!({}), pods);
    let placement = world.step();
    assert!(placement.waiting[0].reserved, "{placement:?}");
    let note = world.pod("large-0").metadata.annotations.as_ref().unwrap()[label::RESERVATION].clone();
    assert!(note.contains("\"f\"") && note.contains("cpu=firm"), "{note}");
    world.step();
    world.rests();
}
