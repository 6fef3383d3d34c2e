//! Kubernetes quantities as numbers.

/// `2`, `500m`, `1.5` in thousandths; nothing for what is no quantity. Rounds up, as Kubernetes does.
#[must_use]
pub fn milli(text: &str) -> Option<i64> {
    let value = parse(text)? * 1_000.0;
    whole(value)
}

/// `64Mi`, `1G`, `128974848` as bytes (or a plain count); rounds up.
#[must_use]
pub fn whole_units(text: &str) -> Option<i64> {
    whole(parse(text)?)
}

fn whole(value: f64) -> Option<i64> {
    // The margin keeps 0.1 × 1000 from becoming 101 for want of an exact binary form.
    let value = (value - 1e-6).ceil();
    #[expect(clippy::cast_possible_truncation, reason = "bounded above by the check")]
    (value.abs() < 9.0e18).then_some(value as i64)
}

fn parse(text: &str) -> Option<f64> {
    let text = text.trim();
    let end = text
        .char_indices()
        .find(|(at, c)| !(c.is_ascii_digit() || *c == '.' || (*at == 0 && matches!(c, '-' | '+'))))
        .map_or(text.len(), |(at, _)| at);
    let (number, suffix) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0_f64.powi(2),
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        "Pi" => 1024.0_f64.powi(5),
        "Ei" => 1024.0_f64.powi(6),
        exponent => 10.0_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use super::{milli, whole_units};

    #[test]
    fn quantities() {
        assert_eq!(milli("2"), Some(2_000));
        assert_eq!(milli("100m"), Some(100));
        assert_eq!(milli("0.1"), Some(100));
        assert_eq!(whole_units("1Gi"), Some(1 << 30));
        assert_eq!(whole_units("1.5k"), Some(1_500));
        assert_eq!(whole_units("1e3"), Some(1_000));
        assert_eq!(whole_units("abc"), None);
        assert_eq!(whole_units(""), None);
    }
}
