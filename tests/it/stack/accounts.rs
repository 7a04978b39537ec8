//! Root and ordinary users: Postgres refuses to be the former, and must reach its data as the latter.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::{Command, Stdio};

use pinsched::embedded::running;

use super::scratch::{PROGRAM, Scratch, connect, gone, lease, not_run, try_lease};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test]
async fn as_root_a_home_that_nobody_else_can_reach_works() {
    if !is_root() {
        not_run("only root can test what root gets");
        return;
    }
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o700)).unwrap();
    let request = scratch.request("home");
    let held = lease(&request).await;
    connect(&held).await;
    let data = fs::canonicalize(request.home.join("postgres")).unwrap();
    assert!(data.starts_with("/var/lib/pinsched"), "{}", data.display());
    assert_ne!(fs::metadata(&data).unwrap().uid(), 0);
    drop(held);
    gone(&request.home).await;
    connect(&lease(&request).await).await;
    gone(&request.home).await;
    fs::remove_dir_all(data.parent().unwrap()).unwrap();

    // An empty database beside topics and objects that are not would be worse than none.
    let error = try_lease(&request).await.unwrap_err().to_string();
    assert!(error.contains("the data of this home is not where") && error.contains(data.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn as_root_a_copy_of_a_home_does_not_get_the_data_of_the_original() {
    if !is_root() {
        not_run("only root can test what root gets");
        return;
    }
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o700)).unwrap();
    let (original, copy) = (scratch.request("original"), scratch.request("copy"));
    let held = lease(&original).await;
    let mut connection = connect(&held).await;
    let copied = Command::new("cp").arg("-a").args([&original.home, &copy.home]).status().unwrap();
    assert!(copied.success());
    let error = try_lease(&copy).await.unwrap_err().to_string();
    assert!(error.contains(&format!("the data of {}, which", original.home.display())), "{error}");
    sqlx::query("SELECT 1").execute(&mut connection).await.expect("the original's server was left alone");
    drop(held);
    gone(&original.home).await;
    gone(&copy.home).await;

    // A home that was moved is no copy.
    let moved = scratch.request("moved");
    fs::rename(&original.home, &moved.home).unwrap();
    connect(&lease(&moved).await).await;
    gone(&moved.home).await;
    let data = fs::canonicalize(moved.home.join("postgres")).unwrap();
    fs::remove_dir_all(data.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn as_root_the_data_lies_in_the_home_where_it_can_be_reached() {
    if !is_root() {
        not_run("only root can test what root gets");
        return;
    }
    let scratch = Scratch::new();
    let request = scratch.request("home");
    connect(&lease(&request).await).await;
    let data = fs::symlink_metadata(request.home.join("postgres")).unwrap();
    assert!(data.is_dir() && data.uid() != 0);
}

/// As an ordinary user the tests are this test; root becomes one for it.
#[tokio::test]
async fn an_ordinary_user_s_home_is_the_user_s_own_and_root_may_use_it() {
    const NOBODY: u32 = 65534;
    if !is_root() {
        let scratch = Scratch::new();
        connect(&lease(&scratch.request("home")).await).await;
        return;
    }
    let scratch = Scratch::new();
    let request = scratch.request("home");
    fs::create_dir(&request.home).unwrap();
    chown(&request.home, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&request.home, Permissions::from_mode(0o700)).unwrap();
    // The build's folder may be out of that user's reach.
    let program = scratch.path().join("pinsched");
    fs::copy(PROGRAM, &program).unwrap();
    let mut stack = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&program)
        .args(["stack", "--linger", "60s", "--home"])
        .arg(&request.home)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stack.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "serving\n");
    connect(&lease(&request).await).await;
    assert_eq!(fs::metadata(request.home.join("postgres")).unwrap().uid(), NOBODY);
    assert!(pinsched::embedded::stop(&request.home).await.unwrap());
    assert!(stack.wait().unwrap().success());

    let held = lease(&request).await;
    connect(&held).await;
    assert!(running(&request.home).await.unwrap().is_some());
    assert_eq!(fs::metadata(request.home.join("postgres")).unwrap().uid(), NOBODY, "root serves it as its owner");
}
