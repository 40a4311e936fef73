//! Reads the settings: file, then environment, then flags, each over the one before. Every mistake in all of
//! them is gathered and reported at once, also one in a value that a later source replaces.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rules::{self, CONNECT_TIMEOUT_MIN};
use super::table::{Setting, TABLE};
use super::{Settings, egress, otlp};

/// Where values come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--settings`, or `POSTRIDER_SETTINGS` where the flag is not given.
    pub file: Option<PathBuf>,
    /// Variables of the environment; those that do not begin with `POSTRIDER_` are not looked at.
    pub environment: BTreeMap<String, String>,
    /// A flag's name without `--`, and its value; a repeated flag's values joined by commas.
    pub flags: BTreeMap<&'static str, String>,
}

/// Where one value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the default.
    Default,
    /// The file.
    File,
    /// The environment.
    Environment,
    /// A flag.
    Flag,
}

/// Valid settings and where they came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Where each setting that is not at its default came from.
    origins: BTreeMap<&'static str, Origin>,
    /// What is probably not meant, though no mistake: variables of the environment that name no setting.
    pub warnings: Vec<String>,
}

/// One mistake: where it stands, what was wrong, what is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The place as its writer knows it: `flag --lease`, `environment POSTRIDER_LEASE`, `file x.toml [redis] lease`.
    pub place: String,
    /// What was wrong.
    pub problem: String,
    /// What is expected.
    pub expected: String,
}

/// All mistakes of one reading; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

/// What is gathered while reading.
struct Reading<'a> {
    sources: &'a Sources,
    settings: Settings,
    origins: BTreeMap<&'static str, Origin>,
    mistakes: Vec<Mistake>,
    /// Settings with a mistake: rules about them would only repeat it.
    mistaken: Vec<&'static str>,
}

/// Variables that are not settings: those of the commands that speak HTTP, and the file's path.
const OTHER_VARIABLES: [&str; 6] = [
    "POSTRIDER_SETTINGS",
    "POSTRIDER_URL",
    "POSTRIDER_TOKEN",
    "POSTRIDER_ORGANISATION",
    "POSTRIDER_DEDUPE_REDIS_URL",
    "POSTRIDER_RECEIVE_SECRET",
];

/// The settings that have a variable of a standard beside their own.
const OTLP_ENDPOINT: &str = "otlp-endpoint";
const OTLP_HEADERS: &str = "otlp-headers";

// === impl Sources ===

impl Sources {
    /// Reads everything.
    ///
    /// # Errors
    /// Every mistake.
    pub fn load(&self) -> Result<Loaded, Mistakes> {
        let mut reading = Reading {
            sources: self,
            settings: Settings::default(),
            origins: BTreeMap::new(),
            mistakes: Vec::new(),
            mistaken: Vec::new(),
        };
        if let Some(path) = &self.file {
            reading.file(path);
        }
        reading.environment();
        reading.flags();
        reading.standard_headers();
        reading.derive();
        reading.rules();
        if reading.mistakes.is_empty() {
            let Reading { settings, origins, .. } = reading;
            Ok(Loaded { settings, origins, warnings: self.unknown_variables() })
        } else {
            Err(Mistakes(reading.mistakes))
        }
    }

    /// Unknown variables are no mistake: an orchestrator sets some by itself for a service called postrider
    /// (`POSTRIDER_PORT`, `POSTRIDER_SERVICE_HOST`...). Those are not even named.
    fn unknown_variables(&self) -> Vec<String> {
        let service_link =
            |name: &str| name.contains("_SERVICE_") || name.contains("_PORT_") || name == "POSTRIDER_PORT";
        let known = |name: &str| {
            OTHER_VARIABLES.contains(&name) || TABLE.iter().any(|setting| setting.environment() == name)
        };
        self.environment
            .keys()
            .filter(|name| name.starts_with("POSTRIDER_") && !known(name) && !service_link(name))
            .map(|name| format!("environment {name} names no setting{}", did_you_mean(name)))
            .collect()
    }
}

// === impl Loaded ===

impl Loaded {
    /// Where a setting's value came from.
    #[must_use]
    pub fn origin(&self, setting: &Setting) -> Origin {
        self.origins.get(setting.name).copied().unwrap_or(Origin::Default)
    }
}

