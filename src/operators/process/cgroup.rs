//! A cgroup of an attempt's own: it bounds how many processes the attempt has at once, and ends all of them, those
//! that have left its process group included.
//!
//! It is made where this process may make one: below its own cgroup, with the `pids` controller of version 2 (as a
//! systemd unit with `Delegate=yes`) or of version 1 (as root). What a killed pinsched left there the next one removes.

use std::fs::{self, File};
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process, test_kill_process};

/// What the names of our cgroups start with; the process id and a number follow.
const NAME: &str = "pinsched-";

/// Where this process goes itself, to make room in the cgroup that was delegated to it.
const OWN: &str = "pinsched";

/// How long killed processes may take to be gone, and how often it is looked.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(5);

/// Where this process may make cgroups; looked for once.
static PARENT: OnceLock<Option<PathBuf>> = OnceLock::new();

/// An attempt's cgroup; dropping it kills what is in it.
pub(super) struct Cgroup {
    path: PathBuf,
    entry: Option<File>,
    is_over: bool,
}

/// What a cgroup saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// How often a process could not be started, since there were as many as may be.
    pub(super) refused: u64,
    /// Whether processes are in it.
    pub(super) is_alive: bool,
}

impl Cgroup {
    /// A new one for so many processes and threads, where this process may make one.
    pub(super) fn new(limit: NonZeroU32) -> io::Result<Option<Self>> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let Some(parent) = PARENT.get_or_init(find_parent) else { return Ok(None) };
        let (path, made) = loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{NAME}{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                // Of a process that had this id before, and was killed a moment ago.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => break (path, made),
            }
        };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        made.map_err(named)?;
        let mut cgroup = Self { path: path.clone(), entry: None, is_over: false };
        fs::write(path.join("pids.max"), limit.to_string()).map_err(named)?;
        cgroup.entry = Some(File::options().write(true).open(path.join("cgroup.procs")).map_err(named)?);
        Ok(Some(cgroup))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What a process writes `0` to in order to be in it; once.
    pub(super) fn take_entry(&mut self) -> Option<File> {
        self.entry.take()
    }

    /// What it has seen so far, and whether something runs in it.
    pub(super) fn seen(&self) -> Seen {
        Seen { refused: refused(&self.path), is_alive: !is_empty(&self.path) }
    }

    /// Kills what is in it, waits until that is gone, and removes it.
    pub(super) async fn end(mut self) {
        self.is_over = true;
        let gone = async {
            while !is_empty(&self.path) || remove(&self.path).is_err() {
                kill_all(&self.path);
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(PATIENCE, gone).await.is_err() {
            tracing::warn!(cgroup = %self.path.display(), "killed processes of a task are not gone yet");
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.is_over {
            kill_all(&self.path);
            // Not empty before those are gone: then the next pinsched removes it.
            let _ = remove(&self.path);
        }
    }
}

/// Kills all processes of a cgroup and of those below it; none can be started there any more.
fn kill_all(cgroup: &Path) {
    // What cannot be written or read is gone already.
    let _ = fs::write(cgroup.join("pids.max"), "0");
    if fs::write(cgroup.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for pid in with_those_below(cgroup).iter().flat_map(|cgroup| processes(cgroup)) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// A cgroup, and those that a task made below it, each before those below it.
fn with_those_below(cgroup: &Path) -> Vec<PathBuf> {
    let mut all = vec![cgroup.to_owned()];
    let mut next = 0;
    while let Some(folder) = all.get(next) {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let below: Vec<PathBuf> = folders.map(|entry| entry.path()).collect();
        all.extend(below);
        next += 1;
    }
    all
}

/// Removes a cgroup without processes, and those below it first; one that is gone is fine.
fn remove(cgroup: &Path) -> io::Result<()> {
    for folder in with_those_below(cgroup).iter().rev() {
        match fs::remove_dir(folder) {
            Err(error) if !is_absent(&error) => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// The processes of a cgroup itself.
fn processes(cgroup: &Path) -> Vec<Pid> {
    let listed = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    listed.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}

fn is_empty(cgroup: &Path) -> bool {
    with_those_below(cgroup).iter().all(|cgroup| processes(cgroup).is_empty())
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn refused(cgroup: &Path) -> u64 {
    let events = fs::read_to_string(cgroup.join("pids.events")).unwrap_or_default();
    let count = events.lines().find_map(|line| line.strip_prefix("max ")?.parse().ok());
    count.unwrap_or_default()
}

/// The cgroup below which this process makes others, if it may.
fn find_parent() -> Option<PathBuf> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (membership, mounts) = (read("/proc/self/cgroup"), read("/proc/self/mountinfo"));
    let found = own_cgroups(&membership, &mounts).into_iter().find_map(|(path, version)| match version {
        Version::One => is_usable(&path).then_some(path),
        Version::Two => {
            let path = if delegates_pids(&path) { Some(path) } else { make_room(&path).ok() }?;
            is_usable(&path).then_some(path)
        }
    });
    match &found {
        Some(path) => remove_leftovers(path),
        None if geteuid().is_root() => tracing::warn!(
            "nothing bounds how many processes a task may have: pinsched runs as root, and cannot make cgroups \
             (as a systemd unit give it a user of its own, or Delegate=yes)"
        ),
        None => {}
    }
    found
}

/// Which cgroups there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The folders of this process's own cgroups that may have the `pids` controller, by `/proc/self/cgroup` and
/// `/proc/self/mountinfo`.
fn own_cgroups(membership: &str, mounts: &str) -> Vec<(PathBuf, Version)> {
    let mut found = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let version = match controllers {
            "" => Version::Two,
            list if list.split(',').any(|controller| controller == "pids") => Version::One,
            _ => continue,
        };
        let folder = mounts.lines().find_map(|mount| folder_of(mount, version, path));
        found.extend(folder.map(|folder| (folder, version)));
    }
    found
}

/// The folder of a cgroup, if this line of `mountinfo` is the mount of its hierarchy.
fn folder_of(mount: &str, version: Version, path: &str) -> Option<PathBuf> {
    let (place, kind) = mount.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point) = (place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    let (name, options) = (kind.next()?, kind.nth(1).unwrap_or_default());
    let fits = match version {
        Version::One => name == "cgroup" && options.split(',').any(|option| option == "pids"),
        Version::Two => name == "cgroup2",
    };
    let below = Path::new(path).strip_prefix(root).ok().filter(|_| fits)?;
    Some(Path::new(point).join(below))
}

/// Whether cgroups below this one of version 2 have the controller.
fn delegates_pids(cgroup: &Path) -> bool {
    let enabled = fs::read_to_string(cgroup.join("cgroup.subtree_control")).unwrap_or_default();
    enabled.split_ascii_whitespace().any(|controller| controller == "pids")
}

/// A cgroup of version 2 with processes in it gives its controllers to none below: where this process is alone in its
/// own, it goes one down.
fn make_room(cgroup: &Path) -> io::Result<PathBuf> {
    let own = Pid::from_raw(std::process::id().cast_signed());
    if processes(cgroup).into_iter().map(Some).ne([own]) {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    let below = cgroup.join(OWN);
    match fs::create_dir(&below) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::write(below.join("cgroup.procs"), "0")?;
    fs::write(cgroup.join("cgroup.subtree_control"), "+pids")?;
    Ok(cgroup.to_owned())
}

/// Tries it out.
fn is_usable(parent: &Path) -> bool {
    let probe = parent.join(format!("{NAME}{}-probe", std::process::id()));
    let _ = fs::remove_dir(&probe); // of one that had this id before
    let tried = fs::create_dir(&probe).and_then(|()| fs::write(probe.join("pids.max"), "1"));
    let _ = fs::remove_dir(&probe); // absent where it could not be made
    tried.is_ok()
}

/// Removes the cgroups of processes that are gone, with what still runs in them. This process has made none yet: those of
/// its id are of one that had it before, as each that is a container's first has.
fn remove_leftovers(parent: &Path) {
    let own = std::process::id().cast_signed();
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(NAME)?.split('-').next()?.parse().ok());
        let Some(owner) = owner else { continue };
        let is_gone = |owner: Pid| test_kill_process(owner).is_err_and(|error| error == rustix::io::Errno::SRCH);
        if owner == own || Pid::from_raw(owner).is_some_and(is_gone) {
            kill_all(&entry.path());
            let _ = remove(&entry.path()); // what is not gone yet goes the next time
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "25 1 0:22 / / rw - ext4 /dev/vda rw
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 /system.slice /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate";

    #[test]
    fn the_own_cgroups_are_found_by_membership_and_mount() {
        let membership = "9:name=systemd:/x\n8:pids:/docker/1\n0::/system.slice/pinsched.service\n";
        let found = own_cgroups(membership, MOUNTS);
        assert_eq!(
            found,
            [
                (PathBuf::from("/sys/fs/cgroup/pids/docker/1"), Version::One),
                (PathBuf::from("/sys/fs/cgroup/unified/pinsched.service"), Version::Two)
            ]
        );
        // What lies outside of what is mounted cannot be reached.
        assert_eq!(own_cgroups("0::/user.slice/x\n", MOUNTS), []);
        assert_eq!(own_cgroups("no line of it", MOUNTS), []);
    }
}
