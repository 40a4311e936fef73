//! The kinds of settings that say by which way deliveries, and spans, leave. Same shape as the rooms of `text`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use rustls::pki_types::CertificateDer;
use url::Url;

/// A forward proxy for deliveries. Shown with its password masked.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(Url);

/// Where deliveries go without the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoProxy(Vec<Exempt>);

/// One entry of the no-proxy list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exempt {
    /// `*`
    Everything,
    /// Literal addresses in this network.
    Network(IpNet),
    /// This name.
    Name(String),
    /// Names under this one, which begins with its dot.
    Under(String),
}

/// Certificate authorities that are trusted beside the system's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaFile {
    /// Where they were read from.
    pub path: PathBuf,
    /// What was read.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// The local addresses that connections leave from; a family without one is not used where the other has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceAddresses {
    /// For IPv4.
    pub v4: Option<Ipv4Addr>,
    /// For IPv6.
    pub v6: Option<Ipv6Addr>,
}

// === impl ProxyUrl ===

impl ProxyUrl {
    /// The URL: `http`, with a host.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.0
    }
}

impl std::fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&super::words::redis_url::mask(self.0.as_str()))
    }
}

// === impl NoProxy ===

impl NoProxy {
    /// Whether what goes to `host` (a name, or an address without brackets) does not take the proxy.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok();
        self.0.iter().any(|exempt| match exempt {
            Exempt::Everything => true,
            Exempt::Network(network) => address.is_some_and(|address| network.contains(&address)),
            Exempt::Name(name) => *name == host,
            Exempt::Under(suffix) => host.ends_with(suffix),
        })
    }
}

// === impl SourceAddresses ===

impl SourceAddresses {
    /// Whether connections leave from wherever the system likes.
    #[must_use]
    pub const fn is_any(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// The local address for a connection to `target`.
    #[must_use]
    pub fn towards(&self, target: IpAddr) -> Option<IpAddr> {
        match target {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }
}

/// A forward proxy.
pub mod proxy_url {
    use super::{ProxyUrl, Url};

    /// The unit, for people.
    pub const UNIT: &str = "URL";
    /// What the text has to be.
    pub const EXPECTED: &str = "http://[user:password@]host[:port], or none";

    /// # Errors
    /// What is wrong with the text, without the text: it may hold a password.
    pub fn parse(text: &str) -> Result<Option<ProxyUrl>, String> {
        if text.trim() == "none" {
            return Ok(None);
        }
        let url = Url::parse(text.trim()).map_err(|error| format!("is no URL ({error})"))?;
        match url.scheme() {
            "http" if url.host_str().is_none_or(str::is_empty) => Err("has no host".into()),
            "http" if url.path() != "/" || url.query().is_some() => Err("has a path".into()),
            "http" => Ok(Some(ProxyUrl(url))),
            scheme => Err(format!("has the scheme {scheme}://")),
        }
    }

    /// The URL with its password masked, or `none`.
    #[must_use]
    pub fn show(value: &Option<ProxyUrl>) -> String {
        value.as_ref().map_or_else(|| "none".into(), |proxy| format!("{proxy:?}"))
    }
}

/// Hosts that are reached without the proxy.
pub mod no_proxy {
    use super::{Exempt, IpAddr, IpNet, NoProxy};

    /// The unit, for people.
    pub const UNIT: &str = "hosts";
    /// What the text has to be.
    pub const EXPECTED: &str =
        "names (a.example), suffixes (.example), addresses, networks (10.0.0.0/8) or *, joined by commas";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<NoProxy, String> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        words.map(exempt).collect::<Result<_, _>>().map(NoProxy)
    }

    fn exempt(word: &str) -> Result<Exempt, String> {
        if word == "*" {
            return Ok(Exempt::Everything);
        }
        if let Ok(address) = word.parse::<IpAddr>() {
            return Ok(Exempt::Network(address.into()));
        }
        if let Ok(network) = word.parse::<IpNet>() {
            return Ok(Exempt::Network(network));
        }
        let lower = word.to_ascii_lowercase();
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if !lower.chars().all(named) {
            return Err(format!("{word:?} is no name, address or network"));
        }
        Ok(if lower.starts_with('.') { Exempt::Under(lower) } else { Exempt::Name(lower) })
    }

    /// The entries, joined by commas.
    #[must_use]
    pub fn show(value: &NoProxy) -> String {
        let word = |exempt: &Exempt| match exempt {
            Exempt::Everything => "*".into(),
            Exempt::Network(network) => network.to_string(),
            Exempt::Name(text) | Exempt::Under(text) => text.clone(),
        };
        value.0.iter().map(word).collect::<Vec<_>>().join(",")
    }
}

/// A file of certificate authorities.
pub mod ca_file {
    use rustls::pki_types::pem::PemObject as _;

    use super::{CaFile, CertificateDer};

    /// The unit, for people.
    pub const UNIT: &str = "path";
    /// What the text has to be.
    pub const EXPECTED: &str = "a readable file of PEM certificates, or none";

