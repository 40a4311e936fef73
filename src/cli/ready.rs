//! `postrider ready`: asks a process on this machine whether it can work, for health checks of containers that hold
//! nothing but this program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::Args;
use url::Url;

use super::error::CliError;
use super::http::{self, Call, Method};
use super::{Context, block_on};
use crate::settings::words::address;

#[derive(Debug, Args)]
pub(super) struct ReadyArgs {
    /// The operator's listener of the replica; where it listens on all addresses, loopback is asked
    #[arg(long, value_name = "ADDRESS:PORT", env = "POSTRIDER_OPS_LISTEN", default_value = "127.0.0.1:9464",
          value_parser = address::parse)]
    ops_listen: SocketAddr,
    /// What to ask: /readyz (it can work), /livez (it runs), /stats (of `postrider receive`)
    #[arg(long, default_value = "/readyz")]
    path: String,
}

pub(super) fn run(args: ReadyArgs, context: &mut Context) -> Result<(), CliError> {
    let address = reachable(args.ops_listen);
    let mut url = Url::parse(&format!("http://{address}"))
        .map_err(|error| CliError::Usage(format!("--ops-listen {address}: {error}")))?;
    url.set_path(&args.path);
    let answer = block_on(async {
        let call = Call {
            method: Method::GET,
            url: &url,
            token: "",
            organisation: None,
            body: None,
            patience: super::http::CALL_TIMEOUT,
        };
        http::call(call).await.map_err(|error| {
            CliError::Failure(format!("no answer from {url}: {}", http::with_causes(&error)))
        })
    })?;
    let body = String::from_utf8_lossy(&answer.body);
    if !answer.status.is_success() {
        return Err(CliError::Failure(format!("{url} answered {}: {}", answer.status.as_u16(), body.trim())));
    }
    Ok(context.output.line(body.trim())?)
}

/// The address under which this machine reaches a listener.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn a_listener_on_all_addresses_is_asked_over_loopback() {
        for (listen, asked) in
            [("0.0.0.0:9464", "127.0.0.1:9464"), ("[::]:9464", "[::1]:9464"), ("10.0.0.7:1", "10.0.0.7:1")]
        {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }
}
