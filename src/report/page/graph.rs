//! The stages of a pipeline as a picture: levels from left to right, each stage a box that links to
//! its part of the page. Within a level, stages are ordered by the mean place of what they are
//! connected with, which avoids most crossings (Sugiyama, Tagawa and Toda 1981). An edge over
//! several levels gets a place in each, so that it runs around the boxes.

use super::content::{Graph, Node};
use super::names::{anchor, label};
use maud::{Markup, html};
use std::collections::BTreeMap;

/// Above this many stages a picture helps nobody.
pub const MOST: usize = 150;
const WIDTH: f64 = 168.0;
const HEIGHT: f64 = 44.0;
const GAP: f64 = 44.0;
/// Between two boxes, and between the places of long edges.
const SPACE: f64 = 14.0;
const ROUNDS: usize = 12;
/// Characters that fit into a box.
const FITS: usize = 22;

/// A place in a level: a box, or a point that an edge runs through.
struct Place {
    level: usize,
    node: Option<usize>,
    y: f64,
}

struct Layout {
    places: Vec<Place>,
    /// Pairs of places in neighbouring levels, with the edge they are part of.
    links: Vec<(usize, usize)>,
    /// The places of each edge, from its start to its end.
    paths: Vec<Vec<usize>>,
    levels: Vec<Vec<usize>>,
}

impl Layout {
    fn of(graph: &Graph) -> Self {
        let level = levels(graph);
        let mut places: Vec<Place> =
            (0..graph.nodes.len()).map(|i| Place { level: level[i], node: Some(i), y: 0.0 }).collect();
        let (mut links, mut paths) = (vec![], vec![]);
        for (from, to) in &graph.edges {
            let mut path = vec![*from];
            for between in level[*from] + 1..level[*to] {
                places.push(Place { level: between, node: None, y: 0.0 });
                path.push(places.len() - 1);
            }
            path.push(*to);
            links.extend(path.windows(2).map(|pair| (pair[0], pair[1])));
            paths.push(path);
        }
        let depth = level.iter().max().map_or(0, |most| most + 1);
        let mut levels = vec![vec![]; depth];
        places.iter().enumerate().for_each(|(i, place)| levels[place.level].push(i));
        let mut layout = Self { places, links, paths, levels };
        layout.order();
        layout
    }

    /// Orders levels by the mean place of their neighbours, from left to right and back.
    fn order(&mut self) {
        (0..self.levels.len()).for_each(|level| self.stack(level));
        let mut before: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut after: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (from, to) in &self.links {
            before.entry(*to).or_default().push(*from);
            after.entry(*from).or_default().push(*to);
        }
        for round in 0..ROUNDS {
            let forward = round % 2 == 0;
            let neighbours = if forward { &before } else { &after };
            let count = self.levels.len();
            for step in 0..count {
                let level = if forward { step } else { count - 1 - step };
                let wish = |place: &usize| match neighbours.get(place) {
                    Some(all) => all.iter().map(|n| self.places[*n].y).sum::<f64>() / all.len() as f64,
                    None => self.places[*place].y,
                };
                let mut wishes: Vec<(f64, usize)> = self.levels[level].iter().map(|p| (wish(p), *p)).collect();
                wishes.sort_by(|a, b| a.0.total_cmp(&b.0));
                self.levels[level] = wishes.iter().map(|(_, place)| *place).collect();
                self.settle(level, &wishes);
            }
        }
        // The least is at the top.
        let top = self.places.iter().map(|p| p.y - self.half(p)).fold(f64::INFINITY, f64::min);
        self.places.iter_mut().for_each(|p| p.y -= top);
    }

    fn half(&self, place: &Place) -> f64 {
        if place.node.is_some() { HEIGHT / 2.0 } else { SPACE / 4.0 }
    }

    /// One below the other.
    fn stack(&mut self, level: usize) {
        let mut y = 0.0;
        for place in self.levels[level].clone() {
            let half = self.half(&self.places[place]);
            self.places[place].y = y + half;
            y += 2.0 * half + SPACE;
        }
    }

    /// As near to their wishes as their order and the space between them allow: pushed down from
    /// above, then the whole level moved by the mean of what it was pushed.
    fn settle(&mut self, level: usize, wishes: &[(f64, usize)]) {
        let mut least = f64::NEG_INFINITY;
        let mut moved = 0.0;
        for (wish, place) in wishes {
            let half = self.half(&self.places[*place]);
            let y = wish.max(least + half);
            moved += y - wish;
            self.places[*place].y = y;
            least = y + half + SPACE;
        }
        let mean = moved / wishes.len().max(1) as f64;
        self.levels[level].clone().into_iter().for_each(|place| self.places[place].y -= mean);
    }
}

