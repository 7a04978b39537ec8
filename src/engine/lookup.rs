//! Finds connections and variables by name: in AWS Secrets Manager, then the environment and the settings, then the
//! database. The first place that has it wins.
//!
//! Whatever is found is masked from then on, in everything that this process writes.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use crate::connect::secrets_manager::{SecretsManager, SecretsManagerError};
use crate::connect::{Endpoints, NamedSettings};
use crate::domain::connection::{Connection, ConnectionError};
use crate::domain::diagnostic::closest;
use crate::domain::masking::{Masks, is_secret_name, secrets_in};
use crate::domain::template::{Named, Wanted};
use crate::engine::operator::Failure;
use crate::store::{Kind, SealError, SecretKeys, Store, StoreError};

/// Where a connection or a variable was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In Secrets Manager, under this name.
    SecretsManager(String),
    /// In the environment or in `pinsched.toml`.
    Settings,
    /// In the database.
    Database,
}

/// A connection or a variable could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// It is nowhere.
    #[error("{0}")]
    Absent(String),
    /// It was found, and is no connection.
    #[error("connection `{id}` of {place} cannot be used: {source}")]
    Unreadable {
        /// Its id.
        id: String,
        /// Where it was found.
        place: &'static str,
        /// What is wrong with it.
        source: ConnectionError,
    },
    /// It is in the database, and does not open.
    #[error(transparent)]
    Sealed(#[from] SealError),
    /// Secrets Manager did not say whether it has it.
    #[error(transparent)]
    SecretsManager(#[from] SecretsManagerError),
    /// The database did not say whether it has it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LookupError {
    /// Whether another attempt may find it.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::SecretsManager(error) => error.is_transient(),
            Self::Store(error) => error.is_transient(),
            Self::Absent(_) => true, // as in Airflow: somebody may make it meanwhile
            Self::Unreadable { .. } | Self::Sealed(_) => false,
        }
    }
}

impl From<LookupError> for Failure {
    fn from(error: LookupError) -> Self {
        if error.is_transient() { Self::retry(&error) } else { Self::fatal(&error) }
    }
}

/// Finds connections and variables; clones share what they know.
#[derive(Clone)]
pub struct Lookup {
    store: Store,
    settings: Arc<NamedSettings>,
    secrets_manager: Option<SecretsManager>,
    keys: Arc<SecretKeys>,
    masks: Masks,
}

impl Lookup {
    /// Looks where the settings say, and in the store with these keys.
    #[must_use]
    pub fn new(store: Store, settings: NamedSettings, keys: SecretKeys, masks: Masks) -> Self {
        let secrets_manager = settings.secrets_manager.clone().map(SecretsManager::new);
        Self { store, settings: Arc::new(settings), secrets_manager, keys: Arc::new(keys), masks }
    }

    /// What is masked by now.
    #[must_use]
    pub fn masks(&self) -> &Masks {
        &self.masks
    }

    /// The connection of that id.
    ///
    /// # Errors
    /// [`LookupError`] says where it was looked for, or why it could not be.
    pub async fn connection(&self, id: &str) -> Result<Connection, LookupError> {
        Ok(self.locate_connection(id).await?.0)
    }

    /// The same, with where it was found.
    ///
    /// # Errors
    /// As [`Self::connection`].
    pub async fn locate_connection(&self, id: &str) -> Result<(Connection, Place), LookupError> {
        let manager = self.secrets_manager.as_ref().and_then(|manager| Some((manager, manager.connection_name(id)?)));
        let (text, place) = self.locate(Kind::Connection, id, manager).await?;
        let connection = Connection::parse(id, text.expose_secret()).map_err(|source| {
            // Nobody knows which part of it is the secret one.
            self.masks.add([&text]);
            let place = match &place {
                Place::SecretsManager(_) => "AWS Secrets Manager",
                Place::Settings => "the settings",
                Place::Database => "the database",
            };
            LookupError::Unreadable { id: id.to_owned(), place, source }
        })?;
        self.masks.add(&connection.secrets());
        Ok((connection, place))
    }

