//! Statuses that a config wants to be retried although they are final otherwise (docs/WIRE.md section 4).

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A set of statuses out of [`RetryOn::CHOICES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u8);

// === impl RetryOn ===

impl RetryOn {
    /// What can be chosen: request timeout, too early, too many requests.
    pub const CHOICES: [u16; 3] = [408, 425, 429];

    /// None of them.
    pub const NONE: Self = Self(0);

    /// These statuses; `None` where one cannot be chosen.
    #[must_use]
    pub fn new(statuses: impl IntoIterator<Item = u16>) -> Option<Self> {
        statuses.into_iter().try_fold(Self::NONE, |set, status| Some(Self(set.0 | Self::bit(status)?)))
    }

    /// Whether `status` is in the set.
    #[must_use]
    pub fn contains(self, status: u16) -> bool {
        Self::bit(status).is_some_and(|bit| self.0 & bit != 0)
    }

    /// The statuses, ascending.
    #[must_use]
    pub fn statuses(self) -> Vec<u16> {
        Self::CHOICES.into_iter().filter(|status| self.contains(*status)).collect()
    }

    /// Whether nothing was chosen.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0 == 0
    }

    fn bit(status: u16) -> Option<u8> {
        Self::CHOICES.iter().position(|choice| *choice == status).map(|place| 1 << place)
    }
}

impl Serialize for RetryOn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.statuses().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RetryOn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Vec::<u16>::deserialize(deserializer)?)
            .ok_or_else(|| de::Error::custom("expected statuses out of 408, 425 and 429"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_round_trips_and_knows_only_its_choices() {
        let set = RetryOn::new([429, 408, 429]).unwrap();
        assert_eq!(serde_json::to_string(&set).unwrap(), "[408,429]");
        assert_eq!(serde_json::from_str::<RetryOn>("[429,408]").unwrap(), set);
        assert!(set.contains(408) && !set.contains(425) && !set.contains(503));
        assert_eq!(RetryOn::new([503]), None);
        assert!(serde_json::from_str::<RetryOn>("[404]").is_err());
        assert!(RetryOn::NONE.is_empty());
    }
}
