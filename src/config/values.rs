//! Values as text, each with where it came from: what stands between the sources and the typed settings.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::environment::Environment;
use super::error::Problem;
use super::file::Typed;
use super::keys::{KEYS, Key, Masking, TABLES, Table, masking_of};
use crate::domain::masking::is_secret_name;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// This variable.
    Environment(String),
    /// A line of `pinsched.toml`.
    File {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
    },
    /// Nobody set it.
    Default,
    /// Nobody set it, and the embedded stack stands in.
    Embedded,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => formatter.write_str("flag"),
            Self::Environment(variable) => formatter.write_str(variable),
            Self::File { path, line } => write!(formatter, "{}:{line}", path.display()),
            Self::Default => formatter.write_str("default"),
            Self::Embedded => formatter.write_str("embedded"),
        }
    }
}

/// A setting as `pinsched config` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its dotted name.
    pub name: String,
    /// Its value, with secrets masked; none when the embedded stack decides it, or nobody.
    pub value: Option<String>,
    /// Where it came from.
    pub origin: Origin,
}

/// A value before it is parsed.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) text: SecretString,
    pub(super) origin: Origin,
}

/// The winning value of each name.
#[derive(Debug, Clone, Default)]
pub(super) struct Values(BTreeMap<String, Value>);

impl Values {
    /// Lays the sources over one another, the weakest first.
    pub(super) fn gather(file: Vec<Typed>, environment: &Environment, flags: &BTreeMap<&'static str, String>) -> Self {
        let mut values = Self::default();
        for Typed { name, text, origin } in file {
            values.put(name, text, origin);
        }
        for table in TABLES {
            // The last one wins.
            for prefix in table.airflows.into_iter().chain([table.prefix]) {
                values.take_table(table, prefix, environment);
            }
        }
        for key in KEYS {
            let found = key.variables.iter().find_map(|variable| Some((variable, environment.value(variable)?)));
            if let Some((variable, text)) = found {
                values.put(key.name.to_owned(), text.to_owned(), Origin::Environment((*variable).to_owned()));
            }
        }
        for (name, text) in flags {
            values.put((*name).to_owned(), text.clone(), Origin::Flag);
        }
        values
    }

    fn take_table(&mut self, table: &Table, prefix: &str, environment: &Environment) {
        for (variable, text) in environment.starting_with(prefix) {
            if KEYS.iter().any(|key| key.variables.contains(&variable)) {
                continue;
            }
            let entry = variable[prefix.len()..].to_lowercase().replace('_', table.underscore);
            let name = format!("{}.{entry}", table.name);
            // A variable's name has lost its case: it stands for the file's entry of that name in any.
            let same = self.0.keys().find(|known| known.to_lowercase() == name).cloned();
            self.put(same.unwrap_or(name), text.to_owned(), Origin::Environment(variable.to_owned()));
        }
    }

    fn put(&mut self, name: String, text: String, origin: Origin) {
        self.0.insert(name, Value { text: text.into(), origin });
    }

    /// Where the value of that name came from.
    pub(super) fn origin(&self, name: &str) -> Option<Origin> {
        self.0.get(name).map(|value| value.origin.clone())
    }

    /// The value that somebody set.
    pub(super) fn set(&self, key: &Key) -> Option<&Value> {
        self.0.get(key.name)
    }

    /// The value, parsed; its default where nobody set it. What cannot be parsed is noted, and is as if not set.
    pub(super) fn parse<T>(
        &self,
        key: &Key,
        problems: &mut Vec<Problem>,
        parse: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Option<T> {
        let (text, origin) = match self.set(key) {
            Some(value) => (value.text.expose_secret(), value.origin.clone()),
            None => (key.default?, Origin::Default),
        };
        parse(text)
            .map_err(|expected| {
                let shown = mask(text, key.masking);
                let message = format!("`{}` is `{shown}`, which is not {expected}", key.name);
                problems.push(Problem { origin, message, help: None });
            })
            .ok()
    }

    /// The entries of a table of the user's own keys.
    pub(super) fn table<'a>(&'a self, table: &'a Table) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.0.iter().filter_map(|(name, value)| Some((name.strip_prefix(table.name)?.strip_prefix('.')?, value)))
    }

    /// Everything, as it is shown.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let named = KEYS.iter().map(|key| match self.set(key) {
            Some(value) => entry(key.name.to_owned(), value, key.masking),
            None => Entry {
                name: key.name.to_owned(),
                value: key.default.map(str::to_owned),
                origin: if key.embedded { Origin::Embedded } else { Origin::Default },
            },
        });
        let open = TABLES.iter().flat_map(|table| {
            self.table(table)
                .map(|(name, value)| entry(format!("{}.{name}", table.name), value, masking_of(table, name)))
        });
        named.chain(open).collect()
    }
}

fn entry(name: String, value: &Value, masking: Masking) -> Entry {
    Entry { name, value: Some(mask(value.text.expose_secret(), masking)), origin: value.origin.clone() }
}

/// What is shown of a secret.
const MASK: &str = "********";

/// The text as it may be shown.
fn mask(text: &str, masking: Masking) -> String {
    match masking {
        Masking::Shown => text.to_owned(),
        Masking::Hidden => MASK.to_owned(),
        Masking::Address => mask_address(text),
        Masking::UrlPassword => match Url::parse(text) {
            // A query may carry a password too, as in `?password=…` and `?sslpassword=…`.
            Ok(mut url) if url.has_host() && !url.cannot_be_a_base() => {
                let is_secret = |name: &str| is_secret_name(name) || name == "__extra__";
                let tells = url.query().is_some_and(|query| query.contains("password"));
                if tells || url.query_pairs().any(|(name, _)| is_secret(&name)) {
                    url.set_query(Some(MASK));
                }
                let masked = url.password().is_none() || url.set_password(Some(MASK)).is_ok();
                if masked { url.to_string() } else { MASK.to_owned() }
            }
            _ => MASK.to_owned(),
        },
    }
}

/// An address that may be mistyped, so that no parser tells its parts: what stands before the last `@` is user and
/// password, what stands behind a `?` is query.
fn mask_address(text: &str) -> String {
    let is_scheme = |text: &str| text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == ':');
    let (scheme, rest) = match text.split_once("//") {
        Some((scheme, _)) if is_scheme(scheme) => text.split_at(scheme.len() + "//".len()),
        _ => ("", text),
    };
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => (format!("{MASK}@"), rest),
        None => (String::new(), rest),
    };
    match rest.split_once('?') {
        Some((address, _)) => format!("{scheme}{user}{address}?{MASK}"),
        None => format!("{scheme}{user}{rest}"),
    }
}