// === impl Reading ===

impl Reading<'_> {
    fn file(&mut self, path: &Path) {
        let place = format!("file {}", path.display());
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                return self.mistake(place, format!("cannot be read ({error})"), "a readable file");
            }
        };
        let sections: toml::Table = match text.parse() {
            Ok(sections) => sections,
            Err(error) => {
                // The parser's own text quotes the line, which may hold a password.
                let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
                let problem = format!("line {line} is no TOML ({})", error.message());
                return self.mistake(place, problem, "TOML as in docs/OPERATIONS.md");
            }
        };
        for (section, content) in &sections {
            let known = TABLE.iter().any(|setting| setting.section == section);
            match content {
                toml::Value::Table(keys) if known => {
                    for (key, value) in keys {
                        self.file_key(&place, section, key, value);
                    }
                }
                _ => self.unknown_section(&place, section),
            }
        }
    }

    fn unknown_section(&mut self, place: &str, section: &str) {
        let hint = match Setting::named(section) {
            Some(setting) => format!("to stand in the section [{}]", setting.section),
            None => {
                "one of the sections [redis], [process], [admin], [delivery], [health], [limits], [retention]"
                    .into()
            }
        };
        self.mistake(format!("{place} {section}"), "is no section".into(), &hint);
    }

    fn file_key(&mut self, place: &str, section: &str, key: &str, value: &toml::Value) {
        let place = format!("{place} [{section}] {key}");
        let Some(setting) = Setting::named(key) else {
            let hint = did_you_mean(key);
            return self.mistake(place, format!("is no setting{hint}"), "a name that `settings print` lists");
        };
        if setting.section != section {
            let hint = format!("it in the section [{}]", setting.section);
            return self.mistake(place, "stands in the wrong section".into(), &hint);
        }
        match text_of(value) {
            Some(text) => self.take(setting, place, &text, Origin::File),
            None => self.wrong(setting, place, "holds a table, a date or a nested list".into()),
        }
    }

    fn environment(&mut self) {
        for setting in TABLE {
            let name = setting.environment();
            // An empty variable is how many tools write "not set".
            if let Some(text) = self.sources.environment.get(&name).filter(|text| !text.is_empty()) {
                self.take(setting, format!("environment {name}"), text, Origin::Environment);
            }
        }
        self.standard_collector();
    }

    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, which a platform sets for all of its programs. So a value that is none of ours
    /// (a collector that speaks gRPC) is left alone, and keeps nothing from starting.
    fn standard_collector(&mut self) {
        let variable = |name: &str| self.sources.environment.get(name).filter(|text| !text.is_empty());
        let grpc = variable("OTEL_EXPORTER_OTLP_PROTOCOL").is_some_and(|protocol| protocol == "grpc");
        let given = self.origins.contains_key(OTLP_ENDPOINT) || self.mistaken.contains(&OTLP_ENDPOINT);
        if let Some(text) = variable("OTEL_EXPORTER_OTLP_ENDPOINT").filter(|_| !given && !grpc)
            && let Ok(Some(url)) = egress::otlp_endpoint::parse(text)
        {
            self.settings.process.otlp_endpoint = Some(url);
            self.origins.insert(OTLP_ENDPOINT, Origin::Environment);
        }
    }

    fn flags(&mut self) {
        for setting in TABLE {
            if let Some(text) = self.sources.flags.get(setting.name) {
                self.take(setting, format!("flag --{}", setting.name), text, Origin::Flag);
            }
        }
    }

    /// `OTEL_EXPORTER_OTLP_HEADERS`, where spans are exported: elsewhere it is nothing of ours. It holds secrets, so no
    /// mistake shows it.
    fn standard_headers(&mut self) {
        const VARIABLE: &str = "OTEL_EXPORTER_OTLP_HEADERS";
        let given = self.origins.contains_key(OTLP_HEADERS) || self.mistaken.contains(&OTLP_HEADERS);
        let text = self.sources.environment.get(VARIABLE).filter(|text| !text.is_empty());
        let Some(text) = text.filter(|_| !given && self.settings.process.otlp_endpoint.is_some()) else {
            return;
        };
        match otlp::headers::parse(text) {
            Ok(headers) => {
                self.settings.process.otlp_headers = headers;
                self.origins.insert(OTLP_HEADERS, Origin::Environment);
            }
            Err(problem) => self.mistake(format!("environment {VARIABLE}"), problem, otlp::headers::EXPECTED),
        }
    }

    fn take(&mut self, setting: &'static Setting, place: String, text: &str, origin: Origin) {
        match (setting.take)(&mut self.settings, text) {
            Ok(()) => {
                self.origins.insert(setting.name, origin);
            }
            Err(problem) => self.wrong(setting, place, problem),
        }
    }

    /// Defaults that follow another setting; valid ones, so that a mistake in that other is told once.
    fn derive(&mut self) {
        let given = |name| self.origins.contains_key(name);
        let (drain, connect) = (given("drain-timeout"), given("connect-timeout"));
        let (per_config, answer) = (given("config-in-flight-max"), given("admin-request-timeout"));
        let Settings { admin, delivery, limits, .. } = &mut self.settings;
        if !answer {
            admin.request_timeout =
                admin.request_timeout.max(rules::least_admin_timeout(delivery.request_timeout));
        }
        if !drain {
            delivery.drain_timeout = delivery.request_timeout.saturating_add(Duration::from_secs(5));
        }
        if !connect {
            delivery.connect_timeout =
                delivery.connect_timeout.min(delivery.request_timeout).max(CONNECT_TIMEOUT_MIN);
        }
        if !per_config {
            limits.config_in_flight_max = limits.config_in_flight_max.min(limits.in_flight_max).max(1);
        }
    }

    fn rules(&mut self) {
        for broken in rules::check(&self.settings) {
            let untrustworthy = broken.about.iter().any(|name| self.mistaken.contains(name));
            if let (false, Some(setting)) = (untrustworthy, Setting::named(broken.about[0])) {
                let place = self.place_of(setting);
                let problem = format!("is {}", (setting.show)(&self.settings));
                self.mistake(place, problem, &broken.expected);
                self.mistaken.push(setting.name);
            }
        }
    }

    fn place_of(&self, setting: &Setting) -> String {
        match self.origins.get(setting.name) {
            Some(Origin::File) => {
                let path = self.sources.file.as_deref().unwrap_or(Path::new("")).display();
                format!("file {path} [{}] {}", setting.section, setting.name)
            }
            Some(Origin::Environment) => format!("environment {}", setting.environment()),
            Some(Origin::Flag) => format!("flag --{}", setting.name),
            Some(Origin::Default) | None => format!("default of {}", setting.name),
        }
    }

    fn wrong(&mut self, setting: &'static Setting, place: String, problem: String) {
        self.mistaken.push(setting.name);
        self.mistake(place, problem, setting.expected);
    }

    fn mistake(&mut self, place: String, problem: String, expected: &str) {
        self.mistakes.push(Mistake { place, problem, expected: expected.to_owned() });
    }
}

