//! Single files: what they are by their bytes, and whether they are whole.

use serde_json::Value;

use super::{File, Peek, Unfit, Want, pickle};

/// Enough for the end of a zip archive, with its 64-bit records.
const ZIP_TAIL: u64 = 128;
/// Enough for the first record's name in a zip archive, and for torch's old greeting.
const HEAD: u64 = 512;
/// Small texts and JSON files: trackers, indexes, a trainer's state. A longer one is not read to its end.
pub(super) const TEXT_BYTES: u64 = 4 << 20;
/// The longest header of safetensors that is read; the format allows a hundred megabytes.
const HEADER_BYTES: u64 = 16 << 20;
/// A DCP's table of contents is a pickle; looked through for the names of its files.
const METADATA_BYTES: u64 = 16 << 20;

/// `PROTO 2`, then torch's magic number: how `torch.save` began before it made archives.
const OLD_TORCH: [u8; 15] = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];

/// What a file is by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A `torch.save` of either form, or another pickle.
    Torch,
    Safetensors,
    /// JSON that must be whole.
    Json,
    /// A DCP's table of contents.
    Metadata,
    /// Anything else.
    Other,
}

pub(super) fn kind(name: &str) -> Kind {
    let lower = name.to_ascii_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|ending| lower.ends_with(ending));
    if ends(&[".safetensors"]) {
        Kind::Safetensors
    } else if ends(&[".pt", ".pth", ".ckpt", ".bin", ".pth.tar", ".pt.tar"]) {
        Kind::Torch
    } else if ends(&["trainer_state.json", ".index.json"]) {
        Kind::Json
    } else if name == ".metadata" {
        Kind::Metadata
    } else {
        Kind::Other
    }
}

/// Whether a file is a checkpoint by itself.
pub(super) fn stands_alone(name: &str) -> bool {
    match kind(name) {
        Kind::Torch | Kind::Safetensors => true,
        Kind::Json | Kind::Metadata | Kind::Other => false,
    }
}

/// What else must be seen of a file.
pub(super) fn want(path: &str, file: &File, peek: Option<&Peek>) -> Option<Want> {
    let head = |head: u64, tail: u64| Some(Want { path: path.to_owned(), head, tail });
    let known = peek.map(|peek| peek.head.len() as u64);
    match (kind(super::name::last(path)), known) {
        (Kind::Torch, None) => head(HEAD, ZIP_TAIL),
        (Kind::Torch, Some(known)) => {
            let needed = file.bytes.min(pickle::PICKLE_BYTES);
            (known < needed && is_pickle(&peek?.head)).then(|| head(needed, ZIP_TAIL))?
        }
        (Kind::Safetensors, None) => head(HEAD, 0),
        (Kind::Safetensors, Some(known)) => {
            let needed = header_length(peek?)?.checked_add(8)?;
            (known < needed && needed <= file.bytes && needed <= HEADER_BYTES).then(|| head(needed, 0))?
        }
        (Kind::Json, None) => head(TEXT_BYTES, 0),
        (Kind::Metadata, None) => head(METADATA_BYTES, 1),
        (Kind::Json | Kind::Metadata, Some(_)) | (Kind::Other, _) => None,
    }
}

/// How far the bytes of a file can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Whole: the format itself says so.
    Whole,
    /// The format does not tell where it ends.
    Endless,
    Torn,
}

pub(super) fn body(path: &str, file: &File, peek: Option<&Peek>) -> Body {
    let kind = kind(super::name::last(path));
    let Some(peek) = peek else {
        return if kind == Kind::Other { Body::Endless } else { Body::Torn };
    };
    match kind {
        Kind::Torch => torch(file, peek),
        Kind::Safetensors => safetensors(file, peek),
        Kind::Json if file.bytes > TEXT_BYTES => Body::Endless,
        Kind::Json if serde_json::from_slice::<Value>(&peek.head).is_ok() => Body::Whole,
        Kind::Json => Body::Torn,
        // A pickle ends with STOP.
        Kind::Metadata if peek.tail.last() == Some(&b'.') => Body::Whole,
        Kind::Metadata => Body::Torn,
        Kind::Other => Body::Endless,
    }
}

