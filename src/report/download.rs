//! Progress of a download on standard error: a bar on a terminal, otherwise a line now and then.

use super::text::bytes;
use erw_fetch::FetchObserver;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two lines about one file.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The display of one download.
pub struct Download {
    name: String,
    bar: Option<ProgressBar>,
    told: Mutex<Instant>,
}

impl Download {
    pub fn of(name: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = "{prefix:>17} [{bar:16}] {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(0).with_style(style.progress_chars("=> "));
            bar.set_prefix(name.to_string());
            bar
        });
        Self { name: name.into(), bar, told: Mutex::new(Instant::now()) }
    }

    fn line(&self, text: &str) {
        let text = format!("{}: {text}", self.name);
        match &self.bar {
            Some(bar) => bar.suspend(|| drop(writeln!(std::io::stderr().lock(), "{text}"))),
            None => drop(writeln!(std::io::stderr().lock(), "{text}")),
        }
    }
}

impl FetchObserver for Download {
    fn progress(&self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total.max(done));
            bar.set_position(done);
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() >= TELL_EVERY {
            *told = Instant::now();
            let of = if total > 0 { format!(" of {}", bytes(total)) } else { String::new() };
            self.line(&format!("{}{of}", bytes(done)));
        }
    }

    fn log(&self, text: &str) {
        self.line(text);
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
