//! Which role may call which route: the one table (docs/WIRE.md section 8 shows it, and a test compares the two).
//!
//! Owns: routes, procedures and roles. A route that is not here answers no method at all, so that nothing can be
//! added and left open.

use axum::http::Method;

use crate::domain::token::Role;

/// One route and who may call it.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// The method; `HEAD` counts as `GET`.
    pub method: &'static str,
    /// The path below [`super::BASE_PATH`], as the router writes it.
    pub path: &'static str,
    /// The procedure's name: `data.path` of errors, `operationId` of the description.
    pub procedure: &'static str,
    /// Who may call it.
    pub roles: &'static [Role],
    /// What the call is for.
    pub scope: Scope,
}

/// What a route is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One organisation: the token's, or the one that an operator names.
    Organisation,
    /// No single organisation: operators need not name one.
    Installation,
    /// Nothing that is anybody's: no token is asked for.
    Public,
}

/// Roles that read configs.
pub const READ_CONFIGS: &[Role] = &[Role::Viewer, Role::Manager, Role::Admin, Role::Operator];
/// Roles that change everything within an organisation, and read what holds payloads and answers.
pub const ADMINISTER: &[Role] = &[Role::Admin, Role::Operator];
/// Roles that pause, resume and test configs.
pub const OPERATE_CONFIGS: &[Role] = &[Role::Manager, Role::Admin, Role::Operator];
/// Roles that see and mend what is no single organisation's.
pub const OPERATORS: &[Role] = &[Role::Operator];
/// Roles that publish events.
pub const PUBLISH: &[Role] = &[Role::Publisher, Role::Admin, Role::Operator];

/// Every route of the admin API. A new route gets one row here and one in docs/WIRE.md section 8.
pub const TABLE: &[Access] = &[
    row("GET", "/webhooks/configs", "getWebhookConfigs", READ_CONFIGS),
    row("PUT", "/webhooks/configs", "updateWebhookConfigs", ADMINISTER),
    row("GET", "/webhooks/configs/{id}", "getWebhookConfig", READ_CONFIGS),
    row("DELETE", "/webhooks/configs/{id}", "deleteWebhookConfig", ADMINISTER),
    row("POST", "/webhooks/configs/{id}/pause", "pauseWebhookConfig", OPERATE_CONFIGS),
    row("POST", "/webhooks/configs/{id}/resume", "resumeWebhookConfig", OPERATE_CONFIGS),
    row("POST", "/webhooks/configs/{id}/rotate-secret", "rotateWebhookSecret", ADMINISTER),
    row("POST", "/webhooks/configs/{id}/test", "testWebhookConfig", OPERATE_CONFIGS),
    row("GET", "/webhooks/configs/{id}/stats", "getWebhookStats", READ_CONFIGS),
    row("POST", "/webhooks/configs/{id}/recover", "recoverWebhookConfig", ADMINISTER),
    row("POST", "/webhooks/configs/{id}/replay", "replayWebhookConfig", ADMINISTER),
    row("GET", "/webhooks/configs/{id}/jobs", "getWebhookJobs", READ_CONFIGS),
    row("GET", "/webhooks/configs/{id}/jobs/{jobId}", "getWebhookJob", READ_CONFIGS),
    row("POST", "/webhooks/configs/{id}/jobs/{jobId}/cancel", "cancelWebhookJob", ADMINISTER),
    row("GET", "/webhooks/logs", "getWebhookLogs", ADMINISTER),
    row("GET", "/webhooks/logs/stream", "streamWebhookLogs", ADMINISTER),
    row("GET", "/webhooks/logs/{deliveryId}", "getWebhookLog", ADMINISTER),
    row("GET", "/webhooks/logs/{deliveryId}/curl", "getWebhookLogCurl", ADMINISTER),
    row("POST", "/webhooks/logs/{deliveryId}/retry", "retryWebhookDelivery", ADMINISTER),
    row("GET", "/webhooks/trace", "getWebhookTrace", ADMINISTER),
    row("GET", "/webhooks/audit", "getWebhookAudit", ADMINISTER),
    row("GET", "/webhooks/rejected", "getRejectedEvents", OPERATORS).for_installation(),
    row("GET", "/webhooks/rejected/{id}", "getRejectedEvent", OPERATORS).for_installation(),
    row("DELETE", "/webhooks/rejected/{id}", "deleteRejectedEvent", OPERATORS).for_installation(),
    row("POST", "/webhooks/rejected/{id}/requeue", "requeueRejectedEvent", OPERATORS).for_installation(),
    row("GET", "/webhooks/event-types", "getWebhookEventTypes", &Role::ALL),
    row("POST", "/webhooks/events", "publishWebhookEvents", PUBLISH),
    row("GET", "/auth-config/tokens", "getTokens", ADMINISTER),
    row("POST", "/auth-config/tokens", "createToken", ADMINISTER),
    row("POST", "/auth-config/tokens/{tokenId}/revoke", "revokeToken", ADMINISTER),
    row("GET", "/openapi.json", "getOpenApi", &Role::ALL).for_anybody(),
];

