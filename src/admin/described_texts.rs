//! Texts and numbers with a name of their own in docs/openapi.json: ids with their pattern, times, closed sets of
//! words. Nothing here is ever constructed.

use std::borrow::Cow;

use serde_json::json;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, ObjectBuilder, Schema, SchemaFormat, Type,
};
use utoipa::openapi::{KnownFormat, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::config_body::HEADER_MASK;
use crate::domain::catalogue::{Category, Standing};
use crate::domain::delivery::FailReason;
use crate::domain::log::Status;
use crate::domain::rejected::RejectReason;
use crate::domain::token::Role;

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
    /// A token's public id.
    TokenIdText as "TokenId" =
        |text| text.pattern(Some("^[0-9a-f]{12}$")).examples([json!("5f0c9d2b7a11")]);
    /// What a token's bearer may do.
    RoleWord as "Role" = |text| text.enum_values(Some(Role::ALL.map(Role::as_str)));
    /// An organisation's id.
    OrganisationIdText as "OrganisationId" =
        |text| text.pattern(Some("^[!-9;-z|~]{1,128}$")).examples([json!("org_1")]);
    /// The id of a stream's entry.
    EntryIdText as "EntryId" = |text| {
        text.pattern(Some("^(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})$"))
            .examples([json!("1777626000140-0")])
    };
    /// A rejected entry's id.
    RejectedIdText as "RejectedId" = |text| {
        text.pattern(Some("^rej_(0|[1-9][0-9]{0,3})_(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})$"))
            .examples([json!("rej_0_1777626000121-0")])
    };
    /// Why an entry was rejected. `poison`: begun ten times and never ended. `lost`: it left the stream before it
    /// was delivered.
    RejectReasonWord as "RejectReason" =
        |text| text.enum_values(Some(RejectReason::ALL.map(RejectReason::as_str)));
    /// What names an event: its stream id, an `evt_` nonce, or the id of one of its deliveries.
    EventPlace as "EventPlace" = |text| {
        text.pattern(Some(concat!(
            "^((0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})",
            "|evt_(0|[1-9][0-9]{0,3})_(0|[1-9][0-9]{0,13})-(0|[1-9][0-9]{0,8})",
            "|dlv_[0-7][0-9a-hjkmnp-tv-z]{25})$"
        )))
    };
    /// A name or an id, compared as it is.
    PlainText as "PlainText" = |text| text.min_length(Some(1)).max_length(Some(512));
    /// A `nextCursor` of an earlier answer to the same filters.
    CursorText as "Cursor" = |text| text.pattern(Some("^[A-Za-z0-9_-]{1,256}$"));
}
