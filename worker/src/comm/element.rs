//! What may travel through a [`Communicator`](super::Communicator), and how it is reduced.

/// How the values of all ranks become one.
///
/// The order of reduction depends only on the world size, the buffer's length and on whether all ranks are on one machine,
/// so results are equal bit for bit between runs and on every rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceOp {
    /// The sum. Integers wrap around on overflow.
    Sum,
    /// The sum divided by the world size. Integers round toward zero.
    Mean,
    /// The smallest value; a NaN on any rank gives NaN.
    Min,
    /// The largest value; a NaN on any rank gives NaN.
    Max,
}

impl ReduceOp {
    /// The word for messages: `sum`, `mean`, `min`, `max`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
        }
    }

    pub(super) fn code(self) -> u8 {
        match self {
            Self::Sum => 1,
            Self::Mean => 2,
            Self::Min => 3,
            Self::Max => 4,
        }
    }
}

/// A type's number on the wire.
type Code = u8;

mod sealed {
    use super::Code;

    /// Keeps [`super::Element`] closed: the byte casts below are sound for plain numbers only.
    pub trait Sealed: Copy + Default + Send + Sync + std::fmt::Debug + PartialEq + 'static {
        const CODE: Code;
    }
}
use sealed::Sealed;

/// A number that can be sent: `u8`, `i64`, `f32`, `f64`. Travels in little-endian order.
pub trait Element: Sealed {}

/// A number that can be reduced: `i64`, `f32`, `f64`.
pub trait Number: Element {
    #[doc(hidden)]
    fn combine(op: ReduceOp, left: Self, right: Self) -> Self;
    #[doc(hidden)]
    fn divide(self, count: usize) -> Self;
}

impl Sealed for u8 {
    const CODE: Self = 1;
}
impl Sealed for i64 {
    const CODE: Code = 2;
}
impl Sealed for f32 {
    const CODE: Code = 3;
}
impl Sealed for f64 {
    const CODE: Code = 4;
}

impl Element for u8 {}
impl Element for i64 {}
impl Element for f32 {}
impl Element for f64 {}

impl Number for i64 {
    #[inline(always)]
    fn combine(op: ReduceOp, left: Self, right: Self) -> Self {
        match op {
            ReduceOp::Sum | ReduceOp::Mean => left.wrapping_add(right),
            ReduceOp::Min => left.min(right),
            ReduceOp::Max => left.max(right),
        }
    }

    fn divide(self, count: usize) -> Self {
        // A world of more than i64::MAX ranks does not exist.
        self / Self::try_from(count).unwrap_or(Self::MAX)
    }
}

macro_rules! float {
    ($type:ty) => {
        impl Number for $type {
            #[inline(always)]
            fn combine(op: ReduceOp, left: Self, right: Self) -> Self {
                match op {
                    ReduceOp::Sum | ReduceOp::Mean => left + right,
                    // `min` and `max` of the standard library drop NaN, which would hide a diverged rank.
                    ReduceOp::Min if left.is_nan() || right.is_nan() => Self::NAN,
                    ReduceOp::Max if left.is_nan() || right.is_nan() => Self::NAN,
                    ReduceOp::Min => left.min(right),
                    ReduceOp::Max => left.max(right),
                }
            }

            fn divide(self, count: usize) -> Self {
                self / count as Self
            }
        }
    };
}
float!(f32);
float!(f64);

#[cfg(target_endian = "big")]
compile_error!("the communicator sends little-endian numbers without conversion; a big-endian port must swap them");

pub(super) fn code<T: Element>() -> u8 {
    T::CODE
}

/// The type's word for a code from the wire.
pub(super) fn name_of(code: u8) -> &'static str {
    match code {
        0 => "nothing",
        1 => "u8",
        2 => "i64",
        3 => "f32",
        4 => "f64",
        _ => "an unknown type",
    }
}

/// `data` as what it is, if it is `f32`.
pub(super) fn as_f32<T: Element>(data: &mut [T]) -> Option<&mut [f32]> {
    if T::CODE != f32::CODE {
        return None;
    }
    // SAFETY: the code is that of one type only, so `T` is `f32`.
    Some(unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast(), data.len()) })
}

/// The memory of `data` as bytes.
pub(super) fn bytes<T: Element>(data: &[T]) -> &[u8] {
    // SAFETY: `Element` is sealed to numbers without padding, every byte of which is initialised; u8 has no alignment.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), std::mem::size_of_val(data)) }
}

/// The memory of `data` as bytes to write into.
pub(super) fn bytes_mut<T: Element>(data: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes`; in addition every bit pattern is a valid value of each of the four types.
    unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast(), std::mem::size_of_val(data)) }
}
