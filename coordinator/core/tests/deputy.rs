//! Jobs that another scheduler lets go.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]

mod world;

use serde_json::{Value, json};
use trainyard_coordinator_core::peer::Peers;
use trainyard_coordinator_core::view::Config;
use trainyard_coordinator_core::{label, manifest};
use trainyard_proto::plan::Action;
use world::World;

fn cluster() -> Config {
    let peers = Peers {
        native: None,
        kueue: Some("kueue.x-k8s.io/v1beta2".to_owned()),
        volcano: Some("scheduling.volcano.sh/v1beta1".to_owned()),
        queues: Default::default(),
    };
    Config { gangs: true, peers, ..Config::cluster() }
}

fn training(spec: &str, config: Config) -> World {
    let mut world = World::new(&format!(
        "{{apiVersion: trainyard.dev/v1alpha1, kind: TrainingJob, metadata: {{name: wine}}, spec: {{command: [train], image: x,
           replicas: 2, restartPolicy: OnFailure, resources: {{cpu: 500m, memory: 1Gi}}, {spec}}}}}"
    ));
    world.config = config;
    world
}

fn pytorch(metadata: &str, template: &str, config: Config) -> World {
    let role = format!(
        "{{replicas: 1, template: {{spec: {{{template} containers: [{{name: pytorch, image: x, command: [python]}}]}}}}}}"
    );
    let mut world = World::new(&format!(
        "{{apiVersion: kubeflow.org/v1, kind: PyTorchJob, metadata: {{name: wine, {metadata}}},
           spec: {{pytorchReplicaSpecs: {{Master: {role}, Worker: {role}}}}}}}"
    ));
    world.config = config;
    world
}

fn gates(world: &World) -> usize {
    let gates = |pod: &k8s_openapi::api::core::v1::Pod| pod.spec.as_ref().unwrap().scheduling_gates.clone();
    world.pods.values().filter(|pod| gates(pod).is_some_and(|gates| !gates.is_empty())).count()
}

fn condition(world: &mut World, of: &str, status: &str, message: &str) {
    let workload = world.deputies.get_mut("wine").unwrap();
    let condition = json!({"type": of, "status": status, "message": message});
    if workload.pointer("/status/conditions").is_none() {
        workload["status"] = json!({"conditions": []});
    }
    let all = workload["status"]["conditions"].as_array_mut().unwrap();
    all.retain(|one| one["type"] != of);
    all.push(condition);
}

#[test]
fn without_a_word_pods_wait_at_our_gate() {
    let mut world = training("", cluster());
    world.plan();
    assert_eq!((gates(&world), world.deputies.len()), (2, 0));
}

#[test]
fn pods_of_a_job_that_is_left_to_kubernetes_have_no_gate() {
    let mut world = training("scheduler: kubernetes", cluster());
    world.plan();
    assert_eq!((world.pods.len(), gates(&world), world.deputies.len()), (2, 0, 0));
}

#[test]
fn kueue_lets_a_job_go_when_it_admits_its_workload() {
    let mut world = training("scheduler: kueue, queue: team, priority: 7", cluster());
    world.plan();
    let spec = &world.deputies["wine"]["spec"];
    assert_eq!((&spec["queueName"], &spec["priority"]), (&json!("team"), &json!(7)));
    assert_eq!((&spec["podSets"][0]["name"], &spec["podSets"][0]["count"]), (&json!("worker"), &json!(2)));
    let asked = &spec["podSets"][0]["template"]["spec"]["containers"][0]["resources"]["requests"];
    assert_eq!(*asked, json!({"cpu": "500m", "memory": "1Gi"}));
    assert_eq!(world.deputies["wine"]["metadata"]["ownerReferences"][0]["uid"], json!("job-uid"));
    assert_eq!((world.pods.len(), world.codes.clone()), (0, vec!["WaitsForPlace".to_owned()]));
    condition(&mut world, "QuotaReserved", "False", "insufficient quota for cpu");
    world.plan();
    assert_eq!(
        world.status("/message"),
        json!("TrainingJob wine waits for a place in queue team of Kueue: insufficient quota for cpu")
    );

    world.related.push(json!({"kind": "ResourceFlavor", "metadata": {"name": "spot"}, "spec": {
        "nodeLabels": {"pool": "spot"}, "tolerations": [{"key": "spot", "operator": "Exists"}]}}));
    world.deputies.get_mut("wine").unwrap()["status"]["admission"] =
        json!({"podSetAssignments": [{"name": "worker", "flavors": {"cpu": "spot", "memory": "spot"}}]});
    world.deputies.get_mut("wine").unwrap()["status"]["admissionChecks"] =
        json!([{"podSetUpdates": [{"name": "worker", "nodeSelector": {"rack": "r1"}, "labels": {"l": "v"}}]}]);
    condition(&mut world, "Admitted", "True", "");
    world.plan();
    assert_eq!((world.pods.len(), gates(&world)), (2, 0));
    let pod = &world.pods["wine-worker-1"];
    let spec = pod.spec.as_ref().unwrap();
    let selector = spec.node_selector.as_ref().unwrap();
    assert_eq!((selector["pool"].as_str(), selector["rack"].as_str()), ("spot", "r1"));
    assert_eq!(spec.tolerations.as_ref().unwrap()[0].key.as_deref(), Some("spot"));
    assert_eq!(pod.metadata.labels.as_ref().unwrap()["l"], "v");
}

