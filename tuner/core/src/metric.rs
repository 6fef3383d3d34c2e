//! Metrics in the lines that a program writes.

/// So many bytes at the end of a line are looked at.
const LONGEST: usize = 64 * 1024;
/// A number has at most so many bytes.
const NUMBER: usize = 64;
/// Names under which programs tell how far they are.
const STEPS: [&str; 4] = ["step", "global_step", "epoch", "iteration"];

/// What a line tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// How far the program is, if the line says so.
    pub step: Option<u64>,
    /// Numbers by name, in their order; NaN and infinities may be among them.
    pub values: Vec<(String, f64)>,
}

/// Reads a line: an object of JSON with numbers (or numbers in quotes) as its values, or any text with `name=number` or
/// `name: number` in it. Spaces around the sign are allowed.
#[must_use]
pub fn read(line: &str) -> Line {
    let start = (line.len().saturating_sub(LONGEST)..=line.len()).find(|at| line.is_char_boundary(*at));
    let line = line[start.unwrap_or(0)..].trim();
    let object = line.starts_with('{').then(|| serde_json::from_str::<serde_json::Map<_, _>>(line).ok()).flatten();
    let values = match object {
        Some(object) => object.iter().filter_map(|(name, value)| Some((name.clone(), json_number(value)?))).collect(),
        None => text(line),
    };
    let step = |name: &str| values.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
    let step = STEPS.iter().find_map(|name| step(name)).filter(|step| *step >= 0.0 && *step < 9e15);
    Line { step: step.map(|step| step as u64), values }
}

fn json_number(value: &serde_json::Value) -> Option<f64> {
    match value {
        serde_json::Value::Number(number) => number.as_f64(),
        serde_json::Value::String(text) => text.trim().parse().ok(),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_) => None,
    }
}

fn text(line: &str) -> Vec<(String, f64)> {
    let mut values = Vec::new();
    let signs = line.char_indices().filter(|(_, sign)| matches!(sign, '=' | ':'));
    for (at, _) in signs {
        // Names and numbers may stand in quotes, as Python prints its dictionaries.
        let before = line[..at].trim_end().trim_end_matches(['"', '\'']);
        let after = line[at + 1..].trim_start().trim_start_matches(['"', '\'']);
        let name = before.rsplit(|sign: char| !is_of_name(sign)).next().unwrap_or_default();
        let is_name = name.starts_with(|sign: char| sign.is_alphabetic() || sign == '_');
        if let Some(number) = number(after).filter(|_| is_name) {
            values.push((name.to_owned(), number));
        }
    }
    values
}

fn is_of_name(sign: char) -> bool {
    sign.is_alphanumeric() || matches!(sign, '_' | '-' | '.' | '/' | '|' | '@')
}

/// The number that a text begins with, if nothing follows that would make it something else, such as a time or a version.
fn number(text: &str) -> Option<f64> {
    let most = (0..=text.len().min(NUMBER)).rev().find(|at| text.is_char_boundary(*at))?;
    let text = &text[..most];
    let end = text.find(|sign: char| !(sign.is_alphanumeric() || matches!(sign, '+' | '-' | '.' | '_' | ':' | '/')));
    let word = text[..end.unwrap_or(text.len())].trim_end_matches(['.', ':']);
    word.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(line: &str) -> Vec<(String, f64)> {
        read(line).values
    }

    fn one(name: &str, value: f64) -> Vec<(String, f64)> {
        vec![(name.to_owned(), value)]
    }

    #[test]
    fn text_tells_numbers_by_name() {
        assert_eq!(values("accuracy=0.93"), one("accuracy", 0.93));
        assert_eq!(values("2026-01-01T10:20:30Z INFO val/loss : -1.5e-3, next"), one("val/loss", -1.5e-3));
        assert_eq!(values("Validation-accuracy = 93%"), one("Validation-accuracy", 93.0));
        let both = read("epoch 3: epoch=3 loss=0.25; acc=.5");
        assert_eq!(both.step, Some(3));
        let expected = [("epoch", 3.0), ("loss", 0.25), ("acc", 0.5)];
        assert_eq!(both.values, expected.map(|(name, value)| (name.to_owned(), value)));
        assert!(values("loss=nan")[0].1.is_nan());
    }

    #[test]
    fn dictionaries_of_python_are_read() {
        let line = read("50%|####  | {'loss': 0.25, 'learning_rate': '1e-05', \"epoch\": 2}");
        let expected = [("loss", 0.25), ("learning_rate", 1e-5), ("epoch", 2.0)];
        assert_eq!(line.values, expected.map(|(name, value)| (name.to_owned(), value)));
        assert_eq!(line.step, Some(2));
    }

    #[test]
    fn what_only_looks_like_a_number_is_none() {
        for line in [
            "",
            "at 10:20:30",
            "host: 10.0.0.1",
            "took=3s",
            "time: 10:20",
            "x=0x1f",
            "loss=",
            "=3",
            "loss=1e-",
            "v=1/2",
        ] {
            assert_eq!(values(line), [], "{line}");
        }
    }

    #[test]
    fn json_tells_numbers_by_name() {
        let line = read(r#"{"step": 40, "loss": 0.5, "accuracy": "0.75", "note": "x", "nested": {"a": 1}}"#);
        assert_eq!(line.step, Some(40));
        let expected = [("step", 40.0), ("loss", 0.5), ("accuracy", 0.75)];
        assert_eq!(line.values, expected.map(|(name, value)| (name.to_owned(), value)));
    }
}
