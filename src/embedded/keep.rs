//! Keeping the stack for a process that goes on using it: one that was killed, or that could not go on, is started
//! again, on the ports that the process knows. Of several processes that keep one home's stack each may start it: the
//! home's lock tells them apart (`lease`).

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::component::Ports;
use super::control::End;
use super::error::{StackError, told};
use super::lease::{StackLease, attach_at};
use super::restarts::{PAUSE, STEADY};
use super::stack::HOME_GONE;

/// How long a stack that does not come back is tried: as long as a run waits for its database.
const LIMIT: Duration = Duration::from_secs(300);
/// The waits between tries are those between a part's restarts, up to this one.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What becomes of a stack that is kept.
#[derive(Debug)]
pub enum StackNews {
    /// It was killed, or could not go on, for a reason that it told; it is started again.
    Lost(Option<String>),
    /// It is where it was.
    Back,
    /// It could not be started for now.
    Failing(StackError),
}

impl fmt::Display for StackNews {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(None) => write!(formatter, "the embedded stack was killed: starting it again"),
            Self::Lost(Some(reason)) => write!(formatter, "the embedded stack went away: starting it again ({reason})"),
            Self::Back => write!(formatter, "the embedded stack is back"),
            Self::Failing(error) => {
                let minutes = LIMIT.as_secs() / 60;
                write!(formatter, "the embedded stack is tried again for {minutes} minutes: {}", told(error))
            }
        }
    }
}

/// The wait before the next try to start a stack. It grows from one loss to the next as well: a stack that ends soon after
/// each start is not started in a whirl.
struct Pause(Duration);

impl Pause {
    fn none() -> Self {
        Self(Duration::ZERO)
    }

    async fn wait(&mut self) {
        sleep(self.0).await;
        self.0 = (self.0 * 2).clamp(PAUSE, LONGEST_PAUSE);
    }
}

impl StackLease {
    /// Holds the stack, and starts it again whenever it is lost. Returns why it no longer does: somebody stopped the
    /// stack, it is elsewhere now, or it did not come back within five minutes of its last loss.
    pub async fn keep(&mut self, tell: &mut (dyn FnMut(StackNews) + Send)) -> StackError {
        let mut pause = Pause::none();
        loop {
            let since = Instant::now();
            let reason = match self.ended().await {
                Some(End::Stopped(reason)) => return self.stopped(reason),
                Some(End::Broken(reason)) => Some(reason),
                None => None,
            };
            if since.elapsed() > STEADY {
                pause = Pause::none();
            }
            tell(StackNews::Lost(reason));
            if let Err(error) = self.restore(&mut pause, tell).await {
                return error;
            }
            tell(StackNews::Back);
        }
    }

    async fn restore(&mut self, pause: &mut Pause, tell: &mut (dyn FnMut(StackNews) + Send)) -> Result<(), StackError> {
        let lost = Instant::now();
        let mut said = String::new();
        loop {
            pause.wait().await;
            // A new home in its place would be another one, with nothing in it.
            if !self.home().path().is_dir() {
                return Err(self.stopped(HOME_GONE.to_owned()));
            }
            match attach_at(&self.request, Ports::Kept, &mut |_| {}).await {
                Ok(lease) => {
                    let is_there = |component| self.urls().agree(lease.urls(), component);
                    if !self.request.components.iter().copied().all(is_there) {
                        return Err(StackError::Moved { home: self.home().path().to_owned() });
                    }
                    *self = lease;
                    return Ok(());
                }
                Err(error @ StackError::Stopped { .. }) => return Err(error),
                Err(error) if lost.elapsed() > LIMIT => return Err(error),
                Err(error) => {
                    let words = told(&error);
                    if words != said {
                        tell(StackNews::Failing(error));
                        said = words;
                    }
                }
            }
        }
    }

    fn stopped(&self, reason: String) -> StackError {
        StackError::Stopped { home: self.home().path().to_owned(), reason }
    }
}
