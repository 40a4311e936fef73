//! The two primitives that every packed value of the keyspace is made of: big-endian integers of fixed width
//! and length-prefixed bytes (LEB128 lengths). Reading is bounded by the input and never panics.

/// A packed value is cut short, or holds what its format does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packed value is malformed at byte {at}: {what}")]
pub struct Malformed {
    /// Offset of the byte that could not be read.
    pub at: usize,
    /// What was expected there.
    pub what: &'static str,
}

/// Reads a packed value from front to back.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the first byte.
    #[must_use]
    pub const fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0 }
    }

    /// An error at the current place.
    #[must_use]
    pub const fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { at: self.at, what }
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.slice(N)?;
        bytes.try_into().map_err(|_| self.malformed("fixed field"))
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn slice(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(len).ok_or(self.malformed("length"))?;
        let bytes = self.input.get(self.at..end).ok_or(self.malformed("more bytes"))?;
        self.at = end;
        Ok(bytes)
    }

    /// One byte.
    ///
    /// # Errors
    /// At the end of the input.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// Two bytes.
    ///
    /// # Errors
    /// At the end of the input.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// At the end of the input.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// At the end of the input.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A LEB128 number of at most 32 bits, as a length or a count.
    ///
    /// # Errors
    /// When it is cut short or larger.
    pub fn length(&mut self) -> Result<usize, Malformed> {
        let mut value = 0_u64;
        for shift in (0..35).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value)
                    .ok()
                    .and_then(|v| usize::try_from(v).ok())
                    .ok_or(self.malformed("length of 32 bits"));
            }
        }
        Err(self.malformed("length of 32 bits"))
    }

    /// Bytes behind their length.
    ///
    /// # Errors
    /// When cut short.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.length()?;
        self.slice(len)
    }

    /// UTF-8 text behind its length.
    ///
    /// # Errors
    /// When cut short or not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        let place = self.malformed("UTF-8");
        std::str::from_utf8(self.bytes()?).map_err(|_| place)
    }

    /// What has not been read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.input.get(self.at..).unwrap_or_default()
    }
}

/// Appends `value` as LEB128.
pub fn put_length(out: &mut Vec<u8>, value: usize) {
    let mut rest = value;
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push((rest & 0x7f) as u8);
}

/// Appends `bytes` behind their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lengths_round_trip(value in 0_usize..=u32::MAX as usize) {
            let mut out = Vec::new();
            put_length(&mut out, value);
            prop_assert_eq!(Reader::new(&out).length(), Ok(value));
        }

        #[test]
        fn any_input_is_read_without_panic(input: Vec<u8>) {
            let mut reader = Reader::new(&input);
            while reader.bytes().is_ok() && !reader.rest().is_empty() {}
        }
    }
}
