//! A process group that dies with pinsched, even by `kill -9`, and is bound in its number of processes.
//!
//! Its leader is a small `sh` of our own that waits on a pipe whose other end only this process holds. When this
//! process dies the pipe ends, and the leader kills the group, grandchildren included, and what its cgroup holds, where
//! it has one. (`PR_SET_PDEATHSIG` would reach bash alone, and fires when the thread that spawned it ends.) Since the
//! leader is reaped last, the group's id cannot be another's by the time it is signalled. The leader itself is not in
//! the cgroup: it needs no process to do its part.

use std::io;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use super::bound::Bound;
use super::cgroup::Seen;

/// Deaf to the signals that ask a group to end, since it has to see to the end that they bring about. `$1` is the
/// cgroup's folder, or empty: nothing can be started in it from then on, so that one look at it, and at those that the task
/// made below it, is enough.
const LEADER: &str = "trap '' TERM INT HUP
kill_all() {
    while read -r process; do kill -KILL \"$process\"; done < cgroup.procs
    for below in */ .[!.]*/; do
        if [ -d \"$below\" ] && cd \"$below\"; then kill_all; cd ..; fi
    done
}
read -r line
if [ -n \"$1\" ] && cd \"$1\"; then
    echo 0 > pids.max
    kill_all
fi
kill -KILL 0";

/// A process group with its leader; dropping it kills the group.
pub(super) struct ProcessGroup {
    id: Pid,
    leader: Child,
    bound: Bound,
}

impl ProcessGroup {
    /// Starts the leader, and with it the group, of processes that are bound so.
    pub(super) fn new(bound: Bound) -> io::Result<Self> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(LEADER).arg("sh").process_group(0);
        if let Bound::Cgroup(cgroup) = &bound {
            command.arg(cgroup.path());
        }
        // The pipe's writing end stays in `leader.stdin`, closed on exec as all of our descriptors are.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let leader = command.spawn()?;
        let id = leader
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .expect("a process that was not waited for has an id, and it is not 0");
        Ok(Self { id, leader, bound })
    }

    /// Lets the command be of the group, once it is started.
    pub(super) fn admit(&mut self, command: &mut Command) {
        command.process_group(self.id.as_raw_nonzero().get());
        self.bound.apply(command);
    }

    /// Kills what is left of the group, and of its cgroup; says what that had seen before.
    pub(super) async fn kill(mut self) -> Seen {
        let bound = std::mem::replace(&mut self.bound, Bound::None);
        let seen = match &bound {
            Bound::Cgroup(cgroup) => cgroup.seen(),
            Bound::PerUser(_) | Bound::None => Seen::default(),
        };
        self.signal(Signal::KILL);
        // Cannot fail but for a leader that was reaped already, which is what is wanted.
        let _ = self.leader.wait().await;
        if let Bound::Cgroup(cgroup) = bound {
            cgroup.end().await;
        }
        seen
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
