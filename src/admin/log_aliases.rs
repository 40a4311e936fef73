//! Other names of the log's filters (docs/WIRE.md section 7): `eventSubCategory`, `success`, `fromDate`, `toDate`,
//! `startDate`, `endDate`. One that contradicts the parameter whose other name it is, is refused.

use super::log_query::time;
use crate::domain::clock::UnixMillis;
use crate::domain::config::EventType;
use crate::domain::log::Status;
use crate::domain::log_merge::LogFilter;
use crate::domain::vocabulary::is_same_event;

/// The names that are known.
pub(super) const ALIASES: [&str; 6] =
    ["eventSubCategory", "success", "fromDate", "toDate", "startDate", "endDate"];

/// What was given by other names.
#[derive(Clone, Debug, Default)]
pub(super) struct Aliases {
    event: Option<String>,
    success: Option<bool>,
    since: Vec<(&'static str, UnixMillis)>,
    until: Vec<(&'static str, UnixMillis)>,
}

// === impl Aliases ===

impl Aliases {
    /// Takes one parameter of [`ALIASES`]; what was expected where it is wrong.
    pub(super) fn set(&mut self, name: &'static str, value: &str) -> Result<(), String> {
        match name {
            "eventSubCategory" => {
                let event = EventType::new(value).map_err(|_| "an event type, as in 'reward-claim'")?;
                self.event = Some(event.as_str().to_owned());
            }
            "success" => {
                self.success = Some(value.parse().map_err(|_| "true or false")?);
            }
            "fromDate" | "startDate" => self.since.push((name, time(value)?)),
            _ => self.until.push((name, time(value)?)),
        }
        Ok(())
    }

    /// Adds them to the filter.
    ///
    /// # Errors
    /// One line for the caller: the alias, and what it contradicts.
    pub(super) fn apply(self, filter: &mut LogFilter) -> Result<(), String> {
        if let Some(event) = self.event {
            match &filter.event {
                Some(other) if !is_same_event(other, &event) => return differs("eventSubCategory", "event"),
                Some(_) => {}
                None => filter.event = Some(event),
            }
        }
        match (self.success, filter.status) {
            (Some(true), None | Some(Status::Delivered)) => filter.status = Some(Status::Delivered),
            (Some(false), None) => filter.unsuccessful = true,
            (None, _) | (Some(false), Some(Status::Retrying | Status::Failed)) => {}
            (Some(_), Some(_)) => return differs("success", "status"),
        }
        apply_times(self.since, "since", &mut filter.since)?;
        apply_times(self.until, "until", &mut filter.until)
    }
}

fn apply_times(
    given: Vec<(&'static str, UnixMillis)>,
    canonical: &str,
    time: &mut Option<UnixMillis>,
) -> Result<(), String> {
    for (name, at) in given {
        match time {
            Some(other) if *other != at => return differs(name, canonical),
            _ => *time = Some(at),
        }
    }
    Ok(())
}

fn differs(name: &str, canonical: &str) -> Result<(), String> {
    Err(format!("query.{name}: expected no contradiction of query.{canonical}, whose other name it is"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::log_query::LogParameters;
    use super::*;

    fn filter(query: &str) -> Result<LogFilter, String> {
        LogParameters::parse(query).map(|parameters| parameters.query.filter)
    }

    #[test]
    fn other_names_mean_the_same() {
        assert_eq!(filter("eventSubCategory=reward-claim"), filter("event=reward-claim"));
        assert_eq!(filter("success=true"), filter("status=delivered"));
        let window = filter("since=2026-05-01T09:00:00Z&until=2026-05-02T09:00:00Z");
        assert_eq!(filter("fromDate=2026-05-01T09:00:00Z&toDate=2026-05-02T09:00:00Z"), window);
        assert_eq!(filter("startDate=2026-05-01T09:00:00Z&endDate=2026-05-02T09:00:00Z"), window);
        let unsuccessful = filter("success=false").unwrap();
        let wants = |status| unsuccessful.wants(status, "a", None, UnixMillis(1));
        assert_eq!(Status::ALL.map(wants), [false, true, false, true]);
    }

    #[test]
    fn an_event_is_found_by_either_of_its_names() {
        for query in ["event=reward-claim", "event=reward.claimed", "eventSubCategory=reward.claimed"] {
            let filter = filter(query).unwrap();
            let wants = |event| filter.wants(Status::Failed, event, None, UnixMillis(1));
            assert!(wants("reward-claim") && wants("reward.claimed") && !wants("reward.earned"), "{query}");
        }
    }

    #[test]
    fn names_that_agree_are_taken_and_contradictions_refused() {
        for good in [
            "event=reward.claimed&eventSubCategory=reward-claim",
            "status=failed&success=false",
            "success=false&status=retrying",
            "status=delivered&success=true",
            "since=2026-05-01T09:00:00Z&fromDate=2026-05-01T11:00:00%2B02:00&startDate=2026-05-01T09:00:00.000Z",
        ] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for (bad, named) in [
            ("event=reward.earned&eventSubCategory=reward-claim", "query.eventSubCategory: "),
            ("success=true&status=failed", "query.success: "),
            ("status=pending&success=false", "query.success: "),
            ("status=delivered&success=false", "query.success: "),
            ("since=2026-05-01T09:00:00Z&fromDate=2026-05-01T09:00:01Z", "query.fromDate: "),
            ("fromDate=2026-05-01T09:00:00Z&startDate=2026-05-01T09:00:01Z", "query.startDate: "),
            ("until=2026-05-01T09:00:00Z&endDate=2026-05-01T09:00:01Z", "query.endDate: "),
            ("toDate=2026-05-01T09:00:00Z&endDate=2026-05-01T09:00:01Z", "query.endDate: "),
            ("fromDate=2026-05-02T09:00:00Z&toDate=2026-05-01T09:00:00Z", "query.since: "),
            ("success=1", "query.success: expected true or false"),
            ("fromDate=2026-05-01", "query.fromDate: expected an ISO-8601 time"),
            ("eventSubCategory=", "query.eventSubCategory: expected an event type"),
            ("success=true&success=true", "query.success: given more than once"),
        ] {
            let error = filter(bad).unwrap_err();
            assert!(error.starts_with(named), "{bad}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_understood_or_refused(query in "(eventSubCategory|success|fromDate|since|status)=.{0,12}(&.{0,20})?") {
            let _ = filter(&query);
        }
    }
}
