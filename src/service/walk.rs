//! A walk over a folder of DAG files, which follows symbolic links: git-sync's and those of Kubernetes' ConfigMaps are how
//! many folders of DAGs are deployed.
//!
//! A link back to a folder that it lies in is not followed, and so are, where a folder is come by once more, the links to
//! folders in it: a walk ends, and takes each link once at most. Behind a link it reads so many folders and no more: a link to
//! a whole lake, or to `/`, is a slip.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

/// As many links on the way to one file as Linux itself follows.
const LONGEST_CHAIN: usize = 40;

/// So many folders behind one link are read; each costs a watch, and time at every look. Whoever deploys DAGs by a link has a
/// few.
pub(super) const FOLDERS_BEHIND_LINK: usize = 1_000;

/// What a walk came by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// As it was walked to.
    pub(super) path: PathBuf,
    /// Where it really is, without a link on the way.
    pub(super) real: PathBuf,
    pub(super) what: What,
}

/// What something is that a walk came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A file to be read; also what cannot be read, which reading it says.
    File,
    /// A link with more folders behind it than are read: what is in the others is not among what was found.
    CutLink,
}

/// Told of each folder before it is read, and of each name that the way passes; all of them as they really are, without a
/// link on the way to them.
pub(super) trait Witness {
    /// This folder is about to be read.
    fn folder(&mut self, folder: &Path);
    /// What this name in that folder stands for counts.
    fn name(&mut self, folder: &Path, name: &OsStr);
}

/// Nobody is told.
impl Witness for () {
    fn folder(&mut self, _: &Path) {}
    fn name(&mut self, _: &Path, _: &OsStr) {}
}

/// The `*.yaml` and `*.yml` files of a folder and of the folders in it, in order of name, hidden ones aside; or the file
/// itself. Nothing where nothing is, and part of it where it `is_over` before its end.
pub(super) fn walk(root: &Path, witness: &mut dyn Witness, is_over: &dyn Fn() -> bool) -> Vec<Found> {
    let real = follow(root, witness);
    let (within, known) = (Vec::new(), HashSet::new());
    let mut walk = Walk { witness, is_over, found: Vec::new(), within, known, behind_link: None };
    match real {
        Ok(real) if real.is_dir() => walk.folder(root, real),
        Ok(real) => walk.file(root.to_owned(), real),
        Err(_) => {}
    }
    walk.found
}

struct Walk<'a> {
    witness: &'a mut dyn Witness,
    is_over: &'a dyn Fn() -> bool,
    found: Vec<Found>,
    /// The folders that this one lies in, on this way, as they really are.
    within: Vec<PathBuf>,
    /// All folders that were come by.
    known: HashSet<PathBuf>,
    /// Behind a link: how many folders were come by since.
    behind_link: Option<usize>,
}

