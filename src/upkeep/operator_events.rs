//! Events about configs that fail or were disabled (docs/WIRE.md section 5), published into the organisation's own
//! stream, so that another of its configs can carry them, and for the operator's organisation.
//!
//! The nonce is made of the config, its version and what happened: replicas that publish the same thing publish the
//! same event, once. Never holds secrets: of the URL only the host.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, counter};
use serde_json::{Value, json};

use crate::domain::breaker::Health;
use crate::domain::catalogue::{CONFIG_DISABLED, CONFIG_FAILING};
use crate::domain::config::{Config, Disabled};
use crate::domain::event::{EventFields, JsonScratch};
use crate::domain::ids::OrganisationId;
use crate::domain::log_limit::limited;
use crate::redis::connection::{Redis, Result};
use crate::redis::keys::ShardKeys;
use crate::redis::publish::{Item, publish};

/// Publishes events about configs.
pub struct OperatorEvents {
    redis: Redis,
    shards: Arc<[ShardKeys]>,
    operator: Option<OrganisationId>,
    published: Counter,
}

// === impl OperatorEvents ===

impl OperatorEvents {
    /// Publishes for each organisation, and for `operator`.
    #[must_use]
    pub fn new(redis: Redis, shards: Arc<[ShardKeys]>, operator: Option<OrganisationId>) -> Self {
        Self { redis, shards, operator, published: counter!("postrider_operator_events_total") }
    }

    /// Nothing but failures for a good part of the time after which `config` is disabled; `stage` tells the warnings
    /// of one failing apart.
    ///
    /// # Errors
    /// Redis's, `OOM` among them: to be repeated.
    pub async fn failing(
        &self,
        config: &Config,
        health: &Health,
        stage: u8,
        disable_after: Duration,
    ) -> Result<()> {
        let since = health.failing_since.unwrap_or_default();
        let data = json!({
            "config": shown(config),
            "organisationId": config.organisation.as_str(),
            "reason": health.reason,
            "failingSince": since.to_string(),
            "attempts": health.failures,
            "disableAt": since.plus(disable_after).to_string(),
        });
        let nonce = format!("{CONFIG_FAILING}-{}-{}-{}-{stage}", config.id, config.version, since.0);
        self.publish(config, CONFIG_FAILING, &nonce, &data).await
    }

    /// `config` was disabled.
    ///
    /// # Errors
    /// Redis's, `OOM` among them: to be repeated.
    pub async fn disabled(&self, config: &Config, disabled: &Disabled) -> Result<()> {
        let mut data = json!({
            "config": shown(config),
            "organisationId": config.organisation.as_str(),
            "reason": disabled.reason,
            "disabledAt": disabled.at.to_string(),
        });
        if let Some(since) = disabled.since {
            data["failingSince"] = since.to_string().into();
            data["attempts"] = disabled.attempts.into();
        }
        let nonce = format!("{CONFIG_DISABLED}-{}-{}", config.id, config.version);
        self.publish(config, CONFIG_DISABLED, &nonce, &data).await
    }

    async fn publish(&self, config: &Config, event: &str, nonce: &str, data: &Value) -> Result<()> {
        let own = &config.organisation;
        let operator = self.operator.iter().filter(|operator| *operator != own);
        for organisation in std::iter::once(own).chain(operator) {
            let fields = EventFields {
                event: Some(event.as_bytes().to_vec()),
                data: Some(data.to_string().into_bytes()),
                nonce: Some(nonce.as_bytes().to_vec()),
                ..EventFields::default()
            };
            let item = match Item::new(organisation, fields, &mut JsonScratch::default()) {
                Ok(item) => item,
                Err(rejections) => {
                    limited!(error, config = %config.id, event, ?rejections, "an event of our own is not acceptable");
                    return Ok(());
                }
            };
            let receipt = publish(&self.redis, &self.shards, organisation, &[item], None).await?;
            self.published.increment(receipt.events.iter().filter(|event| !event.duplicate).count() as u64);
        }
        Ok(())
    }
}

fn shown(config: &Config) -> Value {
    json!({ "id": config.id.to_string(), "host": config.url.parsed().host_str() })
}
