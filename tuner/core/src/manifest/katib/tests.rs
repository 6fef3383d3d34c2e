//! Katib's manifests, read; the life of an experiment, in Katib's words.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use trainyard_proto::plan::{Action, Plan};

use super::view::{foreign, text};
use super::*;
use crate::control::{ExperimentView, Keep, Seen, Setup, TrialView, stored};
use crate::experiment::Experiment;
use crate::objective::{Goal, Objective, Take};
use crate::observation::Observation as Told;
use crate::sampler::Random;
use crate::search::Search;
use crate::space::{Domain, Parameter, Scale, Space};

fn parameter(name: &str, kind: &str, space: Json) -> Json {
    json!({"name": name, "parameterType": kind, "feasibleSpace": space})
}

/// An experiment with two parameters, as most manifests have it.
fn manifest() -> Json {
    let container = json!({
        "name": "training-container", "image": "example.com/mnist:1",
        "command": ["python3", "mnist.py", "--lr=${trialParameters.learningRate}", "--momentum=${trialParameters.momentum}"],
        "env": [{"name": "TRIAL", "value": "${trialParameters.trialName} {trial.name} {lr}"}],
    });
    json!({
        "apiVersion": API_VERSION, "kind": "Experiment",
        "metadata": {"name": "wine", "namespace": "n", "uid": "e-uid", "generation": 1},
        "spec": {
            "objective": {
                "type": "maximize", "goal": 0.99, "objectiveMetricName": "accuracy", "additionalMetricNames": ["loss"],
            },
            "algorithm": {"algorithmName": "random", "algorithmSettings": [{"name": "random_state", "value": "10"}]},
            "parallelTrialCount": 2, "maxTrialCount": 4, "maxFailedTrialCount": 1,
            "parameters": [
                parameter("lr", "double", json!({"min": "0.01", "max": "0.05"})),
                parameter("momentum", "double", json!({"min": "0.5", "max": "0.9"})),
            ],
            "trialTemplate": {
                "primaryContainerName": "training-container",
                "trialParameters": [
                    {"name": "learningRate", "description": "x", "reference": "lr"},
                    {"name": "momentum", "reference": "momentum"},
                    {"name": "trialName", "reference": "${trialSpec.Name}"},
                ],
                "trialSpec": {
                    "apiVersion": "batch/v1", "kind": "Job",
                    "spec": {"template": {"spec": {"containers": [container], "restartPolicy": "Never"}}},
                },
            },
        },
    })
}

fn lowered(change: impl FnOnce(&mut Json)) -> Result<Lowered, Vec<String>> {
    let mut object = manifest();
    change(&mut object["spec"]);
    lower(&object).map_err(|wrong| wrong.iter().map(ToString::to_string).collect())
}

fn wrong(change: impl FnOnce(&mut Json)) -> String {
    lowered(change).unwrap_err().join("\n")
}

fn spec(change: impl FnOnce(&mut Json)) -> Json {
    Json::Object(lowered(change).unwrap().spec)
}

#[test]
fn an_experiment_is_read_as_one_of_ours() {
    let read = lowered(|_| {}).unwrap();
    let expected = json!({
        "seed": 10,
        "objective": {"metric": "accuracy", "goal": "maximize", "take": "best", "target": 0.99},
        "parameters": {
            "lr": {"type": "float", "min": 0.01, "max": 0.05}, "momentum": {"type": "float", "min": 0.5, "max": 0.9},
        },
        "algorithm": {"name": "random"},
        "budget": {"parallel": 2, "failures": 1, "trials": 4},
    });
    assert_eq!(Json::Object(read.spec), expected);
    assert_eq!((read.keep, text(&read.job, "/kind")), (Keep::Nothing, "Job"));
    let latest = |spec: &mut Json| {
        spec["objective"]["metricStrategies"] = json!([{"name": "accuracy", "value": "latest"}]);
        spec["trialTemplate"]["retain"] = json!(true);
    };
    assert_eq!(lowered(latest).unwrap().keep, Keep::All);
    assert_eq!(spec(latest)["objective"]["take"], json!("last"));
    let unlimited = spec(|spec| {
        for name in ["maxTrialCount", "maxFailedTrialCount", "parallelTrialCount"] {
            spec.as_object_mut().unwrap().shift_remove(name);
        }
    });
    assert_eq!(unlimited["budget"], json!({"parallel": 3, "failures": i64::MAX}));
}

