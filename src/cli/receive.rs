//! `postrider receive`: the receiver, for trying things out and for load tests.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use super::error::CliError;
use super::{Context, block_on, logging};
use crate::domain::signature::Secret;
use crate::receiver::{self, Counts, ReceiverOptions};
use crate::settings::text::duration;
use crate::settings::words::{namespace, redis_url};

#[derive(Args)]
pub(super) struct ReceiveArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// The secret of the config that points here
    #[arg(long, env = "POSTRIDER_RECEIVE_SECRET", hide_env_values = true, value_parser = secret)]
    secret: Secret,
    /// Remember nonces for 24 hours in this Redis; in memory without it
    #[arg(long, value_name = "URL", env = "POSTRIDER_DEDUPE_REDIS_URL", hide_env_values = true)]
    dedupe_redis_url: Option<String>,
    /// Namespace of the nonces' keys: one per receiver
    #[arg(long, default_value = "postrider", value_parser = namespace::parse)]
    namespace: String,
    /// How long processing one event takes
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration::parse)]
    delay: Duration,
    /// Share of events whose processing fails, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    fail_rate: f64,
    /// The answer to those that fail
    #[arg(long, value_name = "STATUS", default_value_t = 503, value_parser = clap::value_parser!(u16).range(200..=599))]
    fail_status: u16,
    /// The answer to those that do not
    #[arg(long, value_name = "STATUS", default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,
    /// Never answer
    #[arg(long)]
    hang: bool,
}

// === impl ReceiveArgs ===

impl std::fmt::Debug for ReceiveArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReceiveArgs").field("listen", &self.listen).finish_non_exhaustive()
    }
}

pub(super) fn run(args: ReceiveArgs, context: &mut Context) -> Result<(), CliError> {
    logging::start_every(context)?;
    if let Some(url) = &args.dedupe_redis_url {
        // Checked here, for clap would repeat the text, which may hold a password.
        let wrong = |problem| {
            CliError::Usage(format!("--dedupe-redis-url {problem}; expected {}", redis_url::EXPECTED))
        };
        redis_url::parse(url).map_err(wrong)?;
    }
    let options = ReceiverOptions {
        listen: args.listen,
        dedupe_redis_url: args.dedupe_redis_url,
        dedupe_namespace: args.namespace,
        delay: args.delay,
        fail_rate: args.fail_rate,
        fail_status: args.fail_status,
        status: args.status,
        hang: args.hang,
        ..ReceiverOptions::new(args.secret)
    };
    let output = &mut context.output;
    let stats = block_on(async {
        let mut stats = None;
        let started = |address: SocketAddr, counters| {
            stats = Some(counters);
            // A script that asked for port 0 reads the address here; flushed, for it waits for it.
            let _ = output.line(format_args!("receiving on http://{address}")).and_then(|()| output.flush());
        };
        let ended = receiver::run(options, started).await;
        ended.map_err(|error| CliError::Failure(format!("receive on {}: {error}", args.listen)))?;
        Ok(stats)
    })?;
    if let Some(stats) = stats {
        let Counts {
            received, accepted, duplicates, failed, gone, refused, bad_signatures, delay_ms, ..
        } = stats.counts();
        context.output.line(format_args!(
            "received {received}, processed {accepted}, duplicates {duplicates}, failed {failed}, gone {gone}, \
             bad signatures {bad_signatures}, refused {refused}; on their way p50 {} ms, p99 {} ms",
            delay_ms.p50, delay_ms.p99
        ))?;
    }
    Ok(())
}

fn secret(text: &str) -> Result<Secret, String> {
    Secret::new(text).ok_or_else(|| "expected 1 to 256 bytes without control characters".into())
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".into()),
    }
}
