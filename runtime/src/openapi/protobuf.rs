//! Swagger 2.0 as the protobuf message `openapi.v2.Document` of gnostic, which client-go asks for and cannot do without.
//!
//! Only what clients read is written: definitions with their extensions, and the parameters of the verbs.

use serde_json::{Map, Value};

/// Writes one message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u64, value: Option<&Value>) {
        for text in value.and_then(Value::as_array).into_iter().flatten() {
            self.text(field, Some(text));
        }
    }

    fn flag(&mut self, field: u64, value: bool) {
        if value {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// A list of messages with a name and a value, which is how gnostic writes maps.
    fn named(&mut self, field: u64, map: Option<&Value>, mut write: impl FnMut(&mut Self, &Value)) {
        for (name, value) in map.and_then(Value::as_object).into_iter().flatten() {
            self.message(field, |entry| {
                entry.bytes(1, name.as_bytes());
                entry.message(2, |message| write(message, value));
            });
        }
    }

    /// Extensions, as YAML text (of which JSON is a subset).
    fn extensions(&mut self, field: u64, map: &Map<String, Value>) {
        for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
            self.message(field, |entry| {
                entry.bytes(1, name.as_bytes());
                entry.message(2, |any| any.bytes(2, value.to_string().as_bytes()));
            });
        }
    }
}

/// The whole document.
pub(super) fn document(swagger: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, swagger.get("swagger"));
    out.message(2, |info| {
        info.text(1, swagger.pointer("/info/title"));
        info.text(2, swagger.pointer("/info/version"));
    });
    out.message(8, |paths| paths.named(2, swagger.get("paths"), path_item));
    out.message(9, |definitions| definitions.named(1, swagger.get("definitions"), schema));
    out.0
}

fn path_item(out: &mut Message, item: &Value) {
    for (method, field) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if let Some(value) = item.get(method) {
            out.message(field, |out| operation(out, value));
        }
    }
    for value in item.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        out.message(9, |out| parameter(out, value));
    }
}

fn operation(out: &mut Message, value: &Value) {
    out.text(3, value.get("description"));
    out.text(5, value.get("operationId"));
    for value in value.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        out.message(8, |out| parameter(out, value));
    }
    out.message(9, |responses| {
        // The type that a verb answers with can be read from its kind.
        responses.message(1, |entry| {
            entry.bytes(1, b"200");
            entry.message(2, |value| value.message(1, |response| response.bytes(1, b"OK")));
        });
    });
    if let Value::Object(map) = value {
        out.extensions(13, map);
    }
}

fn parameter(out: &mut Message, value: &Value) {
    let required = value.get("required") == Some(&Value::Bool(true));
    out.message(1, |out| match value.get("in").and_then(Value::as_str) {
        Some("body") => out.message(1, |body| {
            body.text(2, value.get("name"));
            body.text(3, value.get("in"));
            body.flag(4, required);
            if let Some(inner) = value.get("schema") {
                body.message(5, |out| schema(out, inner));
            }
        }),
        place => {
            let field = if place == Some("path") { 4 } else { 3 };
            // In query parameters "allow empty" stands between name and type.
            let kind = if place == Some("path") { 5 } else { 6 };
            out.message(2, |out| {
                out.message(field, |out| {
                    out.flag(1, required);
                    out.text(2, value.get("in"));
                    out.text(3, value.get("description"));
                    out.text(4, value.get("name"));
                    out.text(kind, value.get("type"));
                });
            });
        }
    });
}

fn schema(out: &mut Message, value: &Value) {
    let Value::Object(map) = value else { return };
    out.text(1, map.get("$ref"));
    out.text(2, map.get("format"));
    out.text(4, map.get("description"));
    if let Some(default) = map.get("default") {
        out.message(5, |any| any.bytes(2, default.to_string().as_bytes()));
    }
    out.texts(19, map.get("required"));
    for value in map.get("enum").and_then(Value::as_array).into_iter().flatten() {
        out.message(20, |any| any.bytes(2, value.to_string().as_bytes()));
    }
    if let Some(values) = map.get("additionalProperties") {
        out.message(21, |out| out.message(1, |out| schema(out, values)));
    }
    if map.contains_key("type") {
        out.message(22, |out| out.text(1, map.get("type")));
    }
    if let Some(items) = map.get("items") {
        out.message(23, |out| out.message(1, |out| schema(out, items)));
    }
    if map.contains_key("properties") {
        out.message(25, |out| out.named(1, map.get("properties"), schema));
    }
    out.extensions(31, map);
}
