//! A disk that gets full: a tmpfs whose size changes while it is in use.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A disk, mounted on a folder for as long as this lives.
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts one that has room; `None` where this machine does not let us.
    pub fn mount(folder: &Path) -> Option<Self> {
        let disk = Self { folder: folder.to_owned() };
        if super::postgres::is_root() && disk.command(&["-t", "tmpfs", "-o", "size=2g", "lakeward-test"]) {
            return Some(disk);
        }
        std::mem::forget(disk);
        super::skip("a full disk: no file system may be mounted here");
        None
    }

    /// From now on there is room for so many more KiB.
    pub fn leave_kib(&self, room: u64) {
        // What is in use grows meanwhile, and a size below it is refused.
        let fits = (0..50).any(|more| self.command(&["-o", &format!("remount,size={}k", self.used_kib() + room + 64 * more)]));
        assert!(fits, "the disk does not get smaller");
    }

    fn used_kib(&self) -> u64 {
        let used = Command::new("df").args(["--output=used", "-k"]).arg(&self.folder).output().expect("run df");
        String::from_utf8_lossy(&used.stdout).split_whitespace().last().and_then(|word| word.parse().ok()).expect("a size")
    }

    /// From now on there is room again.
    pub fn clear(&self) {
        assert!(self.command(&["-o", "remount,size=2g"]), "the disk does not get larger");
    }

    fn command(&self, arguments: &[&str]) -> bool {
        Command::new("mount")
            .args(arguments)
            .arg(&self.folder)
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}
