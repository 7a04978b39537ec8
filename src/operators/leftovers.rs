//! What `emulate` staged for runs that are gone.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::connect::Endpoints;
use crate::connect::s3::{S3, S3Error};
use crate::operators::emulate;
use crate::store::{Store, StoreError};

/// So many runs are looked up at once.
const LOOKUP: usize = 1_000;

/// Objects that no run needs any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftovers {
    /// Where they are.
    pub bucket: String,
    /// Whose they were: so many runs that are gone.
    pub runs: usize,
    /// Their keys and sizes in bytes.
    pub objects: Vec<(String, u64)>,
}

/// Why they could not be found or deleted.
#[derive(Debug, thiserror::Error)]
pub enum LeftoversError {
    /// The object store refused.
    #[error(transparent)]
    S3(#[from] S3Error),
    /// The database did.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Looks for objects in the staging bucket whose runs the store does not know.
///
/// They are listed before the runs are looked up, and a run is stored before it stages anything: what is listed and has no
/// run then, has none any more. Unless the bucket is another database's as well: whoever deletes must know that it is not.
///
/// # Errors
/// When bucket or database do not answer. That there is no bucket is no error: nothing was staged.
pub async fn find_leftovers(endpoints: &Endpoints, store: &Store) -> Result<Leftovers, LeftoversError> {
    let bucket = endpoints.s3.staging_bucket.clone();
    let listed = match S3::connect(&endpoints.s3).await.list(&bucket, emulate::STAGING).await {
        Ok(listed) => listed,
        Err(S3Error::NotFound { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let mut by_run: BTreeMap<Uuid, Vec<(String, u64)>> = BTreeMap::new();
    for object in listed {
        if let Some(run) = run_of(&object.key) {
            by_run.entry(run).or_default().push((object.key, object.size));
        }
    }
    let mut known = BTreeSet::new();
    let uuids: Vec<Uuid> = by_run.keys().copied().collect();
    for uuids in uuids.chunks(LOOKUP) {
        known.extend(store.runs_among(uuids).await?);
    }
    by_run.retain(|run, _| !known.contains(run));
    Ok(Leftovers { bucket, runs: by_run.len(), objects: by_run.into_values().flatten().collect() })
}

/// Deletes them. What was deleted before an error stays so.
///
/// # Errors
/// When the object store refuses.
pub async fn delete_leftovers(endpoints: &Endpoints, leftovers: &Leftovers) -> Result<(), LeftoversError> {
    let s3 = S3::connect(&endpoints.s3).await;
    for (key, _) in &leftovers.objects {
        s3.delete(&leftovers.bucket, key).await?;
    }
    Ok(())
}

/// The run of `staging/DAG/RUN/TASK/…`; what is called otherwise is nobody's that is known here.
fn run_of(key: &str) -> Option<Uuid> {
    let mut parts = key.strip_prefix(emulate::STAGING)?.split('/');
    let run = parts.nth(1)?;
    parts.next()?;
    Uuid::parse_str(run).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_called_as_emulate_calls_it_has_a_run() {
        let run = "018f3b0c-7b1a-7cc0-8000-000000000001";
        assert_eq!(run_of(&format!("staging/daily/{run}/draw/fence=1/manifest.json")), Uuid::parse_str(run).ok());
        assert_eq!(run_of(&format!("staging/{run}/draw")), None);
        assert_eq!(run_of(&format!("results/daily/{run}/draw/x")), None);
        assert_eq!(run_of("staging/daily/somebody/else/x"), None);
    }
}
