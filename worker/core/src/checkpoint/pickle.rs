//! Where a pickle ends, and how long the old form of `torch.save` has to be: it tells nowhere, but its pickles name all
//! storages that follow them.
//!
//! Nothing is built from a pickle, and nothing that it names is called.

use std::collections::BTreeMap;

use super::file::Body;

/// What is read of a pickle; the names and shapes of some seven thousand tensors.
pub(super) const PICKLE_BYTES: u64 = 1 << 20;
/// In front of the object: the magic number, the protocol and the machine. After it: the list of storages.
const PICKLES: usize = 5;

/// How far a file of the old form can be trusted. `head`: its beginning, of `bytes` in all.
pub(super) fn old_torch(head: &[u8], bytes: u64) -> Body {
    let mut rest = head;
    let mut storages = BTreeMap::new();
    for _ in 0..PICKLES {
        match walk(rest, &mut storages) {
            Walk::Ends(at) => rest = &rest[at..],
            Walk::Short if head.len() as u64 >= bytes => return Body::Torn,
            Walk::Short | Walk::Strange => return Body::Endless,
        }
    }
    let mut sizes = storages.values().map(|storage| storage.bytes()?.checked_add(8));
    let data = sizes.try_fold(0_u64, |sum, size| sum.checked_add(size?));
    let needed = data.and_then(|data| data.checked_add((head.len() - rest.len()) as u64));
    match needed {
        Some(needed) if needed == bytes => Body::Whole,
        Some(needed) if needed > bytes => Body::Torn,
        // Something follows, or there is a type that we do not know.
        Some(_) | None => Body::Endless,
    }
}

/// How far a file that is one pickle can be trusted.
pub(super) fn plain(head: &[u8], bytes: u64) -> Body {
    match walk(head, &mut BTreeMap::new()) {
        Walk::Ends(at) if at as u64 == bytes => Body::Whole,
        Walk::Short if head.len() as u64 >= bytes => Body::Torn,
        Walk::Ends(_) | Walk::Short | Walk::Strange => Body::Endless,
    }
}

/// What is known of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'bytes> {
    Number(u64),
    Text(&'bytes [u8]),
    /// The name of a class.
    Class(&'bytes [u8]),
    Storage(&'bytes [u8], Storage<'bytes>),
    Mark,
    Other,
}

/// The data of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Storage<'bytes> {
    class: &'bytes [u8],
    elements: u64,
}

impl Storage<'_> {
    fn bytes(&self) -> Option<u64> {
        let size = match self.class {
            b"ByteStorage" | b"CharStorage" | b"BoolStorage" | b"UntypedStorage" | b"QInt8Storage"
            | b"QUInt8Storage" | b"QUInt4x2Storage" | b"QUInt2x4Storage" => 1,
            b"HalfStorage" | b"BFloat16Storage" | b"ShortStorage" => 2,
            b"FloatStorage" | b"IntStorage" | b"QInt32Storage" => 4,
            b"DoubleStorage" | b"LongStorage" | b"ComplexFloatStorage" => 8,
            b"ComplexDoubleStorage" => 16,
            _ => return None,
        };
        self.elements.checked_mul(size)
    }
}

enum Walk {
    /// Where.
    Ends(usize),
    /// The bytes are over before the pickle is.
    Short,
    /// No pickle, or one of a kind that we do not know.
    Strange,
}

/// Goes from operation to operation to the end, and takes note of the storages that are named.
fn walk<'bytes>(bytes: &'bytes [u8], storages: &mut BTreeMap<&'bytes [u8], Storage<'bytes>>) -> Walk {
    let mut machine = Machine { rest: bytes, stack: Vec::new(), memo: BTreeMap::new(), storages };
    loop {
        match machine.step() {
            Ok(true) => return Walk::Ends(bytes.len() - machine.rest.len()),
            Ok(false) => {}
            Err(stop) => return stop,
        }
    }
}

struct Machine<'bytes, 'found> {
    rest: &'bytes [u8],
    stack: Vec<Value<'bytes>>,
    memo: BTreeMap<u64, Value<'bytes>>,
    storages: &'found mut BTreeMap<&'bytes [u8], Storage<'bytes>>,
}

