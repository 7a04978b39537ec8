//! Which errors of somebody else's database pass by themselves. (The store has rules of its own for pinsched's.)

use sqlx::error::DatabaseError;

/// The classes of SQLSTATE that pass: connection exceptions, rollbacks (deadlocks, serialization), insufficient
/// resources (a full disk among them), locks, operator intervention.
const PASSING: [&str; 5] = ["08", "40", "53", "55", "57"];

/// Whether trying the same again later may help.
#[must_use]
pub fn may_pass(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => says_so(error.as_ref()),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) => true,
        _ => false,
    }
}

/// MySQL says `HY000` of what has no class in the standard: lock wait timeouts, a full disk, a server that shuts down.
fn says_so(error: &dyn DatabaseError) -> bool {
    error.code().is_some_and(|code| code == "HY000" || PASSING.iter().any(|class| code.starts_with(class)))
}
