//! YAML into a tree whose nodes know where they were written.
//!
//! This sits on the event parser under serde-saphyr, because serde loses the place of every field. Scalars follow YAML 1.2's core
//! schema, except that `0644` is octal, as every Kubernetes manifest with a file mode expects.

use std::borrow::Cow;
use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, Span as Marks};
use serde_json::{Map, Number, Value};

use super::diagnostic::{Diagnostic, Position};
use super::{Source, Span, path};

/// Deeper nesting is an attack or a mistake; the deepest Kubernetes schema stays below 25.
const MAX_DEPTH: usize = 100;
/// Bounds what aliases can blow up to: the largest manifest that we know has 12,000 nodes.
const MAX_NODES: usize = 500_000;

/// A node with its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    at: Position,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Mapping(Vec<(String, Position, Node)>),
}

impl Node {
    /// The plain value, and where each path was written.
    pub(crate) fn flatten(self) -> (Value, BTreeMap<String, Span>) {
        let mut spans = BTreeMap::new();
        let at = self.at;
        let value = self.fill("", at, &mut spans);
        (value, spans)
    }

    fn fill(self, base: &str, key: Position, spans: &mut BTreeMap<String, Span>) -> Value {
        spans.insert(base.to_owned(), Span { key, value: self.at });
        match self.content {
            Content::Scalar(value) => value,
            Content::List(nodes) => {
                let item = |(index, node): (usize, Self)| {
                    let at = node.at;
                    node.fill(&path::item(base, index), at, spans)
                };
                Value::Array(nodes.into_iter().enumerate().map(item).collect())
            }
            Content::Mapping(fields) => {
                let field = |(name, key, node): (String, Position, Self)| {
                    let value = node.fill(&path::field(base, &name), key, spans);
                    (name, value)
                };
                Value::Object(fields.into_iter().map(field).collect::<Map<_, _>>())
            }
        }
    }
}

/// All documents of a file. Parsing stops at the first syntax error; what came before is kept.
pub(crate) fn documents(source: &Source) -> (Vec<Node>, Vec<Diagnostic>) {
    let mut builder = Builder { source, anchors: BTreeMap::new(), nodes: 0, diagnostics: Vec::new() };
    let mut documents = Vec::new();
    let mut events = Parser::new_from_str(&source.text);
    while let Some(next) = events.next() {
        let event = match next {
            Ok((event, _)) => event,
            Err(error) => {
                builder.syntax(&error);
                break;
            }
        };
        if matches!(event, Event::DocumentStart(..)) {
            builder.anchors.clear();
            match builder.document(&mut events) {
                Some(node) => documents.push(node),
                None => break,
            }
        }
    }
    (documents, builder.diagnostics)
}

struct Builder<'a> {
    source: &'a Source,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    diagnostics: Vec<Diagnostic>,
}

type Events<'a> = Parser<'a, granit_parser::StrInput<'a>>;

