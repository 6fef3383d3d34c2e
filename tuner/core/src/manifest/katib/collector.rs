//! How metrics are found in what trials write.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use regex::Regex;
use serde_json::{Map, Value as Json};
use trainyard_proto::katib::{ExperimentSpec, FileSystemPath, MetricsCollectorSpec};

use super::answer::{EVENTS, RELAYED};
use super::nas::Nas;
use crate::event::Events;
use crate::log::Told;

/// Katib's own format: `accuracy=0.93`.
const FORMAT: &str = r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)";
/// What the programs of Katib's examples write into files, `{metricName: accuracy, metricValue: 0.93}`. A collector of one's own knows
/// what its program writes.
const NAMED: &str = r"metricName: ([\w|-]+), metricValue: ([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)";
/// Where metrics are written to, unless it is said.
const FILE: &str = "/var/log/katib/metrics.log";
/// Where TensorBoard's event files are, unless it is said.
const FOLDER: &str = "/var/log/katib/tfevent/";
const KINDS: [&str; 6] = ["StdOut", "File", "TensorFlowEvent", "Push", "None", "Custom"];
/// So many bytes of a line are looked at.
const LONGEST: usize = 64 * 1024;

/// Finds the metrics of an experiment in lines.
#[derive(Clone, Debug)]
pub struct Collector {
    formats: Vec<Regex>,
    is_json: bool,
    names: Vec<String>,
    source: Source,
    /// Values may be texts: a trial of darts tells the best architecture.
    takes_texts: bool,
}

/// Where the metrics of trials are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In what they print.
    Output,
    /// In the lines of this file.
    File(String),
    /// In the event files of this folder.
    Events(String),
    /// They tell them by themselves.
    Pushed,
}

/// Reads what a pod of a trial prints, line by line.
#[derive(Debug)]
pub struct Reader<'collector> {
    collector: &'collector Collector,
    /// The event files that are relayed, and how much of each has come.
    files: BTreeMap<String, (u64, Events)>,
}

/// What is wrong with a collector, with its path.
pub(super) fn check(given: Option<&MetricsCollectorSpec>) -> Result<(), (String, String)> {
    read(given, Vec::new()).map(|_| ())
}

fn read(given: Option<&MetricsCollectorSpec>, names: Vec<String>) -> Result<Collector, (String, String)> {
    const PATH: &str = "spec.metricsCollectorSpec";
    let source = given.and_then(|given| given.source.as_ref());
    let collector = given.and_then(|given| given.collector.as_ref());
    let kind = collector.and_then(|collector| collector.kind.as_deref()).filter(|kind| !kind.is_empty());
    let kind = kind.unwrap_or("StdOut");
    if !KINDS.contains(&kind) {
        let is_known = kind == "PrometheusMetric";
        let told =
            if is_known { format!("{kind} is not here yet; ") } else { format!("there is no collector {kind}; ") };
        return Err((format!("{PATH}.collector.kind"), format!("{told}there are {}", KINDS.join(", "))));
    }
    let file = source.and_then(|source| source.file_system_path.as_ref());
    // A collector of one's own reads a file; that we can do.
    let reads_file = kind == "File" || kind == "Custom" && file.is_some();
    if kind == "Custom" && file.is_none() {
        let message = "a collector of its own is not run here; say which file it reads, in source.fileSystemPath";
        return Err((format!("{PATH}.collector.customCollector"), message.to_owned()));
    }
    let path = format!("{PATH}.source.fileSystemPath");
    let is_json = file.and_then(|file| file.format.as_deref()) == Some("JSON");
    let source_of = match kind {
        "TensorFlowEvent" => Source::Events(folder_of(file, &path)?),
        _ if reads_file => Source::File(file_of(file, &path)?),
        "Push" | "None" => Source::Pushed,
        _ => Source::Output,
    };
    let given = source.and_then(|source| source.filter.as_ref()).and_then(|filter| filter.metrics_format.as_ref());
    if is_json && (kind == "StdOut" || given.is_some_and(|formats| !formats.is_empty())) {
        return Err((format!("{path}.format"), "JSON is for the kind File, without a filter".to_owned()));
    }
    let mut default = vec![FORMAT.to_owned()];
    if kind == "Custom" {
        default.push(NAMED.to_owned());
    }
    let formats = given.filter(|formats| !formats.is_empty()).unwrap_or(&default);
    let mut read = Vec::new();
    for (at, format) in formats.iter().enumerate() {
        let path = format!("{PATH}.source.filter.metricsFormat[{at}]");
        let regex = Regex::new(&of_go(format))
            .map_err(|error| (path.clone(), format!("it is no regular expression: {}", last_line(&error))))?;
        if regex.captures_len() < 3 {
            return Err((path, "it needs two groups in parentheses: the name and the value of a metric".to_owned()));
        }
        read.push(regex);
    }
    Ok(Collector { formats: read, is_json, names, source: source_of, takes_texts: false })
}

