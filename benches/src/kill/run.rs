//! One training with one fault, or with many.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::contender::{Contender, Running, Setting};
use super::events::{Events, Reader};
use super::fault::Fault;
use super::{now, until};
use crate::Error;

/// What is awaited, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the first step to the fault: spares get ready meanwhile.
    pub settle: Duration,
    /// From the fault to the first all-reduce of the next generation; then a contender counts as not recovered.
    pub recovery: Duration,
    /// From the launcher's start to the first step.
    pub start: Duration,
}

/// What one run gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Seconds from the fault to the launcher's word of it.
    pub detection: Option<f64>,
    /// Seconds from the fault to the first all-reduce of the next generation; 0 where the ranks train on.
    pub recovery: Option<f64>,
    /// Seconds from the fault to the end of the first step of all ranks after it.
    pub step_again: Option<f64>,
    /// Steps that were done again.
    pub lost_steps: u64,
    /// Steps per second, from the first step to the last, as a share of what they take without a fault.
    pub goodput: Option<f64>,
    /// Whether all steps that were done had the loss that they have without a fault; unknown without any to compare with.
    pub same_loss: Option<bool>,
    /// What was not as it should be.
    pub trouble: Option<String>,
}

/// The losses and the rate of a run without a fault.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    /// Bits of the loss, by step.
    pub losses: BTreeMap<u64, String>,
    /// Steps per second.
    pub rate: f64,
}

/// Runs without a fault.
///
/// # Errors
/// When it does not reach its end.
pub fn reference(
    contender: Contender,
    setting: &Setting,
    folder: &Path,
    patience: Patience,
) -> Result<Reference, Error> {
    fs::create_dir_all(folder)?;
    let running = Running::start(contender, setting, folder)?;
    let mut log = Reader::new(folder, setting.ranks);
    let limit = patience.start + Duration::from_secs_f64(lasts(setting) * 4.0);
    let done = until(limit, || log.events().done(setting.ranks).then_some(()));
    let events = log.events();
    running.end(events);
    if done.is_none() {
        let why = format!("did {} of {} steps without any fault", events.step(), setting.steps);
        return Err(Error::Program { program: contender.words().to_owned(), why });
    }
    let rate = rate(events).unwrap_or_default();
    let changed =
        |step| Error::Program { program: "the training".to_owned(), why: format!("step {step} has two losses") };
    Ok(Reference { losses: events.losses().map_err(changed)?, rate })
}

/// Runs with one fault.
///
/// # Errors
/// When the training cannot be started.
pub fn one(
    (contender, fault): (Contender, Fault),
    setting: &Setting,
    folder: &Path,
    patience: Patience,
    reference: &Reference,
) -> Result<Outcome, Error> {
    fs::create_dir_all(folder)?;
    // To tell a slow rank from jitter takes half a minute.
    let steps = if fault == Fault::Slow { setting.steps * 2 } else { setting.steps };
    let setting = &Setting { steps, ..setting.clone() };
    let rank = setting.ranks - 1;
    if fault == Fault::NeverJoins {
        fs::write(folder.join("fault"), format!("never {rank}"))?;
    }
    let mut running = Running::start(contender, setting, folder)?;
    let mut log = Reader::new(folder, setting.ranks);
    let struck = begin(fault, setting, patience, &mut running, &mut log);
    let struck_at = struck.as_ref().ok().copied();
    let mut outcome = match struck {
        Ok(at) => recover(fault, at, setting, patience, &mut running, &mut log),
        Err(trouble) => Outcome { trouble: Some(trouble), ..Outcome::default() },
    };
    if outcome.recovery.is_some() {
        let rest = Duration::from_secs_f64(lasts(setting) * 4.0);
        let over = until(rest, || (log.events().done(setting.ranks) || running.ended().is_some()).then_some(()));
        if over.is_none() || !log.events().done(setting.ranks) {
            outcome.trouble = Some("recovered, but did not reach its end".to_owned());
        }
    }
    let events = log.events();
    if outcome.detection.is_none() {
        outcome.detection = struck_at.and_then(|at| Some(running.detected_after(at)? - at));
    }
    running.end(events);
    outcome.lost_steps = events.repeated();
    outcome.step_again =
        struck_at.and_then(|at| Some(events.step_after(events.joined_after(at, setting.ranks)?)? - at));
    outcome.goodput = rate(events).filter(|_| outcome.trouble.is_none()).map(|rate| rate / reference.rate);
    outcome.same_loss = same_loss(events, reference);
    Ok(outcome)
}

