//! A row of the log as a server-sent event, and which rows a stream wants (docs/WIRE.md section 12).

use bytes::Bytes;
use serde::Serialize;
use url::form_urlencoded;

use super::log_query::LogParameters;
use super::log_record::{optional_time, time};
use crate::domain::clock::UnixMillis;
use crate::domain::delivery::FailReason;
use crate::domain::ids::ConfigId;
use crate::domain::log::LogRow;
use crate::domain::log_merge::LogFilter;
use crate::redis::log_tail::TailedRow;

/// Parameters of the list that make no sense in a stream.
const OF_LISTS: [&str; 5] = ["limit", "skip", "cursor", "search", "sort"];

/// Which rows a stream wants.
#[derive(Clone, Debug)]
pub(super) struct TailFilter {
    /// Only this config's; not yet proven to be the organisation's.
    pub(super) config: Option<ConfigId>,
    filter: LogFilter,
    success: Option<bool>,
}

/// One row, with the names of the list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    delivery_id: String,
    webhook_config_id: String,
    event: &'a str,
    url: Option<&'a str>,
    status: &'static str,
    attempt: u32,
    success: bool,
    #[serde(serialize_with = "time")]
    at: UnixMillis,
    duration_ms: u32,
    response_status: Option<u16>,
    response_body: Option<String>,
    error: Option<&'a str>,
    #[serde(serialize_with = "optional_time", skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<UnixMillis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fail_reason: Option<&'static str>,
    #[serde(serialize_with = "time")]
    created_at: UnixMillis,
}

// === impl TailFilter ===

impl TailFilter {
    /// Checks the query string: the filters of the list, and `success`.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut success = None;
        let mut rest = form_urlencoded::Serializer::new(String::new());
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if OF_LISTS.contains(&&*name) {
                return Err(format!("query.{name}: not supported, a stream has no pages"));
            }
            if name != "success" {
                rest.append_pair(&name, &value);
                continue;
            }
            if success.is_some() {
                return Err("query.success: given more than once".to_owned());
            }
            success = Some(value.parse().map_err(|_| "query.success: expected true or false".to_owned())?);
        }
        let parameters = LogParameters::parse(&rest.finish())?;
        Ok(Self { config: parameters.config, filter: parameters.query.filter, success })
    }

    /// Where the stream is to begin, if not now.
    pub(super) const fn since(&self) -> Option<UnixMillis> {
        self.filter.since
    }

    pub(super) fn wants(&self, row: &LogRow) -> bool {
        self.filter.wants(row.status, &row.event_type, Some(row.at), row.created_at)
            && self.success.is_none_or(|wanted| row.is_attempt() && wanted == succeeded(row))
    }
}

fn succeeded(row: &LogRow) -> bool {
    row.is_attempt() && row.response_status.is_some_and(|status| (200..300).contains(&status))
}

/// The row as an event: `attempt`, or `fate` where the delivery was parked or ended without one.
pub(super) fn event_text(found: &TailedRow) -> Bytes {
    let row = &found.row;
    let answer = Some(&row.excerpt).filter(|excerpt| !excerpt.is_empty());
    let data = Data {
        delivery_id: row.delivery.to_string(),
        webhook_config_id: found.place.config.to_string(),
        event: &row.event_type,
        url: Some(&*row.url).filter(|url| !url.is_empty()),
        status: row.status.as_str(),
        attempt: row.attempt,
        success: succeeded(row),
        at: row.at,
        duration_ms: row.took_ms,
        response_status: row.response_status,
        response_body: answer.map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
        error: row.error.as_deref().filter(|_| row.response_status.is_none()),
        next_attempt_at: row.next_attempt_at,
        fail_reason: row.reason.map(FailReason::as_str),
        created_at: row.created_at,
    };
    let name = if row.is_attempt() { "attempt" } else { "fate" };
    // Written on one line: JSON escapes every line break.
    let data = serde_json::to_string(&data).unwrap_or_default();
    Bytes::from(format!("event: {name}\nid: {}\ndata: {data}\n\n", found.place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_the_lists_and_pages_are_refused() {
        let filter = TailFilter::parse("event=a.b&success=false&status=retrying").unwrap();
        assert_eq!((filter.success, filter.filter.event.as_deref()), (Some(false), Some("a.b")));
        for wrong in
            ["limit=1", "cursor=1", "success=yes", "success=true&success=true", "colour=1", "status=done"]
        {
            let name = wrong.split('=').next().unwrap();
            let told = TailFilter::parse(wrong).unwrap_err();
            assert!(told.starts_with(&format!("query.{name}: ")), "{wrong}: {told}");
        }
    }
}
