//! Checkpoints as the real libraries wrote them: each state that their folder was in meanwhile, and the last.
//!
//! Recorded with tests/checkpoints/record.py.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use serde::Deserialize;
use trainyard_worker_core::checkpoint::{Checkpoint, File, LONG_SETTLED_MS, Layout, Listing, Peek, Peeks};
use trainyard_worker_core::checkpoint::{is_writing, newest, recognise, wants};

struct Recording {
    states: Vec<State>,
    contents: BTreeMap<String, Ends>,
}

#[derive(Deserialize)]
struct Written {
    states: Vec<Change>,
    contents: BTreeMap<String, Ends>,
}

/// Size, and when it was changed.
type Files = BTreeMap<String, (u64, i64)>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    at_ms: i64,
    changed: Files,
    gone: Vec<String>,
}

struct State {
    at_ms: i64,
    files: Files,
}

#[derive(Deserialize)]
struct Ends {
    head: String,
    tail: String,
}

impl Recording {
    fn read(text: &str) -> Self {
        let Written { states, contents } = serde_json::from_str(text).unwrap();
        let mut files = Files::new();
        let states = states.into_iter().map(|Change { at_ms, changed, gone }| {
            files.retain(|path, _| !gone.contains(path));
            files.extend(changed);
            State { at_ms, files: files.clone() }
        });
        Self { states: states.collect(), contents }
    }

    fn last(&self) -> &State {
        self.states.last().unwrap()
    }

    /// A file under a name that it has only for a while is known by its last one.
    fn ends(&self, path: &str, bytes: u64) -> Peek {
        let known = self.contents.get(path).zip(self.last().files.get(path));
        let Some((ends, (whole, _))) = known else { return Peek::default() };
        let mut head = unhex(&ends.head);
        head.truncate(usize::try_from(bytes).unwrap());
        // The end of a file that was not whole yet was in its middle: anything but the end that it has now.
        let tail = if bytes == *whole { unhex(&ends.tail) } else { Vec::new() };
        Peek { head, tail }
    }

    fn recognise(&self, state: &State, now_ms: i64) -> Vec<Checkpoint> {
        let file = |(path, (bytes, modified_ms)): (&String, &(u64, i64))| {
            (path.clone(), File { bytes: *bytes, modified_ms: *modified_ms, open: false })
        };
        let listing: Listing = state.files.iter().map(file).collect();
        let mut peeks = Peeks::new();
        for _ in 0..4 {
            for want in wants(&listing, &peeks) {
                let ends = self.ends(&want.path, listing[&want.path].bytes);
                peeks.insert(want.path, ends);
            }
        }
        recognise(&listing, &peeks, now_ms)
    }

    /// The steps of the newest whole checkpoint, state by state, each looked at when it was new.
    fn newest_steps(&self) -> Vec<Option<u64>> {
        let step = |state: &State| newest(&self.recognise(state, state.at_ms))?.step;
        let mut steps: Vec<Option<u64>> = self.states.iter().map(step).collect();
        steps.dedup();
        steps
    }

    /// The whole ones in the end, when all has settled.
    fn told(&self) -> Vec<(String, Layout, Option<u64>)> {
        let found = self.recognise(self.last(), self.last().at_ms + LONG_SETTLED_MS);
        found.into_iter().filter(Checkpoint::is_whole).map(|found| (found.path, found.layout, found.step)).collect()
    }
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn orbax() {
    let recording = Recording::read(include_str!("checkpoints/orbax.json"));
    let whole = |step: u64| (step.to_string(), Layout::Orbax, Some(step));
    assert_eq!(recording.told(), [whole(100), whole(200)]);
    assert_eq!(recording.newest_steps(), [None, Some(100), Some(200)], "none while it has its name for writing");
    let writes = |state: &State| is_writing(&recording.recognise(state, state.at_ms), state.at_ms);
    let unnamed = |state: &&State| state.files.keys().any(|path| path.contains(".orbax-checkpoint-tmp"));
    assert!(recording.states.iter().filter(unnamed).all(writes));
    assert!(!writes(recording.last()));
}

#[test]
fn hugging_faces_trainer() {
    let recording = Recording::read(include_str!("checkpoints/trainer.json"));
    let whole = |step: u64| (format!("checkpoint-{step}"), Layout::Trainer, Some(step));
    assert_eq!(recording.told(), [whole(10), whole(5)]);
    assert_eq!(recording.newest_steps(), [None, Some(5)], "the second has not settled at the end");
    let writes = |state: &&State| is_writing(&recording.recognise(state, state.at_ms), state.at_ms);
    let quiet: Vec<usize> = recording.states.iter().map(|state| usize::from(writes(&state))).collect();
    assert_eq!(quiet[0], 0);
    assert!(quiet[1..].iter().all(|writing| *writing == 1), "{quiet:?}");
}

#[test]
fn the_old_form_of_torch_save_is_whole_at_its_last_byte() {
    let recording = Recording::read(include_str!("checkpoints/legacy.json"));
    assert_eq!(recording.told(), [("step_30.pt".to_owned(), Layout::Torch, Some(30))]);
    let now_ms = recording.last().at_ms;
    let found = recording.recognise(recording.last(), now_ms);
    assert_eq!(found[0].unfit, None, "at once: nothing has to settle");
    let whole = unhex(&recording.contents["step_30.pt"].head);
    for cut in 0..whole.len() {
        let listing =
            Listing::from([("step_30.pt".to_owned(), File { bytes: cut as u64, modified_ms: 0, open: false })]);
        let head = whole[..cut].to_vec();
        let tail = whole[..cut].iter().rev().take(128).rev().copied().collect();
        let peeks = Peeks::from([("step_30.pt".to_owned(), Peek { head, tail })]);
        assert_eq!(wants(&listing, &peeks), []);
        assert_eq!(newest(&recognise(&listing, &peeks, now_ms)), None, "cut off after {cut} of {} bytes", whole.len());
    }
}

#[test]
fn lightning() {
    let recording = Recording::read(include_str!("checkpoints/lightning.json"));
    let file = |name: &str, step| (name.to_owned(), Layout::Torch, step);
    let whole = [file("epoch=0-step=10.ckpt", Some(10)), file("epoch=0-step=5.ckpt", Some(5)), file("last.ckpt", None)];
    assert_eq!(recording.told(), whole);
    assert_eq!(recording.newest_steps(), [None, Some(5), Some(10)], "the copy does not hide it");
}