// === impl Origin ===

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        })
    }
}

// === impl Mistakes ===

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "1 mistake in the settings:")?,
            count => write!(f, "{count} mistakes in the settings:")?,
        }
        for Mistake { place, problem, expected } in &self.0 {
            write!(f, "\n  {place}: {problem}; expected {expected}")?;
        }
        Ok(())
    }
}

/// A value of the file as the text that a flag would hold; a list's values joined by commas.
fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(yes) => Some(yes.to_string()),
        toml::Value::Array(values) => {
            let scalar = |value: &toml::Value| (!value.is_array()).then(|| text_of(value)).flatten();
            values.iter().map(scalar).collect::<Option<Vec<_>>>().map(|texts| texts.join(","))
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// The setting whose name is that of `name` but for case, `_` and the prefix, or that differs in few letters.
fn did_you_mean(name: &str) -> String {
    let plain = name.to_lowercase().replace('_', "-");
    let plain = plain.strip_prefix("postrider-").unwrap_or(&plain);
    let nearest = TABLE.iter().map(|s| (distance(plain, s.name), s)).min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((distance, setting)) if distance <= 2 && name.starts_with("POSTRIDER_") => {
            format!(" (did you mean {}?)", setting.environment())
        }
        Some((distance, setting)) if distance <= 2 => format!(" (did you mean {}?)", setting.name),
        _ => String::new(),
    }
}

/// Letters to insert, drop or exchange to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let exchanged = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = exchanged.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
