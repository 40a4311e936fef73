//! The kinds of settings that are not numbers: addresses, names, lists. Same shape as the rooms of `text`.

/// A Redis URL. Shown with its password masked, and never echoed in a mistake.
pub mod redis_url {
    use url::Url;

    /// The unit, for people.
    pub const UNIT: &str = "URL";
    /// What the text has to be.
    pub const EXPECTED: &str =
        "redis://[user:password@]host[:port][/db], rediss://... for TLS, unix:///path/to/socket, or embedded";
    const EMBEDDED: &str = "embedded";
    const MASK: &str = "****";

    /// # Errors
    /// What is wrong with the text, without the text: it may hold a password.
    pub fn parse(text: &str) -> Result<Option<String>, String> {
        if text.trim() == EMBEDDED {
            return Ok(None);
        }
        let url = Url::parse(text.trim()).map_err(|error| format!("is no URL ({error})"))?;
        match url.scheme() {
            "redis" | "rediss" if url.host_str().is_none_or(str::is_empty) => Err("has no host".into()),
            "unix" | "redis+unix" if url.path().len() < 2 => Err("has no path to a socket".into()),
            "redis" | "rediss" | "unix" | "redis+unix" => Ok(Some(text.trim().to_owned())),
            scheme @ ("redis+sentinel" | "redis+cluster") => Err(format!("{scheme}:// is not supported yet")),
            scheme => Err(format!("has the unknown scheme {scheme}://")),
        }
    }

    /// The URL with its password masked, or `embedded`.
    #[must_use]
    pub fn show(value: &Option<String>) -> String {
        value.as_deref().map_or_else(|| EMBEDDED.into(), mask)
    }

    /// `url` with its password masked, whether before the host or in the query of a socket's URL.
    #[must_use]
    pub fn mask(url: &str) -> String {
        let Ok(mut parsed) = Url::parse(url) else { return MASK.into() };
        if parsed.password().is_some() {
            // Refused only for URLs that cannot have a password, and this one has.
            let _ = parsed.set_password(Some(MASK));
        }
        if parsed.query().is_some() {
            let pairs: Vec<(String, String)> = parsed
                .query_pairs()
                .map(|(name, value)| {
                    let shown = if name == "pass" { MASK.into() } else { value.into_owned() };
                    (name.into_owned(), shown)
                })
                .collect();
            parsed.query_pairs_mut().clear().extend_pairs(pairs);
        }
        parsed.into()
    }
}

/// A namespace of the keyspace.
pub mod namespace {
    use crate::settings::redis::is_namespace;

    /// The unit, for people.
    pub const UNIT: &str = "text";
    /// What the text has to be.
    pub const EXPECTED: &str = "1 to 64 of A-Z a-z 0-9 _ . -";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<String, String> {
        if is_namespace(text) { Ok(text.to_owned()) } else { Err(format!("{text:?} cannot begin a key")) }
    }

    /// As it is.
    #[must_use]
    pub fn show(value: &str) -> String {
        value.to_owned()
    }
}

/// An address to listen on.
pub mod address {
    use std::net::SocketAddr;

    /// The unit, for people.
    pub const UNIT: &str = "address:port";
    /// What the text has to be.
    pub const EXPECTED: &str =
        "an IP address and a port, as 127.0.0.1:8080 or [::]:8080; port 0 takes a free one";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<SocketAddr, String> {
        text.trim().parse().map_err(|_| format!("{text:?} is no such address"))
    }

    /// `address:port`.
    #[must_use]
    pub fn show(value: &SocketAddr) -> String {
        value.to_string()
    }
}

/// A port that may be left closed.
pub mod optional_port {
    /// The unit, for people.
    pub const UNIT: &str = "port";
    /// What the text has to be.
    pub const EXPECTED: &str = "a port from 1 to 65535, or none";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Option<u16>, String> {
        match text.trim() {
            "none" => Ok(None),
            text => match text.parse() {
                Ok(port) if port > 0 => Ok(Some(port)),
                _ => Err(format!("{text:?} is no such port")),
            },
        }
    }

    /// The port or `none`.
    #[must_use]
    pub fn show(value: &Option<u16>) -> String {
        value.map_or_else(|| "none".into(), |port| port.to_string())
    }
}

/// An organisation, or nobody.
pub mod organisation {
    use crate::domain::ids::OrganisationId;

    /// The unit, for people.
    pub const UNIT: &str = "id";
    /// What the text has to be.
    pub const EXPECTED: &str = "an organisation's id, or none";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Option<OrganisationId>, String> {
        if text == "none" {
            return Ok(None);
        }
        OrganisationId::new(text).map(Some).map_err(|error| format!("{text:?} is no id ({error})"))
    }

    /// The id or `none`.
    #[must_use]
    pub fn show(value: &Option<OrganisationId>) -> String {
        value.as_ref().map_or_else(|| "none".into(), ToString::to_string)
    }
}

/// A folder.
pub mod folder {
    use std::path::PathBuf;

    /// The unit, for people.
    pub const UNIT: &str = "path";
    /// What the text has to be.
    pub const EXPECTED: &str = "a path";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<PathBuf, String> {
        if text.is_empty() { Err("is empty".into()) } else { Ok(text.into()) }
    }

    /// The path.
    #[must_use]
    pub fn show(value: &std::path::Path) -> String {
        value.display().to_string()
    }
}

/// What a replica does.
pub mod roles {
    use crate::settings::process::Roles;

