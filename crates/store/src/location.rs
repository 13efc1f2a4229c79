//! Where a store lies, as the command line names it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::Key;
use crate::limits::{ETCD_ENDPOINTS_MAX, ETCD_PREFIX_BYTES_MAX};

/// etcd's own port for clients.
const ETCD_PORT: u16 = 2379;

/// What keys in etcd begin with, unless another prefix is asked for.
const ETCD_PREFIX: &str = "/fieldfare";

/// Where a store lies: `redb:PATH`, or `etcd:URL[,URL...][?OPTION=VALUE[&...]]`.
///
/// The URLs are `http://HOST[:PORT]` or, all of them, `https://HOST[:PORT]`. Options of etcd: `ca` (PEM file that vouches for the
/// servers, required with https), `cert` and `key` (PEM files of a client certificate, both or neither), and `prefix` (an
/// absolute path that all keys begin with, `/fieldfare` unless given).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A redb file.
    Embedded(PathBuf),
    /// An etcd cluster.
    Etcd(Box<EtcdLocation>),
}

/// Which etcd, how it is reached, and which of its keys are the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdLocation {
    /// `http://HOST:PORT` or `https://HOST:PORT`; at least one.
    pub(crate) endpoints: Vec<String>,
    pub(crate) tls: Option<TlsFiles>,
    /// As in [`Key`], without a `/` at its end.
    pub(crate) prefix: String,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) ca: PathBuf,
    pub(crate) client: Option<ClientFiles>,
}

/// A client's own certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Why a text names no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; expected redb:PATH or etcd:URL[,URL...][?ca=PATH&cert=PATH&key=PATH&prefix=/PATH]")]
pub struct LocationError {
    problem: String,
}

fn wrong(problem: impl Into<String>) -> LocationError {
    LocationError {
        problem: problem.into(),
    }
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Location, LocationError> {
        match text.split_once(':') {
            Some(("redb", "")) => Err(wrong("redb: names no file")),
            Some(("redb", path)) => Ok(Location::Embedded(path.into())),
            Some(("etcd", rest)) => Ok(Location::Etcd(Box::new(parse_etcd(rest)?))),
            _ => Err(wrong(format!("{text:?} is neither redb: nor etcd:"))),
        }
    }
}

fn parse_etcd(text: &str) -> Result<EtcdLocation, LocationError> {
    let (urls, options) = text.split_once('?').unwrap_or((text, ""));
    let (mut endpoints, mut schemes) = (Vec::new(), BTreeSet::new());
    for url in urls.split(',') {
        let (scheme, endpoint) = parse_url(url)?;
        schemes.insert(scheme);
        if endpoints.contains(&endpoint) {
            return Err(wrong(format!("{endpoint} is named twice")));
        }
        endpoints.push(endpoint);
    }
    if endpoints.len() > ETCD_ENDPOINTS_MAX {
        return Err(wrong(format!(
            "{} URLs are more than {ETCD_ENDPOINTS_MAX}",
            endpoints.len()
        )));
    }
    if schemes.len() > 1 {
        return Err(wrong("http and https are mixed"));
    }
    let (mut ca, mut certificate, mut key, mut prefix) = (None, None, None, None);
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let place = match name {
            "ca" => &mut ca,
            "cert" => &mut certificate,
            "key" => &mut key,
            "prefix" => &mut prefix,
            _ => return Err(wrong(format!("{name:?} is no option of etcd"))),
        };
        if value.is_empty() {
            return Err(wrong(format!("{name}= has no value")));
        }
        if place.replace(value).is_some() {
            return Err(wrong(format!("{name}= is given twice")));
        }
    }
    let client = match (certificate, key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(ClientFiles {
            certificate: certificate.into(),
            key: key.into(),
        }),
        _ => return Err(wrong("cert= and key= go together")),
    };
    let tls = match (schemes.contains("https"), ca) {
        (true, Some(ca)) => Some(TlsFiles { ca: ca.into(), client }),
        (true, None) => {
            return Err(wrong(
                "https needs ca=, the PEM file of the authority of etcd's certificates",
            ));
        }
        (false, None) if client.is_none() => None,
        (false, _) => return Err(wrong("ca=, cert= and key= need https URLs")),
    };
    Ok(EtcdLocation {
        endpoints,
        tls,
        prefix: parse_prefix(prefix.unwrap_or(ETCD_PREFIX))?,
    })
}