    /// The variable of that name.
    ///
    /// # Errors
    /// As [`Self::connection`].
    pub async fn variable(&self, name: &str) -> Result<SecretString, LookupError> {
        Ok(self.locate_variable(name).await?.0)
    }

    /// The same, with where it was found.
    ///
    /// # Errors
    /// As [`Self::connection`].
    pub async fn locate_variable(&self, name: &str) -> Result<(SecretString, Place), LookupError> {
        let manager = self.secrets_manager.as_ref().and_then(|manager| Some((manager, manager.variable_name(name)?)));
        let found = self.locate(Kind::Variable, name, manager).await?;
        if is_secret_name(name) {
            self.masks.add([&found.0]);
        }
        if let Ok(value) = serde_json::from_str(found.0.expose_secret()) {
            self.masks.add(&secrets_in(name, &value));
        }
        Ok(found)
    }

    async fn locate(
        &self,
        kind: Kind,
        name: &str,
        manager: Option<(&SecretsManager, String)>,
    ) -> Result<(SecretString, Place), LookupError> {
        if let Some((manager, full_name)) = &manager
            && let Some(text) = manager.text(full_name).await?
        {
            return Ok((text, Place::SecretsManager(full_name.clone())));
        }
        let set = match kind {
            Kind::Connection => &self.settings.connections,
            Kind::Variable => &self.settings.variables,
        };
        // Names from the environment are in lower case.
        if let Some(text) = set.get(name).or_else(|| set.get(&name.to_lowercase())) {
            return Ok((text.clone(), Place::Settings));
        }
        let sealed = match kind {
            Kind::Connection => self.store.connection(name).await?,
            Kind::Variable => self.store.variable(name).await?,
        };
        match sealed {
            Some(sealed) => Ok((self.keys.open(kind, name, &sealed)?, Place::Database)),
            None => Err(LookupError::Absent(self.absence(kind, name, manager.map(|(_, name)| name)))),
        }
    }

    /// Where it was looked for in vain, and what is there instead.
    fn absence(&self, kind: Kind, name: &str, secret: Option<String>) -> String {
        let (what, short, table, set) = match kind {
            Kind::Connection => ("CONNECTION", "CONN", "connections", &self.settings.connections),
            Kind::Variable => ("VARIABLE", "VAR", "variables", &self.settings.variables),
        };
        let upper = name.to_uppercase();
        let manager = secret.map(|secret| format!("AWS Secrets Manager (`{secret}`), ")).unwrap_or_default();
        let near = closest(name, set.keys().map(String::as_str));
        let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        format!(
            "no {} is named `{name}`: looked in {manager}the environment (PINSCHED_{what}_{upper}, AIRFLOW_{short}_{upper}), \
             the settings (`{table}.{name}`) and the database{near}",
            kind.as_str()
        )
    }

    /// Looks up all that templates ask for. What is not there is noted with words, for a template may do without.
    ///
    /// # Errors
    /// Where one could not be looked for, or cannot be used.
    pub async fn named(&self, wanted: &Wanted) -> Result<Named, LookupError> {
        let mut named = Named::default();
        for name in &wanted.variables {
            named.variables.insert(name.clone(), or_words(self.variable(name).await)?);
        }
        for id in &wanted.connections {
            named.connections.insert(id.clone(), or_words(self.connection(id).await)?);
        }
        Ok(named)
    }
}

/// What of the outside systems' own addresses must not be seen.
#[must_use]
pub fn secrets_of(endpoints: &Endpoints) -> Vec<SecretString> {
    let source = Connection::parse("", endpoints.source_url.expose_secret());
    let mut secrets = source.map(|source| source.secrets()).unwrap_or_default();
    secrets.extend(endpoints.s3.credentials.iter().map(|keys| keys.secret_access_key.clone()));
    let properties = endpoints.kafka.properties.iter().filter(|(name, _)| is_secret_name(name));
    secrets.extend(properties.map(|(_, value)| value.clone()));
    secrets
}

fn or_words<T>(found: Result<T, LookupError>) -> Result<Result<T, String>, LookupError> {
    match found {
        Ok(value) => Ok(Ok(value)),
        Err(LookupError::Absent(words)) => Ok(Err(words)),
        Err(error) => Err(error),
    }
}
