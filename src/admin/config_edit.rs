//! What a body makes of an organisation's configs: matching, keeping what was left out, and the limits that
//! concern the whole set. Pure: Redis compares and sets what comes out.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::body::Mistakes;
use super::config_body::{
    CONFIGS_BYTES_MAX, CONFIGS_MAX, ConfigBody, ConfigInput, DELETED_MAX, HEADER_MASK, IdInput, SecretInput,
    Shape,
};
use super::config_certificate::client_certificate;
use crate::domain::clock::UnixMillis;
use crate::domain::config::{Config, CustomHeaders, MAX_RETRIES_DEFAULT, StoredConfig, Tombstone};
use crate::domain::ids::{ConfigId, OrganisationId};
use crate::domain::signature::Secret;
use crate::domain::standard_signature::STANDARD_HEADERS;
use crate::redis::configs::{Edit, NewIds};

/// One config of the answer, in the body's order.
#[derive(Clone, Debug)]
pub struct Resulting {
    /// The config as stored now.
    pub config: Config,
    /// Whether this request made it: then its secret is shown, once.
    pub created: bool,
}

/// Why a body cannot be applied to what is stored.
#[derive(Debug)]
pub enum Refusal {
    /// 400.
    Invalid(Mistakes),
    /// 404: ids that the organisation does not have, and nothing else is wrong.
    NotFound(String),
    /// 409: two configs would share a URL, or too many were deleted of late.
    Conflict(String),
    /// Every config number is used up.
    Exhausted,
}

/// What a body's item is about.
#[derive(Clone, Copy)]
enum Subject<'a> {
    /// This stored config.
    Stored(&'a Config),
    /// One that is to be made.
    New,
    /// Its id is no config of the organisation.
    Foreign,
    /// Nobody can say: its id is wrong, or it has none and its URL is.
    Unclear,
}

/// Applies a body. An item matches the stored config with its `id`, else the one with its `url` that no other
/// item names by id; what it leaves out keeps the stored value, or takes the default on a new config. `known_deleted` is how
/// many deleted configs of the organisation are still known.
///
/// # Errors
/// See [`Refusal`]. Always where the body has mistakes, and then with all of them.
pub fn apply(
    body: &ConfigBody,
    organisation: &OrganisationId,
    stored: &[Config],
    known_deleted: usize,
    ids: &mut NewIds,
    now: UnixMillis,
) -> Result<Edit<Vec<Resulting>>, Refusal> {
    let mut mistakes = body.mistakes.clone();
    let subjects = match_items(body, stored, &mut mistakes);
    let (mut results, mut writes) = (Vec::with_capacity(body.items.len()), Vec::new());
    let (mut created, mut changed, mut deleted) = (0, 0, 0);
    let mut foreign = 0;
    for (input, subject) in body.items.iter().zip(&subjects) {
        let before = subject.stored();
        let after = match subject {
            Subject::Stored(before) => update(input, before, now, &mut mistakes),
            Subject::New => {
                let id = ids.allocate().ok_or(Refusal::Exhausted)?;
                create(input, id, organisation, now, &mut mistakes)
            }
            Subject::Foreign | Subject::Unclear => {
                let none = CustomHeaders::default();
                check_standard_headers(input, input.standard_webhooks == Some(true), &none, &mut mistakes);
                None
            }
        };
        if matches!(subject, Subject::Foreign) {
            foreign += 1;
            mistakes.add(format_args!("{}.id", input.path), "no config has this id");
        }
        let Some(after) = after else { continue };
        if before != Some(&after) {
            *(if before.is_some() { &mut changed } else { &mut created }) += 1;
            writes.push(StoredConfig::Config(after.clone()));
        }
        results.push(Resulting { config: after, created: before.is_none() });
    }
    check_single(body, &subjects, stored, &mut mistakes)?;
    if mistakes.count() > foreign {
        return Err(Refusal::Invalid(mistakes));
    }
    if foreign > 0 {
        return Err(Refusal::NotFound(mistakes.to_string()));
    }
    if body.shape != Shape::Single {
        let kept: HashSet<ConfigId> =
            subjects.iter().filter_map(Subject::stored).map(|kept| kept.id).collect();
        for config in stored.iter().filter(|config| !kept.contains(&config.id)) {
            deleted += 1;
            writes.push(StoredConfig::Tombstone(Tombstone {
                id: config.id,
                organisation: config.organisation.clone(),
                deleted_at: now,
                log_payloads: config.log_payloads,
            }));
        }
    }
    check_deleted(created, known_deleted)?;
    check_bytes(stored, &writes)?;
    let what = format!("configs: {created} created, {changed} changed, {deleted} deleted");
    Ok(Edit { writes, what, answer: results })
}

// === impl Subject ===

impl<'a> Subject<'a> {
    const fn stored(&self) -> Option<&'a Config> {
        match self {
            Self::Stored(config) => Some(config),
            Self::New | Self::Foreign | Self::Unclear => None,
        }
    }
}

