//! From JSON schema (as `schemars` writes it for the Rust types) to [`Schema`].

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Format, List, ListType, Object, Rest, Rules, Schema, Shape, Strategy};

/// What JSON schema does not say about a field: how patches and server-side apply see it.
#[derive(Debug, Clone, Default)]
pub struct Annotation {
    /// How server-side apply sees the list.
    pub list_type: Option<ListType>,
    /// How strategic merge sees the list.
    pub strategy: Option<Strategy>,
    /// Whether server-side apply owns the object as one piece.
    pub atomic: bool,
    /// What the absent field becomes.
    pub default: Option<Value>,
    /// Whether objects of the type may lack fields that its JSON schema requires: the API server reads them as zero.
    pub lenient: bool,
}

/// Finds the annotation of a field: type name, field name; an empty field name means the type itself.
pub type Annotate<'a> = dyn Fn(&str, &str) -> Option<Annotation> + 'a;

/// Builds schemas; types with a name are built once and shared.
pub struct Builder<'a> {
    definitions: &'a Map<String, Value>,
    annotate: &'a Annotate<'a>,
    known: BTreeMap<String, Arc<Schema>>,
    open: Vec<String>,
}

impl std::fmt::Debug for Builder<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Builder").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

impl<'a> Builder<'a> {
    /// Reads named types from `definitions`. Types built earlier can be handed in as `known`, so that they are shared.
    pub fn new(
        definitions: &'a Map<String, Value>,
        annotate: &'a Annotate<'a>,
        known: BTreeMap<String, Arc<Schema>>,
    ) -> Self {
        Self { definitions, annotate, known, open: Vec::new() }
    }

    /// All named types built so far.
    pub fn into_known(self) -> BTreeMap<String, Arc<Schema>> {
        self.known
    }

    /// The schema of a named type; anything is accepted if nothing is known of it.
    pub fn named(&mut self, name: &str) -> Arc<Schema> {
        if let Some(schema) = self.known.get(name) {
            return Arc::clone(schema);
        }
        // A type that contains itself (JSONSchemaProps) ends here: the inner one accepts anything.
        let recursive = self.open.iter().any(|open| open == name);
        let Some(definition) = self.definitions.get(name).filter(|_| !recursive) else {
            return Arc::new(Schema::any());
        };
        self.open.push(name.to_owned());
        let schema = Arc::new(self.schema(name, definition));
        self.open.pop();
        self.known.insert(name.to_owned(), Arc::clone(&schema));
        schema
    }

    /// The schema that `definition` describes; `owner` is the name under which annotations of its fields are found.
    pub fn schema(&mut self, owner: &str, definition: &Value) -> Schema {
        let Value::Object(map) = definition else { return Schema::any() };
        if let Some(name) = reference(map) {
            return (*self.named(&name)).clone();
        }
        if let Some(schema) = self.alternatives(owner, map) {
            return schema;
        }
        let (kind, nullable) = type_of(map);
        let shape = self.shape(owner, map, kind);
        Schema { shape, nullable, default: None, rules: rules(map) }
    }

    fn shape(&mut self, owner: &str, map: &Map<String, Value>, kind: Option<&str>) -> Shape {
        // Amounts, in Kubernetes' type and in ours that also takes numbers with a fraction.
        if owner.ends_with(".resource.Quantity") || owner.ends_with(".Amount") {
            return Shape::Quantity;
        }
        if flag(map, "x-kubernetes-int-or-string") {
            return Shape::IntOrString;
        }
        let format = map.get("format").and_then(Value::as_str).unwrap_or_default();
        match kind {
            Some("string") => Shape::String(match format {
                "date-time" => Format::DateTime,
                "byte" => Format::Byte,
                _ => Format::Plain,
            }),
            Some("integer") => Shape::Integer { narrow: matches!(format, "int32" | "uint32") },
            Some("number") => Shape::Number,
            Some("boolean") => Shape::Boolean,
            Some("array") => {
                let items = map.get("items").map_or_else(|| Arc::new(Schema::any()), |items| self.shared(owner, items));
                Shape::List(List { items, list_type: ListType::Atomic, strategy: Strategy::Replace })
            }
            Some("object") => Shape::Object(self.object(owner, map)),
            None if map.contains_key("properties") => Shape::Object(self.object(owner, map)),
            Some(_) | None => Shape::Any,
        }
    }

