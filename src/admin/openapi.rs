//! The admin API's description: OpenAPI 3.1, made from the handlers' annotations. Served, and committed as
//! docs/openapi.json; a test fails when the two differ, and when a route has no operation here.
//!
//! Handlers say what is theirs: parameters, body, successes. What holds for every operation is added here: who may
//! call, and the error answers.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, PathItem, Ref, RefOr, Required, ResponseBuilder, SecurityRequirement};
use utoipa::{Modify, OpenApi};

use super::auth::ORGANISATION_HEADER;
use super::described::error_schema;
use super::error::ErrorEnvelope;
use super::state::AdminState;
use super::{
    audit, config_by_id, config_test, configs, event_types, jobs, log_curl, log_retry, log_stream, logs,
    publish, rejected, stats, tokens, trace,
};

/// Names of the security schemes.
const BEARER: &str = "bearer";
const API_TOKEN: &str = "apiToken";
const ORGANISATION: &str = "organisation";

/// The procedure of the one route that needs no token.
const OPEN: &str = "getOpenApi";

/// The procedure whose answer does not end.
const STREAM: &str = "streamWebhookLogs";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Postrider admin API",
        description = "Webhook configs, the log of deliveries, and publishing. Everything belongs to the token's \
                       organisation. The words and rules are in docs/WIRE.md. A request's fields that nobody knows \
                       are ignored and named in the answer's header `X-Postrider-Ignored`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    servers((url = "/api/v2/admin", description = "This server")),
    tags(
        (name = "configs", description = "Endpoints and what they want"),
        (name = "events", description = "Publishing, and the catalogue of event types"),
        (name = "logs", description = "Deliveries and their attempts"),
        (name = "by hand", description = "Failed deliveries and past events, brought again"),
        (name = "inspect", description = "How an endpoint does, and where an event is"),
        (name = "audit", description = "Who changed what"),
        (name = "rejected", description = "Stream entries that could not be understood, for operators"),
        (name = "tokens", description = "Who may call"),
        (name = "about", description = "The API itself"),
    ),
    paths(
        configs::list_configs,
        configs::put_configs,
        config_by_id::get_config,
        config_by_id::delete_config,
        config_by_id::pause_config,
        config_by_id::resume_config,
        config_by_id::rotate_secret,
        config_test::test_config,
        event_types::list_event_types,
        logs::list,
        logs::one,
        log_retry::retry_delivery,
        jobs::recover_failed,
        jobs::replay_events,
        jobs::list,
        jobs::one,
        jobs::cancel,
        publish::publish_events,
        stats::get_stats,
        trace::get_trace,
        log_curl::get_curl,
        log_stream::follow,
        audit::list,
        rejected::list,
        rejected::one,
        rejected::requeue,
        rejected::delete,
        tokens::list,
        tokens::create,
        tokens::revoke,
        get_openapi,
    ),
    components(schemas(ErrorEnvelope)),
    modifiers(&Common),
)]
struct Document;

/// What holds for every operation.
struct Common;

/// An error answer: status, name of the component, when it comes, whether it says when to try again.
struct ErrorAnswer {
    status: &'static str,
    name: &'static str,
    when: &'static str,
    retry_after: bool,
    /// Whether it has the error envelope: who cannot be told what they asked for gets no body.
    body: bool,
}

const ERRORS: [ErrorAnswer; 12] = [
    error(
        "400",
        "BadRequest",
        "A body, query, path or header that is not acceptable; `message` names each field.",
    ),
    error("401", "Unauthorized", "No token, a malformed one, an unknown or revoked one."),
    error("403", "Forbidden", "The token's role does not reach."),
    error("404", "NotFound", "Unknown, deleted, or of another organisation; the answer does not tell which."),
    error("408", "Timeout", "The request's body did not arrive in time."),
    error(
        "409",
        "Conflict",
        "Somebody else changed the same thing meanwhile, or its state forbids the request.",
    ),
    error("413", "PayloadTooLarge", "The request's body is over the route's limit."),
    ErrorAnswer {
        retry_after: true,
        ..error(
            "429",
            "TooManyRequests",
            "The token's limit of requests is used up, or too many bad tokens came from this address.",
        )
    },
    ErrorAnswer {
        body: false,
        ..error(
            "431",
            "HeadTooLarge",
            "The request's line and headers are too long, or these are too many. No body.",
        )
    },
    error("500", "InternalServerError", "A fault of Postrider's; details are in its log only."),
    error("504", "GatewayTimeout", "The request was not finished in time; it may go on."),
    ErrorAnswer {
        retry_after: true,
        ..error("503", "ServiceUnavailable", "Redis is away or full, or the replica is starting.")
    },
];

