//! Numbers, durations, sizes, counts and times as text.

/// `1.2 s`, `3 min 20 s`, `5 h 07 min`, `2 d 03 h`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {:02} h", whole / 86_400, whole / 3600 % 24),
    }
}

/// A time of a record (`2026-01-31T12:00:00.000Z`) to the second: `2026-01-31 12:00:00Z`.
pub fn instant(utc: &str) -> String {
    let plain = utc.replacen('T', " ", 1);
    match plain.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => plain,
    }
}

/// A text in one line of a table: a name may contain a line break.
pub fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// `1 stage`, `3 stages`.
pub fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// `512 B`, `3.4 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (0..UNITS.len() - 1).find(|&p| n < 1024u64.pow(p as u32 + 1)).unwrap_or(UNITS.len() - 1);
    match power {
        0 => format!("{n} B"),
        _ => format!("{:.1} {}", n as f64 / 1024f64.powi(power as i32), UNITS[power]),
    }
}

/// A number with four significant digits; `nan` if it is not finite.
pub fn number(value: Option<f64>) -> String {
    let Some(value) = value else { return "nan".into() };
    if value == 0.0 {
        return "0".into();
    }
    let digits = value.abs().log10().floor() as i32;
    if !(-4..7).contains(&digits) {
        return format!("{value:.3e}");
    }
    let text = format!("{value:.*}", (3 - digits).max(0) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

/// Wraps a line of text at this width; longer words get a line of their own.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    if text.chars().count() <= width {
        return vec![text.into()];
    }
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().map_or(0, |l| l.chars().count());
        match lines.last_mut() {
            Some(last) if line == 0 => last.push_str(word),
            Some(last) if line + 1 + word.chars().count() <= width => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        assert_eq!(
            [0.04, 12.0, 200.0, 18_420.0, 183_600.0].map(duration),
            ["0.0 s", "12 s", "3 min 20 s", "5 h 07 min", "2 d 03 h"]
        );
        assert_eq!([512, 1024, 3_565_158].map(bytes), ["512 B", "1.0 KiB", "3.4 MiB"]);
        let numbers = [0.0, 2.0, 0.123_456, 123_456.0, 1e-9, -3.1].map(|v| number(Some(v)));
        assert_eq!(numbers, ["0", "2", "0.1235", "123456", "1.000e-9", "-3.1"]);
        assert_eq!(number(None), "nan");
        assert_eq!(one_line("a\nb\tc"), "a b c");
    }
}
