//! TensorBoard event files, limited to scalars: TFRecord frames that hold `Event` messages.
//!
//! The format is that of `tensorflow/core/lib/io/record_writer.cc` (frame: length u64, masked CRC
//! of the length, data, masked CRC of the data, all little-endian) and
//! `tensorflow/core/util/event.proto` (`wall_time` = 1, `step` = 2, `file_version` = 3, `summary` =
//! 5; a summary's `value` = 1 has `tag` = 1 and `simple_value` = 2). Six fields do not justify a
//! protocol compiler.
//!
//! A resumed file is truncated after the step it continues from, like a metrics file, so no reader
//! sees a step twice. An event always takes the same number of bytes, so a reader that was already
//! beyond the cut finds its place again.

use crc_fast::{CrcAlgorithm, checksum};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// TensorBoard reads every file with `tfevents` in its name. The name is fixed, so that attempts
/// continue the same file.
pub const FILE: &str = "events.out.tfevents.erw";

const VERSION: &[u8] = b"brain.Event:2";

/// A file of scalars by step and tag.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: Option<File>,
}

impl EventFile {
    /// Opens [`FILE`] in a folder, which is created if needed. The first scalar starts it anew,
    /// unless it was [resumed](Self::resume).
    pub fn create(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self { path: dir.join(FILE), file: None })
    }

    /// Continues after the events up to this step. Later, incomplete and damaged events are cut
    /// off.
    pub fn resume(&mut self, step: u64) -> io::Result<()> {
        let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&self.path)?;
        let mut bytes = vec![];
        file.read_to_end(&mut bytes)?;
        let kept = frames(&bytes).take_while(|(event, _)| step_of(event).is_some_and(|s| s <= step)).last();
        let end = kept.map_or(0, |(_, end)| end as u64);
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        if end == 0 {
            file.write_all(&head())?;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Appends a scalar.
    pub fn scalar(&mut self, step: u64, tag: &str, value: f32) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                let mut file = File::create(&self.path)?;
                file.write_all(&head())?;
                file
            }
        };
        file.write_all(&frame(&scalar(now(), step, tag, value)))?;
        self.file = Some(file);
        Ok(())
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |d| d.as_secs_f64())
}

fn head() -> Vec<u8> {
    let mut event = vec![];
    double(&mut event, 1, now());
    bytes(&mut event, 3, VERSION);
    frame(&event)
}

fn scalar(time: f64, step: u64, tag: &str, value: f32) -> Vec<u8> {
    let mut entry = vec![];
    bytes(&mut entry, 1, tag.as_bytes());
    entry.push(2 << 3 | 5);
    entry.extend(value.to_le_bytes());
    let (mut summary, mut event) = (vec![], vec![]);
    bytes(&mut summary, 1, &entry);
    double(&mut event, 1, time);
    event.push(2 << 3);
    varint(&mut event, step);
    bytes(&mut event, 5, &summary);
    event
}

fn double(out: &mut Vec<u8>, field: u8, value: f64) {
    out.push(field << 3 | 1);
    out.extend(value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length, &masked(&length).to_le_bytes()[..], data, &masked(data).to_le_bytes()].concat()
}

/// The masked CRC-32C of `tensorflow/core/lib/hash/crc32c.h`. It is masked because checksums of
/// data that contains checksums are weak.
fn masked(data: &[u8]) -> u32 {
    (checksum(CrcAlgorithm::Crc32Iscsi, data) as u32).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The data of each complete frame and the position of its end, up to the first damaged frame.
fn frames(file: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = file.get(at..)?;
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let (check, rest) = rest.split_first_chunk::<4>()?;
        let size = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (data, rest) = rest.split_at_checked(size)?;
        let (sum, _) = rest.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*check) != masked(length) || u32::from_le_bytes(*sum) != masked(data) {
            return None;
        }
        at += 16 + size;
        Some((data, at))
    })
}

/// The step of an event; 0 if it states none.
fn step_of(event: &[u8]) -> Option<u64> {
    let mut rest = event;
    while !rest.is_empty() {
        let tag = take_varint(&mut rest)?;
        match tag & 7 {
            0 => {
                let value = take_varint(&mut rest)?;
                if tag >> 3 == 2 {
                    return Some(value);
                }
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(0)
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of CRC-32C, and what `masked_crc32c` of the `tensorboard` package gives.
    #[test]
    fn checksums_are_tensorflows() {
        assert_eq!(checksum(CrcAlgorithm::Crc32Iscsi, b"123456789"), 0xe306_9283);
        assert_eq!(masked(b"foo"), 0xfebe_8a61);
    }

    /// `Event(wall_time=1.5, step=300, summary=Summary(value=[Value(tag="loss",
    /// simple_value=0.25)]))` as written by the `tensorboard` package, 2.21.
    #[test]
    fn an_event_has_the_bytes_of_tensorboards_own() {
        let expected = EXPECTED.split(' ').map(|b| u8::from_str_radix(b, 16).unwrap()).collect::<Vec<_>>();
        assert_eq!(frame(&scalar(1.5, 300, "loss", 0.25)), expected);
        assert_eq!(step_of(&scalar(1.5, 300, "loss", 0.25)), Some(300));
    }

    const EXPECTED: &str = "1b 00 00 00 00 00 00 00 1a 0d 9e 13 09 00 00 00 00 00 00 f8 3f 10 ac 02 2a 0d 0a 0b 0a 04 6c 6f 73 73 15 00 \
        00 80 3e 99 08 de ed";

    fn write(file: &mut EventFile, steps: std::ops::RangeInclusive<u64>) {
        steps.for_each(|step| file.scalar(step, "loss", step as f32).unwrap());
    }

    #[test]
    fn a_file_that_was_cut_anywhere_goes_on_without_a_doubled_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        write(&mut EventFile::create(dir.path()).unwrap(), 1..=200);
        let whole = std::fs::read(&path).unwrap();
        let ends: Vec<usize> = frames(&whole).map(|(_, end)| end).collect();
        assert_eq!((ends.len(), *ends.last().unwrap()), (201, whole.len()));
        let steps = |bytes: &[u8]| frames(bytes).map(|(event, _)| step_of(event).unwrap()).collect::<Vec<_>>();
        for cut in ends[197]..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut file = EventFile::create(dir.path()).unwrap();
            file.resume(197).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole[..ends[197]]);
            write(&mut file, 198..=200);
            let again = std::fs::read(&path).unwrap();
            assert_eq!(steps(&again), (0..=200).collect::<Vec<_>>());
            assert_eq!(again.len(), whole.len());
        }
        // A flipped bit ends the part that is trusted.
        let mut damaged = whole.clone();
        damaged[ends[3] + 14] ^= 1;
        assert_eq!(steps(&damaged), [0, 1, 2, 3]);
        std::fs::write(&path, b"something else").unwrap();
        let mut file = EventFile::create(dir.path()).unwrap();
        file.resume(5).unwrap();
        write(&mut file, 6..=6);
        assert_eq!(steps(&std::fs::read(&path).unwrap()), [0, 6]);
    }
}
