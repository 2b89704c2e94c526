//! The `[jwt]` table of a rule file, and the files with keys that it names.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jsonwebtoken::Algorithm;
use mproxy_core::policy::BrokerLogin;
use toml::de::{DeTable, DeValue};

use super::{AclReader, TomlValue};
use crate::acl::token::{BrokerCredentials, TokenPlace, TokenRules};
use crate::jwt::{
    ALGORITHMS, KeyError, KeySet, KeySetSource, KeySetTimes, KeyUrl, TokenKey, TokenKeys, algorithm,
    read_file,
};

/// Seconds that clocks may differ at most. Whoever needs more has another problem.
const LEEWAY_MOST: u64 = 300;

/// How often a key set is read again, and how long it serves if it cannot be: of a server, and of a file.
const URL_TIMES: KeySetTimes =
    KeySetTimes { refresh: Duration::from_secs(300), keep: Duration::from_secs(24 * 3600) };
const FILE_TIMES: KeySetTimes =
    KeySetTimes { refresh: Duration::from_secs(5), keep: Duration::from_secs(24 * 3600) };

/// Bytes of the largest file with a key, a secret or a password.
const KEY_MOST: u64 = 1 << 20;

/// Bytes of the longest name of an Authentication Method [MQTT-1.5.4].
const METHOD_MOST: usize = 65_535;

const TOKENS: &[&str] = &[
    "from",
    "method",
    "required",
    "issuers",
    "audiences",
    "required_claims",
    "leeway",
    "username",
    "claims",
    "groups",
    "broker",
    "keys",
    "key_set",
];

/// Makes a key of what is in a file.
type MakeKey = fn(&[u8], Option<&str>, &[Algorithm]) -> Result<TokenKey, KeyError>;

