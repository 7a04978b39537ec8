//! The servers that the tests use. `./scripts/test` starts them and says where they are; without it a test that needs
//! one fails and names the variable.

#![expect(clippy::disallowed_methods, reason = "tests are told by the environment where their servers are")]

use std::sync::atomic::{AtomicU32, Ordering};

use secrecy::SecretString;
use sqlx::{Connection, Executor, PgConnection};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests by ./scripts/test"))
}

/// A bootstrap address of Apache Kafka.
pub fn kafka() -> String {
    variable("PINSCHED_TEST_KAFKA")
}

/// The URL of a MariaDB server on which the test may create databases.
pub fn mariadb() -> String {
    variable("PINSCHED_TEST_MARIADB")
}

/// The URL of a Postgres server on which the test may create databases.
pub fn admin_url() -> String {
    variable("PINSCHED_TEST_DATABASE_URL")
}

/// The URL of a transaction pooler in front of a Postgres server.
pub fn pooler() -> String {
    variable("PINSCHED_TEST_PGBOUNCER")
}

/// The URL of a stand-in for AWS Secrets Manager.
pub fn secrets_manager() -> String {
    variable("PINSCHED_TEST_SECRETS_MANAGER")
}

/// The folder of Python's libraries by which traces and lineage are read.
pub fn observers() -> String {
    variable("PINSCHED_TEST_OBSERVERS")
}

/// A new, empty Postgres database of the test's own.
pub async fn database() -> SecretString {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let admin = admin_url();
    let name = format!("it_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect(&admin).await.expect("the test's Postgres answers");
    let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"));
    connection.execute(create).await.expect("the test's Postgres creates databases");
    let mut url = url::Url::parse(&admin).expect("PINSCHED_TEST_DATABASE_URL is a URL");
    url.set_path(&name);
    SecretString::from(url.to_string())
}

/// The directory of PostgreSQL 18's programs, where the machine has them.
pub fn postgres_18() -> Option<std::path::PathBuf> {
    std::env::var_os("PINSCHED_TEST_POSTGRES_18").map(Into::into)
}

/// The one seed that a test with seeds is to replay.
pub fn seed() -> Option<u64> {
    std::env::var("PINSCHED_TEST_SEED").ok().map(|seed| seed.parse().expect("PINSCHED_TEST_SEED is a number"))
}

/// Those of a test's seeds that are to be tried: all, unless one is to be replayed.
pub fn seeds(all: std::ops::Range<u64>) -> Vec<u64> {
    match seed() {
        Some(seed) if all.contains(&seed) => vec![seed],
        Some(_) => Vec::new(),
        None => all.collect(),
    }
}
