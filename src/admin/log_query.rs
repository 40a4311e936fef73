//! The parameters of `GET /webhooks/logs` (docs/WIRE.md section 7), each checked and named when it is wrong.
//! An unknown or repeated parameter is refused, for a typo must not silently widen a query.

use url::form_urlencoded;

use super::log_aliases::{ALIASES, Aliases};
use crate::domain::clock::UnixMillis;
use crate::domain::config::EventType;
use crate::domain::ids::{ConfigId, OrganisationId};
use crate::domain::log::Status;
use crate::domain::log_cursor::{self, LogCursor};
use crate::redis::log_search::LogQuery;

/// `limit` where none is given.
const LIMIT_DEFAULT: usize = 10;
/// Largest `limit`.
const LIMIT_MAX: usize = 100;
/// Largest `skip`: the rows that one config's log keeps at the default cap. What lies deeper is reached by
/// narrowing `until`.
const SKIP_MAX: usize = 10_000;

/// What is said of `search` and `sort`, which other lists of the platform have.
const UNSUPPORTED: &str = "not supported; deliveries come newest first, filtered by webhookConfigId, event, status, \
                           success, since and until; GET /webhooks/trace finds one by its event's nonce";

/// The names that are known.
const NAMES: [&str; 8] = ["webhookConfigId", "event", "status", "since", "until", "limit", "skip", "cursor"];

/// The parameters, checked.
#[derive(Clone, Debug)]
pub struct LogParameters {
    /// Only this config's deliveries; not yet proven to be the organisation's.
    pub config: Option<ConfigId>,
    /// What matches, and which page of it.
    pub query: LogQuery,
}