#[test]
fn parameters_mean_what_they_mean_in_katib() {
    let read = |kind: &str, space: Json| {
        spec(|spec| spec["parameters"][0] = parameter("lr", kind, space))["parameters"]["lr"].clone()
    };
    let table = [
        ("int", json!({"min": "1", "max": "9", "step": "2"}), json!({"type": "int", "min": 1, "max": 9, "step": 2})),
        (
            "double",
            json!({"min": "0", "max": "1", "distribution": "logUniform"}),
            json!({"type": "float", "min": 1e-10, "max": 1.0, "scale": "log"}),
        ),
        (
            "double",
            json!({"min": "0", "max": "6", "distribution": "normal"}),
            json!({"type": "float", "min": 0.0, "max": 6.0, "scale": "normal", "mean": 3.0, "sd": 1.0}),
        ),
        (
            "int",
            json!({"min": "1", "max": "1", "distribution": "logNormal"}),
            json!({"type": "int", "min": 1, "max": 1}),
        ),
        (
            "discrete",
            json!({"list": ["10", "2", "0.50", "2"]}),
            json!({"type": "ordinal", "choices": ["0.50", "2", "10"]}),
        ),
        ("categorical", json!({"list": ["sgd", "adam"]}), json!({"type": "categorical", "choices": ["sgd", "adam"]})),
        // As the Python client writes it.
        ("categorical", json!({"distribution": ["a", 2]}), json!({"type": "categorical", "choices": ["a", "2"]})),
    ];
    for (kind, space, expected) in table {
        assert_eq!(read(kind, space.clone()), expected, "{kind} {space}");
    }
}

#[test]
fn algorithms_and_their_settings_are_ours() {
    let read = |name: &str, settings: &[(&str, &str)]| {
        let settings: Vec<Json> = settings.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        spec(|spec| spec["algorithm"] = json!({"algorithmName": name, "algorithmSettings": settings}))["algorithm"]
            .clone()
    };
    assert_eq!(read("grid", &[]), json!({"name": "grid"}));
    assert_eq!(read("sobol", &[]), json!({"name": "sobol"}));
    let tpe = [("gamma", "0.25"), ("prior_weight", "1.0"), ("n_EI_candidates", "30"), ("random_state", "1")];
    let expected = json!({"name": "tpe", "gamma": 0.25, "prior_weight": 1.0, "candidates": 30.0});
    assert_eq!(read("tpe", &tpe), expected);
    let other = [("n_startup_trials", "5"), ("n_ei_candidates", "12")];
    assert_eq!(read("multivariate-tpe", &other), json!({"name": "tpe", "candidates": 12.0, "startup": 5}));
    let bayes = [("base_estimator", "GP"), ("n_initial_points", "7"), ("acq_func", "EI"), ("acq_optimizer", "auto")];
    assert_eq!(read("bayesianoptimization", &bayes), json!({"name": "gp", "startup": 7}));
    let pbt = [("suggestion_trial_dir", "/c/"), ("n_population", "40"), ("truncation_threshold", "0.2")];
    assert_eq!(read("pbt", &pbt), json!({"name": "pbt", "population": 40, "truncation": 0.2}));
    // A hundredth, of a range of four hundredths.
    let cmaes = [("sigma", "0.01"), ("restart_strategy", "bipop")];
    let read = read("cmaes", &cmaes);
    assert_eq!((&read["name"], &read["restart"]), (&json!("cmaes"), &json!("bipop")));
    assert!((read["sigma"].as_f64().unwrap() - 0.25).abs() < 1e-9, "{read}");
    let seed = |uid: &str| {
        let mut object = manifest();
        object["metadata"]["uid"] = json!(uid);
        object["spec"]["algorithm"]["algorithmSettings"] = json!([]);
        lower(&object).unwrap().spec["seed"].as_i64().unwrap()
    };
    assert!(seed("a") >= 0 && seed("a") == seed("a") && seed("a") != seed("b"), "as if by chance");
}