impl<'bytes> Machine<'bytes, '_> {
    /// One operation; true at the last.
    fn step(&mut self) -> Result<bool, Walk> {
        let code = self.take(1)?[0];
        match code {
            b'.' => return Ok(true),
            // Numbers, texts and bytes.
            b'K' => self.number(1)?,
            b'M' => self.number(2)?,
            b'J' => self.number(4)?,
            0x8a => self.long()?,
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            b'G' => self.skip_value(8)?,
            b'U' | b'C' => self.counted_value(1)?,
            b'T' | b'B' | 0x8b => self.counted_value(4)?,
            0x8e | 0x96 => self.counted_value(8)?,
            b'N' | 0x88 | 0x89 | b'}' | b']' | b')' | 0x8f => self.stack.push(Value::Other),
            // Headers.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            // Classes.
            b'c' => {
                self.line()?;
                let name = self.line()?;
                self.stack.push(Value::Class(name));
            }
            0x93 => self.class_of_stack()?,
            // The memo.
            b'q' => self.put(1)?,
            b'r' => self.put(4)?,
            0x94 => self.memoize()?,
            b'h' => self.get(1)?,
            b'j' => self.get(4)?,
            // What puts values together.
            b'(' => self.stack.push(Value::Mark),
            b't' => self.tuple()?,
            0x85..=0x87 => self.replace(usize::from(code - 0x84))?,
            b'Q' => self.persistent()?,
            b'R' | 0x81 => self.replace(2)?,
            0x92 => self.replace(3)?,
            b'a' | b'b' => self.drop_values(1)?,
            b's' => self.drop_values(2)?,
            b'e' | b'u' | 0x90 => drop(self.split_mark()?),
            b'l' | b'd' | 0x91 => {
                self.split_mark()?;
                self.stack.push(Value::Other);
            }
            b'0' => self.drop_values(1)?,
            b'1' => drop(self.split_mark()?),
            b'2' => {
                let top = *self.stack.last().ok_or(Walk::Strange)?;
                self.stack.push(top);
            }
            _ => return Err(Walk::Strange),
        }
        Ok(false)
    }

    // ---- bytes ----

    fn take(&mut self, count: usize) -> Result<&'bytes [u8], Walk> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Walk::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The low byte comes first.
    fn length(&mut self, bytes: usize) -> Result<u64, Walk> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn counted(&mut self, bytes: usize) -> Result<&'bytes [u8], Walk> {
        let length = usize::try_from(self.length(bytes)?).map_err(|_| Walk::Short)?;
        self.take(length)
    }

    fn line(&mut self) -> Result<&'bytes [u8], Walk> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or(Walk::Short)?;
        let line = self.take(end)?;
        self.take(1)?;
        Ok(line)
    }

    // ---- values ----

    fn number(&mut self, bytes: usize) -> Result<(), Walk> {
        let number = self.length(bytes)?;
        self.stack.push(Value::Number(number));
        Ok(())
    }

    fn long(&mut self) -> Result<(), Walk> {
        let bytes = self.counted(1)?;
        // Longer ones, and those below zero, are no sizes.
        let is_size = bytes.len() <= 8 && bytes.last().is_none_or(|last| last & 0x80 == 0);
        let number = || bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        self.stack.push(if is_size { Value::Number(number()) } else { Value::Other });
        Ok(())
    }

    fn text(&mut self, bytes: usize) -> Result<(), Walk> {
        let text = self.counted(bytes)?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn skip_value(&mut self, bytes: usize) -> Result<(), Walk> {
        self.take(bytes)?;
        self.stack.push(Value::Other);
        Ok(())
    }

    fn counted_value(&mut self, bytes: usize) -> Result<(), Walk> {
        self.counted(bytes)?;
        self.stack.push(Value::Other);
        Ok(())
    }

    fn class_of_stack(&mut self) -> Result<(), Walk> {
        let name = self.pop()?;
        self.pop()?;
        self.stack.push(if let Value::Text(name) = name { Value::Class(name) } else { Value::Other });
        Ok(())
    }

    fn put(&mut self, bytes: usize) -> Result<(), Walk> {
        let at = self.length(bytes)?;
        self.memo.insert(at, *self.stack.last().ok_or(Walk::Strange)?);
        Ok(())
    }

    fn memoize(&mut self) -> Result<(), Walk> {
        let at = self.memo.len() as u64;
        self.memo.insert(at, *self.stack.last().ok_or(Walk::Strange)?);
        Ok(())
    }

    fn get(&mut self, bytes: usize) -> Result<(), Walk> {
        let at = self.length(bytes)?;
        self.stack.push(*self.memo.get(&at).ok_or(Walk::Strange)?);
        Ok(())
    }

    fn pop(&mut self) -> Result<Value<'bytes>, Walk> {
        self.stack.pop().ok_or(Walk::Strange)
    }

    fn drop_values(&mut self, count: usize) -> Result<(), Walk> {
        let left = self.stack.len().checked_sub(count).ok_or(Walk::Strange)?;
        self.stack.truncate(left);
        Ok(())
    }

    fn replace(&mut self, count: usize) -> Result<(), Walk> {
        self.drop_values(count)?;
        self.stack.push(Value::Other);
        Ok(())
    }

    fn split_mark(&mut self) -> Result<Vec<Value<'bytes>>, Walk> {
        let at = self.stack.iter().rposition(|value| *value == Value::Mark).ok_or(Walk::Strange)?;
        let values = self.stack.split_off(at + 1);
        self.stack.pop();
        Ok(values)
    }

    /// A storage is named by `("storage", class, key, place, elements, view)`.
    fn tuple(&mut self) -> Result<(), Walk> {
        let values = self.split_mark()?;
        self.stack.push(match values[..] {
            [Value::Text(b"storage"), Value::Class(class), Value::Text(key), _, Value::Number(elements), ..] => {
                Value::Storage(key, Storage { class, elements })
            }
            _ => Value::Other,
        });
        Ok(())
    }

    fn persistent(&mut self) -> Result<(), Walk> {
        if let Value::Storage(key, storage) = self.pop()? {
            self.storages.insert(key, storage);
        }
        self.stack.push(Value::Other);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_pickle_ends_where_its_operations_do() {
        // {"step": 7, "done": True}, protocol 2, and protocol 4 with its frame.
        let second = b"\x80\x02}q\x00(X\x04\x00\x00\x00stepq\x01K\x07X\x04\x00\x00\x00doneq\x02\x88u.";
        let fourth = b"\x80\x04\x95\x16\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x04step\x94K\x07\x8c\x04done\x94\x88u.";
        for pickle in [second.as_slice(), fourth] {
            assert_eq!(plain(pickle, pickle.len() as u64), Body::Whole);
            for cut in 1..pickle.len() {
                assert_eq!(plain(&pickle[..cut], cut as u64), Body::Torn, "{cut} bytes");
            }
            assert_eq!(plain(&pickle[..9], pickle.len() as u64), Body::Endless, "more than is read");
            assert_eq!(plain(pickle, pickle.len() as u64 + 1), Body::Endless, "something follows");
        }
        assert_eq!(plain(b"\x80\x02\xff", 3), Body::Endless);
        assert_eq!(plain(b"\x80\x02s.", 4), Body::Endless, "nothing to take");
    }
}
