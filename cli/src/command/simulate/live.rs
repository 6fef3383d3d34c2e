//! `trainyard simulate` on the live queue: what would be if something were otherwise.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use trainyard_coordinator_core::gang::{GangView, NewNodes, Outlook, SupposeError, Supposition, outlook, suppose};
use trainyard_coordinator_core::outset::{Outset, outset};
use trainyard_proto::quantity;

use super::prospect;
use crate::arg::Global;
use crate::command::run::submit;
use crate::error::CliError;
use crate::job;
use crate::manifest::{self, Document, edit::Edits};
use crate::output::object::{self, Markup};
use crate::resource::Discovery;
use crate::session::{self, Place, Session};
use crate::view;

/// More nodes than that are a slip of the pen.
const MOST_NODES: u32 = 10_000;
/// What nodes have that is no extended resource.
const PLAIN: [&str; 4] = ["cpu", "memory", "pods", "ephemeral-storage"];

#[derive(Debug, clap::Args)]
#[group(id = "live", conflicts_with_all = ["replay", "worlds"])]
pub(super) struct LiveArgs {
    /// Suppose that N nodes join: copies of the node that has the most, or of like=NODE, but for what is said of them: gpu, cpu,
    /// memory, pods, any resource with a slash in its name, label=KEY=VALUE (repeatable)
    #[arg(long, value_name = "N[:WHAT=VALUE,…]", value_parser = new_nodes)]
    add_nodes: Vec<NewNodes>,
    /// Suppose that a node is gone, and what runs there is made anew (repeatable)
    #[arg(long, value_name = "NODE")]
    remove_node: Vec<String>,
    /// Suppose that a node is drained: it takes no new pods, and what runs there is made anew (repeatable)
    #[arg(long, value_name = "NODE")]
    drain: Vec<String>,
    /// Suppose that the jobs of a manifest are submitted, of any kind that `run` takes (repeatable); `-` reads stdin
    #[arg(long, value_name = "FILE")]
    job: Vec<PathBuf>,
    /// Suppose that a ClusterQueue has another nominalQuota (repeatable)
    #[arg(long, value_name = "QUEUE:RESOURCE=AMOUNT", value_parser = quota)]
    quota: Vec<(String, String, String)>,
}

/// Asks about the live state, and about what is supposed of it.
pub(super) fn run(global: &Global, args: LiveArgs, json: bool) -> Result<u8, CliError> {
    let documents = if args.job.is_empty() {
        Vec::new()
    } else {
        manifest::load(&args.job, &Edits::default(), session::runner(global))?
    };
    session::with(global, async |session| {
        let now_ms = view::now_ms();
        let gangs = view::of_gangs(session).await?;
        let mut suppositions = args.suppositions();
        suppositions.extend(submitted(session, &documents, now_ms).await?);
        let (supposed, words) = suppose(&gangs, &suppositions, now_ms).map_err(|error| refused(error, session))?;
        print(&outlook(&gangs, &supposed, now_ms), &words, &gangs, now_ms, json)
    })
}

fn print(outlook: &Outlook, words: &[String], gangs: &GangView, now_ms: i64, json: bool) -> Result<u8, CliError> {
    let mut out = std::io::stdout().lock();
    if json {
        let Outlook { gangs, before, after } = outlook;
        let value = json!({"nowMs": now_ms, "supposed": words, "gangs": gangs, "before": before, "after": after});
        object::print(&mut out, &value, Markup::Json)?;
    } else {
        prospect::print(&mut out, outlook, words, now_ms)?;
    }
    let mut err = anstream::stderr();
    if gangs.nodes.is_empty() {
        // A courtesy beside the answer.
        let _ = std::io::Write::write_all(
            &mut err,
            b"note: there is no node yet; `trainyard up` or `run` registers this machine\n",
        );
    }
    if words.is_empty() {
        let words = b"note: nothing is supposed; say --add-nodes, --remove-node, --drain, --job or --quota\n";
        let _ = std::io::Write::write_all(&mut err, words);
    }
    Ok(0)
}

