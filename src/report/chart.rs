//! Line charts as SVG: panels side by side, lines with a band of one standard deviation. Grey and
//! mid-toned colours without a background, so that one file suits light and dark pages. Knows
//! nothing of what the numbers mean.

use super::chart_scale::Scale;
use super::text::number;
use erw_base::svg::Svg;

/// Panels that share their x axis and their lines.
pub struct Chart {
    pub x_title: String,
    pub panels: Vec<Panel>,
    /// A line of text below the chart.
    pub note: String,
}

pub struct Panel {
    pub title: String,
    pub lines: Vec<Line>,
}

pub struct Line {
    pub name: String,
    /// Sorted by x.
    pub points: Vec<Point>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub x: f64,
    pub mean: f64,
    /// Half the height of the band; 0 for none.
    pub sd: f64,
}

const GREY: &str = "#808890";
/// Distinguishable with the common forms of colour blindness, and visible on black and on white.
const COLOURS: [&str; 6] = ["#3b82d0", "#dd7a2a", "#2f9e6e", "#b05fc0", "#b8971f", "#d0505f"];
/// The width of a panel with its labels, in pixels.
const WIDTH: f64 = 400.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
/// Top and bottom of a panel's frame.
const TOP: f64 = 62.0;
const BOTTOM: f64 = 272.0;
const HEIGHT: f64 = 336.0;
/// The approximate width of a character.
const CHARACTER: f64 = 6.8;

impl Chart {
    /// The chart as SVG, with a newline at the end.
    pub fn svg(&self) -> String {
        let width = WIDTH * self.panels.len().max(1) as f64;
        let mut svg = Svg::new(width, HEIGHT, 12, Some(GREY));
        self.legend(&mut svg, width);
        for (i, panel) in self.panels.iter().enumerate() {
            self.panel(&mut svg, panel, WIDTH * i as f64);
        }
        label(&mut svg, width / 2.0, BOTTOM + 36.0, "middle", &self.x_title);
        label(&mut svg, width / 2.0, BOTTOM + 56.0, "middle", &self.note);
        svg.finish()
    }

    /// The names of all lines, once each; a line has one colour in all panels.
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = vec![];
        for line in self.panels.iter().flat_map(|p| &p.lines) {
            if !names.contains(&line.name.as_str()) {
                names.push(&line.name);
            }
        }
        names
    }

    fn colour(&self, name: &str) -> &'static str {
        let at = self.names().iter().position(|n| *n == name).unwrap_or(0);
        COLOURS[at % COLOURS.len()]
    }

    fn legend(&self, svg: &mut Svg, width: f64) {
        let names = self.names();
        let wide = |name: &str| 44.0 + CHARACTER * name.chars().count() as f64;
        let mut x = (width - names.iter().map(|n| wide(n)).sum::<f64>()).max(0.0) / 2.0;
        for name in names {
            let colour = self.colour(name);
            svg.draw(format_args!(
                "<path d=\"M{x:.1} 14h20\" stroke=\"{colour}\" stroke-width=\"2\"/>\
                 <circle cx=\"{:.1}\" cy=\"14\" r=\"3\" fill=\"{colour}\"/>",
                x + 10.0
            ));
            label(svg, x + 26.0, 18.0, "start", name);
            x += wide(name);
        }
    }

    fn panel(&self, svg: &mut Svg, panel: &Panel, offset: f64) {
        let all = || panel.lines.iter().flat_map(|l| &l.points);
        let (left, right) = (offset + LEFT, offset + WIDTH - RIGHT);
        let x = Scale::linear(all().map(|p| p.x), left + 8.0, right - 8.0);
        let y = Scale::fitting(all().flat_map(|p| [p.mean - p.sd, p.mean, p.mean + p.sd]), BOTTOM - 6.0, TOP + 6.0);
        let title = if y.is_log() { format!("{} (log scale)", panel.title) } else { panel.title.clone() };
        label(svg, f64::midpoint(left, right), TOP - 14.0, "middle", &title);
        for tick in y.ticks() {
            let at = y.at(tick);
            svg.draw(format_args!("<path d=\"M{left:.1} {at:.1}H{right:.1}\" stroke=\"{GREY}\" opacity=\"0.25\"/>"));
            label(svg, left - 6.0, at + 4.0, "end", &number(Some(tick)));
        }
        for tick in x.ticks() {
            let at = x.at(tick);
            svg.draw(format_args!("<path d=\"M{at:.1} {BOTTOM}v4\" stroke=\"{GREY}\"/>"));
            label(svg, at, BOTTOM + 18.0, "middle", &number(Some(tick)));
        }
        svg.draw(format_args!("<path d=\"M{left:.1} {TOP}V{BOTTOM}H{right:.1}\" fill=\"none\" stroke=\"{GREY}\"/>"));
        panel.lines.iter().for_each(|line| curve(svg, line, self.colour(&line.name), &x, &y));
    }
}

