//! Amounts with units: `8GiB`, `1.5 GB`, `90s`, `2h`, `30d`. Does not know what they limit.
//!
//! Huge amounts are clamped: `--timeout 3000000000000000h` means never. So adding them to a time or
//! another amount cannot overflow.

use std::time::Duration;

/// The longest duration: a hundred years.
pub const LONGEST: Duration = Duration::from_secs(36_525 * 86_400);
/// The largest size: an exbibyte.
pub const LARGEST: u64 = 1 << 60;

/// Bytes in `8GiB`, `1.5 GB`; a unit is required.
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let scale: f64 = match unit {
        "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "TiB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    // The cast saturates for floats that do not fit.
    Some(((number * scale) as u64).min(LARGEST))
}

/// `500ms`, `90s`, `10 min`, `2h`, `30d`, `2w`; a unit is required.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let seconds: f64 = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "min" | "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "w" => 7.0 * 86_400.0,
        _ => return None,
    };
    Some(Duration::try_from_secs_f64(number * seconds).map_or(LONGEST, |time| time.min(LONGEST)))
}

/// The number and its unit.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_with_their_unit() {
        assert_eq!((bytes("8GiB"), bytes("1.5 kB")), (Some(8 << 30), Some(1500)));
        assert_eq!([bytes("8"), bytes("GiB"), bytes("8 gigs"), bytes("-1GB")], [None; 4]);
        let seconds = |s| Some(Duration::from_secs_f64(s));
        assert_eq!(
            [duration("90s"), duration("1.5 h"), duration("250ms")],
            [seconds(90.0), seconds(5400.0), seconds(0.25)]
        );
        assert_eq!([duration("30d"), duration("2 min")], [seconds(2_592_000.0), seconds(120.0)]);
        assert_eq!([duration("3"), duration("soon"), duration("-1s"), duration("9e9 d")], [None; 4]);
    }

    #[test]
    fn more_than_there_could_be_is_as_much_as_there_could_be() {
        let nines = "9".repeat(400);
        for unit in ["ms", "s", "min", "h", "d", "w"] {
            for number in ["3000000000000000000", "18446744073709551616", &nines] {
                let time = duration(&format!("{number}{unit}")).unwrap();
                assert_eq!(time, LONGEST, "{number}{unit}");
                assert!(std::time::Instant::now().checked_add(time * 2).is_some());
            }
        }
        assert_eq!(
            [bytes("99999999999TiB"), bytes("20000000000000000000B"), bytes(&(nines + "kB"))],
            [Some(LARGEST); 3]
        );
        assert_eq!([bytes(".B"), bytes("1.2.3GB")], [None; 2]);
        assert_eq!([duration(".s"), duration("1.2.3h")], [None; 2]);
    }
}
