//! From a message to the JSON of the same object, by the field numbers in `schema.txt`. Pure.
//!
//! Go's encoder writes zero values that Go's JSON leaves out; the schema says which ones those are.

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::wire::{self, Field};

/// Nested deeper is no object of ours.
const MAX_DEPTH: usize = 64;

/// One field of a message.
#[derive(Debug)]
struct Spec {
    number: u64,
    name: &'static str,
    /// Its fields are the outer message's.
    inline: bool,
    /// A zero value says something.
    keeps_zero: bool,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    One(Type),
    Many(Type),
    /// By string keys.
    Map(Box<Self>),
}

#[derive(Clone, Copy, Debug)]
enum Type {
    Text,
    Bool,
    Integer,
    Float,
    Bytes,
    Quantity,
    Time {
        micro: bool,
    },
    IntOrString,
    /// `{items: [string]}`
    Texts,
    /// JSON in bytes, in field 1.
    Json,
    Nanoseconds,
    Message(&'static str),
}

type Schema = HashMap<&'static str, Vec<Spec>>;

fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let lines = include_str!("schema.txt").lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?, words.filter_map(spec).collect()))
            })
            .collect()
    })
}

fn spec(word: &'static str) -> Option<Spec> {
    let (number, rest) = word.split_once('=')?;
    let (name, code) = rest.split_once(':')?;
    let required = code.starts_with('!');
    let code = code.trim_start_matches('!');
    let inline = code.starts_with('^');
    let code = code.trim_start_matches('^');
    let pointer = code.starts_with('*');
    Some(Spec { number: number.parse().ok()?, name, inline, keeps_zero: required || pointer, shape: shape(code) })
}

fn shape(code: &'static str) -> Shape {
    let code = code.trim_start_matches('*');
    if let Some(items) = code.strip_prefix("[]") {
        return Shape::Many(kind(items.trim_start_matches('*')));
    }
    match code.strip_prefix("{}") {
        Some(values) => Shape::Map(Box::new(shape(values))),
        None => Shape::One(kind(code)),
    }
}

fn kind(code: &'static str) -> Type {
    match code {
        "s" => Type::Text,
        "b" => Type::Bool,
        "i" => Type::Integer,
        "f" => Type::Float,
        "y" => Type::Bytes,
        "Q" => Type::Quantity,
        "T" => Type::Time { micro: false },
        "U" => Type::Time { micro: true },
        "I" => Type::IntOrString,
        "X" => Type::Texts,
        "F" | "R" => Type::Json,
        "D" => Type::Nanoseconds,
        message => Type::Message(message),
    }
}

/// Reads a message by name; `None` for one that the schema does not have.
pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<Option<Map<String, Value>>, &'static str> {
    let Some(specs) = schema().get(name) else { return Ok(None) };
    let mut object = Map::new();
    read(specs, bytes, &mut object, 0)?;
    Ok(Some(object))
}

fn read(specs: &[Spec], bytes: &[u8], object: &mut Map<String, Value>, depth: usize) -> Result<(), &'static str> {
    if depth > MAX_DEPTH {
        return Err("it is nested too deeply");
    }
    for field in wire::fields(bytes) {
        let (number, field) = field?;
        // Numbers of a later Kubernetes are skipped, as protobuf has it.
        let Some(spec) = specs.iter().find(|spec| spec.number == number) else { continue };
        if spec.inline {
            if let (Shape::One(Type::Message(name)), Field::Bytes(inner)) = (&spec.shape, field) {
                read(schema().get(name).ok_or("the schema is incomplete")?, inner, object, depth + 1)?;
            }
            continue;
        }
        put(spec, field, object, depth)?;
    }
    Ok(())
}

