//! Quantities read, compare, add and print as Kubernetes' own.

use proptest::prelude::*;
use serde_json::json;
use trainyard_proto::quantity::{Quantity, QuantityError, amount, milli, units};

fn quantity(text: &str) -> Quantity {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn amounts_are_exact_and_rounded_up() {
    for (text, thousandths, whole) in [
        ("0", 0, 0),
        ("1", 1000, 1),
        ("+1", 1000, 1),
        ("-1", -1000, -1),
        ("-1500m", -1500, -1),
        ("500m", 500, 1),
        ("0.5", 500, 1),
        (".5", 500, 1),
        ("5.", 5000, 5),
        ("0.1", 100, 1),
        ("0.1m", 1, 1),
        ("100u", 1, 1),
        ("1Ki", 1_024_000, 1024),
        ("1.5Gi", 1_610_612_736_000, 1_610_612_736),
        ("1e3", 1_000_000, 1000),
        ("1E3", 1_000_000, 1000),
        ("25e-1", 2500, 3),
        ("0.0000000000000000001", 1, 1),
        ("1e-999", 1, 1),
        ("0e999", 0, 0),
        ("00000000000000000000000000000000000000000000000001.10", 1100, 2),
    ] {
        assert_eq!(milli(text), Ok(thousandths), "{text}");
        assert_eq!(units(text), Ok(whole), "{text}");
    }
    assert_eq!(units("1E"), Ok(1_000_000_000_000_000_000));
    assert_eq!(amount("cpu", "1"), Ok(1000));
    assert_eq!(amount("memory", "1"), Ok(1));
}

#[test]
fn what_is_no_quantity_is_refused_with_what_was_expected() {
    for text in ["", "-", ".", "1.2.3", "1 Gi", " 1", "1 ", "Gi", "1gb", "0x10", "1e", "1e+", "--1", "1Kim", "1i", "٣"]
    {
        assert_eq!(units(text), Err(QuantityError::Malformed(text.to_owned())), "{text}");
    }
    for text in ["9223372036854775808", "1e30", "1e999999999", "9223372036854775808k", "1000000000000Ei"] {
        assert!(matches!(units(text), Err(QuantityError::TooLarge(_))), "{text}");
    }
    assert!(matches!(units("0.0000000000000000001Gi"), Err(QuantityError::TooFine(_))));
    let message = units("12 gigs").expect_err("is no quantity").to_string();
    assert!(message.contains("12 gigs") && message.contains("such as 2, 500m or 4Gi"), "{message}");
}

/// The expectations are those of Kubernetes' own `resource/quantity_test.go`, `TestQuantityParseEmit` and neighbours.
#[test]
fn the_canonical_form_is_that_of_kubernetes() {
    for (text, printed) in [
        ("0", "0"),
        ("0Ki", "0"),
        ("0e3", "0"),
        ("1Ki", "1Ki"),
        ("1Mi", "1Mi"),
        ("1024Mi", "1Gi"),
        ("1000000Ki", "1000000Ki"),
        ("1.5Gi", "1536Mi"),
        ("0.5Ki", "512"),
        ("1023", "1023"),
        ("1.1Ki", "1126400m"),
        ("512Ki", "512Ki"),
        ("1k", "1k"),
        ("1000k", "1M"),
        ("1000000", "1M"),
        ("100000", "100k"),
        ("0.1", "100m"),
        ("1.5", "1500m"),
        ("0.5m", "500u"),
        ("1n", "1n"),
        ("0.1n", "1n"),
        ("-0.1n", "-1n"),
        ("-1.5Gi", "-1536Mi"),
        ("1e3", "1e3"),
        ("1E3", "1e3"),
        ("100e1", "1e3"),
        ("1.5e0", "1500e-3"),
        ("12e2", "1200"),
        ("1E", "1E"),
        ("1000E", "1000E"),
        ("1024Ei", "1024Ei"),
    ] {
        assert_eq!(quantity(text).to_string(), printed, "{text}");
    }
}

#[test]
fn numbers_are_read_from_objects_too() {
    assert_eq!(Quantity::from_json(&json!(2)), Ok(Some(quantity("2"))));
    assert_eq!(Quantity::from_json(&json!(0.5)), Ok(Some(quantity("500m"))));
    assert_eq!(Quantity::from_json(&json!("4Gi")), Ok(Some(quantity("4096Mi"))));
    assert_eq!(Quantity::from_json(&json!(null)), Ok(None));
    assert!(Quantity::from_json(&json!("many")).is_err());
}

#[test]
fn sums_keep_the_notation_of_what_is_there() {
    assert_eq!(Quantity::ZERO.saturating_add(quantity("1Gi")).to_string(), "1Gi");
    assert_eq!(quantity("1Gi").saturating_add(quantity("1G")).to_string(), "2073741824");
    assert_eq!(quantity("100m").checked_add(quantity("0.9")).map(|sum| sum.to_string()).as_deref(), Some("1"));
    assert_eq!(quantity("1").checked_sub(quantity("1500m")).map(|rest| rest.to_string()).as_deref(), Some("-500m"));
}

const SUFFIXES: [(&str, i128); 16] = [
    ("n", 1),
    ("u", 1_000),
    ("m", 1_000_000),
    ("", 1_000_000_000),
    ("k", 1_000_000_000_000),
    ("M", 1_000_000_000_000_000),
    ("G", 1_000_000_000_000_000_000),
    ("T", 1_000_000_000_000_000_000_000),
    ("Ki", 1024_i128 * 1_000_000_000),
    ("Mi", (1_i128 << 20) * 1_000_000_000),
    ("Gi", (1_i128 << 30) * 1_000_000_000),
    ("Ti", (1_i128 << 40) * 1_000_000_000),
    ("e-3", 1_000_000),
    ("e0", 1_000_000_000),
    ("E+3", 1_000_000_000_000),
    ("e6", 1_000_000_000_000_000),
];

/// A text, and the nanos it stands for, by arithmetic that shares nothing with the parser.
fn written() -> impl Strategy<Value = (String, i128)> {
    (any::<bool>(), 0..1_000_000_i64, 0..1000_i64, 0..SUFFIXES.len()).prop_map(|(negative, whole, fraction, at)| {
        let (suffix, nanos) = SUFFIXES[at];
        let thousandths = i128::from(whole * 1000 + fraction) * nanos;
        let magnitude = thousandths / 1000 + i128::from(thousandths % 1000 != 0);
        let sign = if negative { "-" } else { "" };
        (format!("{sign}{whole}.{fraction:03}{suffix}"), if negative { -magnitude } else { magnitude })
    })
}

proptest! {
    #[test]
    fn reading_is_exact((text, nanos) in written()) {
        prop_assert_eq!(quantity(&text), quantity(&format!("{nanos}n")));
    }

    #[test]
    fn printing_keeps_the_amount_and_is_stable((text, _) in written()) {
        let first = quantity(&text);
        let printed = first.to_string();
        prop_assert!(!printed.contains('.'), "{}", printed);
        prop_assert_eq!(quantity(&printed), first);
        // What has no whole number of Ki is printed without a suffix, and is a decimal number from then on: 125734.375Ki, 128752000, 128752k.
        let again = quantity(&printed).to_string();
        prop_assert_eq!(quantity(&again), first);
        prop_assert_eq!(quantity(&again).to_string(), again);
    }

    #[test]
    fn order_and_sums_are_those_of_the_amounts((a, left) in written(), (b, right) in written()) {
        prop_assert_eq!(quantity(&a).cmp(&quantity(&b)), left.cmp(&right));
        let sum = quantity(&a).checked_add(quantity(&b)).expect("far from the limits");
        prop_assert_eq!(sum, quantity(&format!("{}n", left + right)));
        prop_assert_eq!(sum.checked_sub(quantity(&b)), Some(quantity(&a)));
    }

    #[test]
    fn no_text_is_a_panic(text in "[-+]{0,2}[0-9.]{0,40}[a-zA-Z]{0,3}[-+0-9]{0,12}") {
        if let Ok(read) = text.parse::<Quantity>() {
            prop_assert_eq!(read.to_string().parse::<Quantity>(), Ok(read));
        }
    }
}
