//! One config by its id, over HTTP: read, paused, resumed, deleted; whose it is, and who may.

use hyper::Method;
use postrider::domain::token::Role;
use serde_json::{Value, json};

use crate::support::TestSpace;
use crate::support_http::{AdminServer, Api, CONFIGS};

async fn made(api: &Api) -> (String, Value) {
    let body = json!({ "url": "https://hooks.example/a", "events": ["reward.earned"], "secret": "whsec_abcdefghijkl" });
    let config = api.put(CONFIGS, &body).await.ok(200);
    (format!("{CONFIGS}/{}", config["id"].as_str().unwrap()), config)
}

#[tokio::test]
async fn a_config_is_read_paused_resumed_and_deleted() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let (path, config) = made(&admin).await;
    let listed = admin.get(CONFIGS).await.ok(200);
    let one = admin.get(&path).await.ok(200);
    assert_eq!(one, listed[0]);
    assert_eq!(one["secret"], "whsec_****ijkl");

    let paused = admin.post(&format!("{path}/pause"), &json!({})).await.ok(200);
    assert_eq!((&paused["active"], &paused["isEnabled"]), (&json!(false), &json!(false)));
    assert_eq!(admin.post(&format!("{path}/pause"), &json!({})).await.ok(200), paused, "idempotent");
    let resumed = admin.post(&format!("{path}/resume"), &json!({})).await.ok(200);
    assert_eq!((&resumed["active"], &resumed["id"]), (&json!(true), &config["id"]));
    assert_eq!(admin.post(&format!("{path}/resume"), &json!({})).await.ok(200), resumed, "idempotent");

    let deleted = admin.send(Method::DELETE, &path, Vec::new()).await;
    assert_eq!((deleted.status.as_u16(), deleted.body.len()), (204, 0));
    assert_eq!(admin.get(CONFIGS).await.ok(200), json!([]));
    admin.get(&path).await.refused(404, "NOT_FOUND", "getWebhookConfig");
    admin.send(Method::DELETE, &path, Vec::new()).await.refused(404, "NOT_FOUND", "deleteWebhookConfig");
    admin.post(&format!("{path}/test"), &json!({})).await.refused(404, "NOT_FOUND", "testWebhookConfig");
}

#[tokio::test]
async fn a_disabled_config_is_healthy_anew_once_it_is_resumed() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let (path, config) = made(&admin).await;
    let id = config["id"].as_str().unwrap();
    let now = server.state.clock.now();
    server.state.redis.link().disable_gone(id.parse().unwrap(), 1, now).await.unwrap();
    let mut raw = space.raw();
    let health = format!("{}:{{control}}:health", space.namespace);
    let () = redis::cmd("HSET").arg(&health).arg(id).arg("{}").query(&mut raw).unwrap();
    let paused = admin.post(&format!("{path}/pause"), &json!({})).await.ok(200);
    assert_eq!(paused["disabledReason"], "gone", "a pause does not hide why");
    let resumed = admin.post(&format!("{path}/resume"), &json!({})).await.ok(200);
    assert_eq!((&resumed["active"], resumed.get("disabledReason")), (&json!(true), None));
    let left: Option<String> = redis::cmd("HGET").arg(&health).arg(id).query(&mut raw).unwrap();
    assert_eq!(left, None);
}

#[tokio::test]
async fn others_cannot_tell_that_it_is_there_and_each_role_reaches_as_far_as_it_may() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let (path, _) = made(&admin).await;
    let other = server.caller("org_2", Role::Admin).await;
    let unknown = format!("{CONFIGS}/{}", "0".repeat(24));
    let routes = [
        (Method::GET, "", "getWebhookConfig"),
        (Method::DELETE, "", "deleteWebhookConfig"),
        (Method::POST, "/pause", "pauseWebhookConfig"),
        (Method::POST, "/resume", "resumeWebhookConfig"),
        (Method::POST, "/rotate-secret", "rotateWebhookSecret"),
        (Method::POST, "/test", "testWebhookConfig"),
    ];
    for (method, rest, procedure) in &routes {
        let send = |api: Api, path: String| async move { api.send(method.clone(), &path, Vec::new()).await };
        let foreign = send(other.clone(), format!("{path}{rest}")).await.refused(404, "NOT_FOUND", procedure);
        let missing =
            send(admin.clone(), format!("{unknown}{rest}")).await.refused(404, "NOT_FOUND", procedure);
        assert_eq!(foreign, missing);
        let malformed = send(admin.clone(), format!("{CONFIGS}/X{rest}")).await;
        malformed.refused(400, "BAD_REQUEST", procedure);
        send(server.nobody(), format!("{path}{rest}")).await.refused(401, "UNAUTHORIZED", procedure);
    }
    let may = [
        (Role::Viewer, [true, false, false, false, false, false]),
        (Role::Publisher, [false; 6]),
        (Role::Manager, [true, false, true, true, false, true]),
    ];
    for (role, allowed) in may {
        let caller = server.caller("org_1", role).await;
        for ((method, rest, _), allowed) in routes.iter().zip(allowed) {
            let path =
                if *rest == "/test" { format!("{path}{rest}?wait=0") } else { format!("{path}{rest}") };
            let answer = caller.send(method.clone(), &path, Vec::new()).await;
            assert_eq!(answer.status != 403, allowed, "{role:?} {method} {rest}: {:?}", answer.status);
        }
    }
    assert_eq!(admin.get(&path).await.ok(200)["active"], true);
}

#[tokio::test]
async fn a_rotation_is_refused_whole_and_repeated_without_harm() {
    let space = TestSpace::new();
    let server = AdminServer::start(&space).await;
    let admin = server.caller("org_1", Role::Admin).await;
    let (path, before) = made(&admin).await;
    let rotate = format!("{path}/rotate-secret");
    let wrong = json!({ "secret": "", "overlapSeconds": -1, "x": 1 });
    let message = admin.post(&rotate, &wrong).await.refused(400, "BAD_REQUEST", "rotateWebhookSecret");
    for words in ["body.secret:", "body.overlapSeconds:", "body.x:"] {
        assert!(message.contains(words), "{message}");
    }
    let unchanged = admin.get(&path).await.ok(200);
    assert_eq!(unchanged["updatedAt"], before["updatedAt"]);

    let body = json!({ "secret": "whsec_the_second_one", "overlapSeconds": 600 });
    let once = admin.post(&rotate, &body).await.ok(200);
    let twice = admin.post(&rotate, &body).await.ok(200);
    assert_eq!((&once["secret"], &twice["secret"]), (&json!("whsec_the_second_one"), &once["secret"]));
    assert_eq!(once["previousSecret"]["secret"], "whsec_****ijkl");
    assert_eq!(twice["previousSecret"]["secret"], once["previousSecret"]["secret"], "rotated once");
    assert!(twice["previousSecret"]["until"].as_str() >= once["previousSecret"]["until"].as_str());

    // What was read can be written back: masks and all.
    let shown = admin.get(&path).await.ok(200);
    let answer = admin.put(CONFIGS, &shown).await;
    assert!(!answer.headers.contains_key("x-postrider-ignored"));
    assert_eq!(answer.ok(200)["previousSecret"], shown["previousSecret"]);
    // A secret that is put replaces the one before at once, and with it what signed beside it.
    let mut put = shown.clone();
    put["secret"] = json!("whsec_put_by_hand");
    assert_eq!(admin.put(CONFIGS, &put).await.ok(200).get("previousSecret"), None);
}
