//! The catalogue of event types that the platform documents (docs/WIRE.md section 5).
//!
//! Owns: the list that people and programs are shown, with a sample of each. It is no filter: a subscription
//! and an event are checked by shape ([`super::config::EventType`]), because the platform adds types at will.

mod described;

pub use described::Standing;
use described::{DESCRIBED, Described};

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    /// What a user gets.
    Reward,
    /// A challenge as a whole.
    Challenge,
    /// One step of a challenge.
    Action,
    /// Badges, tiers, streaks.
    Achievement,
    /// Movements of points.
    Points,
    /// One user bringing another.
    Referral,
    /// The user's profile and session.
    User,
    /// Purchases with points.
    Commerce,
    /// Posts, likes, comments.
    Social,
    /// Topics of a Shopify store, passed through.
    Shopify,
    /// What Postrider itself has to say about webhooks.
    Webhook,
}

/// A config was disabled by Postrider.
pub const CONFIG_DISABLED: &str = "webhook.config.disabled";
/// A config will be disabled unless it gets better.
pub const CONFIG_FAILING: &str = "webhook.config.failing";
/// Somebody tests a config.
pub const TEST: &str = "webhook.test";

/// An event type that the platform, or Postrider itself, documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownEvent {
    /// The type, as producers and subscriptions write it.
    pub name: &'static str,
    /// What it is about.
    pub category: Category,
    /// When it occurs.
    pub when: &'static str,
    /// A realistic `data`: a JSON object with the documented fields.
    pub sample: &'static str,
}

