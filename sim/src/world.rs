//! The world and its steps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use trainyard_proto::plan::{Action, Plan};
use trainyard_runtime_core::store::{Key, Object, Part, Resource};

use crate::agent::{Chance, Machine};
use crate::api::{Api, at};
use crate::control::{Fault, Process, Work, every_work};
use crate::estate::Estate;
use crate::invariant::{self, Memory};
use crate::workload::{self, object_ref};
use crate::{Failure, Options, Report};

/// When the worlds begin.
const EPOCH_MS: i64 = 1_710_000_000_000;

/// How long users let a Deployment whose pods can never run go on trying in the quiet part: long enough for a controller
/// that tries without end to be found out.
const UNCORRECTED_MS: i64 = 3_600_000;

/// The pod that an action binds, or lets go.
fn lets_go(action: &Action) -> Option<&str> {
    match action {
        Action::Bind { pod, .. } => Some(&pod.name),
        Action::Patch { object, patch, .. } if object.kind == "Pod" => {
            let gates = patch.pointer("/spec/schedulingGates");
            gates.is_some_and(Value::is_null).then_some(object.name.as_str())
        }
        Action::Patch { .. }
        | Action::Create { .. }
        | Action::Delete { .. }
        | Action::PatchStatus { .. }
        | Action::Event { .. } => None,
    }
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) seed: u64,
    options: Options,
    pub(crate) rng: ChaCha8Rng,
    /// Which manifests can never run.
    pub(crate) spoils: ChaCha8Rng,
    pub(crate) estate: Estate,
    pub(crate) now_ms: i64,
    pub(crate) api: Api,
    pub(crate) process: Process,
    pub(crate) machines: Vec<Machine>,
    pub(crate) report: Report,
    pub(crate) memory: Memory,
    trace: VecDeque<String>,
    pub(crate) calm: bool,
}

