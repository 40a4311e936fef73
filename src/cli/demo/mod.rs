//! `postrider demo`: the whole story in a minute. Starts a server of its own (this program, as anybody would run
//! it), three receivers that behave differently, publishes events as a producer does, waits until every delivery
//! has its fate, and reads the result back from the log.

mod endpoints;
mod events;
mod numbers;
mod progress;
mod replica;
mod summary;

use std::time::{Duration, Instant};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::endpoints::Endpoints;
use self::numbers::Numbers;
use self::progress::Progress;
use self::replica::Replica;
use self::summary::Summary;
use super::error::CliError;
use super::output::{Output, OutputFormat};
use super::{Context, logging};
use crate::domain::clock::Clock;
use crate::domain::ids::OrganisationId;
use crate::domain::token::{Role, TokenText};
use crate::redis::connection::{Link, Redis};
use crate::redis::keys::ShardKeys;
use crate::redis::{embedded, keyspace, tokens};
use crate::settings::redis::RedisSettings;

/// The demo's organisation.
const ORGANISATION: &str = "demo";

/// Threads for the three receivers; the server has the rest of the machine.
const RECEIVER_THREADS: usize = 2;

/// How long nothing may change before what is missing counts as lost.
const STALL: Duration = Duration::from_secs(30);

/// How long the log may lag behind the server's counters.
const LOG_LAG: Duration = Duration::from_secs(10);

/// Pause between two looks at the server's counters.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Stop after the summary; exit with 0 only when every event is accounted for
    #[arg(long)]
    once: bool,
    /// How many events to publish
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(10..=40_000))]
    events: u32,
    /// How to print the summary
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// Everything that is set up before the first event.
struct Stage {
    endpoints: Endpoints,
    link: Link,
    shards: Vec<ShardKeys>,
    organisation: OrganisationId,
    token: TokenText,
}

/// What ends the demo: Ctrl-C, or SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

pub(super) fn run(args: DemoArgs, context: &mut Context) -> Result<(), CliError> {
    logging::start_every(context)?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(RECEIVER_THREADS).enable_all().build();
    let runtime = runtime.map_err(|error| CliError::Failure(format!("cannot start a runtime: {error}")))?;
    runtime.block_on(demo(&args, &mut context.output))
}

async fn demo(args: &DemoArgs, output: &mut Output) -> Result<(), CliError> {
    let mut stop = Stop::listen()?;
    let mut replica = Replica::launch()?;
    let told = tokio::select! {
        told = tell(args, output, &mut replica) => told,
        () = stop.asked() => Err(CliError::Failure("stopped before the end".into())),
    };
    if told.is_ok() && !args.once {
        stop.asked().await;
        output.note("\nstopping");
    }
    // Whatever happened, the server stops in order and its Redis with it, while the receivers still answer.
    let stopped = replica.stop().await;
    told.map(drop).and(stopped)
}

/// Tells the story up to the summary; what it gives back keeps the receivers running.
async fn tell(args: &DemoArgs, output: &mut Output, replica: &mut Replica) -> Result<Stage, CliError> {
    output.note("starting a server with a Redis of its own, and three receivers");
    replica.ready().await?;
    let stage = Stage::set(replica, args.events).await?;
    let progress = Progress::new(args.events, stage.endpoints.count());
    let started = Instant::now();
    let published_at = Clock::default().now();
    events::publish(&stage.link, &stage.shards, &stage.organisation, args.events, &progress)
        .await
        .map_err(|error| CliError::Failure(error.to_string()))?;
    let publishing = started.elapsed();
    let numbers = deliver(&stage, replica, args.events, &progress).await?;
    progress.finish();
    let summary =
        judge(&stage, args.events, &numbers).await?.timed(publishing, published_at, &stage.endpoints);
    if args.output == OutputFormat::Json {
        output.json(&summary)?;
    } else {
        summary.print(output)?;
    }
    if !args.once && args.output == OutputFormat::Text {
        summary::print_what_to_try(output, replica, &stage)?;
    }
    output.flush()?;
    if args.once && !summary.accounted_for {
        return Err(CliError::Failure(format!("{} deliveries are not accounted for", summary.unaccounted)));
    }
    Ok(stage)
}

/// Waits until the server's counters say that every delivery has its fate, or that nothing moves any more.
async fn deliver(
    stage: &Stage,
    replica: &mut Replica,
    events: u32,
    progress: &Progress,
) -> Result<Numbers, CliError> {
    let wanted = u64::from(events) * stage.endpoints.count();
    let mut last = Numbers::default();
    let mut moved = Instant::now();
    loop {
        let now = replica.numbers().await?;
        progress.show(&now);
        if now.fates() >= wanted {
            return Ok(now);
        }
        if now != last {
            moved = Instant::now();
        }
        if moved.elapsed() > STALL {
            return Ok(now);
        }
        last = now;
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Reads the logs until they account for every delivery; they may lag a little behind the counters.
async fn judge(stage: &Stage, events: u32, numbers: &Numbers) -> Result<Summary, CliError> {
    let started = Instant::now();
    loop {
        let summary = Summary::read(stage, events, numbers).await?;
        if summary.accounted_for || started.elapsed() > LOG_LAG {
            return Ok(summary);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

// === impl Stage ===

impl Stage {
    async fn set(replica: &mut Replica, events: u32) -> Result<Self, CliError> {
        let failed = |error: &dyn std::fmt::Display| CliError::Failure(error.to_string());
        let organisation: OrganisationId = ORGANISATION.parse().map_err(|error| failed(&error))?;
        let url = embedded::socket_url(&replica.data_dir()).map_err(|error| failed(&error))?;
        let redis = Redis::new(&url, &RedisSettings::default()).map_err(|error| failed(&error))?;
        let link = redis.link();
        let shards = keyspace::shards(&link).await.map_err(|error| failed(&error))?;
        let now = Clock::default().now();
        let (token, _) = tokens::create_token(&redis, &organisation, Role::Admin, "demo", now)
            .await
            .map_err(|error| failed(&error))?;
        let mut endpoints = Endpoints::start(events).await?;
        endpoints.register(replica.admin(), &token).await?;
        Ok(Self { endpoints, link, shards, organisation, token })
    }
}

// === impl Stop ===

impl Stop {
    fn listen() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| CliError::Failure(format!("cannot listen for signals: {error}")))
        };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
