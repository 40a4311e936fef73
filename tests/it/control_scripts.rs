//! The scripts of the control keys and of publishing, each by the whole state before and after, applied twice.

use postrider::redis::scripts;
use redis::{Connection, Value};

use crate::support::TestSpace;

/// One test's keys, all in one slot, and what they hold.
struct Fixture {
    raw: Connection,
    keys: Vec<String>,
}

impl Fixture {
    fn new(names: &[&str]) -> Self {
        let space = TestSpace::new();
        let mut raw = space.raw();
        for (_, source, _, _) in scripts::ALL {
            redis::cmd("SCRIPT").arg("LOAD").arg(*source).exec(&mut raw).unwrap();
        }
        let keys = names.iter().map(|name| format!("{}:{{t}}:{name}", space.namespace)).collect();
        Self { raw, keys }
    }

    fn keys<const N: usize>(&self) -> [&str; N] {
        std::array::from_fn(|n| self.keys[n].as_str())
    }

    /// Every key whole: hashes sorted, stream entries without their ids.
    fn state(&mut self) -> Vec<Vec<String>> {
        let raw = &mut self.raw;
        let read = |key: &String| -> Vec<String> {
            let kind: String = redis::cmd("TYPE").arg(key).query(raw).unwrap();
            match kind.as_str() {
                "none" => vec![],
                "string" => vec![redis::cmd("GET").arg(key).query(raw).unwrap()],
                "hash" => {
                    let pairs: std::collections::BTreeMap<String, String> =
                        redis::cmd("HGETALL").arg(key).query(raw).unwrap();
                    pairs.into_iter().map(|(field, value)| format!("{field}={value}")).collect()
                }
                _ => {
                    let entries: Vec<(String, Vec<String>)> =
                        redis::cmd("XRANGE").arg(key).arg("-").arg("+").query(raw).unwrap();
                    entries.into_iter().map(|(_, fields)| fields.join(" ")).collect()
                }
            }
        };
        self.keys.iter().map(read).collect()
    }
}

