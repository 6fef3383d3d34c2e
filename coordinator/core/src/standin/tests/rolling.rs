use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::{Value, json};
use trainyard_proto::plan::Action;

use super::super::deployment::{View, plan};
use super::world::World;

fn deployment(replicas: i32, strategy: &Value) -> World {
    let mut world = World::new();
    world.put(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "strategy": strategy, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": "v1"}]},
            },
        },
    }));
    world.settle();
    world
}

/// A pod that its node refuses after a while, and how many seconds later the next one was there.
fn refuse(world: &mut World, pod: &str) -> i64 {
    world.now_ms += 30_000;
    let refused_ms = world.now_ms;
    // Its status as of now, without a container that ever ran.
    world.set_phase(pod, "Failed");
    let refused = json!({"status": {"reason": "CommandRequired", "containerStatuses": null}});
    world.change("Pod", pod, &refused);
    world.settle();
    for _ in 0..10 {
        for pod in world.pods() {
            if pod.metadata.deletion_timestamp.is_some() {
                world.vanish("Pod", pod.metadata.name.as_deref().unwrap());
            }
        }
        if !world.pods_in("Pending").is_empty() {
            break;
        }
        world.now_ms = world.wake_at().expect("it says when it goes on");
        world.settle();
    }
    (world.now_ms - refused_ms) / 1000
}

#[test]
fn a_pod_that_ends_at_once_is_replaced_ever_later() {
    let mut world = deployment(1, &json!({}));
    let mut waits = Vec::new();
    for _ in 0..8 {
        let pod = world.pods_in("Pending")[0].clone();
        waits.push(refuse(&mut world, &pod));
        assert!(!world.has("Pod", &pod), "RS-3");
        assert_eq!(world.pods().len(), 1);
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    // One that lived for long is replaced at once again.
    let pod = world.pods_in("Pending")[0].clone();
    world.set_phase(&pod, "Running");
    world.now_ms += 600_000;
    world.set_phase(&pod, "Failed");
    world.settle();
    assert_eq!(world.pods_in("Pending").len(), 1);
}

#[test]
fn a_pod_that_waits_for_its_turn_goes_with_its_set() {
    let mut world = deployment(1, &json!({}));
    for _ in 0..2 {
        let pod = world.pods_in("Pending")[0].clone();
        world.set_phase(&pod, "Failed");
        world.settle();
        if world.pods_in("Pending").is_empty() {
            break;
        }
    }
    assert_eq!(world.pods_in("Failed").len(), 1, "it stays to be looked at");
    world.change("Deployment", "web", &json!({"spec": {"replicas": 0}}));
    world.settle();
    assert_eq!(world.pods_in("Failed").len(), 0);
}

fn image(world: &mut World, image: &str) {
    world.now_ms += 1000;
    let containers = json!([{"name": "main", "image": image}]);
    world.change("Deployment", "web", &json!({"spec": {"template": {"spec": {"containers": containers}}}}));
    world.settle();
}

/// Pods that wait start, pods on their way out go; checks DP-1 on the way.
fn step(world: &mut World) -> bool {
    let mut moved = false;
    for pod in world.pods() {
        let name = pod.metadata.name.clone().unwrap();
        if pod.metadata.deletion_timestamp.is_some() {
            world.vanish("Pod", &name);
            moved = true;
        }
    }
    if let Some(name) = world.pods_in("Pending").first() {
        world.set_phase(name, "Running");
        moved = true;
    }
    world.now_ms += 1000;
    world.settle();
    moved
}

fn roll(world: &mut World, most: usize, least: usize) {
    for _ in 0..100 {
        let alive = world.pods().iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).count();
        assert!(alive <= most, "DP-1: {alive} pods, at most {most}");
        assert!(world.pods_in("Running").len() >= least, "DP-1: too few available");
        if !step(world) {
            return;
        }
    }
    panic!("the roll-out never ends");
}

fn status<'a>(world: &'a World, field: &str) -> &'a Value {
    &world.get("Deployment", "web")["status"][field]
}

fn condition<'a>(world: &'a World, kind: &str) -> &'a Value {
    let conditions = status(world, "conditions").as_array();
    conditions.and_then(|all| all.iter().find(|one| one["type"] == kind)).unwrap_or(&Value::Null)
}

fn images(world: &World) -> Vec<String> {
    let pods = world.pods();
    pods.iter().map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap()).collect()
}

