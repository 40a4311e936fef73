//! `postrider serve` where it cannot start as asked: it says why in one line and ends with 1, at once.

use std::net::TcpListener;
use std::process::{Child, Stdio};

use crate::cli::{code, err, program};
use crate::serving::Serve;
use crate::support::{RedisServer, TestSpace, free_port, signal, wait_for};

/// Runs `postrider serve` on free ports with `arguments`, which come last and so win; gives exit code and stderr.
fn refused(arguments: &[&str]) -> (i32, String) {
    let output = serve(arguments).output().expect("the program runs");
    (code(&output), err(&output))
}

fn serve(arguments: &[&str]) -> std::process::Command {
    let mut command = program(&["serve", "--workers", "1", "--log-format", "text"]);
    for name in ["--listen", "--ops-listen"] {
        if !arguments.contains(&name) {
            command.args([name, &format!("127.0.0.1:{}", free_port())]);
        }
    }
    command.args(arguments);
    command
}

#[test]
fn a_redis_that_may_evict_is_refused_unless_that_is_wanted() {
    let redis = RedisServer::start(&["--maxmemory", "64mb"]);
    let mut raw = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let mut set = |policy: &str| {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg("maxmemory-policy").arg(policy).query::<()>(&mut raw).unwrap();
        redis::cmd("DBSIZE").query::<usize>(&mut raw).unwrap()
    };
    for policy in ["allkeys-lru", "volatile-ttl"] {
        assert_eq!(set(policy), 0);
        let (code, said) = refused(&["--redis-url", &redis.url()]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("maxmemory-policy is {policy}")), "{said}");
        assert!(said.contains("CONFIG SET maxmemory-policy noeviction"), "it says what to do: {said}");
    }
    assert_eq!(set("allkeys-lru"), 0, "nothing was written");
    let serve = Serve::start(&redis.url(), "postrider", &["--allow-eviction"]);
    assert!(serve.is_ready());
}

#[test]
fn a_port_in_use_is_named_with_its_setting_before_anything_else_is_done() {
    let space = TestSpace::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for name in ["listen", "ops-listen"] {
        let flag = format!("--{name}");
        let (code, said) =
            refused(&["--redis-url", &space.url, "--namespace", &space.namespace, &flag, &address]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("{name} {address}: ")), "{said}");
        assert!(said.contains("in use"), "{said}");
    }
    let keys: Vec<String> =
        redis::cmd("KEYS").arg(format!("{}:*", space.namespace)).query(&mut space.raw()).unwrap();
    assert!(keys.is_empty(), "{keys:?}");
}

#[test]
fn a_request_of_the_admin_api_may_not_be_given_less_time_than_an_attempt() {
    let space = TestSpace::new();
    let at = ["--redis-url", &space.url, "--namespace", &space.namespace];
    let flags = ["--request-timeout", "30s", "--admin-request-timeout", "39s"];
    let (code, said) = refused(&[&at[..], &flags].concat());
    assert_eq!(code, 64, "{said}");
    let wanted = "flag --admin-request-timeout: is 39s; expected at least 10s over request-timeout";
    assert!(said.contains("1 mistake in the settings") && said.contains(wanted), "{said}");
}

#[test]
fn headers_for_a_collector_that_cannot_be_read_are_refused_without_being_shown() {
    let space = TestSpace::new();
    let at = ["--redis-url", &space.url, "--namespace", &space.namespace];
    let flags = ["--otlp-endpoint", "http://127.0.0.1:4318"];
    let mut command = serve(&[&at[..], &flags].concat());
    let output = command.env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=%zzhunter2").output().unwrap();
    let (code, said) = (code(&output), err(&output));
    assert_eq!(code, 64, "{said}");
    let wanted =
        "environment OTEL_EXPORTER_OTLP_HEADERS: the value of pair 1 has a % that is no percent-encoding";
    assert!(said.contains(wanted) && !said.contains("hunter2"), "{said}");
}

/// Ends a server as an operator would, so that its embedded Redis ends too.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        signal(self.0.id(), "TERM");
        let _ = self.0.wait();
    }
}

#[test]
fn a_second_process_on_the_same_data_folder_is_refused_and_the_first_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let token = |name: &str| {
        let arguments = ["token", "create", "--organisation", "o", "--role", "admin", "--name", name];
        program(&[&arguments[..], &["--data-dir", data]].concat()).output().unwrap().status.success()
    };
    let first = serve(&["--data-dir", data]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let first = Running(first);
    wait_for("the embedded Redis", || token("before"));
    let (code, said) = refused(&["--data-dir", data]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&format!("process {}", first.0.id())), "it names the one that has it: {said}");
    assert!(token("after"), "the first one's Redis is untouched");
}
