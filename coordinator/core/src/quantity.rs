//! Kubernetes quantities as exact integers.

use thiserror::Error;

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// It does not read as number and suffix.
    #[error("`{0}` is not a quantity; write a number with an optional suffix, such as 2, 500m or 4Gi")]
    Malformed(String),
    /// It is beyond what can be counted.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

/// The quantity in thousandths, rounded up: `1` is 1000, `500m` is 500. Used for CPUs.
///
/// # Errors
/// When the text is not a quantity or its magnitude is beyond 2^63 thousandths.
pub fn milli(text: &str) -> Result<i64, QuantityError> {
    scaled(text, 1000)
}

/// The quantity in units, rounded up: `1Ki` is 1024, `500m` is 1. Used for bytes and for countable resources.
///
/// # Errors
/// When the text is not a quantity or its magnitude is beyond 2^63.
pub fn units(text: &str) -> Result<i64, QuantityError> {
    scaled(text, 1)
}

/// The quantity in the unit in which a resource is counted: thousandths for `cpu`, units for all others.
///
/// # Errors
/// When the text is not a quantity or too large.
pub fn amount(resource: &str, text: &str) -> Result<i64, QuantityError> {
    if resource == "cpu" { milli(text) } else { units(text) }
}

fn scaled(text: &str, scale: i128) -> Result<i64, QuantityError> {
    let malformed = || QuantityError::Malformed(text.to_owned());
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return Err(malformed());
    }
    let (numerator, denominator) = multiplier(suffix).ok_or_else(malformed)?;
    let too_large = || QuantityError::TooLarge(text.to_owned());
    // 18 fractional digits are exact in 128 bits together with any multiplier; further ones cannot matter after rounding up
    // unless one of them is not zero.
    let (kept, lost) = fraction.split_at(fraction.len().min(18));
    let mantissa: i128 = format!("0{whole}{kept}").parse().map_err(|_| too_large())?;
    let places = 10_i128.pow(u32::try_from(kept.len()).map_err(|_| too_large())?);
    let scaled_up =
        mantissa.checked_mul(numerator).and_then(|product| product.checked_mul(scale)).ok_or_else(too_large)?;
    let divisor = places.checked_mul(denominator).ok_or_else(too_large)?;
    let remains = scaled_up % divisor != 0 || lost.bytes().any(|digit| digit != b'0');
    let magnitude = scaled_up / divisor + i128::from(remains);
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| too_large())
}

/// The multiplier of a suffix as a fraction.
fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let power: i32 = digits.strip_prefix('+').unwrap_or(digits).parse().ok()?;
            let factor = 10_i128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1, factor) } else { (factor, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_exact_and_rounded_up() {
        for (text, thousandths, whole) in [
            ("0", 0, 0),
            ("1", 1000, 1),
            ("+1", 1000, 1),
            ("-1", -1000, -1),
            ("500m", 500, 1),
            ("0.5", 500, 1),
            (".5", 500, 1),
            ("5.", 5000, 5),
            ("0.1m", 1, 1),
            ("100u", 1, 1),
            ("1Ki", 1_024_000, 1024),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
            ("1e3", 1_000_000, 1000),
            ("1E3", 1_000_000, 1000),
            ("1E", 1_000_000_000_000_000_000_000_i128.try_into().unwrap_or(i64::MAX), 1_000_000_000_000_000_000),
            ("25e-1", 2500, 3),
            ("0.0000000000000000001", 1, 1),
        ] {
            if text != "1E" {
                assert_eq!(milli(text), Ok(thousandths), "{text}");
            }
            assert_eq!(units(text), Ok(whole), "{text}");
        }
        assert_eq!(milli("1E"), Err(QuantityError::TooLarge("1E".to_owned())));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "-", ".", "1.2.3", "1 Gi", "Gi", "1gb", "0x10", "1e", "--1", "1Kim", "٣"] {
            assert_eq!(units(text), Err(QuantityError::Malformed(text.to_owned())), "{text}");
        }
        assert_eq!(units("9223372036854775808"), Err(QuantityError::TooLarge("9223372036854775808".to_owned())));
    }
}
