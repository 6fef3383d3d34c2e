//! Server-side apply: who owns which field, and what an applied object changes.
//!
//! The rules are those of `sigs.k8s.io/structured-merge-diff` and of the API server's field managers around it. Each manager owns a
//! set of fields. Applying an object means: its fields get the applied values and the manager, fields that the manager applied
//! before and no longer does are removed unless somebody else owns them too, and a field of somebody else that would change
//! is a conflict. An ordinary write takes whatever it changes.

mod identity;
mod managed;
mod scale;
mod set;
mod typed;

use serde_json::{Map, Value};

use crate::schema::{Schema, settle_nulls};

pub use identity::item_identity;
use managed::{Entry, Manager, Operation};
pub use scale::{split_scale, track_scale};
use set::{FieldSet, Step};

/// How an object is applied.
#[derive(Debug, Clone, Copy)]
pub struct ApplyOptions<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// Whether to take fields from other managers.
    pub force: bool,
    /// When.
    pub now_ms: i64,
    /// `None` for the object itself, `Some("status")` for its status. Where a kind has a status subresource, the
    /// object itself cannot be used to change it.
    pub subresource: Option<&'a str>,
    /// Whether the kind has a status subresource.
    pub has_status: bool,
    /// The version that the manager speaks (`batch/v1`).
    pub api_version: &'a str,
}

/// Why an object was not applied.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApplyError {
    /// Other managers own fields that would change (409).
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The applied object cannot be used (400).
    #[error("{0}")]
    Malformed(String),
}

/// A field that somebody else owns: the cause `FieldManagerConflict` of a 409.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The manager that owns it.
    pub manager: String,
    /// The manager as messages name it: `"kubectl-edit" using apps/v1`.
    pub described: String,
    /// The field: `.spec.replicas`.
    pub field: String,
    /// What managers stand in order by in messages.
    rank: String,
}

impl Conflict {
    /// The message of the cause.
    pub fn message(&self) -> String {
        format!("conflict with {}", self.described)
    }
}

/// The message of a 409.
pub fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", only.described, only.field);
    }
    let mut lines: Vec<String> = Vec::new();
    let mut last = None;
    let mut sorted: Vec<&Conflict> = conflicts.iter().collect();
    sorted.sort_by(|a, b| a.rank.cmp(&b.rank));
    for conflict in sorted {
        if last != Some(&conflict.described) {
            lines.push(format!("conflicts with {}:", conflict.described));
            last = Some(&conflict.described);
        }
        lines.push(format!("- {}", conflict.field));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Applies `applied` over `live` (`None`: it is created). The result carries `metadata.managedFields`. When nothing changed the
/// result equals `live`, down to the times in the managed fields: nothing needs to be written then.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    schema: &Schema,
    options: ApplyOptions<'_>,
) -> Result<Value, ApplyError> {
    if !applied.is_object() {
        return Err(ApplyError::Malformed("an applied object must be an object".to_owned()));
    }
    if !managed::list(applied).is_empty() {
        return Err(ApplyError::Malformed("metadata.managedFields must be nil".to_owned()));
    }
    let applied = restricted(applied, options.subresource, is_native(options.api_version));
    if let Some(problem) = typed::ambiguity(schema, &applied) {
        let text = |at: &str| applied.pointer(at).and_then(Value::as_str).unwrap_or_default();
        let (namespace, name, kind) = (text("/metadata/namespace"), text("/metadata/name"), text("/kind"));
        let gv = options.api_version;
        let gv = if gv.contains('/') { gv.to_owned() } else { format!("/{gv}") };
        return Err(ApplyError::Malformed(format!(
            "failed to create typed patch object ({namespace}/{name}; {gv}, Kind={kind}): {problem}"
        )));
    }
    match merge_applied(live, &applied, schema, options) {
        Err(ApplyError::Conflicts(conflicts)) if options.manager == "kubectl" => {
            // Who moves from client-side to server-side apply conflicts with his own earlier self: what the annotation says that
            // he applied is his, unless somebody changed it since.
            let mine = live.map(|live| last_applied_fields(schema, live)).unwrap_or_default().paths();
            let others: Vec<Conflict> =
                conflicts.into_iter().filter(|conflict| !mine.contains(&conflict.field)).collect();
            if !others.is_empty() {
                return Err(ApplyError::Conflicts(others));
            }
            merge_applied(live, &applied, schema, ApplyOptions { force: true, ..options })
        }
        other => other,
    }
}

