//! What a TrainingJob's status says of its launchers.

use trainyard_proto::trainyard::{LastFailure, SlowRank, SpareInterpreters, StalledRank, TrainingJobStatus};

use crate::job::{Meeting, Phase, StatusChange};
use crate::rendezvous;

/// Names of pods that are kept in a status: of a job with a thousand of them all may be missing.
const MAX_MISSING: usize = 64;

/// The fields that are about launchers; the others are empty.
pub(super) fn render(change: &StatusChange, present: &TrainingJobStatus) -> TrainingJobStatus {
    let over = match change.phase {
        Phase::Succeeded | Phase::Failed | Phase::Suspended => true,
        Phase::Pending | Phase::Starting | Phase::Running | Phase::Restarting => false,
    };
    let kept = TrainingJobStatus {
        generation: present.generation,
        last_failure: present.last_failure.clone(),
        missing: present.missing.clone().filter(|_| !over),
        stalled: present.stalled.clone().filter(|_| !over),
        stragglers: present.stragglers.clone().filter(|_| !over),
        spares: present.spares.clone().filter(|_| !over),
        ..TrainingJobStatus::default()
    };
    let Some(meeting) = &change.meeting else { return kept };
    let Meeting { generation, last_failure, lost_steps, missing, stalled, stragglers, spares } = meeting;
    TrainingJobStatus {
        generation: (*generation > 0).then(|| number(*generation)).or(kept.generation),
        last_failure: last_failure.as_ref().map(|last| failure(last, *lost_steps)).or(kept.last_failure),
        missing: (!over && !missing.is_empty()).then(|| missing.iter().take(MAX_MISSING).cloned().collect()),
        stalled: (!over && !stalled.is_empty()).then(|| stalled.iter().map(rank).collect()),
        stragglers: (!over && !stragglers.is_empty()).then(|| stragglers.iter().map(slow).collect()),
        spares: spares.filter(|_| !over).map(|spares| SpareInterpreters {
            count: Some(i64::from(spares.count)),
            memory_bytes: Some(number(spares.memory_bytes)),
        }),
        ..TrainingJobStatus::default()
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn failure(last: &rendezvous::LastFailure, lost_steps: Option<i64>) -> LastFailure {
    LastFailure {
        rank: last.rank.map(i64::from),
        pod: last.pod.clone(),
        host: last.host.clone(),
        cause: Some(last.cause.word().to_owned()),
        code: Some(last.code),
        message: Some(last.message.clone()),
        generation: Some(number(last.generation)),
        at_ms: Some(last.at_ms),
        recovered_ms: last.recovered_ms,
        lost_steps,
    }
}

fn rank(stalled: &rendezvous::Stalled) -> StalledRank {
    StalledRank {
        rank: Some(i64::from(stalled.rank)),
        host: Some(stalled.host.clone()),
        waits_in: Some(stalled.waits_in.clone()),
        since_ms: Some(stalled.since_ms),
        in_collective: Some(stalled.in_collective),
    }
}

fn slow(straggler: &rendezvous::Straggler) -> SlowRank {
    let rendezvous::Straggler { rank, host, slow } = straggler;
    SlowRank {
        rank: Some(i64::from(*rank)),
        host: Some(host.clone()),
        slowdown: Some(f64::from(slow.percent) / 100.0),
        since_ms: Some(slow.since_ms),
    }
}
