//! What a config subscribes to: one event type, all types below a word (`reward.*`), or everything (`*`)
//! (docs/WIRE.md section 5).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{EventType, InvalidConfig};

/// One entry of a config's `events`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subscription {
    /// `*`: every type.
    All,
    /// `<type>.*`: every type that begins with `<type>.`; the text is kept whole.
    Below(Arc<str>),
    /// This type, exactly and case-sensitively.
    Exact(EventType),
}

// === impl Subscription ===

impl Subscription {
    /// Parses an entry: an event type, `*`, or an event type and `.*` behind it.
    ///
    /// # Errors
    /// When it is none of these; says so of a wildcard that is written in another way.
    pub fn new(text: &str) -> Result<Self, InvalidConfig> {
        if text == "*" {
            return Ok(Self::All);
        }
        if let Some(above) = text.strip_suffix(".*")
            && EventType::has_shape(above)
        {
            return Ok(Self::Below(text.into()));
        }
        if text.contains('*') {
            let forms =
                "expected a wildcard as '*' or 'reward.*': a whole type before '.*', and no other form";
            return Err(InvalidConfig(forms.to_owned()));
        }
        EventType::new(text).map(Self::Exact)
    }

    /// The text, as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::All => "*",
            Self::Below(text) => text,
            Self::Exact(event) => event.as_str(),
        }
    }

    /// Whether it covers the type `name`. The other name that a type may have is the caller's to ask for.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Below(text) => text.strip_suffix('*').is_some_and(|above| name.starts_with(above)),
            Self::Exact(event) => event.as_str() == name,
        }
    }
}

impl fmt::Display for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Subscription {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Subscription {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(|invalid| serde::de::Error::custom(invalid.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wildcard_is_everything_or_what_is_below_a_type() {
        let covers = |pattern: &str, name: &str| Subscription::new(pattern).unwrap().covers(name);
        assert!(covers("*", "post-like"));
        assert!(covers("reward.*", "reward.earned") && covers("reward.*", "reward.a.b"));
        assert!(!covers("reward.*", "reward") && !covers("reward.*", "rewards.earned"));
        assert!(!covers("reward.*", "reward-claim"));
        assert!(covers("reward.earned", "reward.earned") && !covers("reward.earned", "reward.earned2"));
        assert!(covers("webhook.config.*", "webhook.config.disabled"));
    }

    #[test]
    fn any_other_wildcard_is_refused() {
        for text in [
            "**",
            "reward*",
            "reward-*",
            "reward_*",
            "*.earned",
            "reward.*.x",
            ".*",
            "reward..*",
            " *",
            "Reward.*",
        ] {
            let problem = Subscription::new(text).unwrap_err().0;
            assert!(problem.contains("wildcard"), "{text}: {problem}");
        }
        let long = format!("{}.*", "a".repeat(129));
        assert!(Subscription::new(&long).is_err());
        assert!(Subscription::new("").is_err() && Subscription::new("Reward").is_err());
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_kept_as_it_was_written(text in "[a-z.*_-]{0,12}") {
            if let Ok(subscription) = Subscription::new(&text) {
                prop_assert_eq!(subscription.as_str(), text.as_str());
                prop_assert!(!text.contains('*') || text == "*" || text.ends_with(".*"));
            }
        }
    }
}
