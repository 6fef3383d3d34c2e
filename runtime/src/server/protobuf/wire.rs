//! Protobuf's wire format. Pure.

/// The value of a field, before its type is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// The fields of a message, in order: number and value.
pub(super) fn fields(mut rest: &[u8]) -> impl Iterator<Item = Result<(u64, Field<'_>), &'static str>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Field<'a>), &'static str> {
    let tag = varint(rest)?;
    let value = match tag & 7 {
        0 => Field::Varint(varint(rest)?),
        1 => {
            let bytes = take(rest, 8)?;
            Field::Fixed64(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
        }
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|_| "a length is out of range")?;
            Field::Bytes(take(rest, length)?)
        }
        5 => {
            take(rest, 4)?;
            Field::Fixed32
        }
        _ => return Err("a field has an unknown wire type"),
    };
    Ok((tag >> 3, value))
}

/// A varint of at most ten bytes.
pub(super) fn varint(rest: &mut &[u8]) -> Result<u64, &'static str> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, tail) = rest.split_first().ok_or("it ends inside a number")?;
        *rest = tail;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number is longer than ten bytes")
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], &'static str> {
    let (taken, tail) = rest.split_at_checked(length).ok_or("it ends inside a field")?;
    *rest = tail;
    Ok(taken)
}
