//! How often somebody may ask: failed authentications by address, requests by token, searches for unknown tokens.
//!
//! Owns: the three tables, each bounded, each of this replica alone. Counting over all replicas would cost a trip
//! to Redis for each request, and what these limits protect is the replica. Time is given by the caller.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::token::TokenHash;

/// The window of both limits by the minute.
const MINUTE: Duration = Duration::from_secs(60);
/// Addresses whose failures are remembered; past it the one that failed longest ago is forgotten.
const ADDRESSES_MAX: usize = 4_096;
/// Longest pause that an address is given.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Tokens whose requests are counted; only valid ones come here, and those that rest are dropped first.
const TOKENS_MAX: usize = 65_536;
/// Unknown tokens that are remembered as such, and for how long.
const UNKNOWN_MAX: usize = 1_024;
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
/// Searches in Redis for tokens that this replica does not know, a second. New tokens come by the follower within
/// a tenth of a second; the search only bridges that.
const SEARCHES_PER_SECOND: f64 = 20.0;

/// Failed authentications by address.
#[derive(Debug)]
pub struct Failures {
    max: u32,
    by_address: Mutex<HashMap<IpAddr, Failing>>,
}

#[derive(Clone, Copy, Debug)]
struct Failing {
    /// Failures since the address was last left alone for a minute.
    count: u32,
    last: Instant,
    until: Instant,
}

/// Requests by token.
#[derive(Debug)]
pub struct TokenRates {
    per_minute: u32,
    by_token: Mutex<HashMap<String, Bucket>>,
}

/// What may still be spent.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

/// What is known of unknown tokens, and how many may still be looked for.
#[derive(Debug)]
pub struct Searches {
    inner: Mutex<Searched>,
}

#[derive(Debug)]
struct Searched {
    unknown: HashMap<TokenHash, Instant>,
    order: VecDeque<TokenHash>,
    bucket: Bucket,
}

/// Whether an unknown token is looked for in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// It is.
    Go,
    /// It was looked for a moment ago and does not exist.
    KnownUnknown,
    /// Too many were looked for in this second.
    Spent,
}

// === impl Failures ===

impl Failures {
    /// With `max` failures a minute that cost nothing; 0 slows nobody.
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self { max, by_address: Mutex::default() }
    }

    /// How long the address has to wait before a bad token of its is looked at again.
    #[must_use]
    pub fn pause(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let table = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let until = table.get(&network_of(address))?.until;
        until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// Counts a failure. From the limit on each one doubles the pause: 1 s, 2 s, 4 s, at most a minute.
    pub fn count(&self, address: IpAddr, now: Instant) {
        if self.max == 0 {
            return;
        }
        let mut table = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network_of(address);
        if table.len() >= ADDRESSES_MAX && !table.contains_key(&address) {
            forget_one(&mut table, now);
        }
        let failing = table.entry(address).or_insert(Failing { count: 0, last: now, until: now });
        // Judged from the pause's end: who waits it out and fails again is not new.
        if now.saturating_duration_since(failing.until.max(failing.last)) >= MINUTE {
            failing.count = 0;
        }
        failing.count = failing.count.saturating_add(1);
        failing.last = now;
        if failing.count >= self.max {
            let doublings = (failing.count - self.max).min(6);
            failing.until = now + Duration::from_secs(1 << doublings).min(PAUSE_MAX);
        }
    }

    /// Addresses that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Drops every address that was quiet for a minute; where there is none, the one that failed longest ago.
fn forget_one(table: &mut HashMap<IpAddr, Failing>, now: Instant) {
    table.retain(|_, failing| now.saturating_duration_since(failing.until.max(failing.last)) < MINUTE);
    if table.len() >= ADDRESSES_MAX
        && let Some(oldest) =
            table.iter().min_by_key(|(_, failing)| failing.last).map(|(address, _)| *address)
    {
        table.remove(&oldest);
    }
}

/// Whose failures count together: an IPv4 address, or the /64 that one IPv6 host commonly has whole.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

// === impl TokenRates ===

impl TokenRates {
    /// With `per_minute` requests for each token; 0 for any number.
    #[must_use]
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute, by_token: Mutex::default() }
    }

    /// Takes one request of a token.
    ///
    /// # Errors
    /// How long to wait until there is one.
    pub fn take(&self, token: &str, now: Instant) -> Result<(), Duration> {
        if self.per_minute == 0 {
            return Ok(());
        }
        let (most, rate) = (f64::from(self.per_minute), f64::from(self.per_minute) / MINUTE.as_secs_f64());
        let mut table = self.by_token.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= TOKENS_MAX {
            table.retain(|_, bucket| now.saturating_duration_since(bucket.at) < MINUTE);
        }
        if table.len() >= TOKENS_MAX {
            table.clear();
        }
        if !table.contains_key(token) {
            table.insert(token.to_owned(), Bucket { left: most, at: now });
        }
        table.get_mut(token).map_or(Ok(()), |bucket| bucket.take(most, rate, now))
    }
}

// === impl Bucket ===

impl Bucket {
    fn take(&mut self, most: f64, per_second: f64, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * per_second).min(most);
        self.at = now;
        if self.left >= 1.0 {
            self.left -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - self.left) / per_second))
        }
    }
}

// === impl Searches ===