/// The scheme, and the URL with its port.
fn parse_url(url: &str) -> Result<(&'static str, String), LocationError> {
    let parsed: http::Uri = url
        .parse()
        .map_err(|error| wrong(format!("{url:?} is no URL ({error})")))?;
    let scheme = match parsed.scheme_str() {
        Some("http") => "http",
        Some("https") => "https",
        _ => {
            return Err(wrong(format!("{url:?} begins with neither http:// nor https://")));
        }
    };
    let authority = parsed.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err(wrong(
            "passwords are not taken, since other users of the machine see them: give etcd a user by client certificate (cert=, key=)",
        ));
    }
    let host = parsed.host().unwrap_or_default();
    if host.is_empty() || !matches!(parsed.path(), "" | "/") {
        return Err(wrong(format!("{url:?} is not {scheme}://HOST[:PORT]")));
    }
    let port = match authority.strip_prefix(host) {
        Some("") => ETCD_PORT,
        _ => parsed
            .port_u16()
            .filter(|port| *port > 0)
            .ok_or_else(|| wrong(format!("{url:?} has no port from 1 to 65535")))?,
    };
    Ok((scheme, format!("{scheme}://{host}:{port}")))
}

fn parse_prefix(text: &str) -> Result<String, LocationError> {
    let problem = match Key::new(text) {
        Err(error) => error.to_string(),
        Ok(_) if text.len() > ETCD_PREFIX_BYTES_MAX => {
            format!("{} bytes are more than {ETCD_PREFIX_BYTES_MAX}", text.len())
        }
        Ok(_) => return Ok(text.to_owned()),
    };
    Err(wrong(format!("prefix= is no absolute path: {problem}")))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Embedded(path) => write!(f, "redb:{}", path.display()),
            Location::Etcd(etcd) => write!(f, "{etcd}"),
        }
    }
}

/// Everything but the files of certificates, which say nothing about the place.
impl fmt::Display for EtcdLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd:{}", self.endpoints.join(","))?;
        if self.prefix != ETCD_PREFIX {
            write!(f, "?prefix={}", self.prefix)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etcd(text: &str) -> EtcdLocation {
        match text.parse().unwrap() {
            Location::Etcd(etcd) => *etcd,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_store_is_named_by_its_kind_and_place() {
        assert_eq!(
            "redb:/var/x:y.redb".parse(),
            Ok(Location::Embedded("/var/x:y.redb".into()))
        );
        let plain = etcd("etcd:http://127.0.0.1,http://[::1]:1234/");
        assert_eq!(plain.endpoints, ["http://127.0.0.1:2379", "http://[::1]:1234"]);
        assert_eq!((plain.tls, plain.prefix.as_str()), (None, "/fieldfare"));
        let full = etcd("etcd:https://a.example,https://b:1?ca=/ca.pem&cert=/c.pem&key=/k.pem&prefix=/fleets/one");
        assert_eq!(
            full.to_string(),
            "etcd:https://a.example:2379,https://b:1?prefix=/fleets/one"
        );
        let client = Some(ClientFiles {
            certificate: "/c.pem".into(),
            key: "/k.pem".into(),
        });
        assert_eq!(
            full.tls,
            Some(TlsFiles {
                ca: "/ca.pem".into(),
                client
            })
        );
    }

    #[test]
    fn what_names_no_store_is_refused_with_what_is_expected() {
        let long = format!("etcd:http://a?prefix=/{}", "x".repeat(ETCD_PREFIX_BYTES_MAX));
        let many = format!(
            "etcd:{}",
            (0..=ETCD_ENDPOINTS_MAX)
                .map(|i| format!("http://h{i}"))
                .collect::<Vec<_>>()
                .join(",")
        );
        for (bad, why) in [
            ("", "neither redb: nor etcd:"),
            ("/var/x.redb", "neither redb: nor etcd:"),
            ("redb:", "names no file"),
            ("etcd:", "is no URL"),
            ("etcd:localhost:2379", "neither http:// nor https://"),
            ("etcd:ftp://a", "neither http:// nor https://"),
            ("etcd:http://a/b", "is not http://HOST[:PORT]"),
            ("etcd:http://a:0", "no port from 1 to 65535"),
            ("etcd:http://a:99999", "no port from 1 to 65535"),
            ("etcd:http://a,", "is no URL"),
            ("etcd:http://a,http://a:2379", "named twice"),
            ("etcd:http://a,https://b?ca=/c", "mixed"),
            ("etcd:http://root:secret@a", "passwords are not taken"),
            ("etcd:https://a", "https needs ca="),
            ("etcd:http://a?ca=/c", "need https URLs"),
            ("etcd:http://a?cert=/c&key=/k", "need https URLs"),
            ("etcd:https://a?ca=/c&cert=/c", "go together"),
            ("etcd:https://a?ca=/c&ca=/d", "given twice"),
            ("etcd:https://a?ca=", "has no value"),
            ("etcd:http://a?user=b", "no option of etcd"),
            ("etcd:http://a?prefix=b", "prefix= is no absolute path"),
            ("etcd:http://a?prefix=/b/", "prefix= is no absolute path"),
            (&*long, "prefix= is no absolute path"),
            (&*many, "URLs are more than"),
        ] {
            let error = bad.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains(why), "{bad:?}: {error}");
            assert!(error.contains("expected redb:PATH or etcd:URL"), "{error}");
        }
    }
}
