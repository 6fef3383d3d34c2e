//! What torchrun can be told and a pod of ours is not: handed over by `trainyard torchrun` in variables of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr as _;

use nix::sys::signal::Signal;
use serde::Deserialize;

use super::LaunchError;
use super::console::Channel;
use super::environment::Variables;
use super::output::Route;

const RUN_ID: &str = "TRAINYARD_RUN_ID";
const ROLE: &str = "TRAINYARD_ROLE";
const SIGNALS: &str = "TRAINYARD_SIGNALS";
const VIRTUAL_LOCAL_RANK: &str = "TRAINYARD_VIRTUAL_LOCAL_RANK";
const LOGS: &str = "TRAINYARD_LOGS";
const MACRO: &str = "TRAINYARD_LOCAL_RANK_MACRO";
/// How launchers meet that were started by hand.
pub(super) const MEETING: &str = "TRAINYARD_MEETING";
/// They are this launcher's, and not those of one that a rank may start.
pub(super) const VARIABLES: [&str; 7] = [RUN_ID, ROLE, SIGNALS, VIRTUAL_LOCAL_RANK, LOGS, MACRO, MEETING];
/// torch's variable: what the lines of `--tee` begin with.
const TEMPLATE: &str = "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE";

/// All of it; without any, nothing changes.
#[derive(Debug, Default)]
pub(super) struct Torchrun {
    run_id: Option<String>,
    role: Option<String>,
    signals: Option<String>,
    /// The GPUs to give out, one to each rank: `Some` if they are.
    devices: Option<Devices>,
    logs: Option<Logs>,
    template: Option<String>,
    substitutes: bool,
    /// The folder of this run, made when the first rank starts.
    folder: Option<PathBuf>,
    /// Of the present attempt: copies of some lines.
    filtered: BTreeMap<(u32, bool), Rc<File>>,
}

/// What ranks see as their one GPU.
#[derive(Debug)]
enum Devices {
    Listed(Vec<String>),
    Numbered,
}

/// Where the output goes; the words are those of torchrun's options.
#[derive(Debug, Deserialize)]
struct Logs {
    log_dir: Option<PathBuf>,
    redirects: Streams,
    tee: Streams,
    local_ranks_filter: Option<BTreeSet<usize>>,
    duplicate_stdout_filters: Vec<String>,
    duplicate_stderr_filters: Vec<String>,
}

/// Bits: 1 standard output, 2 standard error.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Streams {
    All(u8),
    Each(BTreeMap<usize, u8>),
}

impl Streams {
    fn has(&self, local_rank: usize, channel: Channel) -> bool {
        let bits = match self {
            Self::All(bits) => *bits,
            Self::Each(ranks) => ranks.get(&local_rank).copied().unwrap_or(0),
        };
        let bit = match channel {
            Channel::Out => 1,
            Channel::Error => 2,
        };
        bits & bit != 0
    }
}

impl Torchrun {
    pub(super) fn read(nproc: usize, lookup: impl Fn(&str) -> Option<String>) -> Result<Self, LaunchError> {
        let given = |name: &str| lookup(name).is_some_and(|value| value == "1");
        let devices = given(VIRTUAL_LOCAL_RANK).then(|| match lookup("CUDA_VISIBLE_DEVICES") {
            Some(list) => Devices::Listed(list.split(',').map(|one| one.trim().to_owned()).collect()),
            None => Devices::Numbered,
        });
        if let Some(Devices::Listed(listed)) = &devices
            && listed.len() < nproc
        {
            let words = format!("{nproc} ranks with a GPU each, but CUDA_VISIBLE_DEVICES has {}", listed.len());
            return Err(LaunchError::Environment(words));
        }
        let logs = lookup(LOGS).map(|text| {
            serde_json::from_str(&text)
                .map_err(|error| LaunchError::Environment(format!("{LOGS} is not understood: {error}")))
        });
        Ok(Self {
            run_id: lookup(RUN_ID),
            role: lookup(ROLE),
            signals: lookup(SIGNALS),
            devices,
            logs: logs.transpose()?,
            template: lookup(TEMPLATE),
            substitutes: given(MACRO),
            folder: None,
            filtered: BTreeMap::new(),
        })
    }

    /// Signals that are passed on to the ranks instead of ending the launcher. A name that is none is passed over, as
    /// torchrun does.
    pub(super) fn signals(&self) -> Vec<Signal> {
        match &self.signals {
            None => vec![Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP],
            Some(names) => names.split(',').filter_map(|name| Signal::from_str(name.trim()).ok()).collect(),
        }
    }

