//! Braces in names of files, as shells, `braceexpand` and WebDataset expand them:
//! `train-{000000..000146}.tar`, `{train,val}-{0..3}.tar`. Knows nothing of files.

use std::path::{Component, Path, PathBuf};

/// No set has as many files, and a slip such as `{0..1e9}` must not fill the memory.
const MOST: usize = 100_000;
/// More braces are no name of files.
const MOST_BRACES: usize = 16;

/// The names that a text with braces stands for, in the order of the text. A text without a list or
/// a range in braces is itself.
///
/// # Errors
/// When there are too many. The text says how many are allowed.
pub fn expand(text: &str) -> Result<Vec<String>, String> {
    if text.matches('{').count() > MOST_BRACES {
        return Err(format!("has more than {MOST_BRACES} braces"));
    }
    let Some((start, end)) = pair(text) else { return Ok(vec![text.into()]) };
    let (before, inner, after) = (&text[..start], &text[start + 1..end], &text[end + 1..]);
    let parts = list(inner);
    let middle = match parts.as_slice() {
        [_] => match range(inner)? {
            Some(range) => range,
            None => expand(inner)?.into_iter().map(|inner| format!("{{{inner}}}")).collect(),
        },
        parts => {
            let mut all = vec![];
            for part in parts {
                all.extend(expand(part)?);
            }
            all
        }
    };
    let ends = expand(after)?;
    if middle.len().saturating_mul(ends.len()) > MOST {
        return Err(too_many());
    }
    let with_ends = |middle: &String| ends.iter().map(move |end| format!("{before}{middle}{end}")).collect::<Vec<_>>();
    Ok(middle.iter().flat_map(with_ends).collect())
}

/// The folder before the first brace, and what comes after it; `None` of a path that stands for one
/// file.
///
/// # Errors
/// When there are too many names, or one leaves the folder.
pub fn of_path(path: &Path) -> Option<Result<(PathBuf, Vec<PathBuf>), String>> {
    let (folder, pattern) = split(path.to_str()?)?;
    Some(relative_names(pattern).map(|names| (folder.into(), names)))
}

/// The names of a pattern below a folder.
///
/// # Errors
/// See [`of_path`].
pub fn relative_names(pattern: &str) -> Result<Vec<PathBuf>, String> {
    let names: Vec<PathBuf> = expand(pattern)?.into_iter().map(PathBuf::from).collect();
    let is_plain = |name: &PathBuf| name.components().all(|part| matches!(part, Component::Normal(_)));
    match names.iter().find(|name| !is_plain(name)) {
        Some(name) => Err(format!("stands for `{}`, which is no name of a file below its folder", name.display())),
        None => Ok(names),
    }
}

/// A text with a list or range in braces: the folder before it, and the rest.
pub fn split(text: &str) -> Option<(&str, &str)> {
    let stands_for_names = |text: &str| pair(text).is_some() && expand(text).map_or(true, |all| all != [text]);
    let brace = text.find('{').filter(|_| stands_for_names(text))?;
    Some(match text[..brace].rfind('/') {
        Some(0) => ("/", &text[1..]),
        Some(at) => (&text[..at], &text[at + 1..]),
        None => ("", text),
    })
}

/// The first brace that is closed, and its end.
fn pair(text: &str) -> Option<(usize, usize)> {
    text.match_indices('{').find_map(|(start, _)| {
        let mut depth = 0usize;
        for (at, byte) in text.bytes().enumerate().skip(start) {
            match byte {
                b'{' => depth += 1,
                b'}' if depth == 1 => return Some((start, at)),
                b'}' => depth -= 1,
                _ => {}
            }
        }
        None
    })
}