#[test]
fn trials_get_more_or_end_early() {
    let hyperband = json!([
        {"name": "r_l", "value": "10"}, {"name": "eta", "value": "3"}, {"name": "resource_name", "value": "momentum"},
    ]);
    let read = spec(|spec| spec["algorithm"] = json!({"algorithmName": "hyperband", "algorithmSettings": hyperband}));
    assert_eq!(read["algorithm"], json!({"name": "hyperband"}));
    assert_eq!(read["fidelity"], json!({"parameter": "momentum", "min": 1.0, "max": 10.0, "eta": 3.0}));
    assert_eq!(read["parameters"].as_object().unwrap().keys().collect::<Vec<_>>(), ["lr"]);
    let told = wrong(|spec| spec["algorithm"] = json!({"algorithmName": "hyperband"}));
    assert!(told.contains("hyperband needs resource_name"), "{told}");
    let read = spec(|spec| spec["earlyStopping"] = json!({"algorithmName": "medianstop"}));
    assert_eq!(read["stopping"], json!({"rule": "median", "trials": 3, "start": 4}));
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let told = wrong(|spec| spec["algorithm"]["algorithmName"] = json!("bayesian-optimization"));
    assert!(told.starts_with("spec.algorithm.algorithmName: expected one of random, grid, tpe"), "{told}");
    assert!(told.ends_with("(did you mean bayesianoptimization?)"), "{told}");
    let told = wrong(|spec| spec["algorithm"]["algorithmName"] = json!("pbt"));
    assert!(told.contains("pbt needs suggestion_trial_dir") && told.contains("pbt needs n_population"), "{told}");
    let setting = json!([{"name": "randomstate", "value": "1"}, {"name": "random_state", "value": "x"}]);
    let told = wrong(|spec| spec["algorithm"]["algorithmSettings"] = setting);
    assert!(told.contains("algorithmSettings[1].value: expected a number, 0 or more, for `random_state`, found \"x\""));
    assert!(
        told.contains("algorithmSettings[0].name: there is no setting `randomstate`; there are random_state (did you")
    );
    let space = json!({"min": "a", "max": "1.5"});
    let told = wrong(|spec| spec["parameters"][0] = parameter("lr", "int", space));
    assert!(told.contains("spec.parameters[0].feasibleSpace.min: expected a whole number in quotes, found \"a\""));
    assert!(told.contains("spec.parameters[0].feasibleSpace.max: expected a whole number in quotes, found \"1.5\""));
    let told = wrong(|spec| spec["parameters"][1]["parameterType"] = json!("Double"));
    assert!(told.starts_with("spec.parameters[1].parameterType: expected one of double, int"), "{told}");
    let told = wrong(|spec| spec["objective"]["type"] = json!("max"));
    assert_eq!(told, "spec.objective.type: expected one of minimize, maximize, found \"max\"");
    let told = wrong(|spec| spec["parallelTrialCount"] = json!(9));
    assert_eq!(told, "spec.parallelTrialCount: 9 at the same time are more than maxTrialCount, 4");
    let told = wrong(|spec| spec["metricsCollectorSpec"] = json!({"collector": {"kind": "PrometheusMetric"}}));
    assert!(told.starts_with("spec.metricsCollectorSpec.collector.kind: PrometheusMetric is not here yet"), "{told}");
    let format = json!({"source": {"filter": {"metricsFormat": ["(a"]}}});
    let told = wrong(|spec| spec["metricsCollectorSpec"] = format);
    assert!(told.starts_with("spec.metricsCollectorSpec.source.filter.metricsFormat[0]: it is no regular"), "{told}");
}

