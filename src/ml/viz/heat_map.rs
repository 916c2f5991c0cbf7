//! A table of numbers as colours, with its axes, the numbers themselves and a colour bar, as SVG without a background, for
//! light pages and dark ones. Knows nothing of what the numbers mean.

use erw_base::svg::Svg;

#[derive(Debug, Clone)]
pub struct HeatMap {
    pub title: String,
    pub x_title: String,
    pub y_title: String,
    /// Labels.
    pub columns: Vec<String>,
    pub rows: Vec<String>,
    /// `[row][column]`, the first row on top.
    pub values: Vec<Vec<f64>>,
}

/// Pixels.
const CELL: [usize; 2] = [80, 30];
const MARGIN: usize = 12;
const TOP: usize = 66;
const BELOW: usize = 64;
const BAR: usize = 16;
/// Of letters, and the room for one.
const FONT: u32 = 17;
const LETTER: usize = 14;
const ADVANCE: usize = 12;
/// Rectangles that make up the colour bar.
const SHADES: usize = 48;

/// Of labels, which must be read on a light page and on a dark one.
const LABEL: [u8; 3] = [0x80, 0x88, 0x90];
const WHITE: [u8; 3] = [255; 3];
const BLACK: [u8; 3] = [0; 3];
/// Of a number that is none.
const NONE: [u8; 3] = [0xb0; 3];

impl HeatMap {
    /// The picture as text, with a newline at the end.
    pub fn svg(&self) -> String {
        let [cell_width, cell_height] = CELL;
        let longest = self.rows.iter().chain([&self.y_title]).map(|w| room(w)).max().unwrap_or(0);
        let left = MARGIN + longest + 8;
        let (right, bottom) = (left + self.columns.len() * cell_width, TOP + self.rows.len() * cell_height);
        let widest = room(&self.title).max(room(&self.x_title)) + 2 * MARGIN;
        let width = (right + 24 + BAR + 6 + 6 * ADVANCE + MARGIN).max(widest);
        let range = self.range();
        let mut svg = Svg::new(width, bottom + BELOW, FONT, None);
        words(&mut svg, width / 2, MARGIN, "middle", &self.title, LABEL);
        words(&mut svg, left - 8, TOP - 22, "end", &self.y_title, LABEL);
        // Under the middle of the map, or of the picture where it is longer.
        let half = room(&self.x_title) / 2 + MARGIN;
        let middle = usize::midpoint(left, right).clamp(half, (width - half).max(half));
        words(&mut svg, middle, bottom + 38, "middle", &self.x_title, LABEL);
        for (i, label) in self.columns.iter().enumerate() {
            words(&mut svg, left + i * cell_width + cell_width / 2, bottom + 10, "middle", label, LABEL);
        }
        for (i, (label, values)) in self.rows.iter().zip(&self.values).enumerate() {
            let top = TOP + i * cell_height;
            words(&mut svg, left - 8, top + 8, "end", label, LABEL);
            cells(&mut svg, values, [left, top], range);
        }
        bar(&mut svg, right + 24, bottom, range);
        svg.finish()
    }

    /// Least and largest number.
    fn range(&self) -> (f64, f64) {
        let finite = self.values.iter().flatten().filter(|v| v.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
        if low > high { (0.0, 0.0) } else { (low, high) }
    }
}

/// Pixels that words take, about.
fn room(words: &str) -> usize {
    words.chars().count() * ADVANCE
}

fn words(svg: &mut Svg, at: usize, top: usize, anchor: &str, words: &str, colour: [u8; 3]) {
    svg.text(at, top + LETTER - 1, anchor, Some(&hex(colour)), words);
}

fn rectangle(svg: &mut Svg, [left, top]: [usize; 2], [width, height]: [usize; 2], colour: [u8; 3]) {
    let fill = hex(colour);
    svg.draw(format_args!("<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\"/>"));
}

/// A row.
fn cells(svg: &mut Svg, values: &[f64], [left, top]: [usize; 2], range: (f64, f64)) {
    for (i, value) in values.iter().enumerate() {
        let left = left + i * CELL[0];
        let colour = if value.is_finite() { shade(*value, range) } else { NONE };
        rectangle(svg, [left, top], CELL, colour);
        words(svg, left + CELL[0] / 2, top + 8, "middle", &number(*value), readable_on(colour));
    }
}

fn bar(svg: &mut Svg, left: usize, bottom: usize, (low, high): (f64, f64)) {
    let tall = bottom - TOP;
    let edge = |i: usize| TOP + tall * i / SHADES;
    for i in 0..SHADES {
        let colour = colour(1.0 - (i as f64 + 0.5) / SHADES as f64);
        rectangle(svg, [left, edge(i)], [BAR, edge(i + 1) - edge(i)], colour);
    }
    let at = left + BAR + 6;
    words(svg, at, TOP, "start", &number(high), LABEL);
    if tall >= 3 * CELL[1] {
        words(svg, at, TOP + (tall - LETTER) / 2, "start", &number(f64::midpoint(low, high)), LABEL);
    }
    if tall >= 2 * CELL[1] {
        words(svg, at, bottom.saturating_sub(LETTER), "start", &number(low), LABEL);
    }
}

fn number(value: f64) -> String {
    if value.is_finite() { format!("{value:.3}") } else { "none".into() }
}

fn shade(value: f64, (low, high): (f64, f64)) -> [u8; 3] {
    colour(if high > low { (value - low) / (high - low) } else { 0.5 })
}

/// From dark violet over teal to yellow, even in brightness, for 0 to 1.
fn colour(value: f64) -> [u8; 3] {
    const STOPS: [[f64; 3]; 5] =
        [[68., 1., 84.], [59., 82., 139.], [33., 145., 140.], [94., 201., 98.], [253., 231., 37.]];
    let at = value.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let i = (at as usize).min(STOPS.len() - 2);
    let mix = |c: usize| STOPS[i][c] + (STOPS[i + 1][c] - STOPS[i][c]) * (at - i as f64);
    [mix(0) as u8, mix(1) as u8, mix(2) as u8]
}

/// Black or white, by the brightness that the eye gives the colours.
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
        let left = MARGIN + room("row") + 8;
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
        }
        assert!(svg.contains(">A &lt; B</text>") && svg.contains(">time</text>") && svg.contains(">row</text>"));
    }

    #[test]
    fn a_map_of_one_number_is_drawn() {
        // The number and the end of the scale, which has no room for another label.
        for (value, words, times) in [(0.3, ">0.300</text>", 2), (f64::NAN, ">none</text>", 1)] {
            let svg = map(vec![vec![value]]).svg();
            assert_eq!(svg.matches(words).count(), times);
            assert_eq!(svg.matches("<rect ").count(), 1 + SHADES);
        }
    }
}
