//! Number types in files, and the conversion of a strided view of bytes to a contiguous tensor on
//! the CPU. The view is checked against the bytes that exist.
//!
//! Types that candle lacks are widened without loss: bool to u8 (0 or 1), i8 to i16, u16 to i32,
//! u64 to i64 if the values fit. It does not know file formats.

use super::parsed::Parsed;
use candle_core::{DType, Device, Tensor};
use std::borrow::Cow;

/// A limit above any real tensor (PyTorch stops at 64).
const MOST_AXES: usize = 64;

/// The type of one number in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Element {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    BF16,
    F32,
    F64,
    F8E4M3,
}

impl Element {
    /// Bytes per number.
    pub fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E4M3 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

/// Number of elements of a shape; `None` on overflow.
pub(super) fn count(shape: &[usize]) -> Option<usize> {
    // With a zero the tensor is empty, whatever the other sizes.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))
}

/// Strides of a contiguous tensor in elements. The last axis varies fastest (C order), or the first
/// (Fortran order).
pub(super) fn contiguous(shape: &[usize], fortran: bool) -> Vec<usize> {
    let mut strides = vec![0; shape.len()];
    let mut step = 1usize;
    let mut set = |i: usize| {
        strides[i] = step;
        step = step.saturating_mul(shape[i]);
    };
    if fortran {
        (0..shape.len()).for_each(&mut set);
    } else {
        (0..shape.len()).rev().for_each(&mut set);
    }
    strides
}

/// A tensor inside bytes. Offset and strides are in elements.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub bytes: &'a [u8],
    pub element: Element,
    pub big_endian: bool,
    pub offset: usize,
    pub shape: &'a [usize],
    pub strides: &'a [usize],
}

impl View<'_> {
    /// Bytes of the view once it is contiguous. With broadcast axes (stride 0) this exceeds the
    /// bytes in the file, so callers limit it before they ask for the tensor.
    pub fn size(&self) -> Parsed<usize> {
        match count(self.shape).and_then(|n| n.checked_mul(self.element.size())) {
            Some(n) if self.shape.len() <= MOST_AXES => Ok(n),
            _ => Err(format!("its shape has {} axes, or more elements than can be addressed", self.shape.len())),
        }
    }

    /// The contiguous tensor `shape` on the CPU.
    pub fn tensor(&self) -> Parsed<Tensor> {
        let size = self.size()?;
        if self.strides.len() != self.shape.len() {
            return Err(format!("it has {} axes but {} strides", self.shape.len(), self.strides.len()));
        }
        let start = self.offset.checked_mul(self.element.size());
        let bytes = if size == 0 {
            Cow::Borrowed(&[][..])
        } else if self.is_contiguous() {
            let range = start.and_then(|s| Some(s..s.checked_add(size)?));
            Cow::Borrowed(range.and_then(|r| self.bytes.get(r)).ok_or_else(|| self.out_of_range())?)
        } else {
            Cow::Owned(self.gather(size)?)
        };
        into_tensor(swapped(bytes, self.element, self.big_endian), self.element, self.shape)
    }

    fn is_contiguous(&self) -> bool {
        let expected = contiguous(self.shape, false);
        self.shape.iter().zip(self.strides).zip(expected).all(|((d, s), e)| *d == 1 || *s == e)
    }

    fn out_of_range(&self) -> String {
        let (element, had) = (self.element.size(), self.bytes.len());
        format!(
            "shape {:?} with strides {:?} and offset {} extends beyond its {} elements",
            self.shape,
            self.strides,
            self.offset,
            had / element
        )
    }

    /// Copies the elements in order. The view is not empty.
    fn gather(&self, size: usize) -> Parsed<Vec<u8>> {
        let element = self.element.size();
        let reach = self
            .shape
            .iter()
            .zip(self.strides)
            .try_fold(self.offset, |at, (d, s)| at.checked_add((d - 1).checked_mul(*s)?));
        let end = reach.and_then(|r| r.checked_add(1)?.checked_mul(element));
        if end.is_none_or(|end| end > self.bytes.len()) {
            return Err(self.out_of_range());
        }
        let mut out = Vec::with_capacity(size);
        let mut index = vec![0usize; self.shape.len()];
        let (inner, step) = (self.shape[self.shape.len() - 1], self.strides[self.shape.len() - 1]);
        let mut row = self.offset;
        loop {
            for i in 0..inner {
                let at = (row + i * step) * element;
                out.extend_from_slice(&self.bytes[at..at + element]);
            }
            // Next row: increment the outer axes like an odometer.
            let mut axis = self.shape.len() - 1;
            loop {
                if axis == 0 {
                    return Ok(out);
                }
                axis -= 1;
                index[axis] += 1;
                row += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                row -= self.strides[axis] * self.shape[axis];
                index[axis] = 0;
            }
        }
    }
}

fn swapped(bytes: Cow<'_, [u8]>, element: Element, big_endian: bool) -> Cow<'_, [u8]> {
    if !big_endian || element.size() == 1 {
        return bytes;
    }
    let mut bytes = bytes.into_owned();
    bytes.chunks_exact_mut(element.size()).for_each(<[u8]>::reverse);
    Cow::Owned(bytes)
}

/// `bytes` hold exactly the elements of `shape`, little-endian.
fn into_tensor(bytes: Cow<'_, [u8]>, element: Element, shape: &[usize]) -> Parsed<Tensor> {
    let cpu = &Device::Cpu;
    let plain = |dtype| Tensor::from_raw_buffer(&bytes, dtype, shape, cpu);
    let tensor = match element {
        Element::U8 => plain(DType::U8),
        Element::I16 => plain(DType::I16),
        Element::U32 => plain(DType::U32),
        Element::I32 => plain(DType::I32),
        Element::I64 => plain(DType::I64),
        Element::F16 => plain(DType::F16),
        Element::BF16 => plain(DType::BF16),
        Element::F32 => plain(DType::F32),
        Element::F64 => plain(DType::F64),
        Element::F8E4M3 => plain(DType::F8E4M3),
        Element::Bool => Tensor::from_vec(bytes.iter().map(|b| u8::from(*b != 0)).collect::<Vec<_>>(), shape, cpu),
        Element::I8 => {
            Tensor::from_vec(bytes.iter().map(|b| i16::from(b.cast_signed())).collect::<Vec<_>>(), shape, cpu)
        }
        Element::U16 => {
            let wide = bytes.chunks_exact(2).map(|c| i32::from(u16::from_le_bytes([c[0], c[1]])));
            Tensor::from_vec(wide.collect::<Vec<_>>(), shape, cpu)
        }
        Element::U64 => {
            if bytes.chunks_exact(8).any(|c| c[7] >= 0x80) {
                return Err("it has u64 values that do not fit into i64".into());
            }
            plain(DType::I64)
        }
    };
    tensor.map_err(|e| e.to_string())
}
