//! Who starts the ranks, and how.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::events::Events;
use super::now;
use crate::Error;

/// More than any run needs.
const RESTARTS: &str = "100000";
/// The name of the job that runs under a control plane.
const JOB: &str = "kill-matrix";

/// A launcher in one of its variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Contender {
    /// torchrun as it comes
    Torchrun,
    /// torchrun with `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`
    TorchrunOwnStore,
    /// `trainyard torchrun` without warm spares
    TrainyardCold,
    /// `trainyard torchrun`
    Trainyard,
    /// A TrainingJob under `trainyard up`
    TrainyardJob,
}

impl Contender {
    /// For a table.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Torchrun => "torchrun",
            Self::TorchrunOwnStore => "torchrun, own store",
            Self::TrainyardCold => "trainyard, no spares",
            Self::Trainyard => "trainyard",
            Self::TrainyardJob => "trainyard, as a job",
        }
    }

    /// Whether it is ours.
    #[must_use]
    pub fn is_ours(self) -> bool {
        match self {
            Self::Torchrun | Self::TorchrunOwnStore => false,
            Self::TrainyardCold | Self::Trainyard | Self::TrainyardJob => true,
        }
    }

    /// Whether it runs under a control plane.
    #[must_use]
    pub fn has_control_plane(self) -> bool {
        self == Self::TrainyardJob
    }
}

/// What to run, and with what.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The trainyard binary.
    pub trainyard: PathBuf,
    /// A Python with torch.
    pub python: PathBuf,
    /// The training program.
    pub script: PathBuf,
    /// Ranks.
    pub ranks: u32,
    /// Its steps.
    pub steps: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// The least that a step takes, in milliseconds.
    pub step_ms: f64,
}

impl Setting {
    fn program(&self, folder: &Path) -> Vec<String> {
        let words = [
            self.script.display().to_string(),
            "--folder".to_owned(),
            folder.display().to_string(),
            "--steps".to_owned(),
            self.steps.to_string(),
            "--checkpoint-every".to_owned(),
            self.checkpoint_every.to_string(),
            "--step-ms".to_owned(),
            self.step_ms.to_string(),
        ];
        words.to_vec()
    }
}

/// A line that the launcher wrote to standard error, and when it came.
type Lines = Arc<Mutex<Vec<(f64, String)>>>;

/// A training under way.
#[derive(Debug)]
pub struct Running {
    contender: Contender,
    setting: Setting,
    folder: PathBuf,
    child: Child,
    /// `trainyard up`, if there is one.
    plane: Option<Child>,
    lines: Lines,
}

impl Running {
    /// Starts a training that writes to `folder`.
    ///
    /// # Errors
    /// When a program cannot be started.
    pub fn start(contender: Contender, setting: &Setting, folder: &Path) -> Result<Self, Error> {
        let plane = contender.has_control_plane().then(|| control_plane(setting, folder)).transpose()?;
        let mut command = match contender {
            Contender::Torchrun | Contender::TorchrunOwnStore => {
                let mut command = Command::new(&setting.python);
                command.args(["-m", "torch.distributed.run"]);
                command
            }
            Contender::TrainyardCold | Contender::Trainyard => {
                let mut command = Command::new(&setting.trainyard);
                command.arg("torchrun");
                command
            }
            Contender::TrainyardJob => job_command(setting, folder)?,
        };
        if !contender.has_control_plane() {
            command.args(["--nproc-per-node", &setting.ranks.to_string(), "--max-restarts", RESTARTS]);
            command.args(setting.program(folder)).env("PYTHON_EXEC", &setting.python);
        }
        match contender {
            Contender::TorchrunOwnStore => drop(command.env("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")),
            Contender::TrainyardCold => drop(command.env("TRAINYARD_SPARES", "off")),
            Contender::Torchrun | Contender::Trainyard | Contender::TrainyardJob => {}
        }
        command.env("TRAINYARD_ON_HANG", "restart").env("OMP_NUM_THREADS", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let lines = Lines::default();
        if let Some(error) = child.stderr.take() {
            let (lines, log) = (Arc::clone(&lines), File::create(folder.join("stderr.log"))?);
            std::thread::spawn(move || listen(error, log, &lines));
        }
        Ok(Self { contender, setting: setting.clone(), folder: folder.to_owned(), child, plane, lines })
    }

    /// Where it writes.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// When the launcher first spoke of a failure after `since`.
    #[must_use]
    pub fn detected_after(&self, since: f64) -> Option<f64> {
        let has = |line: &str, words: &[&str]| words.iter().any(|word| line.contains(word));
        let speaks = |line: &str| match self.contender {
            Contender::Torchrun | Contender::TorchrunOwnStore => has(line, &["closing signal", "failed (exitcode"]),
            Contender::TrainyardCold | Contender::Trainyard => {
                line.starts_with("trainyard: ") && has(line, &[" failed", " hangs", "makes the others wait"])
            }
            // `trainyard run`, which follows the job.
            Contender::TrainyardJob => has(line, &["Restarting ", "RankHangs", "makes the others wait"]),
        };
        let lines = self.lines.lock().ok()?;
        lines.iter().find(|(at, line)| *at >= since && speaks(line)).map(|(at, _)| *at)
    }

    /// Whether the launcher has ended; with its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        // Following a job is not running it: the job goes on without.
        if self.contender.has_control_plane() {
            return None;
        }
        self.child.try_wait().ok().flatten().map(|status| status.code().unwrap_or(-1))
    }

