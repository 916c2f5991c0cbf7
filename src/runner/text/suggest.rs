//! Suggestions for messages: the nearest valid name, and lists of names. Does not know what they
//! name.

/// The candidate nearest to `word`, if it is similar enough.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .map(|c| (strsim::jaro_winkler(&lower, &c.to_lowercase()), strsim::damerau_levenshtein(&lower, c), c))
        .filter(|(likeness, edits, c)| *likeness >= 0.82 || *edits <= 1.max(c.len() / 4))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, _, c)| c)
}

/// "did you mean `x`?", or else the list of candidates: "the stages are `a`, `b`" with `otherwise`
/// in front.
pub fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>, otherwise: &str) -> Option<String> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if let Some(name) = nearest(word, candidates.iter().copied()) {
        return Some(format!("did you mean `{name}`?"));
    }
    (!candidates.is_empty()).then(|| format!("{otherwise} {}", ticked(candidates)))
}

/// "`a`, `b`, `c`"; long lists end with their count.
pub fn ticked<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 24;
    let names: Vec<String> = names.into_iter().map(|n| format!("`{n}`")).collect();
    match names.len() {
        n if n > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        assert_eq!(nearest("warm_steps", ["warmup_steps", "lr"]), Some("warmup_steps"));
        assert_eq!(nearest("latens", ["features", "latents"]), Some("latents"));
        assert_eq!(nearest("Steps", ["steps"]), Some("steps"));
        assert_eq!(nearest("frobnicate", ["steps", "lr"]), None);
    }

    #[test]
    fn without_a_near_name_all_are_listed() {
        assert_eq!(hint("q", ["steps", "lr"], "its parameters are").unwrap(), "its parameters are `steps`, `lr`");
        assert_eq!(hint("q", [], "its parameters are"), None);
    }
}