fn merge_applied(
    live: Option<&Value>,
    applied: &Value,
    schema: &Schema,
    options: ApplyOptions<'_>,
) -> Result<Value, ApplyError> {
    let empty = Value::Object(Map::new());
    let bare = live.map(without_managed);
    let before = bare.as_ref().unwrap_or(&empty);
    let mut entries = live.and_then(|live| managed::decode(managed::list(live))).unwrap_or_default();
    if let Some(live) = bare.as_ref().filter(|_| entries.is_empty()) {
        entries.extend(first_entry(live, schema, options.api_version));
    }
    let native = is_native(options.api_version);
    let ignored = ignored(options.subresource, options.has_status, native);
    let me = Manager {
        name: options.manager.to_owned(),
        operation: Operation::Apply,
        api_version: options.api_version.to_owned(),
        subresource: options.subresource.unwrap_or_default().to_owned(),
    };
    let place = entries.iter().position(|entry| entry.manager.is(&me));
    let last = place.map(|place| entries.remove(place));
    let wanted = typed::fields_of(schema, applied).recursive_difference(&ignored);
    let mine = stripped(wanted.clone());

    let mut merged = typed::merge(schema, before, applied);
    if let Some(last) = &last {
        // With the name and the like: nobody owns them, yet they must not go with a struct that nobody owns any more.
        let owned = entries.iter().fold(wanted, |owned, entry| owned.union(&entry.set));
        merged = prune(schema, &merged, &last.set, &owned, !native);
    }
    let difference = typed::compare(schema, before, &merged).without(&ignored);
    take(&mut entries, &difference, options.force)?;
    // A null is a value that one owns; Kubernetes' own kinds keep none.
    if native {
        settle_nulls(schema, &mut merged);
    }
    let unchanged = difference.is_empty() || typed::compare(schema, before, &merged).without(&ignored).is_empty();

    // The time is that of the last change of the object, not of its ownership.
    let time = if unchanged { last.as_ref().and_then(|last| last.time.clone()) } else { Some(time(options.now_ms)) };
    entries.push(Entry { manager: me, time, set: mine });
    if options.manager == "kubectl" {
        refresh_last_applied(&mut merged, applied);
    }
    managed::write(&mut merged, entries);
    match live {
        // The same fields with the same owners: the very object, so that the caller sees that nothing is to be written.
        Some(live) if unchanged && *live == merged => Ok(live.clone()),
        Some(_) | None => Ok(merged),
    }
}

/// Removes what the manager applied last time, does not apply now, and nobody else owns. What is emptied by that is a null
/// afterwards; to Kubernetes' own kinds, which have no `nulls`, it is nothing but empty.
fn prune(schema: &Schema, merged: &Value, last: &FieldSet, owned: &FieldSet, nulls: bool) -> Value {
    let last = last.with_structs(schema);
    let pruned = typed::remove(schema, merged, &last, nulls);
    let all = typed::fields_of(schema, merged).with_structs(schema);
    let left = typed::fields_of(schema, &pruned).with_structs(schema);
    let gone = all.difference(&left).difference(&owned.with_structs(schema)).intersection(&last);
    typed::remove(schema, merged, &gone, nulls)
}

/// Takes changed and removed fields from all managers; changed ones only by force.
fn take(entries: &mut Vec<Entry>, difference: &typed::Difference, force: bool) -> Result<(), ApplyError> {
    let changed = difference.modified.union(&difference.added);
    if !force {
        let conflicts: Vec<Conflict> = entries
            .iter()
            .flat_map(|entry| entry.set.intersection(&changed).paths().into_iter().map(move |field| (entry, field)))
            .map(|(entry, field)| Conflict {
                manager: entry.manager.name.clone(),
                described: entry.described(),
                field,
                rank: entry.manager.identifier(),
            })
            .collect();
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    for entry in &mut *entries {
        entry.set = entry.set.difference(&changed).difference(&difference.removed);
    }
    entries.retain(|entry| !entry.set.is_empty());
    Ok(())
}

/// Who made an ordinary write (create, update, patch).
#[derive(Debug, Clone, Copy)]
pub struct UpdateOptions<'a> {
    /// The field manager (`fieldManager`, or else the first word of the user agent).
    pub manager: &'a str,
    /// When.
    pub now_ms: i64,
    /// `None` for the object itself, else `status`, `scale`…
    pub subresource: Option<&'a str>,
    /// Whether the kind has a status subresource.
    pub has_status: bool,
    /// The version that the manager speaks.
    pub api_version: &'a str,
}