impl Builder<'_> {
    fn syntax(&mut self, error: &granit_parser::ScanError) {
        let marker = error.marker();
        let at = Position { line: marker.line(), column: marker.col() + 1, length: 1 };
        let message = format!("this is not valid YAML: {}", error.info());
        self.diagnostics.push(Diagnostic::at(self.source, at, "", &message).hint(
            "check the indentation (spaces, never tabs), and quote values that contain `: ` or start with one of @ ` % & * ! {",
        ));
    }

    fn document(&mut self, events: &mut Events<'_>) -> Option<Node> {
        let (event, marks) = self.next(events)?;
        self.node(event, marks, events, 0)
    }

    /// The next event that carries data. `None` after a syntax error, which is then reported.
    fn next<'a>(&mut self, events: &mut Events<'a>) -> Option<(Event<'a>, Marks)> {
        loop {
            match events.next()? {
                Ok((Event::Comment(..) | Event::Anchor(..), _)) => {}
                Ok(pair) => return Some(pair),
                Err(error) => {
                    self.syntax(&error);
                    return None;
                }
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the parser's events are open-ended")]
    fn node(&mut self, event: Event<'_>, marks: Marks, events: &mut Events<'_>, depth: usize) -> Option<Node> {
        self.nodes += 1;
        let at = position(&marks);
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            let limit = format!("this document is too large: at most {MAX_DEPTH} levels and {MAX_NODES} values");
            self.diagnostics.push(Diagnostic::at(self.source, at, "", &limit));
            return None;
        }
        let (anchor, content) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let string =
                    tag.as_ref().and_then(|tag| tag.core_suffix().map(str::to_owned)).as_deref() == Some("str");
                let value = if style == ScalarStyle::Plain && !string {
                    plain(&text)
                } else {
                    Value::String(text.into_owned())
                };
                (anchor, Content::Scalar(value))
            }
            Event::SequenceStart(_, anchor, _) => (anchor, Content::List(self.list(events, depth)?)),
            Event::MappingStart(_, anchor, _) => (anchor, Content::Mapping(self.mapping(events, depth)?)),
            Event::Alias(id) => {
                let node = self.anchors.get(&id)?.clone();
                // An alias costs what it stands for, so that nested aliases cannot explode.
                self.nodes += weight(&node);
                return Some(Node { at, content: node.content });
            }
            // The parser yields nothing else in the place of a node.
            _ => return None,
        };
        let node = Node { at, content };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Some(node)
    }

    fn list(&mut self, events: &mut Events<'_>, depth: usize) -> Option<Vec<Node>> {
        let mut nodes = Vec::new();
        loop {
            let (event, marks) = self.next(events)?;
            if event == Event::SequenceEnd {
                return Some(nodes);
            }
            nodes.push(self.node(event, marks, events, depth + 1)?);
        }
    }

    fn mapping(&mut self, events: &mut Events<'_>, depth: usize) -> Option<Vec<(String, Position, Node)>> {
        let mut fields: Vec<(String, Position, Node)> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, marks) = self.next(events)?;
            let Event::Scalar(name, style, ..) = event else {
                if event == Event::MappingEnd {
                    break;
                }
                let message = "a field's name must be a plain word";
                self.diagnostics.push(Diagnostic::at(self.source, position(&marks), "", message));
                return None;
            };
            let key = position(&marks);
            let (event, marks) = self.next(events)?;
            let value = self.node(event, marks, events, depth + 1)?;
            if name == "<<" && style == ScalarStyle::Plain {
                merged.push(value);
            } else if let Some((_, first, _)) = fields.iter().find(|(existing, ..)| *existing == name) {
                let message = format!("`{name}` is given twice; the first one is in line {}", first.line);
                self.diagnostics.push(Diagnostic::at(self.source, key, &name, &message).hint("remove one of the two"));
            } else {
                fields.push((name.into_owned(), key, value));
            }
        }
        for node in merged {
            merge(&mut fields, node);
        }
        Some(fields)
    }
}

/// `<<: *anchor`: fields that are not given come from the anchor.
fn merge(fields: &mut Vec<(String, Position, Node)>, node: Node) {
    match node.content {
        Content::Mapping(more) => {
            for (name, key, value) in more {
                if !fields.iter().any(|(existing, ..)| *existing == name) {
                    fields.push((name, key, value));
                }
            }
        }
        Content::List(nodes) => nodes.into_iter().for_each(|node| merge(fields, node)),
        Content::Scalar(_) => {}
    }
}

fn weight(node: &Node) -> usize {
    match &node.content {
        Content::Scalar(_) => 1,
        Content::List(nodes) => 1 + nodes.iter().map(weight).sum::<usize>(),
        Content::Mapping(fields) => 1 + fields.iter().map(|(_, _, node)| weight(node)).sum::<usize>(),
    }
}

fn position(marks: &Marks) -> Position {
    let same_line = marks.start.line() == marks.end.line();
    let length = if same_line { marks.end.col().saturating_sub(marks.start.col()) } else { 1 };
    Position { line: marks.start.line(), column: marks.start.col() + 1, length: length.max(1) }
}

