//! Rings the bells of this process for what other processes tell.

use std::time::Duration;

use crate::engine::bells::Bells;
use crate::engine::operator::chain;
use crate::engine::shutdown::Shutdown;
use crate::store::{Listener, Store, Word};

/// The wait before the database is asked again after it did not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// Listens until the process stops.
pub(super) async fn listen(store: Store, bells: Bells, shutdown: Shutdown) {
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
            Ok(Some(Word::Work)) => bells.work().ring(),
            Ok(Some(Word::Look)) => bells.look().ring(),
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
