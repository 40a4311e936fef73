//! The question for failed deliveries: `failed:<config>` answers it, in the order of its scores, and no page of a
//! log is read.

use std::collections::HashMap;

use redis::Value;
use redis::aio::MultiplexedConnection;

use super::connection::{During, Result};
use super::delivery_read::{self, LogSource, in_slices};
use super::log_read;
use crate::domain::clock::UnixMillis;
use crate::domain::codec::Malformed;
use crate::domain::delivery::{DeliveryRecord, RecordHead};
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
    /// The whole records of the page, where each of them is shown.
    pub(super) records: Option<HashMap<DeliveryId, DeliveryRecord>>,
    /// When the oldest row was made that the logs still hold.
    pub(super) oldest_at: Option<UnixMillis>,
    /// Redis's time, before anything was read.
    pub(super) now: UnixMillis,
    /// The place of the last one, where more follow.
    pub(super) next: Option<(UnixMillis, DeliveryId)>,
    /// How many match; `None` on a later page.
    pub(super) total: Option<usize>,
    pub(super) truncated: bool,
    pub(super) unreadable: usize,
}

type Member = (UnixMillis, DeliveryId, usize);

const OPERATION: &str = "reading failed deliveries";

// === impl ScoreRange ===

impl ScoreRange<'_> {
    fn command(&self) -> redis::Cmd {
        let mut command = redis::cmd("ZREVRANGEBYSCORE");
        command.arg(self.source.keys.failed(self.source.config.id())).arg(self.most).arg("-inf");
        command.arg("WITHSCORES").arg("LIMIT").arg(self.skip).arg(self.count);
        command
    }

    fn members(&self, reply: Vec<(Vec<u8>, f64)>, unreadable: &mut usize) -> ScoredMembers {
        let mut members = ScoredMembers { ids: Vec::new(), is_full: reply.len() >= self.count };
        for (member, score) in reply {
            let id = std::str::from_utf8(&member).ok().and_then(|text| text.parse::<DeliveryId>().ok());
            match id.filter(|id| id.event().shard() == self.source.keys.shard) {
                Some(id) => members.ids.push((log_read::time_of_score(score), id)),
                None => *unreadable += 1,
            }
        }
        members
    }
}

/// `ZREVRANGEBYSCORE` of each set; members that are no id of a delivery of that shard are counted.
///
/// # Errors
/// Redis's.
pub(super) async fn members_by_score(
    connection: &mut MultiplexedConnection,
    ranges: &[ScoreRange<'_>],
    unreadable: &mut usize,
) -> Result<Vec<ScoredMembers>> {
    let commands = ranges.iter().map(ScoreRange::command).collect();
    let replies: Vec<Vec<(Vec<u8>, f64)>> = in_slices(connection, OPERATION, commands).await?;
    Ok(ranges.iter().zip(replies).map(|(range, reply)| range.members(reply, unreadable)).collect())
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
    let mut open = question.ranges(sources, every);
    let replies = found.open(connection, &open).await?;
    let mut members = if every {
        found.total = found.total.filter(|_| question.below.is_none());
        newest(connection, question, (&mut open, replies), &mut found).await?
    } else {
        matching(connection, sources, question, replies, &mut found).await?
    };
    members.sort_unstable_by(|one, other| other.cmp(one));
    let more = members.len() > question.skip + question.limit;
    let page: Vec<Member> = members.into_iter().skip(question.skip).take(question.limit).collect();
    found.next = page.last().filter(|_| more).map(|(at, id, _)| (*at, *id));
    if every {
        found.add_records(connection, sources, &page).await?;
    }
    found.page = page.into_iter().map(|(_, id, config)| (config, id)).collect();
    Ok(found)
}

/// The newest members below the cursor, at least as many as the page and those before it where there are so many.
/// `replies` are the answers to the ranges in `open`.
async fn newest(
    connection: &mut MultiplexedConnection,
    question: &FailedQuestion<'_>,
    (open, mut replies): (&mut Vec<(usize, ScoreRange<'_>)>, Vec<ScoredMembers>),
    found: &mut FailedFound,
) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    loop {
        let mut next = Vec::new();
        for ((config, mut range), reply) in open.drain(..).zip(replies) {
            let before = members.len();
            let below =
                reply.ids.into_iter().filter(|place| question.below.is_none_or(|below| *place < below));
            members.extend(below.map(|(at, id)| (at, id, config)));
            // Many failed in the cursor's own millisecond.
            if reply.is_full && members.len() - before < question.wanted() {
                range.skip += range.count;
                next.push((config, range));
            }
        }
        if next.is_empty() {
            return Ok(members);
        }
        *open = next;
        let ranges: Vec<ScoreRange<'_>> = open.iter().map(|(_, range)| *range).collect();
        replies = members_by_score(connection, &ranges, &mut found.unreadable).await?;
    }
}

/// Every member that matches, within the bound, and how many there are.
async fn matching(
    connection: &mut MultiplexedConnection,
    sources: &[(usize, LogSource<'_>)],
    question: &FailedQuestion<'_>,
    replies: Vec<ScoredMembers>,
    found: &mut FailedFound,
) -> Result<Vec<Member>> {
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
    }
    found.total = question.below.is_none().then_some(members.len());
    Ok(members)
}

/// The state of a failed delivery, by its record alone.
pub(super) fn state_of(id: DeliveryId, head: &RecordHead) -> Option<DeliveryState<'_>> {
    DeliveryState::new(id, Some(head), Vec::new(), UnixMillis(u64::MAX))
}

// === impl FailedQuestion ===

impl FailedQuestion<'_> {
    /// Members that make the page, those before it, and one more if more follow.
    const fn wanted(&self) -> usize {
        self.skip + self.limit + 1
    }

    /// What is read of each log at first: where each failed delivery matches, what makes the page, else a fair share.
    fn ranges<'a>(&self, sources: &[(usize, LogSource<'a>)], every: bool) -> Vec<(usize, ScoreRange<'a>)> {
        let share = (FAILED_MAX / sources.len().max(1)).max(1);
        let (most, count) = match (every, self.below) {
            (false, _) => (SCORE_MAX, share),
            (true, None) => (SCORE_MAX, self.wanted()),
            (true, Some((at, _))) => (at.0, self.wanted() + TIES),
        };
        let range = |source: &LogSource<'a>| ScoreRange { source: *source, most, skip: 0, count };
        sources.iter().map(|(config, source)| (*config, range(source))).collect()
    }
}