impl Walk<'_> {
    fn file(&mut self, path: PathBuf, real: PathBuf) {
        self.found.push(Found { path, real, what: What::File });
    }

    /// Whether nothing more is read: at all, or behind this link.
    fn is_enough(&self) -> bool {
        self.behind_link.is_some_and(|folders| folders > FOLDERS_BEHIND_LINK) || (self.is_over)()
    }

    fn folder(&mut self, path: &Path, real: PathBuf) {
        if self.within.contains(&real) {
            return;
        }
        self.behind_link = self.behind_link.map(|folders| folders.saturating_add(1));
        if self.is_enough() {
            return;
        }
        let is_known = !self.known.insert(real.clone());
        self.witness.folder(&real);
        let Ok(entries) = std::fs::read_dir(path) else {
            self.file(path.to_owned(), real);
            return;
        };
        let mut entries: Vec<_> = entries.take_while(|_| !(self.is_over)()).filter_map(Result::ok).collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        self.within.push(real.clone());
        for entry in entries {
            if self.is_enough() {
                break;
            }
            let name = entry.file_name();
            let Ok(kind) = entry.file_type() else { continue }; // it is gone
            if name.to_string_lossy().starts_with('.') {
                continue;
            }
            let path = path.join(&name);
            if kind.is_symlink() {
                self.link(path, real.join(name), is_known);
            } else if kind.is_dir() {
                self.folder(&path, real.join(name));
            } else if kind.is_file() && is_yaml(&path) {
                self.file(path, real.join(name));
            }
        }
        self.within.pop();
    }

    fn link(&mut self, path: PathBuf, real: PathBuf, is_known: bool) {
        match follow(&real, self.witness) {
            Ok(target) if target.is_dir() => {
                if !is_known {
                    self.linked(path, target);
                }
            }
            // A named pipe, a socket or a device would be waited for; nobody puts them into a folder of DAGs.
            Ok(target) if !target.is_file() => {}
            found => {
                if is_yaml(&path) {
                    self.file(path, found.unwrap_or(real));
                }
            }
        }
    }

    /// A folder behind a link. Links in it count with it: it is what a person has linked.
    fn linked(&mut self, path: PathBuf, target: PathBuf) {
        if self.behind_link.is_some() {
            self.folder(&path, target);
            return;
        }
        self.behind_link = Some(0);
        self.folder(&path, target.clone());
        if self.behind_link.take().is_some_and(|folders| folders > FOLDERS_BEHIND_LINK) {
            self.found.push(Found { path, real: target, what: What::CutLink });
        }
    }
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// Where a path really leads. The witness is told of every link on the way, and of the end, there or missing.
fn follow(path: &Path, witness: &mut dyn Witness) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut ahead: Vec<PathBuf> = backwards(&path);
    let (mut at, mut links) = (PathBuf::new(), 0);
    while let Some(part) = ahead.pop() {
        match part.components().next() {
            Some(Component::RootDir | Component::Prefix(_)) => at = part,
            Some(Component::ParentDir) => drop(at.pop()),
            Some(Component::CurDir) | None => {}
            Some(Component::Normal(name)) => {
                let next = at.join(name);
                let found = std::fs::symlink_metadata(&next).inspect_err(|_| witness.name(&at, name))?;
                if !found.is_symlink() {
                    at = next;
                    continue;
                }
                witness.name(&at, name);
                links += 1;
                if links > LONGEST_CHAIN {
                    return Err(io::Error::other("too many symbolic links on the way"));
                }
                ahead.extend(backwards(&std::fs::read_link(&next)?));
            }
        }
    }
    if let (Some(folder), Some(name)) = (at.parent(), at.file_name()) {
        witness.name(folder, name);
    }
    Ok(at)
}

