//! The order of the sources, and mistakes in every one of them.

use super::*;
use crate::settings::table::Form;

/// Reads a file with this text, these variables and these flags.
fn load(
    file: Option<&str>,
    environment: &[(&str, &str)],
    flags: &[(&'static str, &str)],
) -> Result<Loaded, Mistakes> {
    let directory = tempfile::tempdir().unwrap();
    let file = file.map(|text| {
        let path = directory.path().join("postrider.toml");
        std::fs::write(&path, text).unwrap();
        path
    });
    sources(file, environment, flags).load()
}

fn sources(file: Option<PathBuf>, environment: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Sources {
    Sources {
        file,
        environment: environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        flags: flags.iter().map(|(n, v)| (*n, (*v).to_owned())).collect(),
    }
}

fn origin(loaded: &Loaded, name: &str) -> Origin {
    loaded.origin(Setting::named(name).unwrap())
}

#[test]
fn file_is_below_environment_is_below_flags() {
    let file = "[redis]\nlease = \"11s\"\nshards = 2\nnamespace = \"file\"";
    let environment = [("POSTRIDER_LEASE", "12s"), ("POSTRIDER_SHARDS", "3"), ("POSTRIDER_NAMESPACE", "")];
    let loaded = load(Some(file), &environment, &[("lease", "13s")]).unwrap();
    assert_eq!(loaded.settings.redis.lease, Duration::from_secs(13));
    assert_eq!(loaded.settings.redis.shards, 3);
    assert_eq!(loaded.settings.redis.namespace, "file");
    assert_eq!(
        ["lease", "shards", "namespace", "listen"].map(|name| origin(&loaded, name)),
        [Origin::Flag, Origin::Environment, Origin::File, Origin::Default]
    );
}

#[test]
fn every_mistake_is_reported_at_once() {
    let file = "[redis]\nleese = 1\nlease = 10\nlisten = \"127.0.0.1:1\"\n[moon]\nx = 1\n";
    let environment = [("POSTRIDER_SHARDS", "65"), ("POSTRIDER_ROLES", "queen")];
    let flags = [("connect-timeout", "31s"), ("redis-url", "http://u:hunter2@h"), ("lease", "2s")];
    let Mistakes(mistakes) = load(Some(file), &environment, &flags).unwrap_err();
    let text = Mistakes(mistakes.clone()).to_string();
    for part in [
        "[redis] leese: is no setting (did you mean lease?)",
        "[redis] lease: \"10\" has no unit; expected a whole number with ms, s",
        "[redis] listen: stands in the wrong section; expected it in the section [process]",
        "moon: is no section",
        "environment POSTRIDER_SHARDS: is 65; expected 1 to 64",
        "environment POSTRIDER_ROLES: \"queen\" is no role",
        "flag --connect-timeout: is 31s; expected at most request-timeout",
        "flag --redis-url: has the unknown scheme http://",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert_eq!(mistakes.len(), 8, "{text}");
    assert!(!text.contains("hunter2"));
}

#[test]
fn a_file_that_cannot_be_used_hides_no_other_mistake() {
    let flags = [("lease", "1")];
    let text = load(Some("[redis\nurl = \"redis://:hunter2@h\""), &[], &flags).unwrap_err().to_string();
    assert!(text.contains("line 1 is no TOML") && text.contains("flag --lease"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    let missing = Some("/nowhere/postrider.toml".into());
    let text = sources(missing, &[], &flags).load().unwrap_err().to_string();
    assert!(
        text.contains("/nowhere/postrider.toml: cannot be read") && text.contains("flag --lease"),
        "{text}"
    );
}

#[test]
fn a_wrong_value_is_not_reported_a_second_time_by_a_rule() {
    let flags = [("connect-timeout", "40s"), ("request-timeout", "soon")];
    let Mistakes(mistakes) = load(None, &[], &flags).unwrap_err();
    assert_eq!(mistakes.len(), 1);
    assert_eq!(mistakes[0].place, "flag --request-timeout");
    let flags = [("in-flight-max", "0"), ("request-timeout", "0s")];
    let Mistakes(mistakes) = load(None, &[], &flags).unwrap_err();
    let places: Vec<&str> = mistakes.iter().map(|mistake| mistake.place.as_str()).collect();
    assert_eq!(places, ["flag --request-timeout", "flag --in-flight-max"]);
}

#[test]
fn defaults_follow_what_they_belong_to() {
    let loaded = load(None, &[], &[("request-timeout", "2s"), ("in-flight-max", "16")]).unwrap();
    let Settings { delivery, limits, .. } = loaded.settings;
    assert_eq!(delivery.drain_timeout, Duration::from_secs(7));
    assert_eq!(delivery.connect_timeout, Duration::from_secs(2));
    assert_eq!(limits.config_in_flight_max, 16);
    let set = [("request-timeout", "2s"), ("drain-timeout", "1s")];
    assert_eq!(load(None, &[], &set).unwrap().settings.delivery.drain_timeout.as_secs(), 1);
}

#[test]
fn the_file_takes_lists_numbers_and_booleans() {
    let file = "[delivery]\nallow-target = [\"10.0.0.0/8\", \"::1/128\"]\nallow-http = true\n\
                retry-schedule = [\"1s\", \"2s\"]\n[process]\nroles = [\"retry\"]\nembedded-redis-port = 7000\n";
    let settings = load(Some(file), &[], &[]).unwrap().settings;
    assert_eq!(settings.delivery.allow_targets.len(), 2);
    assert!(settings.delivery.allow_http && settings.process.roles.retry && !settings.process.roles.intake);
    assert_eq!(settings.delivery.schedule.base_delay(2), Duration::from_secs(2));
    assert_eq!(settings.process.embedded_redis_port, Some(7000));
}

#[test]
fn variables_that_name_no_setting_are_named_unless_an_orchestrator_set_them() {
    let environment = [
        ("POSTRIDER_LEESE", "1s"),
        ("POSTRIDER_PORT", "tcp://10.0.0.1:80"),
        ("POSTRIDER_SERVICE_HOST", "10.0.0.1"),
        ("POSTRIDER_TOKEN", "t"),
        ("HOME", "/"),
    ];
    let loaded = load(None, &environment, &[]).unwrap();
    assert_eq!(
        loaded.warnings,
        ["environment POSTRIDER_LEESE names no setting (did you mean POSTRIDER_LEASE?)"]
    );
}

#[test]
fn every_default_is_valid_and_comes_back_from_its_text() {
    assert!(rules::check(&Settings::default()).is_empty());
    for setting in TABLE {
        let text = setting.default_text();
        let mut settings = Settings::default();
        (setting.take)(&mut settings, &text).unwrap();
        assert_eq!((setting.show)(&settings), text, "{}", setting.name);
        assert!(!setting.reason.is_empty() && setting.reason.ends_with('.'), "{}", setting.name);
        assert_eq!(
            setting.form == Form::Switch,
            matches!(text.as_str(), "true" | "false"),
            "{}",
            setting.name
        );
        let same = |other: &&Setting| other.name == setting.name;
        assert_eq!(TABLE.iter().filter(same).count(), 1, "{} has two rows", setting.name);
    }
}

#[test]
fn the_standards_variable_names_a_collector_where_ours_does_not() {
    const STANDARD: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let collector = |environment: &[(&str, &str)], flags: &[(&'static str, &str)]| {
        let url = load(None, environment, flags).unwrap().settings.process.otlp_endpoint;
        url.map(|url| url.to_string())
    };
    let platform = (STANDARD, "http://collector:4318");
    assert_eq!(collector(&[], &[]), None);
    assert_eq!(collector(&[platform], &[]).as_deref(), Some("http://collector:4318/"));
    let own = [platform, ("POSTRIDER_OTLP_ENDPOINT", "http://own:4318")];
    assert_eq!(collector(&own, &[]).as_deref(), Some("http://own:4318/"));
    assert_eq!(collector(&[platform], &[("otlp-endpoint", "none")]), None);
    assert_eq!(collector(&[platform, ("POSTRIDER_OTLP_ENDPOINT", "none")], &[]), None);
    assert_eq!(collector(&[platform, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], &[]), None);
    assert_eq!(collector(&[(STANDARD, "collector:4317")], &[]), None, "not ours: no mistake");
    let mistakes = load(None, &[("POSTRIDER_OTLP_ENDPOINT", "collector:4317"), platform], &[]).unwrap_err();
    assert_eq!(mistakes.0.len(), 1, "{mistakes}");
}

#[test]
fn the_standards_headers_are_taken_where_spans_are_exported_and_no_mistake_shows_them() {
    const STANDARD: &str = "OTEL_EXPORTER_OTLP_HEADERS";
    let collector = ("POSTRIDER_OTLP_ENDPOINT", "http://collector:4318");
    let names = |environment: &[(&str, &str)]| {
        let loaded = load(None, environment, &[]).unwrap();
        (Setting::named("otlp-headers").unwrap().show)(&loaded.settings)
    };
    let platform = (STANDARD, "authorization=Bearer%20hunter2");
    assert_eq!(names(&[collector, platform]), "authorization=****");
    assert_eq!(names(&[platform]), "none", "without a collector nothing of ours");
    assert_eq!(names(&[(STANDARD, "hunter2")]), "none", "and no mistake of ours either");
    assert_eq!(names(&[collector, platform, ("POSTRIDER_OTLP_HEADERS", "x-key=hunter2")]), "x-key=****");
    assert_eq!(names(&[collector, platform, ("POSTRIDER_OTLP_HEADERS", "none")]), "none");
    for name in [STANDARD, "POSTRIDER_OTLP_HEADERS"] {
        let mistakes = load(None, &[collector, (name, "a=1,hunter2")], &[]).unwrap_err();
        let text = mistakes.to_string();
        let wanted = format!("environment {name}: pair 2 has no '='; expected name=value pairs");
        assert!(mistakes.0.len() == 1 && text.contains(&wanted) && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_request_of_the_admin_api_may_take_longer_than_an_attempt() {
    let of = |flags: &[(&'static str, &str)]| {
        load(None, &[], flags).map(|loaded| loaded.settings.admin.request_timeout.as_secs())
    };
    assert_eq!(of(&[]).unwrap(), 60);
    assert_eq!(of(&[("request-timeout", "55s")]).unwrap(), 65, "the default follows");
    assert_eq!(of(&[("request-timeout", "2s"), ("admin-request-timeout", "12s")]).unwrap(), 12);
    for (request, admin) in [("30s", "39s"), ("2s", "11999ms"), ("51s", "60s")] {
        let mistakes = of(&[("request-timeout", request), ("admin-request-timeout", admin)]).unwrap_err();
        let text = mistakes.to_string();
        let wanted = format!(
            "flag --admin-request-timeout: is {admin}; expected at least 10s over request-timeout, for a test waits"
        );
        assert!(mistakes.0.len() == 1 && text.contains(&wanted.replace("60s", "1m")), "{text}");
    }
}
