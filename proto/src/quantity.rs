//! Kubernetes quantities, exactly: `2`, `500m`, `1.5Gi`, `1e3`.
//!
//! A quantity is a whole number of billionths, as Kubernetes' own: what is finer is rounded away from zero, so that who
//! asks for something gets something. Nothing else is ever rounded before [`Quantity::milli`] or [`Quantity::units`].

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde_json::Value;
use thiserror::Error;

const NANOS: i128 = 1_000_000_000;
/// Fractional digits that can be multiplied by `Ei` within 128 bits.
const BINARY_FRACTION: usize = 18;

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// It does not read as number and suffix.
    #[error("`{0}` is not a quantity; write a number with an optional suffix, such as 2, 500m or 4Gi")]
    Malformed(String),
    /// It is beyond what can be counted.
    #[error("`{0}` is too large to count; write an amount below 2^63")]
    TooLarge(String),
    /// It has more digits after the point than can be multiplied exactly.
    #[error("`{0}` is too fine; write at most {BINARY_FRACTION} digits after the point before a suffix such as Gi")]
    TooFine(String),
}

/// How a quantity was written, and is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notation {
    /// `500m`, `2`, `4G`
    Decimal,
    /// `4Gi`
    Binary,
    /// `4e9`
    Exponent,
}

/// An exact amount. Two quantities are equal when their amounts are, whatever their notation: `1` is `1000m`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    notation: Notation,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, notation: Notation::Decimal };

    /// A whole number of units.
    #[must_use]
    pub const fn of(units: i64) -> Self {
        Self { nanos: units as i128 * NANOS, notation: Notation::Decimal }
    }

    /// The quantity in a field of an object, where it is a string or a plain number; nothing for other values.
    ///
    /// # Errors
    /// When it is a string or number, and no quantity.
    pub fn from_json(value: &Value) -> Result<Option<Self>, QuantityError> {
        match value {
            Value::String(text) => text.parse().map(Some),
            Value::Number(number) => number.to_string().parse().map(Some),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Ok(None),
        }
    }

    /// Whether it is below zero.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it is nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Thousandths, rounded up: `1` is 1000. CPUs are counted so.
    ///
    /// # Errors
    /// When there are 2^63 thousandths or more.
    pub fn milli(self) -> Result<i64, QuantityError> {
        self.scaled(NANOS / 1000)
    }

    /// Units, rounded up: `1Ki` is 1024, `500m` is 1. Bytes and countable resources are counted so.
    ///
    /// # Errors
    /// When there are 2^63 units or more.
    pub fn units(self) -> Result<i64, QuantityError> {
        self.scaled(NANOS)
    }

    /// Both together, in the notation of the first that is not nothing; nothing when the sum is beyond what can be counted.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.nanos.checked_add(other.nanos).map(|nanos| Self { nanos, notation: self.notation_with(other) })
    }

    /// The difference, in the notation of the first that is not nothing; nothing when it is beyond what can be counted.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.nanos.checked_sub(other.nanos).map(|nanos| Self { nanos, notation: self.notation_with(other) })
    }

    /// Both together, or the largest amount there is.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_add(other.nanos), notation: self.notation_with(other) }
    }

    const fn notation_with(self, other: Self) -> Notation {
        if self.nanos == 0 { other.notation } else { self.notation }
    }

    fn scaled(self, nanos_each: i128) -> Result<i64, QuantityError> {
        let (whole, rest) = (self.nanos.div_euclid(nanos_each), self.nanos.rem_euclid(nanos_each));
        i64::try_from(whole + i128::from(rest > 0)).map_err(|_| QuantityError::TooLarge(self.to_string()))
    }
}

/// Thousandths of the quantity that `text` is: see [`Quantity::milli`].
///
/// # Errors
/// When the text is not a quantity, or too large.
pub fn milli(text: &str) -> Result<i64, QuantityError> {
    text.parse::<Quantity>()?.milli()
}

/// Units of the quantity that `text` is: see [`Quantity::units`].
///
/// # Errors
/// When the text is not a quantity, or too large.
pub fn units(text: &str) -> Result<i64, QuantityError> {
    text.parse::<Quantity>()?.units()
}

