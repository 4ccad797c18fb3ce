//! The driver's own client with TLS: what it takes, what it refuses, and that nothing goes out in clear text.

use std::time::{Duration, Instant};

use rcgen::{CertificateParams, date_time_ymd};
use rstest::rstest;

use super::tls_front::{Answer, Authority, Certified, Files, Front, nowhere, server, starttls};
use super::*;
use crate::error::Error;
use crate::nfs4::tls::{Identity, TlsFiles};
use crate::testing::memory::MemoryServer;

/// How long a call may take that cannot succeed.
const SOON: Duration = Duration::from_secs(5);

fn unchanged(_: &mut CertificateParams) {}

fn expired(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 1, 2));
}

fn from_the_future(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(2200, 1, 1), date_time_ymd(2200, 1, 2));
}

fn for_another_name(params: &mut CertificateParams) {
    params.subject_alt_names = CertificateParams::new(["nfs.example.org".to_owned()]).unwrap().subject_alt_names;
}

/// An authority, a server behind TLS with a certificate of it, and the files of a client that has one, too.
struct Setting {
    authority: Authority,
    server: NfsServer,
    front: Front,
    files: Files,
}

async fn setting(mutual: bool) -> Setting {
    let authority = Authority::new();
    let server = NfsServer::start(&MemoryServer::new()).await;
    let config = super::tls_front::server(&authority.certifies(unchanged), mutual.then_some(&authority));
    let front = Front::of(&server, config).await;
    let files = Files::new(&authority, &authority.certifies(unchanged));
    Setting { authority, server, front, files }
}

impl Setting {
    /// Connects with files.
    async fn connected_by(&self, named: TlsFiles, options: &str) -> crate::error::Result<UserFs> {
        connected(&process().with_certificates(named), self.front.address, options).await
    }

    async fn connected(&self, options: &str) -> crate::error::Result<UserFs> {
        self.connected_by(self.files.named(), options).await
    }

    /// The reason why there is no connection, and that nothing was sent.
    async fn refused_by(&self, named: TlsFiles, options: &str) -> String {
        let begun = Instant::now();
        let Err(Error::Mount { reason, .. }) = self.connected_by(named, options).await else { panic!("no refusal") };
        assert!(begun.elapsed() < SOON);
        assert_eq!((self.server.requests(), self.front.clear()), (0, 0));
        reason
    }

    async fn refused(&self, options: &str) -> String {
        self.refused_by(self.files.named(), options).await
    }
}

#[rstest]
#[case(false, "xprtsec=tls")]
#[case(true, "xprtsec=mtls")]
#[tokio::test]
async fn everything_goes_through_tls_also_after_the_connection_was_lost(#[case] mutual: bool, #[case] options: &str) {
    let setting = setting(mutual).await;
    let fs = setting.connected(options).await.unwrap();
    for (n, cut) in [None, Some(Cut::Before), Some(Cut::After)].into_iter().enumerate() {
        if let Some(cut) = cut {
            setting.server.cut(setting.server.requests(), cut);
        }
        // It is larger than a record of TLS.
        let content = vec![n as u8; 300_000];
        let file = name(format!("{n}"));
        fs.write_file(&fs.root(), &file, 0o600, content.clone()).await.unwrap();
        assert_eq!(fs.read_file(&fs.root(), &file, 1 << 20).await.unwrap(), content);
        assert_eq!((setting.front.encrypted(), setting.front.clear()), (n as u64 + 1, 0));
    }
}

#[tokio::test]
async fn replaced_files_are_used_by_the_next_connection_of_the_same_process() {
    let setting = setting(true).await;
    let fs = setting.connected("xprtsec=mtls").await.unwrap();
    let next = Authority::new();
    setting.files.replace(&next, &next.certifies(unchanged));
    // The connection that is there goes on.
    fs.mkdir(&fs.root(), &name("before"), 0o755).await.unwrap();
    setting.front.certificates(server(&next.certifies(unchanged), Some(&next)));
    setting.server.cut(setting.server.requests(), Cut::Before);
    fs.mkdir(&fs.root(), &name("after"), 0o755).await.unwrap();
    assert_eq!((setting.front.encrypted(), setting.front.clear()), (2, 0));
}

#[tokio::test]
async fn a_connection_is_never_made_anew_in_clear_text() {
    let setting = setting(false).await;
    let fs = setting.connected("xprtsec=tls").await.unwrap();
    setting.front.answer(|xid| reply(xid, &[]));
    setting.server.cut(setting.server.requests(), Cut::Before);
    let requests = setting.server.requests() + 1;
    let lost = time::timeout(Duration::from_secs(1), fs.mkdir(&fs.root(), &name("secret"), 0o755)).await;
    assert!(lost.is_err(), "{lost:?}");
    assert_eq!((setting.server.requests(), setting.front.encrypted(), setting.front.clear()), (requests, 1, 0));
    // The request was not lost.
    setting.front.answer(starttls);
    fs.lookup(&fs.root(), &name("nothing")).await.unwrap_err();
    until(|| setting.front.encrypted() == 2).await;
    let made = async { while fs.lookup(&fs.root(), &name("secret")).await.is_err() {} };
    time::timeout(SOON, made).await.unwrap();
}

