//! Texts and requests as docs/openapi.json describes them, where no type that answers or parses could say it: ids
//! with their pattern, times, closed sets of words, and the bodies that are read field by field so that every
//! mistake can be told. Nothing here is ever constructed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, Type,
};
use utoipa::openapi::{KnownFormat, Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::config_body::{CONFIGS_MAX, HEADER_MASK};
use super::publish_body::ITEMS_MAX;
use crate::domain::catalogue::{Category, Standing};
use crate::domain::config::{BodyFormat, EntityFilters, HttpMethod};
use crate::domain::delivery::FailReason;
use crate::domain::log::Status;

/// Declares types that stand for a text or a number with a name of its own in the document.
macro_rules! named_schemas {
    ($($(#[doc = $doc:literal])+ $kind:ident as $name:literal = $build:expr;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug)]
        pub(super) enum $kind {}

        impl PartialSchema for $kind {
            fn schema() -> RefOr<Schema> {
                let build: fn(ObjectBuilder) -> ObjectBuilder = $build;
                let description = concat!($($doc),+).trim();
                build(ObjectBuilder::new().schema_type(Type::String).description(Some(description))).into()
            }
        }

        impl ToSchema for $kind {
            fn name() -> Cow<'static, str> {
                $name.into()
            }
        }
    )+};
}

named_schemas! {
    /// A config's id.
    ConfigIdText as "ConfigId" =
        |text| text.pattern(Some("^[0-9a-f]{24}$")).examples([json!("9b1d04c57ea2f3180000002f")]);
    /// A delivery's id, as in the header X-Nudj-Delivery-Id.
    DeliveryIdText as "DeliveryId" = |text| {
        text.pattern(Some("^dlv_[0-7][0-9a-hjkmnp-tv-z]{25}$"))
            .examples([json!("dlv_000000001f06fbnfev40000000")])
    };
    /// A job's id.
    JobIdText as "JobId" =
        |text| text.pattern(Some("^job_[0-9a-f]{16}$")).examples([json!("job_0b61f8a09c2d4e57")]);
    /// An event type.
    EventTypeText as "EventType" = |text| {
        text.pattern(Some("^[a-z0-9]+([._-][a-z0-9]+)*$"))
            .min_length(Some(1))
            .max_length(Some(128))
            .examples([json!("reward.earned")])
    };
    /// What a config subscribes to: an event type, all types that begin with one (`reward.*`), or all (`*`).
    SubscriptionText as "Subscription" = |text| {
        text.pattern(Some("^(\\*|[a-z0-9]+([._-][a-z0-9]+)*(\\.\\*)?)$"))
            .min_length(Some(1))
            .max_length(Some(128))
            .examples([json!("reward.earned"), json!("reward.*")])
    };
    /// Event types and the ids of entities that each lets through; a type that is not here is not filtered.
    EntityFiltersMap as "EntityFilters" = |object| {
        let name = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^[a-z0-9]+([._-][a-z0-9]+)*$"))
            .max_length(Some(128));
        let id = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(256))
            .pattern(Some("^[^\\u0000-\\u001f\\u007f-\\u009f]+$"));
        let ids = ArrayBuilder::new().items(id).min_items(Some(1)).max_items(Some(5_000)).build();
        object
            .schema_type(Type::Object)
            .property_names(Some(Schema::Object(name.build())))
            .additional_properties(Some(AdditionalProperties::RefOr(RefOr::T(Schema::Array(ids)))))
            .examples([json!({"reward.earned": ["6650aa17bd00000000000001"]})])
    };
    /// A time: ISO-8601 in UTC with milliseconds in answers, with any zone in requests; not before 1970.
    Time as "Time" = |text| {
        text.format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .examples([json!("2026-05-01T09:00:00.000Z")])
    };
    /// The URL that deliveries go to: https, without user, password and fragment.
    UrlText as "EndpointUrl" = |text| {
        text.format(Some(SchemaFormat::Custom("uri".to_owned())))
            .min_length(Some(9))
            .max_length(Some(2048))
            .examples([json!("https://receiver.example/hooks")])
    };
    /// The event's id: the same at every config.
    NonceText as "Nonce" = |text| {
        text.min_length(Some(1))
            .max_length(Some(256))
            .pattern(Some("^[^\\u0000-\\u001f\\u007f]+$"))
            .examples([json!("order-4711")])
    };
    /// A delivery's state.
    StatusWord as "DeliveryStatus" = |text| text.enum_values(Some(Status::ALL.map(Status::as_str)));
    /// Why a delivery ended as failed.
    FailReasonWord as "FailReason" = |text| text.enum_values(Some(FailReason::ALL.map(FailReason::as_str)));
    /// What an event is about.
    CategoryWord as "EventCategory" = |text| text.enum_values(Some(Category::ALL.map(Category::as_str)));
    /// Who chose an event type's name and the fields of its `data`. `documented`: both are the platform's.
    /// `named`: the name is. `proposed`: the platform says only that there is such an event. `own`: Postrider
    /// publishes it itself.
    StandingWord as "EventStatus" = |text| text.enum_values(Some(Standing::ALL.map(Standing::as_str)));
    /// A status that a config may ask to be retried.
    RetryStatus as "RetryStatus" = |number| number.schema_type(Type::Integer).enum_values(Some([408, 425, 429]));
    /// Names of headers and their values. The value `****` keeps the stored one.
    HeadersInput as "HeadersInput" = |object| {
        let name = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"));
        let value = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^([\\u0021-\\u007e]([\\u0020-\\u007e]*[\\u0021-\\u007e])?)?$"))
            .max_length(Some(4096));
        object
            .schema_type(Type::Object)
            .max_properties(Some(32))
            .property_names(Some(Schema::Object(name.build())))
            .additional_properties(Some(AdditionalProperties::RefOr(RefOr::T(Schema::Object(value.build())))))
            .examples([json!({"X-Api-Key": "b7d1"})])
    };
    /// Names of headers; their values are never shown.
    MaskedHeaders as "Headers" = |object| {
        let value = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([HEADER_MASK]));
        object
            .schema_type(Type::Object)
            .max_properties(Some(32))
            .additional_properties(Some(AdditionalProperties::RefOr(RefOr::T(Schema::Object(value.build())))))
            .examples([json!({"X-Api-Key": HEADER_MASK})])
    };
}

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
