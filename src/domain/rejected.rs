//! A stream entry that could not be understood, as `rejected` keeps it, and what repairing makes of it
//! (docs/WIRE.md section 12). The check is intake's own: what passes here passes there.

use std::fmt;
use std::str::FromStr;

use super::clock::UnixMillis;
use super::event::{EventFields, Rejection};
use super::event_mistakes::every_mistake;
use super::ids::{InvalidId, OrganisationId, ShardNumber, StreamId};

/// Where an entry lies in `rejected`: `rej_<shard>_<stream id>`. Greater is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RejectedId {
    /// Its id in the stream.
    pub id: StreamId,
    /// The shard.
    pub shard: ShardNumber,
}

/// What kind of mistake it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// A required field is not there.
    Missing,
    /// A field has not the form that it must have.
    Malformed,
    /// `data` is over its limit.
    TooLarge,
    /// It was begun again and again, and never came to an end.
    Poison,
    /// It left the stream before it was delivered.
    Lost,
}

/// An entry of `rejected`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedEntry {
    /// Its id there; its milliseconds are when it was rejected.
    pub id: RejectedId,
    /// Its id in `events`, as text: it may be one that no clock made.
    pub event_id: String,
    /// The field that was wrong, `id` for the entry as a whole.
    pub field: String,
    /// What was wrong and what is expected.
    pub problem: String,
    /// Its fields as they were written, at most 1,000.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A repair: per field of the producers' contract its new value; `None` takes it out.
pub type Fixes = Vec<(&'static str, Option<Vec<u8>>)>;

// === impl RejectedId ===

impl fmt::Display for RejectedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rej_{}_{}", self.shard.0, self.id)
    }
}

impl FromStr for RejectedId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let wrong = || InvalidId { expected: "rej_<shard>_<milliseconds>-<sequence>" };
        let (shard, id) =
            text.strip_prefix("rej_").and_then(|rest| rest.split_once('_')).ok_or_else(wrong)?;
        let shard = ShardNumber(shard.parse().map_err(|_| wrong())?);
        let id = Self { id: id.parse().map_err(|_| wrong())?, shard };
        // One text for one id: no signs, no zeros in front.
        if id.to_string() == text { Ok(id) } else { Err(wrong()) }
    }
}

// === impl RejectReason ===

impl RejectReason {
    /// All reasons.
    pub const ALL: [Self; 5] = [Self::Missing, Self::Malformed, Self::TooLarge, Self::Poison, Self::Lost];

    /// The word in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::TooLarge => "tooLarge",
            Self::Poison => "poison",
            Self::Lost => "lost",
        }
    }

    /// The reason with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

// === impl RejectedEntry ===

impl RejectedEntry {
    /// What kind of mistake it was, told from the sentence that was kept.
    #[must_use]
    pub fn reason(&self) -> RejectReason {
        let problem = self.problem.as_str();
        match self.field.as_str() {
            "id" if problem.starts_with("poison") => RejectReason::Poison,
            "id" if problem.starts_with("pending") => RejectReason::Lost,
            _ if problem.starts_with("missing") => RejectReason::Missing,
            _ if problem.contains("are accepted") => RejectReason::TooLarge,
            _ => RejectReason::Malformed,
        }
    }

    /// When it was rejected.
    #[must_use]
    pub const fn rejected_at(&self) -> UnixMillis {
        UnixMillis(self.id.id.ms)
    }

    /// The organisation that it names, if that is one.
    #[must_use]
    pub fn organisation(&self) -> Option<OrganisationId> {
        self.text("organisationId").and_then(|text| OrganisationId::new(text).ok())
    }

