//! Tables for people: as wide as the terminal, plain text where something else reads them.

use super::terminal::Terminal;
use comfy_table::{CellAlignment, ContentArrangement, presets};

/// A table with a header.
pub(super) struct Table(comfy_table::Table);

/// How a column's cells lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(columns: &[(&str, Align)], terminal: &Terminal) -> Self {
        let mut table = comfy_table::Table::new();
        match terminal.width() {
            Some(width) => {
                table.load_style(presets::UTF8_HORIZONTAL_ONLY);
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(width);
            }
            None => {
                table.load_style(presets::NOTHING);
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        table.set_header(columns.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        for (index, (_, align)) in columns.iter().enumerate() {
            let column = table.column_mut(index).expect("the header made it");
            column.set_cell_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            });
        }
        Table(table)
    }

    /// Adds a row. What would move the cursor or colour the screen becomes a blank: names and notes are not ours.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells.into_iter().map(|cell| cell.replace(char::is_control, " ")).collect::<Vec<_>>());
    }

    /// The table's lines without trailing blanks.
    pub fn render(&self) -> String {
        self.0.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }
}
