//! Requests as docs/openapi.json describes them, where no type that parses could say it: bodies that are read field
//! by field so that every mistake can be told. Nothing here is ever constructed. Ids, times and words are in
//! [`super::described_texts`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type,
};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::config_body::CONFIGS_MAX;
pub(super) use super::described_texts::{
    CategoryWord, ConfigIdText, CursorText, DeliveryIdText, EntityFiltersMap, EntryIdText, EventPlace,
    EventTypeText, FailReasonWord, HeadersInput, JobIdText, MaskedHeaders, NonceText, OrganisationIdText,
    PlainText, RejectReasonWord, RejectedIdText, RetryStatus, RoleWord, StandingWord, StatusWord,
    SubscriptionText, Time, TokenIdText, UrlText,
};
use super::publish_body::ITEMS_MAX;
use crate::domain::config::{BodyFormat, EntityFilters, HttpMethod};

/// A config to make or to change. A field that is left out, or null, keeps its stored value, and takes the default
/// on a new config.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ConfigInput)]
#[allow(dead_code)] // Described here; config_body reads the fields one by one, to tell every mistake.
pub(super) struct ConfigInputBody {
    /// Which config to change; found by its url when left out.
    #[schema(value_type = Option<ConfigIdText>)]
    id: Option<String>,
    #[schema(value_type = UrlText)]
    url: String,
    /// The event types that it wants.
    #[schema(value_type = Vec<SubscriptionText>, min_items = 1, max_items = 256)]
    events: Vec<String>,
    /// What signs its deliveries; made by Postrider when left out. A masked one keeps the stored one.
    #[schema(
        min_length = 1,
        max_length = 256,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$",
        examples("whsec_8f0c2a")
    )]
    secret: Option<String>,
    /// False pauses without deleting; true also re-enables a config that Postrider disabled.
    active: Option<bool>,
    /// Another name of `active`; when both are sent they must be equal.
    is_enabled: Option<bool>,
    /// Automatic retries after the first attempt; 3 on a new config.
    #[schema(minimum = 0, maximum = 10)]
    max_retries: Option<u32>,
    retry_policy: Option<RetryPolicyInput>,
    /// Statuses that are retried besides 5xx.
    #[schema(value_type = Option<Vec<RetryStatus>>)]
    retry_on: Option<Vec<u16>>,
    /// Null takes the limit away.
    rate_limit: Option<RateLimitInput>,
    #[schema(value_type = Option<HeadersInput>)]
    headers: Option<BTreeMap<String, String>>,
    http_method: Option<HttpMethod>,
    body_format: Option<BodyFormat>,
    /// Each event type must be among those that `events` covers.
    #[schema(value_type = Option<EntityFiltersMap>)]
    entity_filters: Option<EntityFilters>,
    /// Whether deliveries also carry the headers of Standard Webhooks.
    standard_webhooks: Option<bool>,
    /// Whether the log keeps payloads.
    log_payloads: Option<bool>,
    /// Null takes the certificate away.
    client_certificate: Option<ClientCertificateInput>,
}

/// What is shown to an endpoint that asks for a certificate.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code)] // As ConfigInputBody.
pub(super) struct ClientCertificateInput {
    /// PEM: the certificate, and behind it those that vouch for it.
    #[schema(max_length = 32_768)]
    certificate: String,
    /// PEM: the certificate's key, not encrypted. The value `****` keeps the stored one.
    #[schema(max_length = 32_768)]
    key: String,
    /// Ignored, so that what an answer showed can be sent back.
    expires_at: Option<String>,
}

/// When deliveries are tried again.
#[derive(Debug)]
pub(super) enum RetryPolicyInput {}

/// A limit of requests over all replicas.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code)] // As ConfigInputBody.
pub(super) struct RateLimitInput {
    /// Requests a second on average.
    #[schema(minimum = 1, maximum = 100_000)]
    per_second: u32,
    /// Requests at once after a pause; `perSecond` unless given.
    #[schema(minimum = 1, maximum = 100_000)]
    burst: Option<u32>,
}

/// One config, which is made or changed, or the organisation's whole set, from which what is missing is deleted.
#[derive(Debug)]
pub(super) enum ConfigsBody {}

