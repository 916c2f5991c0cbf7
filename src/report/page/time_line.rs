//! When the stages of a run were at work: a bar each, in as few rows as they fit into without
//! overlapping.

use super::content::{Bar, TimeLine};
use super::names::{anchor, label};
use crate::chart_scale::Scale;
use crate::text::duration;
use maud::{Markup, html};

/// Further bars would be thinner than a pixel.
pub const MOST: usize = 1000;
const WIDTH: f64 = 960.0;
const ROW: f64 = 24.0;
const TOP: f64 = 22.0;
/// The approximate width of a character.
const CHARACTER: f64 = 7.0;

pub fn picture(line: &TimeLine) -> Markup {
    let end = line.bars.iter().map(|b| b.to).fold(line.seconds, f64::max).max(1e-3);
    let scale = Scale::linear([0.0, end].into_iter(), 0.0, WIDTH);
    let rows = rows(&line.bars);
    let count = rows.iter().max().map_or(1, |most| most + 1);
    let height = TOP + ROW * count as f64 + 4.0;
    html! {
        svg.time-line viewBox=(format!("0 0 {WIDTH} {height}")) width=(WIDTH) height=(height) role="group"
            aria-label=(line.title) {
            @for tick in scale.ticks() {
                @let at = scale.at(tick);
                path.grid d=(format!("M{at:.1} {TOP}V{height}")) {}
                text.soft x=(format!("{at:.1}")) y="14" font-size="12"
                    text-anchor=(if at < 20.0 { "start" } else if at > WIDTH - 30.0 { "end" } else { "middle" }) {
                    (duration(tick))
                }
            }
            @for (bar, row) in line.bars.iter().zip(&rows) { (drawn(bar, *row, &scale)) }
        }
    }
}

/// The row of each bar: the first that is free.
fn rows(bars: &[Bar]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..bars.len()).collect();
    order.sort_by(|a, b| bars[*a].from.total_cmp(&bars[*b].from));
    let (mut free, mut rows): (Vec<f64>, Vec<usize>) = (vec![], vec![0; bars.len()]);
    for i in order {
        let row = free.iter().position(|until| *until <= bars[i].from).unwrap_or(free.len());
        if row == free.len() {
            free.push(0.0);
        }
        free[row] = bars[i].to;
        rows[i] = row;
    }
    rows
}

fn drawn(bar: &Bar, row: usize, scale: &Scale) -> Markup {
    let (left, y) = (scale.at(bar.from), TOP + ROW * row as f64);
    let width = (scale.at(bar.to) - left).max(2.0);
    let told = format!("{}, {}: {}", bar.name, bar.state.word, duration(bar.to - bar.from));
    let fits = (width / CHARACTER) as usize;
    let inner = html! {
        title { (told) }
        rect.stage.(bar.state.tone.class()) x=(format!("{left:.1}")) y=(format!("{y:.1}"))
            width=(format!("{width:.1}")) height=(ROW - 4.0) rx="3" {}
        @if fits >= 4 {
            text x=(format!("{:.1}", left + 5.0)) y=(format!("{:.1}", y + 14.5)) font-size="12" {
                (label(&bar.name, fits))
            }
        }
    };
    html! {
        @if bar.has_detail { a href=(format!("#{}", anchor(&bar.name))) aria-label=(told) { (inner) } }
        @else { g role="img" aria-label=(told) { (inner) } }
    }
}

#[cfg(test)]
mod tests {
    use super::super::content::{State, Tone};
    use super::*;

    #[test]
    fn bars_at_the_same_time_are_in_different_rows() {
        let bar = |from: f64, to: f64| Bar {
            name: "a".into(),
            from,
            to,
            state: State { word: "ran".into(), tone: Tone::Good },
            has_detail: true,
        };
        let bars = vec![bar(5.0, 6.0), bar(0.0, 3.0), bar(1.0, 4.0), bar(3.0, 9.0)];
        assert_eq!(rows(&bars), [1, 0, 1, 0]);
        let text = picture(&TimeLine { title: "run".into(), seconds: 10.0, bars }).into_string();
        assert!(text.contains("x=\"480.0\" y=\"46.0\" width=\"96.0\""), "{text}");
    }
}
