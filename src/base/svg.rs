//! SVG as text, an element a line, on no background: one file serves light pages and dark ones.
//! Knows nothing of what is drawn.

use std::fmt::{Arguments, Display, Write};

pub struct Svg(String);

impl Svg {
    /// A picture of so many pixels. `fill` is the colour of what names none.
    pub fn new(width: impl Display, height: impl Display, font_size: u32, fill: Option<&str>) -> Self {
        let fill = attribute("fill", fill);
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"sans-serif\" font-size=\"{font_size}\"{fill}>\n"
        ))
    }

    /// An element as it stands in the file.
    pub fn draw(&mut self, element: Arguments) {
        let _ = writeln!(self.0, "{element}");
    }

    /// Words that start, end or have their middle at x, with their base line at y.
    pub fn text(&mut self, x: impl Display, y: impl Display, anchor: &str, fill: Option<&str>, words: &str) {
        if words.is_empty() {
            return;
        }
        let (words, fill) = (escaped(words), attribute("fill", fill));
        self.draw(format_args!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\"{fill}>{words}</text>"));
    }

    /// The whole file.
    pub fn finish(self) -> String {
        self.0 + "</svg>\n"
    }
}

/// A text that is no markup, in an element or in an attribute. Control characters, which XML does
/// not know, become spaces.
pub fn escaped(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn attribute(name: &str, value: Option<&str>) -> String {
    value.map_or_else(String::new, |value| format!(" {name}=\"{value}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_no_markup() {
        let mut svg = Svg::new(10, 20, 12, None);
        svg.text(1, 2, "start", Some("#000000"), "a < b & c");
        svg.text(1, 2, "end", None, "");
        let text = svg.finish();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1..],
            ["<text x=\"1\" y=\"2\" text-anchor=\"start\" fill=\"#000000\">a &lt; b &amp; c</text>", "</svg>"]
        );
        assert!(lines[0].contains("viewBox=\"0 0 10 20\"") && lines[0].ends_with("font-size=\"12\">"));
    }
}
