//! `trainyard tune FILE`: from an experiment's file to its best configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use trainyard_tuner::definition::{Definition, DefinitionError};
use trainyard_tuner_core::control::LONGEST_NAME;

use super::{ending, file, follow};
use crate::api::ApiError;
use crate::arg::{ContainerArgs, Global};
use crate::command::run::place;
use crate::error::CliError;
use crate::exit_code;
use crate::follow::control::delete_options;
use crate::follow::screen::Screen;
use crate::manifest::{Document, Source, edit, wrong_on_cluster};
use crate::output::style;
use crate::session::{Place, Session, internal};
use crate::telemetry::{self, Quiet};

/// How often it is asked whether an old experiment has gone.
const POLL: std::time::Duration = std::time::Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The experiment's file
    #[arg(value_name = "EXPERIMENT.toml", required = true)]
    file: Option<PathBuf>,
    /// Name of the experiment, in place of the file's
    #[arg(long)]
    name: Option<String>,
    /// Go on with the experiment of that name: after Ctrl-C, or with a larger budget after its end
    #[arg(long)]
    resume: bool,
    /// So many trials at most, in place of what the file says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    trials: Option<u64>,
    /// So many trials at the same time, in place of what the file says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    parallel: Option<u64>,
    /// What random numbers are made of, in place of what the file says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    seed: Option<i64>,
    /// Write the report to this file in the end (default: reports/NAMESPACE/NAME.html in the state folder)
    #[arg(long, value_name = "FILE", conflicts_with = "detach")]
    report: Option<PathBuf>,
    /// Start the experiment and return; needs a control plane that runs (`trainyard up`)
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    containers: ContainerArgs,
}

/// An experiment as it is to be.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) definition: Definition,
    spec: Map<String, Value>,
}

impl Wanted {
    pub(super) fn path(&self, session: &Session) -> String {
        format!("{}/{}", collection(session), self.name)
    }
}

fn collection(session: &Session) -> String {
    format!("/apis/trainyard.dev/v1alpha1/namespaces/{}/experiments", session.namespace)
}

pub(super) fn run(global: &Global, args: &RunArgs) -> Result<u8, CliError> {
    let path = args.file.clone().unwrap_or_default();
    let mut wanted = read(&path, args)?;
    ending::check(args.report.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(internal("cannot start the asynchronous runtime"))?;
    let code = runtime.block_on(async {
        let traces = telemetry::init_with_traces(global, Quiet::Command);
        let result = async {
            let place = place::open(global, args.detach, args.containers).await?;
            if place.runs_processes().await {
                place_in_folder(&mut wanted, &path)?;
            }
            let failed = place.failed();
            let result = tokio::select! {
                result = carry_out(global, &place.session, &wanted, args) => result,
                failed = failed => {
                    place.give_up().await;
                    return Err(failed);
                }
            };
            place.close().await;
            result
        };
        let result = result.await;
        traces.finish().await;
        result
    });
    runtime.shutdown_background();
    code
}

/// The experiment of a file, with what the command line says instead.
fn read(path: &Path, args: &RunArgs) -> Result<Wanted, CliError> {
    let (source, definition) = file::read(path)?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().to_lowercase().replace(['_', ' ', '.'], "-"));
    let name = args.name.clone().or_else(|| definition.name.clone()).or(stem).unwrap_or_default();
    check_name(&name)?;
    let mut spec = Definition::spec(&source.text).map_err(|summary| CliError::Manifest { summary })?;
    for (key, value) in [("trials", args.trials), ("parallel", args.parallel)] {
        if let Some(value) = value {
            let budget = spec.entry("budget").or_insert_with(|| json!({}));
            budget[key] = json!(value);
        }
    }
    if let Some(seed) = args.seed {
        spec.insert("seed".to_owned(), json!(seed));
    }
    let definition = Definition::of_spec(&spec).map_err(|errors| refusal(path, args, &errors))?;
    if definition.trial.is_none() {
        return Err(CliError::Usage {
            message: format!("{} does not say what a trial runs", path.display()),
            hint:
                "add [trial] with command = [\"python\", \"train.py\", \"--lr={lr}\"], or use `trainyard tune ask-tell`"
                    .to_owned(),
        });
    }
    Ok(Wanted { name, definition, spec })
}

/// What is wrong with a file that was right before the command line changed it.
fn refusal(path: &Path, args: &RunArgs, errors: &[DefinitionError]) -> CliError {
    let options = [
        ("budget.trials", "--trials", args.trials.is_some()),
        ("budget.parallel", "--parallel", args.parallel.is_some()),
        ("seed", "--seed", args.seed.is_some()),
    ];
    let about = |error: &DefinitionError| {
        let option = options.iter().find(|(path, _, is_given)| *is_given && *path == error.path);
        option.map_or_else(|| error.to_string(), |(_, option, _)| format!("{option}: {}", error.message))
    };
    CliError::Usage {
        message: errors.iter().map(about).collect::<Vec<_>>().join("; "),
        hint: format!("give another value, or leave the option out, and what {} says is used", path.display()),
    }
}