impl LiveArgs {
    /// What is supposed, but for jobs: nodes first.
    fn suppositions(&self) -> Vec<Supposition> {
        let quota = |(queue, resource, amount): &(String, String, String)| Supposition::Quota {
            queue: queue.clone(),
            resource: resource.clone(),
            amount: amount.clone(),
        };
        let joined = self.add_nodes.iter().cloned().map(Supposition::Joined);
        let gone = self.remove_node.iter().cloned().map(Supposition::Gone);
        let drained = self.drain.iter().cloned().map(Supposition::Drained);
        joined.chain(gone).chain(drained).chain(self.quota.iter().map(quota)).collect()
    }
}

/// The jobs of manifests, with the pods that they would begin with.
async fn submitted(session: &Session, documents: &[Document], now_ms: i64) -> Result<Vec<Supposition>, CliError> {
    if documents.is_empty() {
        return Ok(Vec::new());
    }
    let discovery = Discovery::of_session(session).await?;
    submit::known(session, &discovery, documents)?;
    let mut taken = BTreeMap::new();
    let mut jobs = Vec::new();
    for document in documents.iter().filter(|document| manifest::is_runnable(document)) {
        let job = named(document, &mut taken);
        is_free(session, &discovery, document).await?;
        let mut view = view::of_new_job(session, &discovery, &job, now_ms).await?;
        // As the operator makes them: its gangs are what is asked about.
        view.config.gangs |= matches!(session.place, Place::Cluster(_));
        let title =
            format!("{} {}", document.kind(), job["metadata"]["name"].as_str().unwrap_or("(name is generated)"));
        let pods = pods(&title, outset(&view, now_ms))?;
        jobs.push(Supposition::Submitted { title, pods });
    }
    if jobs.is_empty() {
        let files: Vec<&str> = documents.iter().map(|document| document.source.name.as_str()).collect();
        return Err(CliError::Usage {
            message: format!("there is no job in {}", files.join(", ")),
            hint: "give a manifest that `trainyard run` takes; nodes and quotas have options of their own".to_owned(),
        });
    }
    Ok(jobs)
}

/// A job with a name that no other of them has: a file that is given twice stands for two jobs.
fn named(document: &Document, taken: &mut BTreeMap<String, u32>) -> Value {
    let mut job = document.value.clone();
    let name = document.name();
    if !name.is_empty() {
        let key = format!("{}/{}/{name}", document.kind(), job["metadata"]["namespace"]);
        let times = taken.entry(key).or_insert(0);
        *times += 1;
        if *times > 1 {
            job["metadata"]["name"] = Value::from(format!("{name}-{times}"));
        }
    }
    job
}

/// A job that is there already is a part of the live queue.
async fn is_free(session: &Session, discovery: &Discovery, document: &Document) -> Result<(), CliError> {
    let Some(resource) = discovery.of(&document.value).filter(|_| !document.name().is_empty()) else { return Ok(()) };
    let namespace = document.value["metadata"]["namespace"].as_str().unwrap_or(&session.namespace);
    match session.api.find(&resource.object(namespace, document.name())).await? {
        Some(object) if job::end(&object).is_none() => Err(CliError::Conflict {
            message: format!("{} {} is in the queue already", document.kind(), document.name()),
            hint: "give the one that is supposed another name".to_owned(),
        }),
        Some(_) | None => Ok(()),
    }
}

fn pods(title: &str, begun: Option<Outset>) -> Result<Vec<k8s_openapi::api::core::v1::Pod>, CliError> {
    let Some(begun) = begun else {
        return Err(CliError::Usage {
            message: format!("{title}: what its pods are, only its own operator knows"),
            hint: "it is known of TrainingJob, PyTorchJob, TrainJob, batch/v1 Job and Deployment".to_owned(),
        });
    };
    if begun.pods.is_empty() {
        let reasons: Vec<String> =
            begun.plan.reasons.iter().map(|reason| format!("{}: {}", reason.code, reason.message)).collect();
        let why = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) };
        return Err(CliError::Usage {
            message: format!("{title} would have no pods{why}"),
            hint: "`trainyard run --dry-run` shows what would be made of it".to_owned(),
        });
    }
    Ok(begun.pods)
}

