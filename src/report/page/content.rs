//! What a report page contains, as data. Knows neither HTML nor where the numbers come from.

use crate::chart::Chart;
use crate::sheet::{Cell, Sheet};

/// A page, in the order in which its parts are shown; empty parts are left out.
#[derive(Default)]
pub struct Page {
    pub title: String,
    /// What the page is about, in one sentence.
    pub lead: String,
    /// When it was written, in UTC.
    pub written: String,
    /// Seconds between reloads of a page that is written again and again.
    pub reload: Option<u64>,
    /// What the page lacks and why.
    pub notes: Vec<String>,
    pub failures: Vec<Trouble>,
    pub headline: Vec<Headline>,
    pub galleries: Vec<Gallery>,
    pub curves: Vec<CurveGroup>,
    /// Results over numbers in the names of stages, or over an axis.
    pub charts: Vec<Titled<Chart>>,
    pub results: Vec<Table>,
    pub differences: Option<Table>,
    pub graph: Graph,
    pub time_line: Option<TimeLine>,
    pub costs: Vec<Table>,
    pub stages: Vec<StageDetail>,
    /// Name and value: versions, machine, commit, command line.
    pub provenance: Vec<(String, String)>,
    pub again: Again,
}

pub struct Titled<T> {
    pub title: String,
    pub content: T,
}

/// A stage, or a run, that failed.
pub struct Trouble {
    /// Its stage, which may have a [`StageDetail`].
    pub stage: String,
    pub message: String,
    /// Place, causes and hints, a line each.
    pub lines: Vec<String>,
    /// The end of its log.
    pub log: Vec<String>,
}

/// A number that people look for first.
pub struct Headline {
    pub name: String,
    pub value: String,
    /// Where it comes from, or what it is compared with.
    pub note: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Has its results.
    Good,
    Bad,
    /// At work.
    Busy,
    /// Not run, stale or suspended.
    Open,
}

impl Tone {
    /// The class of its elements in the style sheet.
    pub fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Busy => "busy",
            Self::Open => "open",
        }
    }
}

/// A state in a few words, and how it is coloured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub word: String,
    pub tone: Tone,
}

/// Pictures of one kind: over steps, and of several trials side by side.
pub struct Gallery {
    pub title: String,
    pub series: Vec<Series>,
}

pub struct Series {
    /// Trial or side; empty if there is one only.
    pub label: String,
    /// By step.
    pub pictures: Vec<Picture>,
}

pub struct Picture {
    pub step: Option<u64>,
    /// The file in the page itself, as a `data:` address.
    pub address: String,
}

/// The curves of one stage: a chart for each metric.
pub struct CurveGroup {
    pub title: String,
    pub charts: Vec<Titled<Chart>>,
}

pub struct Table {
    /// Names the file of its copy, and the table in the page.
    pub id: &'static str,
    pub title: String,
    pub sheet: Sheet,
}

/// Stages and their connections.
#[derive(Default)]
pub struct Graph {
    pub nodes: Vec<Node>,
    /// From and to, as indices of `nodes`.
    pub edges: Vec<(usize, usize)>,
}

pub struct Node {
    pub name: String,
    /// Below its name: its kind and time.
    pub note: String,
    pub state: State,
    /// Whether there is a [`StageDetail`] of its name.
    pub has_detail: bool,
}

/// When the stages of a run were at work.
pub struct TimeLine {
    pub title: String,
    /// Length of the run in seconds.
    pub seconds: f64,
    pub bars: Vec<Bar>,
}

pub struct Bar {
    pub name: String,
    pub from: f64,
    pub to: f64,
    pub state: State,
    pub has_detail: bool,
}

/// Everything about one stage.
pub struct StageDetail {
    pub name: String,
    pub kind: String,
    pub state: State,
    /// Name and value: time, memory, key, machine.
    pub facts: Vec<(String, String)>,
    /// Name, value, and where it was set.
    pub params: Vec<[String; 3]>,
    /// Name, type, size and digest.
    pub outputs: Vec<[String; 4]>,
    pub results: Vec<(String, String)>,
}

/// How to get the same again.
#[derive(Default)]
pub struct Again {
    pub commands: Vec<String>,
    pub notes: Vec<String>,
    /// Files of the pipeline, with their texts.
    pub files: Vec<(String, String)>,
}

impl Page {
    /// Every text of the page that comes from a user or a machine, for those that leave something
    /// out of all of them. Addresses of pictures are none.
    pub fn each_text(&mut self, change: &mut dyn FnMut(&mut String)) {
        [&mut self.title, &mut self.lead].into_iter().for_each(&mut *change);
        self.notes.iter_mut().for_each(&mut *change);
        for trouble in &mut self.failures {
            [&mut trouble.stage, &mut trouble.message].into_iter().for_each(&mut *change);
            trouble.lines.iter_mut().chain(&mut trouble.log).for_each(&mut *change);
        }
        for headline in &mut self.headline {
            [&mut headline.name, &mut headline.value, &mut headline.note].into_iter().for_each(&mut *change);
        }
        for gallery in &mut self.galleries {
            change(&mut gallery.title);
            gallery.series.iter_mut().for_each(|series| change(&mut series.label));
        }
        for group in &mut self.curves {
            change(&mut group.title);
            group.charts.iter_mut().for_each(|chart| texts_of(chart, change));
        }
        self.charts.iter_mut().for_each(|chart| texts_of(chart, change));
        for table in self.results.iter_mut().chain(&mut self.differences).chain(&mut self.costs) {
            change(&mut table.title);
            table.sheet.columns.iter_mut().for_each(|column| change(&mut column.title));
            for cell in table.sheet.rows.iter_mut().flatten() {
                match cell {
                    Cell::Text(text) => change(text),
                    Cell::Value(value, text) => {
                        if let serde_json::Value::String(value) = value {
                            change(value);
                        }
                        change(text);
                    }
                    _ => {}
                }
            }
        }
        for node in &mut self.graph.nodes {
            [&mut node.name, &mut node.note, &mut node.state.word].into_iter().for_each(&mut *change);
        }
        if let Some(line) = &mut self.time_line {
            change(&mut line.title);
            line.bars.iter_mut().for_each(|bar| change(&mut bar.name));
        }
        for stage in &mut self.stages {
            [&mut stage.name, &mut stage.kind, &mut stage.state.word].into_iter().for_each(&mut *change);
            stage.facts.iter_mut().chain(&mut stage.results).for_each(|(name, value)| {
                change(name);
                change(value);
            });
            stage.params.iter_mut().flatten().chain(stage.outputs.iter_mut().flatten()).for_each(&mut *change);
        }
        self.provenance.iter_mut().for_each(|(_, value)| change(value));
        self.again.commands.iter_mut().chain(&mut self.again.notes).for_each(&mut *change);
        for (name, text) in &mut self.again.files {
            change(name);
            change(text);
        }
    }
}

fn texts_of(chart: &mut Titled<Chart>, change: &mut dyn FnMut(&mut String)) {
    change(&mut chart.title);
    [&mut chart.content.x_title, &mut chart.content.note].into_iter().for_each(&mut *change);
    for panel in &mut chart.content.panels {
        change(&mut panel.title);
        panel.lines.iter_mut().for_each(|line| change(&mut line.name));
    }
}