/// Trials, their jobs and pods are named after the experiment.
fn check_name(name: &str) -> Result<(), CliError> {
    let is_good = |sign: char| sign.is_ascii_lowercase() || sign.is_ascii_digit() || sign == '-';
    let begins = name.starts_with(|sign: char| sign.is_ascii_lowercase());
    if begins && name.chars().all(is_good) && !name.ends_with('-') && name.len() <= LONGEST_NAME {
        return Ok(());
    }
    Err(CliError::Usage {
        message: format!(
            "an experiment cannot be named \"{name}\": it has up to {LONGEST_NAME} lower-case letters, digits and dashes, begins with a letter and does not end with a dash"
        ),
        hint: "give it a name with --name, or with `name` in its file".to_owned(),
    })
}

/// Fills in the folder in which trials work: that where the command is called, or that of the file if their program is there.
fn place_in_folder(wanted: &mut Wanted, path: &Path) -> Result<(), CliError> {
    let here =
        std::env::current_dir().map_err(|source| CliError::File { verb: "find", path: PathBuf::from("."), source })?;
    let beside = path.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned));
    let Some(trial) = &wanted.definition.trial else { return Ok(()) };
    let source = Source { name: path.display().to_string(), text: String::new(), folder: beside.clone() };
    let mut job = Document { source: Arc::new(source), value: trial.job.clone(), spans: Arc::default() };
    let folder = beside.filter(|beside| edit::needs_folder(&job.value, &here, beside)).unwrap_or(here);
    edit::fill_working_dir(&mut job, &folder.display().to_string());
    let Some(trial) = wanted.spec.get_mut("trial").and_then(Value::as_object_mut) else { return Ok(()) };
    if trial.contains_key("job") {
        trial.insert("job".to_owned(), job.value);
    } else {
        trial.insert("working_dir".to_owned(), job.value["spec"]["workingDir"].clone());
    }
    Ok(())
}

async fn carry_out(global: &Global, session: &Session, wanted: &Wanted, args: &RunArgs) -> Result<u8, CliError> {
    let mut screen = Screen::new();
    let found = session.api.find(&wanted.path(session)).await?;
    check_job(session, wanted).await?;
    let object = match (found, args.resume) {
        (Some(old), true) => resume(session, wanted, &old, &screen).await?,
        (Some(old), false) => again(session, wanted, &old, &screen).await?,
        (None, true) => {
            return Err(CliError::NotFound {
                what: format!("experiment {}", wanted.name),
                hint: "run it without --resume".to_owned(),
            });
        }
        (None, false) => create(session, wanted, &screen).await?,
    };
    if args.detach {
        screen.say("Started", style::GOOD, &format!("see it with `trainyard get experiment {} -w`", wanted.name))?;
        return Ok(exit_code::SUCCESS);
    }
    let code = follow::follow(session, wanted, &object, &mut screen).await?;
    // One that was interrupted goes on another time.
    if code < exit_code::SIGNAL_BASE {
        ending::tell(global, session, &wanted.name, args.report.as_deref(), &screen).await?;
    }
    Ok(code)
}

/// Asks the server whether it would take the job of a trial, before anything is started.
async fn check_job(session: &Session, wanted: &Wanted) -> Result<(), CliError> {
    let Some(job) = wanted.definition.first_job(&wanted.name) else { return Ok(()) };
    if matches!(session.place, Place::Cluster(_))
        && let Some(wrong) = wrong_on_cluster(&job).into_iter().next()
    {
        return Err(CliError::Usage {
            message: format!("the job of a trial cannot run on a cluster: {}: {}", wrong.path, wrong.message),
            hint: wrong.hint.unwrap_or_else(|| "mend [trial] in the experiment's file".to_owned()),
        });
    }
    let text = |name: &str| job[name].as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let path = format!(
        "/apis/{version}/namespaces/{}/{}s?dryRun=All&fieldValidation=Strict",
        session.namespace,
        kind.to_lowercase()
    );
    match session.api.create(&path, &job).await {
        Ok(_) => Ok(()),
        Err(ApiError::Refused(refusal)) if refusal.code == 409 => check_taken(session, wanted, &job, &path).await,
        Err(ApiError::Refused(refusal)) => Err(CliError::Refused {
            message: format!("the job of a trial is refused: {}", refusal.message),
            hint: Some("mend [trial] in the experiment's file".to_owned()),
            status: refusal.code,
        }),
        Err(error) => Err(error.into()),
    }
}

