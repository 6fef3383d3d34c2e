//! From bytes to documents that know where each of their fields was written (hop 2).

pub(crate) mod check;
pub(crate) mod diagnostic;
pub(crate) mod edit;
pub(crate) mod path;
pub(crate) mod yaml;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::error::CliError;
use diagnostic::{Diagnostic, Position};

/// A manifest larger than this is a mistake, and refused: the API server takes at most 3 MiB for one object.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// One file as it was read.
#[derive(Debug)]
pub(crate) struct Source {
    /// As the user wrote it; `-` for stdin.
    pub(crate) name: String,
    /// Its text.
    pub(crate) text: String,
    /// The folder that it is in; `None` for stdin.
    pub(crate) folder: Option<PathBuf>,
}

/// One object of a manifest.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// Where it comes from.
    pub(crate) source: Arc<Source>,
    /// The object.
    pub(crate) value: Value,
    /// Where each path was written: the key, then the value.
    pub(crate) spans: Arc<BTreeMap<String, Span>>,
}

/// Where a field stands in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The field's name, or the dash of a list item.
    pub(crate) key: Position,
    /// Its value.
    pub(crate) value: Position,
}

impl Document {
    /// `kind`, or nothing.
    pub(crate) fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap_or_default()
    }

    /// `apiVersion`, or nothing.
    pub(crate) fn api_version(&self) -> &str {
        self.value["apiVersion"].as_str().unwrap_or_default()
    }

    /// `metadata.name`, or nothing.
    pub(crate) fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// The span of a path, else that of its nearest ancestor in the file.
    pub(crate) fn span(&self, path: &str) -> Option<(bool, Span)> {
        let path = path::canonical(path);
        let mut at = path.as_str();
        loop {
            if let Some(span) = self.spans.get(at) {
                return Some((at.len() == path.len(), *span));
            }
            if at.is_empty() {
                return None;
            }
            at = path::parent(at);
        }
    }
}

/// Reads a file, or stdin for `-`.
pub(crate) fn read(path: &Path) -> Result<Arc<Source>, CliError> {
    let mut text = String::new();
    let fail = |source| CliError::File { verb: "read", path: path.to_path_buf(), source };
    if path == Path::new("-") {
        std::io::stdin().take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(fail)?;
        small_enough(path, &text)?;
        return Ok(Arc::new(Source { name: "<stdin>".to_owned(), text, folder: None }));
    }
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(fail)?;
    small_enough(path, &text)?;
    let folder = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_path_buf));
    Ok(Arc::new(Source { name: path.display().to_string(), text, folder }))
}

fn small_enough(path: &Path, text: &str) -> Result<(), CliError> {
    if text.len() as u64 <= MAX_FILE_BYTES {
        return Ok(());
    }
    Err(CliError::Usage {
        message: format!("{} is larger than {} MiB", path.display(), MAX_FILE_BYTES / (1024 * 1024)),
        hint: "check that it is a manifest; what is data belongs into a volume".to_owned(),
    })
}

/// Splits a file into its objects. Empty documents are left out, lists are taken apart.
pub(crate) fn detect(source: &Arc<Source>) -> (Vec<Document>, Vec<Diagnostic>) {
    let (trees, mut diagnostics) = yaml::documents(source);
    let mut documents = Vec::new();
    for tree in trees {
        let (value, spans) = tree.flatten();
        if value.is_null() {
            continue;
        }
        let document = Document { source: Arc::clone(source), value, spans: Arc::new(spans) };
        if !document.value.is_object() {
            diagnostics.push(
                Diagnostic::error(&document, "", "a manifest is a mapping with apiVersion, kind, metadata and spec")
                    .expected("a mapping"),
            );
            continue;
        }
        if document.kind() == "List" && document.api_version() == "v1" {
            documents.extend(list_items(&document));
        } else {
            documents.push(document);
        }
    }
    if documents.is_empty() && diagnostics.is_empty() {
        diagnostics
            .push(Diagnostic::in_file(source, "there is no object in this file").hint(
                "write one with apiVersion, kind, metadata.name and spec; examples/wine-ddp.yaml is a short one",
            ));
    }
    (documents, diagnostics)
}

