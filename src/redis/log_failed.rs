//! The question for failed deliveries: `failed:<config>` answers it, in the order of its scores, and no page of a
//! log is read.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;

use super::connection::Result;
use super::delivery_read::{self, LogSource, in_slices};
use crate::domain::clock::UnixMillis;
use crate::domain::delivery::RecordHead;
use crate::domain::ids::DeliveryId;
use crate::domain::log_merge::{DeliveryState, LogFilter};

/// Failed deliveries that one question reads where it must look at each: one config's at the default cap.
const FAILED_MAX: usize = 10_000;

/// The greatest score that is exact: 2^52 ms.
pub(super) const SCORE_MAX: u64 = u64::MAX >> 12;

/// Members of one score that are expected beside those that are asked for.
const TIES: usize = 64;

/// A slice of a failed set, newest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScoreRange<'a> {
    /// Whose.
    pub(super) source: LogSource<'a>,
    /// Failed at this time, ms, or before.
    pub(super) most: u64,
    /// Members to leave out first.
    pub(super) skip: usize,
    /// At most so many.
    pub(super) count: usize,
}

/// Members of a failed set.
#[derive(Clone, Debug, Default)]
pub(super) struct ScoredMembers {
    /// When each failed, newest first.
    pub(super) ids: Vec<(UnixMillis, DeliveryId)>,
    /// Whether as many were found as were asked for.
    pub(super) is_full: bool,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailedQuestion<'q> {
    pub(super) filter: &'q LogFilter,
    pub(super) skip: usize,
    pub(super) limit: usize,
    /// Only what stands below: failed before, or at the same time with a smaller id.
    pub(super) below: Option<(UnixMillis, DeliveryId)>,
}

/// Failed deliveries, newest first.
#[derive(Default)]
pub(super) struct FailedFound {
    /// With the index of their config.
    pub(super) page: Vec<(usize, DeliveryId)>,
    pub(super) heads: HashMap<DeliveryId, RecordHead>,
    /// The place of the last one, where more follow.
    pub(super) next: Option<(UnixMillis, DeliveryId)>,
    /// How many match; `None` on a later page.
    pub(super) total: Option<usize>,
    pub(super) truncated: bool,
    pub(super) unreadable: usize,
}

type Member = (UnixMillis, DeliveryId, usize);

