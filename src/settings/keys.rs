//! The kinds of settings that hold sealing keys: shown by their ids, never echoed in a mistake.

/// Keys as text.
pub mod list {
    use std::sync::Arc;

    use crate::domain::sealing::Keyring;

    /// The unit, for people.
    pub const UNIT: &str = "keys";
    /// What the text has to be.
    pub const EXPECTED: &str = "keys of 32 bytes in hex or base64, joined by commas; 'postrider secrets generate-key' makes one; or none";

    /// # Errors
    /// What is wrong with the text, without the text.
    pub fn parse(text: &str) -> Result<Arc<Keyring>, String> {
        if text == "none" { Ok(Arc::default()) } else { Keyring::parse(text).map(Arc::new) }
    }

    /// The keys' ids, or `none`.
    #[must_use]
    pub fn show(value: &Keyring) -> String {
        if value.is_empty() { "none".into() } else { format!("{value:?}") }
    }
}

/// Keys in a file.
pub mod file {
    use std::sync::Arc;

    use crate::domain::sealing::Keyring;
    use crate::settings::redis::KeyFile;

    /// The unit, for people.
    pub const UNIT: &str = "path";
    /// What the text has to be.
    pub const EXPECTED: &str =
        "a readable file with one key of 32 bytes a line, in hex or base64, the sealing one first; or none";
    /// Larger is no file of keys.
    const BYTES_MAX: u64 = 64 * 1024;

    /// # Errors
    /// What is wrong with the path or with the file, without its contents.
    pub fn parse(text: &str) -> Result<Option<KeyFile>, String> {
        if text == "none" {
            return Ok(None);
        }
        let cannot = |error: std::io::Error| format!("{text:?} cannot be read ({error})");
        let size = std::fs::metadata(text).map_err(cannot)?.len();
        if size > BYTES_MAX {
            return Err(format!("{text:?} has {size} bytes, which is no file of keys"));
        }
        let keys = Keyring::parse(&std::fs::read_to_string(text).map_err(cannot)?)
            .map_err(|problem| format!("{text:?}: {problem}"))?;
        if keys.is_empty() {
            return Err(format!("{text:?} holds no key"));
        }
        Ok(Some(KeyFile { path: text.into(), keys: Arc::new(keys) }))
    }

    /// The path, or `none`.
    #[must_use]
    pub fn show(value: &Option<KeyFile>) -> String {
        value.as_ref().map_or_else(|| "none".into(), |file| file.path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::{file, list};

    #[test]
    fn keys_are_shown_by_their_ids_and_files_by_their_paths() {
        let key = "ab".repeat(32);
        let shown = list::show(&list::parse(&key).unwrap());
        assert!(shown.len() < 20 && !shown.contains("abab"), "{shown}");
        assert_eq!(list::show(&list::parse("").unwrap()), "none");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let text = path.to_str().unwrap();
        assert!(file::parse(text).unwrap_err().contains("cannot be read"));
        std::fs::write(&path, "# none yet\n").unwrap();
        assert!(file::parse(text).unwrap_err().contains("no key"));
        std::fs::write(&path, &key).unwrap();
        assert_eq!(file::show(&file::parse(text).unwrap()), text);
        assert!(file::parse("none").unwrap().is_none());
    }
}
