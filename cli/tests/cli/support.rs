//! Runs the binary as a user does, and writes down what it said.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of its own for each test: state, manifests, and where commands are called.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// Writes a file into the folder where commands are called.
    pub(crate) fn write(&self, name: &str, text: &str) -> &Self {
        std::fs::write(self.path().join(name), text).expect("the file can be written");
        self
    }

    /// The binary, with nothing of the caller's environment that could change what it says.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainyard"));
        command
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.path())
            .env("TRAINYARD_HOME", self.home());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary runs")
    }

    /// What the command said and how it ended, with everything replaced that differs from run to run.
    pub(crate) fn transcript(&self, args: &[&str]) -> String {
        let output = self.run(args);
        format!(
            "$ trainyard {}\nexit: {}\n--- stdout\n{}--- stderr\n{}",
            args.join(" "),
            output.status.code().map_or_else(|| "signal".to_owned(), |code| code.to_string()),
            self.redact(&String::from_utf8_lossy(&output.stdout)),
            self.redact(&String::from_utf8_lossy(&output.stderr)),
        )
    }

    pub(crate) fn redact(&self, text: &str) -> String {
        let folder = self.path().canonicalize().expect("the folder exists");
        let text =
            text.replace(&folder.display().to_string(), "[HERE]").replace(&self.path().display().to_string(), "[HERE]");
        let mut lines: Vec<String> = text.lines().map(redact_line).collect();
        lines.push(String::new());
        if lines.len() == 1 { String::new() } else { lines.join("\n") }
    }
}

/// Ages, durations, times and uids.
fn redact_line(line: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in line.split(' ') {
        let bare = word.trim_matches(|c: char| matches!(c, '"' | ',' | '(' | ')' | ';'));
        words.push(match kind(bare) {
            Some(name) => word.replace(bare, name),
            None => word.to_owned(),
        });
    }
    words.join(" ").trim_end().to_owned()
}

fn kind(word: &str) -> Option<&'static str> {
    let digits = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    if word.len() == 36 && word.chars().filter(|c| *c == '-').count() == 4 {
        return Some("[UID]");
    }
    if word.len() >= 20 && word.ends_with('Z') && word.contains('T') {
        return Some("[TIME]");
    }
    word.strip_suffix('s').filter(|number| digits(number)).map(|_| "[AGE]")
}
