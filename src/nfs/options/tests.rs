//! Which options the driver accepts and rejects, and how it uses them.

use proptest::prelude::*;
use rstest::rstest;

use super::Version::{V3, V4_0, V4_1, V4_2};
use super::*;
use crate::nfs::option_table::KNOWN;

fn options(text: &str) -> MountOptions {
    MountOptions::parse("mountOptions", [text]).unwrap()
}

fn reason(text: &str) -> String {
    MountOptions::parse("mountOptions", [text]).unwrap_err().to_string()
}

#[rstest]
#[case("hard,nfsvers=4.1,timeo=600,retrans=2,rsize=1048576,wsize=1048576,noresvport")]
#[case("ro,noatime,nodiratime,noexec,lookupcache=pos,nconnect=16,max_connect=4,xprtsec=mtls")]
#[case("softerr,softreval,acregmin=0,acregmax=60,acdirmin=30,acdirmax=60,actimeo=3,nocto,noac")]
#[case("vers=3,proto=tcp,port=2049,mountport=20048,mountproto=tcp,mountvers=3,nolock,local_lock=all,noacl")]
#[case("sec=krb5p:krb5i,rdirplus=force,rdirplus,write=eager,fsc,sync,nosharecache,v4.2,minorversion=2")]
fn options_of_nfs_are_accepted_and_displayed_as_requested(#[case] text: &str) {
    assert_eq!(options(text).to_string(), text);
    assert_eq!(options(text).to_vec().join(","), text);
}

#[rstest]
#[case::for_mount_8("defaults,_netdev,nofail,bg,retry=5,auto", "")]
#[case::what_is_done_anyway("nodev,nosuid,hard", "hard")]
#[case::numbers_with_zeroes("timeo=0600", "timeo=600")]
#[case::blanks_and_nothing(" hard , ,,ro", "hard,ro")]
fn options_without_effect_are_dropped(#[case] text: &str, #[case] kept: &str) {
    assert_eq!(options(text).to_string(), kept);
    assert_eq!(options(text).is_empty(), kept.is_empty());
}

#[test]
fn flags_may_come_one_by_one_or_together() {
    let apart = MountOptions::parse("mount_flags", ["hard", "vers=4.1,ro"]).unwrap();
    assert_eq!(apart, options("hard,vers=4.1,ro"));
}

#[rstest]
fn other_options_are_rejected(
    #[values(
        "bind",
        "rbind",
        "move",
        "remount",
        "loop",
        "loop=/dev/loop0",
        "X-mount.mkdir",
        "x-systemd.automount",
        "addr=10.0.0.1",
        "addr",
        "mountaddr=10.0.0.1",
        "mounthost=h",
        "clientaddr=10.0.0.1",
        "source=h:/x",
        "srcaddr=10.0.0.1",
        "dev",
        "suid",
        "udp",
        "proto=udp",
        "sloppy",
        "context",
        "context=",
        "context=system_u",
        "context=system_u:object_r",
        "context=system_u::nfs_t",
        "context=\"system_u:object_r:nfs_t:s0",
        "context=system_u:object_r:nfs_t:s0\"",
        "context=\"system_u:object_r:nfs_t:s0\"x",
        "context=system_u:object_r:nfs_t:s0:c1,suid",
        "context=\"system_u:object_r:nfs_t:s0,suid=\"",
        "rootcontext=@target",
        "seclabel",
        "bogus",
        "HARD",
        "vers=2",
        "vers=4.3",
        "vers",
        "vers=",
        "hard=1",
        "timeo",
        "timeo=",
        "timeo=-1",
        "timeo=+1",
        "timeo=0",
        "timeo=0x10",
        "timeo=99999999999999999999",
        "rsize=1",
        "port=0",
        "port=65536",
        "nconnect=17",
        "sec=",
        "sec=sys:",
        "sec=sys=krb5",
        "lookupcache=some",
        "=",
        "=hard",
        "hard\0",
        "hard\n",
        "\thard",
        "ro\0,rw",
        "timeo=6\x000",
        "timeo=٣",
        "hard=,addr=1"
    )]
    text: &str,
) {
    let text = reason(&format!("ro,{text}"));
    assert!(text.starts_with("mountOptions: mount option `"), "{text}");
    assert!(!text.contains(char::is_control), "{text:?}");
}