/// Every known event type, by category. `shopify.orders_create` stands for all of `shopify.<topic>`.
pub static ALL: &[KnownEvent] = &[
    event(
        "reward.earned",
        Category::Reward,
        "a reward was credited to a user",
        r#"{"reward":{"id":"6650aa17bd00000000000001","type":"asset","value":4,"name":"Coffee voucher"},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"challenge":{"id":"6650aa17bd00000000000003","name":"Walk to work"}}"#,
    ),
    event(
        "reward.claimed",
        Category::Reward,
        "a user claimed a reward",
        r#"{"reward":{"id":"6650aa17bd00000000000001","type":"asset","value":4,"name":"Coffee voucher"},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"claimedAt":"2026-06-12T07:35:40.000Z"}"#,
    ),
    event(
        "reward.delivered",
        Category::Reward,
        "a reward reached the user or the system that hands it out",
        r#"{"reward":{"id":"6650aa17bd00000000000001","type":"asset","value":4,"name":"Coffee voucher"},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"challenge":{"id":"6650aa17bd00000000000003","name":"Walk to work"}}"#,
    ),
    event(
        "reward.delivery_failed",
        Category::Reward,
        "handing out a reward was given up",
        r#"{"reward":{"id":"6650aa17bd00000000000001","type":"asset","value":4,"name":"Coffee voucher"},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"challenge":{"id":"6650aa17bd00000000000003","name":"Walk to work"},"error":{"code":"OUT_OF_STOCK","message":"no codes left"}}"#,
    ),
    event(
        "reward.redeemed",
        Category::Reward,
        "a reward was used up",
        r#"{"reward":{"id":"6650aa17bd00000000000001","type":"asset","value":4,"name":"Coffee voucher"},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"redemption":{"id":"6650aa17bd00000000000004","redeemedAt":"2026-06-14T16:02:11.000Z"}}"#,
    ),
    event(
        "reward.expired",
        Category::Reward,
        "a reward's time ran out before it was used",
        r#"{"reward":{"id":"6650aa17bd00000000000001","type":"entry","value":1,"name":"Prize draw"},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"expiredAt":"2026-06-30T23:59:59.000Z"}"#,
    ),
    event(
        "challenge.started",
        Category::Challenge,
        "a user began a challenge",
        r#"{"challenge":{"id":"6650aa17bd00000000000003","name":"Walk to work"},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"}}"#,
    ),
    event(
        "challenge.completed",
        Category::Challenge,
        "a user finished a challenge",
        r#"{"challenge":{"id":"6650aa17bd00000000000003","name":"Walk to work"},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"completedAt":"2026-06-12T07:31:05.000Z"}"#,
    ),
    event(
        "challenge.recap_generated",
        Category::Challenge,
        "the summary of a challenge is ready",
        r#"{"challenge":{"id":"6650aa17bd00000000000003","name":"Walk to work"},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"recap":{"id":"6650aa17bd00000000000005"}}"#,
    ),
    event(
        "action.completed",
        Category::Action,
        "a user did one action of a challenge, rightly or wrongly",
        r#"{"action":{"id":"6650aa17bd00000000000013","type":"QUIZ_MULTIPLE_CHOICE"},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"challenge":{"id":"6650aa17bd00000000000003","name":"Walk to work"},"isCorrect":true,"pointsEarned":10,"xpEarned":2,"completedAt":"2026-06-12T07:31:05.000Z"}"#,
    ),
    event(
        "action.hint_revealed",
        Category::Action,
        "a user asked for an action's hint",
        r#"{"action":{"id":"6650aa17bd00000000000013","type":"QUIZ_MULTIPLE_CHOICE"},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"challenge":{"id":"6650aa17bd00000000000003","name":"Walk to work"}}"#,
    ),
    event(
        "action.milestone_reached",
        Category::Action,
        "a repeatable action was done a set number of times",
        r#"{"action":{"id":"6650aa17bd00000000000014","type":"CHECK_IN"},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"milestone":{"count":10}}"#,
    ),
    event(
        "achievement.earned",
        Category::Achievement,
        "a user unlocked an achievement or a tier of one",
        r#"{"achievement":{"id":"6650aa17bd00000000000006","name":"Early bird","tier":"silver"},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"}}"#,
    ),
    event(
        "achievement.tier_progressed",
        Category::Achievement,
        "a user moved towards an achievement's next tier",
        r#"{"achievement":{"id":"6650aa17bd00000000000006","name":"Early bird","tier":"gold"},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"}}"#,
    ),
    event(
        "achievement.streak_milestone",
        Category::Achievement,
        "a streak grew to a milestone",
        r#"{"achievement":{"id":"6650aa17bd00000000000007","name":"Daily visit"},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"streak":{"days":30}}"#,
    ),
    event(
        "points.awarded",
        Category::Points,
        "a user's points changed, up or down",
        r#"{"points":{"delta":-150,"balance":1240},"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"source":"shop"}"#,
    ),
    event(
        "referral.clicked",
        Category::Referral,
        "a referral link was opened",
        r#"{"referral":{"id":"6650aa17bd00000000000008"},"referrer":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"}}"#,
    ),
    event(
        "referral.converted",
        Category::Referral,
        "a referred person did what the referral asks for",
        r#"{"referral":{"id":"6650aa17bd00000000000008"},"referrer":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"referee":{"id":"6650aa17bd00000000000009","externalUserId":"crm-2210"}}"#,
    ),
    event(
        "referral.referrer_credited",
        Category::Referral,
        "the user who referred got the reward for it",
        r#"{"referral":{"id":"6650aa17bd00000000000008"},"referrer":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"referee":{"id":"6650aa17bd00000000000009","externalUserId":"crm-2210"},"reward":{"id":"6650aa17bd0000000000000a","type":"asset","value":10,"name":"Thank you"}}"#,
    ),
    event(
        "referral.referee_credited",
        Category::Referral,
        "the user who was referred got the welcome reward",
        r#"{"referral":{"id":"6650aa17bd00000000000008"},"referrer":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"referee":{"id":"6650aa17bd00000000000009","externalUserId":"crm-2210"},"reward":{"id":"6650aa17bd0000000000000b","type":"asset","value":5,"name":"Welcome"}}"#,
    ),
    event(
        "user.created",
        Category::User,
        "a user's profile came to be",
        r#"{"user":{"id":"6650aa17bd00000000000009","externalUserId":"crm-2210"}}"#,
    ),
    event(
        "user.authenticated",
        Category::User,
        "a user logged in",
        r#"{"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"method":"email"}"#,
    ),
    event(
        "user.community_joined",
        Category::User,
        "a user became a member of a community",
        r#"{"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"community":{"id":"6650aa17bd00000000000012","name":"Walkers"}}"#,
    ),
    event(
        "user.opted_in",
        Category::User,
        "a user agreed to be contacted",
        r#"{"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"channel":"email"}"#,
    ),
    event(
        "user.opted_out",
        Category::User,
        "a user withdrew that agreement",
        r#"{"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"channel":"email"}"#,
    ),
    event(
        "shop-purchase",
        Category::Commerce,
        "a user bought something with points",
        r#"{"userId":"6650aa17bd00000000000002","purchaseId":"6650aa17bd0000000000000c","pointsSpent":150,"items":[{"id":"6650aa17bd0000000000000d","quantity":1}]}"#,
    ),
    event(
        "post-like",
        Category::Social,
        "a user liked a post; taking the like back is no event",
        r#"{"postId":"6650aa17bd0000000000000e","userId":"6650aa17bd00000000000002"}"#,
    ),
    event(
        "post-comment",
        Category::Social,
        "a user commented on a post",
        r#"{"postId":"6650aa17bd0000000000000e","commentId":"6650aa17bd0000000000000f","userId":"6650aa17bd00000000000002"}"#,
    ),
    event(
        "shopify.orders_create",
        Category::Shopify,
        "a store's topic was passed through as it came",
        r#"{"user":{"id":"6650aa17bd00000000000002","externalUserId":"crm-1047"},"shopify":{"id":820982911946154508,"currency":"EUR","total_price":"24.90","line_items":[{"sku":"WALK-1","quantity":2}]}}"#,
    ),
    event(
        CONFIG_DISABLED,
        Category::Webhook,
        "Postrider disabled a config: its receiver answered 410, or nothing but failures came for days",
        r#"{"config":{"id":"9b1d04c57ea2f3180000002f","host":"receiver.example"},"organisationId":"org_1","reason":"failing","disabledAt":"2026-06-17T07:31:05.000Z","failingSince":"2026-06-12T07:31:05.000Z","attempts":1440}"#,
    ),
    event(
        CONFIG_FAILING,
        Category::Webhook,
        "nothing but failures came from a config for half, or nine tenths, of the time that disables it",
        r#"{"config":{"id":"9b1d04c57ea2f3180000002f","host":"receiver.example"},"organisationId":"org_1","reason":"HTTP 503","failingSince":"2026-06-12T07:31:05.000Z","attempts":720,"disableAt":"2026-06-17T07:31:05.000Z"}"#,
    ),
    event(
        TEST,
        Category::Webhook,
        "somebody tests a config by hand, and names no other type",
        r#"{"message":"A test event of Postrider."}"#,
    ),
];

