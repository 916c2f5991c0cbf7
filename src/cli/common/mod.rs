//! Shared by the subcommands: arguments for pipelines and remotes, the cache folder, signals, and
//! printing.

pub mod cache_dir;
pub mod job_args;
pub mod pipeline_args;
pub mod remote_args;
pub mod signals;

use erw_base::error::{Error, Result};
use std::io::Write;

/// Writes to standard output. A closed pipe (`erw stages | head`) is no error.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::usage("cannot write to standard output").because(e))
        }
        _ => Ok(()),
    }
}

/// Rows in columns, two spaces apart. The last column is not padded.
pub fn columns(rows: &[Vec<String>], indent: &str) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter(|r| r.len() > c + 1).map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_string();
        for (c, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if c + 1 < row.len() {
                line.extend(std::iter::repeat_n(' ', widths[c].saturating_sub(cell.chars().count()) + 2));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A value as indented JSON, with a newline at the end.
pub fn json(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value);
    text.map(|t| t + "\n").map_err(|e| Error::internal("a value cannot be written as JSON").because(e))
}

/// A size in powers of ten, as publishers state sizes.
pub fn megabytes(n: u64) -> String {
    match n as f64 / 1e6 {
        m if m < 0.95 => format!("{n} B"),
        m if m < 999.5 => format!("{m:.0} MB"),
        m => format!("{:.2} GB", m / 1000.0),
    }
}