#[rstest]
#[case("proto=sctp", "it takes one of tcp, tcp6, rdma, rdma6")]
#[case("proto=udp6", "not allowed: NFS over UDP")]
#[case("nconnect=0", "it takes a number from 1 to 16")]
#[case("remount", "not allowed")]
#[case("bogus", "`bogus`: not an option of nfs(5)")]
fn the_error_names_the_option_and_valid_values(#[case] text: &str, #[case] expected: &str) {
    assert!(reason(text).contains(expected), "{}", reason(text));
}

#[rstest]
#[case::as_kubelet_writes_it("context=\"system_u:object_r:container_file_t:s0:c1,c2\",hard")]
#[case::all_four("fscontext=a:b:c:s0,rootcontext=a:b:c:s0-s15:c0.c1023,context=a:b:c-d.e_f,defcontext=a:b:c")]
fn labels_of_selinux_are_accepted_and_displayed_as_requested(#[case] text: &str) {
    assert_eq!(options(text).to_string(), text);
    assert!(options(text).labels() && !options("hard").labels());
    assert!(!options(text).for_role(Role::Controller).labels());
}

#[test]
fn the_kernel_gets_each_label_once_and_without_quotes() {
    let kubelet = "context=\"system_u:object_r:container_file_t:s0:c1,c2\"";
    let parsed = MountOptions::parse("mount_flags", ["context=\"a:b:c\"", "hard", kubelet]).unwrap();
    let context = Some("system_u:object_r:container_file_t:s0:c1,c2");
    assert_eq!(parsed.parameters().collect::<Vec<_>>(), [("hard", None), ("context", context)]);
    assert!(MountOptions::parse("f", [format!("context=a:b:{}", "c".repeat(300))]).is_err());
}

#[test]
fn an_option_from_a_secret_is_not_shown() {
    let error = MountOptions::parse_secret("secrets[mountOptions]", "hard,hunter2=x").unwrap_err().to_string();
    assert!(error.contains("option number 2") && !error.contains("hunter2"), "{error}");
    let options = MountOptions::parse_secret("secrets[mountOptions]", "vers=4.1").unwrap();
    for options in [options.for_role(Role::Controller), options] {
        assert!(options.is_secret());
        let shown = format!("{options} {options:?}");
        assert!(!shown.contains("4.1"), "{shown}");
    }
}

#[rstest]
#[case("", None, V4_2, &[V4_1, V4_0, V3])]
#[case("vers=4", None, V4_2, &[V4_1, V4_0])]
#[case("v4,minorversion=1", Some(V4_1), V4_1, &[])]
#[case("minorversion=0", Some(V4_0), V4_0, &[])]
#[case("nfsvers=4.2,vers=4", Some(V4_2), V4_2, &[])]
#[case("vers=3,v3", Some(V3), V3, &[])]
fn options_for_the_version_are_combined(
    #[case] text: &str,
    #[case] version: Option<Version>,
    #[case] best: Version,
    #[case] others: &[Version],
) {
    assert_eq!(options(text).version(), version);
    assert_eq!(options(text).versions(), (best, others));
}

#[rstest]
fn versions_that_contradict_each_other_are_rejected(
    #[values("vers=3,vers=4", "vers=4.1,nfsvers=4.2", "vers=3,minorversion=0", "v4.0,minorversion=1")] text: &str,
) {
    assert!(reason(text).contains("contradicts"), "{}", reason(text));
}

#[rstest]
#[case("", Transport::Tcp, 2049)]
#[case("port=20490", Transport::Tcp, 20490)]
#[case("rdma,port=20049", Transport::Rdma, 2049)]
#[case("proto=rdma6", Transport::Rdma, 2049)]
#[case("proto=rdma,tcp,port=1", Transport::Tcp, 1)]
fn the_server_is_checked_at_its_tcp_port(#[case] text: &str, #[case] transport: Transport, #[case] port: u16) {
    assert_eq!((options(text).transport(), options(text).port()), (transport, port));
}