#[test]
fn starts_its_pods_and_says_so() {
    let mut world = deployment(3, &json!(null));
    roll(&mut world, 3, 0);
    assert_eq!(status(&world, "availableReplicas"), 3);
    assert_eq!(status(&world, "observedGeneration"), 1);
    assert_eq!(condition(&world, "Available")["status"], "True");
    assert_eq!(condition(&world, "Progressing")["reason"], "NewReplicaSetAvailable");
    assert_eq!(world.get("Deployment", "web")["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    let set = world.names("ReplicaSet").remove(0);
    let hash = world.get("ReplicaSet", &set)["spec"]["selector"]["matchLabels"]["pod-template-hash"].clone();
    assert_eq!(set, format!("web-{}", hash.as_str().unwrap()));
}

#[test]
fn rolls_within_surge_and_unavailable_and_goes_back_to_an_earlier_set() {
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}});
    let mut world = deployment(4, &rolling);
    roll(&mut world, 4, 0);
    image(&mut world, "v2");
    roll(&mut world, 5, 3);
    assert_eq!(images(&world), ["v2"; 4]);
    assert_eq!(world.names("ReplicaSet").len(), 2);
    assert_eq!(status(&world, "updatedReplicas"), 4);
    image(&mut world, "v1");
    roll(&mut world, 5, 3);
    assert_eq!(images(&world), ["v1"; 4]);
    assert_eq!(world.names("ReplicaSet").len(), 2, "DP-2: the first set was taken up again");
    assert_eq!(world.get("Deployment", "web")["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
}

#[test]
fn a_revision_that_never_becomes_ready_stops_the_roll_and_runs_into_its_deadline() {
    let mut world = deployment(4, &json!(null));
    roll(&mut world, 4, 0);
    image(&mut world, "broken");
    // Nobody starts the new pods.
    for _ in 0..5 {
        for pod in world.pods() {
            if pod.metadata.deletion_timestamp.is_some() {
                world.vanish("Pod", &pod.metadata.name.clone().unwrap());
            }
        }
        world.settle();
    }
    assert_eq!(world.pods_in("Running").len(), 3, "25 % of four may be missing");
    assert_eq!(world.pods_in("Pending").len(), 2, "one in its place, and 25 % more");
    world.now_ms = world.wake_at().unwrap();
    world.settle();
    assert_eq!(condition(&world, "Progressing")["reason"], "ProgressDeadlineExceeded");
    image(&mut world, "v1");
    roll(&mut world, 5, 3);
    assert_eq!(images(&world), ["v1"; 4]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = deployment(2, &json!({"type": "Recreate"}));
    roll(&mut world, 2, 0);
    image(&mut world, "v2");
    assert!(images(&world).iter().all(|image| image == "v1"), "DP-3");
    let leaving = world.names("Pod");
    world.vanish("Pod", &leaving[0]);
    world.settle();
    assert_eq!(images(&world), ["v1"], "DP-3: one old pod is still there");
    world.vanish("Pod", &leaving[1]);
    world.settle();
    roll(&mut world, 2, 0);
    assert_eq!(images(&world), ["v2"; 2]);
}

#[test]
fn scale_pause_and_restart_do_what_kubectl_expects() {
    let mut world = deployment(2, &json!(null));
    roll(&mut world, 3, 0);
    world.change("Deployment", "web", &json!({"spec": {"replicas": 4}}));
    world.settle();
    roll(&mut world, 5, 2);
    assert_eq!(world.pods_in("Running").len(), 4);
    world.change("Deployment", "web", &json!({"spec": {"paused": true}}));
    image(&mut world, "v2");
    roll(&mut world, 4, 4);
    assert_eq!(images(&world), ["v1"; 4], "paused: nothing is rolled out");
    world.change("Deployment", "web", &json!({"spec": {"replicas": 3}}));
    world.settle();
    roll(&mut world, 4, 3);
    assert_eq!(world.pods_in("Running").len(), 3, "paused: scale still works");
    for replicas in [0, 3] {
        world.change("Deployment", "web", &json!({"spec": {"replicas": replicas}}));
        world.settle();
        roll(&mut world, 3, 0);
        assert_eq!(world.pods_in("Running").len(), replicas, "paused: from and to nothing as well");
    }
    world.change("Deployment", "web", &json!({"spec": {"paused": null}}));
    world.settle();
    roll(&mut world, 4, 2);
    assert_eq!(images(&world), ["v2"; 3]);
    let restart = json!({"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}});
    world.change("Deployment", "web", &json!({"spec": {"template": restart}}));
    world.settle();
    roll(&mut world, 4, 2);
    assert_eq!(world.names("ReplicaSet").len(), 3);
    assert_eq!(world.pods_in("Running").len(), 3);
}

#[test]
fn a_change_of_scale_in_a_roll_out_is_shared_out_in_proportion() {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    let mut world = deployment(10, &strategy);
    roll(&mut world, 13, 0);
    image(&mut world, "broken");
    let sizes = |world: &World| {
        let sets: Vec<ReplicaSet> = world.all("ReplicaSet");
        let mut sizes: Vec<i32> = sets.iter().filter_map(|set| set.spec.as_ref()?.replicas).collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(&world), [5, 8]);
    world.change("Deployment", "web", &json!({"spec": {"replicas": 15}}));
    world.settle();
    assert_eq!(sizes(&world), [7, 11], "DP-4: the example of the Kubernetes documentation");
    world.change("Deployment", "web", &json!({"spec": {"replicas": 0}}));
    world.settle();
    assert_eq!(sizes(&world), [0, 0]);
}

#[test]
fn the_newest_set_follows_what_is_written_beside_the_template() {
    let mut world = deployment(1, &json!(null));
    roll(&mut world, 2, 0);
    let cause = json!({"metadata": {"annotations": {"kubernetes.io/change-cause": "first try"}}});
    world.change("Deployment", "web", &cause);
    world.change("Deployment", "web", &json!({"spec": {"minReadySeconds": 5}}));
    world.settle();
    let set = world.names("ReplicaSet").remove(0);
    assert_eq!(world.get("ReplicaSet", &set)["metadata"]["annotations"]["kubernetes.io/change-cause"], "first try");
    assert_eq!(world.get("ReplicaSet", &set)["spec"]["minReadySeconds"], 5);
}

#[test]
fn the_cheapest_pod_goes_first() {
    let mut world = deployment(3, &json!(null));
    roll(&mut world, 4, 0);
    let cheap = world.names("Pod").remove(1);
    let cost = json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"}}});
    world.change("Pod", &cheap, &cost);
    world.change("Deployment", "web", &json!({"spec": {"replicas": 2}}));
    world.settle();
    assert!(!world.get("Pod", &cheap)["metadata"]["deletionTimestamp"].is_null());
}

#[test]
fn the_set_and_its_pod_as_they_are_made() {
    let world = deployment(1, &json!({"type": "RollingUpdate"}));
    let pick = |kind: &str| {
        let mut object = world.get(kind, &world.names(kind)[0]).clone();
        object.as_object_mut().unwrap().shift_remove("status");
        object
    };
    insta::assert_yaml_snapshot!([pick("ReplicaSet"), pick("Pod")]);
}

#[test]
fn a_lost_pod_is_replaced() {
    let mut world = deployment(2, &json!(null));
    roll(&mut world, 3, 0);
    let victim = world.pods_in("Running").remove(0);
    world.set_phase(&victim, "Failed");
    world.settle();
    roll(&mut world, 3, 1);
    assert_eq!(world.pods_in("Running").len(), 2);
    assert!(!world.has("Pod", &victim));
}

#[test]
fn a_deployment_beyond_all_reason_scales_as_far_as_numbers_go() {
    let world = deployment(0, &json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "9223372036854775807%"}}));
    let mut huge: Deployment = world.all("Deployment").remove(0);
    huge.spec.as_mut().unwrap().replicas = Some(i32::MAX);
    let sets: Vec<ReplicaSet> = world.all("ReplicaSet");
    let view = View { deployment: &huge, sets: sets.iter().collect(), pods: Vec::new() };
    let plan = plan(&view, world.now_ms);
    let scaled = plan.actions.iter().find_map(|action| match action {
        Action::Patch { patch, .. } => patch.pointer("/spec/replicas").cloned(),
        Action::Create { .. }
        | Action::Delete { .. }
        | Action::PatchStatus { .. }
        | Action::Bind { .. }
        | Action::Event { .. } => None,
    });
    assert_eq!(scaled, Some(json!(i32::MAX)));
}