/// Hyphenated names of the platform's older vocabulary, and the dotted name of the same occurrence.
pub static ALIASES: &[(&str, &str)] = &[
    ("challenge-started", "challenge.started"),
    ("challenge-completion", "challenge.completed"),
    ("action-participation", "action.completed"),
    ("reward-distribution", "reward.earned"),
    ("reward-claim", "reward.claimed"),
    ("reward-redemption", "reward.redeemed"),
    ("achievement-completion", "achievement.earned"),
    ("streak-extended", "achievement.streak_milestone"),
    ("auth.email", "user.authenticated"),
];

/// The known events that producers publish: all but Postrider's own.
pub fn of_producers() -> impl Iterator<Item = &'static KnownEvent> + Clone {
    ALL.iter().filter(|known| known.category != Category::Webhook)
}

/// The known event type with this name, exactly; aliases are not followed.
#[must_use]
pub fn find(name: &str) -> Option<&'static KnownEvent> {
    ALL.iter().find(|known| known.name == name)
}

/// The sample `data` of the known event type with this name, a JSON object; aliases are followed.
#[must_use]
pub fn sample(name: &str) -> Option<&'static str> {
    let canonical = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, dotted)| dotted);
    find(canonical).map(|known| known.sample)
}

// === impl KnownEvent ===

impl KnownEvent {
    /// The JSON Schema (draft 2020-12) of `data`, as JSON. Fields may be added; it limits nothing that is sent.
    #[must_use]
    pub fn schema(&self) -> &'static str {
        self.described().map_or("{}", |described| described.schema)
    }

    /// Who chose its name and fields.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.described().map_or(Standing::Own, |described| described.standing)
    }

    /// Hyphenated names of the same occurrence.
    pub fn aliases(&self) -> impl Iterator<Item = &'static str> {
        let name = self.name;
        ALIASES.iter().filter(move |(_, dotted)| *dotted == name).map(|(alias, _)| *alias)
    }

    fn described(&self) -> Option<&'static Described> {
        DESCRIBED.iter().find(|described| described.name == self.name)
    }
}

const fn event(
    name: &'static str,
    category: Category,
    when: &'static str,
    sample: &'static str,
) -> KnownEvent {
    KnownEvent { name, category, when, sample }
}

// === impl Category ===

impl Category {
    /// All categories.
    pub const ALL: [Self; 11] = [
        Self::Reward,
        Self::Challenge,
        Self::Action,
        Self::Achievement,
        Self::Points,
        Self::Referral,
        Self::User,
        Self::Commerce,
        Self::Social,
        Self::Shopify,
        Self::Webhook,
    ];

