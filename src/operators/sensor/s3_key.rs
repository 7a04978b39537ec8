//! `s3_key_sensor`: waits for objects in S3.

use std::convert::Infallible;

use async_trait::async_trait;
use regex::Regex;

use super::patience::sensor_keys;
use super::shared::Shared;
use super::watch::{Look, Seen};
use super::{Sensor, build, check, met};
use crate::connect::s3::{S3, S3Error};
use crate::domain::operator_kind::{ConfigProblem, OperatorKind};
use crate::engine::operator::{Failure, Registration, TaskContext};

pub(in crate::operators) const REGISTRATION: Registration = Registration { kind: &KIND, build: build::<S3Key> };

static KIND: OperatorKind = OperatorKind {
    name: "s3_key_sensor",
    class_paths: &[
        "airflow.providers.amazon.aws.sensors.s3.S3KeySensor",
        "airflow.providers.amazon.aws.sensors.s3_key.S3KeySensor",
        "airflow.sensors.s3_key_sensor.S3KeySensor",
    ],
    about: "Waits for objects in S3",
    schema: || schemars::schema_for!(S3Key),
    check: check::<S3Key>,
    late_fields: &[],
    file_keys: &[],
};

static CLIENTS: Shared<S3> = Shared::new();

sensor_keys! {
    /// The keys of a `s3_key_sensor` task.
    S3Key {
        /// The key or the keys, all of which are waited for: as `s3://bucket/key`, or below `bucket_name`.
        bucket_key: BucketKeys,
        /// The bucket of keys that do not name one.
        #[serde(default)]
        bucket_name: Option<String>,
        /// Whether `*`, `?` and `[…]` in keys stand for other characters, `/` among them.
        #[serde(default)]
        wildcard_match: bool,
    }
}

/// One key or several.
#[derive(Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
enum BucketKeys {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl BucketKeys {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(key) => std::slice::from_ref(key),
            Self::Several(keys) => keys,
        }
    }
}

impl S3Key {
    /// The bucket and the key that one of the keys means.
    fn place<'a>(&'a self, key: &'a str) -> Result<(&'a str, &'a str), ConfigProblem> {
        let problem = |message: &str| ConfigProblem::at("bucket_key", format!("`{key}` {message}"));
        let (bucket, key) = match (key.strip_prefix("s3://"), &self.bucket_name) {
            (Some(_), Some(_)) => {
                return Err(problem("names its bucket: leave out `bucket_name`, or give the key alone"));
            }
            (Some(place), None) => place.split_once('/').ok_or_else(|| problem("has no key"))?,
            (None, Some(bucket)) => (bucket.as_str(), key),
            (None, None) => {
                return Err(problem("names no bucket").help("write it as `s3://bucket/key`, or give `bucket_name`"));
            }
        };
        if bucket.is_empty() || key.is_empty() { Err(problem("has no bucket or no key")) } else { Ok((bucket, key)) }
    }

    async fn is_there(&self, s3: &S3, bucket: &str, key: &str) -> Result<bool, S3Error> {
        let found = match key.find(['*', '?', '[']).filter(|_| self.wildcard_match) {
            None => s3.head(bucket, key).await.map(|head| head.is_some()),
            Some(first) => {
                let pattern = pattern(key);
                let listed = s3.list(bucket, &key[..first]).await;
                listed
                    .map(|listed| listed.iter().any(|object| pattern.as_ref().is_some_and(|p| p.is_match(&object.key))))
            }
        };
        match found {
            // To ask for one object does not tell a missing bucket from a missing object; so neither does a list.
            Err(S3Error::NoSuchBucket { .. }) => Ok(false),
            found => found,
        }
    }
}

impl Sensor for S3Key {
    fn problems(&self) -> Vec<ConfigProblem> {
        let keys = self.bucket_key.as_slice();
        let mut problems: Vec<ConfigProblem> = keys.iter().filter_map(|key| self.place(key).err()).collect();
        if keys.is_empty() {
            problems.push(ConfigProblem::at("bucket_key", "it names no key"));
        }
        for key in keys.iter().filter(|key| self.wildcard_match && pattern(key).is_none()) {
            problems.push(ConfigProblem::at("bucket_key", format!("`{key}` is no pattern")));
        }
        problems
    }
}

#[async_trait]
impl Look for S3Key {
    async fn look(&self, context: &TaskContext) -> Result<Seen, Failure> {
        let connect = async { Ok::<S3, Infallible>(S3::connect(&context.endpoints.s3).await) };
        let s3 = match CLIENTS.of(&context.endpoints, connect).await {
            Ok(s3) => s3,
            Err(never) => match never {},
        };
        for key in self.bucket_key.as_slice() {
            let (bucket, key) = self.place(key).map_err(|problem| Failure::Fatal(problem.message))?;
            let found = self.is_there(&s3, bucket, key).await;
            if !found.map_err(|error| failure(&error))? {
                return Ok(Seen::NotYet(format!("s3://{bucket}/{key} is not there")));
            }
        }
        Ok(Seen::Met(met(true)))
    }
}

fn failure(error: &S3Error) -> Failure {
    if error.is_transient() { Failure::retry(error) } else { Failure::fatal(error) }
}

/// Python's `fnmatch`: `*` is anything, `?` one character, `[ab]` one of these, `[!ab]` none of these.
fn pattern(key: &str) -> Option<Regex> {
    let mut expression = String::from("(?s)^");
    let mut rest = key;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        match character {
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            '[' => match rest.get(1..).and_then(|more| more.find(']')) {
                Some(end) => {
                    let (set, after) = rest.split_at(end + 1);
                    let (is_not, set) = set.strip_prefix('!').map_or((false, set), |set| (true, set));
                    let set = set.replace('\\', "\\\\").replace('[', "\\[").replace('^', "\\^").replace('&', "\\&");
                    expression.push_str(if is_not { "[^" } else { "[" });
                    expression.push_str(&set);
                    expression.push(']');
                    rest = &after[1..];
                }
                None => expression.push_str("\\["),
            },
            other => expression.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    expression.push('$');
    Regex::new(&expression).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_pythons() {
        let fits = |key: &str, object: &str| pattern(key).unwrap().is_match(object);
        assert!(fits("a/*.parquet", "a/b/c.parquet"));
        assert!(fits("a/?.csv", "a/b.csv"));
        assert!(!fits("a/?.csv", "a/bb.csv"));
        assert!(fits("day=[0-3]?", "day=31"));
        assert!(!fits("day=[!0-3]?", "day=31"));
        assert!(fits("a[b", "a[b"));
        assert!(!fits("a.b", "acb"));
    }
}