const fn row(
    method: &'static str,
    path: &'static str,
    procedure: &'static str,
    roles: &'static [Role],
) -> Access {
    Access { method, path, procedure, roles, scope: Scope::Organisation }
}

impl Access {
    /// The row of a route that concerns no single organisation.
    #[must_use]
    pub const fn for_installation(self) -> Self {
        Self { scope: Scope::Installation, ..self }
    }

    /// The row of a route that asks for no token; its roles are all of them.
    #[must_use]
    pub const fn for_anybody(self) -> Self {
        Self { scope: Scope::Public, roles: &Role::ALL, ..self }
    }
}

/// The row of a route; `path` is below [`super::BASE_PATH`], as the router writes it.
#[must_use]
pub fn find(method: &Method, path: &str) -> Option<&'static Access> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    TABLE.iter().find(|row| row.path == path && row.method == method)
}

/// The methods of a path as the `Allow` header says them; empty where the table does not have the path.
#[must_use]
pub fn allowed_methods(path: &str) -> String {
    let rows = TABLE.iter().filter(|row| row.path == path);
    let words = rows.map(|row| if row.method == "GET" { "GET,HEAD" } else { row.method });
    words.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What the router itself holds, read out of its debug form: path and methods of every route.
    fn routed() -> BTreeSet<(String, String)> {
        let text = format!("{:?}", super::super::resources());
        let between = |text: &str, from: &str, to: &str| {
            text.split(from).nth(1).and_then(|rest| rest.split(to).next()).unwrap_or_default().to_owned()
        };
        let paths = between(&text, "paths: {", "\"}") + "\"";
        let paths = paths.split("RouteId(").skip(1).map(|part| {
            let (number, rest) = part.split_once("): \"").expect("an id and a path");
            (number.to_owned(), rest.split('"').next().expect("a path").to_owned())
        });
        let mut found = BTreeSet::new();
        for (number, path) in paths {
            let endpoint = between(&text, &format!("RouteId({number}): MethodRouter("), "RouteId(");
            let methods = between(&endpoint, "allow_header: Bytes(b\"", "\"");
            let methods = methods.split(',').filter(|method| !method.is_empty() && *method != "HEAD");
            found.extend(methods.map(|method| (method.to_owned(), path.clone())));
        }
        found
    }

    #[test]
    fn the_table_and_the_router_have_the_same_routes() {
        let table: BTreeSet<(String, String)> =
            TABLE.iter().map(|row| (row.method.to_owned(), row.path.to_owned())).collect();
        assert_eq!(table.len(), TABLE.len(), "a route has one row");
        assert_eq!(routed(), table, "left: the router's routes, right: the table's");
    }

    #[test]
    fn the_documents_table_is_this_one() {
        let document = include_str!("../../docs/WIRE.md");
        let section = document.split("\n## ").find(|part| part.starts_with("8 ")).expect("section 8");
        let rows = section.lines().filter(|line| line.starts_with("| `") && line.matches('|').count() == 8);
        let documented: Vec<String> = rows.map(str::to_owned).collect();
        let cell = |row: &Access, role| if row.roles.contains(&role) { " yes |" } else { " |" };
        let wanted: Vec<String> = TABLE
            .iter()
            .map(|row| {
                let cells: String = Role::ALL.map(|role| cell(row, role)).concat();
                format!("| `{} {}` | `{}` |{cells}", row.method, row.path, row.procedure)
            })
            .collect();
        assert_eq!(documented, wanted, "left: docs/WIRE.md section 8, right: the table");
    }

    #[test]
    fn admins_and_operators_reach_what_anybody_reaches() {
        for row in TABLE {
            assert!(row.roles.contains(&Role::Operator), "{}", row.procedure);
            let below = row.roles.iter().any(|role| !matches!(role, Role::Operator | Role::Admin));
            assert!(!below || row.roles.contains(&Role::Admin), "{}", row.procedure);
        }
    }

    #[test]
    fn a_route_about_no_single_organisation_is_the_operators_alone() {
        let only_operators = |row: &Access| row.roles == [Role::Operator];
        let wide = TABLE.iter().filter(|row| row.scope == Scope::Installation);
        assert_eq!(wide.filter(|row| !only_operators(row)).count(), 0);
        let row = row("GET", "/x", "x", &[Role::Operator]);
        assert_eq!(row.for_installation().scope, Scope::Installation);
        assert_eq!(row.for_anybody().roles, Role::ALL);
    }

    #[test]
    fn head_is_get_and_allow_names_what_there_is() {
        assert_eq!(
            find(&Method::HEAD, "/webhooks/configs").map(|row| row.procedure),
            Some("getWebhookConfigs")
        );
        assert!(find(&Method::DELETE, "/webhooks/configs").is_none());
        assert_eq!(allowed_methods("/webhooks/configs"), "GET,HEAD,PUT");
        assert_eq!(allowed_methods("/nowhere"), "");
    }
}
