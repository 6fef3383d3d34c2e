//! `trainyard tune ask-tell` as a program sees it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

const SPACE: &str = "\
objective = {metric = 'loss', goal = 'minimize'}
seed = 3
[parameters]
x = {type = 'float', min = -2, max = 2}
kind = {type = 'categorical', choices = ['a', 'b']}
y = {type = 'float', min = 1e-3, max = 1, scale = 'log', when = \"kind == 'b'\"}
";

struct Talk {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Talk {
    fn start(file: &std::path::Path, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard"));
        command.args(["tune", "ask-tell"]).arg(file).args(more);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { input: child.stdin.take(), child, output }
    }

    fn say(&mut self, line: &Value) {
        writeln!(self.input.as_mut().expect("open"), "{line}").expect("it listens");
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// The losses of so many trials, one after the other.
    fn losses(&mut self, trials: usize) -> Vec<f64> {
        let one = |_| {
            self.say(&serde_json::json!({"ask": 1}));
            let trial = self.hear()["trials"][0].clone();
            let x = trial["params"]["x"].as_f64().expect("a number");
            let y = trial["params"]["y"].as_f64();
            assert_eq!(y.is_some(), trial["params"]["kind"] == "b", "{trial}");
            let loss = (x - 1.0).powi(2) + y.map_or(0.5, |y| (y.log10() + 2.0).powi(2));
            self.say(&serde_json::json!({"tell": {"id": trial["id"], "values": [loss]}}));
            loss
        };
        (0..trials).map(one).collect()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

#[test]
fn a_program_searches_and_the_same_seed_finds_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("space.toml");
    std::fs::write(&file, SPACE).expect("written");
    let (mut one, mut other) = (Talk::start(&file, &[]), Talk::start(&file, &["--seed", "3"]));
    let losses = one.losses(80);
    assert_eq!(losses, other.losses(80));
    assert_ne!(losses[..5], Talk::start(&file, &["--seed", "4"]).losses(5));
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(best < 0.1, "{best}");
    one.say(&serde_json::json!({"best": true}));
    assert_eq!(one.hear()["trials"][0]["values"][0].as_f64(), Some(best));
    drop(one.input.take());
    assert!(one.child.wait().expect("it ends").success(), "it ends well when nothing more comes");
}

#[test]
fn a_file_that_is_wrong_is_told_by_line_and_column() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("space.toml");
    std::fs::write(&file, SPACE.replace("max = 2", "maxx = 2").replace("== 'b'", "== 'c'")).expect("written");
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard"));
        let output =
            command.args(["tune", "ask-tell"]).arg(&file).args(more).stdin(Stdio::null()).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, told) = run(&[]);
    assert_eq!(code, Some(2), "{told}");
    for part in
        ["space.toml:4:5", "`max` is missing", "space.toml:4:32", "there is no key `maxx` here", "did you mean `max`?"]
    {
        assert!(told.contains(part), "{part} in {told}");
    }
    std::fs::write(&file, SPACE).expect("written");
    let (code, told) = run(&["--algorithm", "grit"]);
    assert!(code == Some(2) && told.contains("there is no algorithm \"grit\" (did you mean grid?)"), "{told}");
    let (code, told) = run(&["--algorithm", "grid"]);
    assert!(code == Some(2) && told.contains("give `x` a step"), "{told}");
}
