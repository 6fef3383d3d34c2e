//! When a client certificate expires. An API server answers 401 to an expired one and does not say why.

use k8s_openapi::ByteString;
use kube::config::AuthInfo;
use serde_json::Value;

/// DER tags.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The client certificate of a user, as PEM.
pub(super) fn of(user: &AuthInfo) -> Option<String> {
    if let Some(data) = &user.client_certificate_data {
        return String::from_utf8(base64(data)?).ok();
    }
    std::fs::read_to_string(user.client_certificate.as_ref()?).ok()
}

/// The end of the validity of the first certificate, in seconds since the epoch.
pub(super) fn not_after(pem: &str) -> Option<i64> {
    let body = pem.split_once("-----BEGIN CERTIFICATE-----")?.1.split_once("-----END CERTIFICATE-----")?.0;
    let der = base64(&body.split_whitespace().collect::<String>())?;
    let (_, certificate, _) = element(&der)?;
    let (_, mut to_be_signed, _) = element(certificate)?;
    // version (optional), serial number, signature algorithm, issuer; then the validity.
    let mut left = 3;
    while left > 0 {
        let (tag, _, rest) = element(to_be_signed)?;
        left -= usize::from(tag != VERSION);
        to_be_signed = rest;
    }
    let (tag, validity, _) = element(to_be_signed)?;
    let (_, _, end) = element(validity)?;
    let (kind, text, _) = element(end)?;
    (tag == SEQUENCE).then(|| time(kind, std::str::from_utf8(text).ok()?)).flatten()
}

/// Kubernetes writes bytes as base64; its own type reads them.
fn base64(text: &str) -> Option<Vec<u8>> {
    serde_json::from_value::<ByteString>(Value::from(text)).ok().map(|bytes| bytes.0)
}

/// The first element: tag, contents, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let length =
            bytes.iter().try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)))?;
        (length, rest)
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((*tag, contents, rest))
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`.
fn time(kind: u8, text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z')?;
    let full = match kind {
        // RFC 5280: years of two digits below 50 are of this century.
        UTC_TIME => format!("{}{text}", if text.get(..2)?.parse::<u8>().ok()? < 50 { "20" } else { "19" }),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let at = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", full).ok()?;
    at.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|at| at.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_both_forms() {
        assert_eq!(time(UTC_TIME, "700101000001Z"), Some(1));
        assert_eq!(time(UTC_TIME, "260101000000Z"), Some(1_767_225_600));
        assert_eq!(time(GENERALIZED_TIME, "20260101000000Z"), Some(1_767_225_600));
        assert_eq!(time(0, "20260101000000Z"), None);
    }

    #[test]
    fn nonsense_is_no_certificate() {
        assert_eq!(not_after("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----"), None);
        assert_eq!(not_after("hello"), None);
    }
}
