//! PATCH in its four content types.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use tokio::sync::MutexGuard;
use trainyard_runtime_core::apply::{self, ApplyOptions};
use trainyard_runtime_core::patch as patches;
use trainyard_runtime_core::schema::{self, CauseReason};
use trainyard_runtime_core::store::{Effect, Key, Object, StoreError};

use super::call::Call;
use super::check::{self, Refusal, Writer};
use super::priority::Given;
use super::query::FieldValidation;
use super::status::{ApiError, Subject};
use super::write::{Warnings, has_address, names_itself, within, writable};
use super::{admit, answer, body, now_ms, quota, service_ip, view};
use crate::kinds::Kind;
use crate::store::WriteOptions;

/// The content type of server-side apply.
const APPLY: &str = "application/apply-patch+yaml";

/// A patch, by its content type.
#[derive(Clone, Debug)]
enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    Apply { applied: Value, force: bool },
}

pub(super) async fn patch(call: &Call, content_type: &str, bytes: &Bytes) -> Result<Response, ApiError> {
    writable(call)?;
    let patch = decode(call, content_type, bytes).map_err(|error| {
        // What a patch says matters once there is something to be patched.
        let unread = error.code() == StatusCode::BAD_REQUEST && content_type != APPLY;
        let absent = call.api.store.get(&call.key()).err().filter(|_| unread);
        absent.map_or(error, |absent| call.store_error(absent))
    })?;
    // Server-side apply may create. Whether it does is known when the writer runs; what that needs is looked up before.
    let mut done = attempt(call, patch.clone(), creates(call)).await;
    if matches!(done, Err(Refusal::Vanished(_))) {
        done = attempt(call, patch, true).await;
    }
    done.map_err(|refusal| refusal.into_api(call.kind))
}

/// Patches; an apply creates what is absent only if it is `gated`: counted against quotas, given its address.
async fn attempt(call: &Call, patch: Patch, gated: bool) -> Result<Response, Refusal> {
    let writer = Writer::of(call);
    let warnings = Warnings::default();
    let heard = warnings.clone();
    let key = call.key();
    let applied = if let Patch::Apply { applied, .. } = &patch { Some(applied) } else { None };
    let gates = Gates::take(call, applied.filter(|_| gated)).await?;
    let additions = gates.additions.clone();
    let change = {
        let (writer, key) = (writer.clone(), key.clone());
        let is_view = call.kind.stored_as.is_some();
        move |current: Option<&Object>| -> Result<Value, Refusal> {
            let shown = current.filter(|_| is_view).map(|current| view::shown(writer.kind, current.value()));
            let old = shown.as_ref().or_else(|| current.map(Object::value));
            let (mut new, said) = match (old, patch) {
                // A part of an object creates nothing.
                (None, _) if writer.subresource.is_some() => return Err(StoreError::not_found(&key).into()),
                (None, Patch::Apply { .. }) if !gated => return Err(Refusal::Vanished(key)),
                (None, Patch::Apply { mut applied, force }) => {
                    in_its_place(writer.kind, &key, &mut applied)?;
                    let mut new = applied_over(&writer, None, &applied, force)?;
                    one_that_there_is(&key, &new)?;
                    // What it was before it went does not count.
                    new["metadata"]["resourceVersion"] = Value::Null;
                    if writer.kind.namespaced {
                        new["metadata"]["namespace"] = Value::from(&*key.namespace);
                    }
                    let (new, told) = writer.read(new)?;
                    after(told, writer.created(new, false))?
                }
                (None, Patch::Json(_) | Patch::Merge(_) | Patch::Strategic(_)) => {
                    return Err(StoreError::not_found(&key).into());
                }
                (Some(old), patch) => patched(&writer, &key, current, old, patch)?,
            };
            heard.put(said);
            additions.complete(&writer, old, &mut new)?;
            Ok(if is_view { view::stored(writer.kind, &new) } else { new })
        }
    };
    let options = WriteOptions {
        part: writer.part,
        dry_run: call.params.dry_run,
        keep_status: admit::sets_status(call.kind),
        frees: call.is_deleting(),
    };
    let outcome = match call.api.store.transact(&key, options, change).await {
        Ok(outcome) => outcome,
        Err(Refusal::Vanished(key)) => return Err(Refusal::Vanished(key)),
        Err(refusal) => {
            let error = refusal.into_api(call.kind);
            let mut told = warnings.take();
            // Of what is not valid only what could not be read is told.
            told.retain(|said| error.code() != StatusCode::UNPROCESSABLE_ENTITY || is_of_reading(said));
            return Err(error.preceded_by(told).into());
        }
    };
    drop(gates);
    let status = match outcome.effect {
        Effect::Created => StatusCode::CREATED,
        Effect::Updated | Effect::Unchanged | Effect::Deleting | Effect::Deleted => StatusCode::OK,
    };
    Ok(answer::warn(answer::object(call, status, &outcome.object)?, &warnings.take()))
}

