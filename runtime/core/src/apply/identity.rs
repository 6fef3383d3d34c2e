//! What tells the items of a list apart.

use serde_json::{Map, Value};

use crate::schema::{List, ListType, Schema, Shape};

/// The identity of an item of an associative list or set as canonical JSON; `None` if it has none (an atomic list, or no key at all).
pub fn item_identity(list: &List, item: &Value) -> Option<String> {
    match &list.list_type {
        ListType::Atomic => None,
        ListType::Set => (!item.is_array() && !item.is_object()).then(|| item.to_string()),
        ListType::Map(keys) => {
            let map = item.as_object()?;
            let mut found = Map::new();
            let mut sorted: Vec<&str> = keys.iter().map(AsRef::as_ref).collect();
            sorted.sort_unstable();
            for key in sorted {
                if let Some(value) = map.get(key).cloned().or_else(|| key_default(&list.items, key)) {
                    found.insert(key.to_owned(), value);
                }
            }
            (!found.is_empty()).then(|| Value::Object(found).to_string())
        }
    }
}

fn key_default(items: &Schema, key: &str) -> Option<Value> {
    match &items.shape {
        Shape::Object(object) => object.field(key)?.default.as_deref().cloned(),
        Shape::Any
        | Shape::List(_)
        | Shape::String(_)
        | Shape::Integer { .. }
        | Shape::Number
        | Shape::Boolean
        | Shape::IntOrString
        | Shape::Quantity
        | Shape::Union(_) => None,
    }
}
