//! The curves that the results of a sweep make. Knows nothing of training steps, whose curves are in
//! `curves`.

use crate::plot;
use erw_report::chart::{Chart, Panel};
use erw_report::page::content::Titled;
use erw_report::sheet::Sheet;
use erw_runner::sweep::SweepPlan;

/// Lines of a chart over an axis.
const LINES: usize = 12;

/// Over the numbers in names of stages, or else over the axes whose values are numbers.
pub fn charts(plan: &SweepPlan, sheet: &Sheet) -> Vec<Titled<Chart>> {
    let chart = |title: String, x_title: String, y: &str, panel: Panel| {
        let mut panel = panel;
        let is_long = panel.lines.len() > LINES;
        panel.lines.iter_mut().skip(LINES).filter(|_| is_long).for_each(|line| line.faint = true);
        // The only line needs no name.
        if let [only] = panel.lines.as_mut_slice() {
            only.name.clear();
        }
        let note = plot::note(sheet, &[y.to_string()], !y.contains('*'));
        let content = Chart { x_title, panels: vec![panel], note };
        Titled { title, content }
    };
    let is_curve = |panel: &Panel| panel.lines.iter().any(|line| line.points.len() > 1);
    let mut all = vec![];
    for pattern in plot::patterns(sheet) {
        let panel = plot::panel(sheet, &pattern, None).ok().filter(is_curve);
        all.extend(
            panel.map(|panel| chart(pattern.clone(), "number in the name of the stage".into(), &pattern, panel)),
        );
    }
    let results: Vec<&str> =
        sheet.columns.iter().filter(|c| c.group == plot::RESULTS).map(|c| c.title.as_str()).collect();
    if !all.is_empty() {
        return all;
    }
    for axis in &plan.axes {
        let Ok(abscissa) = plot::Abscissa::find(plan, sheet, &axis.name) else { continue };
        for y in &results {
            let panel = plot::panel(sheet, y, Some(&abscissa)).ok().filter(is_curve);
            all.extend(panel.map(|panel| chart(format!("{y} over {}", axis.name), axis.name.clone(), y, panel)));
        }
    }
    all
}