/// Waits for the training to be under way, and lets the fault happen. When it did.
fn begin(
    fault: Fault,
    setting: &Setting,
    patience: Patience,
    running: &mut Running,
    log: &mut Reader,
) -> Result<f64, String> {
    if fault == Fault::NeverJoins {
        return until(patience.start, || log.events().fault()).ok_or("no rank was started".to_owned());
    }
    until(patience.start, || (log.events().step() > 0).then_some(())).ok_or("no step was done")?;
    std::thread::sleep(patience.settle);
    let events = log.events();
    if events.done(setting.ranks) {
        return Err("the training was over before the fault; give more steps".to_owned());
    }
    let rank = setting.ranks - 1;
    let struck = fault.strike(rank, running, events).ok_or("there is nobody whom this could happen to")?;
    match fault {
        // The rank itself says when.
        Fault::Exit1 | Fault::Exit143 | Fault::Memory | Fault::Oom | Fault::Slow => {
            until(Duration::from_secs(10), || log.events().fault())
                .ok_or("the rank did not take up the fault".to_owned())
        }
        Fault::Sigkill | Fault::Sigsegv | Fault::Sigstop | Fault::Launcher | Fault::Agent | Fault::Coordinator => {
            Ok(struck)
        }
        Fault::NeverJoins => Ok(struck),
    }
}

/// Waits for the training to go on.
fn recover(
    fault: Fault,
    at: f64,
    setting: &Setting,
    patience: Patience,
    running: &mut Running,
    log: &mut Reader,
) -> Outcome {
    let mut outcome = Outcome::default();
    if fault.spares_the_ranks() {
        let before = log.events().step();
        let on = until(patience.recovery, || (log.events().step() > before + setting.checkpoint_every).then_some(()));
        outcome.recovery = on.map(|()| log.events().joined_after(at, setting.ranks).map_or(0.0, |joined| joined - at));
        outcome.detection = running.detected_after(at).map(|seen| seen - at);
        return outcome;
    }
    let mut exit = None;
    let joined = until(patience.recovery, || {
        let joined = log.events().joined_after(at, setting.ranks);
        if joined.is_none() {
            exit = running.ended();
        }
        joined.map(Some).or_else(|| exit.map(|_| None))
    });
    outcome.recovery = joined.flatten().map(|joined| joined - at);
    outcome.detection = running.detected_after(at).map(|seen| seen - at);
    if outcome.recovery.is_none() {
        let limit = patience.recovery.as_secs();
        outcome.trouble = Some(match exit {
            Some(_) if fault == Fault::Launcher => "nobody is left to start the ranks again".to_owned(),
            Some(code) => format!("ended with exit code {code}"),
            None => format!("not recovered within {limit} s"),
        });
    }
    outcome
}

/// What a series of kills gave.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Recovery of each kill that was recovered from.
    pub recoveries: Vec<f64>,
    /// How many kills there were.
    pub kills: usize,
    /// Steps that were done, each counted once.
    pub steps: u64,
    /// Steps that were done again.
    pub lost_steps: u64,
    /// From the first step to the last look.
    pub seconds: f64,
    /// Whether the losses are those of a run without a fault, as far as that one went.
    pub same_loss: Option<bool>,
    /// What ended the series early.
    pub trouble: Option<String>,
}

/// When the next kill is due.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many, each this long after the recovery from the one before.
    Count(usize, Duration),
    /// One in each such interval, for so long.
    Every(Duration, Duration),
}