/// Whether a warning is of how an object was read, and not of what it says.
fn is_of_reading(warning: &str) -> bool {
    ["unknown field", "duplicate field", ".metadata."].iter().any(|start| warning.starts_with(start))
}

/// Whether an apply would create (as far as can be known before the writer runs, which decides it).
fn creates(call: &Call) -> bool {
    call.subresource.is_empty() && call.api.store.get(&call.key()).is_err()
}

/// What is held while a patch is carried out.
#[derive(Default)]
struct Gates<'a> {
    _quota: Option<MutexGuard<'a, ()>>,
    _address: Option<MutexGuard<'a, ()>>,
    additions: Additions,
}

/// What admission adds to an object that nobody applied.
#[derive(Clone, Debug, Default)]
struct Additions {
    priority: Option<Given>,
    limit_ranges: Vec<Arc<Object>>,
    /// For services.
    addresses: Option<service_ip::Taken>,
}

impl Additions {
    fn complete(&self, writer: &Writer, old: Option<&Value>, object: &mut Value) -> Result<(), ApiError> {
        if old.is_none() {
            if let Some(given) = &self.priority {
                given.write(object);
            }
            quota::complete(&self.limit_ranges, object);
        }
        self.addresses.as_ref().map_or(Ok(()), |taken| taken.settle(writer.kind, old, object))
    }
}

impl<'a> Gates<'a> {
    /// `created` is what would be created.
    async fn take(call: &'a Call, created: Option<&Value>) -> Result<Self, ApiError> {
        let mut gates = Self::default();
        if let Some(created) = created {
            let mut value = created.clone();
            if (call.kind.group, call.kind.plural) == ("", "pods") {
                gates.additions.priority = Some(Given::to(&call.api, &value)?);
                gates.additions.limit_ranges = quota::limit_ranges(&call.api, &call.namespace);
                gates._quota = quota::admit_pod(&call.api, &call.namespace, &mut value).await?;
            } else {
                gates._quota = quota::admit(&call.api, &call.resource, &call.namespace, &value).await?;
            }
        }
        if has_address(call) {
            let (gate, taken) = service_ip::taken(&call.api).await;
            gates._address = Some(gate);
            gates.additions.addresses = Some(taken);
        }
        Ok(gates)
    }
}

/// Whether the kind takes patches of this type.
pub(super) fn supported(call: &Call, content_type: &str) -> Result<(), ApiError> {
    match content_type {
        "application/json-patch+json" | "application/merge-patch+json" | APPLY => Ok(()),
        "application/strategic-merge-patch+json" if call.kind.builtin => Ok(()),
        _ => Err(ApiError::unsupported_patch()),
    }
}

fn decode(call: &Call, content_type: &str, bytes: &Bytes) -> Result<Patch, ApiError> {
    supported(call, content_type)?;
    if call.params.force && content_type != APPLY {
        let cause = trainyard_runtime_core::store::FieldCause {
            field: "force".to_owned(),
            reason: CauseReason::Forbidden.as_str(),
            message: "Forbidden: may not be specified for non-apply patch".to_owned(),
        };
        return Err(ApiError::invalid(Subject::new("meta.k8s.io", "PatchOptions", ""), vec![cause]));
    }
    match content_type {
        "application/json-patch+json" => Ok(Patch::Json(body::json(bytes)?)),
        "application/merge-patch+json" => Ok(Patch::Merge(body::json(bytes)?)),
        "application/strategic-merge-patch+json" if call.kind.builtin => Ok(Patch::Strategic(body::json(bytes)?)),
        APPLY => {
            let applied = body::yaml(bytes)?;
            says_what_it_is(call, &applied)?;
            let applied = Writer::of(call).identified(applied)?;
            managed(call)?;
            declared(call, &applied)?;
            Ok(Patch::Apply { applied, force: call.params.force })
        }
        _ => Err(ApiError::unsupported_patch()),
    }
}