    /// The process that has started the ranks.
    #[must_use]
    pub fn launcher(&self, events: &Events) -> Option<u32> {
        match self.contender.has_control_plane() {
            false => Some(self.child.id()),
            true => ancestor(events.pid(0)?, "launch"),
        }
    }

    /// Kills the control plane and starts it again; when it was killed.
    pub fn restart_control_plane(&mut self) -> Option<f64> {
        let mut plane = self.plane.take()?;
        let at = now();
        plane.kill().ok()?;
        plane.wait().ok()?;
        self.plane = Some(control_plane(&self.setting, &self.folder).ok()?);
        Some(at)
    }

    /// Ends everything that belongs to the training, ranks without a launcher included.
    pub fn end(mut self, events: &Events) {
        if self.contender.has_control_plane() {
            let mut delete = Command::new(&self.setting.trainyard);
            delete.args(["delete", "job", JOB]).env("TRAINYARD_HOME", self.folder.join("home"));
            // What cannot be deleted is killed below.
            let _ = delete.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        for child in [Some(&mut self.child), self.plane.as_mut()].into_iter().flatten() {
            let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
        }
        let marked: Vec<u32> = events.0.iter().map(|event| event.pid).collect();
        let _ = super::until(std::time::Duration::from_secs(10), || {
            self.child.try_wait().ok().flatten()?;
            marked.iter().all(|pid| !is_ours(*pid, &self.folder)).then_some(())
        });
        for pid in marked.into_iter().filter(|pid| is_ours(*pid, &self.folder)) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        for child in [Some(&mut self.child), self.plane.as_mut()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether a process still runs this very training: numbers are given anew.
fn is_ours(pid: u32, folder: &Path) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let folder = folder.display().to_string();
    !folder.is_empty() && String::from_utf8_lossy(&line).contains(&folder)
}

/// The nearest ancestor with this word in its command line.
fn ancestor(mut pid: u32, word: &str) -> Option<u32> {
    loop {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        pid = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok().filter(|pid| *pid > 1)?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        if line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes()) {
            return Some(pid);
        }
    }
}

fn listen(error: impl std::io::Read, mut log: File, lines: &Lines) {
    for line in BufReader::new(error).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        // The copy is for people who wonder afterwards.
        let _ = writeln!(log, "{line}");
        if let Ok(mut lines) = lines.lock() {
            lines.push((now(), line));
        }
    }
}

fn control_plane(setting: &Setting, folder: &Path) -> Result<Child, Error> {
    let mut command = Command::new(&setting.trainyard);
    command.args(["up", "--listen", "127.0.0.1:0"]).env("TRAINYARD_HOME", folder.join("home"));
    let log = File::options().create(true).append(true).open(folder.join("up.log"))?;
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
    let ready = super::until(std::time::Duration::from_secs(30), || {
        let mut version = Command::new(&setting.trainyard);
        version.arg("get").env("TRAINYARD_HOME", folder.join("home")).stdout(Stdio::null()).stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success()).then_some(())
    });
    match ready {
        Some(()) => Ok(child),
        None => Err(Error::Program { program: "trainyard up".to_owned(), why: "it does not become ready".to_owned() }),
    }
}

fn job_command(setting: &Setting, folder: &Path) -> Result<Command, Error> {
    let command: Vec<String> =
        std::iter::once(setting.python.display().to_string()).chain(setting.program(folder)).collect();
    let manifest = serde_json::json!({
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": JOB},
        "spec": {
            "replicas": 1,
            "procsPerReplica": setting.ranks,
            "command": command,
            "restartPolicy": "OnFailure",
            "backoffLimit": 100_000,
            "recovery": {"onHang": "restart"},
            "env": {"OMP_NUM_THREADS": "1"},
        },
    });
    let path = folder.join("job.yaml");
    fs::write(&path, manifest.to_string())?;
    let mut run = Command::new(&setting.trainyard);
    run.arg("run").arg(path).env("TRAINYARD_HOME", folder.join("home"));
    Ok(run)
}
