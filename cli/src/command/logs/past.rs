//! What a job has printed so far: by the pods that exist, and by those that are gone and whose logs are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use serde_json::Value;
use trainyard_worker::agent::{KeptPod, kept_pods};

use super::{Args, pods, wanted};
use crate::api::query;
use crate::error::CliError;
use crate::follow::label::{Label, Speaker};
use crate::follow::stream::{Delivered, Key, statuses};
use crate::session::{Place, Session};
use crate::target::Found;

/// A line with its time.
pub(super) struct Stamped {
    pub(super) time: String,
    pub(super) label: Label,
    pub(super) text: String,
}

/// Everything that was printed, by time.
#[derive(Default)]
pub(super) struct Past {
    pub(super) lines: Vec<Stamped>,
    /// How many lines each log had, of all ranks: following goes on behind them.
    pub(super) read: Delivered,
    /// Pods that were read, or would have been.
    pub(super) pods: usize,
    pub(super) problem: Option<CliError>,
}

impl Past {
    /// Reads it all, of the ranks and containers that were asked for.
    pub(super) async fn of(session: &Session, found: &Found, args: &Args) -> Result<Self, CliError> {
        let live = pods(session, found).await?;
        let kept = kept(session, found, &live, args.previous);
        // A pod that replaced another has its name.
        let names = live.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
        let alone = names.chain(kept.iter().filter_map(KeptPod::name)).collect::<BTreeSet<_>>().len() <= 1;
        let mut past = Self { pods: live.len() + kept.len(), ..Self::default() };
        for pod in &live {
            for status in statuses(pod) {
                let name = status["name"].as_str().unwrap_or_default();
                if args.container.as_ref().is_none_or(|only| only == name) {
                    past.read_container(session, found, pod, status, alone, args).await;
                }
            }
        }
        for pod in &kept {
            past.take_kept(found, pod, alone, args);
        }
        // Stable: lines of one container keep their order also where their times are equal.
        past.lines.sort_by(|a, b| a.time.cmp(&b.time));
        Ok(past)
    }

    /// The lines that `--tail` leaves.
    pub(super) fn tail(&self, tail: Option<usize>) -> &[Stamped] {
        let skip = tail.map_or(0, |tail| self.lines.len().saturating_sub(tail));
        &self.lines[skip..]
    }

    async fn read_container(
        &mut self,
        session: &Session,
        found: &Found,
        pod: &Value,
        status: &Value,
        alone: bool,
        args: &Args,
    ) {
        let container = status["name"].as_str().unwrap_or_default();
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}/log?timestamps=true&container={}{}",
            found.namespace(),
            pod["metadata"]["name"].as_str().unwrap_or_default(),
            query(container),
            if args.previous { "&previous=true" } else { "" }
        );
        let text = match session.api.text(&path).await {
            Ok(text) => text,
            Err(error) => {
                self.problem.get_or_insert(error.into());
                return;
            }
        };
        let speaker = Speaker::new(pod, found.name(), container, alone);
        self.read.insert(Key::of(pod, status), Arc::new(AtomicUsize::new(text.lines().count())));
        let lines = text.lines().map(|line| line.split_once(' ').unwrap_or((line, "")));
        self.lines.extend(lines.map(|(time, line)| stamped(&speaker, time, line)).filter(|line| line.is_wanted(args)));
    }

    fn take_kept(&mut self, found: &Found, kept: &KeptPod, alone: bool, args: &Args) {
        let Ok(pod) = serde_json::to_value(&kept.pod) else { return };
        // By its spec: whoever kept it may have seen the last of its status before it was known.
        for container in containers(&pod) {
            if args.container.as_ref().is_some_and(|only| only != container) {
                continue;
            }
            let speaker = Speaker::new(&pod, found.name(), container, alone);
            let lines = kept.lines(container, false);
            let lines = lines.iter().map(|(time, line)| stamped(&speaker, time, line));
            self.lines.extend(lines.filter(|line| line.is_wanted(args)));
        }
    }
}

fn containers(pod: &Value) -> impl Iterator<Item = &str> {
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| pod["spec"][list].as_array());
    lists.flatten().filter_map(|container| container["name"].as_str())
}

impl Stamped {
    fn is_wanted(&self, args: &Args) -> bool {
        wanted(&self.label, &args.rank)
    }
}

fn stamped(speaker: &Speaker, time: &str, line: &str) -> Stamped {
    let (label, text) = speaker.attribute(line);
    Stamped { time: time.to_owned(), label, text: text.to_owned() }
}

/// The kept pods that count: of each name the newest one that no living pod has taken the place of. With `previous`:
/// the newest one that has gone before the one that there is now.
fn kept(session: &Session, found: &Found, live: &[Value], previous: bool) -> Vec<KeptPod> {
    let (Place::Server { home } | Place::InProcess { home }) = &session.place else { return Vec::new() };
    choose(kept_pods(home, found.uid()), live, previous)
}

fn choose(mut kept: Vec<KeptPod>, live: &[Value], previous: bool) -> Vec<KeptPod> {
    let of_living =
        |field: &str| -> BTreeSet<&str> { live.iter().filter_map(|pod| pod["metadata"][field].as_str()).collect() };
    let (living, uids) = (of_living("name"), of_living("uid"));
    kept.retain(|kept| kept.pod.metadata.uid.as_deref().is_none_or(|uid| !uids.contains(uid)));
    kept.sort_by_key(|kept| std::cmp::Reverse(kept.pod.metadata.creation_timestamp.clone()));
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    kept.into_iter()
        .filter(|kept| {
            let name = kept.pod.metadata.name.clone().unwrap_or_default();
            let lives = living.contains(name.as_str());
            let place = seen.entry(name).or_default();
            *place += 1;
            // Of a name that lives, the newest kept one is the previous; else the second.
            match (previous, lives) {
                (false, false) | (true, true) => *place == 1,
                (true, false) => *place == 2,
                (false, true) => false,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_that_was_kept_before_its_status_was_known_has_its_containers() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {
            "initContainers": [{"name": "fetch"}], "containers": [{"name": "trainer"}, {"name": "sidecar"}]}});
        assert_eq!(containers(&pod).collect::<Vec<_>>(), ["fetch", "trainer", "sidecar"]);
    }
}
