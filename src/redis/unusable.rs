//! What must not be there: members that are no ids, ids without a record, records that cannot be read. It is moved
//! out of the way, so that the others go on.

use std::str::FromStr;

use redis::{Value, cmd};

use super::answer::Answer;
use super::connection::{Link, Result};
use super::deliveries::{BATCH_MAX, Claim, UNREADABLE_WAIT, millis};
use super::keys::ShardKeys;
use super::scripts::CLEAR_QUEUE;
use crate::domain::ids::{ConfigId, DeliveryId};
use crate::domain::log_limit::limited;
use crate::metrics;

/// Moves what cannot be delivered out of the way of `config`'s queue: an id without a record goes, one whose record
/// cannot be read waits for a month, so that a person can see it. Answers how many went and how many wait.
///
/// # Errors
/// Redis's.
pub async fn clear(
    link: &Link,
    keys: &ShardKeys,
    config: ConfigId,
    unreadable: &[(DeliveryId, Claim)],
) -> Result<(u64, u64)> {
    let operation = "clearing a queue";
    let (mut dropped, mut waiting) = (0, 0);
    for batch in unreadable.chunks(BATCH_MAX) {
        let more_keys: Vec<String> = batch.iter().map(|(id, _)| keys.delivery(*id)).collect();
        let more_args: Vec<Vec<u8>> = batch
            .iter()
            .flat_map(|(id, score)| [id.to_string().into_bytes(), score.0.to_string().into_bytes()])
            .collect();
        let call = CLEAR_QUEUE.call_batch(
            [&keys.queue(config), &keys.due(), &keys.size(config)],
            &more_keys,
            [config.to_string().as_bytes(), &millis(UNREADABLE_WAIT)],
            &more_args,
        );
        let mut answer = Answer::new(operation, link.query(operation, &call).await?)?;
        dropped += u64::try_from(answer.int()?).unwrap_or(0);
        waiting += u64::try_from(answer.int()?).unwrap_or(0);
    }
    Ok((dropped, waiting))
}

/// Takes out members that are no ids: nothing can be done for them, and they would be met again and again.
pub(super) async fn remove_strange(link: &Link, key: &str, strange: Vec<Value>) -> Result<()> {
    let members: Vec<Vec<u8>> = strange
        .into_iter()
        .filter_map(|member| match member {
            Value::BulkString(bytes) => Some(bytes),
            _ => None,
        })
        .collect();
    if members.is_empty() {
        return Ok(());
    }
    for member in &members {
        metrics::stored_unreadable("member");
        limited!(error, key, member = %member.escape_ascii(), "a member that is no id is removed");
    }
    let mut command = cmd("ZREM");
    command.arg(key).arg(&members);
    link.query::<u64>("removing members that are no ids", &command).await.map(drop)
}

/// The ids among these members, and what is none.
pub(super) fn parsed<T: FromStr>(values: Vec<Value>) -> (Vec<T>, Vec<Value>) {
    let (mut ids, mut strange) = (Vec::new(), Vec::new());
    for value in values {
        match id_in(&value) {
            Some(id) => ids.push(id),
            None => strange.push(value),
        }
    }
    (ids, strange)
}

/// The id that a member is.
pub(super) fn id_in<T: FromStr>(value: &Value) -> Option<T> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        Value::SimpleString(text) => text.parse().ok(),
        _ => None,
    }
}
