//! What to do if a mount with `sec=krb5` or `xprtsec=` fails. The kernel has the same few errors for a path that is
//! missing, for a certificate that has expired and for a helper that does not run.

use rustix::io::Errno;

use crate::nfs::options::MountOptions;

/// Whether the kernel has refused the mount because rpc.gssd does not run on this node.
pub fn lacks_gssd(errno: Errno, options: &MountOptions) -> bool {
    errno == Errno::INVAL && options.requires_kerberos()
}

/// What an operator can do about the failure of a mount, besides what its error alone suggests. Empty if the options
/// ask for no security, or if the failure is not about it.
pub fn advice(errno: Errno, options: &MountOptions) -> &'static str {
    match errno {
        errno if lacks_gssd(errno, options) => {
            "`sec=krb5` needs rpc.gssd to run on this node, with a key of the node in /etc/krb5.keytab"
        }
        Errno::ACCESS if options.requires_kerberos() => {
            "rpc.gssd's log on this node, and the log of gssproxy or rpc.svcgssd on the server, say whether the node's \
             key in /etc/krb5.keytab, the KDC or a clock is at fault"
        }
        Errno::ACCESS if options.encrypts() => {
            "tlshd's log on this node and on the server says whether a certificate has expired, has another authority \
             or lacks the server's name"
        }
        Errno::TIMEDOUT if options.encrypts() => "check that tlshd answers on this node and on the server",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("sec=krb5", Errno::INVAL, "rpc.gssd to run")]
    #[case("sec=krb5p:krb5i", Errno::ACCESS, "/etc/krb5.keytab")]
    #[case("xprtsec=tls", Errno::ACCESS, "certificate")]
    #[case("xprtsec=mtls,sec=sys", Errno::TIMEDOUT, "tlshd answers")]
    #[case("xprtsec=none", Errno::ACCESS, "")]
    #[case("sec=sys", Errno::INVAL, "")]
    #[case("sec=krb5:sys", Errno::INVAL, "")]
    #[case("", Errno::ACCESS, "")]
    fn the_helper_or_the_certificate_is_named(#[case] options: &str, #[case] errno: Errno, #[case] said: &str) {
        let advice = advice(errno, &MountOptions::parse("mountOptions", [options]).unwrap());
        assert!(advice.contains(said) && advice.is_empty() == said.is_empty(), "{advice}");
    }
}