#[test]
fn what_is_wrong_with_a_template_is_told_with_its_place() {
    let template = |change: &dyn Fn(&mut Json)| wrong(|spec| change(&mut spec["trialTemplate"]));
    let told = template(&|template| template["trialParameters"][1]["name"] = json!("momentun"));
    assert!(told.contains("no trial parameter `momentum` for ${trialParameters.momentum} (did you mean momentun?)"));
    assert!(told.contains("trialParameters[1].name: `momentun` has no place"), "{told}");
    let told = template(&|template| template["trialParameters"][0]["reference"] = json!("ls"));
    assert!(told.contains("trialParameters[0].reference: there is no parameter `ls` (did you mean lr?)"), "{told}");
    assert!(told.contains("no trial parameter refers to the parameter `lr`"), "{told}");
    let told = template(&|template| template["trialParameters"][2]["reference"] = json!("${trialSpec.Uid}"));
    assert!(told.contains("there is no Uid of a job's metadata; there are Name, Namespace"), "{told}");
    let workflow = json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "spec": {}});
    let told = template(&|template| template["trialSpec"] = workflow.clone());
    assert!(told.contains("trialSpec.kind: Workflow of argoproj.io/v1alpha1 is run by Argo Workflows"), "{told}");
    assert!(told.contains("a trial runs one of Job of batch/v1") && told.contains("(give the trial a Job"), "{told}");
    let near = json!({"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJobs", "spec": {}});
    let told = template(&|template| template["trialSpec"] = near.clone());
    assert!(told.contains("found PyTorchJobs of kubeflow.org/v1 (did you mean PyTorchJob?)"), "{told}");
    let gang = json!({"apiVersion": "kubeflow.org/v1", "kind": "MPIJob", "spec": {}});
    let told = template(&|template| template["trialSpec"] = gang.clone());
    assert!(
        told.contains("trialSpec.kind: MPIJob of kubeflow.org/v1 is not run here yet; a trial runs one of Job"),
        "{told}"
    );
    let told = template(&|template| template["primaryContainerName"] = json!("training"));
    assert!(told.contains("primaryContainerName: there is no container `training`; there are training-container"));
    let told = template(&|template| template["successCondition"] = json!("status.conditions.#(type"));
    assert!(told.contains("successCondition: `#(` has no `)`"), "{told}");
}

