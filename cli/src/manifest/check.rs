//! What can be said about a document without a server: is it a kind that we know, and is it shaped as that kind is?

use serde_json::Value;
use trainyard_coordinator_core::diagnostic as lowering;
use trainyard_coordinator_core::manifest::dialect_of;
use trainyard_coordinator_core::view::Config;
use trainyard_runtime::kinds::{self, Kind};
use trainyard_runtime_core::schema::{self, CauseReason, Schema, Shape, closest};

use super::diagnostic::Diagnostic;
use super::{Document, Runner, path};

/// Longer lists of names hide what they say.
const MAX_NAMES: usize = 30;

/// Everything that is wrong with the shape of a document.
pub(crate) fn check(document: &Document, runner: Runner) -> Vec<Diagnostic> {
    if runner == Runner::Cluster && servers_own(document) {
        return name(document).into_iter().chain(images(document)).collect();
    }
    let kind = match kind_of(document) {
        Ok(kind) => kind,
        Err(diagnostic) => return vec![*diagnostic],
    };
    let mut diagnostics = Vec::new();
    let schema = kind.schema();
    for field in schema::unknown_fields(schema, &document.value) {
        diagnostics.push(unknown(document, schema, &field.path, field.suggestion.as_deref()));
    }
    for cause in kind.validate(&document.value) {
        // A field under an unknown one was never looked at; a name that is missing gets our own words below.
        if path::canonical(&cause.field) != "metadata.name" {
            diagnostics.push(wrong(document, &cause));
        }
    }
    diagnostics.extend(name(document));
    // Lowering builds on the shape: on a wrong one it would say the same again, in other words.
    if diagnostics.is_empty() {
        diagnostics.extend(lower(document, runner));
    }
    diagnostics
}

/// Hop 4: everything that the lowering of a job finds wrong.
fn lower(document: &Document, runner: Runner) -> Vec<Diagnostic> {
    let Some(dialect) = dialect_of(&document.value) else { return Vec::new() };
    // What a job refers to is on the server; its lowering is complete only there.
    if !dialect.related(&document.value).is_empty() {
        return Vec::new();
    }
    let config = match runner {
        Runner::Machine => Config::embedded(),
        Runner::Cluster => Config::cluster(),
    };
    let wrong = dialect.lower(&document.value, &[], &config).err().unwrap_or_default();
    let diagnostic = |wrong: lowering::Diagnostic| {
        // The lowering's messages go on from the path; here the field comes first.
        let message = format!("`{}` {}", path::last(&wrong.path), wrong.message);
        let diagnostic = Diagnostic::error(document, &wrong.path, &message);
        match wrong.hint {
            Some(hint) => diagnostic.hint(hint),
            None => diagnostic,
        }
    };
    wrong.into_iter().map(diagnostic).collect()
}

/// Whether a cluster knows better than we do how an object of this kind is shaped: Kubernetes' own kinds differ from
/// version to version, and others we do not know. It is asked with strict validation before anything is started.
fn servers_own(document: &Document) -> bool {
    !document.kind().is_empty() && !document.api_version().is_empty() && dialect_of(&document.value).is_none()
}

/// Pods on a cluster need images. Kubernetes asks for them only when it sees the pod.
fn images(document: &Document) -> Vec<Diagnostic> {
    let template = match document.kind() {
        "Job" | "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => "spec.template.spec",
        "Pod" => "spec",
        _ => return Vec::new(),
    };
    let spec = template.split('.').fold(&document.value, |value, key| &value[key]);
    let mut diagnostics = Vec::new();
    for list in ["initContainers", "containers"] {
        for (index, container) in spec[list].as_array().into_iter().flatten().enumerate() {
            if container["image"].as_str().unwrap_or_default().is_empty() {
                let at = format!("{template}.{list}[{index}].image");
                let diagnostic = Diagnostic::error(document, &at, "`image` is missing");
                diagnostics.push(
                    diagnostic.expected("the image to run").hint("name an image: on a cluster every pod needs one"),
                );
            }
        }
    }
    diagnostics
}

