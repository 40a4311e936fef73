//! The one place that writes: answers to stdout, diagnostics to stderr.

use std::fmt;
use std::io::{self, BufWriter, Stdout, Write};

use clap::ValueEnum;
use serde::Serialize;

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// For scripts: one JSON document.
    Json,
}

/// Stdout, buffered, and stderr.
pub struct Output {
    stdout: BufWriter<Stdout>,
}

/// Rows of text in columns that are as wide as their widest cell.
pub struct TextTable {
    rows: Vec<Vec<String>>,
}

// === impl Output ===

impl Output {
    /// This process's.
    #[must_use]
    pub fn new() -> Self {
        Self { stdout: BufWriter::new(io::stdout()) }
    }

    /// Writes one line of the answer.
    ///
    /// # Errors
    /// When stdout cannot be written, also because its reader is gone.
    pub fn line(&mut self, text: impl fmt::Display) -> io::Result<()> {
        writeln!(self.stdout, "{text}")
    }

    /// Writes the answer as one indented JSON document.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.stdout, value)?;
        writeln!(self.stdout)
    }

    /// Writes a table, its cells made fit for a terminal.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn table(&mut self, table: &TextTable) -> io::Result<()> {
        write!(self.stdout, "{table}")
    }

    /// Sends what is buffered.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }

    /// Says what went wrong, on stderr, after the answer so far.
    pub fn complain(&mut self, text: impl fmt::Display) {
        self.note(format_args!("postrider: {text}"));
    }

    /// Says something on stderr that is no part of the answer.
    pub fn note(&mut self, text: impl fmt::Display) {
        // Without stdout or stderr there is nobody left to tell.
        let _ = self.stdout.flush();
        let _ = writeln!(io::stderr(), "{text}");
    }
}

impl Default for Output {
    fn default() -> Self {
        Self::new()
    }
}

// === impl TextTable ===

impl TextTable {
    /// A table with these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    /// Adds a row of as many cells as there are headings.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }
}

impl fmt::Display for TextTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(f, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// `text` with control characters replaced: what a receiver answered must not move the cursor or change the
/// title of a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_escapes_do_not_reach_the_terminal() {
        let mut table = TextTable::new(&["ID", "STATE"]);
        table.row(["a\u{1b}[2J".into(), "ok".into()]);
        assert_eq!(table.to_string(), "ID     STATE\na\u{fffd}[2J  ok\n");
    }
}