/// A regular expression of Go as one of ours: a brace that repeats nothing stands for itself there.
fn of_go(format: &str) -> String {
    let mut out = String::with_capacity(format.len());
    let mut rest = format;
    let mut is_in_class = false;
    while let Some(sign) = rest.chars().next() {
        let after = &rest[sign.len_utf8()..];
        // What is taken as it is: an escape with its sign, or its braces, and how often something is repeated.
        let whole = match sign {
            '\\' => 1 + escape(after),
            '{' if !is_in_class && !out.is_empty() => repeat(rest).unwrap_or(0),
            _ => 0,
        };
        match sign {
            _ if whole > 0 => out.push_str(&rest[..whole]),
            '{' | '}' if !is_in_class => out.extend(['\\', sign]),
            '[' => {
                is_in_class = true;
                out.push(sign);
            }
            ']' => {
                is_in_class = false;
                out.push(sign);
            }
            _ => out.push(sign),
        }
        rest = if whole > 0 { &rest[whole..] } else { after };
    }
    out
}

/// The length of what is escaped.
fn escape(text: &str) -> usize {
    let braces = text.starts_with(['p', 'P', 'x']) && text[1..].starts_with('{');
    match text.find('}').filter(|_| braces) {
        Some(end) => end + 1,
        None => text.chars().next().map_or(0, char::len_utf8),
    }
}

/// The length of `{2}`, `{2,}` or `{2,3}`.
fn repeat(text: &str) -> Option<usize> {
    let end = text.find('}')?;
    let (least, most) = text[1..end].split_once(',').unwrap_or((&text[1..end], ""));
    let is_number = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
    (!least.is_empty() && is_number(least) && is_number(most)).then_some(end + 1)
}

fn file_of(file: Option<&FileSystemPath>, path: &str) -> Result<String, (String, String)> {
    let given = file.and_then(|file| file.path.as_deref()).filter(|path| !path.is_empty()).unwrap_or(FILE);
    match file.and_then(|file| file.kind.as_deref()) {
        None | Some("" | "File") => {}
        Some(other) => return Err((format!("{path}.kind"), format!("expected File, found {other}"))),
    }
    if !given.starts_with('/') {
        return Err((format!("{path}.path"), format!("expected an absolute path, found {given}")));
    }
    match file.and_then(|file| file.format.as_deref()) {
        None | Some("" | "TEXT" | "JSON") => Ok(given.to_owned()),
        Some(other) => Err((format!("{path}.format"), format!("expected TEXT or JSON, found {other}"))),
    }
}

fn folder_of(file: Option<&FileSystemPath>, path: &str) -> Result<String, (String, String)> {
    let given = file.and_then(|file| file.path.as_deref()).filter(|path| !path.is_empty()).unwrap_or(FOLDER);
    match file.and_then(|file| file.kind.as_deref()) {
        None | Some("" | "Directory") => {}
        Some(other) => return Err((format!("{path}.kind"), format!("expected Directory, found {other}"))),
    }
    let folder = given.trim_end_matches('/');
    if !folder.starts_with('/') {
        return Err((format!("{path}.path"), format!("expected an absolute path, found {given}")));
    }
    match file.and_then(|file| file.format.as_deref()) {
        None | Some("") => Ok(folder.to_owned()),
        Some(other) => Err((format!("{path}.format"), format!("event files have no format, found {other}"))),
    }
}