    /// The unit, for people.
    pub const UNIT: &str = "list";
    /// What the text has to be.
    pub const EXPECTED: &str = "one or more of intake, retry, admin, joined by commas";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Roles, String> {
        let mut roles = Roles { intake: false, retry: false, admin: false };
        for word in text.split(',').map(str::trim) {
            match word {
                "intake" => roles.intake = true,
                "retry" => roles.retry = true,
                "admin" => roles.admin = true,
                "" => return Err("names no role, or has a comma too many".into()),
                _ => return Err(format!("{word:?} is no role")),
            }
        }
        Ok(roles)
    }

    /// The roles' names, joined by commas.
    #[must_use]
    pub fn show(value: &Roles) -> String {
        let named = [(value.intake, "intake"), (value.retry, "retry"), (value.admin, "admin")];
        let words: Vec<&str> = named.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        words.join(",")
    }
}

/// The delays between attempts.
pub mod schedule {
    use crate::domain::retry_policy::Schedule;
    use crate::settings::text::duration;

    /// The unit, for people.
    pub const UNIT: &str = "durations";
    /// What the text has to be.
    pub const EXPECTED: &str =
        "durations of at most 24h joined by commas, as 12s,148s,30m; or the word exponential";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        if text.trim() == "exponential" {
            return Ok(Schedule::Exponential);
        }
        let delays = text.split(',').map(duration::parse).collect::<Result<Vec<_>, _>>()?;
        Schedule::fixed(delays).ok_or_else(|| format!("{text:?} holds a delay above 24h"))
    }

    /// The delays, or `exponential`.
    #[must_use]
    pub fn show(value: &Schedule) -> String {
        match value {
            Schedule::Exponential => "exponential".into(),
            Schedule::Fixed(delays) => delays.iter().map(duration::show).collect::<Vec<_>>().join(","),
        }
    }
}

/// Networks.
pub mod networks {
    use ipnet::IpNet;

    /// The unit, for people.
    pub const UNIT: &str = "CIDRs";
    /// What the text has to be.
    pub const EXPECTED: &str = "networks in CIDR form, as 10.0.0.0/8 or fd00::/8";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Vec<IpNet>, String> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        words.map(|word| word.parse().map_err(|_| format!("{word:?} is no network"))).collect()
    }

    /// The networks, joined by commas.
    #[must_use]
    pub fn show(value: &[IpNet]) -> String {
        value.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

/// Which lines are logged.
pub mod log_filter {
    use tracing_subscriber::EnvFilter;

    /// The unit, for people.
    pub const UNIT: &str = "filter";
    /// What the text has to be.
    pub const EXPECTED: &str = "error, warn, info, debug, trace, or target=level pairs joined by commas";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<String, String> {
        let word = |text: &str| text.chars().all(|c| c.is_ascii_alphabetic());
        let level = |text: &str| text.parse::<tracing::level_filters::LevelFilter>().is_ok();
        // A single word that is no level would be taken for a target, and a typing error would log everything.
        if text.is_empty() || (word(text) && !level(text)) {
            return Err(format!("{text:?} is no level"));
        }
        EnvFilter::try_new(text).map_err(|error| format!("{text:?} is no filter ({error})"))?;
        Ok(text.to_owned())
    }

    /// As it is.
    #[must_use]
    pub fn show(value: &str) -> String {
        value.to_owned()
    }
}

/// The form of log lines.
pub mod log_format {
    use crate::settings::process::LogFormat;

    /// The unit, for people.
    pub const UNIT: &str = "word";
    /// What the text has to be.
    pub const EXPECTED: &str = "auto, text or json";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<LogFormat, String> {
        match text {
            "auto" => Ok(LogFormat::Auto),
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("{text:?} is none of them")),
        }
    }

    /// The word.
    #[must_use]
    pub fn show(value: &LogFormat) -> String {
        match value {
            LogFormat::Auto => "auto",
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for (url, shown) in [
            ("redis://user:hunter2@host:6379/0", "redis://user:****@host:6379/0"),
            ("rediss://:hunter2@host", "rediss://:****@host"),
            ("unix:///run/redis.sock?db=1&pass=hunter2", "unix:///run/redis.sock?db=1&pass=****"),
            ("redis://host/0", "redis://host/0"),
        ] {
            assert_eq!(redis_url::show(&redis_url::parse(url).unwrap()), shown);
        }
        for bad in ["hunter2", "http://u:hunter2@host", "redis://", "redis+sentinel://:hunter2@h", "unix:"] {
            assert!(!redis_url::parse(bad).unwrap_err().contains("hunter2"), "{bad}");
        }
        assert!(!redis_url::mask("::hunter2::").contains("hunter2"));
    }

    #[test]
    fn lists_are_read_and_shown() {
        assert_eq!(roles::show(&roles::parse("retry, intake").unwrap()), "intake,retry");
        assert!(roles::parse("").is_err() && roles::parse("intake,queen").is_err());
        assert_eq!(schedule::show(&schedule::parse("12s,148s, 30m").unwrap()), "12s,148s,30m");
        assert_eq!(schedule::show(&schedule::parse("exponential").unwrap()), "exponential");
        assert!(schedule::parse("").is_err() && schedule::parse("25h").is_err());
        assert_eq!(networks::show(&networks::parse("10.0.0.0/8,::1/128").unwrap()), "10.0.0.0/8,::1/128");
        assert!(networks::parse("10.0.0.0/33").is_err() && networks::parse("").unwrap().is_empty());
    }

    #[test]
    fn a_mistyped_level_is_not_taken_for_a_target() {
        assert!(log_filter::parse("infos").is_err());
        assert!(log_filter::parse("postrider=debug,info").is_ok());
        assert!(log_filter::parse("debug").is_ok());
    }
}
