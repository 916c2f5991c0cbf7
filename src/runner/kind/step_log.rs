//! Curves of a running stage: numbers by step in a file, one JSON object per line.
//!
//! An attempt that resumes at a step truncates the file after that step and appends to it. So after
//! any number of kills, the file is byte for byte that of an uninterrupted attempt; this is why
//! times have a file of their own. It is not part of an artifact: how often a stage logs must not
//! change its result.
//!
//! Knows neither the meaning of the numbers nor who reads them.

use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Reproducible values: a function of parameters and inputs.
pub const METRICS: &str = "metrics.jsonl";
/// Speeds and durations: different each time.
pub const TIMES: &str = "times.jsonl";

/// `step`, then values by name; null for a value that is not finite.
pub type Row = Map<String, Value>;

/// A file of [`Row`]s in the order of steps.
pub struct StepLog {
    path: PathBuf,
    /// Opened by the first line: a stage without curves leaves no file.
    file: Option<File>,
    /// The step and row that are not complete yet.
    pending: Option<(u64, Row)>,
}

impl StepLog {
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, pending: None }
    }

    /// Continues after the row of this step; later and incomplete lines are cut off. Without this
    /// call the file starts empty.
    pub fn resume(&mut self, step: u64) -> io::Result<()> {
        let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&self.path)?;
        let mut bytes = vec![];
        file.read_to_end(&mut bytes)?;
        let kept = rows(&bytes).take_while(|(row, _)| step_of(row).is_some_and(|s| s <= step)).last();
        let end = kept.map_or(0, |(_, end)| end as u64);
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        (self.file, self.pending) = (Some(file), None);
        Ok(())
    }

    /// Adds a value of this step. The row is written when a later step starts, or by
    /// [`flush`](Self::flush).
    pub fn add(&mut self, step: u64, name: &str, value: Option<f64>) -> io::Result<()> {
        self.reach(step)?;
        let (_, row) = self.pending.get_or_insert_with(|| (step, Row::from_iter([("step".into(), step.into())])));
        row.insert(name.into(), value.into());
        Ok(())
    }

    /// The attempt has reached this step, so rows of earlier steps are complete.
    pub fn reach(&mut self, step: u64) -> io::Result<()> {
        if self.pending.as_ref().is_some_and(|(pending, _)| *pending != step) { self.flush() } else { Ok(()) }
    }

    /// Writes the pending rows in one call.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some((_, row)) = self.pending.take() else { return Ok(()) };
        let mut line = serde_json::to_vec(&row)?;
        line.push(b'\n');
        let mut file = match self.file.take() {
            Some(file) => file,
            None => File::create(&self.path)?,
        };
        file.write_all(&line)?;
        self.file = Some(file);
        Ok(())
    }

    /// Forces everything so far to disk.
    pub fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }
}

/// The rows of such a file; none if it does not exist. An incomplete last line is left out.
pub fn read(path: &Path) -> io::Result<Vec<Row>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(rows(&bytes).map(|(row, _)| row).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(e) => Err(e),
    }
}

pub fn step_of(row: &Row) -> Option<u64> {
    row.get("step")?.as_u64()
}

/// Complete rows up to the first invalid line, and where each ends.
fn rows(bytes: &[u8]) -> impl Iterator<Item = (Row, usize)> + '_ {
    let lines = bytes.split_inclusive(|b| *b == b'\n').scan(0, |end, line| {
        *end += line.len();
        Some((line, *end))
    });
    lines.map_while(|(line, end)| Some((serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(log: &mut StepLog, steps: std::ops::RangeInclusive<u64>) {
        for step in steps {
            log.add(step, "loss", Some(1.0 / step as f64)).unwrap();
            log.add(step, "spread", (step != 2).then_some(0.1 + 0.2)).unwrap();
        }
        log.flush().unwrap();
    }

    #[test]
    fn a_file_that_was_cut_anywhere_goes_on_as_if_it_had_not_been() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS);
        write(&mut StepLog::new(path.clone()), 1..=4);
        let whole = std::fs::read(&path).unwrap();
        assert!(whole.starts_with(
            b"{\"step\":1,\"loss\":1.0,\"spread\":0.30000000000000004}\n{\"step\":2,\"loss\":0.5,\"spread\":null}\n"
        ));
        assert_eq!(read(&path).unwrap().len(), 4);
        // A checkpoint of step 2, and a kill at any byte after its line.
        let two = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(1).unwrap().0 + 1;
        for cut in two..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut log = StepLog::new(path.clone());
            log.resume(2).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole[..two], "no later line stays");
            write(&mut log, 3..=4);
            assert_eq!(std::fs::read(&path).unwrap(), whole, "cut at byte {cut}");
        }
        // An attempt without a checkpoint starts over.
        write(&mut StepLog::new(path.clone()), 1..=4);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn a_line_is_written_when_a_later_step_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS);
        let mut log = StepLog::new(path.clone());
        log.reach(1).unwrap();
        assert!(!path.exists(), "nothing was measured");
        log.add(1, "loss", Some(2.0)).unwrap();
        log.reach(1).unwrap();
        assert!(!path.exists());
        log.reach(2).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1);
    }
}