/// The parts of a path, the last one first.
fn backwards(path: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<PathBuf> = path.components().map(|part| PathBuf::from(part.as_os_str())).collect();
    parts.reverse();
    parts
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;

    use super::*;

    #[derive(Default)]
    struct Told {
        folders: BTreeSet<PathBuf>,
        names: BTreeSet<PathBuf>,
    }

    impl Witness for Told {
        fn folder(&mut self, folder: &Path) {
            self.folders.insert(folder.to_owned());
        }

        fn name(&mut self, folder: &Path, name: &OsStr) {
            self.names.insert(folder.join(name));
        }
    }

    /// A scratch folder with these files, as it really is.
    fn scratch(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        for file in files {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        (scratch, root)
    }

    fn found(root: &Path, told: &mut Told) -> Vec<String> {
        let found = walk(root, told, &|| false);
        for found in found.iter().filter(|found| found.real.exists()) {
            assert_eq!(found.real, found.path.canonicalize().unwrap());
        }
        found.iter().map(|found| found.path.strip_prefix(root).unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn links_to_folders_and_files_are_followed_and_hidden_ones_are_not() {
        let (_scratch, root) =
            scratch(&["dags/b.yaml", "dags/.git/c.yaml", "dags/d.txt", "else/x/e.yml", "else/f.yaml"]);
        symlink("../else/x", root.join("dags/a")).unwrap();
        symlink(root.join("else/f.yaml"), root.join("dags/z.yaml")).unwrap();
        symlink("nowhere", root.join("dags/y.yaml")).unwrap();
        let mut told = Told::default();
        assert_eq!(found(&root.join("dags"), &mut told), ["a/e.yml", "b.yaml", "y.yaml", "z.yaml"]);
        assert_eq!(told.folders, [root.join("dags"), root.join("else/x")].into());
        let of_links = ["dags", "dags/a", "else/x", "dags/z.yaml", "else/f.yaml", "dags/y.yaml", "dags/nowhere"];
        assert_eq!(told.names, of_links.iter().map(|name| root.join(name)).collect());
    }

    /// As git-sync does it (`current` is swapped), and as a ConfigMap is mounted (`..data` is).
    #[test]
    fn every_link_on_the_way_is_told_of() {
        let (_scratch, root) = scratch(&[".worktrees/abc/dags/a.yaml", "mount/..2026/b.yaml"]);
        symlink(".worktrees/abc", root.join("current")).unwrap();
        let mut told = Told::default();
        assert_eq!(found(&root.join("current/dags"), &mut told), ["a.yaml"]);
        assert_eq!(told.folders, [root.join(".worktrees/abc/dags")].into());
        assert!(told.names.contains(&root.join("current")), "{:?}", told.names);
        symlink("..2026", root.join("mount/..data")).unwrap();
        symlink("..data/b.yaml", root.join("mount/b.yaml")).unwrap();
        assert_eq!(found(&root.join("mount"), &mut told), ["b.yaml"]);
        assert!(told.names.contains(&root.join("mount/..data")), "{:?}", told.names);
    }

    #[test]
    fn links_that_lead_back_end_the_walk() {
        let (_scratch, root) = scratch(&["dags/a.yaml", "dags/in/b.yaml"]);
        symlink("..", root.join("dags/in/up")).unwrap();
        symlink(".", root.join("dags/self")).unwrap();
        symlink("loop", root.join("dags/loop")).unwrap();
        assert_eq!(found(&root.join("dags"), &mut Told::default()), ["a.yaml", "in/b.yaml"]);
    }

    /// Of folders with links to each other there are as many ways through as there are orders: 10 make millions.
    #[test]
    fn links_crosswise_do_not_multiply() {
        let names: Vec<String> = (0..10).map(|number| format!("{number}/a.yaml")).collect();
        let (_scratch, root) = scratch(&names.iter().map(String::as_str).collect::<Vec<_>>());
        for from in 0..10 {
            for to in 0..10 {
                symlink(format!("../{to}"), root.join(format!("{from}/to{to}"))).unwrap();
            }
        }
        let files = found(&root, &mut Told::default());
        assert!(files.len() < 200, "{}", files.len());
        for number in 0..10 {
            assert!(files.contains(&format!("{number}/a.yaml")), "{files:?}");
        }
    }

    /// As a link in the folder of DAGs to a whole lake.
    #[test]
    fn behind_a_link_the_walk_ends_after_so_many_folders() {
        let (_scratch, root) = scratch(&["dags/z.yaml", "small/s.yaml", "lake/a.yaml"]);
        for number in 0..1_500 {
            std::fs::create_dir(root.join(format!("lake/{number:04}"))).unwrap();
        }
        std::fs::write(root.join("lake/0000/first.yaml"), "").unwrap();
        std::fs::write(root.join("lake/1499/last.yaml"), "").unwrap();
        symlink("../lake", root.join("dags/data")).unwrap();
        symlink("../small", root.join("dags/team")).unwrap();
        symlink("../small", root.join("lake/inner")).unwrap();
        let mut told = Told::default();
        let found = found(&root.join("dags"), &mut told);
        assert!(told.folders.len() < 1_100, "{} folders were read", told.folders.len());
        assert_eq!(found, ["data/0000/first.yaml", "data", "team/s.yaml", "z.yaml"]);
    }

    #[test]
    fn a_walk_that_is_over_reads_no_further() {
        struct Counted<'c>(&'c Cell<usize>);
        impl Witness for Counted<'_> {
            fn folder(&mut self, _: &Path) {
                self.0.set(self.0.get() + 1);
            }

            fn name(&mut self, _: &Path, _: &OsStr) {}
        }
        let (_scratch, root) = scratch(&["a/a.yaml", "b/b.yaml", "c/c.yaml"]);
        for most in [0, 2] {
            let folders = Cell::new(0);
            walk(&root, &mut Counted(&folders), &|| folders.get() >= most);
            assert_eq!(folders.get(), most);
        }
    }

    #[test]
    fn what_is_missing_is_told_of_where_it_would_come() {
        let (_scratch, root) = scratch(&[]);
        let mut told = Told::default();
        assert_eq!(walk(&root.join("dags/deep"), &mut told, &|| false), []);
        assert_eq!(told.names, [root.join("dags")].into());
    }
}
