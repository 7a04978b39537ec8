//! Rings the bells of this process for what other processes tell, and tells them what this process has no part for.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::engine::bells::{Bell, Bells};
use crate::engine::operator::chain;
use crate::engine::shutdown::Shutdown;
use crate::service::Role;
use crate::store::{Listener, Store, Word};

/// The wait before the database is asked again after it did not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// Listens until the process stops, for the parts that it has: what it has none for it would only pass on for ever.
pub(super) async fn listen(store: Store, bells: Bells, roles: BTreeSet<Role>, shutdown: Shutdown) {
    let works = roles.contains(&Role::Worker);
    let schedules = roles.contains(&Role::Scheduler);
    let mut listener: Option<Listener> = None;
    loop {
        let heard = async {
            let listening = match listener.take() {
                Some(listening) => listening,
                None => store.listen().await?,
            };
            listener.insert(listening).heard().await
        };
        let heard = tokio::select! {
            heard = heard => heard,
            () = shutdown.drained() => return,
        };
        match heard {
            Ok(Some(Word::Work)) if works => bells.work().ring(),
            Ok(Some(Word::Look)) => bells.look().ring(),
            Ok(Some(Word::Turn)) if schedules => bells.turn().ring(),
            Ok(Some(Word::Work | Word::Turn)) => {}
            Ok(Some(Word::Schedule)) => bells.schedule().ring(),
            Ok(None) => {
                bells.look().ring();
                bells.schedule().ring();
            }
            Err(error) => {
                tracing::debug!(error = %chain(&error), "could not listen to other processes");
                listener = None;
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => {}
                    () = shutdown.drained() => return,
                }
            }
        }
    }
}

/// Tells the other processes whenever a bell is rung that nobody waits for in this one, until the process stops.
pub(super) async fn pass_on(store: Store, bell: Bell, word: Word, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = bell.rung() => {
                if let Err(error) = store.tell(word).await {
                    tracing::debug!(error = %chain(&error), "could not tell other processes");
                }
            }
            () = shutdown.drained() => return,
        }
    }
}
