//! Heat maps with axes, the values themselves and a colour bar: as PNG, and as SVG without
//! background, for light and dark pages. Both are drawn from one list of rectangles and texts. It
//! does not know what the values mean.

use super::glyphs;
use crate::data::rgb::Rgb;
use erw_base::svg::Svg;

/// A table of values with labels.
#[derive(Debug, Clone)]
pub struct HeatMap {
    pub title: String,
    pub x_title: String,
    pub y_title: String,
    /// Labels of the axes.
    pub columns: Vec<String>,
    pub rows: Vec<String>,
    /// `[row][column]`, the first row at the top.
    pub values: Vec<Vec<f64>>,
}

/// Sizes in pixels.
const CELL: [usize; 2] = [80, 30];
const MARGIN: usize = 12;
const TOP: usize = 66;
const BELOW: usize = 64;
const BAR: usize = 16;
/// Font size of the SVG.
const FONT: u32 = 17;
/// Rectangles in the colour bar.
const SHADES: usize = 48;

/// Label colours: on white, and readable on both light and dark pages.
const ON_WHITE: [u8; 3] = [0x50, 0x58, 0x60];
const ON_ANY: [u8; 3] = [0x80, 0x88, 0x90];
const WHITE: [u8; 3] = [255; 3];
const BLACK: [u8; 3] = [0; 3];
/// Cell colour for a value that is not finite.
const NONE: [u8; 3] = [0xb0; 3];

enum Shape {
    Rectangle {
        left: usize,
        top: usize,
        width: usize,
        height: usize,
        colour: [u8; 3],
    },
    /// Without a colour it is a label.
    Words {
        at: usize,
        top: usize,
        anchor: Anchor,
        words: String,
        colour: Option<[u8; 3]>,
    },
}

#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

/// The shapes and the size of the picture.
struct Layout {
    left: usize,
    width: usize,
    height: usize,
    shapes: Vec<Shape>,
}

impl HeatMap {
    /// The heat map as an image on white.
    pub fn picture(&self) -> Rgb {
        let layout = self.layout();
        let mut picture = Rgb::filled(layout.height, layout.width, WHITE);
        for shape in layout.shapes {
            match shape {
                Shape::Rectangle { left, top, width, height, colour } => picture.fill(top, left, height, width, colour),
                Shape::Words { at, top, anchor, words, colour } => {
                    let width = glyphs::width(&words);
                    let left = match anchor {
                        Anchor::Start => at,
                        Anchor::Middle => at.saturating_sub(width / 2),
                        Anchor::End => at.saturating_sub(width),
                    };
                    glyphs::write(&mut picture, &words, top, left, colour.unwrap_or(ON_WHITE));
                }
            }
        }
        picture
    }

    /// The heat map as SVG text, ending with a newline.
    pub fn svg(&self) -> String {
        let layout = self.layout();
        let mut svg = Svg::new(layout.width, layout.height, FONT, None);
        for shape in &layout.shapes {
            match shape {
                Shape::Rectangle { left, top, width, height, colour } => svg.draw(format_args!(
                    "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"{}\"/>",
                    hex(*colour)
                )),
                Shape::Words { at, top, anchor, words, colour } => {
                    let anchor = match anchor {
                        Anchor::Start => "start",
                        Anchor::Middle => "middle",
                        Anchor::End => "end",
                    };
                    svg.text(at, top + glyphs::LETTER - 1, anchor, Some(&hex(colour.unwrap_or(ON_ANY))), words);
                }
            }
        }
        svg.finish()
    }

    fn layout(&self) -> Layout {
        let [cell_width, cell_height] = CELL;
        let longest = self.rows.iter().chain([&self.y_title]).map(|w| glyphs::width(w)).max().unwrap_or(0);
        let left = MARGIN + longest + 8;
        let (right, bottom) = (left + self.columns.len() * cell_width, TOP + self.rows.len() * cell_height);
        let widest = glyphs::width(&self.title).max(glyphs::width(&self.x_title)) + 2 * MARGIN;
        let width = (right + 24 + BAR + 6 + 6 * glyphs::ADVANCE + MARGIN).max(widest);
        let mut layout = Layout { left, width, height: bottom + BELOW, shapes: vec![] };
        let (low, high) = self.range();
        layout.words(width / 2, MARGIN, Anchor::Middle, &self.title, None);
        layout.words(left - 8, TOP - 22, Anchor::End, &self.y_title, None);
        // Centred under the map, or in the picture if the text is wider.
        let half = glyphs::width(&self.x_title) / 2 + MARGIN;
        let middle = usize::midpoint(left, right).clamp(half, (width - half).max(half));
        layout.words(middle, bottom + 38, Anchor::Middle, &self.x_title, None);
        for (i, label) in self.columns.iter().enumerate() {
            layout.words(left + i * cell_width + cell_width / 2, bottom + 10, Anchor::Middle, label, None);
        }
        for (i, (label, values)) in self.rows.iter().zip(&self.values).enumerate() {
            let top = TOP + i * cell_height;
            layout.words(left - 8, top + 8, Anchor::End, label, None);
            layout.cells(values, top, (low, high));
        }
        layout.bar(right + 24, bottom, (low, high));
        layout
    }

