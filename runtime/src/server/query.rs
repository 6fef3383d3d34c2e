//! Query parameters of the API: read once, typed, refused where they make no sense. Pure.

use http::{Method, StatusCode};
use trainyard_runtime_core::store::FieldCause;

use super::status::{ApiError, Subject};

/// Every parameter that a verb may look at. Unknown ones are ignored, as the API server does.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Params {
    /// `watch`.
    pub(crate) watch: bool,
    /// `labelSelector`.
    pub(crate) label_selector: String,
    /// `fieldSelector`.
    pub(crate) field_selector: String,
    /// `limit`; 0 is none.
    pub(crate) limit: usize,
    /// `continue`.
    pub(crate) continue_token: String,
    /// `resourceVersion`; empty is none.
    pub(crate) resource_version: String,
    /// `resourceVersionMatch`; empty is none.
    pub(crate) version_match: String,
    /// `timeoutSeconds`.
    pub(crate) timeout_seconds: Option<u64>,
    /// `allowWatchBookmarks`.
    pub(crate) bookmarks: bool,
    /// `sendInitialEvents`.
    pub(crate) send_initial_events: Option<bool>,
    /// `dryRun=All`.
    pub(crate) dry_run: bool,
    /// `fieldManager`.
    pub(crate) field_manager: Option<String>,
    /// `force`.
    pub(crate) force: bool,
    /// `fieldValidation`.
    pub(crate) validation: FieldValidation,
    /// `pretty`.
    pub(crate) pretty: bool,
    /// `includeObject` of tables.
    pub(crate) include_object: IncludeObject,
    /// DeleteOptions given in the query.
    pub(crate) grace_seconds: Option<i64>,
    /// `propagationPolicy`.
    pub(crate) propagation: Option<String>,
    /// The deprecated `orphanDependents`.
    pub(crate) orphan_dependents: Option<bool>,
    /// Parameters of `pods/log`.
    pub(crate) log: LogParams,
    /// Why a write with these parameters is refused.
    pub(crate) refused: Option<ApiError>,
}

/// Parameters of `pods/log`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LogParams {
    /// `container`.
    pub(crate) container: Option<String>,
    /// `follow`.
    pub(crate) follow: bool,
    /// `previous`.
    pub(crate) previous: bool,
    /// `timestamps`.
    pub(crate) timestamps: bool,
    /// `tailLines`.
    pub(crate) tail_lines: Option<u64>,
    /// `limitBytes`.
    pub(crate) limit_bytes: Option<u64>,
    /// `sinceSeconds`.
    pub(crate) since_seconds: Option<i64>,
    /// `sinceTime`.
    pub(crate) since_time: Option<String>,
}

/// What happens to unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Dropped in silence.
    Ignore,
    /// Dropped, and said in a `Warning` header. What the API server does unasked.
    #[default]
    Warn,
    /// Refused.
    Strict,
}

/// What a table's rows carry of their object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

/// Longest selector or token read: a selector that long is a mistake or an attack, and ours are parsed per request.
const MAX_VALUE_BYTES: usize = 16 * 1024;

impl Params {
    /// Reads the query string of a request of this method.
    pub(crate) fn parse(query: &str, method: &Method) -> Result<Self, ApiError> {
        let mut params = Self::default();
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (unescape(key), unescape(value));
            if value.len() > MAX_VALUE_BYTES {
                return Err(ApiError::bad_request(format!(
                    "query parameter {key} is longer than {MAX_VALUE_BYTES} bytes"
                )));
            }
            // Of what is given more than once the first counts, but for what may be a list.
            if key != "dryRun" && seen.contains(&key) {
                continue;
            }
            match params.set(&key, value, options_kind(method)) {
                // Whether a body can be read at all is looked at before what is to be done with it.
                Err(error) if error.code() == StatusCode::UNPROCESSABLE_ENTITY => {
                    params.refused = params.refused.or(Some(error));
                }
                done => done?,
            }
            seen.push(key);
        }
        Ok(params)
    }

    fn set(&mut self, key: &str, value: String, options: &'static str) -> Result<(), ApiError> {
        match key {
            "watch" => self.watch = flag(key, &value)?,
            "labelSelector" => self.label_selector = value,
            "fieldSelector" => self.field_selector = value,
            // A negative limit is none.
            "limit" => self.limit = usize::try_from(number::<i64>(key, &value)?.unwrap_or(0)).unwrap_or(0),
            "continue" => self.continue_token = value,
            "resourceVersion" => self.resource_version = value,
            "resourceVersionMatch" => self.version_match = value,
            "timeoutSeconds" => self.timeout_seconds = number(key, &value)?,
            "allowWatchBookmarks" => self.bookmarks = flag(key, &value)?,
            "sendInitialEvents" => self.send_initial_events = Some(flag(key, &value)?),
            "dryRun" => self.dry_run = dry_run(&value, options)?,
            "fieldManager" => self.field_manager = manager(value, options)?,
            "force" => self.force = flag(key, &value)?,
            "fieldValidation" => self.validation = validation(&value, options)?,
            "pretty" => self.pretty = value != "false" && value != "0",
            "includeObject" => self.include_object = include_object(&value)?,
            "gracePeriodSeconds" => self.grace_seconds = number(key, &value)?,
            "propagationPolicy" => self.propagation = (!value.is_empty()).then_some(value),
            "orphanDependents" => self.orphan_dependents = Some(flag(key, &value)?),
            _ => return self.log.set(key, value),
        }
        Ok(())
    }
}

