//! Ports for servers that the tests start.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below what Linux (32768) and macOS (49152) take for outgoing connections: those would take a port before the server
/// that it was meant for.
const FIRST: u16 = 10_240;
const COUNT: u16 = 20_000;

/// A loopback port that nobody listens at, and that no other test of this process was given.
pub(crate) fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Processes begin at different places.
    let next =
        NEXT.get_or_init(|| AtomicU16::new((std::process::id().wrapping_mul(997) % u32::from(COUNT)) as u16));
    loop {
        let port = FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
