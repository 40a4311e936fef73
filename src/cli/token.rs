//! `postrider token create|list|revoke`: API tokens, straight in Redis.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::error::CliError;
use super::flags::RedisFlags;
use super::output::{OutputFormat, TextTable};
use super::{Context, block_on, connect};
use crate::domain::clock::Clock;
use crate::domain::ids::OrganisationId;
use crate::domain::token::{Role, Token, token_name};
use crate::redis::tokens;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Create a token and show it, this once
    Create(CreateArgs),
    /// List tokens, without their secrets
    List(ListArgs),
    /// Revoke a token; every replica refuses it at once
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// The organisation that it belongs to
    #[arg(long, value_name = "ID")]
    organisation: OrganisationId,
    /// What it may do: viewer, publisher, manager, admin or operator
    #[arg(long, value_parser = role)]
    role: Role,
    /// A name for people
    #[arg(long, default_value = "command line", value_parser = name)]
    name: String,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    redis: RedisFlags,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only this organisation's
    #[arg(long, value_name = "ID")]
    organisation: Option<OrganisationId>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    redis: RedisFlags,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// The token's id, as `token list` shows it
    #[arg(value_name = "ID")]
    id: String,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    redis: RedisFlags,
}

/// A token as `--output json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Printed<'a> {
    /// The secret text: only where it was just created.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    id: &'a str,
    organisation: &'a str,
    role: &'static str,
    name: &'a str,
    created_at: String,
}

#[derive(Serialize)]
struct Listed<'a> {
    tokens: Vec<Printed<'a>>,
}

// === impl Printed ===

impl<'a> Printed<'a> {
    fn new(token: &'a Token, text: Option<&'a str>) -> Self {
        Self {
            token: text,
            id: &token.id,
            organisation: token.organisation.as_str(),
            role: token.role.as_str(),
            name: &token.name,
            created_at: token.created_at.to_string(),
        }
    }
}

pub(super) fn run(command: TokenCommand, context: &mut Context) -> Result<(), CliError> {
    match command {
        TokenCommand::Create(args) => create(args, context),
        TokenCommand::List(args) => list(args, context),
        TokenCommand::Revoke(args) => revoke(args, context),
    }
}

fn create(args: CreateArgs, context: &mut Context) -> Result<(), CliError> {
    let connected = connect::redis(args.redis, context)?;
    let now = Clock::default().now();
    let (text, token) = block_on(async {
        let created =
            tokens::create_token(&connected.redis, &args.organisation, args.role, &args.name, now).await;
        created.map_err(|error| connected.failed(&error))
    })?;
    let output = &mut context.output;
    let written = match args.output {
        OutputFormat::Json => output.json(&Printed::new(&token, Some(text.expose()))),
        // Stdout holds the token alone, so that a shell can take it: TOKEN=$(postrider token create ...).
        OutputFormat::Text => output.line(text.expose()),
    };
    written.and_then(|()| output.flush()).map_err(|error| {
        let id = &token.id;
        CliError::Failure(format!(
            "cannot show the new token ({error}); revoke it: postrider token revoke {id}"
        ))
    })?;
    if args.output == OutputFormat::Text {
        let (role, organisation) = (token.role.as_str(), &token.organisation);
        output.note(format_args!("token {}: {role} of {organisation}; not shown again", token.id));
    }
    Ok(())
}

fn list(args: ListArgs, context: &mut Context) -> Result<(), CliError> {
    let connected = connect::redis(args.redis, context)?;
    let tokens = block_on(async {
        let listed = tokens::list_tokens(&connected.redis, args.organisation.as_ref()).await;
        listed.map_err(|error| connected.failed(&error))
    })?;
    if args.output == OutputFormat::Json {
        let tokens = tokens.iter().map(|token| Printed::new(token, None)).collect();
        return Ok(context.output.json(&Listed { tokens })?);
    }
    let mut table = TextTable::new(&["ID", "ORGANISATION", "ROLE", "CREATED", "NAME"]);
    for Token { id, organisation, role, name, created_at } in &tokens {
        let role = role.as_str().to_owned();
        table.row([id.clone(), organisation.to_string(), role, created_at.to_string(), name.clone()]);
    }
    Ok(context.output.table(&table)?)
}

fn revoke(args: RevokeArgs, context: &mut Context) -> Result<(), CliError> {
    let connected = connect::redis(args.redis, context)?;
    let revoked = block_on(async {
        let revoked = tokens::revoke_token(&connected.redis, &args.id).await;
        revoked.map_err(|error| connected.failed(&error))
    })?;
    // The argument is not repeated: a token's text is accepted too, and it is a secret.
    let unknown = || CliError::Failure("there is no such token; 'postrider token list' shows them".into());
    let token = revoked.ok_or_else(unknown)?;
    if args.output == OutputFormat::Json {
        return Ok(context.output.json(&Printed::new(&token, None))?);
    }
    let (role, organisation) = (token.role.as_str(), &token.organisation);
    Ok(context.output.line(format_args!("revoked token {}: {role} of {organisation}", token.id))?)
}

fn role(word: &str) -> Result<Role, String> {
    Role::parse(word).ok_or_else(|| "expected viewer, publisher, manager, admin or operator".into())
}

fn name(text: &str) -> Result<String, String> {
    token_name(text).map(str::to_owned).map_err(str::to_owned)
}
