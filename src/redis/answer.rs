//! Taking answers apart: each step either gives the shape that the command's documentation says, or an error.

use redis::Value;

use super::connection::{RedisError, Result};

/// A list answer, taken element by element.
pub(crate) struct Answer {
    operation: &'static str,
    rest: std::vec::IntoIter<Value>,
}

impl Answer {
    /// The elements of a list.
    pub(crate) fn new(operation: &'static str, value: Value) -> Result<Self> {
        Ok(Self { operation, rest: list_of(operation, value)?.into_iter() })
    }

    fn value(&mut self) -> Result<Value> {
        self.rest.next().ok_or_else(|| RedisError::answer(self.operation, "the list is too short"))
    }

    /// The next element as a number.
    pub(crate) fn int(&mut self) -> Result<i64> {
        let value = self.value()?;
        int_of(self.operation, value)
    }

    /// The next element as text.
    pub(crate) fn text(&mut self) -> Result<String> {
        let value = self.value()?;
        text_of(self.operation, value)
    }

    /// The elements that are left.
    pub(crate) fn values(self) -> Vec<Value> {
        self.rest.collect()
    }
}

/// A list.
pub(crate) fn list_of(operation: &'static str, value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(list) | Value::Set(list) => Ok(list),
        Value::Nil => Ok(Vec::new()),
        other => Err(unexpected(operation, "a list", &other)),
    }
}

/// A number, also where RESP2 gives it as text.
pub(crate) fn int_of(operation: &'static str, value: Value) -> Result<i64> {
    match value {
        Value::Int(number) => Ok(number),
        Value::BulkString(bytes) => std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.parse::<f64>().ok())
            .map(|number| number as i64)
            .ok_or_else(|| RedisError::answer(operation, "expected a number")),
        other => Err(unexpected(operation, "a number", &other)),
    }
}

/// Text.
pub(crate) fn text_of(operation: &'static str, value: Value) -> Result<String> {
    match value {
        Value::BulkString(bytes) => {
            String::from_utf8(bytes).map_err(|_| RedisError::answer(operation, "expected UTF-8"))
        }
        Value::SimpleString(text) => Ok(text),
        other => Err(unexpected(operation, "text", &other)),
    }
}

/// Pairs of names and values, from a flat list.
pub(crate) fn fields_of(operation: &'static str, value: Value) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut flat = list_of(operation, value)?.into_iter();
    let mut fields = Vec::with_capacity(flat.len() / 2);
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        match (name, value) {
            (Value::BulkString(name), Value::BulkString(value)) => fields.push((name, value)),
            _ => return Err(RedisError::answer(operation, "expected names and values")),
        }
    }
    Ok(fields)
}

/// Names the kind only: an answer may hold bodies and secrets.
fn unexpected(operation: &'static str, wanted: &str, value: &Value) -> RedisError {
    let kind = match value {
        Value::Nil => "nil",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) => "text",
        Value::Array(_) => "a list",
        Value::Okay => "OK",
        Value::ServerError(_) => "an error",
        _ => "another type",
    };
    RedisError::answer(operation, format!("expected {wanted}, got {kind}"))
}