/// What stands between the commas outside of inner braces.
fn list(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (vec![], 0usize, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// `0..9`, `000..146`, `9..0..3` and `a..e`; both ends are included. `None` of anything else.
fn range(text: &str) -> Result<Option<Vec<String>>, String> {
    let parts: Vec<&str> = text.split("..").collect();
    let (from, to, step) = match parts.as_slice() {
        [from, to] => (*from, *to, 1),
        [from, to, step] => match step.parse::<i64>() {
            Ok(step) => (*from, *to, step.unsigned_abs().max(1)),
            Err(_) => return Ok(None),
        },
        _ => return Ok(None),
    };
    let letter = |text: &str| match text.as_bytes() {
        [one] if one.is_ascii_alphabetic() => Some(i64::from(*one)),
        _ => None,
    };
    let is_padded =
        |text: &str| text.trim_start_matches('-').len() > 1 && text.trim_start_matches('-').starts_with('0');
    let width = if is_padded(from) || is_padded(to) { from.len().max(to.len()) } else { 0 };
    let (first, last, is_letters) = match (from.parse::<i64>(), to.parse::<i64>(), letter(from), letter(to)) {
        (Ok(first), Ok(last), ..) => (first, last, false),
        (_, _, Some(first), Some(last)) => (first, last, true),
        _ => return Ok(None),
    };
    let count = u128::from(first.abs_diff(last) / step) + 1;
    if count > MOST as u128 {
        return Err(too_many());
    }
    let name = |i: u128| {
        let far = i as i64 * step as i64;
        let number = if first <= last { first + far } else { first - far };
        match u8::try_from(number) {
            Ok(byte) if is_letters => char::from(byte).to_string(),
            _ => format!("{number:0width$}"),
        }
    };
    Ok(Some((0..count).map(name).collect()))
}

fn too_many() -> String {
    format!("stands for more than {MOST} names")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> String {
        expand(text).unwrap().join(" ")
    }

    #[test]
    fn lists_and_ranges_are_those_of_braceexpand() {
        assert_eq!(
            all("train-{000008..000011}.tar"),
            "train-000008.tar train-000009.tar train-000010.tar train-000011.tar"
        );
        assert_eq!(all("{8..11}"), "8 9 10 11");
        assert_eq!(all("{3..1}"), "3 2 1");
        assert_eq!(all("{00..10..5} {a..c}"), "00 a 00 b 00 c 05 a 05 b 05 c 10 a 10 b 10 c");
        assert_eq!(all("{train,val}-{0..1}.tar"), "train-0.tar train-1.tar val-0.tar val-1.tar");
        assert_eq!(all("{a{1,2},b}"), "a1 a2 b");
        assert_eq!(all("{-1..1}{,x}"), "-1 -1x 0 0x 1 1x");
    }

    #[test]
    fn other_braces_are_themselves() {
        for text in ["", "a", "a{b", "a}b", "{}", "{a}", "{1..}", "{1..b}", "{0..1e9}", "}{"] {
            assert_eq!(expand(text).unwrap(), [text], "{text}");
            assert_eq!(split(text), None, "{text}");
        }
        assert_eq!(all("{a{1..2}}"), "{a1} {a2}");
        assert_eq!(all("{x {1..2}"), "{x 1 {x 2");
    }

    #[test]
    fn there_are_limits() {
        assert_eq!(expand("{0..100000}").unwrap_err(), "stands for more than 100000 names");
        assert_eq!(expand("{1..1000}{1..1000}").unwrap_err(), "stands for more than 100000 names");
        assert!(expand("{-9223372036854775808..9223372036854775807}").is_err());
        assert_eq!(expand(&"{".repeat(17)).unwrap_err(), "has more than 16 braces");
        assert_eq!(expand("{9223372036854775806..9223372036854775807}").unwrap().len(), 2);
    }

    #[test]
    fn a_path_is_split_before_its_first_brace() {
        let of = |text: &str| of_path(Path::new(text)).map(|found| found.map(|(folder, names)| (folder, names.len())));
        assert_eq!(of("/data/train-{0..3}.tar"), Some(Ok(("/data".into(), 4))));
        assert_eq!(of("data/{a,b}/x-{0..3}.tar"), Some(Ok(("data".into(), 8))));
        assert_eq!(of("/{0..1}"), Some(Ok(("/".into(), 2))));
        assert_eq!(of("x-{0..1}"), Some(Ok(("".into(), 2))));
        assert_eq!(of("data/x.tar"), None);
        assert!(of("data/{a,..}/x").is_some_and(|found| found.is_err()));
        assert!(of("data/{/a,b}").is_some_and(|found| found.is_err()));
    }
}
