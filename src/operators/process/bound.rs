//! How many processes an attempt may have at once, by what binds this process's children: a cgroup where it may make
//! one, else, for an ordinary user, `RLIMIT_NPROC`. Root without cgroups is bound by nothing, and told so once.

use std::fs;
use std::fs::File;
use std::io;
use std::num::NonZeroU32;

use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use tokio::process::Command;

use super::cgroup::Cgroup;

/// What binds an attempt's processes.
pub(super) enum Bound {
    /// All that it starts, whatever they do.
    Cgroup(Cgroup),
    /// All processes of the user together.
    PerUser(Rlimit),
    /// Nothing.
    None,
}

impl Bound {
    /// What binds an attempt to so many processes and threads.
    pub(super) fn new(limit: Option<NonZeroU32>) -> io::Result<Self> {
        let Some(limit) = limit else { return Ok(Self::None) };
        if let Some(cgroup) = Cgroup::new(limit)? {
            return Ok(Self::Cgroup(cgroup));
        }
        if geteuid().is_root() {
            return Ok(Self::None);
        }
        Ok(Self::PerUser(per_user(limit, getrlimit(Resource::Nproc))))
    }

    /// Binds what the command starts.
    pub(super) fn apply(&mut self, command: &mut Command) {
        match self {
            Self::Cgroup(cgroup) => {
                if let Some(entry) = cgroup.take_entry() {
                    before_exec(command, Entry::Cgroup(entry));
                }
            }
            Self::PerUser(limit) => before_exec(command, Entry::Limit(*limit)),
            Self::None => {}
        }
    }
}

/// Linux counts a user's processes and threads together, so those that there are come on top. Those of all users are no
/// fewer, and are told by one small file.
fn per_user(limit: NonZeroU32, now: Rlimit) -> Rlimit {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let there = load.split(' ').nth(3).and_then(|counts| counts.split('/').nth(1)?.parse::<u64>().ok());
    let wanted = u64::from(limit.get()) + there.unwrap_or_default();
    let allowed = |maximum: Option<u64>| Some(maximum.map_or(wanted, |maximum| maximum.min(wanted)));
    let maximum = allowed(now.maximum);
    Rlimit { current: allowed(now.current), maximum }
}

/// What a new process does before it becomes the command.
enum Entry {
    Cgroup(File),
    Limit(Rlimit),
}

fn before_exec(command: &mut Command, entry: Entry) {
    let bind = move || {
        match &entry {
            Entry::Cgroup(file) => rustix::io::write(file, b"0").map(drop)?,
            Entry::Limit(limit) => setrlimit(Resource::Nproc, *limit)?,
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes one system call, and neither allocates nor locks.
    #[expect(unsafe_code, reason = "std has no safe way to bind a process before it becomes another program")]
    unsafe {
        command.pre_exec(bind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_limit_is_beyond_what_runs_and_never_above_what_was_allowed() {
        let limit = NonZeroU32::new(100).unwrap();
        let free = per_user(limit, Rlimit { current: None, maximum: None });
        assert!(free.current.is_some_and(|current| current > 100) && free.maximum == free.current, "{free:?}");
        let tight = per_user(limit, Rlimit { current: Some(7), maximum: Some(9) });
        assert_eq!((tight.current, tight.maximum), (Some(7), Some(9)));
    }
}
