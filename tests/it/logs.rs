//! The attempt log over HTTP: pages and records are written as the walk writes them, then asked for.

use bytes::Bytes;
use postrider::domain::clock::UnixMillis;
use postrider::domain::config::{StoredConfig, Tombstone};
use postrider::domain::delivery::{DeliveryRecord, FailReason, RecordBody};
use postrider::domain::ids::{ConfigId, DeliveryId, OrganisationId};
use postrider::domain::log::{LogRow, Status};
use postrider::domain::token::Role;
use redis::Commands;
use serde_json::{Value, json};

use crate::log_world::{
    CONFIG_URL, ROW_URL, T0, World, delivery, delivery_in, one_of_each, row, texts, waiting,
};

#[tokio::test]
async fn every_delivery_is_shown_once_newest_first_from_the_source_of_its_status() {
    let mut world = World::new().await;
    let (_, shown) = one_of_each(&mut world).await;
    let [done, trying, parked, dead, _evicted] = shown;
    let all = world.get("").await;
    assert_eq!((&all["totalCount"], &all["totalCountIsFloor"]), (&json!(5), &json!(false)));
    assert_eq!(all["oldestAt"], "2026-05-01T09:00:00.090Z");
    assert_eq!(world.ids("").await, texts(&shown));
    for (status, wanted) in [
        ("delivered", vec![done]),
        ("retrying", vec![trying]),
        ("pending", vec![parked]),
        // Its failed set alone answers this; a failure whose record was evicted is still met in the whole log.
        ("failed", vec![dead]),
    ] {
        let body = world.get(&format!("?status={status}")).await;
        assert_eq!(body["totalCount"], wanted.len(), "{status}");
        assert!(body["edges"].as_array().unwrap().iter().all(|edge| edge["status"] == status));
        assert_eq!(world.ids(&format!("?status={status}")).await, texts(&wanted), "{status}");
    }
}

/// What the rows of [`one_of_each`] were answered, by status.
fn excerpt_of(status: u16) -> &'static str {
    match status {
        200 => "ok",
        404 => "no such hook",
        _ => "upstream busy",
    }
}

#[tokio::test]
async fn an_edge_has_the_contracts_fields() {
    let mut world = World::new().await;
    let (config, [done, trying, parked, dead, evicted]) = one_of_each(&mut world).await;
    let all = world.get("").await;
    let line = |attempt: u32, status: u16, at: &str| {
        json!({ "attempt": attempt, "success": status == 200, "responseStatus": status,
                "errorMessage": if status == 200 { Value::Null } else { json!(format!("HTTP {status}")) },
                "createdAt": at, "durationMs": 12, "url": ROW_URL, "responseBody": excerpt_of(status) })
    };
    let common = |id: DeliveryId, created: &str, rest: Value| {
        let mut edge = json!({ "deliveryId": id.to_string(), "webhookConfigId": config.to_string(),
                               "event": "reward.earned", "eventSubCategory": "reward-distribution", "url": ROW_URL, "error": null, "createdAt": created });
        edge.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        edge
    };
    let wanted = [
        common(
            done,
            "2026-05-01T09:00:00.005Z",
            json!({
            "status": "delivered", "attempts": 1, "lastAttemptAt": "2026-05-01T09:00:00.490Z",
            "responseStatus": 200, "responseBody": "ok",
            "attemptLog": [line(1, 200, "2026-05-01T09:00:00.490Z")] }),
        ),
        common(
            trying,
            "2026-05-01T09:00:00.004Z",
            json!({
            "status": "retrying", "attempts": 1, "lastAttemptAt": "2026-05-01T09:00:00.390Z",
            "nextAttemptAt": "2026-05-01T09:00:12.390Z",
            "responseStatus": 503, "responseBody": "upstream busy",
            "attemptLog": [line(1, 503, "2026-05-01T09:00:00.390Z")] }),
        ),
        common(
            parked,
            "2026-05-01T09:00:00.003Z",
            json!({
            "url": CONFIG_URL, "status": "pending", "attempts": 0, "lastAttemptAt": null,
            "responseStatus": null, "responseBody": null, "attemptLog": [] }),
        ),
        common(
            dead,
            "2026-05-01T09:00:00.002Z",
            json!({
            "status": "failed", "failReason": "exhausted", "attempts": 2,
            "lastAttemptAt": "2026-05-01T09:00:00.190Z", "responseStatus": 503,
            "responseBody": "upstream busy",
            "attemptLog": [line(1, 503, "2026-05-01T09:00:00.190Z"), line(2, 503, "2026-05-01T09:00:00.190Z")] }),
        ),
        common(
            evicted,
            "2026-05-01T09:00:00.001Z",
            json!({
            "status": "failed", "failReason": "refused", "attempts": 1,
            "lastAttemptAt": "2026-05-01T09:00:00.090Z", "responseStatus": 404,
            "responseBody": "no such hook", "attemptLog": [line(1, 404, "2026-05-01T09:00:00.090Z")] }),
        ),
    ];
    for (edge, wanted) in all["edges"].as_array().unwrap().iter().zip(&wanted) {
        assert_eq!(edge, wanted);
    }
}

