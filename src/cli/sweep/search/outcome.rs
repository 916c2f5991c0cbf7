//! What a search says at its end: the table of all points, the best one first and marked, or a line
//! of JSON; and the command that runs it. Does not know how points are chosen.

use super::descent::Descent;
use super::{Search, trials_of};
use crate::common::print;
use crate::sweep::table_options::TableOptions;
use erw_base::error::Result;
use erw_report::json::written;
use erw_report::sheet::{Cell, Column};
use erw_report::text::count;
use erw_runner::sweep::probes::{Probe, label};
use erw_runner::text::shell::quoted;
use serde_json::{Map, Value, json};
use std::io::Write;

impl Search<'_> {
    /// Prints the table or the line, and what follows from it if the search has come to its end.
    pub(super) fn show(&self, descent: &Descent, is_complete: bool) -> Result<()> {
        if self.probes.is_empty() {
            return Ok(());
        }
        let best = self.probe(&descent.best());
        match (self.args.flags.json, is_complete) {
            (false, _) => self.print_table(&best, is_complete)?,
            // An event of the search, after those of its runs.
            (true, true) => print(&format!("{}\n", self.finished(descent, &best)))?,
            (true, false) => {}
        }
        if is_complete {
            let _ = std::io::stderr().lock().write_all(self.conclusion(descent, &best).as_bytes());
        }
        written()
    }

    fn finished(&self, descent: &Descent, best: &Probe) -> Value {
        let number = |text: &String| match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(whole), _) => json!(whole),
            (_, Ok(number)) => json!(number),
            _ => json!(text),
        };
        let settings: Map<String, Value> = best.iter().map(|(key, text)| (key.clone(), number(text))).collect();
        let at_end: Vec<&str> = descent.ends().map(|(i, _)| self.parameters[i].key.as_str()).collect();
        json!({
            "event": "search_finished",
            "metric": self.goal.metric,
            "goal": if self.goal.is_most { "maximise" } else { "minimise" },
            "points": self.probes.len(),
            "trial": label(best),
            "settings": settings,
            "value": descent.least().map(|value| if self.goal.is_most { -value } else { value }),
            "at_end": at_end,
        })
    }

    fn print_table(&self, best: &Probe, is_complete: bool) -> Result<()> {
        let plan = self.plan(&self.probes)?;
        let mut options = TableOptions::read(&self.args.options, &plan)?;
        options.sort = Some((self.goal.metric.clone(), self.goal.is_most));
        let mut tabulated = self.table(&plan, &options)?;
        let trials = trials_of(&plan, std::slice::from_ref(best));
        tabulated.sheet.columns.insert(1, Column::new("best"));
        for (cells, row) in tabulated.sheet.rows.iter_mut().zip(&tabulated.rows) {
            let is_best = is_complete && row.trials.iter().any(|trial| trials.contains(trial));
            cells.insert(1, Cell::Value(json!(is_best), if is_best { "*" } else { "" }.into()));
        }
        print(&tabulated.sheet.render(self.args.options.format))
    }

    fn conclusion(&self, descent: &Descent, best: &Probe) -> String {
        let points = count(self.probes.len(), "point");
        let mut text = format!("the best of {points} is `{}`\n", label(best));
        for (i, end) in descent.ends() {
            let (key, value) = (&self.parameters[i].key, self.parameters[i].at_end(end));
            text +=
                &format!("warning: the best `{key}` lies at the end of its interval, {value}: search in a wider one\n");
        }
        let file = self.args.pipeline.pipeline.to_string_lossy();
        let given = self.args.pipeline.set.iter().cloned();
        let found = best.iter().map(|(key, value)| format!("{key}={value}"));
        let set: String = given.chain(found).map(|set| format!(" --set {}", quoted(&set))).collect();
        text + &format!("next: erw run {}{set}\n", quoted(&file))
    }
}