/// Band, line and dots.
fn curve(svg: &mut Svg, line: &Line, colour: &str, x: &Scale, y: &Scale) {
    let place = |p: &Point, value: f64| format!("{:.1},{:.1}", x.at(p.x), y.at(value));
    let joined = |places: Vec<String>| places.join(" ");
    if line.points.iter().any(|p| p.sd > 0.0) {
        let upper = line.points.iter().map(|p| place(p, p.mean + p.sd));
        let lower = line.points.iter().rev().map(|p| place(p, p.mean - p.sd));
        let band = joined(upper.chain(lower).collect());
        svg.draw(format_args!("<polygon points=\"{band}\" fill=\"{colour}\" opacity=\"0.18\"/>"));
    }
    let means = joined(line.points.iter().map(|p| place(p, p.mean)).collect());
    svg.draw(format_args!("<polyline points=\"{means}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"));
    for p in &line.points {
        let (x, y) = (x.at(p.x), y.at(p.mean));
        svg.draw(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"));
    }
}

fn label(svg: &mut Svg, x: f64, y: f64, anchor: &str, words: &str) {
    svg.text(format_args!("{x:.1}"), format_args!("{y:.1}"), anchor, None, words);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(sd: f64) -> String {
        let point = |x: f64, mean: f64| Point { x, mean, sd };
        let line =
            |name: &str, by: f64| Line { name: name.into(), points: vec![point(0.0, by), point(10.0, 2.0 * by)] };
        let panels = vec![
            Panel { title: "fd".into(), lines: vec![line("a", 1.0), line("b<c", 2.0)] },
            Panel { title: "accuracy".into(), lines: vec![line("b<c", 0.1)] },
        ];
        Chart { x_title: "steps".into(), panels, note: "mean".into() }.svg()
    }

    #[test]
    fn a_line_has_one_colour_and_stands_where_its_numbers_are() {
        let svg = chart(0.0);
        // fd runs from 1 to 4, and b ends at 4: at the top.
        assert!(svg.contains("<polyline points=\"64.0,266.0 376.0,200.0\" fill=\"none\" stroke=\"#3b82d0\""), "{svg}");
        assert!(svg.contains("<polyline points=\"64.0,200.0 376.0,68.0\" fill=\"none\" stroke=\"#dd7a2a\""), "{svg}");
        assert!(svg.contains("<polyline points=\"464.0,266.0 776.0,68.0\" fill=\"none\" stroke=\"#dd7a2a\""), "{svg}");
        assert_eq!(svg.matches("b&lt;c").count(), 1, "the legend names it once");
        for word in ["fd", "accuracy", "steps", "mean", "10"] {
            assert!(svg.contains(&format!(">{word}</text>")), "{word}");
        }
        assert!(!svg.contains("<polygon"), "one seed has no band");
    }

    #[test]
    fn a_band_goes_there_above_and_back_below() {
        let svg = chart(0.5);
        // From 0.5 to 4.5 in 198 pixels; `a` runs from 1 to 2.
        let band = "points=\"64.0,216.5 376.0,167.0 376.0,216.5 64.0,266.0\"";
        assert!(svg.contains(&format!("<polygon {band} fill=\"#3b82d0\"")), "{svg}");
        assert_eq!(svg.matches("<polygon").count(), 3);
    }
}
