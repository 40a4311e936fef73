//! What the catalogue says of each known event type beyond its name: how far the platform documents it, and the
//! JSON Schema (draft 2020-12) of its `data`. The schemas lie in `schemas/`, a file a type.

/// Who chose a type's name and the fields of its `data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// The platform documents the name and the fields.
    Documented,
    /// The platform documents the name; the fields are a sensible set.
    Named,
    /// The platform documents that there is such an event; name and fields are a sensible choice.
    Proposed,
    /// Postrider publishes it itself.
    Own,
}

/// What is known of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Described {
    /// The type.
    pub(super) name: &'static str,
    /// Who chose it.
    pub(super) standing: Standing,
    /// The schema of `data`, as JSON.
    pub(super) schema: &'static str,
}

macro_rules! described {
    ($($standing:ident $name:literal,)*) => {
        &[$(Described {
            name: $name,
            standing: Standing::$standing,
            schema: include_str!(concat!("schemas/", $name, ".json")),
        }),*]
    };
}

/// One for each of [`super::ALL`], in its order.
pub(super) static DESCRIBED: &[Described] = described! {
    Documented "reward.earned",
    Proposed "reward.claimed",
    Named "reward.delivered",
    Named "reward.delivery_failed",
    Named "reward.redeemed",
    Named "reward.expired",
    Named "challenge.started",
    Named "challenge.completed",
    Proposed "challenge.recap_generated",
    Named "action.completed",
    Proposed "action.hint_revealed",
    Proposed "action.milestone_reached",
    Named "achievement.earned",
    Proposed "achievement.tier_progressed",
    Proposed "achievement.streak_milestone",
    Named "points.awarded",
    Proposed "referral.clicked",
    Proposed "referral.converted",
    Named "referral.referrer_credited",
    Named "referral.referee_credited",
    Proposed "user.created",
    Proposed "user.authenticated",
    Proposed "user.community_joined",
    Proposed "user.opted_in",
    Proposed "user.opted_out",
    Named "shop-purchase",
    Named "post-like",
    Named "post-comment",
    Named "shopify.orders_create",
    Own "webhook.config.disabled",
    Own "webhook.config.failing",
    Own "webhook.test",
};

// === impl Standing ===

impl Standing {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Documented, Self::Named, Self::Proposed, Self::Own];

    /// The word in answers and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Documented => "documented",
            Self::Named => "named",
            Self::Proposed => "proposed",
            Self::Own => "own",
        }
    }

    /// What the word means, as a part of a sentence.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Documented => "the platform documents the name and the fields",
            Self::Named => "the platform documents the name; the fields are a sensible set",
            Self::Proposed => {
                "the platform documents that there is such an event; name and fields are a sensible choice"
            }
            Self::Own => "Postrider publishes it itself",
        }
    }
}
