//! `postrider configs stats`: how an endpoint does, in a screenful.

use serde_json::Value;

use super::config_one::OneArgs;
use super::configs::cell;
use super::error::CliError;
use super::http::Method;
use super::output::{OutputFormat, TextTable, printable};
use super::{Context, block_on};

pub(super) fn run(args: &OneArgs, context: &mut Context) -> Result<(), CliError> {
    let path = format!("configs/{}/stats", args.id);
    let answer = block_on(args.server.call(Method::GET, &path, &[], None))?;
    if args.output == OutputFormat::Json {
        return Ok(context.output.line(answer.text)?);
    }
    let stats = &answer.value;
    let mut table = TextTable::new(&["", "LAST HOUR", "LAST DAY"]);
    for (name, path) in [
        ("from", "/from"),
        ("delivered", "/deliveries/delivered"),
        ("failed", "/deliveries/failed"),
        ("success rate", "/deliveries/successRate"),
        ("attempts", "/attempts/total"),
        ("latency p50 ms", "/latencyMs/p50"),
        ("latency p95 ms", "/latencyMs/p95"),
        ("latency p99 ms", "/latencyMs/p99"),
        ("skipped", "/skipped"),
    ] {
        let of = |span: &str| at(stats, &format!("/{span}{path}"));
        table.row([name.to_owned(), of("lastHour"), of("lastDay")]);
    }
    context.output.table(&table)?;
    let at = |path| printable(&at(stats, path));
    let pair = |path, reason| match at(reason).as_str() {
        "-" => at(path),
        reason => format!("{} {reason}", at(path)),
    };
    let lines = [
        format!("active: {}", at("/active")),
        format!(
            "waiting: {} deliveries, {} bytes, the oldest for {} s",
            at("/backlog/deliveries"),
            at("/backlog/bytes"),
            at("/backlog/oldestAgeSeconds")
        ),
        format!("failed and kept: {} deliveries", at("/failed/deliveries")),
        format!("breaker: {}", pair("/breaker/state", "/breaker/reason")),
        format!("last success: {}", at("/lastSuccessAt")),
        format!("last failure: {}", pair("/lastFailure/at", "/lastFailure/reason")),
    ];
    lines.iter().try_for_each(|line| context.output.line(line))?;
    Ok(())
}

/// The value at a JSON pointer (RFC 6901) as a cell; `-` where there is none.
fn at(stats: &Value, pointer: &str) -> String {
    let (parent, name) = pointer.rsplit_once('/').unwrap_or_default();
    stats.pointer(parent).map_or_else(|| "-".into(), |object| cell(object, name))
}
