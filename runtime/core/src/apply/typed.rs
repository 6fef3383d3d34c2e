//! Objects seen through their schema: which fields they set, how two of them differ, merging and removing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::identity::item_identity;
use super::set::{FieldSet, Step};
use crate::schema::{List, ListType, MAX_DEPTH, Schema, Shape};

/// How server-side apply sees a value.
enum View<'s> {
    /// Owned as one piece.
    Whole,
    /// A struct or map whose fields are owned one by one; `None`: of no known schema.
    Fields(Option<&'s Schema>),
    /// A list whose items are owned one by one.
    Items(&'s List),
}

fn view<'s>(schema: Option<&'s Schema>, value: &Value) -> View<'s> {
    let Some(schema) = schema.map(|schema| schema.resolve(value)) else {
        return if value.is_object() { View::Fields(None) } else { View::Whole };
    };
    match (&schema.shape, value) {
        (Shape::Object(object), Value::Object(_)) if !object.atomic => View::Fields(Some(schema)),
        (Shape::Any, Value::Object(_)) => View::Fields(None),
        (Shape::List(list), Value::Array(_)) if list.list_type != ListType::Atomic => View::Items(list),
        _ => View::Whole,
    }
}

/// The schema of a field, and whether it is a field of a struct (rather than a key of a map).
fn field<'s>(schema: Option<&'s Schema>, key: &str) -> (Option<&'s Schema>, bool) {
    let Some(Shape::Object(object)) = schema.map(|schema| &schema.shape) else { return (None, false) };
    (object.field(key), object.fields.contains_key(key))
}

fn step(list: &List, item: &Value) -> Option<Step> {
    let identity = item_identity(list, item)?;
    Some(match list.list_type {
        ListType::Map(_) => Step::Key(identity),
        ListType::Set | ListType::Atomic => Step::Value(identity),
    })
}

/// The fields that an object sets.
pub(super) fn fields_of(schema: &Schema, object: &Value) -> FieldSet {
    let mut set = set_of(Some(schema), object, false, 0);
    set.member = false;
    set
}

/// `keyed`: the value of a map key, or an item of a list, which is owned itself besides what is in it.
fn set_of(schema: Option<&Schema>, value: &Value, keyed: bool, depth: usize) -> FieldSet {
    collect(schema, value, keyed, false, depth)
}

/// `every`: maps, structs and lists are in the set themselves, not just what is in them.
fn collect(schema: Option<&Schema>, value: &Value, keyed: bool, every: bool, depth: usize) -> FieldSet {
    let mut set = FieldSet { member: keyed || every, children: BTreeMap::new() };
    if depth > MAX_DEPTH {
        return FieldSet::leaf();
    }
    match (view(schema, value), value) {
        (View::Fields(schema), Value::Object(map)) => {
            set.member |= map.is_empty();
            for (key, child) in map {
                let (inner, named) = field(schema, key);
                set.attach(Step::Field(key.clone()), collect(inner, child, !named, every, depth + 1));
            }
        }
        (View::Items(list), Value::Array(items)) => {
            for item in items {
                if let Some(step) = step(list, item) {
                    set.attach(step, collect(Some(&list.items), item, true, every, depth + 1));
                }
            }
        }
        _ => set.member = true,
    }
    set
}

/// How two objects differ.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Difference {
    fn attach(&mut self, step: &Step, child: Self) {
        self.added.attach(step.clone(), child.added);
        self.modified.attach(step.clone(), child.modified);
        self.removed.attach(step.clone(), child.removed);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Without the fields that do not count.
    pub(super) fn without(self, ignored: &FieldSet) -> Self {
        Self {
            added: self.added.recursive_difference(ignored),
            modified: self.modified.recursive_difference(ignored),
            removed: self.removed.recursive_difference(ignored),
        }
    }
}

/// What turns `old` into `new`.
pub(super) fn compare(schema: &Schema, old: &Value, new: &Value) -> Difference {
    differ(Some(schema), Some(old), Some(new), false, 0)
}