/// The kind of a document, or what is wrong with how it is named.
pub(crate) fn kind_of(document: &Document) -> Result<&'static Kind, Box<Diagnostic>> {
    let registry = kinds::registry();
    let (api_version, kind) = (document.api_version(), document.kind());
    if let Some(found) = registry.by_api_version(api_version, kind) {
        return Ok(found);
    }
    let missing = |field: &str, expected: &str, hint: &str| {
        let message = format!("`{field}` is missing");
        Err(Box::new(Diagnostic::error(document, field, &message).expected(expected).hint(hint)))
    };
    if kind.is_empty() {
        return missing("kind", "the kind of the object, for instance TrainingJob", "add `kind: TrainingJob`");
    }
    let same_kind: Vec<&Kind> = registry.iter().filter(|k| k.kind == kind).collect();
    let versions = || same_kind.iter().map(|k| format!("`{}`", k.api_version())).collect::<Vec<_>>().join(" or ");
    if api_version.is_empty() {
        let hint = match same_kind.first() {
            Some(known) => format!("add `apiVersion: {}`", known.api_version()),
            None => "add `apiVersion: trainyard.dev/v1alpha1`".to_owned(),
        };
        return missing("apiVersion", "the group and version of the kind", &hint);
    }
    if !same_kind.is_empty() {
        let message = format!("there is no {kind} in apiVersion `{api_version}`");
        let diagnostic = Diagnostic::error(document, "apiVersion", &message).expected(versions());
        return Err(Box::new(diagnostic.hint(format!("write `apiVersion: {}`", same_kind[0].api_version()))));
    }
    let diagnostic = Diagnostic::error(document, "kind", &format!("unknown kind `{kind}`"));
    Err(Box::new(match closest(kind, registry.iter().map(|k| k.kind)) {
        Some(near) => diagnostic.expected(format!("`{near}`")).hint(format!("did you mean `{near}`?")),
        None => diagnostic
            .expected("a kind that the API serves, for instance TrainingJob, PyTorchJob or Job")
            .hint("`trainyard get crd` and `kubectl api-resources` list them"),
    }))
}

fn unknown(document: &Document, schema: &Schema, at: &str, suggestion: Option<&str>) -> Diagnostic {
    let field = path::last(at);
    let parent = path::parent(at);
    let names = fields(schema, &document.value, parent);
    let diagnostic = Diagnostic::key(document, at, &format!("unknown field `{field}`"));
    let diagnostic = if names.is_empty() { diagnostic } else { diagnostic.expected(one_of(&names)) };
    match suggestion {
        Some(near) => diagnostic.hint(format!("did you mean `{near}`?")),
        None => diagnostic.hint(elsewhere(schema, &document.value, parent, field).unwrap_or_else(|| {
            let kind = document.kind();
            format!("remove it; `trainyard explain {}` lists the fields", dotted(kind, parent))
        })),
    }
}

/// A common slip: a right field at the wrong depth.
fn elsewhere(schema: &Schema, value: &Value, parent: &str, field: &str) -> Option<String> {
    let below_spec = fields(schema, value, "spec");
    (parent.is_empty() && below_spec.iter().any(|name| name == field))
        .then(|| format!("`{field}` belongs below `spec`: indent it"))
}

fn dotted(kind: &str, at: &str) -> String {
    let fields = path::steps(at).into_iter().filter_map(|step| match step {
        path::Step::Field(name) => Some(name),
        path::Step::Item(_) => None,
    });
    std::iter::once(kind.to_owned()).chain(fields).collect::<Vec<_>>().join(".")
}

/// The field names that the object at a path may have.
fn fields(schema: &Schema, value: &Value, at: &str) -> Vec<String> {
    let mut schema = schema.resolve(value);
    let mut value = value;
    for step in path::steps(at) {
        let (next, inner) = match (&step, &schema.shape) {
            (path::Step::Field(name), _) => (schema.field(name), &value[name.as_str()]),
            (path::Step::Item(index), Shape::List(list)) => (Some(&*list.items), &value[*index]),
            (path::Step::Item(_), _) => (None, &Value::Null),
        };
        let Some(next) = next else { return Vec::new() };
        (schema, value) = (next.resolve(inner), inner);
    }
    let Shape::Object(object) = &schema.shape else { return Vec::new() };
    object.fields.keys().map(ToString::to_string).collect()
}