#[test]
fn metrics_are_found_in_what_trials_write() {
    let collector = |spec: Json| {
        let mut object = manifest();
        object["spec"]["metricsCollectorSpec"] = spec;
        Collector::of(&object).unwrap()
    };
    let read = |collector: &Collector, line: &str| -> Vec<(String, String)> {
        collector.reader().read(line).into_iter().map(|told| (told.name, told.text)).collect()
    };
    let one = |name: &str, text: &str| vec![(name.to_owned(), text.to_owned())];
    let default = collector(json!({}));
    assert_eq!(default.names(), ["accuracy", "loss"]);
    let line = "2026-01-01T00:00:02.5Z INFO accuracy=0.93 loss = 1e-3 |x=";
    let told = default.reader().read(line);
    assert_eq!(told[0].at_ms, Some(1_767_225_602_500));
    assert_eq!(read(&default, line), [one("accuracy", "0.93"), one("loss", "1e-3")].concat());
    let own =
        json!({"source": {"filter": {"metricsFormat": [r"{metricName: ([\w|-]+), metricValue: ((-?\d+)(\.\d+)?)}"]}}});
    assert_eq!(read(&collector(own), "{metricName: accuracy, metricValue: 0.5}"), one("accuracy", "0.5"));
    let repeated = json!({"source": {"filter": {"metricsFormat": [r"\{(\w{2,}[{}]?)\} is (\d{1,3}\.\x{30})"]}}});
    assert_eq!(read(&collector(repeated), "{loss{} is 12.0"), one("loss{", "12.0"));
    let file = json!({"source": {"fileSystemPath": {"path": "/katib/m.log", "kind": "File", "format": "JSON"}},
        "collector": {"kind": "File"}});
    let file = collector(file);
    assert_eq!(file.source(), &Source::File("/katib/m.log".to_owned()));
    assert_eq!(read(&file, r#"{"accuracy": "1"}"#), [], "what is printed is not the file");
    let line = r#"[metrics] {"accuracy": "0.5", "loss": 2, "timestamp": 1767225602, "note": null}"#;
    assert_eq!(read(&file, line), [one("accuracy", "0.5"), one("loss", "2")].concat());
    assert_eq!(file.reader().read(line)[0].at_ms, Some(1_767_225_602_000));
    assert!(read(&collector(json!({"collector": {"kind": "Push"}})), "accuracy=1").is_empty());
    let custom = json!({"source": {"fileSystemPath": {"path": "/m.log"}}, "collector": {"kind": "Custom"}});
    let line = "[metrics] {metricName: accuracy, metricValue: 0.5};{metricName: loss, metricValue: 1e-2} epoch=3";
    let expected = [one("epoch", "3"), one("accuracy", "0.5"), one("loss", "1e-2")].concat();
    assert_eq!(read(&collector(custom), line), expected, "as it knows its program");
}

/// Objects, of which the planner sees what is viewed of them.
struct World {
    objects: BTreeMap<(String, String), Json>,
    seen: BTreeMap<String, Told>,
    search: Search,
    now_ms: i64,
}

fn objectives() -> Vec<Objective> {
    vec![Objective { name: "accuracy".to_owned(), goal: Goal::Maximize, target: Some(0.99), take: Take::Best }]
}

fn search() -> Search {
    let parameter = |name: &str, min: f64, max: f64| Parameter {
        name: name.to_owned(),
        domain: Domain::Float { min, max, scale: Scale::Linear, step: None },
        when: None,
    };
    let space = Space::new(vec![parameter("lr", 0.01, 0.05), parameter("momentum", 0.5, 0.9)], Vec::new()).unwrap();
    Search::new(Experiment::new(space, objectives(), 10, Box::new(Random)))
}

impl World {
    fn new(change: impl FnOnce(&mut Json)) -> Self {
        let mut object = manifest();
        change(&mut object["spec"]);
        let objects = BTreeMap::from([(("Experiment".to_owned(), "wine".to_owned()), object)]);
        Self { objects, seen: BTreeMap::new(), search: search(), now_ms: 1_000_000 }
    }

    fn get(&self, kind: &str, name: &str) -> Option<&Json> {
        self.objects.get(&(kind.to_owned(), name.to_owned()))
    }

    fn status(&self, kind: &str, name: &str) -> &Json {
        &self.get(kind, name).unwrap()["status"]
    }

    fn viewed(&self, kind: &str, name: &str) -> Json {
        let object = self.get(kind, name).unwrap();
        let view = if kind == "Trial" { view::trial } else { view::experiment };
        let foreign = json!({"spec": object["spec"], "status": object["status"]});
        let mut viewed = view(&object["metadata"], foreign);
        for field in ["apiVersion", "kind", "metadata"] {
            viewed[field] = object[field].clone();
        }
        viewed
    }

    fn trials(&self) -> Vec<String> {
        self.objects.keys().filter(|(kind, _)| kind == "Trial").map(|(_, name)| name.clone()).collect()
    }

    fn setup(&self) -> Setup {
        let budget = &self.viewed("Experiment", "wine")["spec"]["budget"];
        let budget = crate::budget::Budget {
            trials: budget["trials"].as_u64(),
            parallel: budget["parallel"].as_u64().unwrap(),
            failures: budget["failures"].as_u64(),
            seconds: None,
            confirm: None,
        };
        let job = json!({"apiVersion": "batch/v1", "kind": "Job"});
        Setup {
            objectives: objectives(),
            budget,
            job,
            keep: Keep::Nothing,
            stopping: None,
            checkpoints: String::new(),
            has_population: false,
            algorithm: "tpe".to_owned(),
        }
    }

    fn plans(&mut self) -> Vec<Plan> {
        let (object, setup) = (self.viewed("Experiment", "wine"), self.setup());
        let plan = crate::control::experiment(
            &ExperimentView { object: &object, setup: Ok(&setup) },
            Some(&mut self.search),
            &mut || true,
            self.now_ms,
        );
        let trials = self.trials();
        let shown: Vec<(u64, &str, Json)> = trials
            .iter()
            .map(|name| {
                (
                    self.viewed("Trial", name)["spec"]["number"].as_u64().unwrap(),
                    name.as_str(),
                    foreign(&self.viewed("Trial", name)),
                )
            })
            .collect();
        let shown: Vec<Shown<'_>> =
            shown.iter().map(|(number, name, foreign)| Shown { number: *number, name, foreign }).collect();
        let mut plans = vec![answer::experiment(&object, &shown, self.get("Suggestion", "wine"), plan, self.now_ms)];
        for name in &trials {
            let viewed = self.viewed("Trial", name);
            let own = view::setup(&setup, &viewed);
            let job = self.get("Job", name).map(|job| view::job(job, &viewed));
            let told = self.seen.get(name);
            let seen = told.map_or(Seen::Nothing, Seen::Whole);
            let (experiment, setup, job) = (Some(&object), Some(&own), job.as_ref());
            let view = TrialView { object: &viewed, experiment, setup, job, seen, refused: None, verdict: None };
            let plan = crate::control::trial(&view, self.now_ms);
            let collector = Collector::of(&object["foreign"]);
            let log = told.map(Told::log);
            plans.push(answer::trial(&viewed, Some(&object), job, collector.as_ref(), log, plan, self.now_ms));
        }
        plans
    }

    fn carry_out(&mut self, action: Action) {
        let key = (action.subject().kind.clone(), action.subject().name.clone());
        match action {
            Action::Create { mut body, .. } => {
                body["metadata"]["uid"] = json!(format!("{}-{}", key.0, key.1));
                self.objects.entry(key.clone()).or_insert(body);
            }
            Action::Delete { .. } => {
                self.objects.remove(&key);
            }
            Action::Patch { patch, .. } | Action::PatchStatus { patch, .. } => {
                merge(self.objects.get_mut(&key).unwrap(), &patch);
            }
            Action::Bind { .. } | Action::Event { .. } => unreachable!("the tuner has no such action"),
        }
        if key.0 == "Trial" {
            let (number, known) = stored(&self.viewed("Trial", &key.1), &objectives()).unwrap();
            self.search.observe(number, Some(known));
        }
    }

    /// Carries out what is planned until there is nothing more to do.
    fn settle(&mut self) {
        for _ in 0..100 {
            let actions: Vec<Action> = self.plans().into_iter().flat_map(|plan| plan.actions).collect();
            if actions.is_empty() {
                return;
            }
            actions.into_iter().for_each(|action| self.carry_out(action));
            self.now_ms += 1_000;
        }
        panic!("plans do not end");
    }

    /// The job of a trial ends, having told this; without it, it fails.
    fn end(&mut self, number: u64, told: Option<&str>) {
        let name = format!("wine-{number}");
        let kind = if told.is_some() { "Complete" } else { "Failed" };
        let job = self.objects.get_mut(&("Job".to_owned(), name.clone())).unwrap();
        job["status"] = json!({"conditions": [{"type": kind, "status": "True", "message": "exit code 1"}]});
        let collector = Collector::of(self.get("Experiment", "wine").unwrap()).unwrap();
        let (mut observation, mut reader) = (Told::new(1), collector.reader());
        for line in told.unwrap_or_default().lines() {
            observation.told(reader.read(line), collector.names(), &objectives(), self.now_ms);
        }
        self.seen.insert(name, observation);
        self.settle();
    }

    fn conditions(&self, kind: &str, name: &str) -> Vec<(String, String)> {
        let all = self.status(kind, name)["conditions"].as_array().unwrap().iter();
        all.map(|one| (text(one, "/type").to_owned(), text(one, "/status").to_owned())).collect()
    }
}

fn merge(value: &mut Json, patch: &Json) {
    let Json::Object(entries) = patch else { return *value = patch.clone() };
    if !value.is_object() {
        *value = json!({});
    }
    for (name, entry) in entries {
        if entry.is_null() {
            value.as_object_mut().unwrap().shift_remove(name);
        } else {
            merge(&mut value[name], entry);
        }
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
}

#[test]
fn an_experiment_lives_in_katibs_words() {
    let mut world = World::new(|_| {});
    world.settle();
    assert_eq!(world.conditions("Experiment", "wine"), pairs(&[("Created", "True"), ("Running", "True")]));
    assert_eq!(world.status("Experiment", "wine")["runningTrialList"], json!(["wine-0", "wine-1"]));
    let (trial, job) = (world.get("Trial", "wine-0").unwrap(), world.get("Job", "wine-0").unwrap());
    let lr = text(trial, "/spec/parameterAssignments/0/value").to_owned();
    assert!((0.01..=0.05).contains(&lr.parse::<f64>().unwrap()));
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["command"][2], json!(format!("--lr={lr}")));
    let env = json!([{"name": "TRIAL", "value": "wine-0 {trial.name} {lr}"}, {"name": "KATIB_TRIAL_NAME", "value": "wine-0"}]);
    assert_eq!(container["env"], env, "braces that are no places stay");
    let labels = json!({EXPERIMENT: "wine", TRIAL: "wine-0"});
    assert_eq!((&job["metadata"]["labels"], &job["spec"]["template"]["metadata"]["labels"]), (&labels, &labels));
    assert_eq!(text(job, "/metadata/ownerReferences/0/uid"), "Trial-wine-0");
    world.end(0, Some("accuracy=0.5 loss=0.9\naccuracy=0.7 loss=0.3\naccuracy=0.60 loss=0.4"));
    let status = world.status("Trial", "wine-0");
    let expected = pairs(&[("Created", "True"), ("Running", "False"), ("Succeeded", "True")]);
    assert_eq!(world.conditions("Trial", "wine-0"), expected);
    let metrics = json!([
        {"name": "accuracy", "min": "0.5", "max": "0.7", "latest": "0.60"},
        {"name": "loss", "min": "0.3", "max": "0.9", "latest": "0.4"},
    ]);
    assert_eq!(status["observation"]["metrics"], metrics);
    assert_eq!(world.get("Job", "wine-0"), None, "nothing is retained");
    let best = &world.status("Experiment", "wine")["currentOptimalTrial"];
    assert_eq!((text(best, "/bestTrialName"), &best["observation"]["metrics"]), ("wine-0", &metrics));
    assert_eq!(text(best, "/parameterAssignments/0/value"), lr);
    for number in 1..4 {
        world.end(number, Some("accuracy=0.1"));
    }
    let status = world.status("Experiment", "wine");
    let expected = pairs(&[("Created", "True"), ("Running", "False"), ("Succeeded", "True")]);
    assert_eq!(world.conditions("Experiment", "wine"), expected);
    assert_eq!(text(status, "/conditions/2/reason"), "ExperimentMaxTrialsReached");
    assert_eq!((&status["trials"], &status["trialsSucceeded"]), (&json!(4), &json!(4)));
    let suggestion = world.get("Suggestion", "wine").unwrap();
    assert_eq!((&suggestion["spec"]["requests"], &suggestion["status"]["suggestionCount"]), (&json!(4), &json!(4)));
    assert_eq!(text(suggestion, "/status/suggestions/0/name"), "wine-0");
    assert_eq!(text(suggestion, "/status/suggestions/0/parameterAssignments/0/value"), lr);
}

#[test]
fn the_goal_ends_an_experiment_and_kills_what_runs() {
    let mut world = World::new(|_| {});
    world.settle();
    world.end(0, Some("accuracy=0.995"));
    assert_eq!(text(world.status("Experiment", "wine"), "/conditions/2/reason"), "ExperimentGoalReached");
    let expected = pairs(&[("Created", "True"), ("Running", "False"), ("Killed", "True")]);
    assert_eq!(world.conditions("Trial", "wine-1"), expected);
    assert_eq!(world.status("Experiment", "wine")["killedTrialList"], json!(["wine-1"]));
}

#[test]
fn a_trial_without_metrics_counts_as_one_that_failed() {
    let mut world = World::new(|_| {});
    world.settle();
    world.end(0, Some("acuracy=0.5"));
    let expected = pairs(&[("Created", "True"), ("Running", "False"), ("MetricsUnavailable", "True")]);
    assert_eq!(world.conditions("Trial", "wine-0"), expected);
    let told = text(world.status("Trial", "wine-0"), "/conditions/2/message");
    assert_eq!(told, "it told no `accuracy` (did you mean `acuracy`?); it told `acuracy`");
    let status = world.status("Experiment", "wine");
    assert_eq!(
        (&status["trialMetricsUnavailable"], text(status, "/conditions/2/reason")),
        (&json!(1), "ExperimentFailed")
    );
    let mut world = World::new(|spec| spec["maxFailedTrialCount"] = json!(2));
    world.settle();
    world.end(0, None);
    let expected = pairs(&[("Created", "True"), ("Running", "False"), ("Failed", "True")]);
    assert_eq!(world.conditions("Trial", "wine-0"), expected);
    assert_eq!(text(world.status("Trial", "wine-0"), "/conditions/2/message"), "exit code 1");
    assert_eq!(world.trials().len(), 3, "it goes on");
}

#[test]
fn more_trials_resume_an_experiment_whose_policy_allows_it() {
    for (policy, goes_on) in [("Never", false), ("LongRunning", true), ("FromVolume", true)] {
        let mut world = World::new(|spec| {
            spec["resumePolicy"] = json!(policy);
            spec["maxTrialCount"] = json!(2);
        });
        world.settle();
        world.end(0, Some("accuracy=0.5"));
        world.end(1, Some("accuracy=0.6"));
        assert_eq!(text(world.status("Experiment", "wine"), "/conditions/2/type"), "Succeeded");
        let key = ("Experiment".to_owned(), "wine".to_owned());
        world.objects.get_mut(&key).unwrap()["spec"]["maxTrialCount"] = json!(3);
        world.settle();
        assert_eq!(world.trials().len(), if goes_on { 3 } else { 2 }, "{policy}");
        if goes_on {
            let expected = pairs(&[("Created", "True"), ("Restarting", "True"), ("Running", "True")]);
            assert_eq!(world.conditions("Experiment", "wine"), expected);
            world.end(2, Some("accuracy=0.1"));
            assert_eq!(text(world.status("Experiment", "wine"), "/conditions/3/type"), "Succeeded");
        }
    }
}

#[test]
fn a_file_of_metrics_is_shown_in_the_output_of_its_trial() {
    let file =
        json!({"source": {"fileSystemPath": {"path": "/katib/m.log", "kind": "File"}}, "collector": {"kind": "File"}});
    let mut world = World::new(|spec| spec["metricsCollectorSpec"] = file);
    world.settle();
    let pod = &world.get("Job", "wine-0").unwrap()["spec"]["template"];
    let container = &pod["spec"]["containers"][0];
    let command: Vec<&str> = container["command"].as_array().unwrap().iter().filter_map(Json::as_str).collect();
    assert_eq!((command[0], command[1], command[4], command[5]), ("sh", "-c", "/katib/m.log", "python3"));
    assert_eq!(container["volumeMounts"], json!([{"name": "metrics-volume", "mountPath": "/katib"}]));
    assert_eq!(pod["spec"]["volumes"], json!([{"name": "metrics-volume", "emptyDir": {}}]));
    assert_eq!(text(pod, "/metadata/annotations/trainyard.dev~1metrics-container"), "training-container");
}

#[test]
fn a_job_has_ended_when_its_trial_says_so() {
    let mut world = World::new(|spec| {
        spec["trialTemplate"]["successCondition"] = json!("status.[@this].#(phase==\"Done\")#");
        spec["trialTemplate"]["failureCondition"] = json!("status.[@this].#(phase==\"Gone\")#");
    });
    world.settle();
    world.end(0, Some("accuracy=0.5"));
    assert_eq!(State::of(world.get("Trial", "wine-0").unwrap()), State::Running, "Complete says nothing here");
    world.objects.get_mut(&("Job".to_owned(), "wine-0".to_owned())).unwrap()["status"]["phase"] = json!("Done");
    world.settle();
    assert_eq!(State::of(world.get("Trial", "wine-0").unwrap()), State::Succeeded);
}
