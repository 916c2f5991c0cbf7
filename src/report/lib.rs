//! Output for people and programs: progress, tables, charts, errors. Only this module and `cli`
//! print. The progress of a run is rendered from its events.

pub mod bars;
pub mod chart;
mod chart_scale;
pub mod colour;
pub mod diagnostic;
pub mod download;
pub mod json;
pub mod junit;
pub mod markdown;
pub mod page;
pub mod plain;
pub mod sheet;
pub mod table;
pub mod text;

use erw_runner::event::Listener;
use std::io::IsTerminal;

/// How the progress of a run is displayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Bars on a terminal, otherwise lines.
    Auto,
    /// A line per event on standard error.
    Plain,
    /// A JSON object per event on standard output.
    Json,
}

pub fn listener(style: Style) -> Box<dyn Listener> {
    match style {
        Style::Json => Box::new(json::Json::default()),
        Style::Auto if std::io::stderr().is_terminal() && can_move() => Box::new(bars::Bars::default()),
        Style::Auto | Style::Plain => Box::new(plain::Plain::default()),
    }
}

/// Whether the terminal says that it can draw over lines. In one that does not, as that of an editor,
/// bars are not drawn, nor the lines above them.
fn can_move() -> bool {
    std::env::var_os("TERM").is_some_and(|name| !name.is_empty() && name != "dumb")
}