/// Writes into `new.metadata.managedFields` who owns what after an ordinary write that turned `old` (`None`: it is created) into `new`.
///
/// What `new` says there on arrival counts if it makes sense: clients may hand ownership over. An empty list does not count
/// here, since it is what clients write that do not know the field; a list of one empty entry (`[{}]`) resets ownership.
pub fn track_update(old: Option<&Value>, new: &mut Value, schema: &Schema, options: UpdateOptions<'_>) {
    let mut entries = starting_entries(old, new, options.subresource.is_some());
    // Nobody owned anything so far: then ownership begins with the first apply, as on a cluster.
    if old.is_some() && entries.is_empty() {
        managed::write(new, entries);
        return;
    }
    let empty = Value::Object(Map::new());
    let after = without_managed(new);
    let before = match old {
        Some(old) => with_status_of(without_managed(old), &after, options.api_version),
        None if is_native(options.api_version) => skeleton(&after),
        None => empty,
    };
    let ignored = ignored(options.subresource, options.has_status, is_native(options.api_version));
    let difference = typed::compare(schema, &before, &after).without(&ignored);
    let mine = stripped(difference.added.union(&difference.modified));
    // By force, so it cannot fail.
    let _ = take(&mut entries, &difference, true);
    if !mine.is_empty() {
        let me = Manager {
            name: options.manager.to_owned(),
            operation: Operation::Update,
            api_version: options.api_version.to_owned(),
            subresource: options.subresource.unwrap_or_default().to_owned(),
        };
        let now = Some(time(options.now_ms));
        match entries.iter_mut().find(|entry| entry.manager.is(&me)) {
            Some(entry) => {
                entry.set = entry.set.union(&mine);
                entry.time = now;
            }
            None => entries.push(Entry { manager: me, time: now, set: mine }),
        }
    }
    managed::write(new, entries);
}

/// The status of Kubernetes' own kinds is no pointer: an empty one is there before it is written.
fn with_status_of(mut before: Value, after: &Value, api_version: &str) -> Value {
    let absent = before.get("status").is_none() && after.get("status").is_some_and(Value::is_object);
    if let (true, Some(before)) = (absent && is_native(api_version), before.as_object_mut()) {
        before.insert("status".to_owned(), Value::Object(Map::new()));
    }
    before
}

/// Whether the kinds of this version are Kubernetes' own.
fn is_native(api_version: &str) -> bool {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    !group.contains('.') || (group.ends_with(".k8s.io") && !group.ends_with(".x-k8s.io"))
}

/// What of a new object counts as there before: the parts that every object of Kubernetes' own kinds has, since they are
/// no pointers in its types. Nobody owns them as such.
fn skeleton(object: &Value) -> Value {
    const PARTS: [&[&str]; 8] = [
        &["metadata"],
        &["spec"],
        &["status"],
        &["spec", "strategy"],
        &["spec", "template"],
        &["spec", "template", "metadata"],
        &["spec", "template", "spec"],
        &["involvedObject"],
    ];
    const LISTS: [&[&str]; 2] = [&["spec", "containers"], &["spec", "template", "spec", "containers"]];
    let mut bones = Value::Object(Map::new());
    for text in ["reportingComponent", "reportingInstance"] {
        if object.get(text).is_some_and(|text| *text == "") {
            bones[text] = Value::from("");
        }
    }
    for (path, is_part) in PARTS.iter().map(|path| (path, true)).chain(LISTS.iter().map(|path| (path, false))) {
        let Some(present) = path.iter().try_fold(object, |value, step| value.get(step)) else { continue };
        let Some((last, parents)) = path.split_last() else { continue };
        let parent = parents.iter().try_fold(&mut bones, |value, step| value.get_mut(step));
        if let (Some(Value::Object(parent)), true) =
            (parent, if is_part { present.is_object() } else { present.is_array() })
        {
            parent
                .insert((*last).to_owned(), if is_part { Value::Object(Map::new()) } else { Value::Array(Vec::new()) });
        }
    }
    bones
}

