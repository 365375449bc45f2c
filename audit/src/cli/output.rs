//! Output: JSON lines, CSV lines, tables. Whatever came from outside is harmless on a terminal in all of them.

use std::io::{self, Write as _};

use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Row, Table, presets};
use reeve_wire::output::{visible, visible_line};
use serde::Serialize;

use super::failure::Failure;

/// Writes bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

/// Writes one line of text.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    Ok(writeln!(anstream::stdout(), "{text}")?)
}

/// Writes one JSON object on one line.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(&json_text(value)?)
}

/// JSON in which characters that a terminal would act on are `\u` escapes: the same values to every reader.
fn json_text(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let plain = serde_json::to_string(value)?;
    let mut safe = String::with_capacity(plain.len());
    for c in plain.chars() {
        let mut utf8 = [0; 4];
        let text = c.encode_utf8(&mut utf8);
        if c.is_ascii() && c != '\u{7f}' || visible(text.as_bytes()) == *text {
            safe.push(c);
        } else {
            let mut utf16 = [0; 2];
            c.encode_utf16(&mut utf16).iter().for_each(|unit| safe.push_str(&format!("\\u{unit:04x}")));
        }
    }
    Ok(safe)
}

/// One line of CSV (RFC 4180). A field that a spreadsheet would take for a formula begins with an apostrophe.
pub(crate) fn csv(fields: &[String]) -> Result<(), Failure> {
    let fields: Vec<String> = fields.iter().map(|field| csv_field(field)).collect();
    line(&fields.join(","))
}

fn csv_field(field: &str) -> String {
    let shown = visible_line(field);
    let formula = shown.starts_with(['=', '+', '-', '@']);
    let text = if formula { format!("'{shown}") } else { shown };
    if text.contains([',', '"', ' ']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

/// A table as wide as the terminal, one line a row.
pub(crate) struct Lines {
    table: Table,
}

impl Lines {
    pub(crate) fn new(titles: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).enforce_styling();
        table.set_header(titles.iter().map(Cell::new).collect::<Vec<_>>());
        // What tells one row from the next is never cut; what is long gives way.
        if let Some(first) = table.column_mut(0) {
            first.set_constraint(ColumnConstraint::ContentWidth);
        }
        Self { table }
    }

    /// Whether the terminal is too narrow for everything.
    pub(crate) fn is_narrow(&self) -> bool {
        self.table.width().is_some_and(|width| width < 100)
    }

    /// Adds a row of texts; `refused` ones stand out.
    pub(crate) fn row(&mut self, cells: Vec<String>, refused: bool) {
        let cell = |text: String| {
            let cell = Cell::new(visible_line(&text));
            if refused { cell.fg(Color::Red) } else { cell }
        };
        let mut row = Row::from(cells.into_iter().map(cell).collect::<Vec<_>>());
        row.max_height(1);
        self.table.add_row(row);
    }

    pub(crate) fn print(&self) -> Result<(), Failure> {
        line(&self.table.trim_fmt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_on_a_terminal_is_the_same_json() {
        let hostile = "ok\n\u{1b}[2J \u{9b}2J \u{202e}gpj \u{7f} \u{e0041} é 你 \"\\";
        let text = json_text(&hostile).unwrap();
        assert_eq!(visible(text.as_bytes()), text);
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), hostile);
        assert!(text.contains('é') && text.contains('你'), "{text}");
    }

    #[test]
    fn a_field_of_csv_is_one_field_on_one_line_and_no_formula() {
        for (field, written) in [
            ("plain", "plain"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("two\nlines\r", "two\\nlines\\u{d}"),
            ("=cmd|' /C calc'!A0", "\"'=cmd|' /C calc'!A0\""),
            ("@x", "'@x"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
        ] {
            assert_eq!(csv_field(field), written, "{field:?}");
        }
    }
}