fn differ(schema: Option<&Schema>, old: Option<&Value>, new: Option<&Value>, keyed: bool, depth: usize) -> Difference {
    let mut difference = Difference::default();
    let (old, new) = match (old, new) {
        (None, None) => return difference,
        // A map or list that comes or goes as a whole is a change of itself besides that of its content.
        (None, Some(new)) => return Difference { added: collect(schema, new, keyed, true, depth), ..difference },
        (Some(old), None) => return Difference { removed: collect(schema, old, keyed, true, depth), ..difference },
        (Some(old), Some(new)) if old == new => return difference,
        (Some(old), Some(new)) => (old, new),
    };
    match (view(schema, old), view(schema, new), old, new) {
        (View::Fields(inner), View::Fields(_), Value::Object(before), Value::Object(after)) if depth <= MAX_DEPTH => {
            for key in before.keys().chain(after.keys().filter(|key| !before.contains_key(key.as_str()))) {
                let (inner, named) = field(inner, key);
                let child = differ(inner, before.get(key), after.get(key), !named, depth + 1);
                difference.attach(&Step::Field(key.clone()), child);
            }
        }
        (View::Items(list), View::Items(_), Value::Array(before), Value::Array(after)) if depth <= MAX_DEPTH => {
            let (before, after) = (by_step(list, before), by_step(list, after));
            for step in before.keys().chain(after.keys().filter(|step| !before.contains_key(step))) {
                let child =
                    differ(Some(&list.items), before.get(step).copied(), after.get(step).copied(), true, depth + 1);
                difference.attach(step, child);
            }
        }
        (View::Whole, View::Whole, _, _) => difference.modified.member = true,
        _ => {
            // Another type: all of the one goes, all of the other comes.
            difference.removed = collect(schema, old, keyed, true, depth);
            difference.added = collect(schema, new, keyed, true, depth);
        }
    }
    difference
}

/// Items by what tells them apart; of several with the same keys the first counts.
fn by_step<'v>(list: &List, items: &'v [Value]) -> BTreeMap<Step, &'v Value> {
    let mut found = BTreeMap::new();
    for item in items {
        if let Some(step) = step(list, item) {
            found.entry(step).or_insert(item);
        }
    }
    found
}

/// `applied` laid over `live`.
pub(super) fn merge(schema: &Schema, live: &Value, applied: &Value) -> Value {
    overlay(Some(schema), live, applied, 0)
}

fn overlay(schema: Option<&Schema>, live: &Value, applied: &Value, depth: usize) -> Value {
    // Of what is owned in parts a null says nothing.
    if applied.is_null() && !matches!(view(schema, live), View::Whole) {
        return live.clone();
    }
    match (view(schema, live), view(schema, applied), live, applied) {
        (View::Fields(inner), View::Fields(_), Value::Object(there), Value::Object(wanted)) if depth <= MAX_DEPTH => {
            let mut merged = Map::new();
            for (key, value) in there {
                let result = wanted
                    .get(key)
                    .map_or_else(|| value.clone(), |wanted| overlay(field(inner, key).0, value, wanted, depth + 1));
                merged.insert(key.clone(), result);
            }
            for (key, value) in wanted {
                merged.entry(key.as_str()).or_insert_with(|| value.clone());
            }
            Value::Object(merged)
        }
        (View::Items(list), View::Items(_), Value::Array(there), Value::Array(wanted)) if depth <= MAX_DEPTH => {
            Value::Array(overlay_items(list, there, wanted, depth))
        }
        _ => applied.clone(),
    }
}