    /// Changes a rank's variables to what torchrun was told.
    pub(super) fn change(&self, variables: &mut Variables, local_rank: usize) {
        let mut set = |name: &str, value: String| match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => variables.push((name.to_owned(), value)),
        };
        if let Some(run_id) = &self.run_id {
            set("TORCHELASTIC_RUN_ID", run_id.clone());
        }
        if let Some(role) = &self.role {
            set("ROLE_NAME", role.clone());
        }
        if let Some(devices) = &self.devices {
            set("LOCAL_RANK", "0".to_owned());
            set(
                "CUDA_VISIBLE_DEVICES",
                match devices {
                    Devices::Listed(listed) => listed.get(local_rank).cloned().unwrap_or_default(),
                    Devices::Numbered => local_rank.to_string(),
                },
            );
        }
    }

    /// A rank's own command; `None` where it is everybody's.
    pub(super) fn command(&self, command: &[String], local_rank: usize) -> Option<Vec<String>> {
        let special = self.substitutes && command.iter().skip(1).any(|argument| argument.contains('$'));
        let local_rank = local_rank.to_string();
        let own = |argument: &String| substitute(argument, &[("local_rank", &local_rank)]);
        special.then(|| command.iter().take(1).cloned().chain(command.iter().skip(1).map(own)).collect())
    }

    /// Where a rank's two outputs go in this attempt; `None` where that is the launcher's own output alone.
    pub(super) fn routes(&mut self, local_rank: usize, rank: usize, attempt: u32) -> io::Result<Option<[Route; 2]>> {
        let Some(logs) = &self.logs else { return Ok(None) };
        let base = logs.log_dir.clone();
        let to_file = |channel| logs.redirects.has(local_rank, channel) || logs.tee.has(local_rank, channel);
        let folder = if to_file(Channel::Out) || to_file(Channel::Error) {
            let folder = match &self.folder {
                Some(folder) => folder.clone(),
                None => run_folder(base.as_deref(), self.run_id.as_deref().unwrap_or("none"))?,
            };
            self.folder = Some(folder.clone());
            let folder = folder.join(format!("attempt_{attempt}"));
            fs::create_dir_all(folder.join(local_rank.to_string()))?;
            Some(folder)
        } else {
            None
        };
        self.filtered.retain(|(of, _), _| *of == attempt);
        let out = self.route((local_rank, rank, attempt), Channel::Out, folder.as_deref())?;
        let error = self.route((local_rank, rank, attempt), Channel::Error, folder.as_deref())?;
        Ok(Some([out, error]))
    }

    fn route(&mut self, who: (usize, usize, u32), channel: Channel, folder: Option<&Path>) -> io::Result<Route> {
        let (local_rank, rank, attempt) = who;
        let Some(logs) = &self.logs else { return Ok(Route::default()) };
        let tee = logs.tee.has(local_rank, channel);
        let to_file = tee || logs.redirects.has(local_rank, channel);
        let shown = logs.local_ranks_filter.as_ref().is_none_or(|ranks| ranks.contains(&local_rank));
        let (name, needles) = match channel {
            Channel::Out => ("stdout.log", &logs.duplicate_stdout_filters),
            Channel::Error => ("stderr.log", &logs.duplicate_stderr_filters),
        };
        let needles = if tee && shown { needles.clone() } else { Vec::new() };
        let file =
            folder.filter(|_| to_file).map(|folder| File::create(folder.join(local_rank.to_string()).join(name)));
        let filtered = match folder.filter(|_| !needles.is_empty()) {
            None => None,
            Some(folder) => match self.filtered.entry((attempt, channel == Channel::Out)) {
                std::collections::btree_map::Entry::Occupied(known) => Some(Rc::clone(known.get())),
                std::collections::btree_map::Entry::Vacant(none) => {
                    let file = Rc::new(File::create(folder.join(format!("filtered_{name}")))?);
                    Some(Rc::clone(none.insert(file)))
                }
            },
        };
        let header = tee.then(|| self.header(local_rank, rank));
        Ok(Route { silent: !shown || (to_file && !tee), header, file: file.transpose()?, filtered, needles })
    }

    /// What lines that are copied here begin with, as torchrun has it.
    fn header(&self, local_rank: usize, rank: usize) -> String {
        let role = self.role.as_deref().unwrap_or("default");
        match &self.template {
            None => format!("[{role}{local_rank}]:"),
            Some(template) => {
                let values =
                    [("role_name", role), ("rank", &rank.to_string()), ("local_rank", &local_rank.to_string())];
                substitute(template, &values)
            }
        }
    }
}