// === impl FailedFound ===

impl FailedFound {
    /// `TIME`, and of each log its number of failed deliveries (`ZCARD`), its oldest page and its first range, all at
    /// once; gives the answers to the ranges.
    async fn open(
        &mut self,
        connection: &mut MultiplexedConnection,
        ranges: &[(usize, ScoreRange<'_>)],
    ) -> Result<Vec<ScoredMembers>> {
        let mut commands = vec![redis::cmd("TIME")];
        for (_, range) in ranges {
            let LogSource { config, keys } = range.source;
            commands.push(redis::cmd("ZCARD").arg(keys.failed(config.id())).to_owned());
            commands.push(log_read::oldest_command(&range.source));
            commands.push(range.command());
        }
        let replies: Vec<Value> = in_slices(connection, OPERATION, commands).await?;
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        self.now = log_read::time_of_reply(next()).during(OPERATION)?;
        let mut found = Vec::with_capacity(ranges.len());
        let mut total = 0;
        for (_, range) in ranges {
            total += redis::from_redis_value::<usize>(next())
                .map_err(redis::RedisError::from)
                .during(OPERATION)?;
            let oldest = log_read::oldest_of_reply(next()).map(|page| page.at);
            self.oldest_at = self.oldest_at.into_iter().chain(oldest).min();
            let reply = redis::from_redis_value(next()).map_err(redis::RedisError::from).during(OPERATION)?;
            found.push(range.members(reply, &mut self.unreadable));
        }
        self.total = Some(total);
        Ok(found)
    }

    async fn add_heads(
        &mut self,
        connection: &mut MultiplexedConnection,
        sources: &[(usize, LogSource<'_>)],
        members: &[Member],
    ) -> Result<()> {
        let wanted = places_of(sources, members);
        let heads = delivery_read::record_heads(connection, &wanted).await?;
        for ((_, id), head) in wanted.into_iter().zip(heads) {
            if let Some(head) = self.readable(head) {
                self.heads.insert(id, head);
            }
        }
        Ok(())
    }

    /// What was read; what cannot be understood is counted.
    fn readable<T>(&mut self, read: std::result::Result<Option<T>, Malformed>) -> Option<T> {
        self.unreadable += usize::from(read.is_err());
        read.ok().flatten()
    }

    /// The records of the page's members, and their heads.
    async fn add_records(
        &mut self,
        connection: &mut MultiplexedConnection,
        sources: &[(usize, LogSource<'_>)],
        members: &[Member],
    ) -> Result<()> {
        let wanted = places_of(sources, members);
        let read = delivery_read::records(connection, &wanted).await?;
        let mut records = HashMap::with_capacity(wanted.len());
        for ((_, id), record) in wanted.into_iter().zip(read) {
            if let Some(record) = self.readable(record) {
                self.heads.insert(id, record.head());
                records.insert(id, record);
            }
        }
        self.records = Some(records);
        Ok(())
    }
}

/// Where the members' records lie.
fn places_of<'a>(sources: &[(usize, LogSource<'a>)], members: &[Member]) -> Vec<(LogSource<'a>, DeliveryId)> {
    let mut by_place: HashMap<(usize, u16), LogSource<'a>> = HashMap::new();
    for (config, source) in sources {
        by_place.insert((*config, source.keys.shard.0), *source);
    }
    let place = |(_, id, config): &Member| Some((*by_place.get(&(*config, id.event().shard().0))?, *id));
    members.iter().filter_map(place).collect()
}