/// The quantity in the unit in which a resource is counted: thousandths for `cpu`, units for all others.
///
/// # Errors
/// When the text is not a quantity, or too large.
pub fn amount(resource: &str, text: &str) -> Result<i64, QuantityError> {
    if resource == "cpu" { milli(text) } else { units(text) }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let malformed = || QuantityError::Malformed(text.to_owned());
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(malformed());
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let (magnitude, notation) = match Suffix::read(suffix).ok_or_else(malformed)? {
            Suffix::Decimal(power) => (decimal(whole, fraction, power), Notation::Decimal),
            Suffix::Exponent(power) => (decimal(whole, fraction, power), Notation::Exponent),
            Suffix::Binary(_) if fraction.len() > BINARY_FRACTION => {
                return Err(QuantityError::TooFine(text.to_owned()));
            }
            Suffix::Binary(bits) => (binary(whole, fraction, bits), Notation::Binary),
        };
        let magnitude = magnitude.ok_or_else(|| QuantityError::TooLarge(text.to_owned()))?;
        Ok(Self { nanos: if negative { -magnitude } else { magnitude }, notation })
    }
}

enum Suffix {
    /// A power of ten.
    Decimal(i64),
    /// A power of ten, written out.
    Exponent(i64),
    /// A power of two.
    Binary(u32),
}

impl Suffix {
    fn read(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "" => Self::Decimal(0),
            "n" => Self::Decimal(-9),
            "u" => Self::Decimal(-6),
            "m" => Self::Decimal(-3),
            "k" => Self::Decimal(3),
            "M" => Self::Decimal(6),
            "G" => Self::Decimal(9),
            "T" => Self::Decimal(12),
            "P" => Self::Decimal(15),
            "E" => Self::Decimal(18),
            "Ki" => Self::Binary(10),
            "Mi" => Self::Binary(20),
            "Gi" => Self::Binary(30),
            "Ti" => Self::Binary(40),
            "Pi" => Self::Binary(50),
            "Ei" => Self::Binary(60),
            exponent => {
                let digits = exponent.strip_prefix(['e', 'E'])?;
                Self::Exponent(digits.parse::<i32>().ok()?.into())
            }
        })
    }
}

/// `whole.fraction` times ten to the `power`, in nanos rounded up. Works on the digits, so that no length of them loses any.
fn decimal(whole: &str, fraction: &str, power: i64) -> Option<i128> {
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let shift = power + 9 - i64::try_from(fraction.len()).ok()?;
    let Ok(zeros) = usize::try_from(shift) else {
        let dropped = usize::try_from(shift.unsigned_abs()).unwrap_or(usize::MAX).min(digits.len());
        let (kept, lost) = digits.split_at(digits.len() - dropped);
        let kept: i128 = format!("0{kept}").parse().ok()?;
        return kept.checked_add(i128::from(lost.bytes().any(|digit| digit != b'0')));
    };
    // 2^127 has 39 digits.
    (digits.len() + zeros <= 39).then(|| format!("{digits}{}", "0".repeat(zeros)).parse().ok()).flatten()
}

/// `whole.fraction` times two to the `bits`, in nanos rounded up.
fn binary(whole: &str, fraction: &str, bits: u32) -> Option<i128> {
    let factor = 1_i128 << bits;
    let whole: i128 = format!("0{whole}").parse().ok()?;
    let whole = whole.checked_mul(factor)?.checked_mul(NANOS)?;
    // Padded to billionths or beyond, so that only a division is left.
    let padded = format!("{fraction:0<9}");
    let parts = padded.parse::<i128>().ok()?.checked_mul(factor)?;
    let divisor = 10_i128.checked_pow(u32::try_from(padded.len() - 9).ok()?)?;
    whole.checked_add(parts / divisor + i128::from(parts % divisor != 0))
}

/// The canonical form of Kubernetes: no fraction, the largest suffix that needs none.
impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A binary suffix would round what is not whole, and says nothing below 1024.
        let whole = self.nanos % NANOS == 0 && self.nanos.unsigned_abs() >= 1024 * NANOS.unsigned_abs();
        match self.notation {
            Notation::Binary if whole => {
                let (mut number, mut step) = (self.nanos / NANOS, 0);
                while number % 1024 == 0 && step < 6 {
                    number /= 1024;
                    step += 1;
                }
                write!(formatter, "{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step])
            }
            Notation::Binary | Notation::Decimal => {
                let (number, thousands) = thousands(self.nanos, 9);
                write!(formatter, "{number}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][thousands])
            }
            Notation::Exponent => match thousands(self.nanos, usize::MAX) {
                (number, 3) => write!(formatter, "{number}"),
                (number, thousands) => {
                    write!(formatter, "{number}e{}", i64::try_from(thousands).unwrap_or(i64::MAX) * 3 - 9)
                }
            },
        }
    }
}

/// Nanos as a number and how many times a thousand it stands for; plain where it is nothing.
fn thousands(nanos: i128, most: usize) -> (i128, usize) {
    if nanos == 0 {
        return (0, 3);
    }
    let (mut number, mut times) = (nanos, 0);
    while number % 1000 == 0 && times < most {
        number /= 1000;
        times += 1;
    }
    (number, times)
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}
