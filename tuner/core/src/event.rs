//! TensorBoard's event files: what a program appends to them, as it comes.

/// A record is no longer than this: one with a large picture in it is passed over all the same.
const LONGEST: u64 = 64 * 1024 * 1024;
/// Before a record is its length with a checksum, behind it another checksum.
const HEAD: usize = 12;
const TAIL: usize = 4;

/// A value of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalar {
    /// When it was written.
    pub at_ms: i64,
    /// How far the program was.
    pub step: i64,
    /// The name.
    pub tag: String,
    /// The number, as text.
    pub text: String,
}

/// A file that grows.
#[derive(Clone, Debug, Default)]
pub struct Events {
    bytes: Vec<u8>,
    is_broken: bool,
}

impl Events {
    /// Takes in what was appended, and gives the values of the records that are whole with it. Nothing more is read of a file that
    /// makes no sense.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Scalar> {
        let mut found = Vec::new();
        if self.is_broken {
            return found;
        }
        self.bytes.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(length) =
            self.bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
        {
            if length > LONGEST {
                self.is_broken = true;
                break;
            }
            let from = at + HEAD;
            let Some(record) = self.bytes.get(from..from + length as usize) else { break };
            if self.bytes.len() < from + record.len() + TAIL {
                break;
            }
            event(record, &mut found);
            at = from + record.len() + TAIL;
        }
        self.bytes.drain(..at);
        if self.is_broken {
            self.bytes = Vec::new();
        }
        found
    }
}

/// A field of a message.
enum Field<'bytes> {
    Number(u64),
    Eight([u8; 8]),
    Four([u8; 4]),
    Bytes(&'bytes [u8]),
}

/// The fields of a message with their numbers, as far as it makes sense.
struct Fields<'bytes>(&'bytes [u8]);

impl<'bytes> Fields<'bytes> {
    fn take(&mut self, count: usize) -> Option<&'bytes [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

impl<'bytes> Iterator for Fields<'bytes> {
    type Item = (u64, Field<'bytes>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.number()?;
        let field = match key & 7 {
            0 => Field::Number(self.number()?),
            1 => Field::Eight(self.take(8)?.try_into().ok()?),
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Four(self.take(4)?.try_into().ok()?),
            _ => return None,
        };
        Some((key >> 3, field))
    }
}

/// `tensorflow.Event`.
fn event(record: &[u8], found: &mut Vec<Scalar>) {
    let (mut at_ms, mut step, mut summary) = (0, 0, None);
    for field in Fields(record) {
        match field {
            (1, Field::Eight(seconds)) => at_ms = (f64::from_le_bytes(seconds) * 1000.0) as i64,
            (2, Field::Number(number)) => step = number.cast_signed(),
            (5, Field::Bytes(bytes)) => summary = Some(bytes),
            _ => {}
        }
    }
    for field in summary.into_iter().flat_map(Fields) {
        let (1, Field::Bytes(bytes)) = field else { continue };
        if let Some((tag, text)) = value(bytes) {
            found.push(Scalar { at_ms, step, tag, text });
        }
    }
}

/// `tensorflow.Summary.Value`.
fn value(bytes: &[u8]) -> Option<(String, String)> {
    let (mut tag, mut text) = (None, None);
    for field in Fields(bytes) {
        match field {
            (1, Field::Bytes(bytes)) => tag = str::from_utf8(bytes).ok().map(str::to_owned),
            (2, Field::Four(bytes)) => text = Some(f32::from_le_bytes(bytes).to_string()),
            (8, Field::Bytes(bytes)) => text = tensor(bytes),
            _ => {}
        }
    }
    Some((tag?, text?))
}

/// `tensorflow.TensorProto` of one number.
fn tensor(bytes: &[u8]) -> Option<String> {
    const DOUBLE: u64 = 2;
    let (mut kind, mut found) = (1, None);
    for field in Fields(bytes) {
        match field {
            (1, Field::Number(number)) => kind = number,
            // Packed, or as the tensor's memory.
            (4..=6, Field::Bytes(bytes)) => {
                found = if kind == DOUBLE {
                    bytes.try_into().ok().map(|bytes| f64::from_le_bytes(bytes).to_string())
                } else {
                    bytes.try_into().ok().map(|bytes| f32::from_le_bytes(bytes).to_string())
                };
            }
            (5, Field::Four(bytes)) => found = Some(f32::from_le_bytes(bytes).to_string()),
            (6, Field::Eight(bytes)) => found = Some(f64::from_le_bytes(bytes).to_string()),
            _ => {}
        }
    }
    // Of other types, and of pictures and texts, there is no number.
    found.filter(|_| matches!(kind, 1 | DOUBLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header, `accuracy` 0.5 at step 1 as a number, `loss` 0.25 at step 2 as a tensor.
    fn file() -> Vec<u8> {
        let message = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
        let event = |step: u8, value: &[u8]| {
            let summary = message(5, &message(1, value));
            [&[0x09][..], &1_767_225_602.5_f64.to_le_bytes(), &[0x10, step], &summary].concat()
        };
        let number = [message(1, b"accuracy"), vec![0x15], 0.5_f32.to_le_bytes().to_vec()].concat();
        let tensor = [vec![0x08, 1, 0x12, 0], message(4, &0.25_f32.to_le_bytes())].concat();
        let tensor = [message(1, b"loss"), message(9, b"\x0a\x09"), message(8, &tensor)].concat();
        let header = [&[0x09][..], &1.0_f64.to_le_bytes(), &message(3, b"brain.Event:2")].concat();
        let record = |bytes: Vec<u8>| [&(bytes.len() as u64).to_le_bytes()[..], &[0; 4], &bytes, &[0; 4]].concat();
        [header, event(1, &number), event(2, &tensor)].map(record).concat()
    }

    fn told(scalars: &[Scalar]) -> Vec<(&str, &str, i64, i64)> {
        scalars.iter().map(|one| (one.tag.as_str(), one.text.as_str(), one.step, one.at_ms)).collect()
    }

    #[test]
    fn values_are_read_as_the_file_grows() {
        let file = file();
        let all = [("accuracy", "0.5", 1, 1_767_225_602_500), ("loss", "0.25", 2, 1_767_225_602_500)];
        assert_eq!(told(&Events::default().push(&file)), all);
        for piece in [1, 7, 64] {
            let mut events = Events::default();
            let found: Vec<Scalar> = file.chunks(piece).flat_map(|bytes| events.push(bytes)).collect();
            assert_eq!(told(&found), all, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_makes_no_sense_ends_a_file_and_nothing_else() {
        let mut events = Events::default();
        assert_eq!(events.push(&[0xff; 64]), []);
        assert_eq!(events.push(&file()), [], "nothing can be found behind it");
        let mut cut = file();
        let at = cut.windows(4).position(|bytes| bytes == b"loss");
        assert!(at.is_some(), "it is in there");
        cut[at.unwrap_or_default()] = 0xff;
        assert_eq!(told(&Events::default().push(&cut)).len(), 1, "a tag that is no text");
    }
}
