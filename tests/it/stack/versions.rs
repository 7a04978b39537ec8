//! Old and new PostgreSQL: Debian's own, and the one whose programs `PINSCHED_TEST_POSTGRES_18` names.

use super::scratch::{Scratch, gone, lease, major_version, not_run, try_lease};
use crate::services;

#[tokio::test]
async fn the_newest_postgres_works_and_its_data_is_not_given_to_another() {
    let Some(newest) = services::postgres_18() else {
        not_run("PINSCHED_TEST_POSTGRES_18 names no directory of PostgreSQL 18's programs");
        return;
    };
    let scratch = Scratch::new();
    let mut request = scratch.request("home");
    request.postgres_bin = Some(newest);
    let held = lease(&request).await;
    assert_eq!(major_version(&held).await, 18);
    drop(held);
    gone(&request.home).await;
    request.postgres_bin = None;
    let error = try_lease(&request).await.unwrap_err().to_string();
    assert!(error.contains("was made by PostgreSQL 18, and this machine has "), "{error}");
}

#[tokio::test]
async fn a_machine_without_the_programs_is_told_what_to_install() {
    let scratch = Scratch::new();
    let mut request = scratch.request("home");
    request.postgres_bin = Some(scratch.path().to_owned());
    let error = try_lease(&request).await.unwrap_err().to_string();
    assert!(error.contains("which has no initdb and postgres that can be run"), "{error}");
}
