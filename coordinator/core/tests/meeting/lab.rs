//! A job and its launchers, as far as the planner and the rendezvous see them.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_coordinator_core::job::Ledger;
use trainyard_coordinator_core::manifest;
use trainyard_coordinator_core::rendezvous::{
    Cause, Failure, Generation, Happened, Hello, Input, MemberId, Outcome, Output, Place, Pulse, Session, Standing,
};
use trainyard_coordinator_core::view::Config;

use crate::world::{World, phase};

/// A job, and its launchers: they join as soon as their pods run, and obey.
#[derive(Clone)]
pub(crate) struct Lab {
    pub(crate) world: World,
    pub(crate) session: Session,
    /// Launchers that do not join though their pods run.
    pub(crate) stuck: BTreeSet<String>,
    /// Pods, by UID, whose launchers have joined and obey no order any more.
    pub(crate) deaf: BTreeSet<String>,
    pub(crate) streams: BTreeMap<String, MemberId>,
    pub(crate) next: u64,
    pub(crate) seen: u64,
    pub(crate) happened: Vec<Happened>,
    pub(crate) released: Option<Outcome>,
    /// What pulses were answered with.
    pub(crate) ordered: Vec<Output>,
}

pub(crate) fn job(spec: &str) -> String {
    format!(
        "{{apiVersion: trainyard.dev/v1alpha1, kind: TrainingJob, metadata: {{name: wine, namespace: team, uid: job-uid}}, spec: {{command: [train], {spec}}}}}"
    )
}

impl Lab {
    pub(crate) fn new(spec: &str) -> Self {
        Self::of(&job(spec))
    }

    pub(crate) fn of(manifest: &str) -> Self {
        let world = World::new(manifest);
        Self::with(world, Config { rendezvous: Some("unix:/sock".to_owned()), ..Config::embedded() })
    }

    pub(crate) fn with(mut world: World, config: Config) -> Self {
        world.config = config;
        let session = Self::session(&world, 0);
        let mut lab = Self {
            world,
            session,
            stuck: BTreeSet::new(),
            deaf: BTreeSet::new(),
            streams: BTreeMap::new(),
            next: 0,
            seen: 0,
            happened: Vec::new(),
            released: None,
            ordered: Vec::new(),
        };
        lab.world.plan();
        lab.world.place();
        lab.world.start_all();
        lab
    }

    pub(crate) fn session(world: &World, recorded: u64) -> Session {
        let job = world.job.as_ref().unwrap();
        let config = manifest::lower(job, &[], &world.config).unwrap().rendezvous.unwrap();
        Session::new(config, Generation(recorded), Ledger::read(job).spent(), world.now_ms)
    }

    pub(crate) fn step(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut out = Vec::new();
            let happened = self.session.step(self.world.now_ms, input, &mut out);
            assert!(!happened.iter().any(|event| matches!(event, Happened::Broken(_))), "{happened:?}");
            self.happened.extend(happened);
            for output in out {
                match output {
                    Output::Reserve { to } => inputs.push(Input::Reserved { to }),
                    Output::Form { members, world } => {
                        let generation = world.generation;
                        self.seen = generation.0;
                        let port = u16::try_from(2000 + generation.0).unwrap();
                        let hears = |member: &MemberId| !self.deaf.contains(&member.pod);
                        for member in members.into_iter().filter(hears) {
                            inputs.push(Input::Holds { member: member.clone(), port, seen: generation });
                            inputs.push(Input::Ready { member, generation });
                        }
                    }
                    Output::Halt { .. } | Output::Deadlock { .. } | Output::Others { .. } => {}
                    Output::Release { outcome, .. } => self.released = Some(outcome),
                }
            }
        }
    }

    /// Tells the rendezvous what a launcher's ranks do; what it orders is kept until it is looked at.
    pub(crate) fn pulse(&mut self, member: &MemberId, pulse: Pulse) -> Vec<Happened> {
        self.session.pulse(self.world.now_ms, member, pulse, &mut self.ordered)
    }

    /// Tells the rendezvous what became of pods, and lets launchers join.
    pub(crate) fn meet(&mut self) {
        let known: Vec<String> = self.streams.keys().cloned().collect();
        for pod in known {
            let lives = self
                .world
                .pods
                .values()
                .any(|p| p.metadata.uid.as_deref() == Some(&pod) && !matches!(phase(p), "Failed" | "Succeeded"));
            if !lives {
                self.streams.remove(&pod);
                self.step(Input::PodGone { pod });
            }
        }
        let running: Vec<(String, u32)> = self
            .world
            .pods
            .iter()
            .filter(|(name, pod)| {
                phase(pod) == "Running" && pod.metadata.deletion_timestamp.is_none() && !self.stuck.contains(*name)
            })
            .map(|(name, pod)| (pod.metadata.uid.clone().unwrap(), name.rsplit_once('-').unwrap().1.parse().unwrap()))
            .collect();
        for (pod, index) in running {
            if self.streams.contains_key(&pod) {
                continue;
            }
            self.next += 1;
            let member = MemberId { pod: pod.clone(), incarnation: self.next };
            self.streams.insert(pod, member.clone());
            let hello = Hello {
                index: Some(index),
                address: format!("10.0.0.{index}"),
                port: 1000,
                ranks: 2,
                seen: Generation(0),
                ranks_are: Standing::Idle,
                host: format!("host-{index}"),
                place: Box::new(self.place(&member.pod)),
            };
            self.step(Input::Joined { member, stream: self.next, hello });
        }
        self.step(Input::Tick);
        self.world.meeting = Some(self.session.view());
    }

    /// What the API says of a pod.
    pub(crate) fn place(&self, uid: &str) -> Place {
        let pod = self.world.pods.values().find(|pod| pod.metadata.uid.as_deref() == Some(uid)).unwrap();
        Place { pod: pod.metadata.name.clone(), node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) }
    }

    /// Everything that can happen by itself, until nothing changes.
    pub(crate) fn run(&mut self) {
        for _ in 0..8 {
            self.meet();
            self.world.plan();
            self.world.reap();
            self.meet();
            self.world.plan();
            self.world.place();
            self.world.start_all();
        }
    }

    pub(crate) fn pass(&mut self, ms: i64) {
        self.world.now_ms += ms;
        self.meet();
        self.world.plan();
    }

    pub(crate) fn fail_rank(&mut self, pod: &str, cause: Cause, code: i32) {
        let uid = self.world.pods[pod].metadata.uid.clone().unwrap();
        let member = self.streams[&uid].clone();
        let generation = Generation(self.session.view().generation);
        let failure =
            Failure { rank: Some(1), cause, code, message: "ValueError: no such file".to_owned(), secondary: false };
        self.step(Input::Failed { member, generation, failure });
        self.world.meeting = Some(self.session.view());
    }

    pub(crate) fn uids(&self) -> Vec<(String, String)> {
        let pods = self.world.pods.iter();
        pods.map(|(name, pod)| (name.clone(), pod.metadata.uid.clone().unwrap())).collect()
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.world.status("/restarts").as_u64().unwrap()
    }
}