/// Kills one rank after another, in turns.
///
/// # Errors
/// When the training cannot be started.
pub fn series(
    contender: Contender,
    setting: &Setting,
    folder: &Path,
    patience: Patience,
    (pace, reference): (Pace, &Reference),
) -> Result<Series, Error> {
    fs::create_dir_all(folder)?;
    let mut running = Running::start(contender, setting, folder)?;
    let mut log = Reader::new(folder, setting.ranks);
    let mut series = Series::default();
    if until(patience.start, || (log.events().step() > 0).then_some(())).is_none() {
        series.trouble = Some("no step was done".to_owned());
    }
    let began = std::time::Instant::now();
    std::thread::sleep(patience.settle + super::moment(0, between(setting)));
    while series.trouble.is_none() && is_due(pace, series.kills, began.elapsed()) {
        let rank = u32::try_from(series.kills).unwrap_or(0) % setting.ranks;
        let Some(at) = Fault::Sigkill.strike(rank, &mut running, log.events()) else {
            series.trouble = Some(format!("rank {rank} is not there"));
            break;
        };
        series.kills += 1;
        match until(patience.recovery, || log.events().joined_after(at, setting.ranks)) {
            Some(joined) => {
                series.recoveries.push(joined - at);
                // Training goes on, or there was no recovery; and a kill before the first step would be another fault.
                if until(patience.recovery, || log.events().step_after(joined)).is_none() {
                    series.trouble = Some(format!("no step was done after kill {}", series.kills));
                }
            }
            None => series.trouble = Some(format!("kill {} was not recovered from", series.kills)),
        }
        rest(pace, at, (series.kills, between(setting)));
    }
    let events = log.events();
    running.end(events);
    series.steps = events.step();
    series.lost_steps = events.repeated();
    let first = events.steps().next().map_or(0.0, |(at, _)| at);
    series.seconds = events.steps().last().map_or(0.0, |(at, _)| at - first);
    series.same_loss = same_loss(events, reference);
    Ok(series)
}

fn is_due(pace: Pace, kills: usize, elapsed: Duration) -> bool {
    match pace {
        Pace::Count(count, _) => kills < count,
        Pace::Every(_, whole) => elapsed < whole,
    }
}

/// Until the next kill, of which so many were before; and what lies between two checkpoints.
fn rest(pace: Pace, struck_at: f64, (kills, between): (usize, Duration)) {
    let next = super::moment(kills, between);
    let wait = match pace {
        Pace::Count(_, pause) => pause + next,
        Pace::Every(interval, _) => {
            let last = super::moment(kills.saturating_sub(1), between);
            (interval + next).saturating_sub(last + Duration::from_secs_f64((now() - struck_at).max(0.0)))
        }
    };
    std::thread::sleep(wait);
}

/// The least time from one checkpoint to the next.
#[must_use]
pub fn between(setting: &Setting) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let steps = setting.checkpoint_every as f64;
    Duration::from_secs_f64(steps * setting.step_ms / 1e3)
}

/// Seconds that the steps take without a fault, at the least.
fn lasts(setting: &Setting) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand steps")]
    let steps = setting.steps as f64;
    steps * setting.step_ms / 1e3 + 10.0
}

/// Steps per second between rank 0's first and last step, each step counted once.
fn rate(events: &Events) -> Option<f64> {
    let (first_at, first) = events.steps().next()?;
    let (last_at, _) = events.steps().last()?;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand steps")]
    let steps = (events.step() - first) as f64;
    (last_at > first_at).then(|| steps / (last_at - first_at))
}

fn same_loss(events: &Events, reference: &Reference) -> Option<bool> {
    if reference.losses.is_empty() {
        return None;
    }
    let Ok(losses) = events.losses() else { return Some(false) };
    let mut common = losses.iter().filter_map(|(step, bits)| Some((bits, reference.losses.get(step)?))).peekable();
    common.peek()?;
    Some(common.all(|(one, other)| one == other))
}

#[cfg(test)]
mod tests {
    use super::super::events::{Event, What};
    use super::*;

    fn step(at: f64, step: u64, bits: &str) -> Event {
        Event { at, rank: 0, pid: 1, what: What::Step(step, Some(bits.to_owned())) }
    }

    #[test]
    fn repeated_steps_count_once_and_must_have_the_same_loss() {
        let events = Events(vec![step(1.0, 1, "a"), step(2.0, 2, "b"), step(4.0, 2, "b"), step(5.0, 3, "c")]);
        assert_eq!(rate(&events), Some(0.5));
        let reference = |bits: &str| Reference { losses: [(2, bits.to_owned())].into(), rate: 1.0 };
        assert_eq!(same_loss(&events, &reference("b")), Some(true));
        assert_eq!(same_loss(&events, &reference("x")), Some(false));
        assert_eq!(same_loss(&events, &Reference::default()), None);
    }

    #[test]
    fn kills_are_due_by_number_or_by_time() {
        let second = Duration::from_secs(1);
        assert!(is_due(Pace::Count(2, second), 1, second * 100) && !is_due(Pace::Count(2, second), 2, second));
        assert!(is_due(Pace::Every(second, second * 9), 50, second) && !is_due(Pace::Every(second, second), 0, second));
    }
}
