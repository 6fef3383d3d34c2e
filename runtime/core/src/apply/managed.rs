//! `metadata.managedFields`: reading, writing, bounding.

use serde_json::{Map, Value, json};

use super::set::FieldSet;

/// Who owns a set of fields, by which operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manager {
    pub(super) name: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
}

/// How a manager came to own fields. The order is that of the list on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: Manager,
    pub(super) time: Option<String>,
    pub(super) set: FieldSet,
}

/// Older managers by update are folded into one above this number, as upstream (`DefaultMaxUpdateManagers`).
const MAX_UPDATE_MANAGERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

impl Manager {
    /// Whether two entries are of the same manager: for apply the version does not count.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.name == other.name
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
}

impl Manager {
    /// What the API server knows a manager by: his entry as JSON, without what he owns and since when.
    pub(super) fn identifier(&self) -> String {
        let mut identity = Map::new();
        identity.insert("manager".to_owned(), json!(self.name));
        identity.insert("operation".to_owned(), json!(self.operation.as_str()));
        if self.operation == Operation::Update {
            identity.insert("apiVersion".to_owned(), json!(self.api_version));
        }
        if !self.subresource.is_empty() {
            identity.insert("subresource".to_owned(), json!(self.subresource));
        }
        Value::Object(identity).to_string()
    }
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

impl Entry {
    /// The manager as messages name it.
    pub(super) fn described(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("{:?}", self.manager.name);
        // Writing to a string cannot fail.
        if !self.manager.subresource.is_empty() {
            let _ = write!(text, " with subresource {:?}", self.manager.subresource);
        }
        if self.manager.operation == Operation::Update {
            let _ = write!(text, " using {}", self.manager.api_version);
        }
        text
    }
}

/// The list in an object; empty if there is none.
pub(super) fn list(object: &Value) -> &[Value] {
    object.pointer("/metadata/managedFields").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Reads the list; `None` if an entry makes no sense. Of two entries of one manager the last counts, as it does upstream.
pub(super) fn decode(list: &[Value]) -> Option<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::with_capacity(list.len());
    for value in list {
        let entry = decode_entry(value)?;
        entries.retain(|known| !known.manager.is(&entry.manager));
        entries.push(entry);
    }
    Some(entries)
}

fn decode_entry(value: &Value) -> Option<Entry> {
    let map = value.as_object()?;
    let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let operation = match text("operation").as_str() {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return None,
    };
    if !matches!(text("fieldsType").as_str(), "" | "FieldsV1") {
        return None;
    }
    let set = map.get("fieldsV1").map_or_else(|| Some(FieldSet::default()), FieldSet::decode)?;
    let time = map.get("time").and_then(Value::as_str).map(str::to_owned);
    Some(Entry {
        manager: Manager {
            name: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
        },
        time,
        set,
    })
}

/// Writes the list into an object, or removes it where nobody owns anything.
pub(super) fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.set.is_empty());
    fold_ancient(&mut entries);
    entries.sort_by(|a, b| {
        let key = |entry: &Entry| {
            (entry.manager.operation, entry.time.clone(), entry.manager.name.clone(), entry.manager.api_version.clone())
        };
        key(a).cmp(&key(b)).then_with(|| a.manager.subresource.cmp(&b.manager.subresource))
    });
    let Some(root) = object.as_object_mut() else { return };
    let metadata = root.entry("metadata").or_insert_with(|| json!({}));
    let Some(metadata) = metadata.as_object_mut() else { return };
    if entries.is_empty() {
        metadata.shift_remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), entries.iter().map(encode_entry).collect());
    }
}

fn encode_entry(entry: &Entry) -> Value {
    let mut map = Map::new();
    map.insert("apiVersion".to_owned(), json!(entry.manager.api_version));
    map.insert("fieldsType".to_owned(), json!("FieldsV1"));
    map.insert("fieldsV1".to_owned(), entry.set.encode());
    map.insert("manager".to_owned(), json!(entry.manager.name));
    map.insert("operation".to_owned(), json!(entry.manager.operation.as_str()));
    if !entry.manager.subresource.is_empty() {
        map.insert("subresource".to_owned(), json!(entry.manager.subresource));
    }
    if let Some(time) = &entry.time {
        map.insert("time".to_owned(), json!(time));
    }
    Value::Object(map)
}

/// Folds the oldest managers by update into one.
fn fold_ancient(entries: &mut Vec<Entry>) {
    loop {
        let mut updates: Vec<usize> =
            (0..entries.len()).filter(|index| entries[*index].manager.operation == Operation::Update).collect();
        if updates.len() <= MAX_UPDATE_MANAGERS {
            return;
        }
        updates.sort_by(|a, b| entries[*a].time.cmp(&entries[*b].time));
        let Some(oldest) = updates.into_iter().find(|index| entries[*index].manager.name != ANCIENT) else { return };
        let folded = entries.remove(oldest);
        let ancient = Manager { name: ANCIENT.to_owned(), ..folded.manager.clone() };
        match entries.iter_mut().find(|entry| entry.manager.is(&ancient)) {
            Some(entry) => {
                entry.set = entry.set.union(&folded.set);
                entry.time = entry.time.take().max(folded.time);
            }
            // One for another: the number stays. Ten versions of one kind do not exist, so this ends.
            None => {
                entries.push(Entry { manager: ancient, ..folded });
            }
        }
    }
}
