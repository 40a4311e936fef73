//! Every route with every role, over HTTP: each cell of the table of access.

use http::{Method, StatusCode};
use postrider::admin::BASE_PATH;
use postrider::admin::access::{Scope, TABLE};
use postrider::domain::token::Role;
use postrider::settings::Settings;

use crate::support::TestSpace;
use crate::support_http::{AdminServer, Api};

/// A path with well-formed ids that nobody has.
pub(crate) fn with_unknown_ids(path: &str) -> String {
    let fill = |part: &str| match part {
        "{deliveryId}" => "dlv_000000001f06fbnfev40000000".to_owned(),
        "{tokenId}" => "0123456789ab".to_owned(),
        _ if part.starts_with('{') => "9b1d04c57ea2f3180000002f".to_owned(),
        _ => part.to_owned(),
    };
    let parts: Vec<String> = path.split('/').map(fill).collect();
    format!("{BASE_PATH}{}", parts.join("/"))
}

async fn server() -> AdminServer {
    let mut settings = Settings::default();
    settings.admin.rate_limit = 0;
    settings.admin.auth_failures_max = 0;
    AdminServer::start_with(TestSpace::new().redis(), settings).await
}

fn method(text: &str) -> Method {
    text.parse().unwrap()
}

/// Bodies that no route takes: what a role may do is decided before they are read.
fn body(text: &str) -> Vec<u8> {
    if text == "GET" { Vec::new() } else { b"{\"nothing\": 1}".to_vec() }
}

#[tokio::test]
async fn every_cell_of_the_table_of_access_holds_on_a_live_server() {
    let server = server().await;
    let mut callers: Vec<(Role, Api)> = Vec::new();
    for role in Role::ALL {
        callers.push((role, server.caller("org_1", role).await.with("x-organisation-id", "org_1")));
    }
    for row in TABLE {
        let path = with_unknown_ids(row.path);
        for (role, caller) in &callers {
            let cell = format!("{} {} as {}", row.method, row.path, role.as_str());
            let answer = caller.try_out(method(row.method), &path, body(row.method)).await;
            if row.roles.contains(role) {
                let refused =
                    [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::METHOD_NOT_ALLOWED];
                assert!(!refused.contains(&answer.status), "{cell}: {answer:?}");
                assert!(!answer.status.is_server_error(), "{cell}: {answer:?}");
                if !answer.status.is_success() {
                    assert_eq!(answer.json()["data"]["path"], row.procedure, "{cell}");
                }
            } else {
                assert_eq!(answer.status, 403, "{cell}: {answer:?}");
                let message = answer.refused(403, "FORBIDDEN", row.procedure);
                assert!(message.contains(role.as_str()), "{cell}: {message}");
            }
        }
    }
}

#[tokio::test]
async fn no_route_answers_without_a_token() {
    let server = server().await;
    let unknown = format!("Bearer prt_{}", "0".repeat(64));
    let strangers = [
        server.nobody(),
        server.nobody().with("authorization", &unknown),
        server.nobody().with("x-api-token", "eyJhbGciOiJIUzI1NiJ9.e30.x"),
        server.nobody().with("x-organisation-id", "org_1"),
    ];
    for row in TABLE.iter().filter(|row| row.scope != Scope::Public) {
        for stranger in &strangers {
            let answer =
                stranger.try_out(method(row.method), &with_unknown_ids(row.path), body(row.method)).await;
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
            answer.refused(401, "UNAUTHORIZED", row.procedure);
        }
    }
}

#[tokio::test]
async fn an_operator_names_the_organisation_on_every_route() {
    let server = server().await;
    let operator = server.caller("org_1", Role::Operator).await;
    for row in TABLE.iter().filter(|row| row.scope == Scope::Organisation) {
        let path = with_unknown_ids(row.path);
        let answer = operator.try_out(method(row.method), &path, body(row.method)).await;
        let message = answer.refused(400, "BAD_REQUEST", row.procedure);
        assert!(message.contains("x-organisation-id"), "{message}");
    }
}

#[tokio::test]
async fn a_method_that_a_route_does_not_have_is_405_with_those_it_has() {
    let server = server().await;
    for row in TABLE {
        let path = with_unknown_ids(row.path);
        let answer = server.nobody().try_out(Method::PATCH, &path, Vec::new()).await;
        let allowed = answer.headers["allow"].to_str().unwrap().to_owned();
        assert!(allowed.split(',').any(|word| word == row.method), "{path}: {allowed}");
        answer.refused(405, "METHOD_NOT_SUPPORTED", "unknown");
    }
}
