//! One type per id, so that a config's id cannot be passed where a delivery's is wanted.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not the id it was taken for. The message says what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct InvalidId {
    /// The shape that was expected, for the person who sent it.
    pub expected: &'static str,
}

/// An organisation: an opaque string of 1 to 128 visible ASCII characters without `:`, `{` and `}`.
///
/// The three are refused because the id becomes part of a Redis key (`nonce:<org>:<nonce>`), where they would
/// make two organisations' keys one, or change the key's slot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrganisationId(Arc<str>);

/// A webhook config: 24 hex digits, 16 of them random, the last 8 its sequence number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigId([u8; 12]);

/// The number of a config within one installation, never used twice; the part of [`ConfigId`] that a
/// [`DeliveryId`] carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigSequence(pub u32);

/// One partition of the keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardNumber(pub u16);

/// A Redis stream id, `<ms>-<sequence>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// Milliseconds since the epoch, by Redis's clock when the producer wrote `*`.
    pub ms: u64,
    /// Number within the millisecond.
    pub seq: u64,
}

/// The id of an event in Postrider: its shard and its stream id, both within the bounds that a
/// [`DeliveryId`] can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    shard: ShardNumber,
    ms: u64,
    seq: u32,
}

/// One event for one config: `dlv_` and 26 Crockford base32 characters of shard (16 bits), config sequence
/// (32), stream milliseconds (48) and stream sequence (32). The same event for the same config has the same
/// id on every replica and after every crash, and the id alone says where to look.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(u128);

// === impl OrganisationId ===

impl OrganisationId {
    /// # Errors
    /// When the text is empty, longer than 128 or holds a character that is not allowed.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        let allowed = |b: u8| b.is_ascii_graphic() && !matches!(b, b':' | b'{' | b'}');
        if (1..=128).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidId { expected: "1 to 128 visible ASCII characters without ':', '{' and '}'" })
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrganisationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for OrganisationId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

impl std::borrow::Borrow<str> for OrganisationId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

// === impl ConfigId ===

impl ConfigId {
    /// Makes the id of the config with `sequence` from eight random bytes.
    #[must_use]
    pub fn new(random: [u8; 8], sequence: ConfigSequence) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&random);
        bytes[8..].copy_from_slice(&sequence.0.to_be_bytes());
        Self(bytes)
    }

    /// The id from its twelve bytes, as they stand in a delivery's record.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// The twelve bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 12] {
        self.0
    }

    /// The number in the last four bytes.
    #[must_use]
    pub const fn sequence(self) -> ConfigSequence {
        ConfigSequence(u32::from_be_bytes([self.0[8], self.0[9], self.0[10], self.0[11]]))
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

impl fmt::Display for ConfigId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one piece: every key of a config has it, and each settle call has several.
        let mut text = [0_u8; 24];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for ConfigId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ConfigId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let wrong = InvalidId { expected: "24 lower-case hexadecimal digits" };
        let digits = text.as_bytes();
        if digits.len() != 24 {
            return Err(wrong);
        }
        let mut bytes = [0; 12];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (Some(high), Some(low)) = (hex_value(pair[0]), hex_value(pair[1])) else { return Err(wrong) };
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

// === impl StreamId ===

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for StreamId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let wrong = || InvalidId { expected: "a stream id, <milliseconds>-<sequence>" };
        let (ms, seq) = text.split_once('-').ok_or_else(wrong)?;
        Ok(Self { ms: ms.parse().map_err(|_| wrong())?, seq: seq.parse().map_err(|_| wrong())? })
    }
}

// === impl EventId ===

impl EventId {
    /// # Errors
    /// When the milliseconds need more than 48 bits or the sequence more than 32: such an id is not one that
    /// `XADD *` makes before the year 10889.
    pub fn new(shard: ShardNumber, id: StreamId) -> Result<Self, InvalidId> {
        let wrong = InvalidId { expected: "a stream id below 2^48 ms and 2^32 in its sequence" };
        let seq = u32::try_from(id.seq).map_err(|_| wrong.clone())?;
        if id.ms >= 1 << 48 { Err(wrong) } else { Ok(Self { shard, ms: id.ms, seq }) }
    }

    /// The shard.
    #[must_use]
    pub const fn shard(self) -> ShardNumber {
        self.shard
    }

    /// The id within the shard's stream.
    #[must_use]
    pub const fn stream_id(self) -> StreamId {
        StreamId { ms: self.ms, seq: self.seq as u64 }
    }

    /// The delivery of this event to the config with `sequence`.
    #[must_use]
    pub fn delivery(self, sequence: ConfigSequence) -> DeliveryId {
        DeliveryId(
            u128::from(self.shard.0) << 112
                | u128::from(sequence.0) << 80
                | u128::from(self.ms) << 32
                | u128::from(self.seq),
        )
    }

