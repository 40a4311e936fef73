//! Egress over the whole walk: a proxy that fails is nobody's failed attempt; a client certificate by the API.

use http::Method;
use serde_json::json;

use crate::arrivals::Reply;
use crate::forward_proxy::{ForwardProxy, Manner};
use crate::stage::{EVENT, Stage};
use crate::support::{TestSpace, wait_for};

#[test]
fn what_a_proxy_does_wrong_is_charged_to_nobody() {
    let proxy = ForwardProxy::start(Manner::Forward);
    let space = TestSpace::new();
    let url = proxy.url("user:hunter2@");
    let mut stage = Stage::on(
        &space.url,
        &space.namespace,
        &["--proxy-url", &url, "--breaker-failures", "1", "--idle-connection-timeout", "200ms"],
    );
    let config = stage.config("/a", json!({ "maxRetries": 0 }), |_| Reply::ok());
    let before = proxy.heads().len();
    assert!(before > 0, "deliveries take the proxy");
    wait_for("the kept connections to be closed", || proxy.open() == 0);
    proxy.set(Manner::Answer(407));
    (0..20).for_each(|_| drop(stage.add(&[])));
    wait_for("the proxy to be blamed", || stage.serve().metric("egress_faults") >= 1.0);
    stage.wait_acked();
    assert!(proxy.heads().len() > before);
    let waiting = stage.logs("&status=pending");
    assert_eq!(waiting.len(), 20, "they wait without an attempt");
    assert!(waiting.iter().all(|record| record["attempts"] == 0), "{waiting:?}");
    assert!(stage.logs("&status=failed").is_empty());
    assert!(stage.serve().metric("breakers_open").abs() < 0.5);
    proxy.set(Manner::Forward);
    wait_for("all of them to be delivered", || stage.logs("&status=delivered").len() == 20);
    let records = stage.logs("");
    assert!(
        records.iter().all(|record| record["status"] == "delivered" && record["attempts"] == 1),
        "{records:?}"
    );
    assert!(stage.arrivals.at(&config.path).iter().all(|arrival| arrival.verified));
    let (log, status) = stage.take_serve().terminate_and_read();
    assert!(status.success(), "{status}");
    assert!(log.contains("an attempt could not be made") && !log.contains("hunter2"), "{log}");
}

#[test]
fn a_client_certificate_is_taken_shown_without_its_key_and_taken_away() {
    let space = TestSpace::new();
    let key_of_sealing = "ab".repeat(32);
    let stage = Stage::on(&space.url, &space.namespace, &["--secret-key", &key_of_sealing]);
    let serve = stage.serve();
    let pair = || {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["client.example".to_owned()]).expect("parameters");
        (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
    };
    let ((certificate, key), (_, other_key)) = (pair(), pair());
    let body = |certificate: serde_json::Value| json!({ "url": "https://a.example/hook", "events": ["reward.earned"], "clientCertificate": certificate });
    let put = |certificate| serve.request(Method::PUT, &stage.token, "/configs", Some(&body(certificate)));
    for (wrong, path) in [
        (json!({ "certificate": certificate, "key": other_key }), "clientCertificate.key"),
        (json!({ "certificate": certificate, "key": "****" }), "clientCertificate.key"),
        (json!({ "certificate": "x", "key": key }), "clientCertificate.certificate"),
        (json!("x"), "clientCertificate"),
    ] {
        let (status, answer) = put(wrong);
        assert_eq!(status, 400, "{answer}");
        let text = answer.to_string();
        assert!(text.contains(path) && !text.contains("PRIVATE KEY"), "{text}");
    }
    let (status, made) = put(json!({ "certificate": certificate, "key": key }));
    assert_eq!((status, &made["clientCertificate"]["key"]), (200, &json!("****")), "{made}");
    assert_eq!(made["clientCertificate"]["certificate"], certificate);
    let stored: String = stage.redis(&[
        "HGET",
        &format!("{}:{{control}}:configs", stage.namespace),
        made["id"].as_str().expect("an id"),
    ]);
    assert!(
        !stored.contains("PRIVATE KEY") && stored.contains("CERTIFICATE"),
        "the key lies sealed: {stored}"
    );
    let before = serve.get(&stage.token, "/configs")[0].clone();
    assert!(before["clientCertificate"]["expiresAt"].is_string(), "{before}");
    let (status, same) = serve.request(Method::PUT, &stage.token, "/configs", Some(&before));
    assert_eq!((status, &same["updatedAt"]), (200, &before["updatedAt"]), "what GET shows may come back");
    let (status, without) = put(serde_json::Value::Null);
    assert_eq!((status, without.get("clientCertificate")), (200, None));
}