fn starting_entries(old: Option<&Value>, new: &Value, subresource: bool) -> Vec<Entry> {
    let live = || old.and_then(|old| managed::decode(managed::list(old))).unwrap_or_default();
    if subresource {
        return live();
    }
    let given = managed::list(new);
    if let [Value::Object(only)] = given
        && only.is_empty()
    {
        return Vec::new();
    }
    managed::decode(given).filter(|entries| !entries.is_empty()).unwrap_or_else(live)
}

/// The fields of an object that nobody tracked so far.
fn first_entry(live: &Value, schema: &Schema, api_version: &str) -> Option<Entry> {
    let set = stripped(typed::fields_of(schema, live));
    let manager = Manager {
        name: "before-first-apply".to_owned(),
        operation: Operation::Update,
        api_version: api_version.to_owned(),
        subresource: String::new(),
    };
    (!set.is_empty()).then_some(Entry { manager, time: None, set })
}

/// Fields that nobody owns: what names the object, and what the server writes.
fn stripped(set: FieldSet) -> FieldSet {
    const METADATA: [&str; 9] = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    let mut gone = FieldSet::default();
    for name in ["apiVersion", "kind"] {
        gone.attach(Step::Field(name.to_owned()), FieldSet::leaf());
    }
    let mut metadata = FieldSet::leaf();
    for name in METADATA {
        metadata.attach(Step::Field(name.to_owned()), FieldSet::leaf());
    }
    gone.attach(Step::Field("metadata".to_owned()), metadata);
    set.difference(&gone)
}

/// Fields that a write to this subresource cannot change. Labels and the like of Kubernetes' own kinds change with either.
fn ignored(subresource: Option<&str>, has_status: bool, native: bool) -> FieldSet {
    let mut set = FieldSet::default();
    let names: &[&str] = match subresource {
        Some("status") if native => &["apiVersion", "kind", "spec"],
        Some("status") => &["apiVersion", "kind", "metadata", "spec"],
        None if has_status => &["status"],
        Some(_) | None => &[],
    };
    for name in names {
        set.attach(Step::Field((*name).to_owned()), FieldSet::leaf());
    }
    set
}

/// What of an applied object counts when it is applied to a subresource.
fn restricted(applied: &Value, subresource: Option<&str>, native: bool) -> Value {
    match (subresource, applied) {
        (Some("status"), Value::Object(map)) if native => {
            Value::Object(map.iter().filter(|(name, _)| *name != "spec").map(|(k, v)| (k.clone(), v.clone())).collect())
        }
        (Some("status"), Value::Object(map)) => {
            let mut kept = Map::new();
            for name in ["apiVersion", "kind", "status"] {
                if let Some(value) = map.get(name) {
                    kept.insert(name.to_owned(), value.clone());
                }
            }
            Value::Object(kept)
        }
        _ => applied.clone(),
    }
}

fn without_managed(object: &Value) -> Value {
    let mut bare = object.clone();
    if let Some(Value::Object(metadata)) = bare.get_mut("metadata") {
        metadata.shift_remove("managedFields");
    }
    bare
}

/// The annotation of client-side apply.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn last_applied(live: &Value) -> Option<Value> {
    serde_json::from_str(live.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?).ok()
}

/// The fields that client-side apply wrote and that still are as it wrote them.
fn last_applied_fields(schema: &Schema, live: &Value) -> FieldSet {
    let Some(last) = last_applied(live) else { return FieldSet::default() };
    let difference = typed::compare(schema, &last, live);
    let changed = difference.modified.union(&difference.added).union(&difference.removed);
    typed::fields_of(schema, &last).difference(&changed)
}

/// Keeps the annotation of client-side apply true where there is one, so that one can go back.
fn refresh_last_applied(merged: &mut Value, applied: &Value) {
    let Some(Value::Object(annotations)) =
        merged.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"))
    else {
        return;
    };
    let Some(present) = annotations.get_mut(LAST_APPLIED) else { return };
    let mut text = applied.clone();
    if let Some(Value::Object(annotations)) =
        text.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"))
    {
        annotations.shift_remove(LAST_APPLIED);
    }
    // The same content in another order of keys is not a change.
    let same = present
        .as_str()
        .and_then(|present| serde_json::from_str::<Value>(present).ok())
        .is_some_and(|present| present == text);
    if !same {
        *present = Value::String(format!("{text}\n"));
    }
}

/// RFC 3339 with whole seconds, as the API writes times.
fn time(now_ms: i64) -> String {
    let seconds = jiff::Timestamp::from_second(now_ms.div_euclid(1000)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    seconds.to_string()
}