    /// The word in tables and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reward => "reward",
            Self::Challenge => "challenge",
            Self::Action => "action",
            Self::Achievement => "achievement",
            Self::Points => "points",
            Self::Referral => "referral",
            Self::User => "user",
            Self::Commerce => "commerce",
            Self::Social => "social",
            Self::Shopify => "shopify",
            Self::Webhook => "webhook",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::config::EventType;
    use crate::domain::event::{JsonScratch, check_data};

    /// The rows of the first table under a heading of docs/WIRE.md, cells trimmed of blanks and backticks.
    fn table_under(heading: &str) -> Vec<Vec<String>> {
        let text = include_str!("../../docs/WIRE.md");
        let section = text.split_once(&format!("\n{heading}\n")).expect("the heading stands in WIRE.md").1;
        section
            .lines()
            .skip_while(|line| !line.starts_with('|'))
            .take_while(|line| line.starts_with('|'))
            .skip(2) // The head and the rule below it.
            .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect())
            .collect()
    }

    #[test]
    fn every_sample_is_data_that_a_producer_could_send() {
        for known in ALL {
            assert_eq!(check_data(known.sample.as_bytes(), &mut JsonScratch::default()), Ok(()), "{known:?}");
            let value: serde_json::Value = serde_json::from_str(known.sample).expect("JSON");
            assert!(value.as_object().is_some_and(|fields| !fields.is_empty()), "{}", known.name);
        }
    }

    #[test]
    fn every_sample_fits_its_schema_and_what_lacks_a_field_does_not() {
        let described: Vec<&str> = DESCRIBED.iter().map(|described| described.name).collect();
        assert_eq!(described, ALL.iter().map(|known| known.name).collect::<Vec<_>>());
        for known in ALL {
            let schema: serde_json::Value = serde_json::from_str(known.schema()).expect("JSON");
            assert!(jsonschema::meta::is_valid(&schema), "{}", known.name);
            assert_eq!((&schema["title"], &schema["type"]), (&known.name.into(), &"object".into()));
            let options = jsonschema::options().should_validate_formats(true);
            let validator = options.build(&schema).expect("a schema");
            let mut sample: serde_json::Value = serde_json::from_str(known.sample).expect("JSON");
            let faults: Vec<String> = validator.iter_errors(&sample).map(|e| e.to_string()).collect();
            assert!(faults.is_empty(), "{}: {faults:?}", known.name);
            let properties = schema["properties"].as_object().expect("properties");
            let unknown =
                sample.as_object().into_iter().flatten().find(|(name, _)| !properties.contains_key(*name));
            assert_eq!(unknown, None, "{}: its schema does not describe a field of its sample", known.name);
            let required = schema["required"][0].as_str().expect("a required field");
            sample.as_object_mut().and_then(|fields| fields.remove(required)).expect("it is in the sample");
            assert!(!validator.is_valid(&sample), "{} without {required}", known.name);
        }
        assert_eq!(sample("reward-claim"), sample("reward.claimed"));
        assert!(sample("reward.claimed").is_some() && sample("reward.nothing").is_none());
    }

    #[test]
    fn names_have_the_shape_and_occur_once() {
        let mut seen = BTreeSet::new();
        for known in ALL {
            assert!(EventType::has_shape(known.name), "{}", known.name);
            assert!(seen.insert(known.name), "{} is listed twice", known.name);
            assert_eq!(find(known.name), Some(known));
        }
        for (alias, name) in ALIASES {
            assert!(EventType::has_shape(alias) && find(name).is_some(), "{alias} -> {name}");
            assert!(seen.insert(alias), "{alias} is listed twice");
        }
        assert_eq!(find("reward.nothing"), None);
    }

    #[test]
    fn the_documented_tables_list_exactly_these() {
        let documented = table_under("### Known events");
        let ours: Vec<Vec<String>> =
            ALL.iter().map(|known| vec![known.name.into(), known.category.as_str().into()]).collect();
        assert_eq!(documented.iter().map(|row| row[..2].to_vec()).collect::<Vec<_>>(), ours);
        let aliases: Vec<Vec<String>> =
            ALIASES.iter().map(|(alias, name)| vec![(*alias).into(), (*name).into()]).collect();
        assert_eq!(table_under("### Hyphenated names"), aliases);
    }
}
