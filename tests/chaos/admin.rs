//! The admin API and the operator's pages, called with a request a connection.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::binary;
use crate::publisher::ORGANISATION;

const TIMEOUT: Duration = Duration::from_secs(5);
const CONFIGS: &str = "/api/v2/admin/webhooks/configs";

/// `GET` of an operator's page: status and body.
pub(crate) fn get(port: u16, path: &str) -> Result<(u16, String)> {
    call(port, "GET", path, "", None)
}

/// Makes an admin token on the command line.
pub(crate) fn create_token(redis_url: &str) -> String {
    let output = Command::new(binary())
        .args(["token", "create", "--redis-url", redis_url, "--namespace", "chaos"])
        .args(["--organisation", ORGANISATION, "--role", "admin", "--output", "json"])
        .output()
        .expect("postrider runs");
    assert!(output.status.success(), "token create: {}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    answer["token"].as_str().expect("a token").to_owned()
}

/// The status of a `GET` of the configs; 0 when there is no answer.
pub(crate) fn get_configs_status(port: u16, token: &str) -> u16 {
    call(port, "GET", CONFIGS, token, None).map_or(0, |(status, _)| status)
}

/// `PUT` of a config, or of the whole set where `body` is an array.
pub(crate) fn put_configs(port: u16, token: &str, body: &Value) -> Value {
    let (status, text) = call(port, "PUT", CONFIGS, token, Some(body.to_string())).expect("the admin API");
    assert_eq!(status, 200, "PUT of configs: {text}");
    serde_json::from_str(&text).expect("JSON")
}

/// The organisation's configs.
pub(crate) fn configs(port: u16, token: &str) -> Vec<Value> {
    let (status, text) = call(port, "GET", CONFIGS, token, None).expect("the admin API");
    assert_eq!(status, 200, "GET of configs: {text}");
    serde_json::from_str(&text).expect("an array")
}

fn call(port: u16, method: &str, path: &str, token: &str, body: Option<String>) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let body = body.unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\nx-api-token: {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let broken = || Error::new(ErrorKind::InvalidData, "no HTTP answer");
    let (head, text) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(broken)?;
    Ok((status, text.to_owned()))
}
