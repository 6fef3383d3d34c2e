//! Ownership of the number of replicas, where it is written through the scale subresource.
//!
//! The API server shows a scale the owners of the number only, as if they spoke of the scale, and takes them back
//! (`k8s.io/apimachinery`, `managedfields.ScaleHandler`). A manager by update speaks a version, and so is another one after
//! that: he is found with an entry of his own for the number, beside the one for all else that he owns. A number that
//! nobody owns stays nobody's.

use serde_json::Value;

use super::UpdateOptions;
use super::managed::{self, Entry, Manager, Operation};
use super::set::{FieldSet, Step};

/// Writes into `new` who owns what after an ordinary write to the scale subresource has turned `old` into it. `replicas` is
/// where the number is (`.spec.replicas`), `said` whether the new number is one: of none nothing is said, which nobody owns.
pub fn track_scale(old: &Value, new: &mut Value, replicas: &str, said: bool, options: UpdateOptions<'_>) {
    let mut entries = managed::decode(managed::list(old)).unwrap_or_default();
    let path = path(replicas);
    let number = |object: &Value| object.pointer(&replicas.replace('.', "/")).and_then(Value::as_i64).unwrap_or(0);
    let owned = entries.iter().any(|entry| holds(entry, &path));
    if owned && number(old) != number(new) {
        for entry in &mut entries {
            entry.set = entry.set.difference(&path);
        }
        if said {
            let manager = Manager {
                name: options.manager.to_owned(),
                operation: Operation::Update,
                api_version: options.api_version.to_owned(),
                subresource: options.subresource.unwrap_or_default().to_owned(),
            };
            entries.retain(|entry| !entry.manager.is(&manager));
            entries.push(Entry { manager, time: Some(super::time(options.now_ms)), set: path.clone() });
        }
    }
    managed::write(new, split(entries, &path));
}

/// Gives managers by update who own the number of replicas beside other fields an entry for it alone.
pub fn split_scale(object: &mut Value, replicas: &str) {
    let entries = managed::decode(managed::list(object)).unwrap_or_default();
    managed::write(object, split(entries, &path(replicas)));
}

/// Such an entry is of no time, unless the number has just been written.
fn split(entries: Vec<Entry>, path: &FieldSet) -> Vec<Entry> {
    let mut all = Vec::with_capacity(entries.len());
    for entry in entries {
        let rest = entry.set.difference(path);
        let scaled = entry.manager.subresource == "scale" && rest.is_empty();
        if entry.manager.operation == Operation::Apply || !holds(&entry, path) || scaled {
            all.push(entry);
            continue;
        }
        all.push(Entry { manager: entry.manager.clone(), time: None, set: path.clone() });
        all.push(Entry { set: rest, ..entry });
    }
    all
}

fn holds(entry: &Entry, path: &FieldSet) -> bool {
    !entry.set.intersection(path).is_empty()
}

fn path(replicas: &str) -> FieldSet {
    replicas.trim_start_matches('.').rsplit('.').fold(FieldSet::leaf(), |inner, name| {
        let mut outer = FieldSet::default();
        outer.attach(Step::Field(name.to_owned()), inner);
        outer
    })
}
