//! Structural schemas: what an object of a kind looks like, small enough to keep for every kind.
//!
//! A [`Schema`] is what validation, strategic merge and server-side apply need and nothing else: descriptions stay in the
//! OpenAPI documents, which are built from the Rust types when somebody asks. Types that occur in many places
//! (`Container`, `LabelSelector`) are shared by [`Arc`]. A schema is a finite tree; recursive types end in [`Shape::Any`].

mod build;
mod default;
mod omit;
mod path;
mod quantity;
mod suggest;
mod unknown;
mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

pub use build::{Annotate, Annotation, Builder};
pub use default::default;
pub use omit::{drop_nulls, omit_empty, settle_nulls};
pub use path::FieldPath;
pub use quantity::{has_written_quantities, write_quantities};
pub use suggest::{closest, suggestion};
pub use unknown::{UnknownField, prune, unknown_fields};
pub use validate::{Cause, CauseReason, nulls, validate};

/// Objects nested deeper than this are refused or cut: the JSON parser has the same limit, so only patches can get there.
pub const MAX_DEPTH: usize = 128;

/// What a value may look like.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    /// The form of the value.
    pub shape: Shape,
    /// Whether an explicit `null` is a value. Elsewhere `null` means "absent", as in Kubernetes.
    pub nullable: bool,
    /// What an absent field becomes.
    pub default: Option<Box<Value>>,
    /// Limits on the value; absent for most fields.
    pub rules: Option<Box<Rules>>,
}

/// The form of a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Anything; its maps merge by key and its lists are replaced whole.
    Any,
    /// A struct or a map.
    Object(Object),
    /// A list.
    List(List),
    /// A string, maybe of a known format.
    String(Format),
    /// A whole number.
    Integer {
        /// Whether 32 bits must hold it.
        narrow: bool,
    },
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A whole number or a string (`intstr.IntOrString`).
    IntOrString,
    /// An amount such as `500m` or `1Gi`, written as a string or a number.
    Quantity,
    /// One of several shapes, told apart by the JSON type of the value.
    Union(Vec<Arc<Schema>>),
}

/// Known formats of strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Any text.
    Plain,
    /// RFC 3339 time.
    DateTime,
    /// Base64.
    Byte,
}

/// A struct (named fields), a map (`values`), or both.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Fields by name.
    pub fields: BTreeMap<Box<str>, Arc<Schema>>,
    /// Fields that must be there.
    pub required: Box<[Box<str>]>,
    /// What keys outside `fields` mean.
    pub rest: Rest,
    /// Whether server-side apply owns it as one piece (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
}

/// What keys outside the named fields of an object mean.
#[derive(Debug, Clone, PartialEq)]
pub enum Rest {
    /// They are unknown fields.
    Refused,
    /// They are kept as they are (`x-kubernetes-preserve-unknown-fields`).
    Kept,
    /// They are map keys with values of this schema.
    Values(Arc<Schema>),
}

/// A list.
#[derive(Debug, Clone, PartialEq)]
pub struct List {
    /// The schema of the items.
    pub items: Arc<Schema>,
    /// How server-side apply sees the list.
    pub list_type: ListType,
    /// How strategic merge sees the list.
    pub strategy: Strategy,
}

/// How server-side apply sees a list (`x-kubernetes-list-type`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListType {
    /// One piece.
    Atomic,
    /// Scalars, each owned by itself.
    Set,
    /// Objects told apart by these keys.
    Map(Box<[Box<str>]>),
}

/// How strategic merge sees a list (`x-kubernetes-patch-strategy`, `x-kubernetes-patch-merge-key`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// The patch's list replaces the list.
    Replace,
    /// Scalars are united.
    Union,
    /// Objects are merged by this key.
    MergeKey(Box<str>),
}

/// Limits on a value.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rules {
    /// The only values allowed.
    pub one_of: Vec<Value>,
    /// Smallest number.
    pub minimum: Option<f64>,
    /// Largest number.
    pub maximum: Option<f64>,
    /// Fewest characters, or items.
    pub min_length: Option<u64>,
    /// Most characters, or items.
    pub max_length: Option<u64>,
}

impl Schema {
    /// A schema with no rules.
    pub fn of(shape: Shape) -> Self {
        Self { shape, nullable: false, default: None, rules: None }
    }

    /// Accepts anything: the schema of kinds whose shape is not known.
    pub fn any() -> Self {
        Self::of(Shape::Any)
    }

    /// The alternative of a union that fits the JSON type of `value`; the schema itself otherwise.
    pub fn resolve(&self, value: &Value) -> &Self {
        let mut current = self;
        for _ in 0..MAX_DEPTH {
            let Shape::Union(alternatives) = &current.shape else { return current };
            let Some(found) = alternatives.iter().find(|alternative| alternative.accepts_type(value)) else {
                return current;
            };
            current = found;
        }
        current
    }

    /// Whether the JSON type of `value` fits; says nothing about what is inside.
    pub fn accepts_type(&self, value: &Value) -> bool {
        match &self.shape {
            Shape::Any => true,
            Shape::Object(_) => value.is_object(),
            Shape::List(_) => value.is_array(),
            Shape::String(_) => value.is_string(),
            Shape::Integer { .. } => is_whole(value),
            Shape::Number => value.is_number(),
            Shape::Boolean => value.is_boolean(),
            Shape::IntOrString => value.is_string() || is_whole(value),
            Shape::Quantity => value.is_string() || value.is_number(),
            Shape::Union(alternatives) => alternatives.iter().any(|alternative| alternative.accepts_type(value)),
        }
    }

    /// The schema of the field or map value `key` of `parent`, if this is an object that may have it.
    /// `None` means that nothing is known (an unknown field, or a shape without fields).
    pub fn field(&self, key: &str) -> Option<&Self> {
        match &self.shape {
            Shape::Object(object) => object.field(key),
            Shape::Union(alternatives) => alternatives.iter().find_map(|alternative| alternative.field(key)),
            Shape::Any
            | Shape::List(_)
            | Shape::String(_)
            | Shape::Integer { .. }
            | Shape::Number
            | Shape::Boolean
            | Shape::IntOrString
            | Shape::Quantity => None,
        }
    }
}

impl Object {
    /// The schema of field or map value `key`.
    pub fn field(&self, key: &str) -> Option<&Schema> {
        match (self.fields.get(key), &self.rest) {
            (Some(schema), _) => Some(schema),
            (None, Rest::Values(schema)) => Some(schema),
            (None, Rest::Refused | Rest::Kept) => None,
        }
    }
}

/// Whether a JSON number has no fraction (`3` and `3.0`, as the API server reads them).
pub(crate) fn is_whole(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.is_i64()
                || number.is_u64()
                || number.as_f64().is_some_and(|float| float.fract() == 0.0 && float.abs() < 9e15)
        }
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => false,
    }
}
