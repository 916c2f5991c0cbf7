//! Tables for Markdown pages, such as the summary of a CI job. Knows nothing of their contents.

/// A table with a header.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let head = header.iter().map(ToString::to_string).collect();
    let rule = format!("|{}\n", "---|".repeat(header.len()));
    let rows = rows.iter().map(|row| line(row.iter().map(|cell| cell_of(cell)).collect()));
    line(head) + &rule + &rows.collect::<String>()
}

/// Escapes text so that it stays in its cell and is not markup.
fn cell_of(text: &str) -> String {
    let mut out = String::new();
    let mut code = false;
    for c in text.trim().chars() {
        match c {
            '`' => {
                code = !code;
                out.push(c);
            }
            '|' => out.push_str("\\|"),
            '\n' => out.push_str(if code { " " } else { "<br>" }),
            '<' | '*' | '_' | '[' if !code => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_cell() {
        let row = vec!["a|b".to_string(), "x_y `x_y`\n<b>".to_string()];
        assert_eq!(table(&["n", "v"], &[row]), "| n | v |\n|---|---|\n| a\\|b | x\\_y `x_y`<br>\\<b> |\n");
    }
}
