//! Routing by behaviour, on snapshots built from stored configs.

use std::sync::Arc;

use super::route;
use crate::domain::clock::UnixMillis;
use crate::domain::config::{
    Config, CustomHeaders, Disabled, DisabledReason, EndpointUrl, EntityFilters, EventType, StoredConfig,
    Subscription, Tombstone,
};
use crate::domain::event::{Event, EventFields, JsonScratch};
use crate::domain::ids::{ConfigId, ConfigSequence, EventId, OrganisationId, ShardNumber, StreamId};
use crate::domain::signature::Secret;
use crate::domain::snapshot::{Lookup, Snapshot, Target};

fn config(number: u32, organisation: &str, events: &[&str], active: bool) -> Config {
    Config {
        id: ConfigId::new([0; 8], ConfigSequence(number)),
        organisation: OrganisationId::new(organisation).unwrap(),
        version: 1,
        url: EndpointUrl::new("https://hooks.example/", false).unwrap(),
        events: events.iter().map(|event| Subscription::new(event).unwrap()).collect(),
        secret: Secret::new("whsec_x").unwrap(),
        previous_secret: None,
        client_certificate: None,
        active,
        max_retries: 3,
        retry_policy: crate::domain::retry_policy::RetryPolicy::default(),
        retry_on: crate::domain::retry_on::RetryOn::NONE,
        rate_limit: None,
        http_method: Default::default(),
        body_format: Default::default(),
        entity_filters: Default::default(),
        standard_webhooks: false,
        log_payloads: true,
        headers: CustomHeaders::default(),
        created_at: UnixMillis(1),
        updated_at: UnixMillis(1),
        disabled: None,
    }
}

fn stored(config: Config) -> Arc<StoredConfig> {
    Arc::new(StoredConfig::Config(config))
}

fn event(organisation: &str, event_type: &str, only: Option<ConfigId>) -> Event {
    let mut fields = EventFields::default();
    fields.set(b"organisationId", organisation.into());
    fields.set(b"event", event_type.into());
    fields.set(b"data", b"{}".to_vec());
    if let Some(only) = only {
        fields.set(b"configId", only.to_string().into_bytes());
    }
    let id = EventId::new(ShardNumber(0), StreamId { ms: 1, seq: 1 }).unwrap();
    fields.check(id, &mut JsonScratch::default()).unwrap()
}

fn numbers(targets: &[Arc<Target>]) -> Vec<u32> {
    targets.iter().map(|target| target.config.id.sequence().0).collect()
}

#[test]
fn an_event_goes_to_the_subscribed_configs_of_its_own_organisation() {
    let configs = [
        stored(config(1, "a", &["reward.earned"], true)),
        stored(config(2, "a", &["challenge.started", "reward.earned"], true)),
        stored(config(3, "a", &["challenge.started"], true)),
        stored(config(4, "b", &["reward.earned"], true)),
        stored(config(5, "a", &["reward.earned"], false)),
    ];
    let snapshot = Snapshot::build(&configs, &Snapshot::default());
    let routed = route(&event("a", "reward.earned", None), &snapshot);
    assert_eq!((numbers(&routed.active), numbers(&routed.inactive)), (vec![1, 2], vec![5]));
    assert!(route(&event("c", "reward.earned", None), &snapshot).active.is_empty());
    assert!(route(&event("a", "reward", None), &snapshot).active.is_empty());
}

#[test]
fn wildcards_aliases_and_filters_are_looked_up() {
    let mut filtered = config(4, "a", &["reward.*"], true);
    let filter = (EventType::new("reward-claim").unwrap(), vec!["r1".to_owned()]);
    filtered.entity_filters = EntityFilters::new([filter].into()).unwrap();
    let configs = [
        stored(config(1, "a", &["*"], true)),
        stored(config(2, "a", &["reward.*", "reward.claimed", "*"], true)),
        stored(config(3, "a", &["reward-claim"], true)),
        stored(filtered),
    ];
    let snapshot = Snapshot::build(&configs, &Snapshot::default());
    let routed = |event_type: &str, data: &str| {
        let mut event = event("a", event_type, None);
        event.data = data.to_owned().into();
        numbers(&route(&event, &snapshot).active)
    };
    for event_type in ["reward.claimed", "reward-claim"] {
        assert_eq!(routed(event_type, r#"{"reward":{"id":"r1"}}"#), [1, 2, 3, 4], "{event_type}");
        assert_eq!(routed(event_type, r#"{"rewardId":"r2"}"#), [1, 2, 3], "{event_type}");
        assert_eq!(routed(event_type, "{}"), [1, 2, 3], "{event_type}");
    }
    assert_eq!(routed("reward.earned", "{}"), [1, 2, 4], "a type without a filter is not filtered");
    assert_eq!(routed("rewards.earned", "{}"), [1, 2]);
}

#[test]
fn an_event_for_one_config_reaches_no_other_and_no_other_organisations() {
    let configs =
        [stored(config(1, "a", &["reward.earned"], true)), stored(config(2, "a", &["reward.earned"], true))];
    let snapshot = Snapshot::build(&configs, &Snapshot::default());
    let only = ConfigId::new([0; 8], ConfigSequence(2));
    assert_eq!(numbers(&route(&event("a", "webhook.test", Some(only)), &snapshot).active), [2]);
    assert!(route(&event("b", "webhook.test", Some(only)), &snapshot).active.is_empty());
}

#[test]
fn a_lookup_tells_paused_from_gone_deleted_and_unknown() {
    let mut gone = config(2, "a", &["reward.earned"], false);
    gone.disabled =
        Some(Disabled { reason: DisabledReason::Gone, at: UnixMillis(1), since: None, attempts: None });
    let tombstone = Tombstone {
        id: ConfigId::new([0; 8], ConfigSequence(3)),
        organisation: OrganisationId::new("a").unwrap(),
        deleted_at: UnixMillis(1),
        log_payloads: true,
    };
    let configs = [
        stored(config(1, "a", &["reward.earned"], false)),
        stored(gone),
        Arc::new(StoredConfig::Tombstone(tombstone)),
        stored(config(4, "a", &["reward.earned"], true)),
    ];
    let snapshot = Snapshot::build(&configs, &Snapshot::default());
    let lookup = |number| snapshot.lookup(ConfigId::new([0; 8], ConfigSequence(number)));
    assert!(matches!(lookup(1), Lookup::Paused));
    assert!(matches!(lookup(2), Lookup::Gone));
    assert!(matches!(lookup(3), Lookup::Deleted));
    assert!(matches!(lookup(4), Lookup::Active(_)));
    assert!(matches!(lookup(5), Lookup::Unknown));
}

#[test]
fn an_unchanged_config_keeps_its_target() {
    let configs = [stored(config(1, "a", &["reward.earned"], true))];
    let first = Snapshot::build(&configs, &Snapshot::default());
    let second = Snapshot::build(&configs, &first);
    let organisation = OrganisationId::new("a").unwrap();
    assert!(Arc::ptr_eq(&first.of(&organisation)[0], &second.of(&organisation)[0]));
}
