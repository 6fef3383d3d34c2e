//! An object as stored: its JSON, and what the store needs of it at hand.

use std::fmt;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

/// A resource: API group and plural name. Versions are views of the same objects and do not count.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// Empty for the core group.
    pub group: Arc<str>,
    /// `pods`, `pytorchjobs`, …
    pub plural: Arc<str>,
}

impl Resource {
    /// `Resource::new("batch", "jobs")`.
    #[must_use]
    pub fn new(group: impl Into<Arc<str>>, plural: impl Into<Arc<str>>) -> Self {
        Self { group: group.into(), plural: plural.into() }
    }

    /// The resource of namespaces.
    #[must_use]
    pub fn namespaces() -> Self {
        Self::new("", "namespaces")
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.plural) } else { write!(f, "{}.{}", self.plural, self.group) }
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where an object is filed. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Which resource.
    pub resource: Resource,
    /// Empty for cluster-scoped resources.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl Key {
    /// A key; `namespace` is empty for cluster-scoped resources.
    #[must_use]
    pub fn new(resource: Resource, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { resource, namespace: namespace.into(), name: name.into() }
    }

    /// The key of a namespace object.
    #[must_use]
    pub fn namespace_object(name: impl Into<Arc<str>>) -> Self {
        Self::new(Resource::namespaces(), "", name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.resource, self.name)
        } else {
            write!(f, "{}/{}/{}", self.resource, self.namespace, self.name)
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One version of one object; never changed, only replaced.
///
/// It is held as text, as a value, or as both: each is made from the other when it is first asked for. A value takes about
/// six times the memory of its text, so the store keeps old objects as text alone, see [`Object::on_its_own`].
#[derive(Debug)]
pub struct Object {
    key: Key,
    uid: Arc<str>,
    resource_version: u64,
    birth: u64,
    value: OnceLock<Value>,
    json: OnceLock<Arc<str>>,
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.value() == other.value()
    }
}

impl Object {
    /// Files a complete value; `metadata.uid` and `metadata.resourceVersion` are overwritten with the given ones. What was
    /// never stored, the outcome of a dry run, has the version 0 and does not show it.
    pub(crate) fn file(key: Key, uid: Arc<str>, resource_version: u64, birth: u64, mut value: Value) -> Self {
        if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.insert("uid".to_owned(), Value::from(&*uid));
            if resource_version == 0 {
                meta.remove("resourceVersion");
            } else {
                meta.insert("resourceVersion".to_owned(), Value::from(resource_version.to_string()));
            }
        }
        Self { key, uid, resource_version, birth, value: value.into(), json: OnceLock::new() }
    }

    /// Reads back what [`Object::json`] gave, as the shell does when it opens the disk.
    ///
    /// # Errors
    /// When the text is not a stored object; the sentence says what is missing.
    pub fn restore(resource: Resource, birth: u64, json: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(json).map_err(|e| format!("not JSON: {e}"))?;
        let text = |field: &str| {
            value
                .get("metadata")
                .and_then(|m| m.get(field))
                .and_then(Value::as_str)
                .ok_or_else(|| format!("metadata.{field} is missing"))
        };
        let name: Arc<str> = text("name")?.into();
        let uid: Arc<str> = text("uid")?.into();
        let namespace: Arc<str> = text("namespace").unwrap_or_default().into();
        let resource_version =
            text("resourceVersion")?.parse().map_err(|_| "metadata.resourceVersion is not a number".to_owned())?;
        let key = Key { resource, namespace, name };
        Ok(Self { key, uid, resource_version, birth, value: OnceLock::new(), json: Arc::<str>::from(json).into() })
    }

    /// The object as text alone.
    pub(crate) fn as_text(&self) -> Self {
        Self {
            key: self.key.clone(),
            uid: Arc::clone(&self.uid),
            resource_version: self.resource_version,
            birth: self.birth,
            value: OnceLock::new(),
            json: Arc::clone(self.json()).into(),
        }
    }

    /// For whoever looks at the value of an object of the store: the object itself if it holds its value already, else
    /// another one with the same text, so that what is looked at once does not stay in the store as a value for ever.
    #[must_use]
    pub fn on_its_own(self: &Arc<Self>) -> Arc<Self> {
        if self.value.get().is_some() { Arc::clone(self) } else { Arc::new(self.as_text()) }
    }

    /// This object at another resourceVersion, as the last word of a deletion says it.
    pub(crate) fn at_version(&self, resource_version: u64) -> Self {
        Self::file(self.key.clone(), self.uid.clone(), resource_version, self.birth, self.value().clone())
    }

    /// Where it is filed.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// `metadata.uid`.
    #[must_use]
    pub fn uid(&self) -> &Arc<str> {
        &self.uid
    }

    /// `metadata.resourceVersion` as a number.
    #[must_use]
    pub fn resource_version(&self) -> u64 {
        self.resource_version
    }

    /// The resourceVersion with which this incarnation was created. Never used twice, so it names the row on disk.
    #[must_use]
    pub fn birth(&self) -> u64 {
        self.birth
    }

    /// The whole object.
    #[must_use]
    pub fn value(&self) -> &Value {
        // The text is one that we have written or have read once, so it is JSON.
        let read = || self.json.get().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
        self.value.get_or_init(read)
    }

    /// The whole object as compact JSON, rendered once and shared by the disk and all readers.
    #[must_use]
    pub fn json(&self) -> &Arc<str> {
        self.json.get_or_init(|| self.value().to_string().into())
    }

    /// `metadata`.
    #[must_use]
    pub fn metadata(&self) -> &Map<String, Value> {
        static EMPTY: OnceLock<Map<String, Value>> = OnceLock::new();
        self.value().get("metadata").and_then(Value::as_object).unwrap_or_else(|| EMPTY.get_or_init(Map::new))
    }

    /// The value of one label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.metadata().get("labels")?.get(key)?.as_str()
    }

    /// The value of one annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata().get("annotations")?.get(key)?.as_str()
    }

    /// `metadata.generation`.
    #[must_use]
    pub fn generation(&self) -> Option<i64> {
        self.metadata().get("generation")?.as_i64()
    }

    /// `metadata.finalizers`.
    pub fn finalizers(&self) -> impl Iterator<Item = &str> {
        strings(self.metadata().get("finalizers"))
    }

    /// Whether `metadata.deletionTimestamp` is set.
    #[must_use]
    pub fn is_deleting(&self) -> bool {
        self.metadata().get("deletionTimestamp").is_some_and(Value::is_string)
    }

    /// `metadata.deletionTimestamp`, in milliseconds since the epoch.
    #[must_use]
    pub fn deletion_ms(&self) -> Option<i64> {
        let text = self.metadata().get("deletionTimestamp")?.as_str()?;
        Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond())
    }

    /// `metadata.deletionGracePeriodSeconds`.
    #[must_use]
    pub fn deletion_grace_seconds(&self) -> Option<i64> {
        self.metadata().get("deletionGracePeriodSeconds")?.as_i64()
    }
}

/// The strings of a JSON array; nothing where it is none.
pub(crate) fn strings(value: Option<&Value>) -> impl Iterator<Item = &str> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}