fn one_of(names: &[String]) -> String {
    let shown = names.iter().take(MAX_NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(MAX_NAMES);
    if more > 0 { format!("one of {shown} and {more} more") } else { format!("one of {shown}") }
}

fn wrong(document: &Document, cause: &schema::Cause) -> Diagnostic {
    let field = path::last(&cause.field);
    if cause.reason == CauseReason::Required {
        let message = format!("`{field}` is missing");
        return Diagnostic::error(document, &cause.field, &message).expected("a value").hint(format!("add `{field}:`"));
    }
    // The API's wording repeats the path and the type; a person wants "this must be an integer".
    let words = cause.message.strip_prefix("Invalid value: ").unwrap_or(&cause.message);
    if let Some((seen, wanted)) = words.split_once(" in body must be of type ") {
        let seen = seen.split('"').nth(1).unwrap_or("something else").to_owned();
        let wanted = wanted.split(':').next().unwrap_or(wanted);
        let message = format!("`{field}` must be {}, but is {}", with_article(wanted), with_article(&seen));
        return Diagnostic::error(document, &cause.field, &message)
            .expected(with_article(wanted))
            .hint(type_hint(wanted, &seen));
    }
    if let Some((seen, values)) = cause.message.split_once(": supported values: ") {
        let seen = seen.trim_start_matches("Unsupported value: ").trim_matches('"');
        let values: Vec<&str> = values.split(", ").map(|value| value.trim_matches('"')).collect();
        let diagnostic = Diagnostic::error(document, &cause.field, &format!("`{field}` cannot be `{seen}`"));
        let near = closest(seen, values.iter().copied());
        let hint = near.map_or_else(|| "write one of these".to_owned(), |near| format!("did you mean `{near}`?"));
        return diagnostic.expected(format!("one of {}", values.join(", "))).hint(hint);
    }
    Diagnostic::error(document, &cause.field, &format!("`{field}`: {}", cause.message)).hint("change this value")
}

fn type_hint(wanted: &str, seen: &str) -> &'static str {
    match (wanted, seen) {
        ("integer" | "number", "string") => "write the number without quotes",
        ("string", _) => "put quotes around the value",
        ("boolean", _) => "write true or false, without quotes",
        ("array", _) => "write a list: [a, b], or one `- item` a line",
        ("object", _) => "write fields below it, indented",
        _ => "change this value",
    }
}

fn with_article(kind: &str) -> String {
    match kind {
        "array" => "a list".to_owned(),
        "object" => "a mapping".to_owned(),
        "boolean" => "true or false".to_owned(),
        "integer" => "a whole number".to_owned(),
        other => format!("a {other}"),
    }
}

/// What the API server would say about the name, said before anything is sent.
fn name(document: &Document) -> Option<Diagnostic> {
    let metadata = &document.value["metadata"];
    let Some(given) = metadata["name"].as_str() else {
        let named = metadata["generateName"].is_string();
        let message = "`metadata.name` is missing";
        return (!named).then(|| {
            Diagnostic::error(document, "metadata.name", message)
                .expected("a name of lower-case letters, digits and dashes")
                .hint("add `name: my-job` below `metadata`, or give --name")
        });
    };
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let good =
        given.chars().all(valid) && ends(given.chars().next()) && ends(given.chars().last()) && given.len() <= 253;
    (!good).then(|| {
        let proposal: String = given.to_lowercase().chars().map(|c| if valid(c) { c } else { '-' }).collect();
        Diagnostic::error(document, "metadata.name", &format!("`{given}` is no valid name"))
            .expected("lower-case letters, digits and dashes, beginning and ending with a letter or digit")
            .hint(format!("for instance `{}`", proposal.trim_matches(['-', '.'])))
    })
}
