//! The table of denied networks, by property: every address of each is denied, in every form that carries it.

use super::*;
use proptest::prelude::*;

fn judge(address: impl Into<IpAddr>) -> Result<(), Denial> {
    Guard::new(Vec::new()).judge(address.into())
}

fn address_in(network: IpNet, random: u128) -> IpAddr {
    match network {
        IpNet::V4(network) => {
            let mask = u32::MAX.checked_shr(u32::from(network.prefix_len())).unwrap_or(0);
            Ipv4Addr::from(u32::from(network.network()) | (random as u32 & mask)).into()
        }
        IpNet::V6(network) => {
            let mask = u128::MAX.checked_shr(u32::from(network.prefix_len())).unwrap_or(0);
            Ipv6Addr::from(u128::from(network.network()) | (random & mask)).into()
        }
    }
}

/// Every IPv6 form that carries `inner`.
fn carriers(inner: Ipv4Addr, random: u128) -> Vec<Ipv6Addr> {
    let low = u128::from(u32::from(inner));
    let public_prefix = 0x2a00_1450_4001_0000_u128 << 64 | (random & 0xffff) << 64;
    [
        low,
        0xffff << 32 | low,
        0xffff << 48 | low,
        0x0064_ff9b_u128 << 96 | low,
        0x2002_u128 << 112 | low << 80 | (random & ((1 << 80) - 1)),
        public_prefix | 0x0000_5efe << 32 | low,
        public_prefix | 0x0200_5efe << 32 | low,
    ]
    .map(Ipv6Addr::from)
    .to_vec()
}

const PUBLIC_V4: [Ipv4Addr; 8] = [
    Ipv4Addr::new(1, 1, 1, 1),
    Ipv4Addr::new(8, 8, 8, 8),
    Ipv4Addr::new(100, 128, 0, 0),
    Ipv4Addr::new(172, 32, 0, 1),
    Ipv4Addr::new(169, 253, 255, 255),
    Ipv4Addr::new(192, 0, 1, 1),
    Ipv4Addr::new(198, 20, 0, 0),
    Ipv4Addr::new(223, 255, 255, 255),
];

#[test]
fn public_addresses_pass_in_every_form() {
    for address in PUBLIC_V4 {
        assert_eq!(judge(address), Ok(()));
        for carrier in carriers(address, 7) {
            assert_eq!(judge(carrier), Ok(()), "{carrier}");
        }
    }
    for address in ["2606:4700::1111", "2a00:1450:4001::1", "2001:4860:4860::8888", "2400::1"] {
        assert_eq!(judge(address.parse::<IpAddr>().unwrap()), Ok(()), "{address}");
    }
}

#[test]
fn the_edges_of_each_network_are_denied() {
    for denied in DENIED {
        for address in [denied.network.network(), denied.network.broadcast()] {
            assert!(judge(address).is_err(), "{address} of {}", denied.network);
        }
        assert_eq!(denied.network, denied.network.trunc(), "a network is written by its first address");
    }
}

#[test]
fn well_known_targets_of_forgery_are_denied_with_their_reason() {
    for (address, word) in [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::127.0.0.1", "loopback"),
        ("169.254.169.254", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("64:ff9b::a9fe:a9fe", "metadata"),
        ("0.0.0.0", "this host"),
        ("::", "unspecified"),
        ("255.255.255.255", "broadcast"),
        ("100.100.100.200", "carrier-grade"),
        ("2002:7f00:1::", "loopback"),
        ("fe80::5efe:10.0.0.1", "link-local"),
        ("2a00:1450::5efe:10.0.0.1", "private"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "Teredo"),
        ("::ffff:0:10.0.0.1", "private"),
    ] {
        let denial = judge(address.parse::<IpAddr>().unwrap()).unwrap_err();
        assert!(denial.denied.reason.contains(word), "{address}: {denial}");
    }
}

#[test]
fn allowed_networks_win_and_cover_what_only_carries_them() {
    let guard = |network: &str| Guard::new(vec![network.parse().unwrap()]);
    let judge = |guard: &Guard, address: &str| guard.judge(address.parse().unwrap()).is_ok();
    let loopback = guard("127.0.0.0/8");
    for address in ["127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1"] {
        assert!(judge(&loopback, address), "{address}");
    }
    for address in ["::1", "10.0.0.1", "::ffff:10.0.0.1"] {
        assert!(!judge(&loopback, address), "{address}");
    }
    // The network around an inner address is not opened by it.
    assert!(!judge(&guard("10.0.0.0/8"), "fe80::5efe:10.0.0.1"));
    assert!(judge(&guard("::1/128"), "::1"));
    assert!(judge(&guard("::ffff:127.0.0.1/128"), "::ffff:127.0.0.1"));
    assert!(!judge(&guard("::ffff:127.0.0.1/128"), "127.0.0.1"));
}

#[test]
fn what_is_permitted_is_kept_and_a_full_denial_says_what_to_do() {
    let guard = Guard::new(Vec::new());
    let (private, public) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([8, 8, 8, 8]));
    assert_eq!(guard.permit(&[private, public]), Ok(vec![public]));
    let fault = guard.permit(&[private]).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Blocked);
    assert_eq!(
        fault.message,
        "10.0.0.1 lies in 10.0.0.0/8 (private, RFC 1918): deliveries may not reach it without --allow-target"
    );
    let longest = guard.permit(&["2a00:1450:ffff:ffff:200:5efe:c0a8:ffff".parse().unwrap()]).unwrap_err();
    assert!(longest.message.ends_with("--allow-target"), "{}", longest.message);
}

proptest! {
    #[test]
    fn every_address_of_every_denied_network_is_denied(index in 0..DENIED.len(), random: u128) {
        let address = address_in(DENIED[index].network, random);
        prop_assert!(judge(address).is_err(), "{} of {}", address, DENIED[index].network);
    }

    #[test]
    fn every_form_that_carries_a_denied_address_is_denied(index in 0..16_usize, random: u128) {
        let IpAddr::V4(inner) = address_in(DENIED[index].network, random) else { panic!("IPv4 stands first") };
        for carrier in carriers(inner, random) {
            prop_assert!(judge(carrier).is_err(), "{} carries {}", carrier, inner);
        }
    }

    #[test]
    fn every_address_is_judged_and_what_the_standard_library_calls_private_is_denied(random: u128, short: u32) {
        let v4 = Ipv4Addr::from(short);
        if v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast()
            || v4.is_documentation() || v4.is_unspecified() {
            prop_assert!(judge(v4).is_err(), "{}", v4);
        }
        let v6 = Ipv6Addr::from(random);
        if v6.is_multicast() || v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_loopback() {
            prop_assert!(judge(v6).is_err(), "{}", v6);
        }
    }

    #[test]
    fn an_allowed_network_lets_exactly_itself_through(random: u128, prefix in 9_u8..=32) {
        let address = Ipv4Addr::from(0x0a00_0000 | (random as u32 & 0x00ff_ffff));
        let network = Ipv4Net::new(address, prefix).unwrap().trunc();
        let guard = Guard::new(vec![network.into()]);
        prop_assert!(guard.judge(address.into()).is_ok());
        let outside = Ipv4Addr::from(u32::from(address) ^ (1 << (32 - u32::from(prefix))));
        prop_assert!(guard.judge(outside.into()).is_err());
    }
}