/// What each item is about. No two may be about the same.
fn match_items<'a>(body: &ConfigBody, stored: &'a [Config], mistakes: &mut Mistakes) -> Vec<Subject<'a>> {
    let (mut ids, mut urls) = (HashMap::new(), HashMap::new());
    for input in &body.items {
        if let IdInput::Given(id) = input.id
            && let Some(first) = ids.insert(id, &input.path)
        {
            mistakes.add(format_args!("{}.id", input.path), format_args!("the same as {first}.id"));
        }
        if let Some(url) = &input.url
            && let Some(first) = urls.insert(url.parsed(), &input.path)
        {
            mistakes.add(format_args!("{}.url", input.path), format_args!("the same as {first}.url"));
        }
    }
    let by_id: HashMap<ConfigId, &Config> = stored.iter().map(|config| (config.id, config)).collect();
    let by_url: HashMap<&url::Url, &Config> = stored
        .iter()
        .filter(|config| !ids.contains_key(&config.id))
        .map(|config| (config.url.parsed(), config))
        .collect();
    let find = |input: &ConfigInput| match (input.id, &input.url) {
        (IdInput::Given(id), _) => by_id.get(&id).map_or(Subject::Foreign, |config| Subject::Stored(config)),
        (IdInput::Absent, Some(url)) => {
            by_url.get(url.parsed()).map_or(Subject::New, |config| Subject::Stored(config))
        }
        (IdInput::Wrong, _) | (IdInput::Absent, None) => Subject::Unclear,
    };
    body.items.iter().map(find).collect()
}