fn admitted(spec: &str) -> World {
    let mut world = training(&format!("scheduler: kueue, queue: team, {spec}"), cluster());
    world.plan();
    condition(&mut world, "Admitted", "True", "");
    world.plan();
    bind(&mut world);
    world.start_all();
    world.plan();
    assert_eq!(world.status("/phase"), json!("Running"));
    world
}

/// What the cluster's scheduler does.
fn bind(world: &mut World) {
    for pod in world.pods.values_mut() {
        pod.spec.as_mut().unwrap().node_name = Some("laptop".to_owned());
    }
}

#[test]
fn a_place_that_kueue_takes_back_costs_no_restart_and_is_asked_for_anew() {
    let mut world = admitted("backoffLimit: 0");
    condition(&mut world, "Evicted", "True", "preempted by another");
    world.plan();
    assert_eq!(world.live(), Vec::<&str>::new());
    assert!(world.events.contains(&"PlaceTakenBack".to_owned()));
    assert!(world.deputies["wine"].pointer("/metadata/deletionTimestamp").is_none(), "its pods hold the room still");
    world.pods.clear();
    world.plan();
    assert!(world.deputies["wine"].pointer("/metadata/deletionTimestamp").is_some());
    world.reap();
    world.plan();
    assert_eq!((world.deputies.len(), world.pods.len(), world.status("/phase")), (1, 0, json!("Pending")));
    condition(&mut world, "Admitted", "True", "");
    world.plan();
    bind(&mut world);
    world.start_all();
    world.plan();
    assert_eq!((world.status("/phase"), world.status("/restarts")), (json!("Running"), json!(0)));
}

#[test]
fn a_workload_that_is_switched_off_stops_the_job_until_it_is_on_again() {
    let mut world = admitted("");
    world.deputies.get_mut("wine").unwrap()["spec"]["active"] = json!(false);
    world.plan();
    assert_eq!(world.live(), Vec::<&str>::new());
    world.reap();
    world.plan();
    assert_eq!((world.deputies.len(), world.pods.len()), (1, 0), "nobody asks anew against his will");
    assert!(world.status("/message").as_str().unwrap().contains("inactive"));
}

#[test]
fn quota_is_given_back_by_a_job_that_is_suspended_resized_or_over() {
    for how in ["suspend", "resize", "end"] {
        let mut world = admitted("");
        match how {
            "suspend" => world.job.as_mut().unwrap()["spec"]["suspend"] = json!(true),
            "resize" => world.edit("/spec/replicas", json!(3)),
            _ => ["wine-worker-0", "wine-worker-1"].iter().for_each(|pod| world.succeed(pod)),
        }
        world.plan();
        if how != "suspend" {
            world.plan();
        }
        if how == "resize" {
            world.reap();
            world.plan();
        }
        let workload = &world.deputies["wine"];
        assert!(workload.pointer("/metadata/deletionTimestamp").is_some(), "{how}");
        world.reap();
        world.plan();
        assert_eq!(world.deputies.len(), usize::from(how == "resize"), "{how}");
    }
}

#[test]
fn a_pytorchjob_in_a_queue_of_kueue_is_left_to_kueues_own_controller() {
    let mut world = pytorch("labels: {kueue.x-k8s.io/queue-name: team}", "", cluster());
    world.plan();
    assert_eq!((world.pods.len(), gates(&world), world.deputies.len()), (2, 0, 0));
    // The Workload that Kueue makes of it is Kueue's: it stays, whether the job runs, is suspended, or has ended.
    let of_kueue =
        json!({"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload", "metadata": {"name": "pytorchjob-wine-1"}});
    world.deputies.insert("pytorchjob-wine-1".to_owned(), of_kueue.clone());
    let stays = |world: &mut World| {
        world.plan();
        world.reap();
        assert_eq!(world.deputies["pytorchjob-wine-1"], of_kueue);
    };
    stays(&mut world);
    world.job.as_mut().unwrap()["spec"]["runPolicy"] = json!({"suspend": true});
    stays(&mut world);
    world.job.as_mut().unwrap()["spec"]["runPolicy"] = json!({"suspend": false});
    stays(&mut world);
    bind(&mut world);
    world.start_all();
    for pod in ["wine-master-0", "wine-worker-0"] {
        world.succeed(pod);
    }
    stays(&mut world);
    assert!(world.conditions().contains(&"Succeeded".to_owned()), "{:?}", world.conditions());
}