#[rstest]
#[case::expired(expired, "the server's certificate has expired")]
#[case::early(from_the_future, "the server's certificate is not valid yet: check the clocks")]
#[case::name(for_another_name, "the server's certificate is not for the name `127.0.0.1`")]
#[tokio::test]
async fn a_certificate_of_the_server_that_is_not_right_is_refused_with_the_reason(
    #[case] change: fn(&mut CertificateParams),
    #[case] said: &str,
) {
    let setting = setting(false).await;
    setting.front.certificates(server(&setting.authority.certifies(change), None));
    let refused = setting.refused("xprtsec=tls").await;
    assert!(refused.contains(said), "{refused}");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_though_it_has_the_same_name() {
    let setting = setting(false).await;
    setting.front.certificates(server(&Authority::new().certifies(unchanged), None));
    let refused = setting.refused("xprtsec=tls").await;
    let of_authority = format!("of an authority that is not in {}", setting.files.path("ca.crt").display());
    assert!(refused.contains(&of_authority) && refused.contains("--tls-ca"), "{refused}");
}

#[tokio::test]
async fn a_server_that_refuses_the_clients_certificate_is_quoted() {
    let setting = setting(true).await;
    for (what, own) in [
        ("expired", setting.authority.certifies(expired)),
        ("of another authority", Authority::new().certifies(unchanged)),
    ] {
        setting.files.replace(&setting.authority, &own);
        let refused = setting.refused("xprtsec=mtls").await;
        assert!(refused.contains("refuses the driver's certificate (alert "), "{what}: {refused}");
    }
    let refused = setting.refused("xprtsec=tls").await;
    assert!(refused.contains("use `xprtsec=mtls`"), "{refused}");
}

#[rstest]
#[case::success(|xid| reply(xid, &[]))]
#[case::starttls_of_another_call(|xid| starttls(xid ^ 1))]
#[case::denied(|xid| {
    let mut message = Writer::default();
    message.u32(0).u32(xid).u32(REPLY).u32(1).u32(1).u32(2);
    mark(message)
})]
#[tokio::test]
async fn a_server_without_tls_is_told_nothing(#[case] answer: Answer) {
    let setting = setting(false).await;
    setting.front.answer(answer);
    let refused = setting.refused("xprtsec=tls").await;
    assert!(refused.contains("the server offers no TLS on this port"), "{refused}");
}

#[rstest]
#[case::an_end(|_| Vec::new(), "the server ended the connection before it was encrypted")]
#[case::a_record_without_end(|_| vec![0xff; 64], "the answer is not from an RPC server")]
#[case::clear_text_behind_the_answer(|xid| [starttls(xid), reply(xid, &[])].concat(), "the TLS handshake with the server failed")]
#[tokio::test]
async fn a_hostile_answer_ends_the_connection_with_a_reason(#[case] answer: Answer, #[case] said: &str) {
    let setting = setting(false).await;
    setting.front.answer(answer);
    let refused = setting.refused("xprtsec=tls").await;
    assert!(refused.contains(said), "{refused}");
}

#[tokio::test]
async fn a_server_that_does_not_shake_hands_is_left_after_some_seconds() {
    let setting = setting(false).await;
    setting.front.answer(|_| vec![0x80]);
    let refused = setting.connected("xprtsec=tls").await.unwrap_err();
    assert!(matches!(&refused, Error::Unreachable { reason, .. } if reason.contains("handshake of TLS")), "{refused}");
    assert_eq!((setting.server.requests(), setting.front.clear()), (0, 0));
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_before_anything_is_sent() {
    let setting = setting(true).await;
    let Setting { authority, files, .. } = &setting;
    let good = files.named();
    let without = TlsFiles { identity: None, ..good.clone() };
    let refused = setting.refused_by(without, "xprtsec=mtls").await;
    assert!(refused.contains("`--tls-cert` and `--tls-key`"), "{refused}");
    let missing = TlsFiles { authorities: Some(nowhere()), ..good.clone() };
    let refused = setting.refused_by(missing, "xprtsec=mtls").await;
    assert!(refused.contains("`--tls-ca`: /nowhere/tls.pem: No such file"), "{refused}");
    let swapped = Identity { certificate: files.path("tls.key"), key: files.path("tls.crt") };
    let refused = setting.refused_by(TlsFiles { identity: Some(swapped), ..good }, "xprtsec=mtls").await;
    assert!(refused.contains("`--tls-cert`") && refused.contains("has no certificate in PEM form"), "{refused}");

    let own = authority.certifies(unchanged);
    for (key, said) in [
        (String::new(), "has no private key without a password in PEM form"),
        (own.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), "has no private key without a password in PEM form"),
        (authority.certifies(unchanged).key, "`--tls-cert` and `--tls-key` cannot be used together"),
        ("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n".to_owned(), "cannot be used together"),
        ("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n".to_owned(), "has no private key"),
    ] {
        files.replace(authority, &Certified { key, ..own.clone() });
        let refused = setting.refused("xprtsec=mtls").await;
        assert!(refused.contains(said) && !refused.contains("c2Vj"), "{said}: {refused}");
    }
    files.put("ca.crt", "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n");
    let refused = setting.refused("xprtsec=tls").await;
    assert!(refused.contains("no certificate in `--tls-ca` is of an authority"), "{refused}");
    assert_eq!(setting.front.encrypted(), 0);
}
