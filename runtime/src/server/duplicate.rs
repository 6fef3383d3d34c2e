//! Fields that a JSON document says twice. The parser keeps the last; the client is told. Pure.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// More are not listed.
const MAX_REPORTED: usize = 64;

/// The paths of fields that are there more than once, each told once. Nothing for a document that is not JSON.
pub(super) fn fields(document: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(document);
    // What is not JSON was refused before.
    let _ = Scan { path: String::new(), found: &mut found }.deserialize(&mut reader);
    found
}

struct Scan<'a> {
    path: String,
    found: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Scan<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            if seen.insert(key) {
                map.next_value_seed(Scan { path, found: self.found })?;
                continue;
            }
            if self.found.len() < MAX_REPORTED && !self.found.contains(&path) {
                self.found.push(path);
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut index = 0;
        while list.next_element_seed(Scan { path: format!("{}[{index}]", self.path), found: self.found })?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_with_its_path() {
        let document = br#"{"a": 1, "spec": {"c": [{"n": 1}, {"n": 1, "n": 2, "n": 3}]}, "a": {"x": 1, "x": 2}}"#;
        assert_eq!(fields(document), ["spec.c[1].n", "a"]);
        assert!(fields(br#"{"a": [1, 2.5, null, true, "s"], "b": -1}"#).is_empty());
        assert!(fields(b"not: json").is_empty());
    }
}
