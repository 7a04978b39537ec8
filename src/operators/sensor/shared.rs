//! Clients that all waiting sensors of a process share: thousands of them look through one.

use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

use crate::connect::Endpoints;

/// A client for each set of endpoints that somebody still has: a process has one.
pub(super) struct Shared<T>(Mutex<Vec<(Weak<Endpoints>, T)>>);

impl<T: Clone> Shared<T> {
    /// None yet.
    pub(super) const fn new() -> Self {
        Self(Mutex::const_new(Vec::new()))
    }

    /// The client of these endpoints; `make` makes it where it is the first that is asked for.
    ///
    /// # Errors
    /// Those of `make`.
    pub(super) async fn of<E>(
        &self,
        endpoints: &Arc<Endpoints>,
        make: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut known = self.0.lock().await;
        known.retain(|(of, _)| of.strong_count() > 0);
        if let Some((_, client)) = known.iter().find(|(of, _)| std::ptr::eq(of.as_ptr(), Arc::as_ptr(endpoints))) {
            return Ok(client.clone());
        }
        let client = make.await?;
        known.push((Arc::downgrade(endpoints), client.clone()));
        Ok(client)
    }
}
