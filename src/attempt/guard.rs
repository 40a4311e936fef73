//! The guard: which addresses a delivery may go to.
//!
//! # Motivation
//!
//! Whoever registers an endpoint chooses where this process sends requests from inside the platform's network.
//! Without a guard, a customer's URL could reach what only the platform may reach: a cloud's metadata service
//! (169.254.169.254), Redis on loopback, an admin page on a private address; and the log would show the answer
//! to the customer. This is server-side request forgery, and denying it is the default.
//!
//! # Theory of operation
//!
//! - The check is made on **addresses, when a connection is opened**, never on names: a name that was harmless
//!   when the config was put can point elsewhere a second later (DNS rebinding). Name lookup gives addresses,
//!   the guard judges each, and only those that it permits are connected to: no second lookup happens between
//!   the check and the connect. The peer's address is judged once more after the connect.
//! - A literal address in a URL takes the same path as a looked-up one. The URL parser has already folded
//!   `0x7f.1`, `2130706433` and the like into plain addresses.
//! - An IPv6 address can carry an IPv4 address that some router, tunnel or kernel will unwrap. Such addresses
//!   are judged twice: as what they are, and as the IPv4 address inside.
//! - Redirects are never followed, so a permitted endpoint cannot send us to a denied one.
//! - Connections that are kept alive were judged when they were opened; settings do not change while the
//!   process runs.
//! - [`DENIED`] is the one table. The operator's `--allow-target` networks win over it; an IPv4 network there
//!   also covers the IPv6 forms that do nothing but carry an address of it.
//!
//! What the guard cannot see: a public address that is forwarded inwards by the platform's own network, and an
//! NAT64 prefix of the operator's own choice (RFC 6052 section 2.2). Those need a firewall.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::domain::outcome::{Fault, FaultKind};

/// A network that deliveries may not go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeniedNetwork {
    /// The network.
    pub network: IpNet,
    /// What it is, and the document that says so.
    pub reason: &'static str,
}

/// Judges addresses.
#[derive(Clone, Debug)]
pub struct Guard {
    allowed: Vec<IpNet>,
}

/// Why an address may not be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The address as it was resolved or written.
    pub address: IpAddr,
    /// The IPv4 address inside `address` that is denied, where it is not `address` itself.
    pub carries: Option<Ipv4Addr>,
    /// The network that it lies in.
    pub denied: DeniedNetwork,
}

/// Every network that is denied, IPv4 first; more specific ones stand before those that contain them.
///
/// Sources: IANA's special-purpose address registries (RFC 6890) and the documents named in each row.
pub const DENIED: [DeniedNetwork; 34] = [
    v4([0, 0, 0, 0], 8, "this host, RFC 1122"),
    v4([10, 0, 0, 0], 8, "private, RFC 1918"),
    v4([100, 64, 0, 0], 10, "carrier-grade NAT, RFC 6598"),
    v4([127, 0, 0, 0], 8, "loopback, RFC 1122"),
    v4([169, 254, 0, 0], 16, "link-local and cloud metadata, RFC 3927"),
    v4([172, 16, 0, 0], 12, "private, RFC 1918"),
    v4([192, 0, 0, 0], 24, "protocol assignments, RFC 6890"),
    v4([192, 0, 2, 0], 24, "documentation TEST-NET-1, RFC 5737"),
    v4([192, 88, 99, 0], 24, "6to4 relay, RFC 7526"),
    v4([192, 168, 0, 0], 16, "private, RFC 1918"),
    v4([198, 18, 0, 0], 15, "benchmarking, RFC 2544"),
    v4([198, 51, 100, 0], 24, "documentation TEST-NET-2, RFC 5737"),
    v4([203, 0, 113, 0], 24, "documentation TEST-NET-3, RFC 5737"),
    v4([224, 0, 0, 0], 4, "multicast, RFC 5771"),
    v4([255, 255, 255, 255], 32, "broadcast, RFC 919"),
    v4([240, 0, 0, 0], 4, "reserved, RFC 1112"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified, RFC 4291"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback, RFC 4291"),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "local-use NAT64, RFC 8215"),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard, RFC 6666"),
    v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64, "dummy prefix, RFC 9780"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo, RFC 4380"),
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, "benchmarking, RFC 5180"),
    v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28, "ORCHID, RFC 4843"),
    v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28, "ORCHIDv2, RFC 7343"),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation, RFC 3849"),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation, RFC 9637"),
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "segment routing, RFC 9602"),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, "cloud metadata, inside RFC 4193"),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique local, RFC 4193"),
    v6([0xfe00, 0, 0, 0, 0, 0, 0, 0], 9, "reserved, RFC 4291"),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local, RFC 4291"),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local, RFC 3879"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast, RFC 4291"),
];