/// `ZREVRANGEBYSCORE` of each set; members that are no id of a delivery of that shard are counted.
///
/// # Errors
/// Redis's.
pub(super) async fn members_by_score(
    connection: &mut MultiplexedConnection,
    ranges: &[ScoreRange<'_>],
    unreadable: &mut usize,
) -> Result<Vec<ScoredMembers>> {
    let commands = ranges.iter().map(|range| {
        let mut command = redis::cmd("ZREVRANGEBYSCORE");
        command.arg(range.source.keys.failed(range.source.config.id())).arg(range.most).arg("-inf");
        command.arg("WITHSCORES").arg("LIMIT").arg(range.skip).arg(range.count);
        command
    });
    let replies: Vec<Vec<(Vec<u8>, f64)>> =
        in_slices(connection, "reading failed deliveries", commands.collect()).await?;
    let mut found = Vec::with_capacity(ranges.len());
    for (range, reply) in ranges.iter().zip(replies) {
        let mut members = ScoredMembers { ids: Vec::new(), is_full: reply.len() >= range.count };
        for (member, score) in reply {
            let id = std::str::from_utf8(&member).ok().and_then(|text| text.parse::<DeliveryId>().ok());
            match id.filter(|id| id.event().shard() == range.source.keys.shard) {
                // Milliseconds, far below 2^53.
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                Some(id) => members.ids.push((UnixMillis(score as u64), id)),
                None => *unreadable += 1,
            }
        }
        found.push(members);
    }
    Ok(found)
}

/// Finds failed deliveries. Where the question is for all of them, only the page's own are read.
///
/// # Errors
/// Redis's.
pub(super) async fn find(
    connection: &mut MultiplexedConnection,
    sources: &[(usize, LogSource<'_>)],
    question: &FailedQuestion<'_>,
) -> Result<FailedFound> {
    let filter = question.filter;
    let every = filter.event.is_none() && filter.since.is_none() && filter.until.is_none();
    let mut found = FailedFound::default();
    let wanted = question.skip + question.limit + 1;
    let mut members = if every {
        if question.below.is_none() {
            let plain: Vec<LogSource<'_>> = sources.iter().map(|(_, source)| *source).collect();
            let counts = delivery_read::count_records(connection, &plain).await?;
            found.total = Some(counts.iter().map(|counts| counts.failed).sum());
        }
        newest(connection, sources, question, wanted, &mut found).await?
    } else {
        matching(connection, sources, question, &mut found).await?
    };
    members.sort_unstable_by(|one, other| other.cmp(one));
    let more = members.len() > question.skip + question.limit;
    let page: Vec<Member> = members.into_iter().skip(question.skip).take(question.limit).collect();
    found.next = page.last().filter(|_| more).map(|(at, id, _)| (*at, *id));
    if every {
        found.add_heads(connection, sources, &page).await?;
    }
    found.page = page.into_iter().map(|(_, id, config)| (config, id)).collect();
    Ok(found)
}

/// The newest members below the cursor, at least `wanted` where there are so many.
async fn newest(
    connection: &mut MultiplexedConnection,
    sources: &[(usize, LogSource<'_>)],
    question: &FailedQuestion<'_>,
    wanted: usize,
    found: &mut FailedFound,
) -> Result<Vec<Member>> {
    let most = question.below.map_or(SCORE_MAX, |(at, _)| at.0);
    let count = wanted + question.below.map_or(0, |_| TIES);
    let mut open: Vec<(usize, ScoreRange<'_>)> = sources
        .iter()
        .map(|(config, source)| (*config, ScoreRange { source: *source, most, skip: 0, count }))
        .collect();
    let mut members = Vec::new();
    while !open.is_empty() {
        let ranges: Vec<ScoreRange<'_>> = open.iter().map(|(_, range)| *range).collect();
        let replies = members_by_score(connection, &ranges, &mut found.unreadable).await?;
        let mut next = Vec::new();
        for ((config, mut range), reply) in open.into_iter().zip(replies) {
            let before = members.len();
            let below =
                reply.ids.into_iter().filter(|place| question.below.is_none_or(|below| *place < below));
            members.extend(below.map(|(at, id)| (at, id, config)));
            // Many failed in the cursor's own millisecond.
            if reply.is_full && members.len() - before < wanted {
                range.skip += range.count;
                next.push((config, range));
            }
        }
        open = next;
    }
    Ok(members)
}

/// Every member that matches, within the bound, and how many there are.
async fn matching(
    connection: &mut MultiplexedConnection,
    sources: &[(usize, LogSource<'_>)],
    question: &FailedQuestion<'_>,
    found: &mut FailedFound,
) -> Result<Vec<Member>> {
    let share = (FAILED_MAX / sources.len().max(1)).max(1);
    let ranges: Vec<ScoreRange<'_>> = sources
        .iter()
        .map(|(_, source)| ScoreRange { source: *source, most: SCORE_MAX, skip: 0, count: share })
        .collect();
    let replies = members_by_score(connection, &ranges, &mut found.unreadable).await?;
    found.truncated = replies.iter().any(|reply| reply.is_full);
    let members: Vec<Member> = sources
        .iter()
        .zip(replies)
        .flat_map(|((config, _), reply)| reply.ids.into_iter().map(|(at, id)| (at, id, *config)))
        .collect();
    found.add_heads(connection, sources, &members).await?;
    let heads = &found.heads;
    let matches = |(_, id, _): &Member| {
        let state = heads.get(id).and_then(|head| state_of(*id, head));
        state.is_some_and(|state| question.filter.wants_state(&state))
    };
    let mut members: Vec<Member> = members.into_iter().filter(matches).collect();
    if let Some(below) = question.below {
        members.retain(|(at, id, _)| (*at, *id) < below);
    } else {
        found.total = Some(members.len());
    }
    Ok(members)
}

/// The state of a failed delivery, by its record alone.
pub(super) fn state_of(id: DeliveryId, head: &RecordHead) -> Option<DeliveryState<'_>> {
    DeliveryState::new(id, Some(head), Vec::new(), UnixMillis(u64::MAX))
}

// === impl FailedFound ===

impl FailedFound {
    async fn add_heads(
        &mut self,
        connection: &mut MultiplexedConnection,
        sources: &[(usize, LogSource<'_>)],
        members: &[Member],
    ) -> Result<()> {
        let mut by_place: HashMap<(usize, u16), LogSource<'_>> = HashMap::new();
        for (config, source) in sources {
            by_place.insert((*config, source.keys.shard.0), *source);
        }
        let wanted: Vec<(LogSource<'_>, DeliveryId)> = members
            .iter()
            .filter_map(|(_, id, config)| Some((*by_place.get(&(*config, id.event().shard().0))?, *id)))
            .collect();
        let heads = delivery_read::record_heads(connection, &wanted).await?;
        for ((_, id), head) in wanted.into_iter().zip(heads) {
            match head {
                Ok(Some(head)) => drop(self.heads.insert(id, head)),
                Ok(None) => {}
                Err(_) => self.unreadable += 1,
            }
        }
        Ok(())
    }
}
