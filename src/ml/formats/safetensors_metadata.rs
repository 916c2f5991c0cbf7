//! Metadata of safetensors files: short texts by name, in the header beside the tensors, which other
//! programs show and some require. Does not know what the texts say.

use super::safetensors::{METADATA, MOST_HEADER};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// Tensors begin at a multiple of this.
const ALIGNMENT: usize = 8;

/// Adds these entries to the metadata of a file, in place of those of the same names. The bytes of
/// the tensors stay. Returns false, and leaves the file as it is, if it is no safetensors file.
///
/// # Errors
/// When the file cannot be read or replaced.
pub fn annotate(path: &Path, entries: &BTreeMap<&str, String>) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let Some(header) = header(&mut file)? else { return Ok(false) };
    let Some(header) = with(header, entries) else { return Ok(false) };
    let mut text = serde_json::to_vec(&header)?;
    text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
    let tmp = path.with_extension("tmp");
    let mut write = || {
        let mut made = File::create(&tmp)?;
        made.write_all(&(text.len() as u64).to_le_bytes())?;
        made.write_all(&text)?;
        io::copy(&mut file, &mut made)?;
        made.set_permissions(file.metadata()?.permissions())?;
        std::fs::rename(&tmp, path)
    };
    let written = write();
    if written.is_err() {
        // A full disk needs the space.
        let _ = std::fs::remove_file(&tmp);
    }
    written.map(|()| true)
}

/// The header, with the file behind it; `None` if there is none.
fn header(file: &mut File) -> io::Result<Option<Map<String, Value>>> {
    let (mut length, size) = ([0; 8], file.metadata()?.len());
    if size < 8 {
        return Ok(None);
    }
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MOST_HEADER.min(size - 8) {
        return Ok(None);
    }
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text).ok())
}

fn with(mut header: Map<String, Value>, entries: &BTreeMap<&str, String>) -> Option<Map<String, Value>> {
    let metadata = header.entry(METADATA).or_insert_with(|| Value::Object(Map::new()));
    let metadata = metadata.as_object_mut()?;
    metadata.extend(entries.iter().map(|(name, text)| ((*name).to_string(), Value::from(text.as_str()))));
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::params;
    use candle_core::{Device, Tensor};

    #[test]
    fn entries_are_added_and_replaced_and_tensors_stay() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.safetensors");
        let tensors = BTreeMap::from([("x".to_string(), Tensor::arange(0f32, 7f32, &Device::Cpu).unwrap())]);
        params::save(&tensors, &file).unwrap();
        for entries in [[("format", "pt"), ("key", "1")], [("format", "pt"), ("key", "2")]] {
            assert!(annotate(&file, &entries.map(|(name, text)| (name, text.to_string())).into()).unwrap());
        }
        let bytes = std::fs::read(&file).unwrap();
        let (length, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let texts: BTreeMap<_, _> = metadata.metadata().clone().unwrap().into_iter().collect();
        assert_eq!(length % ALIGNMENT, 0);
        assert_eq!(texts, [("format", "pt"), ("key", "2")].map(|(a, b)| (a.to_string(), b.to_string())).into());
        let back = params::load(&file, &Device::Cpu).unwrap();
        assert_eq!(back["x"].to_vec1::<f32>().unwrap(), tensors["x"].to_vec1::<f32>().unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.safetensors");
        for bytes in
            [&b""[..], b"short", b"\xff\xff\xff\xff\xff\xff\xff\xff{}", b"\x02\0\0\0\0\0\0\0[]", b"text of some length"]
        {
            std::fs::write(&file, bytes).unwrap();
            assert!(!annotate(&file, &BTreeMap::from([("format", "pt".to_string())])).unwrap());
            assert_eq!(std::fs::read(&file).unwrap(), bytes);
        }
    }
}