/// What a single object must respect: the others stay.
fn check_single(
    body: &ConfigBody,
    subjects: &[Subject<'_>],
    stored: &[Config],
    mistakes: &mut Mistakes,
) -> Result<(), Refusal> {
    let (Shape::Single, [input], [subject]) = (body.shape, &body.items[..], subjects) else { return Ok(()) };
    match (subject, &input.url) {
        (Subject::New, _) if stored.len() >= CONFIGS_MAX => {
            mistakes.add(&input.path, format_args!("an organisation has at most {CONFIGS_MAX} configs"));
        }
        (Subject::Stored(before), Some(url)) => {
            let clash = |other: &&Config| other.id != before.id && other.url.parsed() == url.parsed();
            let Some(other) = stored.iter().find(clash) else { return Ok(()) };
            let problem = format!("config {} has this URL already", other.id);
            if mistakes.is_empty() {
                return Err(Refusal::Conflict(format!("body.url: {problem}")));
            }
            mistakes.add(format_args!("{}.url", input.path), problem);
        }
        _ => {}
    }
    Ok(())
}

/// Whoever makes and deletes configs without end fills the store with those that are still known.
fn check_deleted(created: usize, deleted: usize) -> Result<(), Refusal> {
    if created == 0 || deleted < DELETED_MAX {
        return Ok(());
    }
    let problem = "deleted configs of this organisation are still known, each for 30 days; change a config instead of \
                   making another";
    Err(Refusal::Conflict(format!("body: {deleted} {problem}")))
}

/// All configs of an organisation together have a limit in bytes, by which no change may grow them.
fn check_bytes(stored: &[Config], writes: &[StoredConfig]) -> Result<(), Refusal> {
    let bytes = |config: &Config| serde_json::to_vec(config).map_or(0, |json| json.len());
    let before: usize = stored.iter().map(bytes).sum();
    let ids: HashSet<ConfigId> = writes.iter().map(StoredConfig::id).collect();
    let kept: usize = stored.iter().filter(|config| !ids.contains(&config.id)).map(bytes).sum();
    let written = writes.iter().map(|write| match write {
        StoredConfig::Config(config) => bytes(config),
        StoredConfig::Tombstone(_) => 0,
    });
    let after = kept + written.sum::<usize>();
    if after <= CONFIGS_BYTES_MAX.max(before) {
        return Ok(());
    }
    let mut mistakes = Mistakes::default();
    let problem =
        format!("all configs of an organisation take at most {CONFIGS_BYTES_MAX} bytes; these, {after}");
    mistakes.add("body", problem);
    Err(Refusal::Invalid(mistakes))
}

fn create(
    input: &ConfigInput,
    id: ConfigId,
    organisation: &OrganisationId,
    now: UnixMillis,
    mistakes: &mut Mistakes,
) -> Option<Config> {
    let secret = match &input.secret {
        SecretInput::Absent => Some(Secret::generate()),
        SecretInput::New(secret) => Some(secret.clone()),
        SecretInput::Masked => {
            let problem =
                "a masked secret, and no stored config to keep one of; send it whole or leave it out";
            mistakes.add(format_args!("{}.secret", input.path), problem);
            None
        }
    };
    let none = CustomHeaders::default();
    let headers = headers(input, &none, mistakes);
    let certificate = client_certificate(input, None, now, mistakes);
    let standard_webhooks = input.standard_webhooks.unwrap_or(false);
    check_standard_headers(input, standard_webhooks, &none, mistakes);
    Some(Config {
        id,
        organisation: organisation.clone(),
        version: 1,
        url: input.url.clone()?,
        events: input.events.clone(),
        secret: secret?,
        previous_secret: None,
        active: input.active.unwrap_or(true),
        max_retries: input.max_retries.unwrap_or(MAX_RETRIES_DEFAULT),
        retry_policy: input.retry_policy.unwrap_or_default(),
        retry_on: input.retry_on.unwrap_or_default(),
        rate_limit: input.rate_limit.unwrap_or_default(),
        http_method: input.http_method.unwrap_or_default(),
        body_format: input.body_format.unwrap_or_default(),
        entity_filters: input.entity_filters.clone().unwrap_or_default(),
        standard_webhooks,
        log_payloads: input.log_payloads.unwrap_or(true),
        client_certificate: certificate?,
        headers: headers?,
        created_at: now,
        updated_at: now,
        disabled: None,
    })
}

/// The config after the change; exactly as before, version included, where nothing changes.
fn update(input: &ConfigInput, before: &Config, now: UnixMillis, mistakes: &mut Mistakes) -> Option<Config> {
    let mut after = before.clone();
    if let Some(url) = &input.url {
        after.url = url.clone();
    }
    after.events.clone_from(&input.events);
    if let SecretInput::New(secret) = &input.secret
        && *secret != after.secret
    {
        after.secret = secret.clone();
        after.previous_secret = None;
    }
    after.active = input.active.unwrap_or(before.active);
    after.max_retries = input.max_retries.unwrap_or(before.max_retries);
    after.retry_policy = input.retry_policy.unwrap_or(before.retry_policy);
    after.retry_on = input.retry_on.unwrap_or(before.retry_on);
    after.rate_limit = input.rate_limit.unwrap_or(before.rate_limit);
    after.http_method = input.http_method.unwrap_or(before.http_method);
    after.body_format = input.body_format.unwrap_or(before.body_format);
    if let Some(filters) = &input.entity_filters {
        after.entity_filters.clone_from(filters);
    }
    after.standard_webhooks = input.standard_webhooks.unwrap_or(before.standard_webhooks);
    if let Some(certificate) = client_certificate(input, before.client_certificate.as_ref(), now, mistakes) {
        after.client_certificate = certificate;
    }
    after.log_payloads = input.log_payloads.unwrap_or(before.log_payloads);
    let is_moved = after.url.parsed().origin() != before.url.parsed().origin();
    let headers = if is_moved {
        moved_headers(input, &before.headers, mistakes)
    } else {
        headers(input, &before.headers, mistakes)
    };
    check_standard_headers(input, after.standard_webhooks, &before.headers, mistakes);
    after.headers = headers?;
    if after.active {
        after.disabled = None;
    }
    if after != *before {
        after.changed(now);
    }
    Some(after)
}

/// The headers with masks replaced by the stored values.
fn headers(input: &ConfigInput, stored: &CustomHeaders, mistakes: &mut Mistakes) -> Option<CustomHeaders> {
    let Some(given) = &input.headers else { return Some(stored.clone()) };
    let mut resolved = BTreeMap::new();
    let mut wrong = false;
    for (name, value) in given {
        let value = if value == HEADER_MASK {
            let kept = stored.as_map().iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
            let Some((_, kept)) = kept else {
                let problem = "a masked value, and none stored to keep; send it whole or leave it out";
                mistakes.add(format_args!("{}.headers.{name}", input.path), problem);
                wrong = true;
                continue;
            };
            kept
        } else {
            value
        };
        resolved.insert(name.clone(), value.clone());
    }
    let checked = mistakes.keep(format_args!("{}.headers", input.path), CustomHeaders::new(resolved));
    checked.filter(|_| !wrong)
}

/// The headers of a config whose URL moves to another origin (scheme, host, port). Stored values are credentials
/// that no answer shows: kept, they would go to whomever the new URL names. So each must be sent again.
fn moved_headers(
    input: &ConfigInput,
    stored: &CustomHeaders,
    mistakes: &mut Mistakes,
) -> Option<CustomHeaders> {
    let kept: Vec<&String> = match &input.headers {
        Some(given) => {
            given.iter().filter(|(_, value)| *value == HEADER_MASK).map(|(name, _)| name).collect()
        }
        None => stored.as_map().keys().collect(),
    };
    for name in &kept {
        let problem = "the url moves to another origin, and a stored value is not sent there; \
                       send the value whole, or send headers without it";
        mistakes.add(format_args!("{}.headers.{name}", input.path), problem);
    }
    if kept.is_empty() { headers(input, stored, mistakes) } else { None }
}

/// A custom header, given or else stored, may not stand where a header of Standard Webhooks is sent.
fn check_standard_headers(
    input: &ConfigInput,
    is_standard: bool,
    stored: &CustomHeaders,
    mistakes: &mut Mistakes,
) {
    if !is_standard {
        return;
    }
    let names = input.headers.as_ref().unwrap_or_else(|| stored.as_map()).keys();
    for name in names.filter(|name| STANDARD_HEADERS.iter().any(|taken| taken.eq_ignore_ascii_case(name))) {
        let problem = "Postrider sets this header itself where standardWebhooks is true";
        mistakes.add(format_args!("{}.headers.{name}", input.path), problem);
    }
}
