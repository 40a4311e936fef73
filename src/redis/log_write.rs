//! Writing the attempt log: the plain commands of the success path, and keeping it within its caps.

use redis::Pipeline;

use super::answer::Answer;
use super::connection::{Link, Result};
use super::keys::ShardKeys;
use super::scripts::TRIM_LOG;
use crate::domain::ids::ConfigId;
use crate::domain::log::PackedPage;
use crate::settings::retention::RetentionSettings;

/// What was written to one config's log since its sizes were last told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows.
    pub rows: u64,
    /// Bytes of log pages.
    pub log_bytes: u64,
    /// Bytes of payload pages.
    pub payload_bytes: u64,
}

// === impl Written ===

impl Written {
    /// Counts a page.
    pub fn add(&mut self, page: &PackedPage) {
        self.rows += page.rows as u64;
        self.log_bytes += page.log.len() as u64;
        self.payload_bytes += page.payloads.as_ref().map_or(0, Vec::len) as u64;
    }
}

/// Adds the commands that write a page, the payloads first; answers how many commands those are.
pub fn push_page(commands: &mut Pipeline, keys: &ShardKeys, config: ConfigId, page: &PackedPage) -> usize {
    let payloads = page.payloads.as_ref().inspect(|payloads| {
        commands.cmd("XADD").arg(keys.bodies(config)).arg("*").arg("p").arg(payloads.as_slice());
    });
    commands.cmd("XADD").arg(keys.log(config)).arg("*").arg("p").arg(page.log.as_slice());
    1 + usize::from(payloads.is_some())
}

/// Tells the sizes what was written, and drops the oldest pages past the caps; answers how many rows went.
///
/// # Errors
/// Redis's.
pub async fn trim(
    link: &Link,
    keys: &ShardKeys,
    config: ConfigId,
    written: Written,
    retention: &RetentionSettings,
) -> Result<u64> {
    let operation = "trimming a log";
    let mut dropped = 0;
    let (mut written, mut told) = (written, false);
    loop {
        let args = [
            written.rows,
            written.log_bytes,
            written.payload_bytes,
            retention.log_rows_max,
            retention.log_bytes_max,
            retention.payload_bytes_max,
            u64::try_from(retention.log_age_max.as_millis()).unwrap_or(u64::MAX),
        ]
        .map(|number| number.to_string());
        let args = args.each_ref().map(|text| text.as_bytes());
        let call = TRIM_LOG.call([&keys.log(config), &keys.bodies(config), &keys.size(config)], args);
        let answer = match link.query(operation, &call).await {
            // The sizes are told already: told again they would count twice. The next call goes on.
            Err(_) if told => return Ok(dropped),
            answer => answer?,
        };
        told = true;
        let mut answer = Answer::new(operation, answer)?;
        dropped += u64::try_from(answer.int()?).unwrap_or(0);
        if answer.int()? == 0 {
            return Ok(dropped);
        }
        written = Written::default();
    }
}