impl LogParams {
    fn set(&mut self, key: &str, value: String) -> Result<(), ApiError> {
        match key {
            "container" => self.container = (!value.is_empty()).then_some(value),
            "follow" => self.follow = flag(key, &value)?,
            "previous" => self.previous = flag(key, &value)?,
            "timestamps" => self.timestamps = flag(key, &value)?,
            "tailLines" => self.tail_lines = number(key, &value)?,
            "limitBytes" => self.limit_bytes = number(key, &value)?,
            "sinceSeconds" => self.since_seconds = number(key, &value)?,
            "sinceTime" => self.since_time = (!value.is_empty()).then_some(value),
            _ => {}
        }
        Ok(())
    }
}

/// The API's name for the parameters of a method, which its refusals carry.
fn options_kind(method: &Method) -> &'static str {
    match method.as_str() {
        "PUT" => "UpdateOptions",
        "PATCH" => "PatchOptions",
        "DELETE" => "DeleteOptions",
        _ => "CreateOptions",
    }
}

/// 422 for a parameter.
fn unsupported(options: &str, field: &str, shown: &str, supported: &str) -> ApiError {
    let message = format!("Unsupported value: {shown}: supported values: {supported}");
    let cause = FieldCause { field: field.to_owned(), reason: "FieldValueNotSupported", message };
    ApiError::invalid(Subject::new("meta.k8s.io", options, ""), vec![cause])
}

/// `dryRun` has one legal value; saying it without one is not saying nothing.
pub(crate) fn dry_run(value: &str, options: &str) -> Result<bool, ApiError> {
    match value {
        "All" => Ok(true),
        other => Err(unsupported(options, "dryRun", &format!("[\"{other}\"]"), "\"All\"")),
    }
}

/// A field manager's name, of bounded length.
fn manager(value: String, options: &str) -> Result<Option<String>, ApiError> {
    /// As upstream; the name is stored with every object.
    const MAX_BYTES: usize = 128;
    if value.len() <= MAX_BYTES {
        return Ok((!value.is_empty()).then_some(value));
    }
    let message = format!("Too long: may not be more than {MAX_BYTES} bytes");
    let cause = FieldCause { field: "fieldManager".to_owned(), reason: "FieldValueTooLong", message };
    Err(ApiError::invalid(Subject::new("meta.k8s.io", options, ""), vec![cause]))
}

/// `fieldValidation` by name.
fn validation(value: &str, options: &str) -> Result<FieldValidation, ApiError> {
    match value {
        "" | "Warn" => Ok(FieldValidation::Warn),
        "Ignore" => Ok(FieldValidation::Ignore),
        "Strict" => Ok(FieldValidation::Strict),
        other => {
            let supported = "\"\", \"Ignore\", \"Strict\", \"Warn\"";
            Err(unsupported(options, "fieldValidation", &format!("\"{other}\""), supported))
        }
    }
}

fn include_object(value: &str) -> Result<IncludeObject, ApiError> {
    match value {
        "" | "Metadata" => Ok(IncludeObject::Metadata),
        "None" => Ok(IncludeObject::None),
        "Object" => Ok(IncludeObject::Object),
        other => Err(ApiError::bad_request(format!("unrecognized includeObject value: \"{other}\""))),
    }
}

/// Booleans as the API's own parser reads them: anything but `false` and `0` that is there counts as true
/// (the Python client writes `True`).
fn flag(key: &str, value: &str) -> Result<bool, ApiError> {
    match value.to_ascii_lowercase().as_str() {
        "false" | "0" => Ok(false),
        "" | "true" | "1" => Ok(true),
        _ => Err(ApiError::bad_request(format!("query parameter {key}: \"{value}\" is neither true nor false"))),
    }
}

fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<Option<T>, ApiError> {
    if value.is_empty() {
        return Ok(None);
    }
    value
        .parse()
        .map(Some)
        .map_err(|_| ApiError::bad_request(format!("query parameter {key}: \"{value}\" is not a number in range")))
}

/// `application/x-www-form-urlencoded`; broken escapes stay as they are.
fn unescape(text: &str) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = (byte == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                at += 3;
            }
            None => {
                out.push(if byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_unescaped() {
        let params = Params::parse("labelSelector=app%20in%20%28a%2Cb%29,x!%3Dy&watch=1&limit=500", &Method::GET)
            .expect("reads");
        assert_eq!(params.label_selector, "app in (a,b),x!=y");
        assert!(params.watch);
        assert_eq!(params.limit, 500);
    }

    #[test]
    fn the_python_clients_booleans_are_read() {
        assert!(Params::parse("follow=True&watch=True", &Method::GET).expect("reads").log.follow);
        assert!(!Params::parse("follow=False", &Method::GET).expect("reads").log.follow);
    }

    #[test]
    fn values_that_make_no_sense_are_refused_by_name() {
        for query in ["limit=many", "dryRun=Some", "fieldValidation=Loose", "watch=maybe", "includeObject=Half"] {
            let error = Params::parse(query, &Method::GET).map_or_else(Some, |params| params.refused).expect(query);
            assert!(error.code().is_client_error(), "{query}");
        }
    }

    #[test]
    fn broken_escapes_stay() {
        assert_eq!(unescape("a%2"), "a%2");
        assert_eq!(unescape("a%zz+b"), "a%zz b");
    }
}