/// The length of the longest path to each node. Edges of a circle, which no pipeline has, count for
/// nothing.
fn levels(graph: &Graph) -> Vec<usize> {
    let mut level = vec![0; graph.nodes.len()];
    for _ in 0..graph.nodes.len() {
        let mut changed = false;
        for (from, to) in &graph.edges {
            if level[*to] <= level[*from] {
                level[*to] = level[*from] + 1;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    level
}

/// The picture; nothing of a graph that is too large.
pub fn picture(graph: &Graph) -> Option<Markup> {
    if graph.nodes.is_empty() || graph.nodes.len() > MOST {
        return None;
    }
    let layout = Layout::of(graph);
    let x = |level: usize| 2.0 + level as f64 * (WIDTH + GAP);
    let width = x(layout.levels.len()) - GAP + 2.0;
    let height = layout.places.iter().map(|p| p.y + HEIGHT / 2.0).fold(0.0, f64::max) + 4.0;
    let edge = |path: &Vec<usize>| {
        let mut d = String::new();
        for (i, pair) in path.windows(2).enumerate() {
            let (from, to) = (&layout.places[pair[0]], &layout.places[pair[1]]);
            let (left, right) = (x(from.level) + WIDTH, x(to.level));
            let (a, b) = (from.y + 2.0, to.y + 2.0);
            if i == 0 {
                d.push_str(&format!("M{left:.0} {a:.0}"));
            } else {
                d.push_str(&format!("H{left:.0}"));
            }
            let middle = f64::midpoint(left, right);
            d.push_str(&format!("C{middle:.0} {a:.0} {middle:.0} {b:.0} {right:.0} {b:.0}"));
        }
        d
    };
    let boxes = layout.places.iter().filter_map(|place| Some((place, graph.nodes.get(place.node?)?)));
    Some(html! {
        svg.graph viewBox=(format!("0 0 {width:.0} {height:.0}")) width=(format!("{width:.0}"))
            height=(format!("{height:.0}")) role="group" aria-label="stages and their connections" {
            @for path in &layout.paths { path.edge d=(edge(path)) fill="none" {} }
            @for (place, node) in boxes { (stage(node, x(place.level), place.y + 2.0 - HEIGHT / 2.0)) }
        }
    })
}

fn stage(node: &Node, x: f64, y: f64) -> Markup {
    let told = format!("{}, {}: {}", node.name, node.note, node.state.word);
    let inner = html! {
        title { (told) }
        rect.stage.(node.state.tone.class()) x=(format!("{x:.0}")) y=(format!("{y:.0}")) width=(WIDTH) height=(HEIGHT) rx="6" {}
        text x=(format!("{:.0}", x + 10.0)) y=(format!("{:.0}", y + 18.0)) font-weight="600" { (label(&node.name, FITS)) }
        text.soft x=(format!("{:.0}", x + 10.0)) y=(format!("{:.0}", y + 35.0)) font-size="12" { (label(&node.note, FITS + 3)) }
    };
    html! {
        @if node.has_detail { a href=(format!("#{}", anchor(&node.name))) aria-label=(told) { (inner) } }
        @else { g role="img" aria-label=(told) { (inner) } }
    }
}

#[cfg(test)]
mod tests {
    use super::super::content::{State, Tone};
    use super::*;

    fn graph(edges: &[(usize, usize)], count: usize) -> Graph {
        let state = State { word: "cached".into(), tone: Tone::Good };
        let node =
            |i: usize| Node { name: format!("s{i}"), note: "kind".into(), state: state.clone(), has_detail: i == 0 };
        Graph { nodes: (0..count).map(node).collect(), edges: edges.to_vec() }
    }

    #[test]
    fn boxes_of_a_level_do_not_overlap_and_inputs_are_to_the_left() {
        // Two chains that share their start and end, and an edge over all levels.
        let graph = graph(&[(0, 1), (1, 3), (0, 2), (2, 4), (3, 5), (4, 5), (0, 5), (0, 6)], 7);
        let layout = Layout::of(&graph);
        for (from, to) in &graph.edges {
            assert!(layout.places[*from].level < layout.places[*to].level);
        }
        for level in &layout.levels {
            let mut boxes: Vec<(f64, f64)> =
                level.iter().map(|p| (layout.places[*p].y, layout.half(&layout.places[*p]))).collect();
            boxes.sort_by(|a, b| a.0.total_cmp(&b.0));
            for pair in boxes.windows(2) {
                assert!(pair[0].0 + pair[0].1 < pair[1].0 - pair[1].1, "{boxes:?}");
            }
        }
        let text = picture(&graph).unwrap().into_string();
        assert_eq!(text.matches("<rect").count(), 7);
        assert_eq!(text.matches("<path").count(), 8);
        assert!(text.contains("href=\"#stage-s0\"") && !text.contains("href=\"#stage-s1\""));
    }

    #[test]
    fn a_circle_ends_and_a_crowd_is_not_drawn() {
        assert!(picture(&graph(&[(0, 1), (1, 0)], 2)).is_some());
        assert!(picture(&graph(&[], MOST + 1)).is_none());
    }
}
