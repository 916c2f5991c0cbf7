//! Program output made safe to show: each line as a terminal would show it in the end, without
//! anything that moves the cursor, sets colours or renames the window. A progress bar redrawn by
//! carriage returns is shown in its last state.
//!
//! Logs keep every byte; this is only how they are read. However long a log is, little of it is in
//! memory. Does not know what programs write.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::iter::Peekable;
use std::path::Path;

/// Lines of a log shown when a stage fails, the characters of each, and how far from the end to
/// search: progress bars write many bytes per line.
const TAIL_LINES: usize = 20;
const WIDTH: usize = 500;
const TAIL_BYTES: u64 = 1 << 18;
/// A line is kept whole up to this many bytes.
const LONGEST: usize = 1 << 16;
const BLOCK: usize = 1 << 16;

/// The final appearance of the text, line by line.
pub fn shown(text: &str) -> String {
    text.split('\n').map(shown_line).collect::<Vec<_>>().join("\n")
}

fn shown_line(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    // After a carriage return, new text overwrites the old.
    let mut returned = false;
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => skip_escape(&mut chars),
            '\u{9b}' => skip_control(&mut chars),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => skip_text(&mut chars),
            '\r' => returned = true,
            '\x08' => drop(out.pop()),
            c if is_hidden(c) => {}
            c => {
                if std::mem::take(&mut returned) {
                    out.clear();
                }
                out.push(c);
            }
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// Control characters, marks that change the writing direction, and noncharacters.
fn is_hidden(c: char) -> bool {
    c.is_control() && c != '\t'
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}')
}

/// Skips an escape sequence after ESC.
fn skip_escape(chars: &mut Peekable<impl Iterator<Item = char>>) {
    match chars.peek() {
        Some('[') => {
            chars.next();
            skip_control(chars);
        }
        Some(']' | 'P' | 'X' | '^' | '_') => {
            chars.next();
            skip_text(chars);
        }
        _ => {
            while chars.next_if(|c| matches!(c, ' '..='/')).is_some() {}
            chars.next_if(|c| matches!(c, '0'..='~'));
        }
    }
}

/// Skips a control sequence: parameters and the final letter.
fn skip_control(chars: &mut Peekable<impl Iterator<Item = char>>) {
    while chars.next_if(|c| matches!(c, ' '..='?')).is_some() {}
    chars.next_if(|c| matches!(c, '@'..='~'));
}

/// Skips a string for the terminal itself, up to BEL or a string terminator.
fn skip_text(chars: &mut Peekable<impl Iterator<Item = char>>) {
    while let Some(c) = chars.next() {
        match c {
            '\x07' | '\u{9c}' => return,
            '\x1b' => {
                chars.next_if_eq(&'\\');
                return;
            }
            _ => {}
        }
    }
}

/// The last lines of a log; empty if it cannot be read.
pub fn tail(log: &Path) -> Vec<String> {
    let read = || {
        let mut file = File::open(log)?;
        let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        // A line that starts before the searched part is shown only if there is no other.
        let whole = bytes.iter().position(|b| *b == b'\n').filter(|at| start > 0 && at + 1 < bytes.len());
        io::Result::Ok(bytes.split_off(whole.map_or(0, |at| at + 1)))
    };
    let bytes = read().unwrap_or_default();
    let text = shown(&String::from_utf8_lossy(&bytes));
    let lines: Vec<&str> = text.trim_end_matches('\n').split('\n').collect();
    if lines == [""] {
        return vec![];
    }
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| cut(line, WIDTH)).collect()
}

/// The first characters of a line.
pub fn cut(line: &str, width: usize) -> String {
    match line.char_indices().nth(width) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_string(),
    }
}

