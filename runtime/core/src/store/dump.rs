//! The state as JSON, and back: for support cases, the simulator and tests.

use serde_json::{Value, json};

use super::object::{Object, Resource};
use super::rules::ResourceRules;
use super::state::{Limits, Store};

impl Store {
    /// Everything needed to go on from here, but for the kept changes: watches on a replayed store start at its
    /// resourceVersion. The values of Secrets are in it; whoever shows it to people takes them out.
    #[must_use]
    pub fn dump(&self) -> Value {
        let objects: Vec<Value> = self
            .objects()
            .map(|o| {
                let Resource { group, plural } = &o.key().resource;
                json!({ "group": **group, "plural": **plural, "birth": o.birth(), "object": o.on_its_own().value() })
            })
            .collect();
        let resources: Vec<Value> = self
            .windows
            .iter()
            .map(|(r, w)| json!({ "group": *r.group, "plural": *r.plural, "last": w.last }))
            .collect();
        json!({ "resourceVersion": self.resource_version, "resources": resources, "objects": objects })
    }

    /// A store that goes on where the dump was taken.
    ///
    /// # Errors
    /// When the value is not a dump; the sentence says what is wrong.
    pub fn replay(
        rules: impl IntoIterator<Item = ResourceRules>,
        limits: Limits,
        dump: &Value,
    ) -> Result<Self, String> {
        let number = |at: &Value, field: &str| at[field].as_u64().ok_or_else(|| format!("{field} is not a number"));
        let list = |field: &str| dump[field].as_array().ok_or_else(|| format!("{field} is not a list"));
        let resource = |at: &Value| match (at["group"].as_str(), at["plural"].as_str()) {
            (Some(group), Some(plural)) => Ok(Resource::new(group, plural)),
            (None, _) | (_, None) => Err(format!("group and plural are missing in {at}")),
        };
        let mut store = Self::new(rules, limits);
        for entry in list("objects")? {
            let object = Object::restore(resource(entry)?, number(entry, "birth")?, &entry["object"].to_string())?;
            store.restore_object(object);
        }
        for entry in list("resources")? {
            store.restore_resource(&resource(entry)?, number(entry, "last")?);
        }
        store.skip_to(number(dump, "resourceVersion")?);
        Ok(store)
    }
}