    /// The value of a field as text; of one that stands there twice the last, as intake takes it.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        let named = self.fields.iter().rev().find(|(other, _)| other == name.as_bytes());
        named.and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// The event's fields after the repair. Where it had none, it keeps the nonce and the time that its first id
    /// stood for, so that receivers that saw it before know it again.
    ///
    /// # Errors
    /// Every field that intake would still reject.
    pub fn repaired(&self, fixes: &Fixes, now: UnixMillis) -> Result<EventFields, Vec<Rejection>> {
        let mut fields = EventFields::default();
        let fixed = |name: &[u8]| fixes.iter().any(|(fix, _)| fix.as_bytes() == name);
        for (name, value) in self.fields.iter().filter(|(name, _)| !fixed(name)) {
            fields.set(name, value.clone());
        }
        for (name, value) in fixes {
            if let Some(value) = value {
                fields.set(name.as_bytes(), value.clone());
            }
        }
        let first = self.event_id.parse::<StreamId>().ok();
        if let (None, Some(first)) = (&fields.nonce, first) {
            fields.nonce = Some(format!("evt_{}_{first}", self.id.shard.0).into_bytes());
        }
        let by_a_clock = |first: &StreamId| first.ms > 0 && first.ms <= now.0;
        if let (None, Some(first)) = (&fields.timestamp, first.filter(by_a_clock)) {
            fields.timestamp = Some(UnixMillis(first.ms).to_string().into_bytes());
        }
        let mistakes = every_mistake(&fields);
        if mistakes.is_empty() { Ok(fields) } else { Err(mistakes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: &[(&str, &str)]) -> RejectedEntry {
        let bytes = |text: &str| text.as_bytes().to_vec();
        RejectedEntry {
            id: "rej_3_1777626000000-2".parse().unwrap(),
            event_id: "1777625999000-7".into(),
            field: "data".into(),
            problem: String::new(),
            fields: fields.iter().map(|(name, value)| (bytes(name), bytes(value))).collect(),
        }
    }

    fn named(fields: EventFields) -> Vec<(&'static str, String)> {
        let text = |value| String::from_utf8(value).unwrap();
        fields.into_named().into_iter().map(|(name, value)| (name, text(value))).collect()
    }

    const NOW: UnixMillis = UnixMillis(1_777_626_100_000);

    #[test]
    fn an_id_has_one_text() {
        let id = entry(&[]).id;
        assert_eq!((id.shard.0, id.id.seq, id.to_string().as_str()), (3, 2, "rej_3_1777626000000-2"));
        for wrong in
            ["", "rej_3", "rej_3_1", "rej_3_1-", "rej_03_1-1", "rej_3_+1-1", "rej_99999_1-1", "evt_3_1-1"]
        {
            assert!(wrong.parse::<RejectedId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_repaired_entry_keeps_the_nonce_and_time_of_its_first_id() {
        let broken = entry(&[("organisationId", "org_1"), ("event", "a.b"), ("data", "{"), ("colour", "1")]);
        let fixes: Fixes = vec![("data", Some(b"{}".to_vec()))];
        let wanted = [
            ("organisationId", "org_1"),
            ("event", "a.b"),
            ("data", "{}"),
            ("nonce", "evt_3_1777625999000-7"),
            ("timestamp", "2026-05-01T08:59:59.000Z"),
        ];
        assert_eq!(
            named(broken.repaired(&fixes, NOW).unwrap()),
            wanted.map(|(name, text)| (name, text.to_owned()))
        );
    }

    #[test]
    fn its_own_nonce_and_time_stay() {
        let own = [("nonce", "n"), ("timestamp", "2026-01-01T00:00:00Z"), ("data", "{}"), ("event", "a")];
        let fixes: Fixes = vec![("organisationId", Some(b"o".to_vec()))];
        let fields = named(entry(&own).repaired(&fixes, NOW).unwrap());
        assert!(fields.contains(&("nonce", "n".into())), "{fields:?}");
        assert!(fields.contains(&("timestamp", "2026-01-01T00:00:00Z".into())), "{fields:?}");
    }

    #[test]
    fn all_that_is_still_wrong_is_named_at_once() {
        let broken = entry(&[("organisationId", "a:b"), ("data", "[]"), ("nonce", ""), ("configId", "12")]);
        let still = |fixes: Fixes| -> Vec<&'static str> {
            broken.repaired(&fixes, NOW).unwrap_err().iter().map(|mistake| mistake.field).collect()
        };
        assert_eq!(still(vec![]), ["organisationId", "event", "data", "nonce", "configId"]);
        let fixes: Fixes = vec![("configId", None), ("nonce", None), ("event", Some(b"a".to_vec()))];
        assert_eq!(still(fixes), ["organisationId", "data"]);
    }

    #[test]
    fn reasons_are_told_from_what_intake_writes() {
        let reason = |rejection: &Rejection| {
            let field = rejection.field.into();
            RejectedEntry { field, problem: rejection.problem.clone(), ..entry(&[]) }.reason()
        };
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(crate::domain::event::DATA_MAX_BYTES));
        let broken = entry(&[("event", "A"), ("data", &large)]);
        let found = broken.repaired(&vec![], NOW).unwrap_err();
        let reasons: Vec<RejectReason> = found.iter().map(reason).collect();
        assert_eq!(reasons, [RejectReason::Missing, RejectReason::Malformed, RejectReason::TooLarge]);
    }
}
