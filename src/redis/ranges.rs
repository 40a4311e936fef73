//! Ends of stream ranges, as `XRANGE` and `XREVRANGE` take them.

use crate::domain::ids::StreamId;

/// The end of a range that holds only what is older than `id`. Redis refuses `(0-0`, for no id is smaller; nothing
/// has that id, so a range up to it is as empty.
pub(super) fn older_than(id: StreamId) -> String {
    if id == StreamId::default() { id.to_string() } else { format!("({id}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_older_than_the_smallest_id() {
        assert_eq!(older_than(StreamId { ms: 0, seq: 0 }), "0-0");
        assert_eq!(older_than(StreamId { ms: 5, seq: 1 }), "(5-1");
    }
}