impl World {
    pub(crate) fn new(seed: u64, options: &Options) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut api = Api::new();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
        let made = api.create(EPOCH_MS, &object_ref("v1", "Namespace", "", "default"), namespace);
        made.expect("an empty store takes the first namespace");
        let mut machines = Vec::new();
        for index in 0..rng.random_range(1..=3) {
            let name = format!("node-{index}");
            let node = workload::node(&name, true);
            let status = json!({"status": node["status"]});
            let node = api
                .create(EPOCH_MS, &object_ref("v1", "Node", "", &name), node)
                .expect("an empty store takes the first nodes");
            let status = api.patch(EPOCH_MS, node.key(), &status, Part::Status);
            status.expect("a node that was just made takes its status");
            machines.push(Machine::new(name));
        }
        let mut estate = Estate::draw(seed, options.worlds);
        for (object, body) in estate.objects() {
            api.create(EPOCH_MS, &object, body).expect("an empty store takes the first queues");
        }
        let process = Process::start(&api, estate.is_cluster);
        Self {
            seed,
            options: options.clone(),
            rng,
            spoils: ChaCha8Rng::seed_from_u64(!seed),
            estate,
            now_ms: EPOCH_MS,
            api,
            process,
            machines,
            report: Report { seeds: 1, ..Report::default() },
            memory: Memory::default(),
            trace: VecDeque::new(),
            calm: false,
        }
    }

    pub(crate) fn run(mut self) -> Result<Report, Box<Failure>> {
        for _ in 0..self.options.rough_steps {
            self.rough_step();
            self.check()?;
            if self.process.is_idle(&self.api) {
                self.settled()?;
            }
        }
        self.calm_down();
        let mut quiet = 0;
        while self.quiet_step()? {
            quiet += 1;
            self.check()?;
            if quiet > self.options.quiet_steps {
                return Err(self.failure("L-1: the world never comes to rest".to_owned()));
            }
        }
        invariant::at_rest(&self).map_err(|broken| self.failure(broken))?;
        self.check_idempotence()?;
        let (succeeded, failed) = self.memory.verdicts();
        self.report.succeeded = succeeded;
        self.report.failed = failed;
        self.report.preempted = self.memory.evictions.total;
        Ok(self.report)
    }

    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        if self.options.trace_len == 0 {
            return;
        }
        if self.trace.len() >= self.options.trace_len {
            self.trace.pop_front();
        }
        let line = format!("{:>5} +{:>7} ms  {}", self.report.steps, self.now_ms - EPOCH_MS, what());
        self.trace.push_back(line);
    }

    pub(crate) fn failure(&self, invariant: String) -> Box<Failure> {
        Box::new(Failure {
            seed: self.seed,
            step: self.report.steps,
            invariant,
            trace: self.trace.iter().cloned().collect(),
            state: self.api.dump(),
        })
    }

    fn check(&mut self) -> Result<(), Box<Failure>> {
        self.report.steps += 1;
        let Self { memory, api, machines, .. } = self;
        invariant::after_step(memory, api, machines).map_err(|broken| self.failure(broken))
    }

    // ---- single moves; the rough and the quiet part choose among them ----

    pub(crate) fn deliver(&mut self, resource: &Resource) {
        self.process.deliver(&self.api, resource);
        self.say(|| format!("watch of {} delivers", resource.plural));
    }

    pub(crate) fn plan(&mut self, work: &Work) {
        let Some(plan) = self.process.plan(&self.options.cores, work, self.now_ms) else { return };
        self.report.plans += 1;
        let is_taken_back = |action: &&Action| matches!(action, Action::Event { reason, regarding, .. } if reason == "GangGivenBack" && regarding.kind != "Pod");
        self.report.taken_back += plan.actions.iter().filter(is_taken_back).count() as u64;
        if let Err(broken) = self.check_plan(work, &plan) {
            self.memory.broken.get_or_insert(broken);
        }
        self.say(|| format!("planned {work:?}: {} actions", plan.actions.len()));
    }

    /// G-1, on what was planned rather than on what became of it: whoever binds a gang binds enough of it.
    fn check_plan(&self, work: &Work, plan: &Plan) -> Result<(), String> {
        if *work != Work::Gangs {
            return Ok(());
        }
        let bound: BTreeSet<&str> = plan.actions.iter().filter_map(lets_go).collect();
        if bound.is_empty() {
            return Ok(());
        }
        invariant::whole_gangs(self.process.pods(), &bound)
    }

    pub(crate) fn act(&mut self, flight: usize, fault: Fault) {
        let roll = self.rng.random_range(0..64);
        let telling = self.options.trace_len > 0;
        let acted = self.process.act(&mut self.api, flight, roll, fault, self.now_ms, telling);
        self.report.actions += 1;
        self.report.pods += u64::from(acted.made_pod);
        self.say(|| if fault == Fault::None { acted.said } else { format!("{} ({fault:?})", acted.said) });
    }

    pub(crate) fn collect_garbage(&mut self) -> usize {
        let count = self.api.collect_garbage(self.now_ms);
        if count > 0 {
            self.say(|| format!("garbage collector: {count} writes"));
        }
        count
    }

    pub(crate) fn work_on_node(&mut self, index: usize, answer_lost: bool) -> bool {
        let Self { machines, api, rng, report, memory, calm, now_ms, estate, .. } = self;
        let machine = &mut machines[index];
        let mut duties = machine.duties(api, *now_ms);
        if duties.is_empty() {
            return false;
        }
        let duty = duties.swap_remove(rng.random_range(0..duties.len()));
        let most_run_ms = estate.most_run_ms();
        let mut chance = Chance { rng, calm: *calm, now_ms: *now_ms, answer_lost, most_run_ms };
        let done = machine.act(api, duty, &mut chance);
        report.processes += u64::from(done.started);
        if done.ended || done.refused.is_some() {
            memory.happened();
        }
        if let Some(pod) = done.refused {
            report.refused += 1;
            memory.refuse(&pod, *now_ms);
        }
        self.say(|| done.said);
        true
    }

    pub(crate) fn set_ready(&mut self, index: usize, ready: bool) {
        let key = Key::new(Resource::new("", "nodes"), "", self.machines[index].name.as_str());
        let status = if ready { "True" } else { "False" };
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        // Nodes are never deleted here.
        let _ = self.api.patch(self.now_ms, &key, &patch, Part::Status);
    }

    pub(crate) fn restart_coordinator(&mut self) {
        self.process = Process::start(&self.api, self.estate.is_cluster);
        self.say(|| "coordinator restarted".to_owned());
    }

    // ---- the quiet part ----

    /// Everything that broke is repaired, and users want their jobs to end.
    fn calm_down(&mut self) {
        self.calm = true;
        self.memory.quiet_since_ms = Some(self.now_ms);
        self.api.refuse_writes(0);
        self.estate.stuck.clear();
        self.memory.happened();
        self.open_queues();
        for index in 0..self.machines.len() {
            self.machines[index].alive = true;
            self.machines[index].calm_down();
            self.set_ready(index, true);
        }
        let suspended: Vec<(Key, Value)> = self
            .api
            .store
            .objects()
            .filter_map(|object| {
                let spec = object.value().get("spec")?;
                if spec.get("suspend") == Some(&json!(true)) {
                    Some((object.key().clone(), json!({"spec": {"suspend": false}})))
                } else if at(spec, &["runPolicy", "suspend"]) == Some(&json!(true)) {
                    Some((object.key().clone(), json!({"spec": {"runPolicy": {"suspend": false}}})))
                } else if spec.get("paused") == Some(&json!(true)) {
                    Some((object.key().clone(), json!({"spec": {"paused": null}})))
                } else {
                    None
                }
            })
            .collect();
        for (key, patch) in suspended {
            // Refused only where it is going anyway.
            let _ = self.api.patch(self.now_ms, &key, &patch, Part::Main);
        }
        self.say(|| "---- from here on nothing breaks ----".to_owned());
    }

    /// G-2. A gang that lacks pods may have been given the places of one that is being stopped, and these are not free yet.
    fn settled(&self) -> Result<(), Box<Failure>> {
        if invariant::makes_room(self.process.pods()) {
            return Ok(());
        }
        invariant::settled(self.kept_pods()).map_err(|broken| self.failure(broken))
    }

    /// Pods that nobody but their controllers will take away: whose owner is gone is the garbage collector's, whose turn may not have come.
    fn kept_pods(&self) -> impl Iterator<Item = &Pod> {
        let uids: BTreeSet<&str> = self.api.store.objects().map(|object| &**object.uid()).collect();
        let has_owner = move |pod: &&Pod| {
            let mut owners = pod.metadata.owner_references.iter().flatten();
            owners.all(|owner| uids.contains(owner.uid.as_str()))
        };
        self.process.pods().iter().filter(has_owner)
    }

    /// One move of the quiet part; `false` when there is none left.
    fn quiet_step(&mut self) -> Result<bool, Box<Failure>> {
        if let Some(resource) = self.process.lagging(&self.api).first().cloned() {
            self.deliver(&resource);
            return Ok(true);
        }
        if !self.process.flights.is_empty() {
            self.act(0, Fault::None);
            return Ok(true);
        }
        if let Some(work) = self.process.plannable().first().cloned() {
            self.plan(&work);
            return Ok(true);
        }
        if self.collect_garbage() > 0 {
            return Ok(true);
        }
        self.settled()?;
        if self.bind_one() {
            return Ok(true);
        }
        for index in 0..self.machines.len() {
            if self.work_on_node(index, false) {
                return Ok(true);
            }
        }
        Ok(self.sleep())
    }

    /// Nothing to do now: jump to when there is.
    fn sleep(&mut self) -> bool {
        let ends = self.machines.iter().filter_map(Machine::next_end);
        let useful = self.process.timers.iter().filter(|(work, _)| self.still_matters(work)).map(|(_, at)| *at);
        let next = ends.chain(useful).min();
        let until = self.memory.quiet_since_ms.map_or(self.now_ms, |since| since + UNCORRECTED_MS);
        if next.is_none_or(|at| at > until) && self.correct() {
            return true;
        }
        let Some(at) = next else { return false };
        self.now_ms = self.now_ms.max(at);
        self.process.ring(self.now_ms);
        self.say(|| "time passes".to_owned());
        true
    }

    /// Users mend the Deployments whose pods can never run; jobs of that kind have failed. Answers whether there were any.
    fn correct(&mut self) -> bool {
        let spoilt = |object: &&Arc<Object>| at(object.value(), &["spec", "template", "spec", "volumes"]).is_some();
        let keys: Vec<Key> =
            self.api.of_kind("apps/v1", "Deployment").filter(spoilt).map(|object| object.key().clone()).collect();
        for key in &keys {
            let patch = json!({"spec": {"template": {"spec": {"volumes": null}}}});
            // Refused only where it is going anyway.
            let _ = self.api.patch(self.now_ms, key, &patch, Part::Main);
            self.memory.happened();
            self.say(|| format!("user corrects {}", key.name));
        }
        !keys.is_empty()
    }

    /// A timer of an object that is gone wakes nobody.
    fn still_matters(&self, work: &Work) -> bool {
        match work {
            Work::Gangs => true,
            Work::Object { api_version, kind, namespace, name } => {
                let key = self.api.kinds.key(&object_ref(api_version, kind, namespace, name));
                key.is_some_and(|key| self.api.store.get(&key).is_some())
            }
        }
    }

    /// I-1: planning again changes nothing.
    fn check_idempotence(&self) -> Result<(), Box<Failure>> {
        for work in every_work(&self.api) {
            let Some(plan) = self.process.decide(&self.options.cores, &work, self.now_ms) else { continue };
            let real: Vec<&Action> =
                plan.actions.iter().filter(|action| !matches!(action, Action::Event { .. })).collect();
            if !real.is_empty() {
                return Err(self.failure(format!("I-1: planning {work:?} again gives {real:?}")));
            }
        }
        Ok(())
    }

    pub(crate) fn jobs(&self) -> BTreeMap<String, Key> {
        let kinds = crate::invariant::JOB_KINDS.iter().chain([&("apps/v1", "Deployment")]);
        let objects = kinds.flat_map(|(api_version, kind)| self.api.of_kind(api_version, kind));
        objects.map(|object| (object.key().name.to_string(), object.key().clone())).collect()
    }
}
