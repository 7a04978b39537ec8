//! DAG folders with symbolic links in them, as git-sync and Kubernetes' ConfigMaps deploy them: a swap is a change.

use std::os::unix::fs::symlink;
use std::time::Duration;

use pinsched::store::{DagState, ImportError};
use tokio::time::Instant;

use super::Served;

/// The slow look is every 30 s: what takes less was told of.
const AT_ONCE: Duration = Duration::from_secs(10);

const ONE: &str = "orders: {tasks: {one: {operator: script}}}";
const TWO: &str = "orders: {tasks: {one: {operator: script}, two: {operator: script}}}";
const THREE: &str = "orders: {tasks: {one: {operator: script}, two: {operator: script}, three: {operator: script}}}";

impl Served {
    fn deploy(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Lets a link lead elsewhere, at once: a new link is moved to where the old one is.
    fn swap(&self, link: &str, target: &str) {
        let beside = self.path(&format!("{link}.new"));
        symlink(target, &beside).unwrap();
        std::fs::rename(beside, self.path(link)).unwrap();
    }

    /// The DAG's next version, which comes at once.
    async fn next(&self, before: &DagState) -> DagState {
        let begun = Instant::now();
        let next = self.dag("orders", |state| state.version != before.version).await;
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        assert_eq!(next.key, before.key);
        assert!(next.retired_at.is_none());
        next
    }

    async fn told(&self) -> ImportError {
        let errors = async |house: &crate::dags::House| house.store.import_errors().await.unwrap().into_iter().next();
        self.until("what is wrong", errors).await
    }

    async fn untold(&self) {
        let none =
            async |house: &crate::dags::House| house.store.import_errors().await.unwrap().is_empty().then_some(());
        self.until("the error's end", none).await;
    }
}

/// git-sync: what is followed lies behind a link, which is swapped for each commit.
#[tokio::test]
async fn a_folder_behind_a_link_that_is_swapped_is_followed_to_where_it_leads() {
    let mut served = Served::nothing().await;
    served.deploy(".worktrees/aaa/dags/orders.yaml", ONE);
    served.deploy(".worktrees/bbb/dags/orders.yaml", TWO);
    symlink(".worktrees/aaa", served.path("current")).unwrap();
    served.within = Some("current/dags");
    served.start().await;
    let first = served.dag("orders", |state| state.version.is_some()).await;
    assert!(first.file.as_deref().unwrap().ends_with("/current/dags/orders.yaml"), "{first:?}");
    served.swap("current", ".worktrees/bbb");
    let second = served.next(&first).await;
    // git-sync deletes what is no more used.
    std::fs::remove_dir_all(served.path(".worktrees/aaa")).unwrap();
    // What it leads to now is watched as well.
    served.deploy(".worktrees/bbb/dags/orders.yaml", THREE);
    let third = served.next(&second).await;
    served.deploy(".worktrees/ccc/dags/orders.yaml", ONE);
    served.swap("current", ".worktrees/ccc");
    served.next(&third).await;
    served.untold().await;
    served.stop().await;
}

/// A ConfigMap that is mounted: each file is a link through `..data`, which is swapped.
#[tokio::test]
async fn a_config_map_that_changes_is_live_at_once() {
    let mut served = Served::nothing().await;
    served.deploy("..2026_01/orders.yaml", ONE);
    symlink("..2026_01", served.path("..data")).unwrap();
    symlink("..data/orders.yaml", served.path("orders.yaml")).unwrap();
    served.start().await;
    let first = served.dag("orders", |state| state.version.is_some()).await;
    served.deploy("..2026_02/orders.yaml", TWO);
    served.swap("..data", "..2026_02");
    std::fs::remove_dir_all(served.path("..2026_01")).unwrap();
    served.next(&first).await;
    served.untold().await;
    served.stop().await;
}

#[tokio::test]
async fn linked_folders_within_are_followed_and_swapped_and_links_back_end() {
    let mut served = Served::nothing().await;
    served.deploy("dags/own.yaml", "own: {tasks: {one: {operator: script}}}");
    served.deploy("team1/orders.yaml", ONE);
    served.deploy("team2/orders.yaml", TWO);
    symlink("../team1", served.path("dags/team")).unwrap();
    symlink("..", served.path("dags/.up")).unwrap();
    symlink(".", served.path("dags/self")).unwrap();
    served.within = Some("dags");
    served.start().await;
    let first = served.dag("orders", |state| state.version.is_some()).await;
    served.swap("dags/team", "../team2");
    let second = served.next(&first).await;
    served.deploy("team2/orders.yaml", THREE);
    let third = served.next(&second).await;
    // The whole folder is moved away, and another is put in its place.
    served.deploy("other/orders.yaml", TWO);
    std::fs::rename(served.path("dags"), served.path("old")).unwrap();
    std::fs::rename(served.path("other"), served.path("dags")).unwrap();
    let fourth = served.next(&third).await;
    served.deploy("dags/orders.yaml", ONE);
    served.next(&fourth).await;
    served.dag("own", |state| state.retired_at.is_some()).await;
    served.stop().await;
}

#[tokio::test]
async fn a_file_by_two_paths_is_one_problem_and_runs_from_where_it_ran() {
    let mut served = Served::nothing().await;
    served.deploy(
        "m/orders.yaml",
        "orders: {tasks: {one: {operator: script}}}\nmore: {tasks: {one: {operator: script}}}",
    );
    served.start().await;
    let first = served.dag("orders", |state| state.version.is_some()).await;
    symlink("m", served.path("a")).unwrap();
    let error = served.told().await;
    assert!(error.file.ends_with("/a/orders.yaml"), "{error:?}");
    let words = "/m/orders.yaml`, by a symbolic link; its DAGs are taken from there; remove the link";
    assert!(error.message.contains("is the same file as") && error.message.contains(words), "{}", error.message);
    assert_eq!(served.house.store.import_errors().await.unwrap().len(), 1);
    assert_eq!(served.dag("orders", |_| true).await, first);
    std::fs::remove_file(served.path("a")).unwrap();
    served.untold().await;
    assert_eq!(served.dag("orders", |_| true).await, first);
    served.stop().await;
}

/// The file itself is the same one, and looks the same: what its path leads to is not where it was.
#[tokio::test]
async fn where_a_file_is_is_found_anew_when_the_folder_behind_a_link_is_renamed() {
    let mut served = Served::nothing().await;
    served.deploy("team1/orders.yaml", ONE);
    served.deploy("dags/own.yaml", "own: {tasks: {one: {operator: script}}}");
    symlink("../team1", served.path("dags/team")).unwrap();
    served.within = Some("dags");
    served.start().await;
    served.dag("orders", |state| state.version.is_some()).await;
    std::fs::rename(served.path("team1"), served.path("team2")).unwrap();
    served.swap("dags/team", "../team2");
    served.deploy("team1/orders.yaml", "users: {tasks: {one: {operator: script}}}");
    symlink("../team1", served.path("dags/another")).unwrap();
    served.dag("users", |state| state.version.is_some()).await;
    served.untold().await;
    served.dag("orders", |state| state.retired_at.is_none()).await;
    served.stop().await;
}

/// A link to a whole lake: what is behind it is looked at no further than it is worth, and it is told.
#[tokio::test]
async fn a_link_to_a_great_many_folders_is_told_of_until_it_is_gone() {
    let mut served = Served::nothing().await;
    served.deploy("dags/orders.yaml", ONE);
    for number in 0..1_100 {
        std::fs::create_dir_all(served.path(&format!("lake/{number:04}"))).unwrap();
    }
    symlink("../lake", served.path("dags/data")).unwrap();
    served.within = Some("dags");
    served.start().await;
    served.dag("orders", |state| state.version.is_some()).await;
    let error = served.told().await;
    assert!(error.file.ends_with("/dags/data"), "{error:?}");
    let words = "is a symbolic link with more than 1000 folders behind it";
    assert!(error.message.contains(words) && error.message.contains("remove the link"), "{}", error.message);
    std::fs::remove_file(served.path("dags/data")).unwrap();
    served.untold().await;
    served.stop().await;
}
