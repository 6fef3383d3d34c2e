//! Whose line is it?

use serde_json::Value;

use crate::job::{self, PodRanks};

/// The one that a log line comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Label {
    /// A rank of the job.
    Rank(usize),
    /// A pod that is no single rank, by its short name.
    Named(String),
    /// There is only one, which needs no name.
    Only,
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rank(rank) => write!(f, "rank {rank}"),
            Self::Named(name) => f.write_str(name),
            Self::Only => f.write_str("rank 0"),
        }
    }
}

/// What the lines of one container have in common.
#[derive(Clone, Debug)]
pub(crate) struct Speaker {
    own: Label,
}

impl Speaker {
    /// The container of a pod of a job. `alone`: the job has one pod.
    pub(crate) fn new(pod: &Value, job: &str, container: &str, alone: bool) -> Self {
        let ranks = PodRanks::of(pod);
        let main = pod["spec"]["containers"][0]["name"].as_str() == Some(container);
        let short = job::short_pod_name(pod, job);
        let own = match (main, ranks.single(), alone) {
            (true, _, true) => Label::Only,
            (true, Some(rank), false) => Label::Rank(rank),
            (true, None, false) => Label::Named(short.to_owned()),
            (false, ..) => Label::Named(format!("{short}/{container}")),
        };
        Self { own }
    }

    /// Splits the launcher's `[rank 3] ` off, which tells the ranks of one pod apart.
    pub(crate) fn attribute<'a>(&self, line: &'a str) -> (Label, &'a str) {
        let rank = line.strip_prefix("[rank ").and_then(|rest| {
            let (number, text) = rest.split_once(']')?;
            // `[rank 3 gen 2]` after ranks were started again.
            let number = number.split_once(" gen ").map_or(number, |(number, _)| number);
            Some((number.parse().ok()?, text.strip_prefix(' ').unwrap_or(text)))
        });
        rank.map_or_else(|| (self.own.clone(), line), |(number, text)| (Label::Rank(number), text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_belong_to_the_rank_that_the_launcher_names_else_to_the_pod() {
        let env = json!([{"name": "PET_NODE_RANK", "value": "1"}, {"name": "PET_NPROC_PER_NODE", "value": "4"}]);
        let pod =
            json!({"metadata": {"name": "job-worker-1"}, "spec": {"containers": [{"name": "trainer", "env": env}]}});
        let many = Speaker::new(&pod, "job", "trainer", false);
        assert_eq!(many.attribute("[rank 6] loss=1"), (Label::Rank(6), "loss=1"));
        assert_eq!(many.attribute("[rank 6 gen 12] loss=1"), (Label::Rank(6), "loss=1"));
        assert_eq!(many.attribute("[rank x] loss=1"), (Label::Named("worker-1".to_owned()), "[rank x] loss=1"));
        assert_eq!(many.attribute("[rank 3]"), (Label::Rank(3), ""));
        let sidecar = Speaker::new(&pod, "job", "tensorboard", false);
        assert_eq!(sidecar.attribute("x").0, Label::Named("worker-1/tensorboard".to_owned()));
        let pod = json!({"spec": {"containers": [{"name": "c", "env": [{"name": "RANK", "value": "2"}]}]}});
        assert_eq!(Speaker::new(&pod, "job", "c", false).attribute("x").0, Label::Rank(2));
        assert_eq!(Speaker::new(&pod, "job", "c", true).attribute("x").0, Label::Only);
    }
}
