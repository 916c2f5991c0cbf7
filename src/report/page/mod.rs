//! A report as one HTML page that opens anywhere, without a network: style, script and pictures are
//! in it. Its policy allows nothing else (`default-src 'none'`), and the script only what its digest
//! names, so that no name in a pipeline can run anything. Readable without the script.
//!
//! Knows neither caches nor pipelines: [`content`] is what is shown.

pub mod content;
mod gallery;
pub mod graph;
mod names;
mod table;
pub mod time_line;

use crate::chart::{Chart, Scaling};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use content::{Again, CurveGroup, Headline, Page, StageDetail, State, Trouble};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use names::anchor;
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The page as a file.
pub fn render(page: &Page) -> String {
    let policy = format!(
        "default-src 'none'; img-src data:; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'",
        digest(STYLE),
        digest(SCRIPT)
    );
    let parts = parts(page);
    let text = html! {
        (DOCTYPE)
        html lang="en" data-reload=[page.reload] {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                // An icon of its own, else browsers ask for one.
                link rel="icon" href="data:,";
                @if let Some(seconds) = page.reload {
                    noscript { meta http-equiv="refresh" content=(seconds); }
                }
                title { (page.title) " · erw" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (page.title) }
                    p { (ticked(&page.lead)) }
                    p.soft {
                        "Written " (page.written)
                        @if let Some(seconds) = page.reload { ", and again every " (seconds) " s" }
                    }
                    @for note in &page.notes { p.note { (ticked(note)) } }
                    nav aria-label="parts of the page" {
                        ul { @for (id, title, _) in &parts { li { a href=(format!("#{id}")) { (title) } } } }
                    }
                }
                main {
                    @for (id, title, content) in &parts {
                        section id=(id) aria-labelledby=(format!("{id}-title")) {
                            h2 id=(format!("{id}-title")) { (title) }
                            (content)
                        }
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string();
    // What HTML does not know, from names or logs.
    let is_foreign = |c: char| c.is_control() && c != '\n' && c != '\t';
    if text.contains(is_foreign) { text.replace(is_foreign, "\u{fffd}") } else { text }
}

/// The parts that have something to show: id, title and content.
fn parts(page: &Page) -> Vec<(&'static str, &'static str, Markup)> {
    let mut parts = vec![];
    let mut add = |id, title, there: bool, content: &dyn Fn() -> Markup| {
        if there {
            parts.push((id, title, content()));
        }
    };
    add("failures", "What failed", !page.failures.is_empty(), &|| html! { @for f in &page.failures { (trouble(f)) } });
    add("headline", "Results", !page.headline.is_empty(), &|| {
        html! { dl.cards { @for h in &page.headline { (card(h)) } } }
    });
    add("pictures", "Pictures", !page.galleries.is_empty(), &|| {
        html! { div.galleries { @for g in &page.galleries { (gallery::gallery(g)) } } }
    });
    add("charts", "Results as curves", !page.charts.is_empty(), &|| {
        html! { div.charts { @for c in &page.charts { (chart(&c.title, &c.content)) } } }
    });
    add("curves", "Curves", !page.curves.is_empty(), &|| curves(&page.curves));
    add("results", "Table of results", !page.results.is_empty(), &|| {
        html! { @for t in &page.results { (table::table(t)) } }
    });
    add("differences", "What differs", page.differences.is_some(), &|| {
        html! { @if let Some(t) = &page.differences { (table::table(t)) } }
    });
    add("graph", "Stages", !page.graph.nodes.is_empty(), &|| stages_picture(page));
    add("time-line", "Time line", page.time_line.is_some(), &|| {
        html! { @if let Some(line) = &page.time_line {
            h3 { (line.title) }
            (scrolling(&line.title, &time_line::picture(line)))
        } }
    });
    add("costs", "Costs", !page.costs.is_empty(), &|| html! { @for t in &page.costs { (table::table(t)) } });
    add("stages", "Stages in full", !page.stages.is_empty(), &|| html! { @for s in &page.stages { (detail(s)) } });
    add("provenance", "Provenance", !page.provenance.is_empty(), &|| pairs(&page.provenance));
    add("again", "How to get it again", !page.again.commands.is_empty(), &|| again(&page.again));
    parts
}

/// How the policy names a style or a script.
fn digest(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text.as_bytes())))
}

/// The bytes of a picture as an address.
pub fn address(mime: &str, bytes: &[u8]) -> String {
    format!("data:{mime};base64,{}", STANDARD.encode(bytes))
}

/// A message in which names and commands stand between backticks.
fn ticked(text: &str) -> Markup {
    html! { @for (i, part) in text.split('`').enumerate() { @if i % 2 == 1 { code { (part) } } @else { (part) } } }
}

/// Wide content that scrolls by itself, also by keys.
fn scrolling(title: &str, content: &Markup) -> Markup {
    html! { div.scroll tabindex="0" role="region" aria-label=(title) { (content) } }
}

fn trouble(trouble: &Trouble) -> Markup {
    html! {
        article.trouble {
            h3 { a href=(format!("#{}", anchor(&trouble.stage))) { (trouble.stage) } }
            p { strong { (ticked(&trouble.message)) } }
            @for line in &trouble.lines { p { (ticked(line)) } }
            @if !trouble.log.is_empty() {
                p.soft { "The end of its log:" }
                (code("log", &trouble.log.join("\n")))
            }
        }
    }
}

fn card(headline: &Headline) -> Markup {
    html! {
        div.card {
            dt { (headline.name) }
            dd.value { (headline.value) }
            @if !headline.note.is_empty() { dd.soft { (headline.note) } }
        }
    }
}

