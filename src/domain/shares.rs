//! Limits over all replicas, divided by the live ones. Pure: every replica comes to the same division by itself,
//! from the names of the live replicas, without asking anybody.
//!
//! A limit is divided evenly. What does not divide goes, one each, to the replicas that rank first for the config
//! (rendezvous hashing: Thaler and Ravishankar, 1998). A limit below the number of replicas is therefore held by
//! as many of them as it counts, and the others park; when a replica leaves, only what it held moves.

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use super::ids::ConfigId;

/// Begins the name of a replica that sends nothing: it takes no part of any limit. A name is hexadecimal otherwise.
pub const BYSTANDER: char = 'x';

/// The live replicas, as one of them sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    own: String,
    live: BTreeSet<String>,
}

/// FNV-1a over 64 bits, finished so that every bit depends on every byte. Not the standard library's hash: all
/// replicas must agree, whatever they were built with.
struct Weight(u64);

// === impl Replicas ===

impl Replicas {
    /// `own` and nobody else.
    #[must_use]
    pub fn alone(own: &str) -> Self {
        Self::of(own, [])
    }

    /// The replicas of these consumers, `<replica>.<worker>`, and `own` in any case.
    #[must_use]
    pub fn of<'a>(own: &str, consumers: impl IntoIterator<Item = &'a str>) -> Self {
        let names = consumers.into_iter().filter_map(|consumer| consumer.split('.').next());
        let sends = |name: &&str| !name.is_empty() && !name.starts_with(BYSTANDER);
        let live = names.filter(sends).chain([own]).map(str::to_owned).collect();
        Self { own: own.to_owned(), live }
    }

    /// The same replica, with the replicas of these consumers.
    #[must_use]
    pub fn with<'a>(&self, consumers: impl IntoIterator<Item = &'a str>) -> Self {
        Self::of(&self.own, consumers)
    }

    /// How many there are, at least 1.
    #[must_use]
    pub fn count(&self) -> usize {
        self.live.len()
    }

    /// This replica's part of `limit` for `config`. The parts of all replicas add up to `limit`; 0 where others
    /// hold it.
    #[must_use]
    pub fn part(&self, limit: u32, config: ConfigId) -> u32 {
        let count = u32::try_from(self.live.len()).unwrap_or(u32::MAX).max(1);
        let (even, rest) = (limit / count, limit % count);
        even + u32::from(rest > 0 && self.rank(config) < rest)
    }

    /// How many replicas come before this one for `config`.
    fn rank(&self, config: ConfigId) -> u32 {
        let own = (Weight::of(&self.own, config), self.own.as_str());
        let before = |name: &&String| (Weight::of(name, config), name.as_str()) > own;
        u32::try_from(self.live.iter().filter(before).count()).unwrap_or(u32::MAX)
    }
}

// === impl Weight ===

impl Weight {
    fn of(replica: &str, config: ConfigId) -> u64 {
        let mut weight = Self(0xcbf2_9ce4_8422_2325);
        // Writing into a number cannot fail.
        let _ = write!(weight, "{replica} {config}");
        let mut mixed = weight.0;
        for (shift, factor) in [(30, 0xbf58_476d_1ce4_e5b9), (27, 0x94d0_49bb_1331_11eb)] {
            mixed = (mixed ^ (mixed >> shift)).wrapping_mul(factor);
        }
        mixed ^ (mixed >> 31)
    }
}

impl Write for Weight {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(number: u32) -> ConfigId {
        let mut bytes = [7; 12];
        bytes[8..].copy_from_slice(&number.to_be_bytes());
        ConfigId::from_bytes(bytes)
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("{:016x}", number * 0x9e37_79b9)).collect()
    }

    fn parts(names: &[String], limit: u32, config: ConfigId) -> Vec<u32> {
        let live = |own: &String| Replicas::of(own, names.iter().map(String::as_str));
        names.iter().map(|own| live(own).part(limit, config)).collect()
    }

    #[test]
    fn consumers_of_one_process_are_one_replica_and_bystanders_are_none() {
        let replicas = Replicas::of("aa", ["aa.0", "aa.1", "aa.1.3", "bb.0", "xcc.0", ""]);
        assert_eq!(replicas.count(), 2);
        assert_eq!(replicas.part(1_024, config(1)), 512);
        assert_eq!(Replicas::alone("aa").part(1_024, config(1)), 1_024);
    }

    #[test]
    fn small_limits_are_spread_over_the_replicas() {
        let names = names(4);
        let mut held = [0_u32; 4];
        for number in 0..1_000 {
            for (held, part) in held.iter_mut().zip(parts(&names, 1, config(number))) {
                *held += part;
            }
        }
        assert_eq!(held.iter().sum::<u32>(), 1_000);
        assert!(held.iter().all(|held| (180..320).contains(held)), "{held:?}");
    }

    proptest! {
        #[test]
        fn the_parts_are_the_limit_and_nearly_equal(count in 1_usize..12, limit in 1_u32..5_000, number: u32) {
            let parts = parts(&names(count), limit, config(number));
            prop_assert_eq!(parts.iter().sum::<u32>(), limit);
            let (least, most) = (*parts.iter().min().unwrap(), *parts.iter().max().unwrap());
            prop_assert!(most >= 1 && most - least <= 1);
        }

        #[test]
        fn when_one_leaves_only_what_it_held_moves(count in 2_usize..12, leaver: usize, number: u32) {
            let mut names = names(count);
            let before = parts(&names, 1, config(number));
            let leaver = leaver % count;
            names.remove(leaver);
            let after = parts(&names, 1, config(number));
            let mut kept = before.clone();
            let held = kept.remove(leaver);
            if held == 0 {
                prop_assert_eq!(kept, after);
            }
        }
    }
}