    /// The nonce of an event whose producer gave none: the same on every delivery of it.
    #[must_use]
    pub fn derived_nonce(self) -> String {
        format!("evt_{}_{}-{}", self.shard.0, self.ms, self.seq)
    }
}

// === impl DeliveryId ===

const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const DELIVERY_PREFIX: &str = "dlv_";

impl DeliveryId {
    /// The id from its sixteen bytes, as they stand in a log page.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The sixteen bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The event that is delivered.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // Each shift leaves exactly the field's bits.
    pub const fn event(self) -> EventId {
        EventId {
            shard: ShardNumber((self.0 >> 112) as u16),
            ms: (self.0 >> 32) as u64 & ((1 << 48) - 1),
            seq: self.0 as u32,
        }
    }

    /// The number of the config that it is delivered to.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub const fn config(self) -> ConfigSequence {
        ConfigSequence((self.0 >> 80) as u32)
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0_u8; 26];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            *place = CROCKFORD[(rest & 31) as usize];
            rest >>= 5;
        }
        f.write_str(DELIVERY_PREFIX)?;
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DeliveryId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let wrong = InvalidId { expected: "dlv_ and 26 Crockford base32 characters in lower case" };
        let Some(digits) = text.strip_prefix(DELIVERY_PREFIX).filter(|rest| rest.len() == 26) else {
            return Err(wrong);
        };
        // 26 characters carry 130 bits: the first may only be 0 to 7.
        if !(b'0'..=b'7').contains(&digits.as_bytes()[0]) {
            return Err(wrong);
        }
        let mut value = 0_u128;
        for byte in digits.bytes() {
            let Some(digit) = CROCKFORD.iter().position(|c| *c == byte) else { return Err(wrong) };
            value = value << 5 | digit as u128;
        }
        Ok(Self(value))
    }
}

/// Serde as text for the ids that stand in JSON.
macro_rules! serde_as_text {
    ($($id:ty),+) => {$(
        impl Serialize for $id {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

serde_as_text!(OrganisationId, ConfigId, DeliveryId, StreamId);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_delivery_id_reads_as_documented() {
        let event = EventId::new(ShardNumber(0), StreamId { ms: 1_777_626_000_000, seq: 3 }).unwrap();
        let id = event.delivery(ConfigSequence(1));
        assert_eq!(id.to_string().len(), 30);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!((id.event(), id.config()), (event, ConfigSequence(1)));
    }

    #[test]
    fn ids_out_of_bounds_are_refused() {
        let new = |ms, seq| EventId::new(ShardNumber(0), StreamId { ms, seq });
        assert!(new((1 << 48) - 1, (1 << 32) - 1).is_ok());
        assert!(new(1 << 48, 0).is_err());
        assert!(new(0, 1 << 32).is_err());
        for bad in ["", "dlv_", "dlv_8zzzzzzzzzzzzzzzzzzzzzzzzz", "dlv_0000000000000000000000000U"] {
            assert!(bad.parse::<DeliveryId>().is_err(), "{bad}");
        }
        for bad in ["", "a:b", "{a}", "a b", "é"] {
            assert!(OrganisationId::new(bad).is_err(), "{bad}");
        }
        assert!("0123456789ABCDEF01234567".parse::<ConfigId>().is_err());
    }

    proptest! {
        #[test]
        fn delivery_ids_carry_their_parts(shard: u16, config: u32, ms in 0_u64..1 << 48, seq: u32) {
            let event = EventId::new(ShardNumber(shard), StreamId { ms, seq: u64::from(seq) }).unwrap();
            let id = event.delivery(ConfigSequence(config));
            prop_assert_eq!(id.event(), event);
            prop_assert_eq!(id.config(), ConfigSequence(config));
            prop_assert_eq!(id.to_string().parse::<DeliveryId>(), Ok(id));
            prop_assert_eq!(DeliveryId::from_bytes(id.bytes()), id);
        }

        #[test]
        fn config_ids_round_trip(random: [u8; 8], sequence: u32) {
            let id = ConfigId::new(random, ConfigSequence(sequence));
            prop_assert_eq!(id.to_string().parse::<ConfigId>(), Ok(id));
            prop_assert_eq!(id.sequence(), ConfigSequence(sequence));
        }

        #[test]
        fn any_text_is_an_id_or_an_error(text in "\\PC{0,40}") {
            let _ = (text.parse::<DeliveryId>(), text.parse::<ConfigId>(), text.parse::<StreamId>());
        }
    }
}
