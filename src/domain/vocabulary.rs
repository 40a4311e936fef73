//! The two vocabularies of event types (docs/WIRE.md section 5): dotted names, and the hyphenated ones of the
//! same occurrences. The pairs stand in the catalogue.

use super::catalogue::ALIASES;

/// The other name of an event type, in whichever vocabulary `name` is; `None` where there is none.
#[must_use]
pub fn other_name(name: &str) -> Option<&'static str> {
    ALIASES.iter().find_map(|(hyphenated, dotted)| match name {
        _ if name == *hyphenated => Some(*dotted),
        _ if name == *dotted => Some(*hyphenated),
        _ => None,
    })
}

/// The hyphenated name of a dotted one; `None` where there is none, and for a name that is hyphenated already.
#[must_use]
pub fn hyphenated(name: &str) -> Option<&'static str> {
    ALIASES.iter().find(|(_, dotted)| name == *dotted).map(|(hyphenated, _)| *hyphenated)
}

/// The dotted name of a hyphenated one; any other name as it is.
#[must_use]
pub fn dotted(name: &str) -> &str {
    ALIASES.iter().find(|(hyphenated, _)| name == *hyphenated).map_or(name, |(_, dotted)| dotted)
}

/// Whether both name the same event type.
#[must_use]
pub fn is_same_event(a: &str, b: &str) -> bool {
    a == b || other_name(a) == Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_one_event_by_either_name() {
        assert_eq!(other_name("reward-claim"), Some("reward.claimed"));
        assert_eq!(other_name("reward.claimed"), Some("reward-claim"));
        assert_eq!((hyphenated("reward.claimed"), hyphenated("reward-claim")), (Some("reward-claim"), None));
        assert_eq!((dotted("auth.email"), dotted("post-like")), ("user.authenticated", "post-like"));
        assert!(is_same_event("reward-claim", "reward.claimed") && is_same_event("a.b", "a.b"));
        assert!(!is_same_event("reward-claim", "reward.earned") && !is_same_event("a-b", "a.b"));
    }

    /// Names are compared as one or the other: a name in two pairs would make three names one event.
    #[test]
    fn no_name_stands_in_two_pairs() {
        let mut names: Vec<&str> = ALIASES.iter().flat_map(|(a, b)| [*a, *b]).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    }
}