/// Who applies says who he is.
pub(super) fn managed(call: &Call) -> Result<(), ApiError> {
    if call.params.field_manager.is_some() {
        return Ok(());
    }
    let message = "Required value: is required for apply patch".to_owned();
    let cause = trainyard_runtime_core::store::FieldCause {
        field: "fieldManager".to_owned(),
        reason: CauseReason::Required.as_str(),
        message,
    };
    Err(ApiError::invalid(Subject::new("meta.k8s.io", "PatchOptions", ""), vec![cause]))
}

/// An applied object names its kind itself.
fn says_what_it_is(call: &Call, applied: &Value) -> Result<(), ApiError> {
    let text = |field: &str| applied[field].as_str().unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version == call.kind.api_version() && kind == call.kind.kind {
        return Ok(());
    }
    let version = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
    Err(ApiError::bad_request(format!("invalid object type: {version}, Kind={kind}")))
}

/// Ownership of a field that the kind does not have cannot be told: unlike other writes an apply never drops it.
fn declared(call: &Call, applied: &Value) -> Result<(), ApiError> {
    let kind = call.kind;
    let unknown = if kind.builtin { schema::unknown_fields(kind.schema(), applied) } else { Vec::new() };
    let problem = match unknown.first() {
        Some(field) => format!(".{}: field not declared in schema", field.path),
        None => match schema::validate(kind.schema(), applied).iter().find(|c| c.reason == CauseReason::TypeInvalid) {
            Some(cause) => format!(".{cause}"),
            None => return Ok(()),
        },
    };
    let text = |at: &str| applied.pointer(at).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = (kind.group, kind.version);
    Err(ApiError::bad_request(format!(
        "failed to create typed patch object ({}/{}; {group}/{version}, Kind={}): {problem}",
        text("/metadata/namespace"),
        text("/metadata/name"),
        kind.kind,
    )))
}

/// With the warnings that were known before.
fn after(
    mut told: Vec<String>,
    done: Result<(Value, Vec<String>), ApiError>,
) -> Result<(Value, Vec<String>), ApiError> {
    match done {
        Ok((value, more)) => {
            told.extend(more);
            Ok((value, told))
        }
        Err(error) => Err(error.preceded_by(told)),
    }
}