impl LogParameters {
    /// Checks the query string.
    ///
    /// # Errors
    /// One line for the caller: the parameter, and what is expected of it.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut parameters =
            Self { config: None, query: LogQuery { limit: LIMIT_DEFAULT, ..LogQuery::default() } };
        let mut aliases = Aliases::default();
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let Some(known) = NAMES.into_iter().chain(ALIASES).find(|known| *known == name) else {
                if name == "search" || name == "sort" {
                    return Err(format!("query.{name}: {UNSUPPORTED}"));
                }
                let shown: String = name.chars().take(64).collect();
                return Err(format!(
                    "query.{shown}: not supported; known are {}, {}",
                    NAMES.join(", "),
                    ALIASES.join(", ")
                ));
            };
            if seen.contains(&known) {
                return Err(format!("query.{known}: given more than once"));
            }
            seen.push(known);
            let taken = if ALIASES.contains(&known) {
                aliases.set(known, &value)
            } else {
                parameters.set(known, &value)
            };
            taken.map_err(|expected| format!("query.{known}: expected {expected}"))?;
        }
        aliases.apply(&mut parameters.query.filter)?;
        if parameters.query.cursor.is_some() && seen.contains(&"skip") {
            return Err("query.skip: expected none beside query.cursor, which says where to go on".to_owned());
        }
        let filter = &parameters.query.filter;
        match (filter.since, filter.until) {
            (Some(since), Some(until)) if since > until => {
                Err("query.since: expected a time not after query.until".to_owned())
            }
            _ => Ok(parameters),
        }
    }

    /// Says whose question it is, and checks that the cursor belongs to it.
    ///
    /// # Errors
    /// One line for the caller.
    pub fn asked_by(&mut self, organisation: &OrganisationId) -> Result<(), String> {
        let question = log_cursor::question(organisation, self.config, &self.query.filter);
        self.query.question = question;
        match self.query.cursor {
            Some(cursor) if cursor.question != question => {
                Err("query.cursor: expected one of an answer to the same filters; limit alone may change"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Takes one parameter; what was expected where it is wrong.
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let query = &mut self.query;
        match name {
            "webhookConfigId" => {
                let id = value.parse::<ConfigId>().map_err(|error| error.expected.to_owned())?;
                self.config = Some(id);
            }
            "event" => {
                let event = EventType::new(value).map_err(|_| "an event type, as in 'reward.earned'")?;
                query.filter.event = Some(event.as_str().to_owned());
            }
            "status" => {
                let status = Status::parse(value);
                let words = Status::ALL.map(Status::as_str).join(", ");
                query.filter.status = Some(status.ok_or_else(|| format!("one of {words}"))?);
            }
            "since" => query.filter.since = Some(time(value)?),
            "until" => query.filter.until = Some(time(value)?),
            "limit" => query.limit = number(value, 1, LIMIT_MAX)?,
            "cursor" => {
                let cursor = LogCursor::decode(value);
                query.cursor = Some(cursor.map_err(|_| "a nextCursor of an earlier answer, unchanged")?);
            }
            _ => query.skip = number(value, 0, SKIP_MAX)?,
        }
        Ok(())
    }
}

pub(super) fn time(value: &str) -> Result<UnixMillis, String> {
    UnixMillis::parse_iso8601(value).ok_or_else(|| {
        "an ISO-8601 time with its zone, as in 2026-05-01T09:00:00.000Z ('+' is written %2B in a URL)"
            .to_owned()
    })
}

fn number(value: &str, least: usize, most: usize) -> Result<usize, String> {
    let plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = Some(value).filter(|_| plain).and_then(|digits| digits.parse().ok());
    parsed
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("a whole number from {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::log_merge::LogFilter;

    #[test]
    fn nothing_given_is_the_newest_ten() {
        let parameters = LogParameters::parse("").unwrap();
        assert_eq!((parameters.config, parameters.query.skip, parameters.query.limit), (None, 0, 10));
        assert_eq!(parameters.query.filter, LogFilter::default());
    }

    #[test]
    fn everything_given_is_taken() {
        let text = "webhookConfigId=0123456789abcdef00000007&event=reward.earned&status=retrying\
                    &since=2026-05-01T09:00:00.000Z&until=2026-05-01T12%3A00%3A00%2B02%3A00&limit=100&skip=10000";
        let parameters = LogParameters::parse(text).unwrap();
        assert_eq!(parameters.config.unwrap().to_string(), "0123456789abcdef00000007");
        assert_eq!((parameters.query.skip, parameters.query.limit), (10_000, 100));
        let wanted = LogFilter {
            event: Some("reward.earned".into()),
            status: Some(Status::Retrying),
            since: Some(UnixMillis(1_777_626_000_000)),
            until: Some(UnixMillis(1_777_629_600_000)),
            ..LogFilter::default()
        };
        assert_eq!(parameters.query.filter, wanted);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("statsu=failed", "query.statsu"),
            ("search=order-4711", "query.search: not supported; deliveries come newest first"),
            ("sort=-createdAt", "query.sort: not supported"),
            ("Status=failed", "query.Status"),
            ("cursor=1", "query.cursor"),
            ("status=failed&status=failed", "query.status: given more than once"),
            ("status=done", "query.status: expected one of pending, retrying, delivered, failed"),
            ("status=", "query.status"),
            ("webhookConfigId=12", "query.webhookConfigId"),
            ("webhookConfigId=0123456789ABCDEF00000007", "query.webhookConfigId"),
            ("event=Reward%20Earned", "query.event"),
            ("since=yesterday", "query.since"),
            ("since=2026-05-01T09:00:00", "query.since"),
            ("until=1777626000", "query.until"),
            ("until=2026-05-01T12:00:00+02:00", "%2B"),
            ("since=2026-05-02T00:00:00Z&until=2026-05-01T00:00:00Z", "query.since"),
            ("limit=0", "query.limit: expected a whole number from 1 to 100"),
            ("limit=101", "query.limit"),
            ("limit=+5", "query.limit"),
            ("limit=1e1", "query.limit"),
            ("limit=99999999999999999999999", "query.limit"),
            ("skip=-1", "query.skip"),
            ("skip=10001", "query.skip: expected a whole number from 0 to 10000"),
        ] {
            let error = LogParameters::parse(text).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