/// The organisation's whole set.
#[derive(ToSchema)]
#[schema(as = WrappedConfigsInput)]
#[allow(dead_code)] // As ConfigInputBody.
pub(super) struct WrappedBody {
    #[schema(max_items = 1000)]
    configs: Vec<ConfigInputBody>,
}

/// An event to publish.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventInput)]
#[allow(dead_code)] // Described here; publish_body reads the fields one by one, to tell every mistake.
pub(super) struct EventBody {
    #[schema(value_type = EventTypeText)]
    event: String,
    /// What happened, at most 256 KiB; its bytes are kept.
    #[schema(value_type = Object, examples(json!({"user": {"id": "u1"}})))]
    data: Value,
    #[schema(value_type = Option<NonceText>)]
    nonce: Option<String>,
    /// When it happened; now unless given.
    #[schema(value_type = Option<Time>)]
    timestamp: Option<String>,
    /// Deliver to this config alone.
    #[schema(value_type = Option<ConfigIdText>)]
    config_id: Option<String>,
    /// W3C Trace Context, sent along as a header.
    #[schema(
        pattern = "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
        examples("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    )]
    traceparent: Option<String>,
    #[schema(value_type = Option<NonceText>)]
    community_id: Option<String>,
    #[schema(value_type = Option<NonceText>)]
    user_id: Option<String>,
    #[schema(value_type = Option<NonceText>)]
    event_source_id: Option<String>,
}

/// One event or many.
#[derive(Debug)]
pub(super) enum EventsBody {}

/// A reference to the error envelope's schema.
pub(super) fn error_schema() -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name("Error"))
}

/// One of a kind, or an array of at most `most`.
fn one_or_many<T: ToSchema>(least: usize, most: usize) -> OneOfBuilder {
    let item = Ref::from_schema_name(T::name());
    let many = ArrayBuilder::new().items(item.clone()).min_items(Some(least)).max_items(Some(most));
    OneOfBuilder::new().item(item).item(many)
}

/// Adds a schema under its name, and those that it names.
fn collect<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into(), T::schema()));
    T::schemas(schemas);
}

// === impl ConfigsBody ===

impl PartialSchema for ConfigsBody {
    fn schema() -> RefOr<Schema> {
        one_or_many::<ConfigInputBody>(0, CONFIGS_MAX).item(Ref::from_schema_name(WrappedBody::name())).into()
    }
}

impl ToSchema for ConfigsBody {
    fn name() -> Cow<'static, str> {
        "ConfigsInput".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        collect::<ConfigInputBody>(schemas);
        collect::<WrappedBody>(schemas);
    }
}

// === impl EventsBody ===

impl PartialSchema for EventsBody {
    fn schema() -> RefOr<Schema> {
        one_or_many::<EventBody>(1, ITEMS_MAX).into()
    }
}

impl ToSchema for EventsBody {
    fn name() -> Cow<'static, str> {
        "EventsInput".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        collect::<EventBody>(schemas);
    }
}

// === impl RetryPolicyInput ===

impl PartialSchema for RetryPolicyInput {
    fn schema() -> RefOr<Schema> {
        let mode = |word: &str| ObjectBuilder::new().schema_type(Type::String).enum_values(Some([word]));
        let form = |object: ObjectBuilder, word: &str| {
            let object = object.schema_type(Type::Object).property("mode", mode(word)).required("mode");
            object.additional_properties(Some(AdditionalProperties::FreeForm(false)))
        };
        let seconds = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .description(Some("Seconds."))
            .minimum(Some(1))
            .maximum(Some(86_400));
        let fixed = ObjectBuilder::new().property("delaySeconds", seconds).required("delaySeconds");
        OneOfBuilder::new()
            .description(Some("As the installation's schedule says, or always after the same delay."))
            .item(form(ObjectBuilder::new(), "exponential"))
            .item(form(fixed, "fixed"))
            .into()
    }
}

impl ToSchema for RetryPolicyInput {
    fn name() -> Cow<'static, str> {
        "RetryPolicyInput".into()
    }
}
