//! Hop 3: documents go to the API, and what it refuses is shown in the file.

use std::time::Duration;

use serde_json::Value;

use crate::api::{ApiError, FIELD_MANAGER};
use crate::error::CliError;
use crate::follow::control::delete_options;
use crate::follow::screen::Screen;
use crate::job;
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::{self, Document};
use crate::output::style;
use crate::resource::{Discovery, Resource};
use crate::session::{Place, Session};
use crate::target::Found;

/// How often we look whether a replaced job is gone.
const POLL: Duration = Duration::from_millis(20);

/// A job that is on its way.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) found: Found,
    /// Whether this command started it, so that Ctrl-C stops it.
    pub(crate) ours: bool,
}

/// Applies an object that is no job, and says what it was.
pub(crate) async fn apply(session: &Session, discovery: &Discovery, document: &Document) -> Result<String, CliError> {
    let resource = resource(discovery, document)?;
    let namespace = namespace(session, document);
    let mut body = document.value.clone();
    if resource.namespaced {
        body["metadata"]["namespace"] = Value::from(namespace);
    }
    if document.name().is_empty() {
        let path = resource.collection(Some(namespace));
        let object = session.api.create(&path, &body).await.map_err(|error| refusal(document, error))?;
        return Ok(format!("{} {}", resource.kind, object["metadata"]["name"].as_str().unwrap_or_default()));
    }
    let path = format!(
        "{}?fieldManager={FIELD_MANAGER}&force=true&fieldValidation=Strict",
        resource.object(namespace, document.name())
    );
    session.api.apply(&path, &body).await.map_err(|error| refusal(document, error))?;
    Ok(format!("{} {}", resource.kind, document.name()))
}

/// Creates a job, or takes up the one of that name.
pub(crate) async fn start(
    session: &Session,
    discovery: &Discovery,
    document: &Document,
    screen: &mut Screen,
) -> Result<Job, CliError> {
    let resource = resource(discovery, document)?.clone();
    let namespace = namespace(session, document).to_owned();
    if !resource.is_job() {
        let title = apply(session, discovery, document).await?;
        screen.say("Applied", style::GOOD, &title)?;
        let object = session.api.get(&resource.object(&namespace, document.name())).await?;
        return Ok(Job { found: Found { resource, object }, ours: true });
    }
    if !document.name().is_empty()
        && let Some(object) = session.api.find(&resource.object(&namespace, document.name())).await?
        && let Some(job) = take_up(session, document, Found { resource: resource.clone(), object }, screen).await?
    {
        return Ok(job);
    }
    let mut body = document.value.clone();
    body["metadata"]["namespace"] = Value::from(namespace.as_str());
    if let Some(parent) = trainyard_runtime::trace::current() {
        body["metadata"]["annotations"][trainyard_runtime::trace::ANNOTATION] = Value::from(parent);
    }
    let path = format!("{}?fieldManager={FIELD_MANAGER}&fieldValidation=Strict", resource.collection(Some(&namespace)));
    let object = session.api.create(&path, &body).await.map_err(|error| refusal(document, error))?;
    let found = Found { resource, object };
    screen.say("Created", style::GOOD, &format!("{} in namespace {namespace}", found.title()))?;
    Ok(Job { found, ours: true })
}

/// What to do with a job that has the name already. `None`: it is gone, create the new one.
async fn take_up(
    session: &Session,
    document: &Document,
    old: Found,
    screen: &mut Screen,
) -> Result<Option<Job>, CliError> {
    let same = same_spec(&document.value["spec"], &old.object["spec"]);
    let over = job::end(&old.object).is_some();
    let leaving = old.object["metadata"]["deletionTimestamp"].is_string();
    if over || leaving || job::suspended(&old.object) && !same {
        replace(session, &old).await?;
        if !leaving {
            screen.say(
                "Replaced",
                style::GOOD,
                &format!("{}, which was {}", old.title(), job::state(&old.object).to_lowercase()),
            )?;
        }
        return Ok(None);
    }
    if !same {
        let name = old.name();
        return Err(CliError::Conflict {
            message: format!(
                "{} exists already, with another spec, and is {}",
                old.title(),
                job::state(&old.object).to_lowercase()
            ),
            hint: format!("end it with `trainyard delete {name}`, or give the new one another name with --name"),
        });
    }
    if job::suspended(&old.object) {
        if let Some(patch) = job::suspend_patch(&old.resource, false) {
            let object = session.api.merge(&old.path(), &patch).await?;
            screen.say("Resumed", style::GOOD, &old.title())?;
            return Ok(Some(Job { found: Found { object, ..old }, ours: true }));
        }
        return Ok(None);
    }
    screen.say("Attached", style::GOOD, &format!("to {}, which is running already with the same spec", old.title()))?;
    Ok(Some(Job { found: old, ours: false }))
}

