//! Tables of results as text, Markdown, CSV or JSON. Text and Markdown show four digits; CSV and
//! JSON have every value in full. Knows nothing of what the columns mean.

use super::table::{plain_table, trimmed};
use super::text::{number, one_line};
use comfy_table::CellAlignment;
use serde_json::{Map, Value as Json, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Table with four significant digits
    Text,
    /// Comma-separated values, numbers in full
    Csv,
    /// JSON list of objects, numbers in full
    Json,
    /// Markdown table with four significant digits
    Markdown,
}

impl Format {
    fn is_short(self) -> bool {
        matches!(self, Self::Text | Self::Markdown)
    }
}

#[derive(Debug, Clone)]
pub struct Column {
    pub title: String,
    /// In JSON the column is in an object of this name, unless it is empty.
    pub group: &'static str,
    /// The column is in CSV and JSON only.
    pub in_full_only: bool,
}

impl Column {
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), group: "", in_full_only: false }
    }
    #[must_use]
    pub fn within(self, group: &'static str) -> Self {
        Self { group, ..self }
    }
    #[must_use]
    pub fn in_full_only(self, in_full_only: bool) -> Self {
        Self { in_full_only, ..self }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    None,
    Text(String),
    /// A setting or a count, with its text.
    Value(Json, String),
    /// `None`: not a finite number.
    Number(Option<f64>),
    /// One value for each seed.
    Spread(Vec<Option<f64>>),
    /// A fraction, printed as a percentage.
    Relative(f64),
}

/// A table.
#[derive(Debug, Default)]
pub struct Sheet {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Cell>>,
    /// In text, repeated values of the first column are left blank.
    pub grouped: bool,
}

/// Mean, standard deviation (n - 1) and count. There is no mean if a value is not finite, and no
/// deviation of a single value.
pub fn spread(values: &[Option<f64>]) -> (Option<f64>, Option<f64>, usize) {
    let n = values.len();
    let finite: Option<Vec<f64>> = values.iter().copied().collect();
    let Some(finite) = finite.filter(|f| !f.is_empty()) else { return (None, None, n) };
    let mean = finite.iter().sum::<f64>() / n as f64;
    let squares: f64 = finite.iter().map(|x| (x - mean).powi(2)).sum();
    (Some(mean), (n > 1).then(|| (squares / (n as f64 - 1.0)).sqrt()), n)
}

impl Cell {
    pub(super) fn short(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::Text(text) | Self::Value(_, text) => text.clone(),
            Self::Number(value) => number(*value),
            Self::Relative(part) => format!("{}{} %", if *part > 0.0 { "+" } else { "" }, number(Some(100.0 * part))),
            Self::Spread(values) => match spread(values) {
                (mean, Some(deviation), _) => format!("{} ± {}", number(mean), number(Some(deviation))),
                (mean, None, _) => number(mean),
            },
        }
    }

    fn json(&self) -> Json {
        match self {
            Self::None => Json::Null,
            Self::Text(text) => json!(text),
            Self::Value(value, _) => value.clone(),
            Self::Number(value) => json!(value),
            Self::Relative(part) => json!(part),
            Self::Spread(values) => {
                let (mean, sd, n) = spread(values);
                json!({ "mean": mean, "sd": sd, "n": n, "values": values })
            }
        }
    }

    fn csv(&self) -> String {
        match self {
            Self::Number(Some(value)) | Self::Relative(value) => value.to_string(),
            Self::Value(Json::String(text), _) => text.clone(),
            Self::Value(value, _) => value.to_string(),
            other => other.short(),
        }
    }

    /// The value in full, where it is more than its text.
    pub(super) fn full(&self) -> Option<String> {
        match self {
            Self::Number(_) | Self::Relative(_) | Self::Value(..) => Some(self.csv()),
            Self::Spread(values) => Some(spread(values).0.map_or_else(|| "nan".into(), |mean| mean.to_string())),
            Self::None | Self::Text(_) => None,
        }
    }

    pub(super) fn is_number(&self) -> bool {
        !matches!(self, Self::Text(_)) && !matches!(self, Self::Value(value, _) if !value.is_number())
    }
}

