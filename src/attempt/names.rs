//! Name lookup: an endpoint's host to its addresses.
//!
//! Owns the resolver and what it remembers. May not connect to anything but name servers; the guard judges the
//! addresses afterwards.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::{ResolverBuilder, TokioResolver};

use crate::domain::outcome::{Fault, FaultKind};

/// Longest trust in an address: an endpoint that moves is followed within this, whatever its TTL says.
const POSITIVE_TTL_MAX: Duration = Duration::from_secs(60);
/// Shortest: a TTL of 0 costs at most one lookup in this time for each name.
const POSITIVE_TTL_MIN: Duration = Duration::from_secs(5);
/// Longest trust in "no such name": a corrected record helps the next retry.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(5);
/// One question to one name server; asked twice, it stays well inside the request timeout's 30 s.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);
/// Questions per name server.
const QUERY_ATTEMPTS: usize = 2;
/// Names that are remembered.
const NAMES_MAX: u64 = 16_384;

/// Looks names up, by the system's hosts file and name servers, and remembers the answers for a while.
///
/// Shared by the workers: an answer that one has learnt serves the others.
pub(super) struct Names {
    resolver: TokioResolver,
}

// === impl Names ===

impl Names {
    /// Reads the system's configuration. Where there is none (`/etc/resolv.conf` is missing in some containers),
    /// only the hosts file and literal addresses work, and the reason is logged.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub(super) fn from_system() -> Result<Self, NetError> {
        let builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no name servers: only the hosts file and literal addresses can be used");
            let nothing = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
            TokioResolver::builder_with_config(nothing, TokioRuntimeProvider::default())
        });
        Ok(Self { resolver: with_our_options(builder).build()? })
    }

    /// The addresses of `host`, IPv4 and IPv6 in turn. A literal address is its own answer.
    ///
    /// # Errors
    /// A `Dns` fault.
    pub(super) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Fault> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let fault = |message: String| Fault::new(FaultKind::Dns, message);
        let mut name = Name::from_ascii(host).map_err(|error| fault(format!("{host}: {error}")))?;
        // An absolute name: the platform's own search domains must not make a customer's name resolve inside.
        name.set_fqdn(true);
        let found = self.resolver.lookup_ip(name).await.map_err(|error| fault(explain(host, &error)))?;
        let addresses = in_turn(found.iter());
        if addresses.is_empty() { Err(fault(format!("no address for {host}"))) } else { Ok(addresses) }
    }
}

fn with_our_options(
    mut builder: ResolverBuilder<TokioRuntimeProvider>,
) -> ResolverBuilder<TokioRuntimeProvider> {
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Always;
    options.timeout = QUERY_TIMEOUT;
    options.attempts = QUERY_ATTEMPTS;
    options.cache_size = NAMES_MAX;
    options.positive_min_ttl = Some(POSITIVE_TTL_MIN);
    options.positive_max_ttl = Some(POSITIVE_TTL_MAX);
    options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
    builder
}

/// IPv4, IPv6, IPv4...: a host without a working IPv6 path (or without IPv4) costs one failed try, not all of them.
fn in_turn(found: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let (v4, v6): (Vec<_>, Vec<_>) = found.partition(IpAddr::is_ipv4);
    let longer = v4.len().max(v6.len());
    let mut addresses = Vec::with_capacity(v4.len() + v6.len());
    for index in 0..longer {
        addresses.extend(v4.get(index));
        addresses.extend(v6.get(index));
    }
    addresses
}

fn explain(host: &str, error: &NetError) -> String {
    match error {
        _ if error.is_nx_domain() => format!("no address for {host}: the name does not exist"),
        _ if error.is_no_records_found() => format!("no address for {host}"),
        NetError::Timeout => format!("the name servers did not answer for {host}"),
        NetError::NoConnections => format!("no name server could be asked for {host}"),
        other => format!("looking up {host} failed: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let found = ["1.1.1.1", "1.1.1.2", "1.1.1.3", "2400::1"].map(address);
        let wanted = ["1.1.1.1", "2400::1", "1.1.1.2", "1.1.1.3"].map(address);
        assert_eq!(in_turn(found.into_iter()), wanted);
    }

    #[tokio::test]
    async fn literals_and_localhost_need_no_name_server() {
        let names = Names::from_system().unwrap();
        assert_eq!(names.addresses("192.0.2.1").await, Ok(vec![IpAddr::from([192, 0, 2, 1])]));
        assert_eq!(names.addresses("::1").await, Ok(vec!["::1".parse().unwrap()]));
        let localhost = names.addresses("localhost").await.unwrap();
        assert!(localhost.contains(&IpAddr::from([127, 0, 0, 1])), "{localhost:?}");
    }
}
