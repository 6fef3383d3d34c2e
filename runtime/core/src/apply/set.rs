//! Sets of fields, as server-side apply stores them (`FieldsV1`).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::schema::{MAX_DEPTH, Object, Schema, Shape};

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// A field of a struct or a key of a map (`f:name`).
    Field(String),
    /// An item of an associative list, by its keys as canonical JSON (`k:{"name":"x"}`).
    Key(String),
    /// An item of a set, as canonical JSON (`v:"x"`).
    Value(String),
    /// An item by its place (`i:0`); only read, never written.
    Index(usize),
}

/// A set of paths as a tree: whether this path is in it, and what is in it below.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    pub(crate) member: bool,
    pub(crate) children: BTreeMap<Step, Self>,
}

impl FieldSet {
    /// The set of just this path.
    pub(crate) fn leaf() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Puts `child` at `step`, unless nothing is in it.
    pub(crate) fn attach(&mut self, step: Step, child: Self) {
        if !child.is_empty() {
            self.children.insert(step, child);
        }
    }

    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut result = self.clone();
        result.add(other);
        result
    }

    fn add(&mut self, other: &Self) {
        self.member |= other.member;
        for (step, theirs) in &other.children {
            self.children.entry(step.clone()).or_default().add(theirs);
        }
    }

    pub(crate) fn difference(&self, other: &Self) -> Self {
        let mut result = Self { member: self.member && !other.member, children: BTreeMap::new() };
        for (step, ours) in &self.children {
            let rest = other.children.get(step).map_or_else(|| ours.clone(), |theirs| ours.difference(theirs));
            result.attach(step.clone(), rest);
        }
        result
    }

    /// Without the paths of `other` and everything below them.
    pub(crate) fn recursive_difference(&self, other: &Self) -> Self {
        if other.member {
            return Self::default();
        }
        let mut result = Self { member: self.member, children: BTreeMap::new() };
        for (step, ours) in &self.children {
            let rest =
                other.children.get(step).map_or_else(|| ours.clone(), |theirs| ours.recursive_difference(theirs));
            result.attach(step.clone(), rest);
        }
        result
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let mut result = Self { member: self.member && other.member, children: BTreeMap::new() };
        for (step, ours) in &self.children {
            if let Some(theirs) = other.children.get(step) {
                result.attach(step.clone(), ours.intersection(theirs));
            }
        }
        result
    }

    /// With every struct field that has something below it: `spec.replicas` brings `spec`, but `labels.a` brings no map key.
    pub(crate) fn with_structs(&self, schema: &Schema) -> Self {
        let mut result = Self { member: self.member, children: BTreeMap::new() };
        for (step, child) in &self.children {
            let inner = descend(schema, step);
            let mut child = inner.map_or_else(|| child.clone(), |inner| child.with_structs(inner));
            child.member |= is_struct_field(schema, step) && !child.children.is_empty();
            result.children.insert(step.clone(), child);
        }
        result
    }

    /// Every path in the set, as messages write it: `.spec.containers[name="a"].image`. At each level what is in the set
    /// itself stands before what lies deeper.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut found = if self.member { vec![String::new()] } else { Vec::new() };
        self.collect(&mut String::new(), &mut found);
        found
    }

    fn collect(&self, path: &mut String, found: &mut Vec<String>) {
        for deeper in [false, true] {
            for (step, child) in &self.children {
                let length = path.len();
                write_step(step, path);
                if deeper {
                    child.collect(path, found);
                } else if child.member {
                    found.push(path.clone());
                }
                path.truncate(length);
            }
        }
    }

    /// `FieldsV1`.
    pub(crate) fn encode(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".to_owned(), json!({}));
        }
        for (step, child) in &self.children {
            let key = match step {
                Step::Field(name) => format!("f:{name}"),
                Step::Key(key) => format!("k:{key}"),
                Step::Value(value) => format!("v:{value}"),
                Step::Index(index) => format!("i:{index}"),
            };
            map.insert(key, child.encode());
        }
        Value::Object(map)
    }

    /// Reads `FieldsV1`; `None` if it is not that.
    pub(crate) fn decode(value: &Value) -> Option<Self> {
        let mut root = Self::decode_at(value, 0)?;
        root.member = false;
        Some(root)
    }

    fn decode_at(value: &Value, depth: usize) -> Option<Self> {
        let map = value.as_object().filter(|_| depth <= MAX_DEPTH)?;
        let mut set = Self { member: map.is_empty(), children: BTreeMap::new() };
        for (key, child) in map {
            if key == "." {
                set.member = true;
                continue;
            }
            let (kind, rest) = key.split_once(':')?;
            let step = match kind {
                "f" => Step::Field(rest.to_owned()),
                "k" => Step::Key(canonical(rest)?),
                "v" => Step::Value(serde_json::from_str::<Value>(rest).ok()?.to_string()),
                "i" => Step::Index(rest.parse().ok()?),
                _ => return None,
            };
            set.children.insert(step, Self::decode_at(child, depth + 1)?);
        }
        Some(set)
    }
}

/// Keys in sorted order, so that the same item has the same name whoever wrote it.
fn canonical(text: &str) -> Option<String> {
    let parsed: BTreeMap<String, Value> = serde_json::from_str(text).ok()?;
    Some(Value::Object(parsed.into_iter().collect()).to_string())
}

fn write_step(step: &Step, path: &mut String) {
    // Writing to a string cannot fail.
    let _ = match step {
        Step::Field(name) => write!(path, ".{name}"),
        Step::Value(value) => write!(path, "[={value}]"),
        Step::Index(index) => write!(path, "[{index}]"),
        Step::Key(key) => {
            let keys: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
            let shown: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            write!(path, "[{}]", shown.join(","))
        }
    };
}

/// The schema one step down.
fn descend<'s>(schema: &'s Schema, step: &Step) -> Option<&'s Schema> {
    match (&schema.shape, step) {
        (Shape::List(list), Step::Key(_) | Step::Value(_) | Step::Index(_)) => Some(&list.items),
        (Shape::Union(alternatives), step) => alternatives.iter().find_map(|alternative| descend(alternative, step)),
        (_, Step::Field(name)) => schema.field(name),
        _ => None,
    }
}

fn is_struct_field(schema: &Schema, step: &Step) -> bool {
    match (&schema.shape, step) {
        (Shape::Object(Object { fields, .. }), Step::Field(name)) => fields.contains_key(name.as_str()),
        (Shape::Union(alternatives), step) => alternatives.iter().any(|alternative| is_struct_field(alternative, step)),
        _ => false,
    }
}
