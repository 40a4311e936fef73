//! What Redis must be for a keyspace, and how a keyspace is opened.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use postrider::domain::ids::ShardNumber;
use postrider::redis::connection::{Cause, Link, RedisError};
use postrider::redis::keyspace::{KEYSPACE_VERSION, check_server, find_shards, open, shards};
use redis::Commands;

use crate::support::{RedisServer, TestSpace};

/// What a refused setting tells the operator.
fn told<T: std::fmt::Debug>(answer: Result<T, RedisError>) -> String {
    match answer.unwrap_err() {
        RedisError { cause: Cause::Setting(text), .. } => text,
        other => panic!("{other:?}"),
    }
}

fn alone(url: String) -> TestSpace {
    TestSpace { url, namespace: "alone".into() }
}

fn link(server: &RedisServer) -> Link {
    alone(server.url()).redis().link()
}

#[tokio::test]
async fn a_server_of_version_7_that_evicts_nothing_is_accepted() {
    let space = TestSpace::new();
    check_server(&space.redis().link(), false).await.unwrap();
}

#[tokio::test]
async fn a_server_that_evicts_is_refused_unless_allowed() {
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let server = RedisServer::start(&["--maxmemory-policy", policy]);
        let text = told(check_server(&link(&server), false).await);
        assert!(text.contains(policy) && text.contains("CONFIG SET maxmemory-policy noeviction"), "{text}");
        check_server(&link(&server), true).await.unwrap();
    }
}

#[tokio::test]
async fn a_cluster_is_refused() {
    let server = RedisServer::start(&["--cluster-enabled", "yes"]);
    let text = told(check_server(&link(&server), true).await);
    assert!(text.contains("Cluster is not supported"), "{text}");
}

/// A server that answers `INFO` as another version would, and everything else with OK.
fn server_that_says(info: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}/0", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let _ = answer(stream, info);
        }
    });
    url
}

fn answer(stream: TcpStream, info: &str) -> std::io::Result<()> {
    let mut input = BufReader::new(stream.try_clone()?);
    let mut output = stream;
    let mut line = String::new();
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let count: usize = line.trim_start_matches('*').trim().parse().unwrap_or(0);
        let mut words = Vec::new();
        for _ in 0..count {
            line.clear();
            input.read_line(&mut line)?;
            let len: usize = line.trim_start_matches('$').trim().parse().unwrap_or(0);
            let mut word = vec![0; len + 2];
            input.read_exact(&mut word)?;
            words.push(String::from_utf8_lossy(&word[..len]).to_uppercase());
        }
        if words.first().is_some_and(|word| word == "INFO") {
            write!(output, "${}\r\n{info}\r\n", info.len())?;
        } else {
            write!(output, "+OK\r\n")?;
        }
    }
}

#[tokio::test]
async fn an_older_server_is_refused_by_its_version() {
    for (info, accepted) in [
        ("redis_version:6.2.14\r\nmaxmemory_policy:noeviction\r\n", false),
        ("redis_version:\r\nmaxmemory_policy:noeviction\r\n", false),
        ("maxmemory_policy:noeviction\r\n", false),
        ("redis_version:7.0.0\r\nmaxmemory_policy:noeviction\r\nmaxmemory:0\r\n", true),
        ("redis_version:10.1.0\r\nmaxmemory_policy:noeviction\r\nmaxmemory:5\r\n", true),
    ] {
        let space = alone(server_that_says(info));
        let answer = check_server(&space.redis().link(), false).await;
        if accepted {
            answer.unwrap();
        } else {
            let text = told(answer);
            assert!(text.contains("7.0 or later is needed"), "{text}");
        }
    }
}

fn meta(space: &TestSpace) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = space.raw().hgetall(space.redis().keys().meta()).unwrap();
    pairs.sort();
    pairs
}

fn written(shards: &str) -> Vec<(String, String)> {
    let version = KEYSPACE_VERSION.to_string();
    [("keyspaceVersion", version.as_str()), ("shards", shards)].map(|(k, v)| (k.into(), v.into())).to_vec()
}

#[tokio::test]
async fn the_first_start_writes_the_shards_and_later_ones_check_them() {
    let space = TestSpace::new();
    let link = space.redis().link();
    assert_eq!(meta(&space), vec![]);
    assert!(find_shards(&link).await.unwrap().is_none());
    assert!(told(shards(&link).await).contains("start 'postrider serve' on it once"));
    for _ in 0..2 {
        let opened = open(&link, 3).await.unwrap();
        assert_eq!(opened.iter().map(|keys| keys.shard.0).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(opened[2], space.redis().keys().shard(ShardNumber(2)));
        assert_eq!(meta(&space), written("3"));
    }
    for wrong in [1, 4] {
        let text = told(open(&link, wrong).await);
        assert!(text.contains("has 3 shards") && text.contains(&format!("says {wrong}")), "{text}");
        assert_eq!(meta(&space), written("3"));
    }
    assert_eq!(shards(&link).await.unwrap(), open(&link, 3).await.unwrap());
}

#[tokio::test]
async fn a_keyspace_of_another_version_or_of_impossible_shards_is_left_alone() {
    for (version, field, count) in
        [("2", "shards", "1"), ("2", "partitions", "1"), ("1", "shards", "0"), ("1", "shards", "65")]
    {
        let space = TestSpace::new();
        let key = space.redis().keys().meta();
        let _: () = space.raw().hset_multiple(&key, &[("keyspaceVersion", version), (field, count)]).unwrap();
        let before = meta(&space);
        let link = space.redis().link();
        for _ in 0..2 {
            let text = told(open(&link, 1).await);
            assert!(text.contains("this program knows version 1"), "{text}");
            assert_eq!(meta(&space), before);
        }
    }
}

#[tokio::test]
async fn a_full_redis_opens_a_keyspace_that_exists() {
    let server = RedisServer::start(&[]);
    let space = alone(server.url());
    assert_eq!(open(&space.redis().link(), 1).await.unwrap().len(), 1);
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1).exec(&mut space.raw()).unwrap();
    let link = space.redis().link();
    check_server(&link, false).await.unwrap();
    assert_eq!(open(&link, 1).await.unwrap().len(), 1);
    // A new one cannot be made; that is Redis's own refusal.
    let other = TestSpace { url: server.url(), namespace: "other".into() };
    assert_eq!(open(&other.redis().link(), 1).await.unwrap_err().code(), Some("OOM"));
    assert_eq!(meta(&other), vec![]);
}
