//! Strategic merge patch: a merge patch that knows which lists are maps in disguise.
//!
//! The rules are those of `k8s.io/apimachinery/pkg/util/strategicpatch`, quirks included, since `kubectl apply` and `kubectl edit`
//! compute patches that rely on them: items that the patch adds stand before the server's own, and an explicit
//! `$setElementOrder` decides over the order of the items that it names.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{MAX_DEPTH, Schema, Shape, Strategy};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch; merge keys come from the schema.
pub fn strategic(document: &Value, patch: &Value, schema: &Schema) -> Result<Value, PatchError> {
    if patch.is_null() {
        return Ok(document.clone());
    }
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed(
            "error decoding patch: a strategic merge patch must be a JSON object".to_owned(),
        ));
    };
    let original = document.as_object().cloned().unwrap_or_default();
    merge_map(original, patch, Some(schema), 0).map(Value::Object)
}

fn merge_map(
    mut original: Map<String, Value>,
    patch: &Map<String, Value>,
    schema: Option<&Schema>,
    depth: usize,
) -> Result<Map<String, Value>, PatchError> {
    if depth > MAX_DEPTH {
        return Err(PatchError::TooLarge(format!("the patch is nested deeper than {MAX_DEPTH} levels")));
    }
    match directive(patch)? {
        Some(Directive::Replace) => return Ok(plain_map(patch)),
        Some(Directive::Delete) => return Ok(Map::new()),
        None => {}
    }
    retain_keys(&mut original, patch)?;
    let ordered = merge_ordered(&mut original, patch, schema, depth)?;
    for (key, value) in patch {
        if key == PATCH || key == RETAIN_KEYS || key.starts_with(SET_ELEMENT_ORDER) || ordered.contains(key.as_str()) {
            continue;
        }
        if let Some(field) = key.strip_prefix(DELETE_FROM_LIST) {
            delete_from_list(&mut original, field, value)?;
            continue;
        }
        let merged = match (original.get_mut(key), value) {
            (_, Value::Null) => {
                original.shift_remove(key);
                continue;
            }
            (Some(Value::Object(there)), Value::Object(inner)) => {
                let field = field_of(schema, key, value);
                Value::Object(merge_map(std::mem::take(there), inner, field, depth + 1)?)
            }
            (Some(Value::Array(there)), Value::Array(items)) => {
                let field = field_of(schema, key, value);
                Value::Array(merge_list(std::mem::take(there), items, field, key, depth + 1)?)
            }
            (_, value) => match plain(value) {
                Some(value) => value,
                None => continue,
            },
        };
        original.insert(key.clone(), merged);
    }
    Ok(original)
}

fn field_of<'s>(schema: Option<&'s Schema>, key: &str, value: &Value) -> Option<&'s Schema> {
    schema?.field(key).map(|field| field.resolve(value))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directive {
    Replace,
    Delete,
}

fn directive(patch: &Map<String, Value>) -> Result<Option<Directive>, PatchError> {
    match patch.get(PATCH) {
        None => Ok(None),
        Some(Value::String(word)) if word == "replace" => Ok(Some(Directive::Replace)),
        Some(Value::String(word)) if word == "delete" => Ok(Some(Directive::Delete)),
        Some(other) => {
            let word = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
            let map = Value::Object(patch.clone());
            Err(PatchError::Malformed(format!("unknown patch type: {word} in map: {}", shown(&map))))
        }
    }
}

/// `$retainKeys` names the only keys that may stay.
fn retain_keys(original: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), PatchError> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let keys: Option<BTreeSet<&str>> = keys.as_array().and_then(|keys| keys.iter().map(Value::as_str).collect());
    let keys = keys.ok_or_else(|| PatchError::Malformed(format!("{RETAIN_KEYS} must be a list of strings")))?;
    let stray =
        patch.iter().find(|(key, value)| !key.starts_with('$') && !value.is_null() && !keys.contains(key.as_str()));
    if let Some((key, _)) = stray {
        return Err(PatchError::Malformed(format!("the patch sets \"{key}\", which is not in its {RETAIN_KEYS} list")));
    }
    original.retain(|key, _| keys.contains(key.as_str()));
    Ok(())
}

