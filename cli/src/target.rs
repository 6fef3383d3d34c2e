//! From the words on the command line to an object: `NAME`, `KIND NAME`, `KIND/NAME`.

use serde_json::Value;

use crate::arg::Target;
use crate::error::CliError;
use crate::resource::{Discovery, Resource};
use crate::session::Session;

/// An object that exists.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) resource: Resource,
    pub(crate) object: Value,
}

impl Found {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Its namespace; empty for cluster-scoped kinds.
    pub(crate) fn namespace(&self) -> &str {
        self.object["metadata"]["namespace"].as_str().unwrap_or_default()
    }

    /// Its uid.
    pub(crate) fn uid(&self) -> &str {
        self.object["metadata"]["uid"].as_str().unwrap_or_default()
    }

    /// The path of the object.
    pub(crate) fn path(&self) -> String {
        self.resource.object(self.namespace(), self.name())
    }

    /// `TrainingJob wine-ddp`.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.resource.kind, self.name())
    }
}

/// Finds the object that the words mean. A bare name is a job of any kind, else a pod.
pub(crate) async fn find(session: &Session, discovery: &Discovery, target: &Target) -> Result<Found, CliError> {
    match split(target) {
        (Some(kind), name) => {
            let resource = discovery.need(kind)?;
            let object = session.api.find(&resource.object(&session.namespace, name)).await?;
            let object = object.ok_or_else(|| missing(session, &resource.kind, name))?;
            Ok(Found { resource: resource.clone(), object })
        }
        (None, name) => match by_name(session, discovery, name).await? {
            Some(found) => Ok(found),
            None => only_one(session, discovery, name).await?.ok_or_else(|| missing(session, "job or pod", name)),
        },
    }
}

/// `describe node`: the only object of a kind, where there is just one.
async fn only_one(session: &Session, discovery: &Discovery, kind: &str) -> Result<Option<Found>, CliError> {
    let Some(resource) = discovery.find(kind) else { return Ok(None) };
    let list = session.api.get(&resource.collection(Some(&session.namespace))).await?;
    let names = list["items"].as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str());
    let names: Vec<&str> = names.collect();
    match names.as_slice() {
        [] => Ok(None),
        [name] => {
            let object = session.api.find(&resource.object(&session.namespace, name)).await?;
            Ok(object.map(|object| Found { resource: resource.clone(), object }))
        }
        [first, ..] => Err(CliError::Usage {
            message: format!("there are {} {}; which one?", names.len(), resource.plural),
            hint: format!("name it, for instance `{kind} {first}`; `trainyard get {kind}` lists them"),
        }),
    }
}

/// A job of any kind, a deployment, or a pod of that name.
pub(crate) async fn by_name(session: &Session, discovery: &Discovery, name: &str) -> Result<Option<Found>, CliError> {
    let others = ["deployments.apps", "pods"].iter().filter_map(|word| discovery.find(word));
    let mut forbidden = None;
    for resource in discovery.jobs().chain(others) {
        match session.api.find(&resource.object(&session.namespace, name)).await {
            Ok(Some(object)) => return Ok(Some(Found { resource: resource.clone(), object })),
            Ok(None) => {}
            // Who may see some kinds only can still find something among those.
            Err(error) if error.code() == Some(403) => forbidden = forbidden.or(Some(error)),
            Err(error) => return Err(error.into()),
        }
    }
    forbidden.map_or(Ok(None), |error| Err(error.into()))
}

fn split(target: &Target) -> (Option<&str>, &str) {
    match target.words.as_slice() {
        [kind, name] => (Some(kind.as_str()), name.as_str()),
        [word] => match word.split_once('/') {
            Some((kind, name)) => (Some(kind), name),
            None => (None, word.as_str()),
        },
        _ => (None, ""),
    }
}

fn missing(session: &Session, kind: &str, name: &str) -> CliError {
    let kind = kind.to_lowercase();
    CliError::NotFound {
        what: format!("{kind} `{name}` in namespace `{}`", session.namespace),
        hint: "`trainyard get -A` lists the jobs of all namespaces".to_owned(),
    }
}