fn put(spec: &Spec, field: Field<'_>, object: &mut Map<String, Value>, depth: usize) -> Result<(), &'static str> {
    match &spec.shape {
        Shape::One(kind) => {
            let value = value(*kind, field, depth)?;
            if !value.is_null() && (spec.keeps_zero || !is_zero(&value)) {
                object.insert(spec.name.to_owned(), value);
            }
        }
        Shape::Many(kind) => {
            let list = object.entry(spec.name).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(items) = list {
                items.push(value(*kind, field, depth)?);
            }
        }
        Shape::Map(values) => {
            let Field::Bytes(entry) = field else { return Err("a map entry is no message") };
            let map = object.entry(spec.name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = map {
                map_entry(values, entry, map, depth)?;
            }
        }
    }
    Ok(())
}

fn map_entry(values: &Shape, entry: &[u8], map: &mut Map<String, Value>, depth: usize) -> Result<(), &'static str> {
    let (mut key, mut found) = (String::new(), Value::from(""));
    for field in wire::fields(entry) {
        match field? {
            (1, Field::Bytes(text)) => key = String::from_utf8_lossy(text).into_owned(),
            (2, field) => {
                found = match values {
                    Shape::One(kind) => value(*kind, field, depth)?,
                    // Maps of lists and maps of maps do not occur in these kinds.
                    Shape::Many(_) | Shape::Map(_) => return Err("the schema has an unknown kind of map"),
                }
            }
            _ => {}
        }
    }
    map.insert(key, found);
    Ok(())
}

/// What Go's `omitempty` leaves out (and empty structs, which say nothing either).
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn value(kind: Type, field: Field<'_>, depth: usize) -> Result<Value, &'static str> {
    Ok(match (kind, field) {
        (Type::Bool, Field::Varint(number)) => Value::from(number != 0),
        // Negative numbers come as their 64-bit two's complement.
        (Type::Integer, Field::Varint(number)) => Value::from(number.cast_signed()),
        (Type::Float, Field::Fixed64(bits)) => Value::from(f64::from_bits(bits)),
        (Type::Text, Field::Bytes(text)) => Value::from(String::from_utf8_lossy(text).into_owned()),
        (Type::Bytes, Field::Bytes(bytes)) => Value::from(STANDARD.encode(bytes)),
        (Type::Quantity, Field::Bytes(inner)) => first_text(inner)?,
        (Type::Texts, Field::Bytes(inner)) => texts(inner)?,
        (Type::Time { micro }, Field::Bytes(inner)) => time(inner, micro)?,
        (Type::IntOrString, Field::Bytes(inner)) => int_or_string(inner)?,
        (Type::Json, Field::Bytes(inner)) => json(inner)?,
        (Type::Nanoseconds, Field::Bytes(inner)) => {
            Value::from(format!("{}ns", numbers(inner)?.first().copied().unwrap_or(0)))
        }
        (Type::Message(name), Field::Bytes(inner)) => {
            let mut object = Map::new();
            read(schema().get(name).ok_or("the schema is incomplete")?, inner, &mut object, depth + 1)?;
            Value::Object(object)
        }
        _ => return Err("a field has the wrong type"),
    })
}

fn first_text(bytes: &[u8]) -> Result<Value, &'static str> {
    for field in wire::fields(bytes) {
        if let (1, Field::Bytes(text)) = field? {
            return Ok(Value::from(String::from_utf8_lossy(text).into_owned()));
        }
    }
    Ok(Value::from("0"))
}

fn texts(bytes: &[u8]) -> Result<Value, &'static str> {
    let mut items = Vec::new();
    for field in wire::fields(bytes) {
        if let (1, Field::Bytes(text)) = field? {
            items.push(Value::from(String::from_utf8_lossy(text).into_owned()));
        }
    }
    Ok(Value::Array(items))
}

/// The varints of fields 1, 2, …; absent ones are 0.
fn numbers(bytes: &[u8]) -> Result<Vec<i64>, &'static str> {
    let mut numbers = vec![0; 3];
    for field in wire::fields(bytes) {
        if let (number @ 1..=3, Field::Varint(value)) = field? {
            numbers[usize::try_from(number).unwrap_or(1) - 1] = value.cast_signed();
        }
    }
    Ok(numbers)
}

/// Seconds and nanoseconds; an empty message is no time.
fn time(bytes: &[u8], micro: bool) -> Result<Value, &'static str> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let parts = numbers(bytes)?;
    let nanos = if micro { i32::try_from(parts[1]).unwrap_or(0) } else { 0 };
    let time = jiff::Timestamp::new(parts[0], nanos).map_err(|_| "a time is out of range")?;
    Ok(Value::from(if micro { format!("{time:.6}") } else { time.to_string() }))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, &'static str> {
    let parts = numbers(bytes)?;
    if parts[0] == 0 {
        return Ok(Value::from(parts[1]));
    }
    for field in wire::fields(bytes) {
        if let (3, Field::Bytes(text)) = field? {
            return Ok(Value::from(String::from_utf8_lossy(text).into_owned()));
        }
    }
    Ok(Value::from(""))
}

fn json(bytes: &[u8]) -> Result<Value, &'static str> {
    for field in wire::fields(bytes) {
        if let (1, Field::Bytes(text)) = field? {
            return serde_json::from_slice(text).map_err(|_| "embedded JSON is broken");
        }
    }
    Ok(Value::Object(Map::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_closed() {
        for (name, specs) in schema() {
            for spec in specs {
                let kind = match &spec.shape {
                    Shape::One(kind) | Shape::Many(kind) => *kind,
                    Shape::Map(inner) => match &**inner {
                        Shape::One(kind) | Shape::Many(kind) => *kind,
                        Shape::Map(_) => panic!("{name}.{} is a map of maps", spec.name),
                    },
                };
                if let Type::Message(inner) = kind {
                    assert!(schema().contains_key(inner), "{name}.{} is a {inner}", spec.name);
                }
            }
        }
    }

    #[test]
    fn zero_is_kept_where_go_has_a_pointer() {
        // DeploymentSpec{replicas: &0, paused: false}
        let spec = decode("apps.DeploymentSpec", b"\x08\x00\x38\x00").expect("reads").expect("known");
        assert_eq!(Value::Object(spec), serde_json::json!({"replicas": 0}));
    }

    #[test]
    fn inlined_fields_are_the_outer_ones() {
        // Volume{name: "v", volumeSource: {emptyDir: {}}}
        let volume = decode("core.Volume", b"\x0a\x01v\x12\x02\x12\x00").expect("reads").expect("known");
        assert_eq!(Value::Object(volume), serde_json::json!({"name": "v", "emptyDir": {}}));
    }
}
