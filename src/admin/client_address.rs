//! Where a request comes from: the connection's other end, or what trusted proxies say of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// The other end of a connection; the listener puts it into each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// The address that a request is counted for. `X-Forwarded-For` is read from its end, where the nearest proxy
/// wrote, past every trusted address; the first other one is the caller. A value that is no address ends the
/// reading: what stands before it could be anybody's invention.
#[must_use]
pub fn client_address(peer: Option<Peer>, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |Peer(peer)| peer.ip().to_canonical());
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let values: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    for word in values.iter().rev().flat_map(|value| value.rsplit(',')) {
        if !is_trusted(&address) {
            break;
        }
        match parse(word.trim()) {
            Some(said) => address = said,
            None => break,
        }
    }
    address
}

/// An address, with or without a port, as proxies write it.
fn parse(word: &str) -> Option<IpAddr> {
    let bare = word.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(word);
    let address = bare.parse::<IpAddr>().ok();
    address
        .or_else(|| word.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        client_address(Some(Peer(peer.parse().unwrap())), &headers, &trusted).to_string()
    }

    #[test]
    fn a_forwarded_address_counts_only_where_a_trusted_proxy_said_it() {
        let ours = ["10.0.0.0/8", "fd00::/8"];
        for (peer, forwarded, trusted, wanted) in [
            ("10.0.0.1:5", &[][..], &ours[..], "10.0.0.1"),
            ("10.0.0.1:5", &["192.0.2.1"], &[], "10.0.0.1"),
            ("10.0.0.1:5", &["192.0.2.1"], &ours, "192.0.2.1"),
            ("203.0.113.9:5", &["192.0.2.1"], &ours, "203.0.113.9"),
            ("10.0.0.1:5", &["198.51.100.7, 192.0.2.1"], &ours, "192.0.2.1"),
            ("10.0.0.1:5", &["198.51.100.7, 192.0.2.1, 10.9.9.9"], &ours, "192.0.2.1"),
            ("10.0.0.1:5", &["198.51.100.7", "192.0.2.1"], &ours, "192.0.2.1"),
            ("10.0.0.1:5", &["192.0.2.1, rubbish"], &ours, "10.0.0.1"),
            ("10.0.0.1:5", &["10.1.1.1"], &ours, "10.1.1.1"),
            ("[fd00::1]:5", &["[2001:db8::1]:443"], &ours, "2001:db8::1"),
            ("[::ffff:10.0.0.1]:5", &["192.0.2.1:80"], &ours, "192.0.2.1"),
        ] {
            assert_eq!(of(peer, forwarded, trusted), wanted, "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn a_request_without_a_peer_has_the_unspecified_address() {
        assert_eq!(client_address(None, &HeaderMap::new(), &[]).to_string(), "0.0.0.0");
    }
}
