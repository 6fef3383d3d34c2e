//! Experiments that are there, with their trials.

use serde_json::Value;
use trainyard_proto::tuning::EXPERIMENT;
use trainyard_tuner::record::Record;

use crate::api::query;
use crate::error::CliError;
use crate::session::Session;

/// Reads an experiment and its trials.
pub(super) async fn record(session: &Session, name: &str) -> Result<Record, CliError> {
    // As other commands name objects.
    let name = name.strip_prefix("experiment/").unwrap_or(name);
    let root = format!("/apis/trainyard.dev/v1alpha1/namespaces/{}", session.namespace);
    let is_name = !name.is_empty() && name.chars().all(|sign| sign.is_ascii_alphanumeric() || "-.".contains(sign));
    let found = if is_name { session.api.find(&format!("{root}/experiments/{name}")).await? } else { None };
    let Some(experiment) = found else {
        return Err(CliError::NotFound {
            what: format!("experiment `{name}` in namespace `{}`", session.namespace),
            hint: "`trainyard get experiments -A` lists those that are there".to_owned(),
        });
    };
    let selector = query(&format!("{EXPERIMENT}={name}"));
    let trials = session.api.get(&format!("{root}/trials?labelSelector={selector}")).await?;
    let trials = trials["items"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    Record::read(&experiment, trials).map_err(|wrong| CliError::Refused {
        message: format!("experiment {name}: {wrong}"),
        hint: None,
        status: 422,
    })
}