/// A plain scalar by YAML's core schema.
pub(crate) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let radix =
        |prefix: &str, radix| digits.strip_prefix(prefix).and_then(|rest| i64::from_str_radix(rest, radix).ok());
    let octal = || {
        let old = digits.len() > 1 && digits.starts_with('0') && digits.chars().all(|c| ('0'..='7').contains(&c));
        old.then(|| i64::from_str_radix(digits, 8).ok()).flatten()
    };
    if let Some(whole) = radix("0x", 16).or_else(|| radix("0o", 8)).or_else(octal) {
        return Some(Number::from(sign * whole));
    }
    if digits.chars().all(|c| c.is_ascii_digit()) {
        let text: Cow<'_, str> = if sign < 0 { format!("-{digits}").into() } else { digits.into() };
        return text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from)).ok();
    }
    let float = digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'));
    let has_digit = digits.contains(|c: char| c.is_ascii_digit());
    (float && has_digit)
        .then(|| digits.parse::<f64>().ok())
        .flatten()
        .and_then(|value| Number::from_f64(if sign < 0 { -value } else { value }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fmt::Write as _;

    type Parsed = (Value, BTreeMap<String, Span>);

    fn parse(text: &str) -> (Vec<Parsed>, Vec<Diagnostic>) {
        let source = Source { name: "t.yaml".to_owned(), text: text.to_owned(), folder: None };
        let (nodes, diagnostics) = documents(&source);
        (nodes.into_iter().map(Node::flatten).collect(), diagnostics)
    }

    #[test]
    fn scalars_read_as_kubernetes_reads_them() {
        for (text, value) in [
            ("5", json!(5)),
            ("-5", json!(-5)),
            ("0644", json!(420)),
            ("0o17", json!(15)),
            ("0x1f", json!(31)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            ("1.2.3", json!("1.2.3")),
            ("100m", json!("100m")),
            ("0.5Gi", json!("0.5Gi")),
            ("yes", json!("yes")),
            ("~", json!(null)),
            ("089", json!(89)),
            ("-", json!("-")),
        ] {
            assert_eq!(plain(text), value, "{text}");
        }
    }

    #[test]
    fn every_field_knows_its_line_and_column() {
        let (documents, diagnostics) = parse("kind: A\nspec:\n  list:\n  - name: x\n    size: 3\n---\nkind: B\n");
        assert!(diagnostics.is_empty());
        let (value, spans) = &documents[0];
        assert_eq!(value["spec"]["list"][0]["size"], 3);
        let span = spans["spec.list[0].size"];
        assert_eq!((span.key.line, span.key.column, span.key.length), (5, 5, 4));
        assert_eq!((span.value.line, span.value.column), (5, 11));
        assert_eq!(documents[1].1["kind"].key.line, 7);
    }

    #[test]
    fn anchors_and_merge_keys_are_expanded() {
        let (documents, _) = parse("base: &b {a: 1, b: 2}\nuse:\n  <<: *b\n  b: 3\n");
        assert_eq!(documents[0].0["use"], json!({"b": 3, "a": 1}));
    }

    #[test]
    fn nested_aliases_cannot_explode() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let previous = level - 1;
            let refs = vec![format!("*a{previous}"); 10].join(",");
            writeln!(text, "a{level}: &a{level} [{refs}]").expect("strings take all text");
        }
        let (documents, diagnostics) = parse(&text);
        assert!(documents.is_empty());
        assert!(diagnostics[0].message.contains("too large"), "{diagnostics:?}");
    }

    #[test]
    fn a_field_given_twice_and_a_tab_are_reported_with_their_place() {
        let (_, diagnostics) = parse("a: 1\nb: 2\na: 3\n");
        assert_eq!(diagnostics[0].at.line, 3);
        let (_, diagnostics) = parse("a:\n\tb: 1\n");
        assert_eq!(diagnostics.len(), 1);
        assert!(diagnostics[0].message.starts_with("this is not valid YAML"));
    }
}
