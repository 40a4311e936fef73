//! What an attempt means for its delivery: pure (docs/WIRE.md section 4).

use std::time::Duration;

use crate::domain::delivery::{FailReason, Tried};
use crate::domain::outcome::{AttemptResult, Outcome};
use crate::domain::retry_on::RetryOn;
use crate::domain::retry_policy::{RetryPolicy, Schedule};

/// The delivery's fate after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is delivered.
    Delivered,
    /// It is tried again after this.
    Retry(Duration),
    /// It ends as failed.
    Failed(FailReason),
}

/// What a config says about retries.
#[derive(Clone, Copy, Debug)]
pub struct RetryRules {
    /// Automatic retries after the first attempt.
    pub max_retries: u32,
    /// How long between them.
    pub policy: RetryPolicy,
    /// Statuses that are retried besides 5xx.
    pub retry_on: RetryOn,
}

/// Judges an attempt. `tried` counts it already; `schedule` is the installation's; `random` lies in 0..1 and makes
/// the jitter.
#[must_use]
pub fn judge(
    result: &AttemptResult,
    tried: &Tried,
    rules: &RetryRules,
    schedule: &Schedule,
    random: f64,
) -> Verdict {
    match result.outcome_with(rules.retry_on) {
        Outcome::Delivered => Verdict::Delivered,
        Outcome::Gone => Verdict::Failed(FailReason::Gone),
        Outcome::Refused if result.reply.is_err() => Verdict::Failed(FailReason::Blocked),
        Outcome::Refused => Verdict::Failed(FailReason::Refused),
        Outcome::Retryable if tried.automatic() > rules.max_retries => Verdict::Failed(FailReason::Exhausted),
        Outcome::Retryable => {
            let asked = result.asked_to_wait(rules.retry_on);
            Verdict::Retry(rules.policy.delay(schedule, tried.automatic(), asked, random))
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::outcome::{Answer, Fault, FaultKind};

    const RULES: RetryRules =
        RetryRules { max_retries: 3, policy: RetryPolicy::Exponential, retry_on: RetryOn::NONE };

    fn answered(status: u16, retry_after: Option<u64>) -> AttemptResult {
        let retry_after = retry_after.map(Duration::from_secs);
        AttemptResult {
            reply: Ok(Answer { status, excerpt: Bytes::new(), retry_after }),
            took: Duration::ZERO,
        }
    }

    fn after(attempts: u32, result: &AttemptResult) -> Verdict {
        let tried = Tried { attempts, ..Tried::default() };
        judge(result, &tried, &RULES, &Schedule::Exponential, 0.0)
    }

    #[test]
    fn one_attempt_and_three_retries_then_exhausted() {
        let verdicts = [1, 2, 3, 4].map(|attempts| after(attempts, &answered(500, None)));
        let Verdict::Retry(first) = verdicts[0] else { panic!("{verdicts:?}") };
        assert_eq!(first.as_secs(), 12);
        assert!(matches!(verdicts[2], Verdict::Retry(_)));
        assert_eq!(verdicts[3], Verdict::Failed(FailReason::Exhausted));
    }

    #[test]
    fn final_answers_end_the_delivery_at_once() {
        assert_eq!(after(1, &answered(204, None)), Verdict::Delivered);
        assert_eq!(after(1, &answered(410, None)), Verdict::Failed(FailReason::Gone));
        assert_eq!(after(1, &answered(429, Some(5))), Verdict::Failed(FailReason::Refused));
        assert_eq!(after(1, &answered(302, None)), Verdict::Failed(FailReason::Refused));
        let blocked = AttemptResult { reply: Err(Fault::new(FaultKind::Blocked, "x")), took: Duration::ZERO };
        assert_eq!(after(1, &blocked), Verdict::Failed(FailReason::Blocked));
    }

    #[test]
    fn retry_after_raises_the_delay_of_a_503_only() {
        assert_eq!(after(1, &answered(503, Some(60))), Verdict::Retry(Duration::from_secs(60)));
        let Verdict::Retry(delay) = after(1, &answered(500, Some(60))) else { panic!() };
        assert_eq!(delay.as_secs(), 12);
    }

    #[test]
    fn a_config_may_choose_to_retry_what_is_final_otherwise() {
        let rules = RetryRules {
            max_retries: 1,
            policy: RetryPolicy::Fixed { delay_seconds: 5 },
            retry_on: RetryOn::new([429]).unwrap(),
        };
        let judged = |attempts: u32, result: &AttemptResult| {
            let tried = Tried { attempts, ..Tried::default() };
            judge(result, &tried, &rules, &Schedule::Exponential, 0.0)
        };
        assert_eq!(judged(1, &answered(429, None)), Verdict::Retry(Duration::from_secs(5)));
        assert_eq!(judged(1, &answered(429, Some(60))), Verdict::Retry(Duration::from_secs(60)));
        assert_eq!(judged(2, &answered(429, Some(60))), Verdict::Failed(FailReason::Exhausted));
        assert_eq!(judged(1, &answered(408, Some(60))), Verdict::Failed(FailReason::Refused));
        assert_eq!(judged(1, &answered(410, None)), Verdict::Failed(FailReason::Gone));
        assert_eq!(judged(1, &answered(500, Some(60))), Verdict::Retry(Duration::from_secs(5)));
    }

    #[test]
    fn attempts_by_hand_do_not_count() {
        let tried = Tried { attempts: 4, by_hand: 1, ..Tried::default() };
        let verdict = judge(&answered(500, None), &tried, &RULES, &Schedule::Exponential, 0.0);
        assert!(matches!(verdict, Verdict::Retry(_)));
    }
}