#[test]
fn volcano_is_told_of_the_gang_and_of_what_it_needs() {
    let mut by_field = training("scheduler: volcano, queue: research", cluster());
    by_field.plan();
    let group = &by_field.deputies["wine"];
    assert_eq!(group["apiVersion"], json!("scheduling.volcano.sh/v1beta1"));
    let resources = json!({"cpu": "1000m", "memory": "2147483648"});
    assert_eq!(group["spec"], json!({"minMember": 2, "minResources": resources, "queue": "research"}));
    let by_template = pytorch("", "schedulerName: volcano,", cluster());
    let by_annotation = pytorch("annotations: {trainyard.dev/scheduler: volcano}", "", cluster());
    for mut world in [by_field, by_template, by_annotation] {
        world.plan();
        assert_eq!((world.deputies.len(), world.pods.len(), gates(&world)), (1, 2, 0));
        for pod in world.pods.values() {
            assert_eq!(pod.spec.as_ref().unwrap().scheduler_name.as_deref(), Some("volcano"));
            let annotations = pod.metadata.annotations.as_ref().unwrap();
            assert!(label::VOLCANO_GROUP.iter().all(|name| annotations[*name] == "wine"));
        }
    }
}

#[test]
fn a_group_of_volcano_follows_the_size_of_the_job() {
    let mut world = training("scheduler: volcano", cluster());
    world.plan();
    // What Volcano itself has put there stays.
    world.deputies.get_mut("wine").unwrap()["spec"]["minTaskMember"] = json!({"worker": 1});
    world.edit("/spec/replicas", json!(3));
    world.plan();
    let spec = &world.deputies["wine"]["spec"];
    assert_eq!((&spec["minMember"], &spec["minTaskMember"]), (&json!(3), &json!({"worker": 1})));
    world.job.as_mut().unwrap()["spec"]["suspend"] = json!(true);
    world.plan();
    assert!(world.deputies["wine"].pointer("/metadata/deletionTimestamp").is_some());
}

#[test]
fn a_scheduler_that_the_cluster_does_not_have_is_waited_for_with_a_word() {
    for (spec, name) in [("scheduler: kueue, queue: team", "Kueue"), ("scheduler: volcano", "Volcano")] {
        let mut world = training(spec, Config { gangs: true, ..Config::cluster() });
        world.plan();
        assert_eq!((world.pods.len(), world.codes.clone()), (0, vec!["WaitsForPlace".to_owned()]));
        assert!(world.status("/message").as_str().unwrap().contains(name));
    }
}

#[test]
fn on_one_machine_there_is_nobody_to_leave_a_job_to() {
    let mut world = training("scheduler: volcano", Config::embedded());
    world.plan();
    assert_eq!(gates(&world), 2);
    assert!(world.events.contains(&"FieldIgnored".to_owned()), "{:?}", world.events);
}

#[test]
fn words_that_nobody_knows_and_queues_that_nobody_names_are_told() {
    let wrong = |spec: &str| {
        let world = training(spec, cluster());
        manifest::lower(world.job.as_ref().unwrap(), &[], &world.config).unwrap_err()[0].to_string()
    };
    assert!(wrong("scheduler: slurm").contains("spec.scheduler"), "{}", wrong("scheduler: slurm"));
    assert!(wrong("scheduler: kueue").contains("spec.queue"));
}