/// A job of the first trial's name is there: that of an earlier experiment of this name, or something else.
async fn check_taken(session: &Session, wanted: &Wanted, job: &Value, path: &str) -> Result<(), CliError> {
    let collection = path.split('?').next().unwrap_or_default();
    let name = job["metadata"]["name"].as_str().unwrap_or_default();
    let found = session.api.find(&format!("{collection}/{name}")).await?;
    let is_earlier = |found: &Value| {
        let owners = found["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let mut owners = owners.filter(|owner| owner["controller"] == true);
        owners.any(|owner| owner["kind"] == "Trial" && owner["name"] == name)
    };
    if found.as_ref().is_none_or(is_earlier) {
        return Ok(());
    }
    let kind = job["kind"].as_str().unwrap_or_default();
    Err(CliError::Conflict {
        message: format!("{kind} {name} is there already, and is no trial's of experiment {}", wanted.name),
        hint: "delete it, or give the experiment another name with --name".to_owned(),
    })
}

async fn create(session: &Session, wanted: &Wanted, screen: &Screen) -> Result<Value, CliError> {
    let body = json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "Experiment",
        "metadata": {"name": wanted.name}, "spec": wanted.spec,
    });
    let path = format!("{}?fieldValidation=Strict", collection(session));
    let object = session.api.create(&path, &body).await?;
    screen.say("Started", style::GOOD, &format!("experiment {}", wanted.name))?;
    Ok(object)
}

fn phase(object: &Value) -> &str {
    object["status"]["phase"].as_str().unwrap_or("Running")
}

fn is_over(object: &Value) -> bool {
    matches!(phase(object), "Succeeded" | "Failed")
}

/// Whether two specs search the same.
fn same_search(wanted: &Wanted, old: &Value) -> bool {
    let nothing = Map::new();
    let old = old["spec"].as_object().unwrap_or(&nothing);
    Definition::of_spec(old).is_ok_and(|old| {
        let new = &wanted.definition;
        Definition { name: None, budget: new.budget, trial: new.trial.clone(), ..old }
            == Definition { name: None, ..new.clone() }
    })
}

/// Goes on with an experiment, as far as budget and trial are concerned as the file says now.
async fn resume(session: &Session, wanted: &Wanted, old: &Value, screen: &Screen) -> Result<Value, CliError> {
    if !same_search(wanted, old) {
        return Err(CliError::Conflict {
            message: format!("experiment {} searches something else than this file", wanted.name),
            hint: "only budget and trial may change; start a new one with --name".to_owned(),
        });
    }
    let part = |name: &str| turned(&old["spec"][name], wanted.spec.get(name).unwrap_or(&Value::Null));
    let path = wanted.path(session);
    let spec = json!({"spec": {"suspend": null, "budget": part("budget"), "trial": part("trial")}});
    let object = session.api.merge(&path, &spec).await?;
    if is_over(&object) {
        let status = json!({"status": {"phase": null, "message": null, "completionTime": null}});
        session.api.merge(&format!("{path}/status"), &status).await?;
    }
    screen.say("Resumed", style::GOOD, &format!("experiment {}", wanted.name))?;
    Ok(object)
}

/// The merge patch that makes one value of another: it names what is gone.
fn turned(old: &Value, new: &Value) -> Value {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return new.clone() };
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    let there = new.iter().map(|(name, value)| (name.clone(), turned(old.get(name).unwrap_or(&Value::Null), value)));
    Value::Object(gone.chain(there).collect())
}

/// An experiment of that name is there: one that has ended is replaced, one that is the same is followed.
async fn again(session: &Session, wanted: &Wanted, old: &Value, screen: &Screen) -> Result<Value, CliError> {
    let name = &wanted.name;
    if is_over(old) {
        let path = wanted.path(session);
        let mut options = delete_options(None);
        options["propagationPolicy"] = json!("Foreground");
        options["preconditions"]["uid"] = old["metadata"]["uid"].clone();
        session.api.delete(&path, &options).await?;
        while session.api.find(&path).await?.is_some_and(|now| now["metadata"]["uid"] == old["metadata"]["uid"]) {
            tokio::time::sleep(POLL).await;
        }
        screen.say("Replaced", style::CARE, &format!("experiment {name}, which had {}", phase(old).to_lowercase()))?;
        return create(session, wanted, screen).await;
    }
    if phase(old) == "Running" && same_search(wanted, old) && !matches!(session.place, Place::InProcess { .. }) {
        screen.say("Attached", style::GOOD, &format!("to experiment {name}, which is running already"))?;
        return Ok(old.clone());
    }
    Err(CliError::Conflict {
        message: format!("experiment {name} exists already, and is {}", phase(old).to_lowercase()),
        hint: format!(
            "go on with it with --resume, end it with `trainyard delete experiment {name}`, or give this one another name with --name"
        ),
    })
}