fn curves(groups: &[CurveGroup]) -> Markup {
    html! {
        p.tools { label { input #logarithmic type="checkbox"; " Logarithmic where all values are positive" } }
        @for (i, group) in groups.iter().enumerate() {
            details.group open[i + 1 == groups.len() || groups.len() < 4] {
                summary { (group.title) }
                div.charts { @for c in &group.charts { (chart(&c.title, &c.content)) } }
            }
        }
    }
}

/// A chart, once with a linear and once with a logarithmic axis; the style sheet shows one of them.
fn chart(title: &str, content: &Chart) -> Markup {
    let logarithmic = content.drawn(Scaling::Logarithmic);
    html! {
        figure.chart tabindex="0" role="group" aria-label=(title) {
            @match logarithmic {
                Some(logarithmic) => {
                    div.linear { (PreEscaped(content.drawn(Scaling::Linear).unwrap_or_default())) }
                    div.logarithmic { (PreEscaped(logarithmic)) }
                }
                None => (PreEscaped(content.drawn(Scaling::Linear).unwrap_or_default()))
            }
            figcaption.legend {
                span.at { "last" }
                @for entry in content.legend() {
                    span {
                        @if !entry.name.is_empty() { i.(format!("line-{}", entry.colour)) {} (entry.name) " " }
                        output data-line=(entry.line) { (entry.value) }
                    }
                }
            }
        }
    }
}

fn stages_picture(page: &Page) -> Markup {
    match graph::picture(&page.graph) {
        Some(picture) => scrolling("stages and their connections", &picture),
        None => {
            html! { p { (page.graph.nodes.len()) " stages are too many for a picture; the tables below list them." } }
        }
    }
}

fn badge(state: &State) -> Markup {
    html! { span.badge.(state.tone.class()) { (state.word) } }
}

fn detail(stage: &StageDetail) -> Markup {
    html! {
        details.stage-detail id=(anchor(&stage.name)) {
            summary { strong { (stage.name) } " " span.soft { (stage.kind) } " " (badge(&stage.state)) }
            @if !stage.results.is_empty() { h4 { "Results" } (pairs(&stage.results)) }
            @if !stage.facts.is_empty() { h4 { "How it was made" } (pairs(&stage.facts)) }
            @if !stage.params.is_empty() {
                h4 { "Parameters" }
                (grid("parameters", &["name", "value", "set by"], stage.params.iter().map(|p| p.as_slice())))
            }
            @if !stage.outputs.is_empty() {
                h4 { "Outputs" }
                (grid("outputs", &["name", "type", "size", "digest"], stage.outputs.iter().map(|o| o.as_slice())))
            }
        }
    }
}

/// A small table of texts.
fn grid<'a>(title: &str, header: &[&str], rows: impl Iterator<Item = &'a [String]>) -> Markup {
    let table = html! {
        table {
            thead { tr { @for h in header { th scope="col" { (h) } } } }
            tbody { @for row in rows { tr { @for (i, cell) in row.iter().enumerate() {
                @if i == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
            } } } }
        }
    };
    scrolling(title, &table)
}

fn pairs(pairs: &[(String, String)]) -> Markup {
    html! { dl.pairs { @for (name, value) in pairs { dt { (name) } dd { (value) } } } }
}

fn code(title: &str, text: &str) -> Markup {
    html! { pre tabindex="0" role="region" aria-label=(title) { code { (text) } } }
}

fn again(again: &Again) -> Markup {
    html! {
        (code("commands", &again.commands.join("\n")))
        @for note in &again.notes { p { (ticked(note)) } }
        @for (file, text) in &again.files {
            details.group { summary { (file) } (code(file, text)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_text_and_never_markup() {
        let hostile = "</script><script>alert(1)</script>\" onload='x'\u{1}";
        let state = State { word: hostile.into(), tone: content::Tone::Bad };
        let detail = StageDetail {
            name: hostile.into(),
            kind: hostile.into(),
            state,
            facts: vec![(hostile.into(), hostile.into())],
            params: vec![[hostile.into(), hostile.into(), hostile.into()]],
            outputs: vec![],
            results: vec![],
        };
        let failure = Trouble {
            stage: hostile.into(),
            message: hostile.into(),
            lines: vec![hostile.into()],
            log: vec![hostile.into()],
        };
        let page = Page {
            title: hostile.into(),
            lead: hostile.into(),
            notes: vec![hostile.into()],
            stages: vec![detail],
            failures: vec![failure],
            ..Page::default()
        };
        let text = render(&page);
        assert_eq!(text.matches("<script").count(), 1, "only its own");
        assert!(!text.contains("alert(1)</script>"));
        assert!(!text.contains("\" onload"));
        assert_eq!(anchor("a b\"<c>"), "stage-a_b__c_");
        assert_eq!(ticked("run `erw <x>` first").into_string(), "run <code>erw &lt;x&gt;</code> first");
    }

    #[test]
    fn the_policy_names_style_and_script() {
        let text = render(&Page::default());
        let policy = text.split("Content-Security-Policy\" content=\"").nth(1).unwrap().split('"').next().unwrap();
        for (start, element) in [("style-src '", STYLE), ("script-src '", SCRIPT)] {
            let named = policy.replace("&#39;", "'");
            let named = named.split(start).nth(1).unwrap().split('\'').next().unwrap().to_string();
            assert_eq!(named, digest(element));
            assert!(text.contains(element), "as it stands in the file, not escaped");
        }
        assert!(SCRIPT.lines().count() <= 300, "a small script");
        for (i, colour) in crate::chart::COLOURS.iter().enumerate() {
            assert!(STYLE.contains(&format!(".line-{i} {{ background: {colour}; }}")), "{colour}");
        }
    }
}
