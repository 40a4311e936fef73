//! `postrider doctor`: checks Redis and says what to change; `--print-acl` prints the users that Redis should have.

use clap::Args;
use serde::Serialize;

use super::error::CliError;
use super::findings::{Finding, Level, judge};
use super::findings_audit::{Host, audit};
use super::flags::RedisFlags;
use super::output::OutputFormat;
use super::{Context, block_on, connect};
use crate::app::files_wanted;
use crate::domain::sealing::Keyring;
use crate::redis::acl::Account;
use crate::redis::doctor::examine;
use crate::redis::keys::Keys;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print the ACL SETUSER lines of users with only the rights that are needed, with new passwords; asks nothing of
    /// Redis
    #[arg(long)]
    print_acl: bool,
    /// The server's user in these lines; producers and receivers get -producer and -receiver behind it
    #[arg(long, value_name = "NAME", default_value = "postrider", value_parser = user, requires = "print_acl")]
    user: String,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    redis: RedisFlags,
}

#[derive(Serialize)]
struct Report<'a> {
    redis: &'a str,
    findings: &'a [Finding],
    errors: usize,
    warnings: usize,
}

/// A user of Redis.
#[derive(Serialize)]
struct User {
    name: String,
    password: String,
    /// `ACL SETUSER ...`, whole.
    command: String,
}

#[derive(Serialize)]
struct Users {
    users: Vec<User>,
}

pub(super) fn run(args: DoctorArgs, context: &mut Context) -> Result<(), CliError> {
    if args.print_acl {
        return print_acl(args, context);
    }
    let connected = connect::redis(args.redis, context)?;
    let facts = block_on(async {
        let facts = examine(&connected.redis, connected.settings.redis.shards).await;
        facts.map_err(|error| connected.failed(&error))
    })?;
    let mut findings = judge(&facts);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    findings.extend(audit(
        &facts,
        Host { files: limit.maximum, files_wanted: files_wanted(&connected.settings) },
    ));
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warn));
    let output = &mut context.output;
    if args.output == OutputFormat::Json {
        output.json(&Report { redis: &connected.shown, findings: &findings, errors, warnings })?;
    } else {
        output.line(format_args!("Redis at {}", connected.shown))?;
        for Finding { level, check, what, change } in &findings {
            output.line(format_args!("{:<5}  {check}: {what}", level.as_str()))?;
            if let Some(change) = change {
                output.line(format_args!("       -> {change}"))?;
            }
        }
        output.line(format_args!("errors: {errors}, warnings: {warnings}"))?;
    }
    if errors > 0 { Err(CliError::Said) } else { Ok(()) }
}

fn print_acl(args: DoctorArgs, context: &mut Context) -> Result<(), CliError> {
    let settings = args.redis.0.load(&context.every)?.settings;
    let keys = Keys::new(&settings.redis.namespace)
        .ok_or_else(|| CliError::Failure("namespace: expected 1 to 64 of A-Z a-z 0-9 _ . -".into()))?;
    let users: Vec<User> =
        Account::ALL.iter().map(|account| User::new(*account, &args.user, &keys)).collect();
    if args.output == OutputFormat::Json {
        return Ok(context.output.json(&Users { users })?);
    }
    for user in users {
        context.output.line(user.command)?;
    }
    context.output.note(
        "The passwords are new with each call. Give the lines to redis-cli, keep them with ACL SAVE (aclfile) or as \
         'user ...' lines in redis.conf, and name the user in the URL: rediss://user:password@host. Then switch the \
         default user off: ACL SETUSER default off.",
    );
    Ok(())
}

// === impl User ===

impl User {
    fn new(account: Account, server: &str, keys: &Keys) -> Self {
        let name = match account {
            Account::Server => server.to_owned(),
            Account::Producer => format!("{server}-producer"),
            Account::Receiver => format!("{server}-receiver"),
        };
        // As random as a sealing key.
        let password = Keyring::generate_key();
        let command = format!("ACL SETUSER {name} on resetpass >{password} {}", account.rules(keys));
        Self { name, password, command }
    }
}

fn user(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&text.len()) && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err("expected 1 to 64 of A-Z a-z 0-9 _ . -".into())
}
