//! `csi-nfs check` as a judge.

use std::process::{Command, Output};

use super::driver::program;
use super::lab::Share;

/// Runs `csi-nfs check` on a share.
pub fn check(share: &Share, arguments: &[&str]) -> Output {
    let export = format!("--export={}:{}", share.server, share.share);
    Command::new(program()).arg("check").arg(export).args(arguments).output().unwrap()
}

/// Panics with what does not fit, if anything.
pub fn agrees(share: &Share) {
    let output = check(share, &[]);
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert_eq!(output.status.code(), Some(0), "{text}");
}