    /// Smallest and largest finite value.
    fn range(&self) -> (f64, f64) {
        let finite = self.values.iter().flatten().filter(|v| v.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
        if low > high { (0.0, 0.0) } else { (low, high) }
    }
}

impl Layout {
    fn words(&mut self, at: usize, top: usize, anchor: Anchor, words: &str, colour: Option<[u8; 3]>) {
        self.shapes.push(Shape::Words { at, top, anchor, words: words.into(), colour });
    }

    fn cells(&mut self, values: &[f64], top: usize, range: (f64, f64)) {
        let [width, height] = CELL;
        for (i, value) in values.iter().enumerate() {
            let left = self.left + i * width;
            let colour = if value.is_finite() { shade(*value, range) } else { NONE };
            self.shapes.push(Shape::Rectangle { left, top, width, height, colour });
            self.words(left + width / 2, top + 8, Anchor::Middle, &number(*value), Some(readable_on(colour)));
        }
    }

    fn bar(&mut self, left: usize, bottom: usize, range: (f64, f64)) {
        let tall = bottom - TOP;
        let edge = |i: usize| TOP + tall * i / SHADES;
        for i in 0..SHADES {
            let colour = colour(1.0 - (i as f64 + 0.5) / SHADES as f64);
            let (top, height) = (edge(i), edge(i + 1) - edge(i));
            self.shapes.push(Shape::Rectangle { left, top, width: BAR, height, colour });
        }
        let at = left + BAR + 6;
        let (low, high) = range;
        self.words(at, TOP, Anchor::Start, &number(high), None);
        if tall >= 3 * CELL[1] {
            self.words(at, TOP + (tall - glyphs::LETTER) / 2, Anchor::Start, &number(f64::midpoint(low, high)), None);
        }
        if tall >= 2 * CELL[1] {
            self.words(at, bottom.saturating_sub(glyphs::LETTER), Anchor::Start, &number(low), None);
        }
    }
}

fn number(value: f64) -> String {
    if value.is_finite() { format!("{value:.3}") } else { "none".into() }
}

fn shade(value: f64, (low, high): (f64, f64)) -> [u8; 3] {
    colour(if high > low { (value - low) / (high - low) } else { 0.5 })
}

/// From dark violet over teal to yellow for 0 to 1, with uniformly increasing brightness.
fn colour(value: f64) -> [u8; 3] {
    const STOPS: [[f64; 3]; 5] =
        [[68., 1., 84.], [59., 82., 139.], [33., 145., 140.], [94., 201., 98.], [253., 231., 37.]];
    let at = value.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let i = (at as usize).min(STOPS.len() - 2);
    let mix = |c: usize| STOPS[i][c] + (STOPS[i + 1][c] - STOPS[i][c]) * (at - i as f64);
    [mix(0) as u8, mix(1) as u8, mix(2) as u8]
}

/// Black or white, by the perceived brightness of the colour.
fn readable_on(colour: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = colour.map(f64::from);
    if 0.299 * r + 0.587 * g + 0.114 * b > 120.0 { BLACK } else { WHITE }
}

fn hex([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(values: Vec<Vec<f64>>) -> HeatMap {
        let labels = |n: usize| (1..=n).map(|i| i.to_string()).collect();
        HeatMap {
            title: "A < B".into(),
            x_title: "time".into(),
            y_title: "row".into(),
            columns: labels(values[0].len()),
            rows: labels(values.len()),
            values,
        }
    }

    #[test]
    fn numbers_stand_on_their_colours() {
        let map = map(vec![vec![0.0, 0.25], vec![f64::NAN, 1.0]]);
        let svg = map.svg();
        let left = MARGIN + glyphs::width("row") + 8;
        for (x, y, colour, words, ink) in [
            (0, 0, "#440154", "0.000", "#ffffff"),
            (80, 0, "#3b528b", "0.250", "#ffffff"),
            (0, 30, "#b0b0b0", "none", "#000000"),
            (80, 30, "#fde725", "1.000", "#000000"),
        ] {
            let (x, y) = (left + x, TOP + y);
            let rect = format!("<rect x=\"{x}\" y=\"{y}\" width=\"80\" height=\"30\" fill=\"{colour}\"/>");
            let text = format!("fill=\"{ink}\">{words}</text>");
            assert!(svg.contains(&format!("{rect}\n<text x=\"{}\"", x + 40)) && svg.contains(&text), "{svg}");
            let picture = map.picture();
            let pixel = ((y + 1) * picture.width + x + 1) * 3;
            assert_eq!(hex(picture.data[pixel..pixel + 3].try_into().unwrap()), colour);
        }
        assert!(svg.contains(">A &lt; B</text>") && svg.contains(">time</text>") && svg.contains(">row</text>"));
    }

    #[test]
    fn a_map_of_one_number_is_drawn() {
        for value in [0.3, f64::NAN] {
            let picture = map(vec![vec![value]]).picture();
            assert!(picture.data.iter().any(|x| *x != 255));
        }
        // Letters are darker than the background, only where the title is.
        let picture = map(vec![vec![0.5; 6]]).picture();
        let inked = |top: usize| picture.data[top * picture.width * 3..][..picture.width * 3].iter().any(|x| *x < 200);
        assert!(inked(MARGIN + 4) && !inked(MARGIN + glyphs::LETTER + 2) && !inked(2));
    }
}