#[rstest]
#[case("", false)]
#[case("lock", true)]
#[case("nolock", false)]
#[case("lock,nolock", false)]
#[case("local_lock=all", false)]
#[case("local_lock=none", true)]
fn locks_are_on_the_server_if_requested(#[case] text: &str, #[case] locks: bool) {
    assert_eq!(options(text).locks(), locks);
}

#[rstest]
#[case("", Attributes::empty())]
#[case("ro,rw,ro", Attributes::MOUNT_ATTR_RDONLY)]
#[case("ro,rw", Attributes::empty())]
#[case("noexec,nosymfollow", Attributes::MOUNT_ATTR_NOEXEC | Attributes::MOUNT_ATTR_NOSYMFOLLOW)]
#[case("noatime,strictatime", Attributes::MOUNT_ATTR_STRICTATIME)]
#[case("noatime,relatime", Attributes::empty())]
fn a_later_flag_overrides_an_earlier_one_and_devices_and_setuid_never_work(
    #[case] text: &str,
    #[case] expected: Attributes,
) {
    let always = Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOSUID;
    assert_eq!(options(text).attributes(), expected | always);
    assert_eq!(options(text).read_only(), expected.contains(Attributes::MOUNT_ATTR_RDONLY));
}

#[test]
fn the_file_system_gets_only_its_own_options() {
    let options = options("vers=4.1,proto=tcp,ro,noatime,hard,timeo=600,_netdev");
    let parameters: Vec<_> = options.parameters().collect();
    assert_eq!(parameters, [("tcp", None), ("hard", None), ("timeo", Some("600"))]);
}

#[test]
fn a_controller_keeps_the_connection_options_and_replaces_the_rest() {
    let controller =
        options("ro,hard,timeo=600,vers=4.1,sec=krb5,xprtsec=tls,port=1,actimeo=60,sync,lock,local_lock=posix");
    let controller = controller.for_role(Role::Controller);
    assert_eq!(
        controller.to_string(),
        "vers=4.1,sec=krb5,xprtsec=tls,port=1,softerr,timeo=50,retrans=1,actimeo=1,lookupcache=none,noexec"
    );
    assert!(!controller.read_only());
    assert_eq!(options("ro,hard").for_role(Role::Node), options("ro,hard"));
}

/// A known option with a value that may be valid.
fn known() -> impl Strategy<Value = String> {
    let names: Vec<_> = KNOWN.iter().map(|(name, ..)| *name).collect();
    let value = prop_oneof![
        Just(String::new()),
        "=[0-9]{1,6}",
        "=[a-z0-9:.=,\"]{0,12}",
        "=(tcp|sys|none|all|4.1|3)",
        "=\"?[a-z]:[a-z]:[a-z](:s0:c1,c2)?\"?",
    ];
    (prop::sample::select(names), value).prop_map(|(name, value)| format!("{name}{value}"))
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text: String) {
        let _: Result<MountOptions> = MountOptions::parse("mountOptions", [text]);
    }

    #[test]
    fn displayed_options_parse_to_the_same_options(texts in prop::collection::vec(known(), 0..4)) {
        if let Ok(parsed) = MountOptions::parse("mountOptions", &texts) {
            prop_assert_eq!(&options(&parsed.to_string()), &parsed);
            prop_assert_eq!(&MountOptions::parse("mountOptions", parsed.to_vec()).unwrap(), &parsed);
            for (key, value) in parsed.parameters() {
                let value = value.unwrap_or_default();
                let is_label = key.ends_with("context");
                prop_assert!(is_label || !value.contains(','), "{}={}", key, value);
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-,".contains(&byte);
                prop_assert!(key.bytes().all(plain) && value.bytes().all(plain), "{}={}", key, value);
            }
        }
    }
}