/// Who applies a uid means an object that has it.
fn one_that_there_is(key: &Key, new: &Value) -> Result<(), StoreError> {
    let Some(uid) = new["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty()) else { return Ok(()) };
    Err(StoreError::Conflict {
        resource: key.resource.clone(),
        name: key.name.to_string(),
        message: format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found"),
    })
}

/// An object has the name and the namespace of its path.
fn in_its_place(kind: &Kind, key: &Key, object: &mut Value) -> Result<(), ApiError> {
    within(kind, &key.namespace, object)?;
    names_itself(&key.name, object)
}

fn patched(
    writer: &Writer,
    key: &Key,
    current: Option<&Object>,
    old: &Value,
    patch: Patch,
) -> Result<(Value, Vec<String>), Refusal> {
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    let refused = |error| check::patch_error(error, Subject::new(writer.kind.group, writer.kind.kind, name));
    let new = match patch {
        Patch::Json(patch) => patches::json(old, &patch).map_err(refused)?,
        // Where nobody asks for unknown fields the patch itself is not read apart.
        Patch::Merge(patch) if writer.validation == FieldValidation::Ignore && patch.is_array() => {
            return Err(ApiError::unreadable("the JSON of the patch is no object").into());
        }
        Patch::Merge(patch) => patches::merge(old, &patch).map_err(refused)?,
        Patch::Strategic(patch) => {
            let mut new = patches::strategic(old, &patch, writer.kind.schema()).map_err(refused)?;
            if ["apiVersion", "kind"].iter().any(|field| !new[field].is_string() && !new[field].is_null()) {
                return Err(ApiError::unreadable("the JSON of the patch names its kind by what is no string").into());
            }
            // It changes an object of a known kind, whatever it says.
            for field in ["apiVersion", "kind"] {
                new[field] = old[field].clone();
            }
            new
        }
        Patch::Apply { applied, force } => {
            let mut new = applied_over(writer, Some(old), &applied, force)?;
            in_its_place(writer.kind, key, &mut new)?;
            if let Some(current) = current {
                current.is_at(&applied)?;
            }
            let (new, told) = writer.read(new)?;
            return Ok(after(told, writer.updated(old, new, false))?);
        }
    };
    writer.patched_into(name, &new)?;
    let (mut new, told) = writer.read_patched(new).map_err(ApiError::of_patch)?;
    // What is no object of the kind is not asked for its name.
    same_object(old, &mut new).map_err(|error| {
        let unread = writer.typed(&new).map_err(ApiError::of_patch).err();
        unread.unwrap_or_else(|| error.preceded_by(told.clone()))
    })?;
    let meant = current.map_or(Ok(()), |current| current.is_at(&new)).and_then(|()| writer.versioned(key, &new));
    if let Err(error) = meant {
        return Err(Refusal::from(error).into_api(writer.kind).preceded_by(told).into());
    }
    Ok(after(told, writer.updated(old, new, true).map_err(ApiError::of_patch))?)
}

pub(super) fn applied_over(
    writer: &Writer,
    old: Option<&Value>,
    applied: &Value,
    force: bool,
) -> Result<Value, ApiError> {
    let options = ApplyOptions {
        manager: &writer.manager,
        force,
        now_ms: now_ms(),
        subresource: writer.subresource,
        has_status: writer.kind.status,
        api_version: &writer.kind.api_version(),
    };
    let new = apply::apply(old, applied, writer.kind.schema(), options).map_err(check::apply_error)?;
    // Where fields are owned one by one a null is a value, which custom resources seldom allow; and what nothing is left of.
    let mut nulls = if writer.kind.builtin { Vec::new() } else { schema::nulls(writer.kind.schema(), &new) };
    if nulls.is_empty() {
        return Ok(new);
    }
    writer.kind.tell(&mut nulls);
    nulls.extend(writer.kind.scale_causes(&new));
    let name = applied["metadata"]["name"].as_str().unwrap_or_default();
    Err(check::invalid(writer.kind, name, nulls))
}

/// A patch changes an object; it does not make another one of it.
fn same_object(old: &Value, new: &mut Value) -> Result<(), ApiError> {
    for field in ["namespace", "name"] {
        let text = |object: &Value| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (had, has) = (text(old), text(new));
        if has.is_empty() && field == "name" {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({had} based on URL) was undeterminable: name must be provided"
            )));
        }
        let outside = field == "namespace" && (has.is_empty() || had.is_empty());
        if outside {
            new["metadata"][field] = old["metadata"][field].clone();
        } else if had != has && field == "namespace" {
            let message = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(ApiError::bad_request(message));
        } else if had != has {
            let message = format!("the {field} of the object ({has}) does not match the {field} on the URL ({had})");
            return Err(ApiError::bad_request(message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::accept::Form;
    use super::super::query::Params;
    use super::super::{Api, rules, seed};
    use super::*;
    use crate::auth::{Tokens, User};
    use crate::metrics::Metrics;
    use crate::store::{Options, Resource, Store, WriteOptions};

    async fn call(home: &std::path::Path) -> Call {
        let options = Options::new(home.join("store.db"), rules(crate::kinds::registry()));
        let store = Store::open(options).await.expect("opens");
        seed(&store).await.expect("seeded");
        Call {
            api: Arc::new(Api::new(store, home.to_owned(), Metrics::new(), Tokens::default(), false)),
            kind: crate::kinds::registry().by_resource("", "v1", "services").expect("served"),
            resource: Resource::new("", "services"),
            namespace: "default".to_owned(),
            name: "s".to_owned(),
            subresource: String::new(),
            params: Params { field_manager: Some("m".to_owned()), ..Params::default() },
            form: Form::default(),
            manager: "m".to_owned(),
            user: Arc::new(User::owner()),
            remote: false,
        }
    }

    /// The object goes between the look and the write: what would be created then has passed no gate.
    #[tokio::test]
    async fn an_apply_that_finds_its_object_gone_is_counted_before_it_creates() {
        let home = tempfile::tempdir().expect("a folder");
        let call = call(home.path()).await;
        let applied =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}});
        let patch = Patch::Apply { applied: applied.clone(), force: false };
        let found_gone = attempt(&call, patch, false).await;
        assert!(matches!(found_gone, Err(Refusal::Vanished(_))), "{found_gone:?}");
        assert!(call.api.store.get(&call.key()).is_err(), "nothing was created");
        let bytes = || Bytes::from(applied.to_string());
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"services": "0"}}});
        let quotas = Resource::new("", "resourcequotas");
        call.api.store.create(&quotas, "default", quota, WriteOptions::default()).await.expect("created");
        let refused = super::patch(&call, "application/apply-patch+yaml", &bytes()).await.expect_err("over the quota");
        assert_eq!(refused.code(), StatusCode::FORBIDDEN);
        let status = Call { subresource: "status".to_owned(), ..call.clone() };
        let refused = super::patch(&status, "application/apply-patch+yaml", &bytes()).await.expect_err("absent");
        assert_eq!(refused.code(), StatusCode::NOT_FOUND);
    }
}
