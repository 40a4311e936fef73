//! The rotation of a secret, as the receiver sees it.

use std::cell::Cell;

use hyper::Method;
use postrider::domain::signature::Secret;
use serde_json::{Value, json};

use crate::arrivals::{Arrival, Reply};
use crate::stage::{Put, Stage};
use crate::support::{TestSpace, wait_for};

const CURRENT: &str = "x-nudj-signature";
const PREVIOUS: &str = "x-nudj-signature-previous";

/// The secret that the config begins with.
const FIRST: &str = "whsec_of_/a";

/// A server with one config, to which events are sent one by one.
struct World {
    stage: Stage,
    config: Put,
    sent: Cell<usize>,
}

fn signed(arrival: &Arrival, header: &str, secret: &str) -> bool {
    let key = Secret::new(secret).unwrap().signing_key();
    key.verify(&arrival.body, arrival.header(header).as_bytes())
}

impl World {
    fn new() -> Self {
        let space = TestSpace::new();
        let stage = Stage::on(&space.url, &space.namespace, &[]);
        let config = stage.config("/a", json!({}), |_| Reply::ok());
        Self { stage, config, sent: Cell::new(0) }
    }

    fn rotate(&self, body: &Value) -> Value {
        let path = format!("/configs/{}/rotate-secret", self.config.id);
        let (status, answer) = self.stage.serve().request(Method::POST, &self.stage.token, &path, Some(body));
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Sends an event, and gives it as it arrived.
    fn next(&self) -> Arrival {
        self.sent.set(self.sent.get() + 1);
        self.stage.add(&[]);
        self.stage.wait_arrived(&self.config, self.sent.get()).remove(self.sent.get() - 1)
    }

    /// Sends events until one is signed with `secret`, and gives that one.
    fn next_with(&self, secret: &str) -> Arrival {
        let mut last = self.next();
        wait_for("the secret to be in effect", || {
            let found = signed(&last, CURRENT, secret);
            if !found {
                last = self.next();
            }
            found
        });
        last
    }

    fn stored(&self) -> String {
        let key = format!("{}:{{control}}:configs", self.stage.namespace);
        self.stage.redis::<String>(&["HGET", &key, &self.config.id])
    }
}

#[test]
fn the_new_secret_signs_at_once_and_the_one_before_beside_it() {
    let world = World::new();
    let before = world.next();
    assert!(signed(&before, CURRENT, FIRST) && !before.headers.contains_key(PREVIOUS));

    let rotated = world.rotate(&json!({ "overlapSeconds": 3600 }));
    let second = rotated["secret"].as_str().unwrap();
    assert!(second.starts_with("whsec_") && second.len() == 70 && !second.contains('*'));
    assert!(rotated["previousSecret"]["until"].is_string(), "{rotated}");
    assert!(!rotated["previousSecret"].to_string().contains(FIRST));
    let list = world.stage.serve().get(&world.stage.token, "/configs").to_string();
    assert!(!list.contains(second) && !list.contains(FIRST) && list.contains("previousSecret"), "{list}");
    let during = world.next_with(second);
    assert!(signed(&during, PREVIOUS, FIRST));
    assert_eq!(during.headers.get_all(CURRENT).iter().count(), 1, "one value, as the contract says");

    // A second rotation ends the first one's overlap early.
    world.rotate(&json!({ "secret": "whsec_third", "overlapSeconds": 3600 }));
    let during = world.next_with("whsec_third");
    assert!(signed(&during, PREVIOUS, second) && !signed(&during, PREVIOUS, FIRST));

    // A leak: nothing else signs any more.
    let rotated = world.rotate(&json!({ "overlapSeconds": 0 }));
    assert_eq!(rotated.get("previousSecret"), None, "{rotated}");
    assert!(!world.next_with(rotated["secret"].as_str().unwrap()).headers.contains_key(PREVIOUS));
    assert!(!world.stored().contains("previousSecret"));
}

#[test]
fn the_overlap_ends_by_the_clock_without_a_change_of_the_config() {
    let world = World::new();
    world.rotate(&json!({ "secret": "whsec_second", "overlapSeconds": 2 }));
    let during = world.next_with("whsec_second");
    assert!(signed(&during, PREVIOUS, FIRST));
    let stored = world.stored();
    assert!(stored.contains("previousSecret"));
    wait_for("the overlap to end", || !world.next().headers.contains_key(PREVIOUS));
    assert_eq!(world.stored(), stored, "nothing was written for it");
    let shown = world.stage.serve().get(&world.stage.token, &format!("/configs/{}", world.config.id));
    assert_eq!(shown.get("previousSecret"), None, "{shown}");
    world.stage.change(&world.config.id, json!({ "maxRetries": 1 }));
    assert!(!world.stored().contains("previousSecret"), "the next change removes it");
}