#[tokio::test]
async fn rows_tell_the_whole_story_of_a_delivery_that_has_no_record() {
    let mut world = World::new().await;
    let config = world.config("org_1", 1).await;
    let [timeout, expired, full] = [1, 2, 3].map(|n| delivery(config, n));
    let no_answer = LogRow {
        response_status: None,
        excerpt: Bytes::new(),
        error: Some("timeout: no answer within 30 s".into()),
        reason: Some(FailReason::Exhausted),
        ..row(timeout, Status::Failed, 1, 10)
    };
    // The same attempt twice: an owner that lost wrote its row too.
    world.page(config, 20, &[no_answer.clone(), no_answer]);
    let tried = row(expired, Status::Retrying, 1, 30);
    let fate = LogRow {
        url: "".into(),
        response_status: None,
        excerpt: Bytes::new(),
        reason: Some(FailReason::Expired),
        ..row(expired, Status::Failed, 1, 5_000)
    };
    world.page(config, 40, &[tried.clone(), tried]);
    world.page(config, 5_000, std::slice::from_ref(&fate));
    let refused = LogRow { delivery: full, attempt: 0, reason: Some(FailReason::BacklogFull), ..fate };
    world.page(config, 6_000, &[refused]);

    let body = world.get("").await;
    assert_eq!(body["totalCount"], 3);
    let edges = body["edges"].as_array().unwrap();
    assert_eq!(edges[0]["failReason"], "backlog full");
    assert_eq!((&edges[0]["attempts"], &edges[0]["lastAttemptAt"]), (&json!(0), &Value::Null));
    assert_eq!((&edges[0]["url"], &edges[0]["attemptLog"]), (&json!(CONFIG_URL), &json!([])));
    assert_eq!((&edges[1]["failReason"], &edges[1]["attempts"]), (&json!("expired"), &json!(1)));
    assert_eq!(edges[1]["lastAttemptAt"], "2026-05-01T09:00:00.030Z");
    assert_eq!((&edges[1]["url"], &edges[1]["responseStatus"]), (&json!(ROW_URL), &json!(503)));
    assert_eq!(edges[1]["attemptLog"].as_array().unwrap().len(), 1);
    assert_eq!(edges[2]["error"], "timeout: no answer within 30 s");
    assert_eq!((&edges[2]["responseStatus"], &edges[2]["responseBody"]), (&Value::Null, &Value::Null));
    let line = &edges[2]["attemptLog"][0];
    assert_eq!((&line["success"], &line["errorMessage"]), (&json!(false), &edges[2]["error"]));
}