fn owned(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn first(answer: &Value) -> String {
    match answer {
        Value::Array(items) => redis::from_redis_value(items[0].clone()).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn put_configs_writes_all_or_nothing_and_once() {
    let mut fixture = Fixture::new(&["configs", "meta", "changes", "health", "audit", "audit_bytes"]);
    let run = |fixture: &mut Fixture, sequence: [&str; 2], ops: &[&str]| -> String {
        let [before, after] = sequence.map(str::as_bytes);
        let args = [before, after, b"100".as_slice(), b"60000"];
        let command = scripts::PUT_CONFIGS.call_batch(fixture.keys(), &[], args, &owned(ops));
        let answer: Value = command.query(&mut fixture.raw).unwrap();
        first(&answer)
    };
    let mut empty: Vec<Vec<String>> = vec![vec![]; 6];
    let health = fixture.keys[3].clone();
    redis::cmd("HSET").arg(&health).arg(&["a", "known", "z", "known"]).exec(&mut fixture.raw).unwrap();
    empty[3] = vec!["a=known".into(), "z=known".into()];
    assert_eq!(fixture.state(), empty);
    // One of two does not hold what was read; or a config was made meanwhile: nothing is written.
    assert_eq!(
        run(&mut fixture, ["0", "2"], &["a", "", "A1", "audit a", "b", "old", "B1", "audit b"]),
        "conflict"
    );
    assert_eq!(run(&mut fixture, ["1", "2"], &["a", "", "A1", "audit a"]), "conflict");
    assert_eq!(fixture.state(), empty);

    assert_eq!(
        run(&mut fixture, ["0", "2"], &["a", "", "A1", "audit a", "b", "", "B1", "audit b"]),
        "written"
    );
    let once = vec![
        vec!["a=A1".to_owned(), "b=B1".into()],
        vec!["configSequence=2".into()],
        vec!["kind config id a".into(), "kind config id b".into()],
        vec!["z=known".into()],
        vec!["entry audit a".into(), "entry audit b".into()],
        vec!["14".into()],
    ];
    assert_eq!(fixture.state(), once);
    assert_eq!(
        run(&mut fixture, ["0", "2"], &["a", "", "A1", "audit a", "b", "", "B1", "audit b"]),
        "conflict"
    );
    assert_eq!(fixture.state(), once);

    // Without a sequence it is neither compared nor changed.
    assert_eq!(run(&mut fixture, ["", ""], &["a", "A1", "A2", "audit"]), "written");
    assert_eq!(fixture.state()[0..2], [vec!["a=A2".to_owned(), "b=B1".into()], once[1].clone()]);
    let after = fixture.state();
    assert_eq!(run(&mut fixture, ["", ""], &["a", "A1", "A2", "audit"]), "conflict");
    assert_eq!(fixture.state(), after);
}

#[test]
fn health_is_changed_once_and_only_of_an_active_config_at_its_version() {
    let mut fixture = Fixture::new(&["health", "configs", "changes"]);
    let run = |fixture: &mut Fixture, version: &str, how: &str, read: &str, next: &str| -> (String, String) {
        let args =
            [b"a".as_slice(), version.as_bytes(), how.as_bytes(), read.as_bytes(), next.as_bytes(), b"100"];
        let answer: (String, u64, String) =
            scripts::HEALTH.call(fixture.keys(), args).query(&mut fixture.raw).unwrap();
        assert!(answer.1 > 1_700_000_000_000, "{}", answer.1);
        (answer.0, answer.2)
    };
    let said = |what: &str, json: &str| (what.to_owned(), json.to_owned());
    let set = |fixture: &mut Fixture, config: &str| {
        let key = fixture.keys[1].clone();
        redis::cmd("HSET").arg(key).arg(&["a", config]).exec(&mut fixture.raw).unwrap();
    };
    // Unknown, deleted, paused, of another version: nothing is remembered.
    for config in
        ["", r#"{"kind":"tombstone"}"#, r#"{"active":false,"version":3}"#, r#"{"active":true,"version":4}"#]
    {
        if !config.is_empty() {
            set(&mut fixture, config);
        }
        for how in ["r", "w", "a"] {
            assert_eq!(run(&mut fixture, "3", how, "", "H1"), said("gone", ""));
        }
        assert_eq!((fixture.state()[0].len(), fixture.state()[2].len()), (0, 0), "{config}");
    }
    set(&mut fixture, r#"{"active":true,"version":3}"#);
    assert_eq!(run(&mut fixture, "3", "r", "", ""), said("read", ""));
    assert_eq!(run(&mut fixture, "3", "w", "H0", "H1"), said("conflict", ""));
    assert_eq!(run(&mut fixture, "3", "w", "", "H1"), said("written", "H1"));
    assert_eq!(run(&mut fixture, "3", "w", "", "H1"), said("conflict", "H1"));
    assert_eq!((fixture.state()[0].clone(), fixture.state()[2].len()), (vec!["a=H1".to_owned()], 0));
    assert_eq!(run(&mut fixture, "3", "a", "H1", "H2"), said("written", "H2"));
    let state = fixture.state();
    assert_eq!((&state[0], &state[2]), (&vec!["a=H2".to_owned()], &vec!["kind health id a".to_owned()]));
    assert_eq!(run(&mut fixture, "3", "a", "H1", "H2"), said("conflict", "H2"));
    assert_eq!(fixture.state(), state);
    assert_eq!(run(&mut fixture, "3", "a", "H2", ""), said("written", ""));
    assert_eq!(run(&mut fixture, "3", "a", "H2", ""), said("conflict", ""));
    assert_eq!((fixture.state()[0].len(), fixture.state()[2].len()), (0, 2));
}

#[test]
fn put_token_stores_and_revokes_once() {
    let mut fixture = Fixture::new(&["tokens", "changes", "audit", "audit_bytes"]);
    let run = |fixture: &mut Fixture, json: &str| -> String {
        let args = [b"hash".as_slice(), json.as_bytes(), b"100", b"60000", b"why"];
        let answer: Value = scripts::PUT_TOKEN.call(fixture.keys(), args).query(&mut fixture.raw).unwrap();
        first(&answer)
    };
    assert_eq!(run(&mut fixture, ""), "unchanged");
    assert_eq!(fixture.state(), vec![Vec::<String>::new(); 4]);
    for expected in ["written", "unchanged"] {
        assert_eq!(run(&mut fixture, "{}"), expected);
        let change = vec!["kind token id hash".to_owned()];
        let audit = vec!["entry why".to_owned()];
        assert_eq!(fixture.state(), [vec!["hash={}".to_owned()], change, audit, vec!["3".into()]]);
    }
    for expected in ["written", "unchanged"] {
        assert_eq!(run(&mut fixture, ""), expected);
        let state = fixture.state();
        assert_eq!((state[0].len(), state[1].len(), state[2].len()), (0, 2, 2));
    }
}

#[test]
fn publish_appends_each_nonce_once() {
    let mut fixture = Fixture::new(&["events", "n1", "n2"]);
    let run = |fixture: &mut Fixture| -> Vec<(String, u8)> {
        let nonces = fixture.keys[1..].to_vec();
        let args = [
            "2", "4", "event", "a", "data", "{}", "0", "2", "event", "b", "3", "2", "event", "c", "2", "2",
            "event", "d",
        ];
        let events = fixture.keys[0].clone();
        let command = scripts::PUBLISH.call_batch([&events], &nonces, [b"60".as_slice()], &owned(&args));
        command.query(&mut fixture.raw).unwrap()
    };
    assert_eq!(fixture.state(), vec![Vec::<String>::new(); 3]);
    let one = run(&mut fixture);
    assert_eq!(one.iter().map(|(_, appended)| *appended).collect::<Vec<_>>(), [1, 1, 1, 0]);
    assert_eq!(one[3].0, one[0].0);
    let state = fixture.state();
    assert_eq!(state[0], ["event a data {}", "event b", "event c"]);
    assert_eq!((&state[1], &state[2]), (&vec![one[0].0.clone()], &vec![one[2].0.clone()]));
    let two = run(&mut fixture);
    assert_eq!(two.iter().map(|(_, appended)| *appended).collect::<Vec<_>>(), [0, 1, 0, 0]);
    assert_eq!((&two[0].0, &two[2].0), (&one[0].0, &one[2].0));
    assert_eq!(fixture.state()[0], ["event a data {}", "event b", "event c", "event b"]);
    assert_eq!(fixture.state()[1..], state[1..]);
}

#[test]
fn the_audit_keeps_its_limits() {
    let mut fixture = Fixture::new(&["audit", "audit_bytes"]);
    let run = |fixture: &mut Fixture, entry: &str, count: &str, bytes: &str, age: &str| -> (u64, u64) {
        let args = [entry.as_bytes(), count.as_bytes(), bytes.as_bytes(), age.as_bytes()];
        scripts::AUDIT.call(fixture.keys(), args).query(&mut fixture.raw).unwrap()
    };
    assert_eq!(run(&mut fixture, "", "10", "10", "60000"), (0, 0));
    assert_eq!(fixture.state(), vec![Vec::<String>::new(); 2]);
    for number in 0..100 {
        assert_eq!(run(&mut fixture, &format!("{number:02}"), "1000", "1000", "60000"), (0, 0));
    }
    assert_eq!(fixture.state()[1], ["200"]);
    // 64 a call, told as long as there is more; then by bytes; the newest stays.
    assert_eq!(run(&mut fixture, "", "5", "1000", "60000"), (64, 1));
    assert_eq!(run(&mut fixture, "", "5", "1000", "60000"), (31, 0));
    assert_eq!(
        fixture.state(),
        [vec!["entry 95", "entry 96", "entry 97", "entry 98", "entry 99"], vec!["10"]]
    );
    assert_eq!(run(&mut fixture, "", "5", "4", "60000"), (3, 0));
    assert_eq!(run(&mut fixture, "", "5", "1", "60000"), (1, 0));
    assert_eq!(fixture.state(), [vec!["entry 99"], vec!["2"]]);
    let expiry: i64 = redis::cmd("PTTL").arg(&fixture.keys[0]).query(&mut fixture.raw).unwrap();
    assert!((1..=60_000).contains(&expiry), "{expiry}");
    // What is too old goes when something is written.
    redis::cmd("DEL").arg(&fixture.keys).exec(&mut fixture.raw).unwrap();
    redis::cmd("XADD")
        .arg(&fixture.keys[0])
        .arg("5-1")
        .arg(&["entry", "old"])
        .exec(&mut fixture.raw)
        .unwrap();
    assert_eq!(run(&mut fixture, "new", "10", "10", "60000"), (1, 0));
    assert_eq!(fixture.state()[0], ["entry new"]);
}

#[test]
fn a_rejected_entry_is_taken_once() {
    let mut fixture = Fixture::new(&["rejected", "rejected_bytes", "events"]);
    let run = |fixture: &mut Fixture, id: &str, fields: &[&str]| -> Vec<String> {
        let command = scripts::TAKE_REJECTED.call_batch(fixture.keys(), &[], [id.as_bytes()], &owned(fields));
        command.query(&mut fixture.raw).unwrap()
    };
    for id in ["1-1", "1-2"] {
        redis::cmd("XADD").arg(&fixture.keys[0]).arg(id).arg(&["a", "1"]).exec(&mut fixture.raw).unwrap();
    }
    redis::cmd("SET").arg(&fixture.keys[1]).arg(4).exec(&mut fixture.raw).unwrap();
    assert_eq!(run(&mut fixture, "1-3", &["b", "2"]), ["gone"]);
    assert_eq!(fixture.state(), [vec!["a 1", "a 1"], vec!["4"], vec![]]);
    let answer = run(&mut fixture, "1-1", &["b", "2"]);
    assert_eq!((answer[0].as_str(), answer.len()), ("requeued", 2));
    assert_eq!(fixture.state(), [vec!["a 1"], vec!["2"], vec!["b 2"]]);
    assert_eq!(run(&mut fixture, "1-1", &["b", "2"]), ["gone"]);
    assert_eq!(fixture.state(), [vec!["a 1"], vec!["2"], vec!["b 2"]]);
    assert_eq!(run(&mut fixture, "1-2", &[]), ["removed"]);
    assert_eq!(run(&mut fixture, "1-2", &[]), ["gone"]);
    assert_eq!(fixture.state(), [vec![], vec![], vec!["b 2"]]);
}
