//! Checks of an export at the end of a test, by `csi-nfs check`.

use std::process::{Command, Output};

use super::driver::program;
use super::lab::Share;

/// Runs `csi-nfs check` on a share.
pub fn check(share: &Share, arguments: &[&str]) -> Output {
    let bare_ipv6 = share.server.contains(':') && !share.server.starts_with('[');
    let server = if bare_ipv6 { format!("[{}]", share.server) } else { share.server.clone() };
    let export = format!("--export={server}:{}", share.share);
    Command::new(program()).arg("check").arg(export).args(arguments).output().unwrap()
}

/// Waits until the driver has cleared its trash. Then asserts that staging is empty and that records and directories
/// agree.
pub async fn at_rest(share: &Share) {
    share.trash_is_empty().await;
    agrees(share);
}

/// Panics with the findings of `csi-nfs check`, if there are any.
pub fn agrees(share: &Share) {
    agrees_by(share, &[]);
}

/// The same with arguments for `csi-nfs check`.
pub fn agrees_by(share: &Share, arguments: &[&str]) {
    let output = check(share, arguments);
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert_eq!(output.status.code(), Some(0), "{text}");
}
