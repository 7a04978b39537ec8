//! A full disk under the home is told by name, and is forgiven once there is room.

use std::path::Path;
use std::process::Command;

use super::scratch::{Scratch, connect, gone, lease, not_run, try_lease};

/// A small file system, for as long as this lives.
pub struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    pub fn new(path: &'a Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let options = format!("size={size},mode=0711");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "pinsched-it"]).arg(path).status();
        status.is_ok_and(|status| status.success()).then_some(Self(path))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &options]).arg(self.0).status().unwrap().success());
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_forgiven() {
    let scratch = Scratch::new();
    let disk = scratch.path().join("disk");
    let Some(mount) = Mount::new(&disk, "8m") else {
        not_run("only root, where it may mount, can make a disk that is full");
        return;
    };
    let request = scratch.request("disk/home");
    let error = try_lease(&request).await.unwrap_err().to_string();
    assert!(error.contains("could not start the embedded postgres of"), "{error}");
    assert!(error.contains(disk.to_str().unwrap()) && error.contains("No space left on device"), "{error}");
    gone(&request.home).await;

    std::fs::write(disk.join("filler"), vec![0; 9 << 20]).unwrap_err();
    let error = try_lease(&scratch.request("disk/other")).await.unwrap_err();
    let told =
        format!("{error}: {}", std::error::Error::source(&error).map_or(String::new(), |source| source.to_string()));
    assert!(told.contains(disk.to_str().unwrap()) && told.contains("No space left on device"), "{told}");

    std::fs::remove_file(disk.join("filler")).unwrap();
    mount.resize("300m");
    connect(&lease(&request).await).await;
    gone(&request.home).await;
}