#[test]
fn the_end_of_a_client_certificate_is_shown_and_counted_down_and_an_expired_one_is_refused() {
    let space = TestSpace::new();
    let mut stage = Stage::on(&space.url, &space.namespace, &[]);
    let key = rcgen::KeyPair::generate().expect("a key");
    let ending = |year| {
        let mut params =
            rcgen::CertificateParams::new(vec!["client.example".to_owned()]).expect("parameters");
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 2, 3);
        params.self_signed(&key).expect("a certificate").pem()
    };
    let pair = |year| json!({ "certificate": ending(year), "key": key.serialize_pem() });
    let body = |pair: serde_json::Value| json!([{ "url": "https://a.example/hook", "events": ["reward.earned"], "clientCertificate": pair }]);
    let put = |stage: &Stage, body: &serde_json::Value| {
        stage.serve().request(Method::PUT, &stage.token, "/configs", Some(body))
    };
    let (status, answer) = put(&stage, &body(pair(2002)));
    assert_eq!(status, 400, "{answer}");
    let told = answer["message"].as_str().expect("text");
    let wanted = "body[0].clientCertificate.certificate: expected one that has not expired; this one ended 2002-02-03T00:00:00.000Z";
    assert!(told.contains(wanted), "{told}");
    assert_eq!(stage.serve().get(&stage.token, "/configs"), json!([]), "nothing was made");

    let (status, made) = put(&stage, &body(pair(2048)));
    assert_eq!(
        (status, &made[0]["clientCertificate"]["expiresAt"]),
        (200, &json!("2048-02-03T00:00:00.000Z")),
        "{made}"
    );
    let id = made[0]["id"].as_str().expect("an id");
    let gauge = "postrider_config_certificate_expiry_timestamp_seconds";
    let is = |shown: f64, wanted: f64| (shown - wanted).abs() < 0.5;
    wait_for("the end to be in the metrics", || {
        is(stage.serve().sample(gauge, &format!("config=\"{id}\"")), 2_464_300_800.0)
    });

    // One that has expired since it was stored, as whoever stored it would find it.
    let configs = format!("{}:{{control}}:configs", stage.namespace);
    let stored: String = stage.redis(&["HGET", &configs, id]);
    let mut stored: serde_json::Value = serde_json::from_str(&stored).expect("JSON");
    stored["clientCertificate"]["certificate"] = json!(ending(2002));
    assert!(stage.take_serve().terminate().success());
    stage.redis::<()>(&["HSET", &configs, id, &stored.to_string()]);
    stage.start_serve(&[]);
    let mut shown = stage.serve().get(&stage.token, &format!("/configs/{id}"));
    assert_eq!(shown["clientCertificate"]["expiresAt"], "2002-02-03T00:00:00.000Z");
    shown["maxRetries"] = json!(1);
    let (status, changed) = put(&stage, &shown);
    assert_eq!((status, &changed["maxRetries"]), (200, &json!(1)), "other fields can be changed: {changed}");
    let again = json!({ "certificate": ending(2003), "key": "****" });
    shown["clientCertificate"] = again;
    assert_eq!(put(&stage, &shown).0, 400, "another expired one is refused");
    assert_eq!(
        stage.serve().request(Method::POST, &stage.token, &format!("/configs/{id}/pause"), None).0,
        200
    );
    wait_for("a paused config to be left out", || is(stage.serve().metric(gauge), 0.0));
}

#[test]
fn a_tunnel_that_does_not_come_is_waited_for_and_one_that_is_denied_is_blocked() {
    let proxy = ForwardProxy::start(Manner::Hang);
    let space = TestSpace::new();
    let url = proxy.url("");
    // Longer than the second after which an event is handed to its queue.
    let stage =
        Stage::on(&space.url, &space.namespace, &["--proxy-url", &url, "--connect-timeout", "1500ms"]);
    let body = json!({ "url": "https://receiver.example/hook", "events": [EVENT] });
    stage.serve().put(&stage.token, "/configs", &body);
    wait_for("the config to be in effect, and a tunnel to be waited for", || {
        if proxy.heads().is_empty() {
            stage.add(&[]);
        }
        stage.serve().sample("egress_faults", "proxy") >= 1.0
    });
    stage.wait_acked();
    assert!(proxy.heads().iter().all(|head| head.starts_with("CONNECT receiver.example:443 HTTP/1.1\r\n")));
    let waiting = stage.logs("&status=pending");
    assert!(!waiting.is_empty() && waiting.iter().all(|record| record["attempts"] == 0), "{waiting:?}");
    assert!(stage.logs("&status=failed").is_empty() && stage.logs("&status=retrying").is_empty());
    proxy.set(Manner::Answer(403));
    wait_for("all of them to be blocked", || stage.logs("&status=failed").len() == waiting.len());
    for record in stage.logs("&status=failed") {
        assert_eq!((&record["failReason"], &record["attempts"]), (&json!("blocked"), &json!(1)), "{record}");
    }
}
