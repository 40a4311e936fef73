//! Places for connections: so many in all, and so many of one address.
//!
//! Who waits for a place in all waits in the system's queue. Who comes from an address that has its number open is
//! sent away, for it would only keep a place from others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::throttle::network_of;
use crate::settings::admin::AdminSettings;

/// The places of one listener.
pub(super) struct Places {
    all: Arc<Semaphore>,
    by_address: Arc<ByAddress>,
    /// Their connections carry many callers, who cannot be told apart before they speak.
    proxies: Vec<IpNet>,
}

/// Open connections by address; of IPv6 by /64, which is what one caller has.
struct ByAddress {
    /// 0 for any number.
    max: u32,
    open: Mutex<HashMap<IpAddr, u32>>,
}

/// The place of one open connection; given back when dropped.
pub(super) struct Place {
    _of_all: OwnedSemaphorePermit,
    /// Where it is counted for an address.
    address: Option<(Arc<ByAddress>, IpAddr)>,
}

// === impl Places ===

impl Places {
    pub(super) fn new(limits: &AdminSettings) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.connections_max as usize)),
            by_address: Arc::new(ByAddress { max: limits.connections_per_address, open: Mutex::default() }),
            proxies: limits.trusted_proxies.clone(),
        }
    }

    /// Waits for a place in all.
    pub(super) async fn one(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// Gives it to a connection from `address`, unless that has too many.
    pub(super) fn give(&self, of_all: OwnedSemaphorePermit, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        if self.by_address.max == 0 || self.proxies.iter().any(|network| network.contains(&address)) {
            return Some(Place { _of_all: of_all, address: None });
        }
        let address = network_of(address);
        self.by_address.enter(address).then(|| {
            let counted = Some((Arc::clone(&self.by_address), address));
            Place { _of_all: of_all, address: counted }
        })
    }
}

// === impl ByAddress ===

impl ByAddress {
    fn enter(&self, address: IpAddr) -> bool {
        let mut table = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = table.entry(address).or_default();
        let fits = *open < self.max;
        *open += u32::from(fits);
        fits
    }

    fn leave(&self, address: IpAddr) {
        let mut table = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = table.get_mut(&address) {
            *open -= 1;
            if *open == 0 {
                table.remove(&address);
            }
        }
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((table, address)) = self.address.take() {
            table.leave(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(per_address: u32, proxies: &[&str]) -> Places {
        let trusted_proxies = proxies.iter().map(|network| network.parse().unwrap()).collect();
        let limits = AdminSettings {
            connections_per_address: per_address,
            trusted_proxies,
            ..AdminSettings::default()
        };
        Places::new(&limits)
    }

    async fn give(places: &Places, address: &str) -> Option<Place> {
        places.give(places.one().await.unwrap(), address.parse().unwrap())
    }

    #[tokio::test]
    async fn an_address_gets_its_number_and_what_it_gives_back() {
        let places = places(2, &["10.0.0.0/8"]);
        let (first, second) = (give(&places, "192.0.2.1").await, give(&places, "::ffff:192.0.2.1").await);
        assert!(first.is_some() && second.is_some());
        assert!(give(&places, "192.0.2.1").await.is_none(), "mapped or not, it is one address");
        let other = give(&places, "192.0.2.2").await;
        assert!(other.is_some());
        drop(first);
        let third = give(&places, "192.0.2.1").await;
        assert!(third.is_some() && give(&places, "192.0.2.1").await.is_none());
        let of_proxy: Vec<_> = [
            give(&places, "10.0.0.1").await,
            give(&places, "10.0.0.1").await,
            give(&places, "10.0.0.1").await,
        ]
        .into();
        assert!(of_proxy.iter().all(Option::is_some), "a trusted proxy stands for many");
        let six = [give(&places, "2001:db8::1").await, give(&places, "2001:db8::2").await];
        assert!(six.iter().all(Option::is_some) && give(&places, "2001:db8::3").await.is_none());
        assert!(give(&places, "2001:db8:0:1::1").await.is_some());
        drop((second, third, other, six, of_proxy));
        assert!(places.by_address.open.lock().unwrap().is_empty(), "nothing stays of those that are gone");
    }

    #[tokio::test]
    async fn none_counts_nothing() {
        let places = places(0, &[]);
        let open = [give(&places, "192.0.2.1").await, give(&places, "192.0.2.1").await];
        assert!(open.iter().all(Option::is_some) && places.by_address.open.lock().unwrap().is_empty());
    }
}