    fn object(&mut self, owner: &str, map: &Map<String, Value>) -> Object {
        let mut fields = BTreeMap::new();
        if let Some(Value::Object(properties)) = map.get("properties") {
            for (name, property) in properties {
                let mut schema = self.shared(owner, property);
                if let Some(annotation) = (self.annotate)(owner, name) {
                    schema = Arc::new(annotated((*schema).clone(), annotation));
                }
                fields.insert(name.as_str().into(), schema);
            }
        }
        let required = map
            .get("required")
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).map(Into::into).collect::<Box<[Box<str>]>>())
            .unwrap_or_default();
        let rest = match map.get("additionalProperties") {
            _ if flag(map, "x-kubernetes-preserve-unknown-fields") => Rest::Kept,
            Some(Value::Bool(true)) => Rest::Kept,
            Some(values @ Value::Object(_)) => Rest::Values(self.shared(owner, values)),
            Some(Value::Bool(false)) => Rest::Refused,
            _ if fields.is_empty() => Rest::Kept,
            _ => Rest::Refused,
        };
        let own = (self.annotate)(owner, "").unwrap_or_default();
        let required = if own.lenient { Box::default() } else { required };
        let atomic = own.atomic;
        Object { fields, required, rest, atomic }
    }

    /// Shares named types instead of copying them.
    fn shared(&mut self, owner: &str, definition: &Value) -> Arc<Schema> {
        match definition.as_object().and_then(reference) {
            Some(name) => self.named(&name),
            None => Arc::new(self.schema(owner, definition)),
        }
    }

    /// `anyOf`, `oneOf` and `allOf`: an optional type, a choice of constants, or a choice of shapes.
    fn alternatives(&mut self, owner: &str, map: &Map<String, Value>) -> Option<Schema> {
        let (list, all) = match (map.get("anyOf").or_else(|| map.get("oneOf")), map.get("allOf")) {
            (Some(Value::Array(list)), _) => (list, false),
            (None, Some(Value::Array(list))) => (list, true),
            _ => return None,
        };
        if all {
            return list.first().map(|first| self.schema(owner, first));
        }
        let rest: Vec<&Value> =
            list.iter().filter(|item| item.get("type").and_then(Value::as_str) != Some("null")).collect();
        // Validation of the k8s-openapi kind `{type: object, anyOf: [{required: …}]}` is not a choice of shapes.
        if rest.iter().all(|item| {
            item.get("type").is_none()
                && item.get("$ref").is_none()
                && item.get("const").is_none()
                && item.get("enum").is_none()
        }) {
            return None;
        }
        let constants = constants(&rest);
        Some(match (rest.as_slice(), constants) {
            ([], _) => Schema::any(),
            ([only], _) => self.schema(owner, only),
            (_, Some(one_of)) => Schema {
                rules: Some(Box::new(Rules { one_of, ..Rules::default() })),
                ..Schema::of(Shape::String(Format::Plain))
            },
            (several, None) => Schema::of(Shape::Union(several.iter().map(|item| self.shared(owner, item)).collect())),
        })
    }
}

/// Puts on the field's own schema what the annotation says of it.
fn annotated(mut schema: Schema, annotation: Annotation) -> Schema {
    match &mut schema.shape {
        Shape::List(list) => {
            if let Some(list_type) = annotation.list_type {
                list.list_type = list_type;
            }
            if let Some(strategy) = annotation.strategy {
                list.strategy = strategy;
            }
        }
        Shape::Object(object) => object.atomic |= annotation.atomic,
        Shape::Any
        | Shape::String(_)
        | Shape::Integer { .. }
        | Shape::Number
        | Shape::Boolean
        | Shape::IntOrString
        | Shape::Quantity
        | Shape::Union(_) => {}
    }
    if let Some(default) = annotation.default {
        schema.default = Some(Box::new(default));
    }
    schema
}

fn reference(map: &Map<String, Value>) -> Option<String> {
    let target = map.get("$ref")?.as_str()?;
    Some(target.rsplit('/').next().unwrap_or(target).to_owned())
}

fn flag(map: &Map<String, Value>, name: &str) -> bool {
    map.get(name).and_then(Value::as_bool) == Some(true)
}

/// The type, and whether null is a value of it. A field that may be absent is of its type or of none; null is no more there than
/// it is to a cluster, which knows the same kinds by definitions that do not name it.
fn type_of(map: &Map<String, Value>) -> (Option<&str>, bool) {
    let kind = match map.get("type") {
        Some(Value::String(kind)) => Some(kind.as_str()),
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        _ => None,
    };
    (kind, flag(map, "nullable"))
}

/// The strings of a choice of constants, if that is all it is.
fn constants(list: &[&Value]) -> Option<Vec<Value>> {
    let mut found = Vec::new();
    for item in list {
        match (item.get("const"), item.get("enum")) {
            (Some(constant @ Value::String(_)), _) => found.push(constant.clone()),
            (None, Some(Value::Array(several))) => {
                found.extend(several.iter().filter(|value| value.is_string()).cloned())
            }
            _ => return None,
        }
    }
    Some(found)
}

fn rules(map: &Map<String, Value>) -> Option<Box<Rules>> {
    let one_of = match (map.get("enum"), map.get("const")) {
        (Some(Value::Array(values)), _) => values.iter().filter(|value| !value.is_null()).cloned().collect(),
        (_, Some(constant)) => vec![constant.clone()],
        _ => Vec::new(),
    };
    let length = |characters: &str, items: &str| map.get(characters).or_else(|| map.get(items)).and_then(Value::as_u64);
    let rules = Rules {
        one_of,
        minimum: map.get("minimum").and_then(Value::as_f64),
        maximum: map.get("maximum").and_then(Value::as_f64),
        min_length: length("minLength", "minItems"),
        max_length: length("maxLength", "maxItems"),
    };
    (rules != Rules::default()).then(|| Box::new(rules))
}
