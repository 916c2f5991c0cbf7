//! Names of stages in a page: as the ids of their parts, and shortened to the room of a picture.

/// The id of a stage's part of the page. Ids are free of white space; anything else is allowed.
pub fn anchor(stage: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.@=,".contains(c) { c } else { '_' };
    format!("stage-{}", stage.chars().map(plain).collect::<String>())
}

/// A text of at most so many characters.
pub fn label(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
        false => text.into(),
    }
}
