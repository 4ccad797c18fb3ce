//! The files of certificates that the flags name.

use super::args::Args;
use crate::error::{Error, Result};
use crate::nfs4::tls::{Identity, TlsFiles};

/// `--tls-ca`, and `--tls-cert` with `--tls-key`. The files are read when a connection needs them.
pub(super) fn certificates(args: &Args) -> Result<TlsFiles> {
    const CERTIFICATE: &str = "--tls-cert";
    const KEY: &str = "--tls-key";
    let identity = match (args.tls_cert.clone(), args.tls_key.clone()) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
        (Some(_), None) => return Err(Error::invalid(KEY, format!("missing: set it together with {CERTIFICATE}"))),
        (None, Some(_)) => return Err(Error::invalid(CERTIFICATE, format!("missing: set it together with {KEY}"))),
    };
    Ok(TlsFiles { authorities: args.tls_ca.clone(), identity })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use rstest::rstest;

    use super::super::{Refusal, Task, parse};
    use super::*;

    fn read(words: &[&str]) -> std::result::Result<Task, Refusal> {
        let words = ["csi-nfs"].iter().chain(words).map(OsString::from);
        parse(words, |name| (name == "CSI_NFS_TLS_CA").then(|| "/ca.pem".into()))
    }

    #[rstest]
    #[case(&["--mode=controller"])]
    #[case(&["check", "--export=h:/"])]
    #[case(&["doctor", "--export=h:/"])]
    fn the_certificates_are_those_of_the_flags_wherever_the_own_client_is_used(#[case] words: &[&str]) {
        let found = |flags: &[&str]| {
            let words = [words, flags].concat();
            match read(&words) {
                Ok(Task::Serve(config)) => config.controller.unwrap().certificates,
                Ok(Task::Check(config)) => config.settings.certificates,
                Ok(Task::Doctor(config)) => config.settings.certificates,
                other => panic!("{words:?}: {other:?}"),
            }
        };
        let authorities = Some("/ca.pem".into());
        let identity = Some(Identity { certificate: "/c.pem".into(), key: "/k.pem".into() });
        let with = TlsFiles { authorities, identity };
        assert_eq!(found(&["--tls-cert=", "--tls-key="]), TlsFiles { identity: None, ..with.clone() });
        assert_eq!(found(&["--tls-cert=/c.pem", "--tls-key=/k.pem"]), with);
    }

    #[rstest]
    #[case(&["--mode=controller", "--tls-cert=/c.pem"], "--tls-key: missing: set it together with --tls-cert")]
    #[case(&["check", "--export=h:/", "--tls-key=/k.pem"], "--tls-cert: missing: set it together with --tls-key")]
    fn a_certificate_and_its_key_belong_together(#[case] words: &[&str], #[case] said: &str) {
        assert_eq!(read(words).unwrap_err(), Refusal::Bad(said.to_owned()));
    }
}
