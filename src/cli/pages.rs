//! Lists that come in pages: one page, or all of them, as a table or as one JSON document.

use clap::Args;
use serde_json::Value;

use super::error::CliError;
use super::http::Method;
use super::output::{Output, OutputFormat, TextTable, printable};
use super::server::ServerFlags;

/// Entries of a page where all are asked for: the most that the API gives.
const PAGE_MAX: u32 = 100;

/// Which part of a list.
#[derive(Args, Debug)]
pub(super) struct PageFlags {
    /// Most entries to show
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    /// Go on where an earlier list ended
    #[arg(long)]
    cursor: Option<String>,
    /// Show all pages, from the cursor on
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

/// A list and how it is shown.
pub(super) struct Listing<'a> {
    pub(super) server: &'a ServerFlags,
    pub(super) path: &'static str,
    /// The filters.
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) headings: &'a [&'a str],
    /// An entry as a row of the table.
    pub(super) row: fn(&Value) -> Vec<String>,
    /// What the entries are, for the line below the table.
    pub(super) noun: &'static str,
    pub(super) format: OutputFormat,
}

// === impl Listing ===

impl Listing<'_> {
    /// Shows what was asked for.
    ///
    /// # Errors
    /// As [`ServerFlags::call`]; what was shown by then stays.
    pub(super) async fn show(mut self, pages: &PageFlags, output: &mut Output) -> Result<(), CliError> {
        let limit = if pages.all { PAGE_MAX } else { pages.limit };
        self.query.push(("limit", limit.to_string()));
        match (self.format, pages.all) {
            (OutputFormat::Json, false) => {
                let query = self.query_at(pages.cursor.as_deref());
                let page = self.server.call(Method::GET, self.path, &query, None).await?;
                Ok(output.line(page.text)?)
            }
            (OutputFormat::Json, true) => self.document(pages, output).await,
            (OutputFormat::Text, _) => self.tables(pages, output).await,
        }
    }

    /// All pages as one document, written as they come.
    async fn document(&self, pages: &PageFlags, output: &mut Output) -> Result<(), CliError> {
        let (mut cursor, mut before) = (pages.cursor.clone(), "");
        output.line("{\"edges\":[")?;
        loop {
            let page = self.page(cursor.as_deref()).await?;
            for edge in edges(&page) {
                output.line(format_args!("{before}{edge}"))?;
                before = ",";
            }
            cursor = next(&page);
            if cursor.is_none() {
                return Ok(output.line("],\"nextCursor\":null}")?);
            }
        }
    }

    async fn tables(&self, pages: &PageFlags, output: &mut Output) -> Result<(), CliError> {
        let (mut cursor, mut shown, mut total) = (pages.cursor.clone(), 0, String::new());
        loop {
            let page = self.page(cursor.as_deref()).await?;
            let mut table = TextTable::new(self.headings);
            edges(&page).iter().for_each(|edge| table.row((self.row)(edge)));
            output.table(&table)?;
            shown += edges(&page).len();
            if let Some(count) = page.get("totalCount").filter(|_| total.is_empty()) {
                total = format!(" of {count}");
            }
            cursor = next(&page);
            match &cursor {
                Some(_) if pages.all => output.flush()?,
                Some(cursor) => {
                    output.note(format_args!("{shown}{total} {}", self.noun));
                    output.note(format_args!("there may be more: --cursor {}", printable(cursor)));
                    return Ok(());
                }
                None => {
                    output.note(format_args!("{shown}{total} {}", self.noun));
                    return Ok(());
                }
            }
        }
    }

    async fn page(&self, cursor: Option<&str>) -> Result<Value, CliError> {
        Ok(self.server.get_patiently(self.path, &self.query_at(cursor)).await?.value)
    }

    fn query_at(&self, cursor: Option<&str>) -> Vec<(&'static str, String)> {
        let mut query = self.query.clone();
        query.extend(cursor.map(|cursor| ("cursor", cursor.to_owned())));
        query
    }
}

fn edges(page: &Value) -> &[Value] {
    page.get("edges").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn next(page: &Value) -> Option<String> {
    page.get("nextCursor").and_then(Value::as_str).map(str::to_owned)
}