#[tokio::test]
async fn filters_narrow_and_windows_are_half_open() {
    let mut world = World::new().await;
    let (one, two) = (world.config("org_1", 1).await, world.config("org_1", 2).await);
    let ids = [1, 2, 3].map(|n| delivery(one, n));
    for (id, ms) in ids.iter().zip([1_000, 2_000, 3_000]) {
        world.page(one, ms + 500, &[row(*id, Status::Delivered, 1, ms)]);
    }
    let other =
        LogRow { event_type: "reward.expired".into(), ..row(delivery(two, 9), Status::Delivered, 1, 2_500) };
    world.page(two, 2_600, &[other]);
    let parked = delivery(two, 1_500);
    world.record(parked, &waiting(two, parked, 0, 0));

    let second = |s: u64| format!("2026-05-01T09:00:0{s}.000Z");
    assert_eq!(world.ids(&format!("?webhookConfigId={one}")).await, texts(&[ids[2], ids[1], ids[0]]));
    assert_eq!(world.ids("?event=reward.expired").await, texts(&[delivery(two, 9)]));
    let window = format!("?webhookConfigId={one}&since={}&until={}", second(2), second(3));
    assert_eq!(world.ids(&window).await, texts(&[ids[1]]));
    // The parked one has its creation for a time.
    let window = format!("?since={}&until={}", second(1), second(2));
    assert_eq!(world.ids(&window).await, texts(&[parked, ids[0]]));
    assert_eq!(world.ids(&format!("?since={}", second(4))).await, Vec::<String>::new());
    let both = format!("?webhookConfigId={two}&status=delivered&event=reward.earned");
    assert_eq!(world.ids(&both).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_since_long_after_the_log_reads_little_and_is_exact() {
    let mut world = World::new().await;
    let config = world.config("org_1", 1).await;
    for n in 0..400 {
        world.page(config, n * 1_000, &[row(delivery(config, n), Status::Delivered, 1, n * 1_000)]);
    }
    let body = world.get("?since=2026-05-01T09:06:30.000Z&limit=100").await;
    assert_eq!((&body["totalCount"], &body["totalCountIsFloor"]), (&json!(10), &json!(false)));
    assert_eq!(body["oldestAt"], "2026-05-01T09:00:00.000Z");
}

#[tokio::test]
async fn pages_of_several_configs_and_shards_are_one_order() {
    let mut world = World::with_shards(2).await;
    let configs = [world.config("org_1", 1).await, world.config("org_1", 2).await];
    let mut wanted = Vec::new();
    for n in 0..60_u64 {
        let (config, shard) = (configs[usize::from(n % 2 == 0)], u16::from(n % 3 == 0));
        let id = delivery_in(shard, config, n);
        world.page_in(shard, config, n * 10, &[(row(id, Status::Delivered, 1, n * 10), None)]);
        wanted.push(id.to_string());
    }
    wanted.reverse();
    assert_eq!(world.ids("").await, wanted[..10]);
    let mut walked = Vec::new();
    for skip in (0..60).step_by(7) {
        let body = world.get(&format!("?limit=7&skip={skip}")).await;
        assert_eq!(body["totalCount"], 60);
        walked.extend(world.ids(&format!("?limit=7&skip={skip}")).await);
    }
    assert_eq!(walked, wanted);
    assert_eq!(world.ids("?skip=60").await, Vec::<String>::new());
}

#[tokio::test]
async fn an_organisation_sees_nothing_of_another() {
    let mut world = World::new().await;
    let (config, [done, ..]) = one_of_each(&mut world).await;
    let stranger = world.token_of("org_2", Role::Admin).await;
    let (status, body) = world.get_as(&stranger, "").await;
    assert_eq!((status, &body["totalCount"], &body["edges"]), (200, &json!(0), &json!([])));
    let foreign = world.get_as(&stranger, &format!("?webhookConfigId={config}")).await;
    let unknown = world.get_as(&stranger, "?webhookConfigId=0123456789abcdef00000007").await;
    assert_eq!((foreign.0, &foreign.1["code"]), (404, &json!("NOT_FOUND")));
    assert_eq!(foreign, unknown);
    let foreign = world.get_as(&stranger, &format!("/{done}")).await;
    let unknown = world.get_as(&stranger, &format!("/{}", delivery(config, 77))).await;
    assert_eq!((foreign.0, &foreign.1["data"]["path"]), (404, &json!("getWebhookLog")));
    assert_eq!(foreign, unknown);
    assert_eq!(world.get(&format!("/{done}")).await["deliveryId"], done.to_string());

    // A config of the stranger's with the same sequence number opens no door either.
    let twin = ConfigId::new([8; 8], config.sequence());
    let tombstone = Tombstone {
        id: twin,
        organisation: OrganisationId::new("org_2").unwrap(),
        deleted_at: UnixMillis(T0),
        log_payloads: true,
    };
    world.store(&StoredConfig::Tombstone(tombstone)).await;
    for path in [format!("/{done}"), format!("/{}", delivery(config, 2)), format!("/{}", delivery(config, 3))]
    {
        assert_eq!(world.get_as(&stranger, &path).await.0, 404, "{path}");
    }
    // Not even where its queue names the delivery.
    let key = world.keys(0).queue(twin);
    let _: () = world.raw.zadd(key, delivery(config, 3).to_string(), 1).unwrap();
    let (_, body) = world.get_as(&stranger, "").await;
    assert_eq!(body["totalCount"], 0);
}

#[tokio::test]
async fn wrong_questions_are_refused_by_name() {
    let world = World::new().await;
    for (path, status, procedure, named) in [
        ("?status=done", 400, "getWebhookLogs", "pending, retrying, delivered, failed"),
        ("?stats=failed", 400, "getWebhookLogs", "query.stats"),
        ("?limit=101", 400, "getWebhookLogs", "query.limit"),
        ("?skip=10001", 400, "getWebhookLogs", "query.skip"),
        ("?event=a.b&event=a.b", 400, "getWebhookLogs", "query.event"),
        ("?webhookConfigId=x", 400, "getWebhookLogs", "query.webhookConfigId"),
        ("?since=2026-05-01", 400, "getWebhookLogs", "query.since"),
        ("/dlv_1", 400, "getWebhookLog", "path.deliveryId"),
        ("/%FF", 400, "getWebhookLog", "path.deliveryId"),
        ("/dlv_zzzzzzzzzzzzzzzzzzzzzzzzzz", 400, "getWebhookLog", "path.deliveryId"),
        ("/dlv_7zzzzzzzzzzzzzzzzzzzzzzzzz", 404, "getWebhookLog", "path.deliveryId"),
    ] {
        let (got, body) = world.get_as(&world.token, path).await;
        assert_eq!((got, &body["data"]["path"]), (status, &json!(procedure)), "{path}: {body}");
        assert!(body["message"].as_str().unwrap().contains(named), "{path}: {body}");
    }
    assert_eq!(world.get_as("nobody", "").await.0, 401);
    let viewer = world.token_of("org_1", Role::Viewer).await;
    assert_eq!(world.get_as(&viewer, "").await.0, 403);
    assert_eq!(world.get_as(&viewer, "/dlv_1").await.0, 403);
}

#[tokio::test]
async fn a_deleted_configs_log_remains_readable() {
    let mut world = World::new().await;
    let (config, [done, _, parked, ..]) = one_of_each(&mut world).await;
    let organisation = OrganisationId::new("org_1").unwrap();
    let tombstone = Tombstone { id: config, organisation, deleted_at: UnixMillis(T0), log_payloads: true };
    world.store(&StoredConfig::Tombstone(tombstone)).await;
    let body = world.get(&format!("?webhookConfigId={config}")).await;
    assert_eq!((&body["totalCount"], &body["edges"][0]["deliveryId"]), (&json!(5), &json!(done.to_string())));
    assert_eq!(world.get(&format!("/{parked}")).await["url"], Value::Null);
}

#[tokio::test]
async fn the_payload_is_found_wherever_it_lies() {
    let mut world = World::new().await;
    let config = world.config("org_1", 1).await;
    let [paged, queued, apart, large, gone] = [1, 2, 3, 4, 5].map(|n| delivery(config, n));
    // Numbers that no 64-bit type holds, spaces and order stay as they were sent.
    let sent = br#"{ "b":[], "a":123456789012345678901234567890 }"#;
    world.page_in(0, config, 100, &[(row(paged, Status::Delivered, 1, 90), Some(sent))]);
    // Valid JSON that many parsers refuse, and with it any answer that holds it.
    let (huge, infinite) = (delivery(config, 6), br#"{"a":1e400}"#);
    world.page_in(0, config, 100, &[(row(huge, Status::Delivered, 1, 90), Some(infinite))]);
    // Other workers' flushes lie between a log page and its payload page.
    let others: Vec<DeliveryId> = (10..40).map(|n| delivery(config, n)).collect();
    for other in &others {
        world.page_in(0, config, 100, &[(row(*other, Status::Delivered, 1, 90), Some(b"{}"))]);
    }
    world.record(queued, &waiting(config, queued, 1, 200));
    let body = [b"{\"x\":\"".as_slice(), &[b'x'; 5_000], b"\"}"].concat();
    let length = u32::try_from(body.len()).unwrap();
    world
        .record(apart, &DeliveryRecord { body: RecordBody::Apart(length), ..waiting(config, apart, 1, 200) });
    let key = world.keys(0).body(apart.event().stream_id());
    let _: () = world.raw.set(key, [1_u32.to_be_bytes().as_slice(), &body].concat()).unwrap();
    world.page_in(0, config, 300, &[(row(large, Status::Delivered, 1, 290), Some(&[b' '; 20_000]))]);
    world.record(gone, &DeliveryRecord { body: RecordBody::Apart(9), ..waiting(config, gone, 1, 200) });

    let found = world.get(&format!("/{paged}")).await;
    assert_eq!(found["payloadRaw"], std::str::from_utf8(sent).unwrap());
    assert_eq!((found.get("payloadOmitted"), &found["status"]), (None, &json!("delivered")));
    assert_eq!(found["payload"]["b"], json!([]));
    let found = world.get(&format!("/{huge}")).await;
    assert_eq!((&found["payload"], &found["payloadRaw"]), (&Value::Null, &json!(r#"{"a":1e400}"#)));
    assert_eq!(found.get("payloadOmitted"), None);
    let found = world.get(&format!("/{queued}")).await;
    assert_eq!(found["payload"], json!({ "event": "reward.earned" }));
    assert_eq!(
        (&found["attempts"], &found["nextAttemptAt"]),
        (&json!(1), &json!("2026-05-01T09:00:12.200Z"))
    );
    let found = world.get(&format!("/{apart}")).await;
    assert_eq!(found["payloadRaw"].as_str().unwrap().as_bytes(), body);
    for id in [large, gone] {
        let found = world.get(&format!("/{id}")).await;
        assert_eq!(found["payloadOmitted"], true, "{found}");
        assert_eq!((&found["payload"], &found["payloadRaw"]), (&Value::Null, &Value::Null));
    }
}
