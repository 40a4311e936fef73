//! The embedded Redis by behaviour, each test with a folder and a `redis-server` of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use postrider::redis::embedded::{EmbeddedError, EmbeddedRedis, socket_url};

use crate::support::{eventually, free_port, kill_nine, wait_for};

fn ask<T: redis::FromRedisValue>(url: &str, words: &[&str]) -> redis::RedisResult<T> {
    let mut connection = redis::Client::open(url)?.get_connection()?;
    words[1..]
        .iter()
        .fold(redis::cmd(words[0]), |command, word| command.to_owned().arg(word).to_owned())
        .query(&mut connection)
}

fn setting(url: &str, name: &str) -> String {
    ask::<Vec<String>>(url, &["CONFIG", "GET", name]).unwrap().swap_remove(1)
}

async fn start(directory: &Path) -> EmbeddedRedis {
    EmbeddedRedis::start(directory, None).await.unwrap()
}

/// Whether a process is there (signal 0 only asks).
fn alive(pid: u32) -> bool {
    Command::new("kill").arg("-0").arg(pid.to_string()).stderr(Stdio::null()).status().unwrap().success()
}

#[tokio::test]
async fn it_keeps_its_data_and_its_promises_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("with space");
    assert!(matches!(socket_url(&data_dir), Err(EmbeddedError::NotRunning { .. })));

    let embedded = start(&data_dir).await;
    let (url, pid) = (embedded.url().to_owned(), embedded.pid());
    assert_eq!(socket_url(&data_dir).unwrap(), url);
    ask::<()>(&url, &["SET", "kept", "yes"]).unwrap();
    let wanted = [("appendonly", "yes"), ("save", ""), ("maxmemory-policy", "noeviction"), ("port", "0")];
    for (name, value) in wanted {
        assert_eq!(setting(&url, name), value, "{name}");
    }
    assert!(setting(&url, "maxmemory").parse::<u64>().unwrap() > 0);
    let mode = std::fs::metadata(data_dir.join("redis")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);

    embedded.stop().await;
    assert!(!alive(pid), "stop waits for the end");
    assert!(matches!(socket_url(&data_dir), Err(EmbeddedError::NotRunning { .. })));

    let again = start(&data_dir).await;
    assert_eq!(ask::<String>(&url, &["GET", "kept"]).unwrap(), "yes");
    again.stop().await;
}

#[tokio::test]
async fn a_second_process_on_the_folder_is_refused_by_the_name_of_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = start(directory.path()).await;
    let error = EmbeddedRedis::start(directory.path(), None).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::InUse { .. }));
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    embedded.stop().await;
}

#[tokio::test]
async fn an_orphan_is_adopted_with_its_data_and_opens_the_wanted_port() {
    let directory = tempfile::tempdir().unwrap();
    let orphaned = start(directory.path()).await;
    let pid = orphaned.pid();
    ask::<()>(orphaned.url(), &["SET", "kept", "yes"]).unwrap();
    drop(orphaned);
    assert!(alive(pid));

    let port = free_port();
    let adopted = EmbeddedRedis::start(directory.path(), Some(port)).await.unwrap();
    assert_eq!(adopted.pid(), pid);
    assert_eq!(ask::<String>(adopted.url(), &["GET", "kept"]).unwrap(), "yes");
    assert_eq!(ask::<String>(&format!("redis://127.0.0.1:{port}"), &["GET", "kept"]).unwrap(), "yes");

    kill_nine(pid);
    eventually("an adopted server to be restarted", async || adopted.pid() != pid).await;
    assert_eq!(ask::<String>(adopted.url(), &["GET", "kept"]).unwrap(), "yes");
    adopted.stop().await;
}

#[tokio::test]
async fn a_killed_server_is_started_again_over_its_stale_socket() {
    let directory = tempfile::tempdir().unwrap();
    let embedded = start(directory.path()).await;
    let pid = embedded.pid();
    ask::<()>(embedded.url(), &["SET", "kept", "yes"]).unwrap();
    kill_nine(pid);
    eventually("another server", async || embedded.pid() != pid).await;
    assert_eq!(ask::<String>(embedded.url(), &["GET", "kept"]).unwrap(), "yes");
    embedded.stop().await;
}

#[tokio::test]
async fn another_server_at_the_socket_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let redis_dir = directory.path().join("redis");
    std::fs::create_dir(&redis_dir).unwrap();
    let socket = redis_dir.join("redis.sock");
    let mut foreign = foreign_redis(directory.path(), &socket);
    wait_for("the foreign server", || std::os::unix::net::UnixStream::connect(&socket).is_ok());

    let error = EmbeddedRedis::start(directory.path(), None).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::Foreign { .. }), "{error}");
    assert!(foreign.try_wait().unwrap().is_none(), "it still runs");
    foreign.kill().unwrap();
    foreign.wait().unwrap();

    // What it leaves is a stale socket.
    assert!(socket.exists());
    start(directory.path()).await.stop().await;
}

fn foreign_redis(dir: &Path, socket: &Path) -> Child {
    Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(socket)
        .arg("--dir")
        .arg(dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_taken_port_and_a_damaged_file_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = EmbeddedRedis::start(directory.path(), Some(port)).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::PortInUse { .. }), "{error}");

    let embedded = start(directory.path()).await;
    ask::<()>(embedded.url(), &["SET", "key", "value"]).unwrap();
    embedded.stop().await;
    let aof = directory.path().join("redis/appendonlydir/appendonly.aof.manifest");
    std::fs::write(&aof, "no manifest\n").unwrap();
    let error = EmbeddedRedis::start(directory.path(), None).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::Ended { .. }), "{error}");
    assert!(error.to_string().contains("manifest"), "{error}");
}
