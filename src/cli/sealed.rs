//! What the commands about connections and variables share: the database behind them, its keys, files in Airflow's JSON.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::cli::session::Session;
use crate::clock;
use crate::embedded::{self, StackLease};
use crate::engine::lookup::Lookup;
use crate::store::{Kind, SecretKeys, Store};

/// A file of more is no export of anybody's.
const LONGEST: u64 = 64 * 1024 * 1024;

/// The database and its keys; held for as long as the command runs.
pub(crate) struct Sealed {
    pub(crate) store: Store,
    pub(crate) keys: SecretKeys,
    _stack: Option<StackLease>,
}

impl Sealed {
    pub(crate) async fn open(session: &Session) -> anyhow::Result<Self> {
        let keys = session.secret_keys()?;
        let (stack, store) = session.connect_or_make_store().await?;
        Ok(Self { store, keys, _stack: stack })
    }

    /// Finds what tasks would find.
    pub(crate) fn lookup(self, session: &Session) -> (Lookup, Option<StackLease>) {
        let settings = embedded::named(&session.settings);
        (Lookup::new(self.store, settings, self.keys, session.masks.clone()), self._stack)
    }

    /// Keeps a text, sealed.
    pub(crate) async fn put(&self, kind: Kind, name: &str, text: &SecretString) -> anyhow::Result<()> {
        let sealed = self.keys.seal(kind, name, text)?;
        match kind {
            Kind::Connection => self.store.put_connection(name, &sealed, clock::now()).await?,
            Kind::Variable => self.store.put_variable(name, &sealed, clock::now()).await?,
        }
        Ok(())
    }

    /// All names of the database with their texts, where the keys open them.
    pub(crate) async fn all(&self, kind: Kind) -> anyhow::Result<Vec<(String, Result<SecretString, String>)>> {
        let rows = match kind {
            Kind::Connection => self.store.connections().await?,
            Kind::Variable => self.store.variables().await?,
        };
        let open = |(name, sealed): (String, Vec<u8>)| {
            let text = self.keys.open(kind, &name, &sealed).map_err(|error| error.to_string());
            (name, text)
        };
        Ok(rows.into_iter().map(open).collect())
    }

    /// Keeps all of `texts`; those that are there already only if they are to be replaced. How many were kept, and the
    /// names of those that were not.
    pub(crate) async fn import(
        &self,
        kind: Kind,
        texts: Vec<(String, SecretString)>,
        overwrite: bool,
    ) -> anyhow::Result<(usize, Vec<String>)> {
        let there: Vec<String> = match kind {
            Kind::Connection => self.store.connections().await?,
            Kind::Variable => self.store.variables().await?,
        }
        .into_iter()
        .map(|(name, _)| name)
        .collect();
        let (mut kept, mut left) = (0, Vec::new());
        for (name, text) in texts {
            if !overwrite && there.contains(&name) {
                left.push(name);
                continue;
            }
            self.put(kind, &name, &text).await?;
            kept += 1;
        }
        Ok((kept, left))
    }
}

/// The object in a file, or on stdin.
pub(crate) fn read_object(file: &Path) -> anyhow::Result<Map<String, Value>> {
    let shown = file.display();
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(LONGEST).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(LONGEST).read_to_string(&mut text))
    };
    read.with_context(|| format!("could not read {shown}"))?;
    // The parser's own words may quote what is secret.
    let value = serde_json::from_str(&text)
        .map_err(|error| anyhow::anyhow!("{shown} is not JSON (line {}, column {})", error.line(), error.column()))?;
    match value {
        Value::Object(fields) => Ok(fields),
        _ => anyhow::bail!("{shown} is not Airflow's JSON: an object with a key for each name"),
    }
}

/// Writes the object to a file that only its owner may read, or to stdout.
pub(crate) fn write_object(session: &Session, file: &Path, object: &Map<String, Value>) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(object).expect("JSON values can be written");
    text.push('\n');
    if file == Path::new("-") {
        return session.printer.text(&text).map(drop);
    }
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(file);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.with_context(|| format!("could not write {}", file.display()))
}