/// Who is going to run a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runner {
    /// This machine: the embedded server has just the kinds that we know.
    Machine,
    /// A cluster: it may have other kinds and other versions of them, and its pods need images.
    Cluster,
}

/// Reads files, changes the jobs in them as the command line says, and checks everything. What is wrong is printed, all at once.
pub(crate) fn load(files: &[PathBuf], edits: &edit::Edits, runner: Runner) -> Result<Vec<Document>, CliError> {
    let mut documents = Vec::new();
    let mut diagnostics = Vec::new();
    for path in files {
        let source = read(path)?;
        let (found, wrong) = detect(&source);
        documents.extend(found);
        diagnostics.extend(wrong);
    }
    let mut jobs = documents.iter_mut().filter(|document| is_runnable(document)).peekable();
    if jobs.peek().is_none() && !edits.is_empty() && diagnostics.is_empty() {
        return Err(CliError::Usage {
            message: "there is no job in the manifest that could be changed".to_owned(),
            hint: "leave --set, --procs, --replicas, --name and --env out".to_owned(),
        });
    }
    jobs.try_for_each(|job| edits.apply(job))?;
    diagnostics.extend(documents.iter().flat_map(|document| check::check(document, runner)));
    refuse(&diagnostics)?;
    Ok(documents)
}

/// What is wrong with a manifest of no file of its own, such as the one that a template makes, for a cluster.
pub(crate) fn wrong_on_cluster(value: &Value) -> Vec<Diagnostic> {
    let source = Source { name: String::new(), text: String::new(), folder: None };
    let document = Document { source: Arc::new(source), value: value.clone(), spans: Arc::default() };
    check::check(&document, Runner::Cluster)
}

/// Prints diagnostics; no diagnostics are fine.
pub(crate) fn refuse(diagnostics: &[Diagnostic]) -> Result<(), CliError> {
    if diagnostics.is_empty() {
        return Ok(());
    }
    diagnostic::print(&mut anstream::stderr().lock(), diagnostics)?;
    let files: std::collections::BTreeSet<&str> = diagnostics.iter().map(|d| d.file.as_str()).collect();
    let files = files.into_iter().collect::<Vec<_>>().join(", ");
    Err(CliError::Manifest {
        summary: match diagnostics.len() {
            1 => format!("{files} has an error; nothing was started"),
            count => format!("{files}: {count} errors; nothing was started"),
        },
    })
}

/// Whether `trainyard run` follows an object of this kind; the others are applied before it.
pub(crate) fn is_runnable(document: &Document) -> bool {
    let group = document.api_version().split_once('/').map_or("", |(group, _)| group);
    match (group, document.kind()) {
        ("trainyard.dev", "TrainingJob")
        | ("batch", "Job")
        | ("apps", "Deployment")
        | ("trainer.kubeflow.org", "TrainJob") => true,
        ("kubeflow.org", kind) => {
            matches!(kind, "PyTorchJob" | "TFJob" | "MPIJob" | "XGBoostJob" | "PaddleJob" | "JAXJob")
        }
        _ => false,
    }
}

/// The items of a `kind: List`, with their paths rebased so that they read as objects of their own.
fn list_items(list: &Document) -> Vec<Document> {
    let items = list.value["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let item = |(index, value): (usize, &Value)| {
        let prefix = format!("items[{index}]");
        let spans = list.spans.iter().filter_map(|(path, span)| {
            let rest = path.strip_prefix(&prefix)?;
            let inside = rest.is_empty() || rest.starts_with(['.', '[']);
            inside.then(|| (rest.trim_start_matches('.').to_owned(), *span))
        });
        Document { source: Arc::clone(&list.source), value: value.clone(), spans: Arc::new(spans.collect()) }
    };
    items.iter().enumerate().map(item).collect()
}