/// The description.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// The text of docs/openapi.json.
///
/// # Errors
/// None that can happen: the document is plain data.
pub fn text() -> Result<String, serde_json::Error> {
    document().to_pretty_json().map(|text| text + "\n")
}

/// The routes of this file.
pub(super) fn routes() -> Router<AdminState> {
    Router::new().route("/openapi.json", get(get_openapi))
}

/// This description
///
/// Needs no token.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "getOpenApi",
    tag = "about",
    security(()),
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)),
)]
pub(super) async fn get_openapi() -> Response {
    ([(header::CACHE_CONTROL, "no-cache")], Json(document())).into_response()
}

const fn error(status: &'static str, name: &'static str, when: &'static str) -> ErrorAnswer {
    ErrorAnswer { status, name, when, retry_after: false, body: true }
}

// === impl Common ===

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        for answer in &ERRORS {
            components.responses.insert(answer.name.to_owned(), answer.component());
        }
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A token of `postrider token create`."))
            .build();
        components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
        let in_header = |name: &str, what: &str| {
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(name, what)))
        };
        components.add_security_scheme(
            API_TOKEN,
            in_header("x-api-token", "The same token in the older header; Authorization wins over it."),
        );
        components.add_security_scheme(
            ORGANISATION,
            in_header(
                ORGANISATION_HEADER,
                "Only with an operator's token, which belongs to no organisation: which one to act for.",
            ),
        );
        for item in document.paths.paths.values_mut() {
            operations(item).for_each(complete);
        }
    }
}

/// The operations of one path.
fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten()
}

/// Adds who may call, and the errors that can come.
fn complete(operation: &mut Operation) {
    let open = operation.operation_id.as_deref() == Some(OPEN);
    if !open {
        let one = |name: &str| SecurityRequirement::new(name, Vec::<String>::new());
        let two = |name: &str| one(name).add(ORGANISATION, Vec::<String>::new());
        operation.security = Some(vec![one(BEARER), one(API_TOKEN), two(BEARER), two(API_TOKEN)]);
    }
    let parameters = operation.parameters.as_deref().unwrap_or_default();
    let in_path = parameters.iter().any(|parameter| parameter.parameter_in == ParameterIn::Path);
    let names_config = parameters.iter().any(|parameter| parameter.name == "webhookConfigId");
    let body = operation.request_body.is_some();
    // More logs than one stream can follow.
    let streams = operation.operation_id.as_deref() == Some(STREAM);
    operation.request_body.iter_mut().for_each(optional_body);
    for answer in &ERRORS {
        let comes = match answer.status {
            "409" if streams => true,
            "404" => in_path || names_config || body,
            "409" => in_path || body,
            "408" | "413" => body,
            "431" | "503" => true,
            _ => !open,
        };
        if comes {
            let reference = RefOr::Ref(Ref::from_response_name(answer.name));
            operation.responses.responses.entry(answer.status.to_owned()).or_insert(reference);
        }
    }
}

/// A body that may be left out is described as a thing or null; null itself is no body that is understood.
fn optional_body(body: &mut RequestBody) {
    for content in body.content.values_mut() {
        if let Some(RefOr::T(Schema::OneOf(forms))) = &content.schema
            && let [RefOr::T(Schema::Object(null)), thing @ RefOr::Ref(_)] = forms.items.as_slice()
            && null.schema_type == Type::Null.into()
        {
            content.schema = Some(thing.clone());
            body.required = Some(Required::False);
        }
    }
}

// === impl ErrorAnswer ===

impl ErrorAnswer {
    fn component(&self) -> RefOr<utoipa::openapi::Response> {
        let content = ContentBuilder::new().schema(Some(error_schema())).build();
        let mut response = ResponseBuilder::new().description(self.when);
        if self.body {
            response = response.content("application/json", content);
        }
        if self.retry_after {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
            let header = HeaderBuilder::new()
                .schema(seconds)
                .description(Some("Seconds after which the same request may work."));
            response = response.header("Retry-After", header.build());
        }
        response.build().into()
    }
}
