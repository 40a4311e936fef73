//! OTLP's JSON form of spans (the OpenTelemetry protocol 1.x, "JSON Protobuf Encoding": ids in hex, 64-bit integers as
//! text, enumerations as numbers).

use serde_json::{Value, json};

use super::{Span, What};
use crate::domain::outcome::Outcome;

/// `SpanKind` and `StatusCode` of `trace.proto`.
const INTERNAL: u8 = 1;
const CLIENT: u8 = 3;
const CONSUMER: u8 = 5;
const ERROR: u8 = 2;

/// The body of `POST /v1/traces`. `instance` tells replicas apart.
pub(super) fn request(spans: &[Span], instance: &str) -> Vec<u8> {
    let resource = [
        text("service.name", "postrider"),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", instance),
    ];
    let spans: Vec<Value> = spans.iter().map(span).collect();
    let scope = json!({ "name": "postrider", "version": env!("CARGO_PKG_VERSION") });
    let body = json!({
        "resourceSpans": [{
            "resource": { "attributes": resource },
            "scopeSpans": [{ "scope": scope, "spans": spans }],
        }],
    });
    body.to_string().into_bytes()
}

fn span(span: &Span) -> Value {
    let mut attributes = vec![
        text("postrider.event.id", &span.event.derived_nonce()),
        text("postrider.event.type", &span.event_type),
    ];
    let (name, kind) = match &span.what {
        What::Publish => ("publish", CONSUMER),
        What::Wait { .. } => ("wait", INTERNAL),
        What::Attempt { .. } => ("attempt", CLIENT),
    };
    if let What::Wait { delivery, config, attempt } | What::Attempt { delivery, config, attempt, .. } =
        &span.what
    {
        attributes.push(text("postrider.delivery.id", &delivery.to_string()));
        attributes.push(text("postrider.config.id", &config.to_string()));
        attributes.push(number("postrider.attempt", u64::from(*attempt)));
    }
    let mut status = json!({});
    if let What::Attempt { sent, .. } = &span.what {
        attributes.push(text("http.request.method", sent.method.as_str()));
        attributes.push(text("postrider.outcome", sent.outcome.as_str()));
        if let Some(code) = sent.status {
            attributes.push(number("http.response.status_code", u64::from(code)));
        }
        if sent.outcome != Outcome::Delivered {
            // The semantic conventions' `error.type`: the status, or what kept one from coming.
            let error = sent.status.map(|code| code.to_string());
            let error =
                error.or_else(|| sent.fault.map(|fault| fault.as_str().to_owned())).unwrap_or_default();
            attributes.push(text("error.type", &error));
            status = json!({ "code": ERROR, "message": sent.outcome.as_str() });
        }
    }
    json!({
        "traceId": span.context.trace.to_string(),
        "spanId": span.id.to_string(),
        "parentSpanId": span.context.parent.to_string(),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": span.start.to_string(),
        "endTimeUnixNano": span.end.to_string(),
        "attributes": attributes,
        "status": status,
    })
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn number(key: &str, value: u64) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}
