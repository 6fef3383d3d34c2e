//! Numbers as they are shown.

use trainyard_tuner_core::space::Value;

/// To five digits: `0.9462`, `1e-5`, `12345`.
pub(super) fn short(number: f64) -> String {
    let rounded: f64 = format!("{number:.4e}").parse().unwrap_or(number);
    Value::Float(rounded).to_string()
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn numbers_have_five_digits() {
        for (number, text) in [
            (0.946_216_3, "0.94622"),
            (1e-5, "1e-5"),
            (0.0, "0"),
            (-1.5, "-1.5"),
            (123_456.0, "123460"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(short(number), text);
        }
    }
}
