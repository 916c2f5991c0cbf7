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
    /// In the legend. Empty for the only line of a chart, which needs none.
    pub name: String,
    /// Sorted by x.
    pub points: Vec<Point>,
    /// One of many behind the others: thin, grey, and not in the legend.
    pub faint: bool,
}

/// A line of a legend.
pub struct Entry {
    pub name: String,
    /// Which of the named lines it is: two may have one name.
    pub line: usize,
    /// An index of [`COLOURS`].
    pub colour: usize,
    /// The last value.
    pub value: String,
}

/// How the y axis is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// Logarithmic if the numbers are far apart.
    Fitting,
    Linear,
    Logarithmic,
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
pub const COLOURS: [&str; 6] = ["#3b82d0", "#dd7a2a", "#2f9e6e", "#b05fc0", "#b8971f", "#d0505f"];
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
/// Lines of more points have no dots, which would touch.
const DOTTED: usize = 40;

impl Chart {
    /// The chart as a file, with a newline at the end.
    pub fn svg(&self) -> String {
        self.drawing(Scaling::Fitting, false).finish()
    }

    /// The chart as a part of a page: with its values as data, without its [`legend`](Self::legend),
    /// and hidden from screen readers, which read that. `None`: a value has no logarithm.
    pub fn drawn(&self, scaling: Scaling) -> Option<String> {
        let mut points = self.lines().flat_map(|l| &l.points).peekable();
        let fits = points.peek().is_some() && points.all(|p| p.mean > 0.0 && p.mean - p.sd > 0.0);
        let drawing = || self.drawing(scaling, true).finish().replacen("<svg ", "<svg aria-hidden=\"true\" ", 1);
        (scaling != Scaling::Logarithmic || fits).then(drawing)
    }

    /// What the lines of a page's chart are, and where they end.
    pub fn legend(&self) -> Vec<Entry> {
        let entry = |(at, line): (usize, &Line)| {
            let last = line.points.last()?;
            let sd = if last.sd > 0.0 { format!(" ± {}", number(Some(last.sd))) } else { String::new() };
            let value = format!("{}{sd}", number(Some(last.mean)));
            Some(Entry { name: line.name.clone(), line: at, colour: self.colour(&line.name), value })
        };
        self.lines().filter(|l| !l.faint).enumerate().filter_map(entry).collect()
    }

    fn lines(&self) -> impl Iterator<Item = &Line> {
        self.panels.iter().flat_map(|p| &p.lines)
    }

    fn drawing(&self, scaling: Scaling, with_data: bool) -> Svg {
        let width = WIDTH * self.panels.len().max(1) as f64;
        let mut svg = Svg::new(width, HEIGHT, 12, Some(GREY));
        if !with_data {
            self.names_above(&mut svg, width);
        }
        let mut first = 0;
        for (i, panel) in self.panels.iter().enumerate() {
            self.panel(&mut svg, panel, WIDTH * i as f64, scaling, with_data.then_some(first));
            first += panel.lines.iter().filter(|l| !l.faint).count();
        }
        label(&mut svg, width / 2.0, BOTTOM + 36.0, "middle", &self.x_title);
        label(&mut svg, width / 2.0, BOTTOM + 56.0, "middle", &self.note);
        svg
    }

    /// The names of all lines, once each; a line has one colour in all panels.
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = vec![];
        for line in self.lines().filter(|l| !l.faint && !l.name.is_empty()) {
            if !names.contains(&line.name.as_str()) {
                names.push(&line.name);
            }
        }
        names
    }

    fn colour(&self, name: &str) -> usize {
        self.names().iter().position(|n| *n == name).unwrap_or(0) % COLOURS.len()
    }

    fn names_above(&self, svg: &mut Svg, width: f64) {
        let names = self.names();
        let wide = |name: &str| 44.0 + CHARACTER * name.chars().count() as f64;
        let mut x = (width - names.iter().map(|n| wide(n)).sum::<f64>()).max(0.0) / 2.0;
        for name in names {
            let colour = COLOURS[self.colour(name)];
            svg.draw(format_args!(
                "<path d=\"M{x:.1} 14h20\" stroke=\"{colour}\" stroke-width=\"2\"/>\
                 <circle cx=\"{:.1}\" cy=\"14\" r=\"3\" fill=\"{colour}\"/>",
                x + 10.0
            ));
            label(svg, x + 26.0, 18.0, "start", name);
            x += wide(name);
        }
    }

    /// `first`: the number of its first line, if the drawing has its values as data.
    fn panel(&self, svg: &mut Svg, panel: &Panel, offset: f64, scaling: Scaling, first: Option<usize>) {
        let all = || panel.lines.iter().flat_map(|l| &l.points);
        let (left, right) = (offset + LEFT, offset + WIDTH - RIGHT);
        let x = Scale::linear(all().map(|p| p.x), left + 8.0, right - 8.0);
        let values = all().flat_map(|p| [p.mean - p.sd, p.mean, p.mean + p.sd]);
        let y = match scaling {
            Scaling::Fitting => Scale::fitting(values, BOTTOM - 6.0, TOP + 6.0),
            Scaling::Linear => Scale::linear(values, BOTTOM - 6.0, TOP + 6.0),
            Scaling::Logarithmic => Scale::logarithmic(values, BOTTOM - 6.0, TOP + 6.0),
        };
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
        panel.lines.iter().filter(|l| l.faint).for_each(|line| behind(svg, line, &x, &y));
        for (i, line) in panel.lines.iter().filter(|l| !l.faint).enumerate() {
            let data = first.map_or_else(String::new, |first| data(line, first + i));
            curve(svg, line, COLOURS[self.colour(&line.name)], &x, &y, &data);
        }
    }
}