    /// # Errors
    /// What is wrong with the path or with the file.
    pub fn parse(text: &str) -> Result<Option<CaFile>, String> {
        if text == "none" {
            return Ok(None);
        }
        let pem = std::fs::read(text).map_err(|error| format!("{text:?} cannot be read ({error})"))?;
        let certificates = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| format!("{text:?} is no PEM ({error})"))?;
        if certificates.is_empty() {
            return Err(format!("{text:?} holds no certificate"));
        }
        Ok(Some(CaFile { path: text.into(), certificates }))
    }

    /// The path, or `none`.
    #[must_use]
    pub fn show(value: &Option<CaFile>) -> String {
        value.as_ref().map_or_else(|| "none".into(), |file| file.path.display().to_string())
    }
}

/// Local addresses.
pub mod source_addresses {
    use super::{IpAddr, SourceAddresses};

    /// The unit, for people.
    pub const UNIT: &str = "addresses";
    /// What the text has to be.
    pub const EXPECTED: &str = "an IPv4 address, an IPv6 address, or one of each joined by a comma; or any";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<SourceAddresses, String> {
        let mut sources = SourceAddresses::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty() && *word != "any") {
            let twice = match word.parse::<IpAddr>().map_err(|_| format!("{word:?} is no address"))? {
                IpAddr::V4(address) => sources.v4.replace(address).is_some(),
                IpAddr::V6(address) => sources.v6.replace(address).is_some(),
            };
            if twice {
                return Err(format!("{word:?} is the second address of its family"));
            }
        }
        Ok(sources)
    }

    /// The addresses, or `any`.
    #[must_use]
    pub fn show(value: &SourceAddresses) -> String {
        let words: Vec<String> = value
            .v4
            .iter()
            .map(ToString::to_string)
            .chain(value.v6.iter().map(ToString::to_string))
            .collect();
        if words.is_empty() { "any".into() } else { words.join(",") }
    }
}

/// A collector of spans.
pub mod otlp_endpoint {
    use super::Url;

    /// The unit, for people.
    pub const UNIT: &str = "URL";
    /// What the text has to be.
    pub const EXPECTED: &str =
        "http://host:4318 or https://..., the base URL of a collector that takes OTLP over HTTP; or none";

    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Option<Url>, String> {
        if text.trim() == "none" {
            return Ok(None);
        }
        let url = Url::parse(text.trim()).map_err(|error| format!("is no URL ({error})"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("has the scheme {}://", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("has a user or a password".into());
        }
        Ok(Some(url))
    }

    /// The URL, or `none`.
    #[must_use]
    pub fn show(value: &Option<Url>) -> String {
        value.as_ref().map_or_else(|| "none".into(), ToString::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_password_is_never_shown() {
        let proxy = proxy_url::parse("http://user:hunter2@proxy:3128").unwrap();
        assert_eq!(proxy_url::show(&proxy), "http://user:****@proxy:3128/");
        for bad in ["https://u:hunter2@h", "http://u:hunter2@h/x", "hunter2", "socks5://u:hunter2@h"] {
            assert!(!proxy_url::parse(bad).unwrap_err().contains("hunter2"), "{bad}");
        }
        assert_eq!(proxy_url::parse("none"), Ok(None));
    }

    #[test]
    fn the_no_proxy_list_covers_what_it_names() {
        let list = no_proxy::parse("internal.example, .corp.example,10.0.0.0/8,::1").unwrap();
        for covered in ["internal.example", "INTERNAL.example.", "a.corp.example", "10.1.2.3", "::1"] {
            assert!(list.covers(covered), "{covered}");
        }
        for other in ["a.internal.example", "corp.example", "11.0.0.1", "10.example", "example"] {
            assert!(!list.covers(other), "{other}");
        }
        assert_eq!(no_proxy::parse(&no_proxy::show(&list)).unwrap(), list);
        assert!(no_proxy::parse("*").unwrap().covers("anything.example"));
        assert!(!NoProxy::default().covers("anything.example"));
        assert!(no_proxy::parse("http://x").is_err());
    }

    #[test]
    fn files_and_addresses_are_checked_when_they_are_read() {
        assert!(ca_file::parse("/nowhere/ca.pem").unwrap_err().contains("cannot be read"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, "nothing").unwrap();
        assert!(ca_file::parse(path.to_str().unwrap()).unwrap_err().contains("no certificate"));
        let both = source_addresses::parse("192.0.2.1,2001:db8::1").unwrap();
        assert_eq!(source_addresses::show(&both), "192.0.2.1,2001:db8::1");
        assert!(source_addresses::parse("192.0.2.1,192.0.2.2").is_err());
        assert!(source_addresses::parse("any").unwrap().is_any());
        assert!(otlp_endpoint::parse("http://collector:4318").unwrap().is_some());
        assert!(otlp_endpoint::parse("collector:4317").is_err());
    }
}
