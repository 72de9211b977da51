//! Tables without lines: columns that cut and awk can take apart. Knows nothing of what is in them.

use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table, presets};

use crate::ui::plain;

/// Blanks between two columns.
const GAP: u16 = 3;

/// A table with a heading. Cells come from the daemon, so they are made plain.
pub(super) fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        // The same lines whatever the terminal's width: scripts read them.
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| plain(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    table.trim_fmt()
}

/// Names and values below each other; a value may have several lines. Nothing is left out silently: an empty value shows as `-`.
pub(super) fn details(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in rows {
        let mut lines = value.lines();
        let first = lines.next().filter(|line| !line.is_empty()).unwrap_or("-");
        let _ = writeln!(text, "{name:<width$}   {}", plain(first));
        for line in lines {
            let _ = writeln!(text, "{:<width$}   {}", "", plain(line));
        }
    }
    text
}
