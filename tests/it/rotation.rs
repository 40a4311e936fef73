//! The rotation of a secret, as the receiver sees it.

use std::time::Duration;

use hyper::Method;
use postrider::domain::signature::Secret;
use serde_json::{Value, json};

use crate::arrivals::{Arrival, Reply};
use crate::stage::Stage;
use crate::support::{TestSpace, wait_for};

fn signed(arrival: &Arrival, header: &str, secret: &str) -> bool {
    let key = Secret::new(secret).unwrap().signing_key();
    key.verify(&arrival.body, arrival.header(header).as_bytes())
}

const CURRENT: &str = "x-nudj-signature";
const PREVIOUS: &str = "x-nudj-signature-previous";

#[test]
fn both_secrets_sign_until_the_overlap_ends_and_then_the_new_one_alone() {
    let space = TestSpace::new();
    let stage = Stage::on(&space.url, &space.namespace, &[]);
    let config = stage.config("/a", json!({}), |_| Reply::ok());
    let old = "whsec_of_/a";
    let next = |count: usize| {
        stage.add(&[]);
        stage.wait_arrived(&config, count).remove(count - 1)
    };
    let first = next(1);
    assert!(signed(&first, CURRENT, old));
    assert!(!first.headers.contains_key(PREVIOUS));

    let rotate = |body: Value| {
        let path = format!("/configs/{}/rotate-secret", config.id);
        let (status, answer) = stage.serve().request(Method::POST, &stage.token, &path, Some(&body));
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let rotated = rotate(json!({ "overlapSeconds": 3600 }));
    let second = rotated["secret"].as_str().unwrap().to_owned();
    assert!(second.starts_with("whsec_") && second.len() == 70 && !second.contains('*'));
    assert!(rotated["previousSecret"]["until"].is_string(), "{rotated}");
    assert!(!rotated["previousSecret"].to_string().contains(old));
    let list = stage.serve().get(&stage.token, "/configs").to_string();
    assert!(!list.contains(&second) && !list.contains(old) && list.contains("previousSecret"), "{list}");

    let mut count = 1;
    wait_for("the new secret to be in effect", || {
        count += 1;
        signed(&next(count), CURRENT, &second)
    });
    let during = stage.arrivals.at("/a").pop().unwrap();
    assert!(signed(&during, PREVIOUS, old));
    assert_eq!(during.headers.get_all(CURRENT).iter().count(), 1, "one value, as the contract says");

    // A second rotation ends the first one's overlap early.
    rotate(json!({ "secret": "whsec_third", "overlapSeconds": 2 }));
    wait_for("the third secret to be in effect", || {
        count += 1;
        signed(&next(count), CURRENT, "whsec_third")
    });
    let during = stage.arrivals.at("/a").pop().unwrap();
    assert!(signed(&during, PREVIOUS, &second) && !signed(&during, PREVIOUS, old));
    let version = |stage: &Stage| {
        let key = format!("{}:{{control}}:configs", stage.namespace);
        stage.redis::<String>(&["HGET", &key, &config.id])
    };
    let stored = version(&stage);
    wait_for("the overlap to end by the clock", || {
        std::thread::sleep(Duration::from_millis(100));
        count += 1;
        !next(count).headers.contains_key(PREVIOUS)
    });
    assert_eq!(version(&stage), stored, "nothing was written for it");
    assert!(stored.contains("previousSecret"));
    let shown = stage.serve().get(&stage.token, &format!("/configs/{}", config.id));
    assert_eq!(shown.get("previousSecret"), None, "{shown}");
    stage.change(&config.id, json!({ "maxRetries": 1 }));
    assert!(!version(&stage).contains("previousSecret"), "the next change removes it");

    // A leak: the old secret is gone at once.
    let rotated = rotate(json!({ "overlapSeconds": 0 }));
    assert_eq!(rotated.get("previousSecret"), None, "{rotated}");
    let last = rotated["secret"].as_str().unwrap();
    wait_for("the last secret to be in effect", || {
        count += 1;
        signed(&next(count), CURRENT, last)
    });
    assert!(!stage.arrivals.at("/a").pop().unwrap().headers.contains_key(PREVIOUS));
}