/// What a file that stands alone says against itself.
pub(super) fn objection(path: &str, file: &File, peek: Option<&Peek>, now_ms: i64) -> Option<Unfit> {
    match body(path, file, peek) {
        Body::Whole => None,
        Body::Endless => (now_ms - file.modified_ms < super::SETTLED_MS).then_some(Unfit::Changing),
        Body::Torn => Some(Unfit::Torn(path.to_owned())),
    }
}

fn torch(file: &File, peek: &Peek) -> Body {
    if peek.head.starts_with(b"PK\x03\x04") {
        return if zip_has_its_end(file.bytes, &peek.tail) { Body::Whole } else { Body::Torn };
    }
    if peek.head.starts_with(&OLD_TORCH) {
        return pickle::old_torch(&peek.head, file.bytes);
    }
    // STOP is the last byte of a pickle.
    if is_pickle(&peek.head) && peek.tail.last() == Some(&b'.') {
        return pickle::plain(&peek.head, file.bytes);
    }
    Body::Torn
}

fn is_pickle(head: &[u8]) -> bool {
    matches!(head, [0x80, 2..=5, ..])
}

/// The directory of an archive is written last, and says where it begins and how long it is.
fn zip_has_its_end(bytes: u64, tail: &[u8]) -> bool {
    let Some(at) = tail.len().checked_sub(22) else { return false };
    let end = &tail[at..];
    if !end.starts_with(b"PK\x05\x06") {
        return false;
    }
    let Some((size, offset)) = u32_at(end, 12).zip(u32_at(end, 16)) else { return false };
    let end_at = bytes.saturating_sub(22);
    if size != u32::MAX && offset != u32::MAX {
        return u64::from(size) + u64::from(offset) == end_at || is_zip64(tail, at, end_at);
    }
    is_zip64(tail, at, end_at)
}

/// The 64-bit end record (56 bytes) and its locator (20 bytes) stand before the end.
fn is_zip64(tail: &[u8], at: usize, end_at: u64) -> bool {
    let Some(record) = at.checked_sub(76).map(|start| &tail[start..at]) else { return false };
    let Some((size, offset)) = u64_at(record, 40).zip(u64_at(record, 48)) else { return false };
    record.starts_with(b"PK\x06\x06")
        && record[56..].starts_with(b"PK\x06\x07")
        && size.checked_add(offset).and_then(|sum| sum.checked_add(76)) == Some(end_at)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn header_length(peek: &Peek) -> Option<u64> {
    u64_at(&peek.head, 0)
}

/// The header says where each tensor lies; the last one's end is the file's.
fn safetensors(file: &File, peek: &Peek) -> Body {
    let Some(length) = header_length(peek) else { return Body::Torn };
    let Some(data) = length.checked_add(8).filter(|data| *data <= file.bytes) else { return Body::Torn };
    if data > HEADER_BYTES {
        return Body::Endless;
    }
    let header = usize::try_from(data).ok().and_then(|data| peek.head.get(8..data));
    let Some(Value::Object(tensors)) = header.and_then(|header| serde_json::from_slice(header).ok()) else {
        return Body::Torn;
    };
    let ends = tensors.iter().filter(|(name, _)| *name != "__metadata__").map(|(_, tensor)| {
        let offsets = tensor.get("data_offsets").and_then(Value::as_array);
        offsets.and_then(|offsets| offsets.get(1)).and_then(Value::as_u64)
    });
    let Some(ends) = ends.collect::<Option<Vec<u64>>>() else { return Body::Torn };
    let end = ends.into_iter().max().unwrap_or(0);
    if data.checked_add(end) == Some(file.bytes) { Body::Whole } else { Body::Torn }
}
