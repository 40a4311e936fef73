//! The kinds of settings that say where something is: files that may be missing, origins of pages. Same shape as
//! the rooms of `text`.

/// A file, or none.
pub mod optional_file {
    use std::path::PathBuf;

    /// The unit, for people.
    pub const UNIT: &str = "path";
    /// What the text has to be.
    pub const EXPECTED: &str = "a path, or none";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Option<PathBuf>, String> {
        match text {
            "" => Err("is empty".into()),
            "none" => Ok(None),
            text => Ok(Some(text.into())),
        }
    }

    /// The path or `none`.
    #[must_use]
    pub fn show(value: &Option<PathBuf>) -> String {
        value.as_ref().map_or_else(|| "none".into(), |path| path.display().to_string())
    }
}

/// Origins of web pages (RFC 6454), as a browser's `Origin` header says them.
pub mod origins {
    use url::Url;

    /// The unit, for people.
    pub const UNIT: &str = "origins";
    /// What the text has to be.
    pub const EXPECTED: &str =
        "origins joined by commas, as https://console.example or http://localhost:3000";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Vec<String>, String> {
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(one).collect()
    }

    /// The origins, joined by commas.
    #[must_use]
    pub fn show(value: &[String]) -> String {
        value.join(",")
    }

    /// The header is compared byte by byte, so what is stored is what a browser sends: lower case, without a
    /// default port.
    fn one(word: &str) -> Result<String, String> {
        let url = Url::parse(word).map_err(|error| format!("{word:?} is no origin ({error})"))?;
        let web = matches!(url.scheme(), "http" | "https");
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        // No browser's origin has a star, so one would match nothing and say nothing.
        let literal = !url.host_str().is_some_and(|host| host.contains('*'));
        if web && bare && literal && url.username().is_empty() && url.password().is_none() {
            Ok(url.origin().ascii_serialization())
        } else {
            Err(format!("{word:?} is no origin"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_kept_as_browsers_send_them() {
        let read = origins::parse("https://Console.Example:443/, http://localhost:3000").unwrap();
        assert_eq!(read, ["https://console.example", "http://localhost:3000"]);
        assert_eq!(origins::parse(&origins::show(&read)).unwrap(), read);
        assert!(origins::parse("").unwrap().is_empty());
        for bad in [
            "*",
            "https://*.example",
            "console.example",
            "https://a.example/path",
            "ftp://a.example",
            "https://u:p@a.example",
        ] {
            assert!(origins::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_may_be_missing() {
        assert_eq!(optional_file::parse("none"), Ok(None));
        let path = optional_file::parse("/etc/tls/cert.pem").unwrap();
        assert_eq!(optional_file::show(&path), "/etc/tls/cert.pem");
        assert!(optional_file::parse("").is_err());
    }
}