/// Merges the lists whose order the patch gives; returns their names.
fn merge_ordered<'p>(
    original: &mut Map<String, Value>,
    patch: &'p Map<String, Value>,
    schema: Option<&Schema>,
    depth: usize,
) -> Result<BTreeSet<&'p str>, PatchError> {
    let mut done = BTreeSet::new();
    for (directive, order) in patch {
        let Some(key) = directive.strip_prefix(SET_ELEMENT_ORDER) else { continue };
        let Value::Array(order) = order else {
            return Err(PatchError::Malformed(format!("{directive} must be a list")));
        };
        let field = schema.and_then(|schema| schema.field(key)).map(|field| field.resolve(&Value::Array(Vec::new())));
        let strategy = strategy_of(field);
        let live = match original.get(key) {
            Some(Value::Array(items)) => Some(items.clone()),
            Some(_) | None => None,
        };
        let change = match patch.get(key) {
            None => None,
            Some(Value::Array(items)) => Some(items),
            // Null or another type: the ordinary rules decide.
            Some(_) => continue,
        };
        check_order(change.map(Vec::as_slice).unwrap_or_default(), order, strategy)?;
        let merged = match (live.clone(), change) {
            (Some(live), None) => live,
            (None, Some(items)) => plain_list(items),
            (Some(live), Some(items)) => merge_list(live, items, field, key, depth + 1)?,
            (None, None) => continue,
        };
        let identities: BTreeSet<String> = order.iter().filter_map(|item| identity(item, strategy)).collect();
        let (named, rest) =
            merged.into_iter().partition(|item| identity(item, strategy).is_some_and(|id| identities.contains(&id)));
        original.insert(key.to_owned(), Value::Array(arrange(named, rest, order, &live.unwrap_or_default(), strategy)));
        done.insert(key);
    }
    Ok(done)
}

/// The items that the patch carries must stand in the order that it gives.
fn check_order(items: &[Value], order: &[Value], strategy: &Strategy) -> Result<(), PatchError> {
    let leaves =
        |item: &&Value| item.as_object().is_some_and(|map| map.get(PATCH).is_some_and(|word| *word == "delete"));
    let mut rest = order.iter();
    for item in items.iter().filter(|item| !leaves(item)).filter(|_| !order.is_empty()) {
        let id = identity(item, strategy);
        if !rest.any(|next| identity(next, strategy) == id) {
            let (items, order) = (shown(&Value::from(items)), shown(&Value::from(order)));
            return Err(PatchError::Malformed(format!(
                "The order in patch list:\n{items}\n doesn't match $setElementOrder list:\n{order}\n"
            )));
        }
    }
    Ok(())
}

fn strategy_of(schema: Option<&Schema>) -> &Strategy {
    match schema.map(|schema| &schema.shape) {
        Some(Shape::List(list)) => &list.strategy,
        _ => &Strategy::Replace,
    }
}

/// What tells an item from its neighbours: the value of its merge key, or the item itself where it is a scalar.
fn identity(item: &Value, strategy: &Strategy) -> Option<String> {
    let value = match (strategy, item) {
        (Strategy::MergeKey(key), Value::Object(map)) => map.get(key.as_ref())?,
        (Strategy::MergeKey(_), _) | (_, Value::Object(_) | Value::Array(_)) => return None,
        (Strategy::Union | Strategy::Replace, scalar) => scalar,
    };
    // 80 and "80" are the same key upstream, which compares them as text.
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

fn merge_list(
    live: Vec<Value>,
    patch: &[Value],
    schema: Option<&Schema>,
    name: &str,
    depth: usize,
) -> Result<Vec<Value>, PatchError> {
    let strategy = strategy_of(schema);
    let items = match schema.map(|schema| &schema.shape) {
        Some(Shape::List(list)) => Some(list.items.as_ref()),
        _ => None,
    };
    match strategy {
        Strategy::Replace => Ok(patch.to_vec()),
        Strategy::Union => Ok(unite(live, patch, strategy)),
        Strategy::MergeKey(key) => merge_keyed(live, patch, items, (key, strategy), name, depth),
    }
}

/// The union of two lists of scalars; what the patch names comes in its order.
fn unite(live: Vec<Value>, patch: &[Value], strategy: &Strategy) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let merged = live.iter().chain(patch).filter(|item| seen.insert(item.to_string())).cloned();
    let wanted: BTreeSet<String> = patch.iter().map(Value::to_string).collect();
    let (named, rest) = merged.partition(|item| wanted.contains(&item.to_string()));
    arrange(named, rest, patch, &live, strategy)
}