#[test]
fn where_the_server_has_groups_of_its_own_pods_belong_to_one_behind_our_gate() {
    let mut config = cluster();
    config.peers.native = Some("scheduling.k8s.io/v1alpha2".to_owned());
    let mut world = training("", config.clone());
    let plan = world.plan();
    assert_eq!(world.deputies["wine-0"]["spec"], json!({"schedulingPolicy": {"gang": {"minCount": 2}}}));
    assert_eq!(gates(&world), 2);
    let bodies = plan.actions.iter().filter_map(|action| match action {
        Action::Create { object, body } if object.kind == "Pod" => Some(body),
        Action::Create { .. }
        | Action::Delete { .. }
        | Action::Patch { .. }
        | Action::PatchStatus { .. }
        | Action::Bind { .. }
        | Action::Event { .. } => None,
    });
    let groups: Vec<&Value> = bodies.map(|body| &body["spec"]["schedulingGroup"]["podGroupName"]).collect();
    assert_eq!(groups, [&json!("wine-0"), &json!("wine-0")]);
    // A gang of another size is another one.
    world.place();
    world.start_all();
    world.plan();
    world.edit("/spec/replicas", json!(3));
    for _ in 0..3 {
        world.plan();
        world.reap();
    }
    world.plan();
    assert_eq!(world.deputies.keys().collect::<Vec<_>>(), ["wine-1"]);
    assert_eq!(world.deputies["wine-1"]["spec"]["schedulingPolicy"]["gang"]["minCount"], json!(3));
    // Whoever leaves a job to somebody else leaves this, too.
    let mut other = training("scheduler: kubernetes", config);
    other.plan();
    assert!(other.deputies.is_empty());
}

/// Discovery as servers answer it: 1.34 has no groups, 1.36 and 1.37 have them where they are switched on.
#[test]
fn discovery_decides() {
    let served = |lists: &[(&str, &[&str])]| {
        let each = |(version, plurals): &(&str, &[&str])| {
            ((*version).to_owned(), plurals.iter().map(|plural| (*plural).to_owned()).collect())
        };
        Peers::of(&lists.iter().map(each).collect())
    };
    let classes: (&str, &[&str]) = ("scheduling.k8s.io/v1", &["priorityclasses"]);
    assert_eq!(served(&[classes]), Peers::default());
    let alpha: (&str, &[&str]) = ("scheduling.k8s.io/v1alpha2", &["podgroups", "podgroups/status", "workloads"]);
    assert_eq!(served(&[classes, alpha]).native.as_deref(), Some("scheduling.k8s.io/v1alpha2"));
    let beta: (&str, &[&str]) = ("scheduling.k8s.io/v1beta1", &["podgroups", "podgroups/status", "workloads"]);
    assert_eq!(served(&[beta, alpha]).native.as_deref(), Some("scheduling.k8s.io/v1beta1"));
    // 1.35 has another form, which is not used.
    assert_eq!(served(&[("scheduling.k8s.io/v1alpha1", &["workloads"])]), Peers::default());
    // A group of that name without the kind is none.
    assert_eq!(served(&[("scheduling.k8s.io/v1beta1", &["workloads"])]), Peers::default());
    let kueue: (&str, &[&str]) = ("kueue.x-k8s.io/v1beta1", &["workloads", "resourceflavors"]);
    assert_eq!(served(&[kueue]).kinds().len(), 2);
    // Queues are ours where nobody else is there to look after them; each kind in the best version that has it.
    let queues: (&str, &[&str]) = ("kueue.x-k8s.io/v1beta1", &["clusterqueues", "localqueues", "clusterqueues/status"]);
    let topologies: (&str, &[&str]) = ("kueue.x-k8s.io/v1alpha1", &["topologies"]);
    let ours = served(&[queues, topologies]);
    let versions: Vec<(&str, &str)> =
        ours.queues.iter().map(|(kind, version)| (kind.as_str(), version.as_str())).collect();
    let [beta, alpha] = ["kueue.x-k8s.io/v1beta1", "kueue.x-k8s.io/v1alpha1"];
    assert_eq!(versions, [("ClusterQueue", beta), ("LocalQueue", beta), ("Topology", alpha)]);
    assert_eq!(ours.kinds(), [], "nothing is left to Kueue");
    let workloads: (&str, &[&str]) = ("kueue.x-k8s.io/v1beta2", &["workloads"]);
    assert!(served(&[queues, workloads]).queues.is_empty(), "Kueue's queues are Kueue's");
    assert!(served(&[topologies]).queues.is_empty(), "there is no queue without these");
}

#[test]
fn where_the_queues_are_ours_kueues_label_names_one_of_them() {
    let mut config = cluster();
    config.peers.kueue = None;
    config.peers.queues.insert("ClusterQueue".to_owned(), "kueue.x-k8s.io/v1beta2".to_owned());
    let label = "labels: {kueue.x-k8s.io/queue-name: team}";
    let mut world = pytorch(label, "", config.clone());
    world.plan();
    assert_eq!((world.pods.len(), gates(&world), world.deputies.len()), (2, 2, 0));
    for pod in world.pods.values() {
        assert_eq!(pod.metadata.annotations.as_ref().unwrap()[label::QUEUE], "team");
    }
    // Who asks for Kueue outright waits for it.
    let mut asked = training("scheduler: kueue, queue: team", config);
    asked.plan();
    assert_eq!((asked.pods.len(), asked.codes.clone()), (0, vec!["WaitsForPlace".to_owned()]));
}