impl AclReader<'_> {
    /// How tokens are judged.
    pub(super) fn tokens(&mut self, value: &TomlValue<'_>, path: &str) -> Option<TokenRules> {
        let table = self.table(value, path)?;
        let mut rules = TokenRules::default();
        let mut keys = Vec::new();
        for (key, value) in table {
            let full = format!("{path}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "from" => rules.from = self.token_places(value, &full),
                "method" => match self.text(value, &full) {
                    Some(name) if name.is_empty() || name.contains('\0') || name.len() > METHOD_MOST => {
                        self.fault(value.span(), full, "must be the name of an Authentication Method");
                    }
                    name => rules.method = name.map(Into::into),
                },
                "required" => rules.required = self.flag(value, &full) == Some(true),
                "issuers" => rules.terms.issuers = self.texts(value, &full),
                "audiences" => rules.terms.audiences = self.texts(value, &full),
                "required_claims" => rules.terms.required = self.texts(value, &full),
                "leeway" => {
                    let seconds = self.whole(value, &full, 0..=LEEWAY_MOST);
                    rules.terms.leeway = Duration::from_secs(seconds.unwrap_or_default());
                }
                "username" => match self.text(value, &full) {
                    Some("") => self.fault(value.span(), full, "must be the name of a claim"),
                    name => rules.username = name.map_or_else(Box::default, Into::into),
                },
                "claims" => rules.claims = self.texts(value, &full).into_vec(),
                "groups" => rules.groups = self.text(value, &full).map(Into::into),
                "broker" => rules.broker = self.broker(value, &full),
                "keys" => self.each_table(value, &full, |reader, table, at, path| {
                    keys.extend(reader.token_key(table, at, path));
                }),
                "key_set" => rules.terms.key_set = self.key_set(value, &full).map(Arc::new),
                unknown => self.unknown(key.span(), path, unknown, TOKENS),
            }
        }
        if !table.contains_key("keys") && !table.contains_key("key_set") && self.whole {
            let what = "has no keys: write [[jwt.keys]] or [jwt.key_set]";
            self.fault(value.span(), path.to_owned(), what);
        }
        rules.terms.keys = TokenKeys::new(keys);
        Some(rules)
    }

    fn token_places(&mut self, value: &TomlValue<'_>, key: &str) -> Box<[TokenPlace]> {
        let mut places = Vec::new();
        self.each_text(value, key, |reader, text, span, key| match TokenPlace::named(text) {
            Some(place) if places.contains(&place) => {
                reader.fault(span, key, format!("{text:?} stands twice"));
            }
            Some(place) => places.push(place),
            None => {
                let known = TokenPlace::ALL.map(TokenPlace::name).join(", ");
                reader.fault(span, key, format!("{text:?} is none of {known}"));
            }
        });
        places.into()
    }

    fn broker(&mut self, value: &TomlValue<'_>, path: &str) -> Option<BrokerCredentials> {
        if let Some(word) = value.get_ref().as_str() {
            return match word {
                "username" => Some(BrokerCredentials::Username),
                "as_sent" => Some(BrokerCredentials::AsSent),
                _ => {
                    let what = format!("{word:?} is none of username, as_sent; or a table with a username");
                    self.fault(value.span(), path.to_owned(), what);
                    None
                }
            };
        }
        self.broker_login(value, path).map(BrokerCredentials::Fixed)
    }

    /// A user name, and the file with the password.
    pub(super) fn broker_login(&mut self, value: &TomlValue<'_>, path: &str) -> Option<Arc<BrokerLogin>> {
        let before = self.faults.len();
        let table = self.table(value, path)?;
        let (mut username, mut password) = (None, None);
        for (key, value) in table {
            let full = format!("{path}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "username" => username = self.text(value, &full).map(Box::from),
                "password_file" => {
                    password = self.named_file(value, &full).map(|bytes| Bytes::from(without_newline(bytes)));
                }
                unknown => self.unknown(key.span(), path, unknown, &["username", "password_file"]),
            }
        }
        if !table.contains_key("username") {
            self.missing(value.span(), format!("{path}.username"));
        }
        let login = BrokerLogin { username: Some(username?), password };
        (self.faults.len() == before).then(|| Arc::new(login))
    }

    fn token_key(&mut self, table: &DeTable<'_>, at: Range<usize>, path: &str) -> Option<TokenKey> {
        let (mut public, mut secret, mut id, mut algorithms) = (None, None, None, Vec::new());
        for (key, value) in table {
            let full = format!("{path}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "public_key" => public = Some((value, full)),
                "secret" => secret = Some((value, full)),
                "kid" => id = self.text(value, &full),
                "algorithms" => algorithms = self.algorithms(value, &full),
                unknown => {
                    self.unknown(key.span(), path, unknown, &["public_key", "secret", "kid", "algorithms"]);
                }
            }
        }
        let (value, full, make): (_, _, MakeKey) = match (public, secret) {
            (Some((value, full)), None) => (value, full, TokenKey::public),
            (None, Some((value, full))) => (value, full, TokenKey::secret),
            (None, None) => {
                self.missing(at, format!("{path}.public_key"));
                return None;
            }
            (Some(_), Some((value, full))) => {
                self.fault(value.span(), full, "a key has a public_key or a secret, not both");
                return None;
            }
        };
        let bytes = self.named_file(value, &full)?;
        match make(&bytes, id, &algorithms) {
            Ok(key) => Some(key),
            Err(error) => {
                let file = value.get_ref().as_str().unwrap_or_default();
                self.fault(value.span(), full, format!("{file}: {error}"));
                None
            }
        }
    }

    fn algorithms(&mut self, value: &TomlValue<'_>, key: &str) -> Vec<Algorithm> {
        let mut algorithms = Vec::new();
        self.each_text(value, key, |reader, text, span, key| match algorithm(text) {
            Some(algorithm) => algorithms.push(algorithm),
            None => {
                let known = ALGORITHMS.map(|(name, _)| name).join(", ");
                reader.fault(span, key, format!("{text:?} is none of {known}"));
            }
        });
        algorithms
    }

    fn key_set(&mut self, value: &TomlValue<'_>, path: &str) -> Option<KeySet> {
        let table = self.table(value, path)?;
        let (mut url, mut file, mut ca, mut refresh, mut keep) = (None, None, None, None, None);
        for (key, value) in table {
            let full = format!("{path}.{}", key.get_ref());
            match key.get_ref().as_ref() {
                "url" => url = self.text(value, &full).map(|text| (text, value.span(), full)),
                "file" => file = self.text(value, &full).map(|text| (text, value.span(), full)),
                "ca_certs" => ca = self.named_file(value, &full),
                "refresh" => refresh = self.whole(value, &full, 1..=86400).map(Duration::from_secs),
                "keep" => keep = self.whole(value, &full, 1..=30 * 86400).map(Duration::from_secs),
                unknown => {
                    self.unknown(key.span(), path, unknown, &["url", "file", "ca_certs", "refresh", "keep"]);
                }
            }
        }
        let times = |default: KeySetTimes| {
            let refresh = refresh.unwrap_or(default.refresh);
            // Whoever says only how often it is read again has not said that it serves for less than that.
            KeySetTimes { refresh, keep: keep.unwrap_or_else(|| default.keep.max(refresh)) }
        };
        match (url, file) {
            (Some((text, span, full)), None) => match KeyUrl::parse(text, ca) {
                Ok(url) => Some(KeySet::new(KeySetSource::Url(url), times(URL_TIMES))),
                Err(error) => {
                    self.fault(span, full, format!("{text:?}: {error}"));
                    None
                }
            },
            (None, Some((text, span, full))) => {
                let path = self.beside(text);
                match read_file(&path) {
                    Ok(keys) => {
                        Some(KeySet::new(KeySetSource::File(path), times(FILE_TIMES)).with_keys(keys))
                    }
                    Err(error) => {
                        self.fault(span, full, format!("{text}: {error}"));
                        None
                    }
                }
            }
            (None, None) => {
                self.missing(value.span(), format!("{path}.url"));
                None
            }
            (Some(_), Some((_, span, full))) => {
                self.fault(span, full, "a key set has a url or a file, not both");
                None
            }
        }
    }

    /// The texts of a list.
    pub(super) fn texts(&mut self, value: &TomlValue<'_>, key: &str) -> Box<[Box<str>]> {
        let mut texts = Vec::new();
        self.each_text(value, key, |_, text, _, _| texts.push(text.into()));
        texts.into()
    }

    pub(super) fn table<'v, 'i>(&mut self, value: &'v TomlValue<'i>, key: &str) -> Option<&'v DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.fault(value.span(), key.to_owned(), format!("is written [{key}]"));
        }
        table
    }

    /// A whole number in this range.
    pub(super) fn whole(
        &mut self,
        value: &TomlValue<'_>,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let number = match value.get_ref() {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let what = format!("must be a whole number from {} to {}", range.start(), range.end());
            self.fault(value.span(), key.to_owned(), what);
        }
        number
    }

    /// What is in the file of this name.
    fn named_file(&mut self, value: &TomlValue<'_>, key: &str) -> Option<Vec<u8>> {
        let name = self.text(value, key)?;
        match read_small(&self.beside(name)) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.fault(value.span(), key.to_owned(), format!("{name}: cannot be read: {error}"));
                None
            }
        }
    }

    /// A file beside this one, if its name says nothing else.
    fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    // Of a pipe nobody knows when it ends.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(KEY_MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > KEY_MOST {
        let what = format!("it has more than {KEY_MOST} bytes");
        return Err(io::Error::new(ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
}

fn without_newline(mut bytes: Vec<u8>) -> Vec<u8> {
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    bytes
}
