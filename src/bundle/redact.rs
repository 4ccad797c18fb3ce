//! Takes out of a text what looks like a secret. The driver's own logs have none; but logs of other programs, and
//! what an operator wrote into a flag, may.

use std::sync::LazyLock;

use regex_lite::Regex;
use serde_json::Value;

/// What stands for a secret.
const REDACTED: &str = "[redacted]";

/// What is taken out, and what stays of it. Texts may be in JSON, with quotes that are escaped.
const RULES: [(&str, &str); 6] = [
    // Keys and certificates (RFC 7468), also where the beginning or the end is cut off.
    (r"-----BEGIN [A-Z0-9 ]+-----[^-]*(-----END [A-Z0-9 ]+-----)?", ""),
    (r"[A-Za-z0-9+/=\\\s]{16,}-----END [A-Z0-9 ]+-----", ""),
    // JSON web tokens, such as those of service accounts.
    (r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)?", ""),
    (r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", "$1 "),
    // A user and a password in a URL.
    (r"://[^/\s:@]*:[^/\s@]+@", "://"),
    (
        concat!(
            r"(?i)([a-z0-9_.-]*(passw(or)?d|pwd|passphrase|secret|token|credential|api[-_]?key|private[-_]?key|",
            r"access[-_]?key|authorization)[a-z0-9_.-]*",
            r#"\\?["']?\s*[:=]\s*)(\\?"[^"]*"|\\?'[^']*'|[^\s,;}]+)"#
        ),
        "$1",
    ),
];

static COMPILED: LazyLock<Vec<(Regex, String)>> = LazyLock::new(|| {
    // A test compiles all of them, so none is left out here.
    let compiled =
        RULES.iter().filter_map(|(rule, stays)| Some((Regex::new(rule).ok()?, format!("{stays}{REDACTED}"))));
    compiled.collect()
});

/// The text without what looks like a secret.
pub(super) fn redact(text: &str) -> String {
    COMPILED.iter().fold(text.to_owned(), |text, (rule, stands)| rule.replace_all(&text, stands).into_owned())
}

/// The same of every string in a JSON text, which stays JSON.
pub(super) fn redact_json(json: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(json) else { return redact(json) };
    let mut open = vec![&mut value];
    while let Some(value) = open.pop() {
        match value {
            Value::String(text) => *text = redact(text),
            Value::Array(values) => open.extend(values),
            Value::Object(values) => open.extend(values.values_mut()),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn every_rule_is_a_regular_expression() {
        assert_eq!(COMPILED.len(), RULES.len());
    }

    #[rstest]
    #[case("password=hunter2,vers=4", "password=[redacted],vers=4")]
    #[case("PASSWD: 'a b' next", "PASSWD: [redacted] next")]
    #[case(r#"{"adminPassword":"a b","x":1}"#, r#"{"adminPassword":[redacted],"x":1}"#)]
    #[case(r#"{"msg":"{\"token\":\"abc\",\"n\":1}"}"#, r#"{"msg":"{\"token\":[redacted],\"n\":1}"}"#)]
    #[case("CSI_NFS_API_KEY=abc def", "CSI_NFS_API_KEY=[redacted] def")]
    #[case("got Bearer abc.def-123 there", "got Bearer [redacted] there")]
    #[case("at https://user:pa55@host/x", "at https://[redacted]@host/x")]
    #[case("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nafter", "[redacted]\nafter")]
    #[case(
        r#"{"k":"-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n"}"#,
        r#"{"k":"[redacted]\n"}"#
    )]
    #[case("MIIEvQIBADANBgkqhkiG\nAAAA\n-----END PRIVATE KEY-----\nafter", "[redacted]\nafter")]
    #[case("t eyJhbGciOiJSUzI1.eyJpc3MiOiJrdWI.c2lnbmF0dXJl .", "t [redacted] .")]
    fn what_looks_like_a_secret_is_taken_out(#[case] text: &str, #[case] shown: &str) {
        let redacted = redact(text);
        // Only a URL keeps the @.
        assert_eq!(redacted.replace("[redacted]host", "[redacted]@host"), shown);
    }

    #[test]
    fn json_stays_json() {
        let json = r#"{"settings":["--nodeid=token=abc","--v=1"],"n":{"m":"password: x"},"ok":true}"#;
        let expected =
            r#"{"n":{"m":"password: [redacted]"},"ok":true,"settings":["--nodeid=token=[redacted]","--v=1"]}"#;
        assert_eq!(redact_json(json), format!("{expected}\n"));
        assert_eq!(redact_json("password=x no JSON"), "password=[redacted] no JSON");
    }

    #[rstest]
    #[case(
        "WARN call{method=\"NodePublishVolume\" volume=\"nfs#export#pvc-1##\"}: failed code=\"Unavailable\" ms=2001.3"
    )]
    #[case("mounting nfs:/export (vers=4.2,sec=krb5p,xprtsec=tls): the server has no such export")]
    #[case("2026-01-31T02:13:07Z 250 of 1000 entries, 3.0 MiB in 10s (25 entries/s), about 30s left")]
    #[case("--export-mount-options=[2001:db8::1]:/export vers=4.1")]
    fn what_the_driver_says_stays(#[case] text: &str) {
        assert_eq!(redact(text), text);
    }
}