fn last_line(error: &regex::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

impl Collector {
    /// The collector of an experiment, if what it says can be read.
    #[must_use]
    pub fn of(experiment: &Json) -> Option<Self> {
        let spec: ExperimentSpec = serde_json::from_value(experiment.get("spec")?.clone()).ok()?;
        let takes_texts = Nas::of(&spec) == Some(Nas::Darts);
        let objective = spec.objective?;
        let additional = objective.additional_metric_names.unwrap_or_default();
        let names = std::iter::once(objective.objective_metric_name).chain(additional).collect();
        read(spec.metrics_collector_spec.as_ref(), names).ok().map(|read| Self { takes_texts, ..read })
    }

    /// The metrics that are kept: the objective first.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Where trials have their metrics.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Reads what a pod prints, from its beginning.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        Reader { collector: self, files: BTreeMap::new() }
    }

    /// The metrics in a line, also those that are not kept.
    fn line(&self, line: &str) -> Vec<Told> {
        let most = (0..=line.len().min(LONGEST)).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        let line = &line[..most];
        if self.is_json {
            return json(line);
        }
        let at_ms = line.split(' ').next().and_then(time);
        let matches = self.formats.iter().flat_map(|format| format.captures_iter(line));
        let told = matches.filter_map(|groups| {
            let (name, value) = (groups.get(1)?.as_str().trim(), groups.get(2)?.as_str().trim());
            let is_there = !name.is_empty() && !value.is_empty();
            is_there.then(|| Told { at_ms, name: name.to_owned(), text: value.to_owned() })
        });
        told.collect()
    }
}

impl Reader<'_> {
    /// The metrics in the next line, also those that are not kept.
    pub fn read(&mut self, line: &str) -> Vec<Told> {
        let mut told = self.all(line);
        told.retain(|told| self.collector.takes_texts || told.text.trim().parse::<f64>().is_ok());
        told
    }

    fn all(&mut self, line: &str) -> Vec<Told> {
        match &self.collector.source {
            Source::Output => self.collector.line(line),
            Source::File(_) => line.strip_prefix(RELAYED).map(|line| self.collector.line(line)).unwrap_or_default(),
            Source::Events(_) => line.strip_prefix(EVENTS).and_then(|line| self.events(line)).unwrap_or_default(),
            Source::Pushed => Vec::new(),
        }
    }

    /// A part of an event file: where it begins in it, the bytes, and the file.
    fn events(&mut self, line: &str) -> Option<Vec<Told>> {
        let (from, rest) = line.split_once(' ')?;
        let (bytes, file) = rest.split_once(' ')?;
        let (from, bytes): (u64, _) = (from.parse().ok()?, STANDARD.decode(bytes).ok()?);
        let (come, events) = self.files.entry(file.to_owned()).or_default();
        // What has come before may come again, at the end of the pod.
        let known = usize::try_from(come.checked_sub(from)?).ok()?;
        let new = bytes.get(known..)?;
        *come += new.len() as u64;
        let told = events.push(new).into_iter().flat_map(|scalar| {
            let names = self.collector.names.iter().filter(|name| is_of(name, file, &scalar.tag));
            let told =
                |name: &String| Told { at_ms: Some(scalar.at_ms), name: name.clone(), text: scalar.text.clone() };
            let told: Vec<Told> = names.map(told).collect();
            // What nobody asked for has its own name, from which a wrong one can be told.
            let own = Told { at_ms: Some(scalar.at_ms), name: scalar.tag, text: scalar.text };
            if told.is_empty() { vec![own] } else { told }
        });
        Some(told.collect())
    }
}

/// Whether a tag of a file is meant by the name of a metric: the tag itself, or of `train/accuracy` all that begin with `accuracy`, in
/// files of a folder `train`.
fn is_of(name: &str, file: &str, tag: &str) -> bool {
    let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    let (parent, last) = name.rsplit_once('/').unwrap_or((folder, name));
    tag == name || tag.starts_with(last) && folder.ends_with(parent)
}

fn time(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(|time| time.as_millisecond())
}

/// Katib takes numbers in quotes only; here they may be without.
fn json(line: &str) -> Vec<Told> {
    let Ok(table) = serde_json::from_str::<Map<String, Json>>(line.trim()) else { return Vec::new() };
    let at_ms = match table.get("timestamp") {
        Some(Json::String(text)) => time(text),
        Some(Json::Number(seconds)) => seconds.as_f64().map(|seconds| (seconds * 1000.0) as i64),
        _ => None,
    };
    let told = table.iter().filter(|(name, _)| *name != "timestamp").filter_map(|(name, value)| {
        let text = match value {
            Json::String(text) => text.trim().to_owned(),
            Json::Number(number) => number.to_string(),
            Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => return None,
        };
        Some(Told { at_ms, name: name.clone(), text })
    });
    told.collect()
}