/// `FOLDER/RUN_xxxxxxxx`, new.
fn run_folder(base: Option<&Path>, run_id: &str) -> io::Result<PathBuf> {
    let base =
        base.map_or_else(|| std::env::temp_dir().join(format!("torchelastic_{}", std::process::id())), Path::to_owned);
    fs::create_dir_all(&base)?;
    let mut failed = None;
    for attempt in 0..1000_u32 {
        let folder = base.join(format!("{run_id}_{:08x}", std::process::id().rotate_left(12) ^ attempt));
        match fs::create_dir(&folder) {
            Ok(()) => {
                // As torchrun's users know it, from its own log.
                super::console::tell(format!("trainyard: the ranks' logs are in {}\n", folder.display()));
                return Ok(folder);
            }
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| io::Error::other("no free name for the folder of the logs")))
}

/// Python's `Template.safe_substitute`: `$name` and `${name}` of known names, and `$$` for a dollar.
fn substitute(text: &str, values: &[(&str, &str)]) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(next) = after.strip_prefix('$') {
            result.push('$');
            rest = next;
            continue;
        }
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
        let (name, next) = braced.unwrap_or((&after[..end], &after[end..]));
        match values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => {
                result.push_str(value);
                rest = next;
            }
            None => {
                result.push('$');
                rest = after;
            }
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    fn read(nproc: usize, pairs: &[(&str, &str)]) -> Result<Torchrun, LaunchError> {
        Torchrun::read(nproc, |name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn macros_are_python_templates() {
        let with = |text: &str| substitute(text, &[("local_rank", "3")]);
        assert_eq!(with("--local-rank=${local_rank}"), "--local-rank=3");
        assert_eq!(with("$local_rank/$$x/${other}/$1/$"), "3/$x/${other}/$1/$");
        let torchrun = read(2, &[(MACRO, "1")]).unwrap();
        let command = ["python".to_owned(), "a$$".to_owned()];
        assert_eq!(torchrun.command(&command, 1).unwrap()[1], "a$");
        assert_eq!(torchrun.command(&command[..1], 1), None);
        assert_eq!(Torchrun::default().command(&command, 1), None, "not torchrun");
    }

    #[test]
    fn each_rank_sees_its_gpu_as_the_first() {
        let torchrun = read(2, &[(VIRTUAL_LOCAL_RANK, "1"), ("CUDA_VISIBLE_DEVICES", "4, 6")]).unwrap();
        let mut variables = vec![("LOCAL_RANK".to_owned(), "1".to_owned())];
        torchrun.change(&mut variables, 1);
        let expected = [("LOCAL_RANK", "0"), ("CUDA_VISIBLE_DEVICES", "6")];
        assert_eq!(variables, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(read(3, &[(VIRTUAL_LOCAL_RANK, "1"), ("CUDA_VISIBLE_DEVICES", "4,6")]).is_err());
    }

    #[test]
    fn output_goes_to_files_to_the_console_or_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let logs = serde_json::json!({
            "log_dir": folder.path(), "redirects": {"each": {"0": 3}}, "tee": {"each": {"1": 1}},
            "local_ranks_filter": [0, 1], "duplicate_stdout_filters": ["loss"], "duplicate_stderr_filters": [],
        });
        let mut torchrun = read(3, &[(LOGS, &logs.to_string()), (RUN_ID, "j7")]).unwrap();
        let [out, error] = torchrun.routes(0, 0, 2).unwrap().unwrap();
        assert!(out.silent && out.file.is_some() && error.silent && error.file.is_some());
        let [out, error] = torchrun.routes(1, 1, 2).unwrap().unwrap();
        assert!(!out.silent && out.file.is_some() && out.filtered.is_some());
        assert_eq!((out.header.as_deref(), error.header.as_deref()), (Some("[default1]:"), None));
        assert!(!error.silent && error.file.is_none());
        let [out, _] = torchrun.routes(2, 2, 2).unwrap().unwrap();
        assert!(out.silent && out.file.is_none());
        let run = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        assert!(run.join("attempt_2/1/stdout.log").exists() && run.join("attempt_2/filtered_stdout.log").exists());
        assert!(read(1, &[]).unwrap().routes(0, 0, 0).unwrap().is_none());
    }

    #[test]
    fn the_signals_are_those_that_were_named() {
        assert_eq!(read(1, &[]).unwrap().signals().len(), 3);
        let named = read(1, &[(SIGNALS, "SIGTERM, SIGUSR1,SIGNOSUCH")]).unwrap().signals();
        assert_eq!(named, [Signal::SIGTERM, Signal::SIGUSR1]);
    }
}
