//! Seals what the database keeps of connections and variables: AES-256-GCM, with keys that the database never sees.
//!
//! Several keys may be given: the first one seals, all of them open, as with Airflow's Fernet keys. What is sealed is bound
//! to its table and name: a row's bytes do not open under another name.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretString};

/// What the bytes start with: how they were sealed.
const FORM: u8 = 1;

/// A key's length in bytes.
const KEY_LENGTH: usize = 32;

/// What is sealed; its name is sealed with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A connection, in Airflow's JSON form.
    Connection,
    /// A variable's text.
    Variable,
}

impl Kind {
    /// Its name, as people and tables have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Variable => "variable",
        }
    }
}

/// Why something could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is no key at all.
    #[error(
        "PINSCHED_SECRET_KEY is not set, and without a key no {} is kept in the database; \
         make one: export PINSCHED_SECRET_KEY=$(pinsched secrets key)",
        .0.as_str()
    )]
    NoKey(Kind),
    /// One of the keys is none.
    #[error("key {position} of PINSCHED_SECRET_KEY is not 32 bytes in base64; `pinsched secrets key` makes one")]
    BadKey {
        /// Which of them, from 1.
        position: usize,
    },
    /// None of the keys opens it.
    #[error(
        "none of the keys in PINSCHED_SECRET_KEY opens {} `{name}` of the database: it was sealed with another, or is damaged",
        .kind.as_str()
    )]
    Unopened {
        /// What it is.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// The system has no randomness to give.
    #[error("the system gave no random bytes")]
    NoRandomness,
}

/// The keys, the one that seals first. Without any nothing is sealed or opened.
#[derive(Default)]
pub struct SecretKeys(Vec<LessSafeKey>);

impl std::fmt::Debug for SecretKeys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SecretKeys({})", self.0.len())
    }
}

impl SecretKeys {
    /// Reads keys, comma separated, each 32 bytes in base64 (standard or URL-safe).
    ///
    /// # Errors
    /// [`SealError::BadKey`] says which of them is none, without quoting it.
    pub fn parse(text: &SecretString) -> Result<Self, SealError> {
        let keys = text.expose_secret().split(',').map(str::trim).filter(|key| !key.is_empty()).enumerate();
        let key = |(index, key): (usize, &str)| {
            let bytes = STANDARD.decode(key).or_else(|_| URL_SAFE.decode(key));
            let bytes = bytes.ok().filter(|bytes| bytes.len() == KEY_LENGTH);
            let key = bytes.and_then(|bytes| UnboundKey::new(&AES_256_GCM, &bytes).ok());
            key.map(LessSafeKey::new).ok_or(SealError::BadKey { position: index + 1 })
        };
        keys.map(key).collect::<Result<_, _>>().map(Self)
    }

    /// A new key, as [`Self::parse`] reads it.
    ///
    /// # Errors
    /// [`SealError::NoRandomness`].
    pub fn generate() -> Result<SecretString, SealError> {
        let mut key = [0; KEY_LENGTH];
        SystemRandom::new().fill(&mut key).map_err(|_| SealError::NoRandomness)?;
        Ok(STANDARD.encode(key).into())
    }

    /// Seals a text with the first key.
    ///
    /// # Errors
    /// [`SealError::NoKey`].
    pub fn seal(&self, kind: Kind, name: &str, text: &SecretString) -> Result<Vec<u8>, SealError> {
        let key = self.0.first().ok_or(SealError::NoKey(kind))?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
        let mut bytes = text.expose_secret().as_bytes().to_vec();
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound_to(kind, name), &mut bytes)
            .expect("AES-GCM seals up to 64 GiB");
        let mut sealed = vec![FORM];
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&bytes);
        Ok(sealed)
    }

    /// Opens what any of the keys sealed under that name.
    ///
    /// # Errors
    /// [`SealError::NoKey`], or [`SealError::Unopened`] when no key fits.
    pub fn open(&self, kind: Kind, name: &str, sealed: &[u8]) -> Result<SecretString, SealError> {
        if self.0.is_empty() {
            return Err(SealError::NoKey(kind));
        }
        let opened = self.0.iter().find_map(|key| open(key, kind, name, sealed));
        opened.ok_or_else(|| SealError::Unopened { kind, name: name.to_owned() })
    }

    /// Whether the first key, the one that seals, opens it.
    #[must_use]
    pub fn is_current(&self, kind: Kind, name: &str, sealed: &[u8]) -> bool {
        self.0.first().is_some_and(|key| open(key, kind, name, sealed).is_some())
    }
}

fn open(key: &LessSafeKey, kind: Kind, name: &str, sealed: &[u8]) -> Option<SecretString> {
    let (nonce, bytes) = sealed.strip_prefix(&[FORM])?.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut bytes = bytes.to_vec();
    let text = key.open_in_place(nonce, bound_to(kind, name), &mut bytes).ok()?;
    std::str::from_utf8(text).ok().map(Into::into)
}

fn bound_to(kind: Kind, name: &str) -> Aad<Vec<u8>> {
    Aad::from(format!("{}\0{name}", kind.as_str()).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(texts: &[&SecretString]) -> SecretKeys {
        let texts: Vec<&str> = texts.iter().map(|text| text.expose_secret()).collect();
        SecretKeys::parse(&texts.join(", ").into()).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_under_its_own_name_and_with_any_of_the_keys() {
        let (old, new) = (SecretKeys::generate().unwrap(), SecretKeys::generate().unwrap());
        let text = SecretString::from("hush");
        let sealed = keys(&[&old]).seal(Kind::Variable, "a", &text).unwrap();
        assert_ne!(sealed, keys(&[&old]).seal(Kind::Variable, "a", &text).unwrap(), "no two are the same");
        assert!(!sealed.windows(4).any(|window| window == b"hush"));
        let both = keys(&[&new, &old]);
        assert_eq!(both.open(Kind::Variable, "a", &sealed).unwrap().expose_secret(), "hush");
        assert!(
            keys(&[&old]).is_current(Kind::Variable, "a", &sealed) && !both.is_current(Kind::Variable, "a", &sealed)
        );
        let unopened = |kind, name: &str, sealed: &[u8]| both.open(kind, name, sealed).unwrap_err();
        for error in [
            unopened(Kind::Variable, "b", &sealed),
            unopened(Kind::Connection, "a", &sealed),
            unopened(Kind::Variable, "a", &sealed[..9]),
            unopened(Kind::Variable, "a", &[]),
            keys(&[&new]).open(Kind::Variable, "a", &sealed).unwrap_err(),
        ] {
            assert!(matches!(error, SealError::Unopened { .. }), "{error}");
        }
        let mut damaged = sealed.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(both.open(Kind::Variable, "a", &damaged).is_err());
    }

    #[test]
    fn without_a_key_nothing_is_sealed_and_a_bad_one_is_not_quoted() {
        let none = SecretKeys::parse(&"".into()).unwrap();
        let error = none.seal(Kind::Connection, "a", &"hush".into()).unwrap_err().to_string();
        assert!(error.contains("export PINSCHED_SECRET_KEY=$(pinsched secrets key)"), "{error}");
        let good = SecretKeys::generate().unwrap();
        let error = SecretKeys::parse(&format!("{},aHVzaA==", good.expose_secret()).into()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "key 2 of PINSCHED_SECRET_KEY is not 32 bytes in base64; `pinsched secrets key` makes one"
        );
        assert_eq!(format!("{:?}", keys(&[&good])), "SecretKeys(1)");
    }
}
