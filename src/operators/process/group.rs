//! A process group that dies with pinsched, even by `kill -9`.
//!
//! Its leader is a small `sh` of our own that waits on a pipe whose other end only this process holds. When this
//! process dies the pipe ends, and the leader kills the group, grandchildren included. (`PR_SET_PDEATHSIG` would reach
//! bash alone, and fires when the thread that spawned it ends.) Since the leader is reaped last, the group's id cannot
//! be another's by the time it is signalled.

use std::io;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

/// Deaf to the signals that ask a group to end, since it has to see to the end that they bring about.
const LEADER: &str = "trap '' TERM INT HUP; read -r line; kill -KILL 0";

/// A process group with its leader; dropping it kills the group.
pub(super) struct ProcessGroup {
    id: Pid,
    leader: Child,
}

impl ProcessGroup {
    /// Starts the leader, and with it the group.
    pub(super) fn new() -> io::Result<Self> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(LEADER).process_group(0);
        // The pipe's writing end stays in `leader.stdin`, closed on exec as all of our descriptors are.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let leader = command.spawn()?;
        let id = leader
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .expect("a process that was not waited for has an id, and it is not 0");
        Ok(Self { id, leader })
    }

    /// The group's id, for `Command::process_group`.
    pub(super) fn id(&self) -> i32 {
        self.id.as_raw_nonzero().get()
    }

    /// Kills what is left of the group.
    pub(super) async fn kill(mut self) {
        self.signal(Signal::KILL);
        // Cannot fail but for a leader that was reaped already, which is what is wanted.
        let _ = self.leader.wait().await;
    }

    /// Sends all of them a signal.
    pub(super) fn signal(&self, signal: Signal) {
        // ESRCH is a group that is gone already; there is no other error for a group of our own.
        let _ = kill_process_group(self.id, signal);
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // After `kill` the leader is reaped and the id may be another's by now.
        if self.leader.id().is_some() {
            self.signal(Signal::KILL);
        }
    }
}
