//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>, section 3.2): what a `traceparent` says.

use std::fmt;

/// The id of a whole trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// The id of one span of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

/// A `traceparent`: which trace an event belongs to, and which span of it caused the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span that caused the event.
    pub parent: SpanId,
    flags: u8,
}

/// Length of a `traceparent`.
pub const TRACEPARENT_LEN: usize = 55;

/// The flag that the caller may have recorded its span, so that ours are worth recording.
const SAMPLED: u8 = 1;

// === impl TraceContext ===

impl TraceContext {
    /// Reads a `traceparent`; `None` where it is none, or where an id in it is all zeros, which stands for no trace.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let shaped = text.len() == TRACEPARENT_LEN && text.split('-').all(digits);
        let dashed = [2, 35, 52].iter().all(|at| text.as_bytes().get(*at) == Some(&b'-'));
        if !shaped || !dashed {
            return None;
        }
        let context = Self {
            trace: TraceId(bytes_of(text.get(3..35)?)?),
            parent: SpanId(bytes_of(text.get(36..52)?)?),
            flags: bytes_of::<1>(text.get(53..55)?)?[0],
        };
        let known = context.trace.0 != [0; 16] && context.parent.0 != [0; 8] && !text.starts_with("ff");
        known.then_some(context)
    }

    /// Whether the caller recorded its span.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The `traceparent` for what `span` calls: the same trace and flags.
    #[must_use]
    pub fn header(&self, span: SpanId) -> String {
        format!("00-{}-{span}-{:02x}", self.trace, self.flags & SAMPLED)
    }
}

fn bytes_of<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

// === impl TraceId ===

/// 32 hexadecimal digits.
impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

// === impl SpanId ===

/// 16 hexadecimal digits.
impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example of the recommendation.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_specifications_example() {
        let context = TraceContext::parse(EXAMPLE).unwrap();
        assert_eq!(context.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.parent.to_string(), "00f067aa0ba902b7");
        assert!(context.is_sampled());
        assert_eq!(context.header(context.parent), EXAMPLE);
        assert_eq!(EXAMPLE.len(), TRACEPARENT_LEN);
        assert!(!TraceContext::parse(&EXAMPLE.replace("-01", "-00")).unwrap().is_sampled());
    }

    #[test]
    fn what_stands_for_no_trace_is_none() {
        for text in [
            "",
            "00-1",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-f-]{0,60}|\\PC{0,60}") {
            let _ = TraceContext::parse(&text);
        }

        #[test]
        fn what_is_written_is_read(trace in 1_u128.., parent in 1_u64.., flags in 0_u8..2) {
            let text = format!("00-{trace:032x}-{parent:016x}-{flags:02x}");
            let context = TraceContext::parse(&text).unwrap();
            prop_assert_eq!(context.header(context.parent), text);
        }
    }
}
