//! What the ranks wrote down, read back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// What a rank said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Its process began to run the program.
    Start,
    /// torch was imported.
    Imported,
    /// The first all-reduce of its generation is behind it.
    Joined,
    /// The step of the checkpoint that it goes on from.
    Resumed(u64),
    /// A step is done; rank 0 adds the bits of the loss.
    Step(u64, Option<String>),
    /// The fault that was asked for is about to happen.
    Fault,
    /// The training is over.
    Done,
}

/// One line of a rank's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Seconds since the epoch.
    pub at: f64,
    /// Which rank.
    pub rank: u32,
    /// Its process.
    pub pid: u32,
    /// What happened.
    pub what: What,
}

/// All events of a run, by time.
#[derive(Clone, Debug, Default)]
pub struct Events(pub Vec<Event>);

/// Reads the events of a run while it goes on. What was read is not read again: looking must cost next to nothing, or it is
/// measured, too.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    /// How far each rank's log was read.
    read: Vec<u64>,
    events: Events,
}

impl Reader {
    /// For the logs of so many ranks.
    #[must_use]
    pub fn new(folder: &Path, ranks: u32) -> Self {
        Self { folder: folder.to_owned(), read: vec![0; ranks as usize], events: Events::default() }
    }

    /// All that is there now. A line that is being written is left for later.
    pub fn events(&mut self) -> &Events {
        let mut news = Vec::new();
        for (rank, read) in (0_u32..).zip(&mut self.read) {
            let more = rest(&self.folder.join(format!("rank-{rank}.log")), *read).unwrap_or_default();
            let whole = more.rfind('\n').map_or("", |end| &more[..=end]);
            *read += whole.len() as u64;
            news.extend(whole.lines().filter_map(|line| parse(rank, line)));
        }
        if !news.is_empty() {
            self.events.0.extend(news);
            self.events.0.sort_by(|one, other| one.at.total_cmp(&other.at));
        }
        &self.events
    }
}

/// What a file has from there on.
fn rest(path: &Path, from: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

impl Events {
    /// The last process of a rank that began.
    #[must_use]
    pub fn pid(&self, rank: u32) -> Option<u32> {
        self.0.iter().rev().find(|event| event.rank == rank && event.what == What::Start).map(|event| event.pid)
    }

    /// When each rank had its first all-reduce after `since`, if all have: the time of the last one.
    #[must_use]
    pub fn joined_after(&self, since: f64, ranks: u32) -> Option<f64> {
        let mut first: BTreeMap<u32, f64> = BTreeMap::new();
        for event in self.0.iter().filter(|event| event.at > since && event.what == What::Joined) {
            first.entry(event.rank).or_insert(event.at);
        }
        (first.len() == ranks as usize).then(|| first.values().copied().fold(0.0, f64::max))
    }

    /// When rank 0 was through with its first step after `since`.
    #[must_use]
    pub fn step_after(&self, since: f64) -> Option<f64> {
        self.steps().map(|(at, _)| at).find(|at| *at > since)
    }

    /// The highest step that rank 0 has done.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.steps().map(|(_, step)| step).max().unwrap_or(0)
    }

    /// When rank 0 did which step, repeated ones included.
    pub fn steps(&self) -> impl Iterator<Item = (f64, u64)> {
        self.0.iter().filter(|event| event.rank == 0).filter_map(|event| match event.what {
            What::Step(step, _) => Some((event.at, step)),
            What::Start | What::Imported | What::Joined | What::Resumed(_) | What::Fault | What::Done => None,
        })
    }

    /// Steps that were done again.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        let mut seen = std::collections::BTreeSet::new();
        let repeated = self.steps().filter(|(_, step)| !seen.insert(*step)).count();
        repeated as u64
    }

    /// The loss's bits by step; an error if a repeated step gave another loss.
    ///
    /// # Errors
    /// The step whose loss changed.
    pub fn losses(&self) -> Result<BTreeMap<u64, String>, u64> {
        let mut losses = BTreeMap::new();
        for event in &self.0 {
            if let What::Step(step, Some(bits)) = &event.what
                && losses.insert(*step, bits.clone()).is_some_and(|before| before != *bits)
            {
                return Err(*step);
            }
        }
        Ok(losses)
    }

    /// Whether all ranks are through.
    #[must_use]
    pub fn done(&self, ranks: u32) -> bool {
        (0..ranks).all(|rank| self.0.iter().any(|event| event.rank == rank && event.what == What::Done))
    }

    /// When a fault from inside began.
    #[must_use]
    pub fn fault(&self) -> Option<f64> {
        self.0.iter().find(|event| event.what == What::Fault).map(|event| event.at)
    }
}

fn parse(rank: u32, line: &str) -> Option<Event> {
    let mut words = line.split_whitespace();
    let at = words.next()?.parse().ok()?;
    let _generation = words.next()?;
    let pid = words.next()?.parse().ok()?;
    let event = words.next()?;
    let step = words.next().and_then(|word| word.parse().ok());
    let what = match event {
        "start" => What::Start,
        "imported" => What::Imported,
        "joined" => What::Joined,
        "resumed" => What::Resumed(step?),
        "step" => What::Step(step?, words.next().map(str::to_owned)),
        "fault" => What::Fault,
        "done" => What::Done,
        _ => return None,
    };
    Some(Event { at, rank, pid, what })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_restart_shows_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let zero = "1 0 10 start\n2 0 10 joined\n3 0 10 step 1 aa\n4 0 10 step 2 bb\n6 1 20 start\n7 1 20 joined\n\
                    8 1 20 resumed 1\n9 1 20 step 2 bb\n10 1 20 ste";
        fs::write(folder.path().join("rank-0.log"), zero).unwrap();
        fs::write(folder.path().join("rank-1.log"), "1 0 11 start\n2 0 11 joined\n6 1 21 start\n7.5 1 21 joined\n")
            .unwrap();
        let mut reader = Reader::new(folder.path(), 2);
        let events = reader.events();
        assert_eq!((events.step(), events.repeated(), events.pid(1)), (2, 1, Some(21)));
        assert_eq!((events.joined_after(5.0, 2), events.joined_after(7.2, 2)), (Some(7.5), None));
        assert_eq!(events.losses().unwrap().len(), 2);
        // The line that was being written is whole now.
        fs::write(folder.path().join("rank-0.log"), format!("{zero}p 3 cc\n11 1 20 step 3 cd\n")).unwrap();
        assert_eq!((reader.events().step(), reader.events().losses()), (3, Err(3)));
    }
}
