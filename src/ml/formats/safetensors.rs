//! Mapped safetensors files: the header is read and checked against the file; tensors are copied
//! when asked for.
//!
//! The header is parsed here and not by the `safetensors` crate, so that an error can name the
//! tensor, and because that crate adds offsets that a hostile header can make overflow.

use super::elements::{self, Element, View};
use super::parsed::Parsed;
use super::unique::Unique;
use candle_core::Tensor;
use memmap2::Mmap;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;

/// The limit of the format.
pub(super) const MOST_HEADER: u64 = 100_000_000;

/// The entry of the header that is no tensor.
pub(super) const METADATA: &str = "__metadata__";

#[derive(Debug)]
pub(super) struct Safetensors {
    map: Mmap,
    tensors: BTreeMap<String, TensorSpan>,
}

#[derive(Debug)]
struct TensorSpan {
    /// The type, or why the tensor cannot be read: an unknown type is an error only for whoever
    /// wants this tensor.
    element: Parsed<Element>,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<usize>,
    /// Relative to the end of the header.
    data_offsets: (usize, usize),
}

impl Safetensors {
    /// Whether a file that begins with `head` looks like safetensors: eight bytes with a plausible
    /// length, then JSON.
    pub fn is(head: &[u8]) -> bool {
        let length = head.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
        length.is_some_and(|n| n <= MOST_HEADER) && head.get(8) == Some(&b'{')
    }

    pub fn open(map: Mmap) -> Parsed<Self> {
        let truncated = || "a truncated safetensors file".to_string();
        let length = map.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)).ok_or_else(truncated)?;
        let start = 8 + length as usize;
        let header = map.get(8..start).ok_or_else(truncated)?;
        let header: Unique<serde_json::Value> =
            serde_json::from_slice(header).map_err(|e| format!("a damaged safetensors file: its header {e}"))?;
        let room = map.len() - start;
        let mut tensors = BTreeMap::new();
        for (name, value) in header.0 {
            if name != METADATA {
                let place = place(value, start, room).map_err(|e| format!("tensor `{name}`: {e}"))?;
                tensors.insert(name, place);
            }
        }
        // Tensors that share bytes would let a small file fill any amount of memory.
        let mut places: Vec<_> = tensors.iter().map(|(name, p)| (&p.bytes, name)).collect();
        places.sort_by_key(|(bytes, _)| (bytes.start, bytes.end));
        for pair in places.windows(2) {
            if pair[1].0.start < pair[0].0.end {
                return Err(format!("tensors `{}` and `{}` overlap", pair[0].1, pair[1].1));
            }
        }
        Ok(Self { map, tensors })
    }

    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Names and shapes.
    pub fn shapes(&self) -> impl Iterator<Item = (&String, &[usize])> {
        self.tensors.iter().map(|(name, place)| (name, &place.shape[..]))
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Parsed<Tensor> {
        let place = self.tensors.get(name).ok_or("does not exist")?;
        let strides = elements::contiguous(&place.shape, false);
        let bytes = &self.map[place.bytes.clone()];
        let (shape, strides) = (&place.shape[..], &strides[..]);
        View { bytes, element: place.element.clone()?, big_endian: false, offset: 0, shape, strides }.tensor()
    }
}

fn place(value: serde_json::Value, start: usize, room: usize) -> Parsed<TensorSpan> {
    let info: Info = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let element = match info.dtype.as_str() {
        "BOOL" => Ok(Element::Bool),
        "U8" => Ok(Element::U8),
        "I8" => Ok(Element::I8),
        "U16" => Ok(Element::U16),
        "I16" => Ok(Element::I16),
        "U32" => Ok(Element::U32),
        "I32" => Ok(Element::I32),
        "U64" => Ok(Element::U64),
        "I64" => Ok(Element::I64),
        "F16" => Ok(Element::F16),
        "BF16" => Ok(Element::BF16),
        "F32" => Ok(Element::F32),
        "F64" => Ok(Element::F64),
        "F8_E4M3" => Ok(Element::F8E4M3),
        other => Err(format!("has type {other}, which is not supported")),
    };
    let (from, to) = info.data_offsets;
    if from > to || to > room {
        return Err(format!("is at bytes {from} to {to} of {room}; the file may be truncated"));
    }
    let size = |element: &Element| elements::count(&info.shape).and_then(|n| n.checked_mul(element.size()));
    if element.as_ref().is_ok_and(|element| size(element) != Some(to - from)) {
        return Err(format!("has shape {:?} of type {}, but {} bytes", info.shape, info.dtype, to - from));
    }
    Ok(TensorSpan { element, shape: info.shape, bytes: start + from..start + to })
}
