//! A table in the page. Numbers carry their values in full, for sorting and for the copy as CSV.

use super::content::Table;
use crate::sheet::{Cell, Column, Sheet};
use maud::{Markup, html};

pub fn table(table: &Table) -> Markup {
    let columns: Vec<(usize, &Column)> =
        table.sheet.columns.iter().enumerate().filter(|(_, c)| !c.in_full_only).collect();
    html! {
        section.table id=(format!("table-{}", table.id)) aria-label=(table.title) {
            h3 { (table.title) }
            div.tools hidden {
                label { "Show rows with " input type="search" placeholder="text, or name > number"; }
                button.copy type="button" { "Copy as CSV" }
                output {}
            }
            div.scroll tabindex="0" role="region" aria-label=(table.title) {
                table {
                    thead { tr { @for (c, column) in &columns { (head(&table.sheet, *c, column)) } } }
                    tbody {
                        @for row in &table.sheet.rows {
                            tr { @for (i, (c, _)) in columns.iter().enumerate() { (cell(&row[*c], i == 0)) } }
                        }
                    }
                }
            }
        }
    }
}

/// Above its numbers, if they are numbers.
fn head(sheet: &Sheet, c: usize, column: &Column) -> Markup {
    let mut cells = sheet.rows.iter().map(|row| &row[c]).filter(|cell| **cell != Cell::None).peekable();
    let is_number = c > 0 && cells.peek().is_some() && cells.all(Cell::is_number);
    let group = Some(column.group).filter(|group| !group.is_empty());
    html! { th.number[is_number] scope="col" data-group=[group] { (column.title) } }
}

/// `data-v` is the value in full.
fn cell(cell: &Cell, is_first: bool) -> Markup {
    let (text, full) = (cell.short(), cell.full());
    let full = full.filter(|full| *full != text);
    html! {
        @if is_first { th scope="row" data-v=[full] { (text) } }
        @else if cell.is_number() { td.number data-v=[full] { (text) } }
        @else { td data-v=[full] { (text) } }
    }
}
