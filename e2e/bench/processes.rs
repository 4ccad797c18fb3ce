//! What a script does in place of the driver's calls: it starts mount(8) and umount(8) for each.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::support::Share;
use crate::{Series, ms, percentile, timed};

/// The duration of the work of each call.
#[derive(Default)]
pub struct Processes {
    pub create: Series,
    pub delete: Series,
    pub mount: Series,
    pub unmount: Series,
}

impl Processes {
    /// Measures a round of so many calls of each kind.
    pub fn measure(&mut self, share: &Share, calls: usize) {
        let base = Path::new("/run/tmp/processes");
        let (export, target) = (base.join("export"), base.join("target"));
        fs::create_dir_all(&export).unwrap();
        fs::create_dir_all(&target).unwrap();
        let source = |directory: &str| format!("{}:{}{directory}", share.server, share.share);
        self.create.0.push(timed(calls, |n| {
            mount(&source(""), &export);
            fs::create_dir(export.join(format!("by-process-{n}"))).unwrap();
            unmount(&export);
        }));
        // As on a node in use, another volume of the export is mounted.
        mount(&source("/by-process-0"), &export);
        let (mut mounts, mut unmounts) = (Vec::new(), Vec::new());
        for n in 1..calls {
            let start = Instant::now();
            mount(&source(&format!("/by-process-{n}")), &target);
            mounts.push(ms(start.elapsed()));
            let start = Instant::now();
            unmount(&target);
            unmounts.push(ms(start.elapsed()));
        }
        unmount(&export);
        self.mount.0.push(percentile(mounts, 50));
        self.unmount.0.push(percentile(unmounts, 50));
        self.delete.0.push(timed(calls, |n| {
            mount(&source(""), &export);
            fs::remove_dir(export.join(format!("by-process-{n}"))).unwrap();
            unmount(&export);
        }));
    }
}

fn mount(source: &str, at: &Path) {
    run(Command::new("mount").args(["-t", "nfs", "-o", "vers=4.2", source]).arg(at));
}

fn unmount(at: &Path) {
    run(Command::new("umount").arg(at));
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}