const fn v4(octets: [u8; 4], prefix: u8, reason: &'static str) -> DeniedNetwork {
    let [a, b, c, d] = octets;
    let network = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix));
    DeniedNetwork { network, reason }
}

const fn v6(segments: [u16; 8], prefix: u8, reason: &'static str) -> DeniedNetwork {
    let [a, b, c, d, e, f, g, h] = segments;
    let network = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix));
    DeniedNetwork { network, reason }
}

// === impl Guard ===

impl Guard {
    /// A guard that lets `allowed` through although [`DENIED`] holds it.
    #[must_use]
    pub const fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// Judges one address.
    ///
    /// # Errors
    /// The denial, when it may not be connected to.
    pub fn judge(&self, address: IpAddr) -> Result<(), Denial> {
        if self.allows(address) {
            return Ok(());
        }
        if let Some(denied) = denied_network(address) {
            return Err(Denial { address, carries: None, denied });
        }
        let IpAddr::V6(outer) = address else { return Ok(()) };
        match carried_v4(outer) {
            Some(inner) if !self.allows(inner.into()) => match denied_network(inner.into()) {
                Some(denied) => Err(Denial { address, carries: Some(inner), denied }),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Those of `addresses` that may be connected to, in their order.
    ///
    /// # Errors
    /// A `Blocked` fault that explains the first denial, when none may be.
    pub fn permit(&self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Fault> {
        let mut first_denial = None;
        let mut permitted = Vec::with_capacity(addresses.len());
        for address in addresses {
            match self.judge(*address) {
                Ok(()) => permitted.push(*address),
                Err(denial) => first_denial = first_denial.or(Some(denial)),
            }
        }
        match first_denial {
            Some(denial) if permitted.is_empty() => Err(denial.into()),
            _ => Ok(permitted),
        }
    }

    fn allows(&self, address: IpAddr) -> bool {
        self.allowed.iter().any(|network| network.contains(&address))
    }
}

fn denied_network(address: IpAddr) -> Option<DeniedNetwork> {
    DENIED.iter().find(|denied| denied.network.contains(&address)).copied()
}

/// The IPv4 address that an IPv6 address stands for somewhere on its way.
fn carried_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let pair = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match address.segments() {
        // Compatible (RFC 4291 section 2.5.5.1), mapped (2.5.5.2), translated (RFC 2765 section 2.1).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => pair(high, low),
        // NAT64's well-known prefix (RFC 6052 section 2.1).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => pair(high, low),
        // 6to4 (RFC 3056 section 2).
        [0x2002, high, low, ..] => pair(high, low),
        // ISATAP's interface id under any prefix (RFC 5214 section 6.1).
        [.., 0 | 0x200, 0x5efe, high, low] => pair(high, low),
        _ => None,
    }
}

// === impl Denial ===

/// `10.0.0.1 lies in 10.0.0.0/8 (private, RFC 1918), which deliveries may not reach without --allow-target`
impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DeniedNetwork { network, reason } = self.denied;
        match self.carries {
            None => write!(f, "{} lies", self.address)?,
            Some(inner) => write!(f, "{} carries {inner}, which lies", self.address)?,
        }
        write!(f, " in {network} ({reason}): deliveries may not reach it without --allow-target")
    }
}

impl From<Denial> for Fault {
    fn from(denial: Denial) -> Self {
        Self::new(FaultKind::Blocked, denial)
    }
}

#[cfg(test)]
mod tests;