/// The number and the values of a line as attributes.
fn data(line: &Line, number_of: usize) -> String {
    let joined =
        |value: fn(&Point) -> f64| line.points.iter().map(|p| number(Some(value(p)))).collect::<Vec<_>>().join(" ");
    format!(" data-line=\"{number_of}\" data-x=\"{}\" data-y=\"{}\"", joined(|p| p.x), joined(|p| p.mean))
}

fn behind(svg: &mut Svg, line: &Line, x: &Scale, y: &Scale) {
    let points = line.points.iter().map(|p| format!("{:.1},{:.1}", x.at(p.x), y.at(p.mean))).collect::<Vec<_>>();
    svg.draw(format_args!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{GREY}\" opacity=\"0.35\"/>",
        points.join(" ")
    ));
}

/// Band, line and dots.
fn curve(svg: &mut Svg, line: &Line, colour: &str, x: &Scale, y: &Scale, data: &str) {
    let place = |p: &Point, value: f64| format!("{:.1},{:.1}", x.at(p.x), y.at(value));
    let joined = |places: Vec<String>| places.join(" ");
    if line.points.iter().any(|p| p.sd > 0.0) {
        let upper = line.points.iter().map(|p| place(p, p.mean + p.sd));
        let lower = line.points.iter().rev().map(|p| place(p, p.mean - p.sd));
        let band = joined(upper.chain(lower).collect());
        svg.draw(format_args!("<polygon points=\"{band}\" fill=\"{colour}\" opacity=\"0.18\"/>"));
    }
    let means = joined(line.points.iter().map(|p| place(p, p.mean)).collect());
    svg.draw(format_args!("<polyline points=\"{means}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{data}/>"));
    for p in line.points.iter().filter(|_| line.points.len() <= DOTTED) {
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

    fn chart(sd: f64) -> Chart {
        let point = |x: f64, mean: f64| Point { x, mean, sd };
        let line = |name: &str, by: f64| Line {
            name: name.into(),
            points: vec![point(0.0, by), point(10.0, 2.0 * by)],
            faint: false,
        };
        let panels = vec![
            Panel { title: "fd".into(), lines: vec![line("a", 1.0), line("b<c", 2.0)] },
            Panel { title: "accuracy".into(), lines: vec![line("b<c", 0.1)] },
        ];
        Chart { x_title: "steps".into(), panels, note: "mean".into() }
    }

    #[test]
    fn a_line_has_one_colour_and_stands_where_its_numbers_are() {
        let svg = chart(0.0).svg();
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
        let svg = chart(0.5).svg();
        // From 0.5 to 4.5 in 198 pixels; `a` runs from 1 to 2.
        let band = "points=\"64.0,216.5 376.0,167.0 376.0,216.5 64.0,266.0\"";
        assert!(svg.contains(&format!("<polygon {band} fill=\"#3b82d0\"")), "{svg}");
        assert_eq!(svg.matches("<polygon").count(), 3);
    }
    #[test]
    fn a_page_gets_values_beside_the_drawing() {
        let chart = chart(0.0);
        let page = chart.drawn(Scaling::Linear).unwrap();
        assert!(page.contains("data-line=\"1\" data-x=\"0 10\" data-y=\"2 4\""), "{page}");
        assert!(!chart.svg().contains("data-"));
        assert!(chart.drawn(Scaling::Logarithmic).unwrap().contains("fd (log scale)"));
        assert!(!page.contains(">a</text>"), "its legend is beside it");
        let legend: Vec<_> = chart.legend().into_iter().map(|e| (e.name, e.line, e.colour, e.value)).collect();
        let entry = |name: &str, line, colour, value: &str| (name.to_string(), line, colour, value.to_string());
        assert_eq!(legend, [entry("a", 0, 0, "2"), entry("b<c", 1, 1, "4"), entry("b<c", 2, 1, "0.2")]);
        let mut with_zero = chart;
        with_zero.panels[0].lines[0].points[0].mean = 0.0;
        assert!(with_zero.drawn(Scaling::Logarithmic).is_none());
    }

    #[test]
    fn lines_behind_have_no_colour_and_no_name() {
        let mut chart = chart(0.0);
        chart.panels[0].lines[0].faint = true;
        let svg = chart.svg();
        assert!(!svg.contains(">a</text>") && svg.contains("stroke=\"#808890\" opacity=\"0.35\""), "{svg}");
    }
}
