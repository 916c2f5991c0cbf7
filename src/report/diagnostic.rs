//! Renders an [`Error`]: the message, the place with its line and a caret, the causes, the hints.
//!
//! ```text
//! error: stage `train`: unknown parameter `warm_steps`
//!  --> pipelines/digits.toml:12:1
//!    |
//! 12 | warm_steps = 3
//!    | ^^^^^^^^^^
//! hint: did you mean `warmup_steps`?
//! ```

use super::colour;
use super::text::wrapped;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use erw_base::error::{Error, ErrorKind};
use erw_runner::text::log_lines::shown;
use std::io::Write;

/// The error as text, with a newline at the end; `color` adds terminal escapes.
pub fn render(error: &Error, color: bool) -> String {
    rendered(error, color, usize::MAX)
}

/// The same with causes and hints wrapped at this width.
fn rendered(error: &Error, color: bool, width: usize) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let message = match error.kind {
        ErrorKind::Internal => format!("{} (a bug in erw)", error.message),
        _ => error.message.clone(),
    };
    let message = shown(&message);
    let title = Level::ERROR.primary_title(message);
    let group = match &error.place {
        Some(place) if !place.source.text.is_empty() => {
            let (text, span) = (&place.source.text, place.span());
            let snippet = Snippet::source(text).path(place.source.file.display().to_string());
            let end = span.end.min(text.len());
            // One line is enough: a caret under a whole table would bury the message.
            let start = span.start.min(end);
            let first = text.get(start..end).and_then(|s| s.split('\n').next()).map_or(0, |l| l.trim_end().len());
            title.element(snippet.annotation(AnnotationKind::Primary.span(start..start + first)))
        }
        _ => Group::with_title(title),
    };
    let mut text = renderer.render(&[group]);
    if let Some(place) = error.place.as_ref().filter(|p| p.source.text.is_empty()) {
        text.push_str(&format!("\n --> {}", place.source.file.display()));
    }
    text.push('\n');
    let (bold, cyan, plain) = if color { ("\x1b[1m", "\x1b[1;36m", "\x1b[0m") } else { ("", "", "") };
    // Aligns further lines with the first.
    let indented = |text: &str, label: &str| {
        let indent = label.len() + 2;
        let lines: Vec<String> =
            text.split('\n').flat_map(|line| wrapped(line, width.saturating_sub(indent))).collect();
        lines.join(&format!("\n{}", " ".repeat(indent)))
    };
    for cause in &error.causes {
        text.push_str(&format!("{bold}cause{plain}: {}\n", indented(&shown(cause), "cause")));
    }
    for hint in &error.hints {
        text.push_str(&format!("{cyan}hint{plain}: {}\n", indented(&shown(hint), "hint")));
    }
    text
}

/// Prints the error to standard error.
pub fn print(error: &Error) {
    let stderr = std::io::stderr();
    let width = terminal_size::terminal_size_of(&stderr).map_or(usize::MAX, |(width, _)| width.0.into());
    let text = rendered(error, colour::is_on(&stderr), width);
    // If standard error itself is closed, the failure cannot be reported.
    let _ = stderr.lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use erw_base::error::{Place, Text};

    fn error(text: &str, span: std::ops::Range<usize>) -> Error {
        Error::usage("bad").at(Place::new(&Text::new("p.toml".as_ref(), text), span))
    }

    #[test]
    fn the_caret_stands_under_the_value() {
        let text = "é = \"ü\"\r\nb = 2\r\n";
        let at = text.find('2').unwrap();
        let shown = render(&error(text, at..at + 1).hint("try 3").because("two\nthree"), false);
        assert_eq!(
            shown,
            "error: bad\n --> p.toml:2:5\n  |\n2 | b = 2\n  |     ^\ncause: two\n       three\nhint: try 3\n"
        );
    }

    #[test]
    fn hints_are_wrapped_at_the_width_of_the_terminal() {
        let error = Error::usage("bad").hint("one two three\nfour");
        assert_eq!(rendered(&error, false, 13), "error: bad\nhint: one two\n      three\n      four\n");
        assert_eq!(rendered(&error, false, 0), "error: bad\nhint: one\n      two\n      three\n      four\n");
    }

    #[test]
    fn a_value_of_many_lines_is_shown_by_its_first() {
        let text = "a = [\n  1,\n  2,\n]\n";
        assert!(render(&error(text, 4..text.len() - 1), false).ends_with("1 | a = [\n  |     ^\n"));
    }

    #[test]
    fn spans_outside_the_text_do_no_harm() {
        for span in [7..9, 3..3, 0..0] {
            assert!(render(&error("a=1", span), false).starts_with("error: bad\n"));
        }
        assert_eq!(render(&error("", 0..0), false), "error: bad\n --> p.toml\n");
    }

    #[test]
    fn colour_is_asked_for() {
        let hinted = error("a = 1", 0..1).hint("x");
        assert!(render(&hinted, true).contains("\x1b[") && !render(&hinted, false).contains("\x1b["));
    }
}
