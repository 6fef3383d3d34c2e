//! Objects without their `managedFields`, cut out of the text. Pure.
//!
//! They are a third of what is told of a pod, and none of this program's own watchers looks at them.

/// The parts of an object's text before and behind `metadata.managedFields`; the whole text where it has none. The text is compact JSON,
/// as the store renders it.
pub(super) fn parts(json: &str) -> (&str, &str) {
    let cut = || {
        let metadata = member(json.as_bytes(), 0, b"\"metadata\"")?;
        let fields = member(json.as_bytes(), metadata.value, b"\"managedFields\"")?;
        // One of the commas around it goes with it.
        let bytes = json.as_bytes();
        let has_more = bytes.get(fields.end) == Some(&b',');
        let follows = fields.key > 0 && bytes[fields.key - 1] == b',';
        match (has_more, follows) {
            (true, _) => Some((json.get(..fields.key)?, json.get(fields.end + 1..)?)),
            (false, true) => Some((json.get(..fields.key - 1)?, json.get(fields.end..)?)),
            (false, false) => Some((json.get(..fields.key)?, json.get(fields.end..)?)),
        }
    };
    cut().unwrap_or((json, ""))
}

/// Where a member of an object is: its name, its value, and what is behind it.
struct Member {
    key: usize,
    value: usize,
    end: usize,
}

/// A member of the object that begins at `at`, by its quoted name.
fn member(json: &[u8], at: usize, name: &[u8]) -> Option<Member> {
    if json.get(at) != Some(&b'{') {
        return None;
    }
    let mut key = at + 1;
    while json.get(key) == Some(&b'"') {
        let colon = behind(json, key)?;
        if json.get(colon) != Some(&b':') {
            return None;
        }
        let end = behind(json, colon + 1)?;
        if json.get(key..colon) == Some(name) {
            return Some(Member { key, value: colon + 1, end });
        }
        if json.get(end) != Some(&b',') {
            return None;
        }
        key = end + 1;
    }
    None
}

/// What is behind the value that begins at `at`.
fn behind(json: &[u8], at: usize) -> Option<usize> {
    let (mut depth, mut place) = (0_usize, at);
    loop {
        match json.get(place)? {
            b'"' => {
                place = behind_string(json, place)?;
                if depth == 0 {
                    return Some(place);
                }
            }
            b'{' | b'[' => {
                depth += 1;
                place += 1;
            }
            b'}' | b']' if depth == 0 => return Some(place),
            b'}' | b']' => {
                depth -= 1;
                place += 1;
                if depth == 0 {
                    return Some(place);
                }
            }
            b',' if depth == 0 => return Some(place),
            _ => place += 1,
        }
    }
}

fn behind_string(json: &[u8], at: usize) -> Option<usize> {
    let mut place = at + 1;
    loop {
        match json.get(place)? {
            b'"' => return Some(place + 1),
            b'\\' => place += 2,
            _ => place += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cut(object: &Value) -> Value {
        let text = object.to_string();
        let (before, behind) = parts(&text);
        serde_json::from_str(&format!("{before}{behind}")).expect("JSON")
    }

    #[test]
    fn what_is_cut_out_is_that_field_wherever_it_stands_and_no_other() {
        let fields = json!([{"manager": "m", "fieldsV1": {"f:a\"]}{": {}}}, {"time": null}]);
        let tricky =
            json!({"a": "\\", "b\\\"": "\"managedFields\":[", "list": [1, -2.5e3, {"x": []}, "]"], "no": false});
        for before in [json!({}), tricky.clone()] {
            for behind in [json!({}), tricky.clone()] {
                let mut metadata = before.clone();
                metadata["managedFields"] = fields.clone();
                for (name, value) in behind.as_object().expect("an object") {
                    metadata[format!("{name}-2")] = value.clone();
                }
                let mut object = json!({"apiVersion": "v1", "metadata": metadata});
                object["spec"] = json!({"template": {"metadata": {"managedFields": fields}}, "text": tricky});
                let mut expected = object.clone();
                expected["metadata"].as_object_mut().expect("an object").remove("managedFields");
                assert_eq!(cut(&object), expected);
                assert_eq!(cut(&expected), expected);
            }
        }
        for other in [json!({}), json!({"metadata": {}}), json!({"metadata": null}), json!([]), json!("text"), json!(1)]
        {
            assert_eq!(cut(&other), other);
        }
    }
}