/// Deletes a job and waits until it and its pods are gone.
async fn replace(session: &Session, old: &Found) -> Result<(), CliError> {
    let mut options = delete_options(None);
    options["propagationPolicy"] = Value::from("Foreground");
    options["preconditions"]["uid"] = Value::from(old.uid());
    match session.api.delete(&old.path(), &options).await {
        Ok(_) => {}
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    while let Some(object) = session.api.find(&old.path()).await? {
        if object["metadata"]["uid"] != old.uid() {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Whether everything that the manifest asks for is so already. The server may have added defaults; being suspended is no difference.
fn same_spec(wanted: &Value, stored: &Value) -> bool {
    match (wanted, stored) {
        (Value::Object(wanted), Value::Object(_)) => wanted.iter().all(|(key, value)| {
            let absent =
                value.is_null() || key == "suspend" || value.as_object().is_some_and(serde_json::Map::is_empty);
            stored.get(key).map_or(absent, |stored| key == "suspend" || same_spec(value, stored))
        }),
        (Value::Array(wanted), Value::Array(stored)) => {
            wanted.len() == stored.len() && wanted.iter().zip(stored).all(|(wanted, stored)| same_spec(wanted, stored))
        }
        _ => wanted == stored,
    }
}

fn resource<'a>(discovery: &'a Discovery, document: &Document) -> Result<&'a Resource, CliError> {
    discovery.of(&document.value).ok_or_else(|| refuse(&[unknown(discovery, document, "this server")]))
}

/// Whether the server knows every kind of a manifest. Asked before the first object is sent, so that nothing is half done.
pub(crate) fn known(session: &Session, discovery: &Discovery, documents: &[Document]) -> Result<(), CliError> {
    let server = if matches!(session.place, Place::Cluster(_)) { "this cluster" } else { "this server" };
    // A definition may come with the manifest.
    let own = documents.iter().any(|document| document.kind() == "CustomResourceDefinition");
    let unknown: Vec<Diagnostic> = documents
        .iter()
        .filter(|document| !own && discovery.of(&document.value).is_none())
        .map(|document| unknown(discovery, document, server))
        .collect();
    manifest::refuse(&unknown)
}

/// What to do about a kind that the server does not have.
fn unknown(discovery: &Discovery, document: &Document, server: &str) -> Diagnostic {
    let (kind, api_version) = (document.kind(), document.api_version());
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let other = discovery.resources.iter().find(|resource| resource.kind == kind && resource.group == group);
    let message = format!("{server} does not know {kind} ({api_version})");
    let hint = match (group, other) {
        (_, Some(other)) => format!("it has it as `apiVersion: {}`: write that", other.api_version()),
        ("trainyard.dev", None) => {
            "ask the cluster's administrator to install Trainyard's operator (`trainyard install --help`); or write the job \
             as a PyTorchJob (with Kubeflow's training operator) or as a batch/v1 Job, or leave --context out to run it on \
             this machine"
                .to_owned()
        }
        ("kubeflow.org", None) => {
            "ask the cluster's administrator to install Kubeflow's training operator, or leave --context out to run it \
             on this machine"
                .to_owned()
        }
        ("trainer.kubeflow.org", None) => {
            "ask the cluster's administrator to install Kubeflow's trainer, or leave --context out".to_owned()
        }
        _ => "ask the cluster's administrator to install its CustomResourceDefinition".to_owned(),
    };
    Diagnostic::error(document, "kind", &message).hint(hint)
}

fn refuse(diagnostics: &[Diagnostic]) -> CliError {
    manifest::refuse(diagnostics).err().unwrap_or(CliError::Missing { what: "this object" })
}

/// Asks the server whether it would take a document, without keeping it.
pub(crate) async fn rehearse(session: &Session, discovery: &Discovery, document: &Document) -> Result<(), CliError> {
    let resource = resource(discovery, document)?;
    let namespace = namespace(session, document);
    let mut body = document.value.clone();
    if resource.namespaced {
        body["metadata"]["namespace"] = Value::from(namespace);
    }
    let query = format!("?dryRun=All&fieldManager={FIELD_MANAGER}&fieldValidation=Strict");
    let exists = match document.name() {
        "" => false,
        name => session.api.find(&resource.object(namespace, name)).await?.is_some(),
    };
    // An object that is there is changed by `apply` and replaced by `run`; what stands in a job cannot be changed, so
    // its successor is rehearsed under a name that is free.
    let answer = if exists && !manifest::is_runnable(document) {
        let path = format!("{}{query}&force=true", resource.object(namespace, document.name()));
        session.api.apply(&path, &body).await
    } else {
        if let (true, Some(metadata)) = (exists, body["metadata"].as_object_mut()) {
            metadata.remove("name");
            metadata.insert("generateName".to_owned(), Value::from(format!("{}-", document.name())));
        }
        session.api.create(&format!("{}{query}", resource.collection(Some(namespace))), &body).await
    };
    answer.map(|_| ()).map_err(|error| refusal(document, error))
}

fn namespace<'a>(session: &'a Session, document: &'a Document) -> &'a str {
    document.value["metadata"]["namespace"].as_str().unwrap_or(&session.namespace)
}

/// What the API refused, shown where it stands in the file.
fn refusal(document: &Document, error: ApiError) -> CliError {
    let ApiError::Refused(refusal) = error else { return error.into() };
    if !matches!(refusal.code, 400 | 422) {
        return ApiError::Refused(refusal).into();
    }
    let mut diagnostics: Vec<Diagnostic> =
        refusal.causes.iter().map(|cause| Diagnostic::error(document, &cause.field, &cause.message)).collect();
    if diagnostics.is_empty() {
        diagnostics.extend(strict(&refusal.message).map(|(path, message)| Diagnostic::error(document, path, &message)));
    }
    if diagnostics.is_empty() {
        diagnostics.push(Diagnostic::error(document, "", &refusal.message));
    }
    let diagnostics: Vec<_> = diagnostics.into_iter().map(|d| d.hint("change it and run again")).collect();
    refuse(&diagnostics)
}

/// The fields that strict decoding complains about: `… strict decoding error: unknown field "spec.foo", unknown field "spec.bar"`.
fn strict(message: &str) -> impl Iterator<Item = (&str, String)> {
    let complaints = message.split_once("strict decoding error: ").map_or("", |(_, complaints)| complaints);
    complaints.split(", ").filter_map(|complaint| {
        let path = complaint.split('"').nth(1)?;
        let what = complaint.split(" \"").next()?;
        Some((path, format!("{what} `{}`", manifest::path::last(path))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_and_suspension_make_no_difference() {
        let wanted = json!({"replicas": 2, "command": ["a"], "suspend": false});
        assert!(same_spec(&wanted, &json!({"replicas": 2, "command": ["a"], "suspend": true, "backoffLimit": 3})));
        assert!(!same_spec(&wanted, &json!({"replicas": 3, "command": ["a"]})));
        assert!(!same_spec(&wanted, &json!({"replicas": 2, "command": ["a", "b"]})));
    }

    #[test]
    fn strict_decoding_names_fields() {
        let message = r#"Job in version "v1" cannot be handled as a Job: strict decoding error: unknown field "spec.foo", unknown field "spec.bar""#;
        let fields: Vec<_> = strict(message).collect();
        assert_eq!(fields[1], ("spec.bar", "unknown field `bar`".to_owned()));
        assert_eq!(strict("something else").count(), 0);
    }
}