/// An item as Go prints a map, which is how clients know the message.
fn shown(item: &Value) -> String {
    match item {
        Value::Object(map) => {
            let fields: std::collections::BTreeMap<&String, &Value> = map.iter().collect();
            let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{key}:{}", shown(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        other @ (Value::Bool(_) | Value::Number(_)) => other.to_string(),
    }
}

fn merge_keyed(
    live: Vec<Value>,
    patch: &[Value],
    items: Option<&Schema>,
    (key, strategy): (&str, &Strategy),
    name: &str,
    depth: usize,
) -> Result<Vec<Value>, PatchError> {
    let (mut changes, mut deleted, mut replace) = (Vec::new(), BTreeSet::new(), false);
    for item in patch {
        let Value::Object(map) = item else {
            return Err(PatchError::Malformed(format!("the items of \"{name}\" in the patch must be objects")));
        };
        if map.get(PATCH).is_some_and(|word| *word == "merge") {
            return Err(PatchError::Malformed("merging lists cannot yet be specified in the patch".to_owned()));
        }
        let directive = directive(map)?;
        if directive == Some(Directive::Replace) {
            replace = true;
            continue;
        }
        let id = identity(item, strategy).ok_or_else(|| {
            PatchError::Malformed(format!("map: {} does not contain declared merge key: {key}", shown(item)))
        })?;
        match directive {
            Some(Directive::Delete) => drop(deleted.insert(id)),
            Some(Directive::Replace) | None => changes.push((id, map)),
        }
    }
    if replace {
        return Ok(plain_list(patch));
    }
    let mut merged: Vec<Value> =
        live.iter().filter(|item| identity(item, strategy).is_none_or(|id| !deleted.contains(&id))).cloned().collect();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (place, item) in merged.iter().enumerate() {
        if let Some(id) = identity(item, strategy) {
            places.entry(id).or_insert(place);
        }
    }
    for (id, change) in &changes {
        let place = places.get(id).copied();
        match place.and_then(|place| merged.get_mut(place)) {
            Some(Value::Object(there)) => *there = merge_map(std::mem::take(there), change, items, depth + 1)?,
            Some(other) => *other = Value::Object(plain_map(change)),
            None => {
                places.insert(id.clone(), merged.len());
                merged.push(Value::Object(plain_map(change)));
            }
        }
    }
    let named_ids: BTreeSet<&String> = changes.iter().map(|(id, _)| id).collect();
    let (named, rest) =
        merged.into_iter().partition(|item| identity(item, strategy).is_some_and(|id| named_ids.contains(&id)));
    let order: Vec<Value> = changes.iter().map(|(_, map)| Value::Object((*map).clone())).collect();
    Ok(arrange(named, rest, &order, &live, strategy))
}

/// Puts `named` into the order of `order` and `rest` into the order of `live`, then merges the two: an item of `rest` goes first only
/// where `live` had it before the next named one.
fn arrange(
    mut named: Vec<Value>,
    mut rest: Vec<Value>,
    order: &[Value],
    live: &[Value],
    strategy: &Strategy,
) -> Vec<Value> {
    let index = |list: &[Value]| {
        let mut places = BTreeMap::new();
        for (place, item) in list.iter().enumerate() {
            if let Some(id) = identity(item, strategy) {
                places.entry(id).or_insert(place);
            }
        }
        places
    };
    let (wanted, before) = (index(order), index(live));
    let place = |item: &Value, places: &BTreeMap<String, usize>| {
        identity(item, strategy).and_then(|id| places.get(&id).copied())
    };
    named.sort_by_key(|item| place(item, &wanted).unwrap_or(usize::MAX));
    rest.sort_by_key(|item| place(item, &before).unwrap_or(usize::MAX));
    let mut arranged = Vec::with_capacity(named.len() + rest.len());
    let mut named = named.into_iter().peekable();
    for item in rest {
        while let Some(next) = named.peek() {
            match (place(&item, &before), place(next, &before)) {
                (Some(ours), Some(theirs)) if ours < theirs => break,
                _ => arranged.extend(named.next()),
            }
        }
        arranged.push(item);
    }
    arranged.extend(named);
    arranged
}

fn delete_from_list(original: &mut Map<String, Value>, field: &str, values: &Value) -> Result<(), PatchError> {
    let Value::Array(values) = values else {
        return Err(PatchError::Malformed(format!("{DELETE_FROM_LIST}{field} must be a list")));
    };
    let gone: BTreeSet<String> = values.iter().map(Value::to_string).collect();
    if let Some(Value::Array(items)) = original.get_mut(field) {
        items.retain(|item| !gone.contains(&item.to_string()));
    }
    Ok(())
}

/// A value of the patch as it is stored: without directives and without nulls. `None`: nothing is left of it.
fn plain(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(map) => match directive(map) {
            Ok(Some(Directive::Delete)) => None,
            Ok(Some(Directive::Replace) | None) | Err(_) => Some(Value::Object(plain_map(map))),
        },
        Value::Array(items) => Some(Value::Array(plain_list(items))),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => Some(value.clone()),
    }
}

fn plain_map(map: &Map<String, Value>) -> Map<String, Value> {
    let is_directive = |key: &str| {
        key == PATCH || key == RETAIN_KEYS || key.starts_with(SET_ELEMENT_ORDER) || key.starts_with(DELETE_FROM_LIST)
    };
    map.iter()
        .filter(|(key, _)| !is_directive(key))
        .filter_map(|(key, value)| Some((key.clone(), plain(value)?)))
        .collect()
}

fn plain_list(items: &[Value]) -> Vec<Value> {
    // An item that is nothing but `$patch: replace` is a directive for the list, not an item.
    let marker = |item: &Value| item.as_object().is_some_and(|map| map.contains_key(PATCH) && map.len() == 1);
    items
        .iter()
        .filter(|item| !marker(item))
        .filter_map(|item| if item.is_null() { Some(Value::Null) } else { plain(item) })
        .collect()
}