fn refused(error: SupposeError, session: &Session) -> CliError {
    let on_cluster = matches!(session.place, Place::Cluster(_));
    let hint = match error {
        SupposeError::NoNode { .. } => "`trainyard get nodes` lists them",
        SupposeError::NoQueue { .. } if on_cluster => "on a cluster queues are Kueue's, and not looked at here",
        SupposeError::NoQueue { .. } => "`trainyard get clusterqueues` lists them",
        SupposeError::NothingToCopy => "for instance --add-nodes 2:cpu=96,memory=1Ti,gpu=8",
        SupposeError::Amount { .. } | SupposeError::Negative { .. } => "write an amount such as 8, 500m or 64Gi",
    };
    CliError::Usage { message: error.to_string(), hint: hint.to_owned() }
}

/// `4:gpu=8,cpu=96,label=zone=b`.
fn new_nodes(text: &str) -> Result<NewNodes, String> {
    let (count, rest) = text.split_once(':').unwrap_or((text, ""));
    let number = count.parse().ok().filter(|number| (1..=MOST_NODES).contains(number));
    let count = number.ok_or_else(|| format!("`{count}` is no number of nodes from 1 to {MOST_NODES}"))?;
    let mut new = NewNodes { count, ..NewNodes::default() };
    for part in rest.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is not WHAT=VALUE"))?;
        match key {
            "like" => new.like = Some(value.to_owned()),
            "label" => {
                let (key, value) = value.split_once('=').ok_or_else(|| format!("`{part}` is not label=KEY=VALUE"))?;
                new.labels.insert(key.to_owned(), value.to_owned());
            }
            _ => {
                let resource = if key == "gpu" { "nvidia.com/gpu" } else { key };
                if !PLAIN.contains(&resource) && !resource.contains('/') {
                    let all = PLAIN.join(", ");
                    return Err(format!(
                        "`{key}` is none of like, label, gpu, {all}, nor a resource such as amd.com/gpu"
                    ));
                }
                amount(resource, value)?;
                new.resources.insert(resource.to_owned(), value.to_owned());
            }
        }
    }
    Ok(new)
}

/// `team-a:nvidia.com/gpu=64`.
fn quota(text: &str) -> Result<(String, String, String), String> {
    let (queue, rest) = text.split_once(':').ok_or_else(|| format!("`{text}` is not QUEUE:RESOURCE=AMOUNT"))?;
    let (resource, value) = rest.split_once('=').ok_or_else(|| format!("`{rest}` is not RESOURCE=AMOUNT"))?;
    let resource = if resource == "gpu" { "nvidia.com/gpu" } else { resource };
    amount(resource, value)?;
    Ok((queue.to_owned(), resource.to_owned(), value.to_owned()))
}

fn amount(resource: &str, value: &str) -> Result<(), String> {
    match quantity::amount(resource, value) {
        Ok(amount) if amount < 0 => Err(format!("{resource}={value} is negative")),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{resource}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_told_in_one_word() {
        let new = new_nodes("4:like=a,gpu=8,amd.com/gpu=2,label=example.com/zone=b=c").expect("it makes sense");
        assert_eq!((new.count, new.like.as_deref()), (4, Some("a")));
        let resources: Vec<_> = new.resources.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(resources, ["amd.com/gpu=2", "nvidia.com/gpu=8"]);
        assert_eq!(new.labels.get("example.com/zone").map(String::as_str), Some("b=c"));
        assert_eq!(new_nodes("2"), Ok(NewNodes { count: 2, ..NewNodes::default() }));
    }

    #[test]
    fn what_is_wrong_with_them_is_named() {
        for (text, wrong) in [
            ("0", "`0` is no number of nodes from 1 to 10000"),
            ("two:cpu=1", "`two` is no number of nodes from 1 to 10000"),
            ("1:cpu", "`cpu` is not WHAT=VALUE"),
            ("1:label=zone", "`label=zone` is not label=KEY=VALUE"),
            ("1:cpus=4", "`cpus` is none of like"),
            ("1:cpu=many", "cpu: `many` is not a quantity"),
            ("1:memory=-1", "memory=-1 is negative"),
        ] {
            let error = new_nodes(text).expect_err(text);
            assert!(error.contains(wrong), "{text}: {error}");
        }
        assert!(quota("team-a").is_err() && quota("team-a:cpu").is_err() && quota("team-a:cpu=x").is_err());
        let good = quota("team-a:gpu=8").expect("it makes sense");
        assert_eq!(good, ("team-a".to_owned(), "nvidia.com/gpu".to_owned(), "8".to_owned()));
    }
}
