//! A server of NFS version 3 that mounts its shares alone, and refuses the directories below them. A relay in front of
//! the real mountd refuses them.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use csi_nfs::service::proto::csi::volume_capability::access_mode::Mode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::Status;

use crate::support::{Driver, Lab, Place, Share, csi, mounts, requests};

/// MNT3ERR_ACCES (RFC 1813, section 5.1.5).
const REFUSED: u32 = 13;
/// The procedure MNT of the MOUNT protocol.
const MNT: u32 = 1;

/// One message of ONC RPC over TCP: a record of one fragment (RFC 5531, section 11).
async fn message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await? & 0x7fff_ffff;
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

async fn send(stream: &mut TcpStream, body: &[u8]) -> io::Result<()> {
    stream.write_u32(0x8000_0000 | u32::try_from(body.len()).unwrap()).await?;
    stream.write_all(body).await
}

fn word(message: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(message[at..at + 4].try_into().unwrap())
}

/// The path that a call of MNT asks for; `None` for another procedure.
fn path_of(call: &[u8]) -> Option<&[u8]> {
    if word(call, 20) != MNT {
        return None;
    }
    // The credential and the verifier: a flavour, and a body with its length.
    let credential = 24;
    let verifier = credential + 8 + word(call, credential + 4) as usize;
    let path = verifier + 8 + word(call, verifier + 4) as usize;
    Some(&call[path + 4..path + 4 + word(call, path) as usize])
}

/// Answers one client: passes its calls on to `mountd`, except MNT of any path but `share`.
async fn relay(mut client: TcpStream, mountd: u16, share: &str) -> io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", mountd)).await?;
    loop {
        let call = message(&mut client).await?;
        let reply = match path_of(&call) {
            Some(path) if path != share.as_bytes() => {
                // The call's number, a reply, accepted, no verifier, success; then the result of MNT.
                [word(&call, 0), 1, 0, 0, 0, 0, REFUSED].iter().flat_map(|word| word.to_be_bytes()).collect()
            }
            _ => {
                send(&mut server, &call).await?;
                message(&mut server).await?
            }
        };
        send(&mut client, &reply).await?;
    }
}

/// The port of the real mountd.
fn mountd() -> u16 {
    let listed = Command::new("rpcinfo").args(["-p", "127.0.0.1"]).output().unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    let port = listed.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["100005", "3", "tcp", port, ..] => Some(port.parse().unwrap()),
        _ => None,
    });
    port.unwrap_or_else(|| panic!("{listed}"))
}

/// NodePublishVolume with version 3, and with a mountd that mounts only `share`.
struct Node {
    driver: Driver,
    flags: [String; 3],
}

impl Node {
    async fn start(share: &Share) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, mountd, share) = (listener.local_addr().unwrap().port(), mountd(), share.share.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let share = share.clone();
                tokio::spawn(async move { relay(client, mountd, &share).await });
            }
        });
        let flags = ["vers=3".to_owned(), "nolock".to_owned(), format!("mountport={port}")];
        Self { driver: Driver::start().await, flags }
    }

    async fn publish(&self, volume: &csi::Volume, target: &Path) -> Result<(), Status> {
        let flags = self.flags.each_ref().map(String::as_str);
        let request = csi::NodePublishVolumeRequest {
            volume_capability: Some(requests::mounted(Mode::MultiNodeMultiWriter, &flags)),
            ..requests::publish(volume, target)
        };
        self.driver.node().node_publish_volume(request).await.map(drop)
    }
}

#[tokio::test]
async fn a_directory_of_a_share_that_is_mounted_only_as_a_whole_is_published_alone() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let mut node = Node::start(&share).await;
    let target = node.driver.target("pod");
    let volume = node.driver.create(requests::create(&share, "v")).await.unwrap();
    node.publish(&volume, &target).await.unwrap();
    fs::write(target.join("file"), "content").unwrap();
    assert_eq!(fs::read_to_string(share.path.join("v/file")).unwrap(), "content");
    let [mount] = &mounts::at(&target)[..] else { panic!("{:?}", mounts::at(&target)) };
    assert!(mount.has("vers=3") && mount.has("nosuid") && mount.source.ends_with("/v"), "{mount:?}");
    assert!(!mounts::all().iter().any(|other| other.source == format!("127.0.0.1:{}", share.share)));
    node.publish(&volume, &target).await.unwrap();
    node.driver.kill();
    node.driver.start_again().await;
    node.publish(&volume, &target).await.unwrap();
    assert_eq!(mounts::at(&target).len(), 1);
    node.driver.stats(&volume.volume_id, &target).await.unwrap();
    node.driver.unpublish(&volume.volume_id, &target).await.unwrap();
    assert!(!target.exists());
}

#[tokio::test]
async fn a_directory_that_is_missing_or_a_link_out_of_the_share_is_not_published() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let node = Node::start(&share).await;
    symlink("/proc", share.path.join("link")).unwrap();
    for (sub_dir, reason) in [("missing", "no such directory"), ("link", "symbolic link")] {
        let context = requests::map([("server", &*share.server), ("share", &*share.share), ("subDir", sub_dir)]);
        let volume = csi::Volume { volume_id: "static".into(), volume_context: context, ..Default::default() };
        let target = node.driver.target(sub_dir);
        let status = node.publish(&volume, &target).await.unwrap_err();
        assert!(status.message().contains(reason), "{status}");
        assert!(mounts::at(&target).is_empty());
    }
}