impl Sheet {
    /// The table as text, with a newline at the end.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Text => self.text(),
            Format::Csv => self.csv(),
            Format::Json => self.json(),
            Format::Markdown => self.markdown(),
        }
    }

    fn shown(&self, format: Format) -> Vec<usize> {
        (0..self.columns.len()).filter(|c| !(format.is_short() && self.columns[*c].in_full_only)).collect()
    }

    fn short_rows(&self, shown: &[usize]) -> Vec<Vec<String>> {
        let mut last = None;
        let mut cells = |row: &Vec<Cell>| -> Vec<String> {
            let mut cells: Vec<String> = shown.iter().map(|c| one_line(&row[*c].short())).collect();
            let repeats = self.grouped && last.as_ref() == row.first();
            last = row.first().cloned();
            if repeats {
                cells[0].clear();
            }
            cells
        };
        self.rows.iter().map(&mut cells).collect()
    }

    fn text(&self) -> String {
        let shown = self.shown(Format::Text);
        let mut table = plain_table();
        table.set_header(shown.iter().map(|c| &self.columns[*c].title));
        table.add_rows(self.short_rows(&shown));
        for (i, c) in shown.iter().enumerate() {
            let numbers = self.rows.iter().all(|row| row[*c].is_number());
            if let (true, Some(column)) = (numbers, table.column_mut(i)) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        format!("{}\n", trimmed(&table))
    }

    fn markdown(&self) -> String {
        let shown = self.shown(Format::Markdown);
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let escaped = |cells: Vec<String>| line(cells.iter().map(|c| c.replace('|', "\\|")).collect());
        let titles = escaped(shown.iter().map(|c| self.columns[*c].title.clone()).collect());
        let dashes = |c: &usize| match self.rows.iter().all(|row| row[*c].is_number()) {
            true => "---:".to_string(),
            false => "---".to_string(),
        };
        let rule = line(shown.iter().map(dashes).collect());
        titles + &rule + &self.short_rows(&shown).into_iter().map(escaped).collect::<String>()
    }

    fn json(&self) -> String {
        let object = |row: &Vec<Cell>| {
            let mut object = Map::new();
            for (column, cell) in self.columns.iter().zip(row) {
                let below = match column.group {
                    "" => &mut object,
                    group => match object.entry(group).or_insert_with(|| json!({})) {
                        Json::Object(below) => below,
                        _ => continue,
                    },
                };
                // A missing result has no member; one that is not a finite number is null.
                if *cell != Cell::None || column.group.is_empty() {
                    below.insert(column.title.clone(), cell.json());
                }
            }
            Json::Object(object)
        };
        let all: Vec<Json> = self.rows.iter().map(object).collect();
        serde_json::to_string_pretty(&all).unwrap_or_default() + "\n"
    }

    /// CSV as in RFC 4180. A spread takes three columns.
    fn csv(&self) -> String {
        let spreads = |c: usize| self.rows.iter().any(|row| matches!(row[c], Cell::Spread(_)));
        let wide: Vec<bool> = (0..self.columns.len()).map(spreads).collect();
        let quoted = |cell: &String| match cell.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", cell.replace('"', "\"\"")),
            false => cell.clone(),
        };
        let line = |cells: Vec<String>| cells.iter().map(quoted).collect::<Vec<_>>().join(",") + "\n";
        let titles = self.columns.iter().zip(&wide).flat_map(|(column, wide)| match wide {
            true => ["", "_sd", "_n"].map(|end| format!("{}{end}", column.title)).to_vec(),
            false => vec![column.title.clone()],
        });
        let cells = |row: &Vec<Cell>| -> Vec<String> {
            let cell = |(cell, wide): (&Cell, &bool)| match (cell, wide) {
                (Cell::Spread(values), _) => {
                    let (mean, sd, n) = spread(values);
                    vec![Cell::Number(mean).csv(), sd.map_or_else(String::new, |x| x.to_string()), n.to_string()]
                }
                (cell, true) => vec![cell.csv(), String::new(), String::new()],
                (cell, false) => vec![cell.csv()],
            };
            row.iter().zip(&wide).flat_map(cell).collect()
        };
        line(titles.collect()) + &self.rows.iter().map(|row| line(cells(row))).collect::<String>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet() -> Sheet {
        let columns = vec![
            Column::new("trial"),
            Column::new("lr").within("settings").in_full_only(true),
            Column::new("fd").within("results"),
            Column::new("n").within("results"),
        ];
        let spread = Cell::Spread(vec![Some(0.1), Some(0.2)]);
        let lr = Cell::Value(json!(1e-4), "1e-4".into());
        let first = vec![Cell::Text("a,\"b\"|c".into()), lr.clone(), spread, Cell::Number(Some(0.1 + 0.2))];
        let second = vec![Cell::Text("d".into()), lr, Cell::Spread(vec![Some(0.5)]), Cell::None];
        Sheet { columns, rows: vec![first, second], grouped: false }
    }

    #[test]
    fn mean_and_deviation() {
        assert_eq!(spread(&[Some(1.0), Some(3.0)]), (Some(2.0), Some(2f64.sqrt()), 2));
        assert_eq!(spread(&[Some(1.0)]), (Some(1.0), None, 1));
        assert_eq!(spread(&[Some(1.0), None]), (None, None, 2));
    }

    #[test]
    fn texts_are_short_and_files_are_full() {
        let sheet = sheet();
        let sd = "0.07071067811865477";
        assert_eq!(
            sheet.render(Format::Csv),
            format!(
                "trial,lr,fd,fd_sd,fd_n,n\n\"a,\"\"b\"\"|c\",0.0001,0.15000000000000002,{sd},2,0.30000000000000004\n\
                 d,0.0001,0.5,,1,\n"
            )
        );
        assert_eq!(
            sheet.render(Format::Markdown),
            "| trial | fd | n |\n| --- | ---: | ---: |\n| a,\"b\"\\|c | 0.15 ± 0.07071 | 0.3 |\n| d | 0.5 |  |\n"
        );
        let json: Json = serde_json::from_str(&sheet.render(Format::Json)).unwrap();
        assert_eq!(json[0]["results"]["n"], json!(0.1 + 0.2));
        assert_eq!(json[0]["results"]["fd"]["values"], json!([0.1, 0.2]));
        assert_eq!(
            json[1],
            json!({"trial": "d", "settings": {"lr": 1e-4}, "results": {"fd": {"mean": 0.5, "sd": null, "n": 1, "values": [0.5]}}})
        );
        assert!(sheet.render(Format::Text).contains("0.15 ± 0.07071"));
    }

    #[test]
    fn a_group_is_named_once() {
        let row = |a: &str, b: &str| vec![Cell::Text(a.into()), Cell::Text(b.into())];
        let columns = vec![Column::new("stage"), Column::new("metric")];
        let sheet = Sheet { columns, rows: vec![row("s", "a"), row("s", "b"), row("t", "c")], grouped: true };
        assert_eq!(
            sheet.render(Format::Markdown),
            "| stage | metric |\n| --- | --- |\n| s | a |\n|  | b |\n| t | c |\n"
        );
        assert!(sheet.render(Format::Csv).contains("s,b\n"), "programs read every row alone");
    }
}
