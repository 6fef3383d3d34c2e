//! FNV-1a: the same over versions and machines, which the standard library's hasher does not promise.

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The hash of a text.
#[must_use]
pub fn text(text: &str) -> u64 {
    bytes(text.bytes())
}

/// The hash of several texts: `["ab", "c"]` is not `["a", "bc"]`.
#[must_use]
pub fn texts(parts: &[&str]) -> u64 {
    bytes(parts.iter().flat_map(|part| part.bytes().chain([0xff])))
}

fn bytes(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}