impl Searches {
    /// With nothing known.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let bucket = Bucket { left: SEARCHES_PER_SECOND, at: now };
        Self { inner: Mutex::new(Searched { unknown: HashMap::new(), order: VecDeque::new(), bucket }) }
    }

    /// Whether to look for this token.
    #[must_use]
    pub fn ask(&self, hash: &TokenHash, now: Instant) -> Search {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            inner.unknown.get(hash).is_some_and(|at| now.saturating_duration_since(*at) < UNKNOWN_FOR);
        if known {
            Search::KnownUnknown
        } else if inner.bucket.take(SEARCHES_PER_SECOND, SEARCHES_PER_SECOND, now).is_ok() {
            Search::Go
        } else {
            Search::Spent
        }
    }

    /// Remembers that a token does not exist.
    pub fn remember_unknown(&self, hash: TokenHash, now: Instant) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.unknown.insert(hash.clone(), now).is_none() {
            inner.order.push_back(hash);
        }
        while inner.order.len() > UNKNOWN_MAX {
            if let Some(oldest) = inner.order.pop_front() {
                inner.unknown.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn v4(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn an_address_that_goes_on_failing_waits_ever_longer_and_is_forgiven() {
        let (failures, now) = (Failures::new(10), Instant::now());
        for _ in 0..9 {
            failures.count(v4(1), now);
        }
        assert_eq!(failures.pause(v4(1), now), None);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            failures.count(v4(1), now);
            assert_eq!(failures.pause(v4(1), now), Some(Duration::from_secs(seconds)));
        }
        assert_eq!(failures.pause(v4(2), now), None, "others are not slowed");
        let later = now + Duration::from_secs(60);
        assert_eq!(failures.pause(v4(1), later), None);
        failures.count(v4(1), later);
        assert!(failures.pause(v4(1), later).is_some(), "who waits it out and fails again is not new");
        let quiet = later + Duration::from_secs(121);
        failures.count(v4(1), quiet);
        assert_eq!(failures.pause(v4(1), quiet), None, "a quiet minute is forgiven");
        let off = Failures::new(0);
        (0..100).for_each(|_| off.count(v4(1), now));
        assert!(off.pause(v4(1), now).is_none() && off.is_empty());
    }

    #[test]
    fn a_v6_network_counts_as_one_and_a_mapped_v4_as_itself() {
        let (failures, now) = (Failures::new(2), Instant::now());
        failures.count("2001:db8:1:2::1".parse().unwrap(), now);
        failures.count("2001:db8:1:2:ffff::9".parse().unwrap(), now);
        assert!(failures.pause("2001:db8:1:2:3:4:5:6".parse().unwrap(), now).is_some());
        assert!(failures.pause("2001:db8:1:3::1".parse().unwrap(), now).is_none());
        failures.count("::ffff:192.0.2.1".parse().unwrap(), now);
        failures.count("192.0.2.1".parse().unwrap(), now);
        assert!(failures.pause("192.0.2.1".parse().unwrap(), now).is_some());
        assert!(failures.pause("::ffff:192.0.2.2".parse().unwrap(), now).is_none());
    }

    #[test]
    fn the_table_of_addresses_is_bounded_and_the_newest_stay() {
        let (failures, begun) = (Failures::new(1), Instant::now());
        for number in 0..10_000 {
            failures.count(v4(number), begun + Duration::from_millis(u64::from(number)));
        }
        let now = begun + Duration::from_secs(10);
        assert_eq!(failures.len(), ADDRESSES_MAX);
        assert!(failures.pause(v4(9_999), now).is_some());
        let much_later = now + Duration::from_secs(300);
        failures.count(v4(1), much_later);
        assert_eq!(failures.len(), 1, "what is over is dropped first");
    }

    #[test]
    fn a_token_gets_its_requests_a_minute() {
        let (rates, now) = (TokenRates::new(60), Instant::now());
        for _ in 0..60 {
            assert_eq!(rates.take("a", now), Ok(()));
        }
        assert_eq!(rates.take("a", now), Err(Duration::from_secs(1)));
        assert_eq!(rates.take("b", now), Ok(()), "another token has its own");
        assert_eq!(rates.take("a", now + Duration::from_secs(1)), Ok(()));
        assert!(rates.take("a", now + Duration::from_secs(1)).is_err());
        assert!((0..10_000).all(|_| TokenRates::new(0).take("a", now).is_ok()));
    }

    #[test]
    fn unknown_tokens_are_looked_for_a_few_times_a_second_and_once_each() {
        let now = Instant::now();
        let searches = Searches::new(now);
        let hash = |number: usize| TokenHash::stored(&number.to_string());
        assert_eq!(searches.ask(&hash(0), now), Search::Go);
        searches.remember_unknown(hash(0), now);
        assert_eq!(searches.ask(&hash(0), now), Search::KnownUnknown);
        let went = (1..1_000).filter(|n| searches.ask(&hash(*n), now) == Search::Go).count();
        assert_eq!(went, 19);
        let later = now + UNKNOWN_FOR;
        assert_eq!(searches.ask(&hash(0), later), Search::Go, "after a while it is looked for again");
        for number in 0..10 * UNKNOWN_MAX {
            searches.remember_unknown(hash(number), later);
        }
        let inner = searches.inner.lock().unwrap();
        assert_eq!((inner.unknown.len(), inner.order.len()), (UNKNOWN_MAX, UNKNOWN_MAX));
    }
}