/// The offset of the last `lines` lines of a file.
pub fn last_lines(file: &mut File, lines: usize) -> io::Result<u64> {
    let end = file.metadata()?.len();
    if lines == 0 {
        return Ok(end);
    }
    let (mut at, mut block, mut left) = (end, vec![0; BLOCK], lines);
    while at > 0 {
        let start = at.saturating_sub(BLOCK as u64);
        let block = &mut block[..(at - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(block)?;
        for (i, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            // The newline that ends the last line does not start another.
            if start + i as u64 + 1 == end {
                continue;
            }
            left -= 1;
            if left == 0 {
                return Ok(start + i as u64 + 1);
            }
        }
        at = start;
    }
    Ok(0)
}

/// Turns bytes that arrive in pieces into lines to show.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Adds bytes and returns the lines they complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let before = self.rest.len();
        self.rest.extend_from_slice(bytes);
        let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| before + at + 1);
        let text = shown(&String::from_utf8_lossy(&self.rest[..end]));
        self.rest.drain(..end);
        if self.rest.len() <= LONGEST {
            return text;
        }
        // Only the last state of a redrawn line is visible; a long line is cut into pieces.
        match self.rest.iter().rposition(|b| *b == b'\r').filter(|at| *at > 0) {
            Some(at) => {
                self.rest.drain(..at);
                text
            }
            None => text + &self.end(),
        }
    }
    /// The current appearance of the unfinished line.
    pub fn unfinished(&self) -> String {
        shown(&String::from_utf8_lossy(&self.rest))
    }
    /// The same, at the end of the output.
    pub fn end(&mut self) -> String {
        let text = self.unfinished();
        self.rest.clear();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_are_shown_as_they_look_in_the_end() {
        for (written, seen) in [
            ("plain\ttext", "plain\ttext"),
            ("\x1b[31mred\x1b[0m \0 ]]> <b> \x08!", "red  ]]> <b>!"),
            ("\r  1%|#  |\r 50%|## |\r100%|###|", "100%|###|"),
            ("half\r", "half"),
            ("bar\r    \rdone", "done"),
            ("windows\r", "windows"),
            ("\x1b[2J\x1b[H\x1b]0;title\x07 last", " last"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\u{9b}31mred \u{9d}title\u{9c}.", "red ."),
            ("\x1b(Bset \x1b7saved \x1bPdcs\x1b\\ \x1b=", "set saved"),
            ("\x1b[38;2;1;2;3mtrue\x1b[", "true"),
            ("\x1b]never ends", ""),
            ("abc\x08\x08\x08\x08x", "x"),
            ("a\u{202e}b\u{2066}c\u{fffe}\x0b\x7f", "abc"),
            ("ends in \x1b", "ends in"),
        ] {
            assert_eq!(shown(written), seen, "{written:?}");
        }
        assert_eq!(shown("a\r\nb\r\n"), "a\nb\n");
    }

    #[test]
    fn the_tail_of_a_log_is_short_however_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let told = |bytes: &[u8]| {
            std::fs::write(&log, bytes).unwrap();
            tail(&log)
        };
        assert_eq!(tail(&dir.path().join("none")), Vec::<String>::new());
        assert_eq!(told(b""), Vec::<String>::new());
        assert_eq!(told(b"\xff\xfe\n"), ["\u{fffd}\u{fffd}"]);
        let many: String = (0..100).map(|i| format!("line {i}\n")).collect();
        let told_of_many = told(many.as_bytes());
        assert_eq!((told_of_many.len(), &*told_of_many[0], &*told_of_many[19]), (20, "line 80", "line 99"));
        // An error, then a progress bar of many bytes.
        let bar: String = (0..3000).map(|i| format!("\r{i:5} of 3000 |##########          |")).collect();
        assert_eq!(
            told(format!("the error\n{bar}\n").as_bytes()),
            ["the error", " 2999 of 3000 |##########          |"]
        );
        assert_eq!(told("é".repeat(1 << 18).as_bytes())[0].chars().count(), WIDTH + 1);
    }

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        let mut file = tempfile::tempfile().unwrap();
        let text: String = (0..30_000).map(|i| format!("line {i}\n")).collect();
        file.write_all(text.as_bytes()).unwrap();
        let mut from = |lines: usize| &text[last_lines(&mut file, lines).unwrap() as usize..];
        assert_eq!(from(0), "");
        assert_eq!(from(1), "line 29999\n");
        assert_eq!(from(2), "line 29998\nline 29999\n");
        assert_eq!(from(20_000).lines().count(), 20_000);
        assert_eq!(from(30_000), text);
        assert_eq!(from(usize::MAX), text);
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b"unfinished").unwrap();
        let at = last_lines(&mut file, 1).unwrap() as usize;
        assert_eq!(at, text.len());
    }

    #[test]
    fn lines_come_whole_from_pieces_and_hold_little() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\ntw"), "one\n");
        assert_eq!(lines.unfinished(), "tw");
        assert_eq!(lines.push(b"o\n\xc3"), "two\n");
        assert_eq!(lines.push(b"\xa9\n"), "é\n", "a character in two pieces");
        (0..10_000).for_each(|i| assert_eq!(lines.push(format!("\rstep {i} of 10000").as_bytes()), ""));
        assert!(lines.rest.len() <= LONGEST);
        assert_eq!(lines.end(), "step 9999 of 10000");
        let long: String = (0..100).map(|_| lines.push(&[b'x'; 10_000])).collect();
        assert!(lines.rest.len() <= LONGEST);
        assert_eq!(long.len() + lines.end().len(), 1_000_000);
    }
}
