//! The watch over a real folder: what is named, what is removed, and what a stop waits for.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use trainyard_worker::checkpoint::{Newest, Settings, Watch, remove};

const PATIENCE: Duration = Duration::from_secs(20);

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn watch(folder: &Path, keep: Option<u32>) -> Watch {
    let every = Duration::from_millis(20);
    Watch::start(Settings { folder: folder.to_owned(), keep, every }).unwrap()
}

fn safetensors() -> Vec<u8> {
    let header = br#"{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
    [(header.len() as u64).to_le_bytes().as_slice(), header, b"1234"].concat()
}

/// Later than the one before, whatever the clock's grain.
fn write(path: &Path, seconds: u64) {
    fs::write(path, safetensors()).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(1000 - seconds)).unwrap();
}

#[test]
fn the_newest_whole_checkpoint_is_named() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("checkpoints");
    let watch = watch(&folder, None);
    until("it looks although nothing is there", || watch.looks() > 1);
    assert_eq!(watch.newest(), None);
    fs::create_dir(&folder).unwrap();
    write(&folder.join("step_10.safetensors"), 10);
    write(&folder.join("step_20.safetensors"), 20);
    fs::write(folder.join("step_30.safetensors"), &safetensors()[..40]).unwrap();
    until("the newest is seen", || watch.newest().is_some_and(|newest| newest.step == Some(20)));
    let Newest { path, bytes, .. } = watch.newest().unwrap();
    assert_eq!(Path::new(&path), folder.canonicalize().unwrap().join("step_20.safetensors"));
    assert_eq!(bytes, safetensors().len() as u64);
    fs::write(folder.join("step_30.safetensors"), safetensors()).unwrap();
    until("the torn one is finished", || watch.newest().is_some_and(|newest| newest.step == Some(30)));
}

#[test]
fn old_ones_are_removed_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("checkpoints");
    let elsewhere = home.path().join("elsewhere");
    fs::create_dir_all(folder.join("run")).unwrap();
    fs::create_dir_all(&elsewhere).unwrap();
    write(&elsewhere.join("step_1.safetensors"), 1);
    symlink(&elsewhere, folder.join("linked")).unwrap();
    symlink(elsewhere.join("step_1.safetensors"), folder.join("step_2.safetensors")).unwrap();
    for step in 1..=4 {
        write(&folder.join(format!("run/step_{step}.safetensors")), step);
    }
    write(&folder.join("best.safetensors"), 0);
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    fs::create_dir(folder.join(".trainyard-removing-step_0")).unwrap();
    fs::write(folder.join(".trainyard-removing-step_0/x.safetensors"), "half").unwrap();
    let _watch = watch(&folder, Some(2));
    let names = |folder: &Path| {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    until("two are left", || names(&folder.join("run")) == ["step_3.safetensors", "step_4.safetensors"]);
    until("what a removal left is gone", || {
        names(&folder) == ["best.safetensors", "linked", "notes.txt", "run", "step_2.safetensors"]
    });
    assert_eq!(names(&elsewhere), ["step_1.safetensors"]);
}

#[test]
fn nothing_is_removed_outside_of_the_folder_or_through_a_link() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().canonicalize().unwrap().join("checkpoints");
    fs::create_dir_all(home.path().join("other/step_1")).unwrap();
    fs::create_dir(&folder).unwrap();
    symlink(home.path().join("other"), folder.join("link")).unwrap();
    for path in ["../other/step_1", "link/step_1", "link", "", ".", "/other", "no/such"] {
        assert!(remove(&folder, path).is_err(), "{path}");
    }
    assert!(home.path().join("other/step_1").is_dir() && folder.join("link").exists());
    fs::create_dir_all(folder.join("a/step_1/deep")).unwrap();
    symlink(home.path().join("other"), folder.join("a/step_1/deep/link")).unwrap();
    remove(&folder, "a/step_1").unwrap();
    assert!(!folder.join("a/step_1").exists() && home.path().join("other/step_1").is_dir());
}

#[test]
fn a_stop_is_told_when_the_write_is_over() {
    let home = tempfile::tempdir().unwrap();
    let watch = watch(home.path(), None);
    // By a process of ours, as a rank is.
    let path = home.path().join("step_5.safetensors");
    let script = format!("exec 3>'{}'; read line; printf '%s' \"$line\" >&3; exec 3>&-; read line", path.display());
    let mut rank =
        std::process::Command::new("sh").args(["-c", &script]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    until("it is open", || path.exists());
    watch.hurry();
    assert!(watch.is_writing(), "until it has looked");
    let looks = watch.looks();
    until("it has looked again", || watch.looks() > looks + 2);
    assert!(watch.is_writing(), "open, and torn");
    fs::write(&path, safetensors()).unwrap();
    let looks = watch.looks();
    until("it has looked again", || watch.looks() > looks + 2);
    assert!(watch.is_writing(), "whole, but still open");
    let mut stdin = rank.stdin.take().unwrap();
    stdin.write_all(b"\n").unwrap();
    watch.hear();
    let mut line = [PollFd::new(watch.readable(), PollFlags::POLLIN)];
    if watch.is_writing() {
        assert_eq!(poll(&mut line, PollTimeout::try_from(PATIENCE).unwrap()), Ok(1), "the line tells of it");
    }
    until("it is over", || !watch.is_writing());
    drop(stdin);
    rank.wait().unwrap();
}

#[test]
fn what_was_written_last_is_seen_at_the_end() {
    let home = tempfile::tempdir().unwrap();
    // Nobody looks by himself once this has begun.
    let watch = Watch::start(Settings { folder: home.path().to_owned(), keep: None, every: PATIENCE * 100 }).unwrap();
    until("it has looked once", || watch.looks() == 1);
    fs::write(home.path().join("step_5.safetensors"), safetensors()).unwrap();
    let step = || watch.newest().and_then(|newest| newest.step);
    watch.look_again(PATIENCE, false);
    assert_eq!(step(), Some(5));
    // Another file might follow, until all who could write it have ended.
    fs::create_dir(home.path().join("step_9")).unwrap();
    fs::write(home.path().join("step_9/model.safetensors"), safetensors()).unwrap();
    watch.look_again(PATIENCE, false);
    assert_eq!(step(), Some(5));
    watch.look_again(PATIENCE, true);
    assert_eq!(step(), Some(9));
    watch.look_again(PATIENCE, false);
    assert_eq!(step(), Some(9));
    // And at once, for who does not wait.
    fs::write(home.path().join("step_10.safetensors"), safetensors()).unwrap();
    watch.wake();
    until("it looks at once", || step() == Some(10));
}