/// The order of `wanted` counts; items that only `there` has keep their place among their neighbours, and go before new ones.
fn overlay_items(list: &List, there: &[Value], wanted: &[Value], depth: usize) -> Vec<Value> {
    let ours = by_step(list, there);
    let theirs: BTreeSet<Step> = wanted.iter().filter_map(|item| step(list, item)).collect();
    let mut done = BTreeSet::new();
    let mut merged = Vec::new();
    let mut rest = there.iter().peekable();
    for item in wanted {
        let Some(step_of_item) = step(list, item) else { continue };
        while let Some(next) = rest.peek() {
            match step(list, next) {
                Some(found) if theirs.contains(&found) && !done.contains(&found) => break,
                Some(found) if theirs.contains(&found) => drop(rest.next()),
                Some(_) | None => merged.extend(rest.next().cloned()),
            }
        }
        let live = ours.get(&step_of_item);
        merged.push(live.map_or_else(|| item.clone(), |live| overlay(Some(&list.items), live, item, depth + 1)));
        done.insert(step_of_item);
    }
    merged.extend(rest.filter(|item| step(list, item).is_none_or(|step| !theirs.contains(&step))).cloned());
    merged
}

/// `object` without the fields in `gone`. A struct or list that is emptied by it stays, unless it is in `gone` itself; with
/// `nulls`, as a null.
pub(super) fn remove(schema: &Schema, object: &Value, gone: &FieldSet, nulls: bool) -> Value {
    without(Some(schema), object, gone, nulls, 0)
}

fn without(schema: Option<&Schema>, value: &Value, gone: &FieldSet, nulls: bool, depth: usize) -> Value {
    if gone.children.is_empty() || depth > MAX_DEPTH {
        return value.clone();
    }
    match (view(schema, value), value) {
        (View::Fields(inner), Value::Object(map)) => {
            let mut kept = Map::new();
            for (key, child) in map {
                match gone.children.get(&Step::Field(key.clone())) {
                    Some(set) if set.member => {}
                    Some(set) => {
                        drop(kept.insert(key.clone(), without(field(inner, key).0, child, set, nulls, depth + 1)))
                    }
                    None => drop(kept.insert(key.clone(), child.clone())),
                }
            }
            if nulls && kept.is_empty() && !map.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        (View::Items(list), Value::Array(items)) => {
            let mut kept = Vec::new();
            for item in items {
                match step(list, item).and_then(|step| gone.children.get(&step)) {
                    Some(set) if set.member => {}
                    Some(set) => kept.push(without(Some(&list.items), item, set, nulls, depth + 1)),
                    None => kept.push(item.clone()),
                }
            }
            if nulls && kept.is_empty() && !items.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        _ => value.clone(),
    }
}

/// Why an applied object cannot be told apart into fields, if so: an item without its keys, or two with the same.
pub(super) fn ambiguity(schema: &Schema, object: &Value) -> Option<String> {
    ambiguous(Some(schema), object, &mut String::new(), 0)
}

fn ambiguous(schema: Option<&Schema>, value: &Value, path: &mut String, depth: usize) -> Option<String> {
    if depth > MAX_DEPTH {
        return Some(format!("{path}: nested deeper than {MAX_DEPTH} levels"));
    }
    let length = path.len();
    match (view(schema, value), value) {
        (View::Fields(inner), Value::Object(map)) => {
            for (key, child) in map {
                path.push('.');
                path.push_str(key);
                let found = ambiguous(field(inner, key).0, child, path, depth + 1);
                path.truncate(length);
                if found.is_some() {
                    return found;
                }
            }
            None
        }
        (View::Items(list), Value::Array(items)) => {
            let mut seen = BTreeSet::new();
            for (index, item) in items.iter().enumerate() {
                let Some(step) = step(list, item) else {
                    return Some(format!(
                        "{path}: element {index}: associative list has an element that omits its key fields"
                    ));
                };
                let mut named = FieldSet::default();
                named.attach(step.clone(), FieldSet::leaf());
                let key = named.paths().concat();
                if !seen.insert(step) {
                    return Some(format!("{path}: duplicate entries for key {key}"));
                }
                path.push_str(&key);
                let found = ambiguous(Some(&list.items), item, path, depth + 1);
                path.truncate(length);
                if found.is_some() {
                    return found;
                }
            }
            None
        }
        _ => None,
    }
}
