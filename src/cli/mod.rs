//! The command line: one file per subcommand.
//!
//! Owns: the words on the command line, what people and scripts read on stdout and stderr, exit codes.
//! May use: `redis`, `domain`, `settings`, `metrics`, `app`, `receiver`. What a command says goes through
//! `output`, the only file that writes to stdout.
//!
//! Exit codes: 0 done; 1 failed; 2 the command line is wrong; 64 settings are wrong (sysexits.h, EX_USAGE).

mod audit;
mod capacity;
mod completions;
mod config_one;
mod config_stats;
mod config_test;
mod config_work;
mod configs;
mod connect;
mod demo;
mod doctor;
pub mod error;
mod events;
mod findings;
mod findings_audit;
pub mod flags;
mod forward;
mod http;
mod jobs;
mod listen;
mod log_follow;
mod logging;
mod logs;
mod migrate;
mod openapi;
pub mod output;
mod pages;
mod publish;
mod publish_file;
mod purge;
mod ready;
mod receive;
mod rejected;
mod secrets;
mod serve;
mod server;
mod settings;
mod shards;
mod tail;
mod time;
mod token;
mod trace;
mod verify;
mod verify_forms;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::error::CliError;
use self::flags::{EverySetting, Given};
use self::output::Output;

/// What every command works with.
pub struct Context {
    /// Where answers and diagnostics go.
    pub output: Output,
    /// The flags that every command takes.
    pub every: Given,
}

#[derive(Debug, Parser)]
#[command(
    name = "postrider",
    version,
    about = "Delivers events from Redis as signed webhooks, at least once, with every attempt in a log.",
    after_help = "Every setting's flag has a twin in the environment (--redis-url is POSTRIDER_REDIS_URL) and in \
                  the file given with --settings; flags win over the environment, which wins over the file.\n\
                  Exit codes: 0 done, 1 failed, 2 the command line is wrong, 64 settings are wrong."
)]
struct Cli {
    #[command(flatten)]
    every: EverySetting,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a replica: delivers events and serves the admin API
    Serve(serve::ServeArgs),
    /// Show the whole story in a minute: a server, three receivers, 20,000 events
    Demo(demo::DemoArgs),
    /// Publish one event, or many from a file or stdin
    Publish(publish::PublishArgs),
    /// Run a receiver that verifies signatures and dedupes by nonce
    Receive(receive::ReceiveArgs),
    /// Ask a replica on this machine whether it can work (for health checks)
    Ready(ready::ReadyArgs),
    /// Create, list and revoke API tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Look at, change, test and repair webhook configs of a running server
    #[command(subcommand)]
    Configs(configs::ConfigsCommand),
    /// Read and follow the delivery log of a running server, and send deliveries again
    #[command(subcommand)]
    Logs(logs::LogsCommand),
    /// See who changed what on a running server
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Send an organisation's deliveries to a local server too, signed for it
    Listen(listen::ListenArgs),
    /// Check a body's signature, and say what is wrong with it
    Verify(verify::VerifyArgs),
    /// Seal the secrets of configs in Redis, and see how they lie there
    #[command(subcommand)]
    Secrets(secrets::SecretsCommand),
    /// Look at stream entries that could not be understood, repair and requeue them
    #[command(subcommand)]
    Rejected(rejected::RejectedCommand),
    /// Say where an event is: in the stream, rejected, waiting, delivered, or wanted by nobody
    Trace(trace::TraceArgs),
    /// Show the stream keys that producers write to
    #[command(subcommand)]
    Shards(shards::ShardsCommand),
    /// Show the known event types: schema and sample of each
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// Print the admin API's description: OpenAPI 3.1
    #[command(name = "openapi")]
    OpenApi,
    /// Remove what is stored of an organisation's events, or of one delivery
    Purge(purge::PurgeArgs),
    /// Check Redis and say what to change
    Doctor(doctor::DoctorArgs),
    /// Bring a keyspace of an older version up to date
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Say what a load needs: Redis memory, replicas, connections, network
    Capacity(capacity::CapacityArgs),
    /// Show every setting: default, value, source, unit, reason
    #[command(subcommand)]
    Settings(settings::SettingsCommand),
    /// Print the completions for a shell
    Completions(completions::CompletionsArgs),
    /// Write the manual pages
    Manual(completions::ManualArgs),
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { every, command } = Cli::parse();
    // Fails only when one is installed already, which then serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut context = Context { output: Output::new(), every: every.0 };
    let result = match command {
        Command::Serve(args) => serve::run(args, &mut context),
        Command::Demo(args) => demo::run(args, &mut context),
        Command::Publish(args) => publish::run(args, &mut context),
        Command::Receive(args) => receive::run(args, &mut context),
        Command::Ready(args) => ready::run(args, &mut context),
        Command::Token(command) => token::run(command, &mut context),
        Command::Configs(command) => configs::run(command, &mut context),
        Command::Logs(command) => logs::run(command, &mut context),
        Command::Audit(command) => audit::run(command, &mut context),
        Command::Listen(args) => listen::run(args, &mut context),
        Command::Verify(args) => verify::run(&args, &mut context),
        Command::Secrets(command) => secrets::run(command, &mut context),
        Command::Rejected(command) => rejected::run(command, &mut context),
        Command::Trace(args) => trace::run(args, &mut context),
        Command::Shards(command) => shards::run(command, &mut context),
        Command::Events(command) => events::run(command, &mut context),
        Command::OpenApi => openapi::run(&mut context),
        Command::Purge(args) => purge::run(args, &mut context),
        Command::Doctor(args) => doctor::run(args, &mut context),
        Command::Migrate(command) => migrate::run(command, &mut context),
        Command::Capacity(args) => capacity::run(args, &mut context),
        Command::Settings(command) => settings::run(command, &mut context),
        Command::Completions(args) => completions::completions(args, &mut context),
        Command::Manual(args) => completions::manual(args, &mut context),
    };
    match result.and_then(|()| Ok(context.output.flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report(&mut context.output);
            error.exit_code()
        }
    }
}

/// A runtime for a command that waits for a few things: this thread.
///
/// # Errors
/// When the operating system refuses one.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CliError::Failure(format!("cannot start a runtime: {error}")))?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::table::TABLE;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_serve_takes_every_setting() {
        Cli::command().debug_assert();
        let mut command = Cli::command();
        command.build();
        let serve = command.find_subcommand("serve").unwrap();
        for setting in TABLE {
            let flag = serve.get_arguments().find(|arg| arg.get_long() == Some(setting.name));
            assert!(flag.is_some(), "serve has no --{}", setting.name);
        }
    }
}
