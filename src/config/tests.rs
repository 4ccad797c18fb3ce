use std::path::Path;

use rstest::rstest;

use super::*;

fn read(words: &[&str], variables: &[(&str, &str)]) -> Result<Task, Refusal> {
    let words = ["csi-nfs"].iter().chain(words).map(OsString::from);
    parse(words, |name| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| value.into()))
}

/// The configuration of a node called `n`, with these flags.
fn config(words: &[&str]) -> Config {
    let words: Vec<&str> = ["--nodeid=n"].iter().chain(words).copied().collect();
    match read(&words, &[]) {
        Ok(Task::Serve(config)) => *config,
        other => panic!("{words:?}: {other:?}"),
    }
}

fn bad(words: &[&str]) -> String {
    match read(words, &[]) {
        Err(Refusal::Bad(line)) => line,
        other => panic!("{words:?}: {other:?}"),
    }
}

/// The value of a flag in the configuration, for flags of all kinds.
fn seen(config: &Config, flag: &str) -> String {
    let (controller, node) = (config.controller.as_ref().unwrap(), config.node.as_ref().unwrap());
    let registration = || node.registration.as_ref().unwrap();
    match flag {
        "endpoint" => config.endpoint.to_string(),
        "admin-socket" => config.admin_socket.to_string(),
        "nodeid" => node.id.to_string(),
        "drivername" => config.driver_name.to_string(),
        "export" => controller.exports.iter().map(Source::to_string).collect::<Vec<_>>().join(" "),
        "export-mount-options" => {
            let one = |(share, options): (&Source, &MountOptions)| format!("{share} {options}");
            controller.settings.mount_options.exports.iter().map(one).collect::<Vec<_>>().join("; ")
        }
        "mount-options" => node.mount_options.to_vec().join(","),
        "mount-permissions" => format!("{:o}", node.mount_permissions.unwrap_or_default()),
        "default-ondelete-policy" => controller.settings.delete.default.as_str().to_owned(),
        "remove-archived-volume-path" => controller.settings.delete.replace_archive.to_string(),
        "copy-workers" => config.controller.as_ref().unwrap().copy_workers.to_string(),
        "vol-stats-cache-expire-in-minutes" => (node.stats_cache.as_secs() / 60).to_string(),
        "enable-inline-volumes" => node.inline_volumes.to_string(),
        "registration-socket" => registration().socket.to_string(),
        "kubelet-socket-path" => registration().endpoint.to_string(),
        "http-endpoint" => config.http_endpoint.unwrap().to_string(),
        "otlp-endpoint" => config.otlp_endpoint.clone().unwrap(),
        "shutdown-grace" => format!("{:?}", config.shutdown_grace),
        "log-format" => format!("{:?}", config.log_format).to_lowercase(),
        "v" => config.verbosity.to_string(),
        other => panic!("{other}"),
    }
}

#[rstest]
#[case(&["check", "--export=h:/a"], "vers=4.1,xprtsec=mtls")]
#[case(&["check", "--export=h:/b"], "vers=4.0")]
#[case(&["check", "--export=h:/a", "--mount-options=vers=3"], "vers=3")]
#[case(&["--export-mount-options=h:/a vers=4.2", "check", "--export=h:/a"], "vers=4.2")]
#[case(&["doctor", "--export=h:/a"], "vers=4.1,xprtsec=mtls")]
#[case(&["doctor", "--export=h:/b"], "vers=4.0")]
#[case(&["doctor", "--export=h:/a", "--mount-options=vers=3"], "vers=3")]
fn a_check_and_the_doctor_mount_an_export_as_the_controller_does(#[case] words: &[&str], #[case] expected: &str) {
    let environment =
        [("CSI_NFS_MOUNT_OPTIONS", "vers=4.0"), ("CSI_NFS_EXPORT_MOUNT_OPTIONS", "h:/a vers=4.1,xprtsec=mtls")];
    match read(words, &environment) {
        Ok(Task::Check(config)) => assert_eq!(config.settings.mount_options.to_string(), expected),
        Ok(Task::Doctor(config)) => assert_eq!(config.settings.mount_options.to_string(), expected),
        other => panic!("{words:?}: {other:?}"),
    }
}

#[rstest]
#[case("endpoint", "unix://a/b.sock", "a/b.sock")]
#[case("nodeid", "node-1", "node-1")]
#[case("drivername", "nfs.csi.k8s.io", "nfs.csi.k8s.io")]
#[case("export", "h:/a,[::1]:/", "h:/a [::1]:/")]
#[case("export-mount-options", "[::1]:/ vers=4.1;h:/a b xprtsec=tls,hard", "[::1]:/ vers=4.1; h:/a b xprtsec=tls,hard")]
#[case("mount-options", "nfsvers=4.1,hard", "nfsvers=4.1,hard")]
#[case("mount-permissions", "0777", "777")]
#[case("default-ondelete-policy", "retain", "retain")]
#[case("remove-archived-volume-path", "true", "true")]
#[case("copy-workers", "8", "8")]
#[case("vol-stats-cache-expire-in-minutes", "3", "3")]
#[case("enable-inline-volumes", "T", "true")]
#[case("admin-socket", "/run/admin.sock", "/run/admin.sock")]
#[case("http-endpoint", "[::]:9809", "[::]:9809")]
#[case("otlp-endpoint", "http://jaeger:4317", "http://jaeger:4317")]
#[case("shutdown-grace", "1m30s", "90s")]
#[case("log-format", "json", "json")]
#[case("v", "5", "5")]
fn every_flag_accepts_go_syntax_and_the_environment(#[case] flag: &str, #[case] value: &str, #[case] expected: &str) {
    for word in [format!("--{flag}={value}"), format!("-{flag}={value}")] {
        assert_eq!(seen(&config(&[&word]), flag), expected, "{word}");
        let twice = config(&[&word, &word]);
        assert!(seen(&twice, flag).starts_with(expected), "{word} twice");
    }
    let variable = format!("CSI_NFS_{}", flag.replace('-', "_").to_uppercase());
    let Ok(Task::Serve(config)) = read(&[], &[("NODE_ID", "n"), (&variable, value)]) else { panic!("{variable}") };
    assert_eq!(seen(&config, flag), expected, "{variable}");
}

#[test]
fn missing_flags_and_empty_values_mean_the_defaults() {
    let empty: Vec<String> = ["endpoint", "drivername", "default-ondelete-policy", "mount-options", "http-endpoint"]
        .iter()
        .chain(&["mode", "export", "working-mount-dir", "enable-snapshot-compression", "registration-socket"])
        .map(|flag| format!("--{flag}="))
        .collect();
    let empty: Vec<&str> = empty.iter().map(String::as_str).collect();
    for config in [config(&[]), config(&empty)] {
        assert_eq!(seen(&config, "endpoint"), "/csi/csi.sock");
        assert_eq!(seen(&config, "drivername"), "csi-nfs.rs");
        assert_eq!(seen(&config, "default-ondelete-policy"), "delete");
        assert_eq!(seen(&config, "mount-permissions"), "0");
        assert_eq!(seen(&config, "vol-stats-cache-expire-in-minutes"), "10");
        assert_eq!(seen(&config, "shutdown-grace"), "10s");
        assert_eq!(seen(&config, "remove-archived-volume-path"), "false");
        assert_eq!(seen(&config, "enable-inline-volumes"), "false");
        assert_eq!((config.http_endpoint, config.verbosity, config.log_format), (None, 0, Format::Text));
    }
}

#[test]
fn the_arguments_of_csi_driver_nfs_manifests_are_accepted() {
    let config = config(&[
        "-v=5",
        "--nodeid=node-1",
        "--endpoint=unix:///csi/csi.sock",
        "--drivername=nfs.csi.k8s.io",
        "--mount-permissions=0",
        "--working-mount-dir=/tmp",
        "--default-ondelete-policy=",
        "--use-tar-command-in-snapshot=false",
        "--enable-snapshot-compression=true",
        "--vol-stats-cache-expire-in-minutes=10",
        "--remove-archived-volume-path=true",
    ]);
    assert_eq!((config.verbosity, seen(&config, "nodeid").as_str()), (5, "node-1"));
}

#[rstest]
#[case(&["--remove-archived-volume-path"], true)]
#[case(&["-remove-archived-volume-path"], true)]
#[case(&["--remove-archived-volume-path=1"], true)]
#[case(&["--remove-archived-volume-path", "--remove-archived-volume-path=FALSE"], false)]
fn a_boolean_flag_accepts_go_syntax(#[case] words: &[&str], #[case] expected: bool) {
    assert_eq!(config(words).controller.unwrap().settings.delete.replace_archive, expected);
}

#[test]
fn the_command_line_overrides_the_environment_and_a_flags_own_variable_the_conventional_one() {
    let variables = [("CSI_NFS_NODEID", "own"), ("NODE_ID", "customary"), ("CSI_ENDPOINT", "unix:///e")];
    let node = |words: &[&str], variables: &[(&str, &str)]| match read(words, variables) {
        Ok(Task::Serve(config)) => (seen(&config, "nodeid"), seen(&config, "endpoint")),
        other => panic!("{other:?}"),
    };
    assert_eq!(node(&["-nodeid", "flag"], &variables), ("flag".into(), "/e".into()));
    assert_eq!(node(&[], &variables), ("own".into(), "/e".into()));
    assert_eq!(node(&[], &[("CSI_NFS_NODEID", ""), variables[1]]), ("customary".into(), "/csi/csi.sock".into()));
    let exports = [("NODE_ID", "n"), ("CSI_NFS_EXPORT", "h:/env")];
    let Ok(Task::Serve(config)) = read(&["--export=h:/flag"], &exports) else { panic!() };
    assert_eq!(seen(&config, "export"), "h:/flag");
}

#[test]
fn a_mode_configures_only_its_own_services() {
    let node = config(&["--mode=node"]);
    assert!(node.controller.is_none() && node.node.is_some());
    let Ok(Task::Serve(controller)) = read(&["--mode=controller"], &[]) else { panic!() };
    assert!(controller.controller.is_some() && controller.node.is_none());
}

#[test]
fn registration_takes_both_paths() {
    let config = config(&["--registration-socket=/registration/x.sock", "--kubelet-socket-path=/var/lib/csi.sock"]);
    assert_eq!(seen(&config, "registration-socket"), "/registration/x.sock");
    assert_eq!(seen(&config, "kubelet-socket-path"), "/var/lib/csi.sock");
}

#[rstest]
#[case(&[], "nodeid")]
#[case(&["--mode=node"], "nodeid")]
#[case(&["--nodeid=a\nb"], "nodeid")]
#[case(&["--nodeid=n", "--endpoint=tcp://0.0.0.0:1"], "endpoint")]
#[case(&["--nodeid=n", "--endpoint=/csi/csi.sock"], "endpoint")]
#[case(&["--nodeid=n", "--endpoint=unix:csi.sock"], "endpoint")]
#[case(&["--nodeid=n", "--endpoint=unix://"], "endpoint")]
#[case(&["--nodeid=n", "--drivername=a_b"], "drivername")]
#[case(&["--nodeid=n", "--mode=both"], "controller, node and all")]
#[case(&["--nodeid=n", "--export=h"], "SERVER:/SHARE")]
#[case(&["--nodeid=n", "--export=:/a"], "export")]
#[case(&["--nodeid=n", "--export=::1:/a"], "[::1]:/a")]
#[case(&["--nodeid=n", "--export=h:/a/../b"], "export")]
#[case(&["--nodeid=n", "--export-mount-options=h:/a"], "SERVER:/SHARE OPTIONS")]
#[case(&["--nodeid=n", "--export-mount-options=h:/a suid"], "--export-mount-options")]
#[case(&["--nodeid=n", "--mount-options=bind"], "bind")]
#[case(&["--nodeid=n", "--mount-permissions=777"], "leading 0")]
#[case(&["--nodeid=n", "--mount-permissions=08"], "mount-permissions")]
#[case(&["--nodeid=n", "--mount-permissions=077777777777"], "mount-permissions")]
#[case(&["--nodeid=n", "--default-ondelete-policy=Delete "], "default-ondelete-policy")]
#[case(&["--nodeid=n", "--remove-archived-volume-path=maybe"], "remove-archived-volume-path")]
#[case(&["--nodeid=n", "--vol-stats-cache-expire-in-minutes=-1"], "vol-stats-cache-expire-in-minutes")]
#[case(&["--nodeid=n", "--registration-socket=/r.sock"], "kubelet-socket-path")]
#[case(&["--nodeid=n", "--kubelet-socket-path=/k.sock"], "registration-socket")]
#[case(&["--nodeid=n", "--registration-socket=/r.sock", "--kubelet-socket-path=k.sock"], "absolute")]
#[case(&["--mode=controller", "--registration-socket=/r.sock", "--kubelet-socket-path=/k.sock"], "--mode")]
#[case(&["--nodeid=n", "--http-endpoint=localhost:80"], "http-endpoint")]
#[case(&["--nodeid=n", "--otlp-endpoint=jaeger:4317"], "http://HOST:PORT")]
#[case(&["--nodeid=n", "--otlp-endpoint=https://jaeger:4317"], "without TLS")]
#[case(&["--nodeid=n", "--shutdown-grace=soon"], "shutdown-grace")]
#[case(&["--nodeid=n", "--log-format=xml"], "neither text nor json")]
#[case(&["--nodeid=n", "--v=loud"], "--v")]
#[case(&["--nodeid=n", "--no-such-flag\n\u{1b}[2J"], "no-such-flag")]
#[case(&["--nodeid=n", "stray"], "stray")]
#[case(&["--nodeid"], "nodeid")]
#[case(&["probe", "--endpoint=tcp://x"], "endpoint")]
fn bad_configuration_is_one_line_that_names_what_is_wrong(#[case] words: &[&str], #[case] named: &str) {
    let line = bad(words);
    assert!(line.contains(named), "{line}");
    assert!(!line.contains(char::is_control), "{line:?}");
}

#[rstest]
#[case(&["probe"], &[], "/csi/csi.sock")]
#[case(&["probe", "-endpoint=unix:/a"], &[], "/a")]
#[case(&["--endpoint", "unix:///a", "probe"], &[], "/a")]
#[case(&["probe"], &[("CSI_ENDPOINT", "unix:///e")], "/e")]
fn a_probe_needs_no_more_than_the_endpoint(
    #[case] words: &[&str],
    #[case] variables: &[(&str, &str)],
    #[case] path: &str,
) {
    let Ok(Task::Probe(socket)) = read(words, variables) else { panic!("{words:?}") };
    assert_eq!(socket.to_string(), path);
}

#[rstest]
#[case(&["status"], &[], "/csi/csi.sock.admin")]
#[case(&["status", "--format=json", "--endpoint=unix:/a"], &[], "/a.admin")]
#[case(&["status", "--admin-socket=/b"], &[("CSI_ENDPOINT", "unix:///e")], "/b")]
#[case(&["status"], &[("CSI_NFS_ADMIN_SOCKET", "/c")], "/c")]
fn the_status_is_asked_for_where_the_driver_tells_it(
    #[case] words: &[&str],
    #[case] variables: &[(&str, &str)],
    #[case] path: &str,
) {
    let Ok(Task::Status(config)) = read(words, variables) else { panic!("{words:?}") };
    assert_eq!(config.socket.to_string(), path);
    let serving = [&["--nodeid=n"][..], &words[1..]].concat();
    let serving: Vec<&str> = serving.into_iter().filter(|word| !word.starts_with("--format")).collect();
    let Ok(Task::Serve(config)) = read(&serving, variables) else { panic!("{serving:?}") };
    assert_eq!(config.admin_socket.to_string(), path, "the driver serves where it is asked");
}

#[test]
fn a_bundle_checks_an_export_with_the_options_of_the_driver_and_repairs_nothing() {
    let words = ["bundle", "--log=a", "--log=-", "--export=h:/a", "--output=/b.tar"];
    let Ok(Task::Bundle(config)) = read(&words, &[("CSI_NFS_MOUNT_OPTIONS", "vers=4.1")]) else { panic!("valid") };
    let check = config.settings.check.unwrap();
    assert_eq!((check.export.to_string(), check.repair), ("h:/a".to_owned(), false));
    assert_eq!(check.mount_options.to_vec(), ["vers=4.1"]);
    assert_eq!(config.settings.logs, [Path::new("a"), Path::new("-")]);
    assert_eq!(config.output.as_deref(), Some(Path::new("/b.tar")));
    let Ok(Task::Bundle(config)) = read(&["bundle"], &[]) else { panic!("nothing is required") };
    assert!(config.settings.check.is_none() && config.output.is_none());
}

#[test]
fn the_flags_that_were_given_are_known_also_those_of_the_environment() {
    let Ok(Task::Serve(config)) = read(&["-nodeid=n", "-v=3"], &[("CSI_NFS_MOUNT_OPTIONS", "vers=4.1")]) else {
        panic!("they are valid")
    };
    assert_eq!(config.given, ["--mount-options=vers=4.1", "--nodeid=n", "--v=3"]);
}

#[rstest]
fn help_names_every_flag_and_variable(#[values("--help", "-help", "-h")] word: &str) {
    let Err(Refusal::Shown(help)) = read(&[word], &[]) else { panic!("{word}") };
    for name in ["--endpoint", "CSI_ENDPOINT", "NODE_ID", "CSI_NFS_SHUTDOWN_GRACE", "probe", "[default: 10s]"] {
        assert!(help.contains(name), "{name}\n{help}");
    }
}

#[rstest]
fn the_version_is_shown(#[values("--version", "-version", "-V")] word: &str) {
    let shown = format!("csi-nfs {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(read(&[word], &[]).unwrap_err(), Refusal::Shown(shown));
}

#[rstest]
#[case(&["--log-format=json", "-v=3", "agent", "--path=/srv"])]
#[case(&["agent", "--path=/srv", "--log-format=json", "-v=3"])]
#[case(&["--log-format=text", "agent", "--path=/srv", "--log-format=json", "-v=3"])]
fn the_flags_of_all_parts_are_accepted_before_and_after_the_subcommand(#[case] words: &[&str]) {
    let Ok(Task::Agent(agent)) = read(words, &[("CSI_NFS_V", "7")]) else { panic!("{words:?}") };
    assert_eq!((agent.log_format, agent.verbosity), (Format::Json, 3));
    for other in [&["probe"] as &[_], &["check", "--export=h:/a"], &["doctor", "--export=h:/a"]] {
        let words = [other, &["--log-format=json", "-v=3", "--endpoint=unix:///a"]].concat();
        assert!(read(&words, &[]).is_ok(), "{words:?}");
    }
}

/// All files below a directory of the repository.
fn files_below(directory: &str) -> Vec<(String, String)> {
    let mut open = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        match std::fs::read_dir(&path) {
            Ok(entries) => open.extend(entries.map(|entry| entry.unwrap().path())),
            Err(_) => found.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap())),
        }
    }
    found
}

/// The command lines of csi-nfs in a manifest: the `args` of containers whose image is csi-nfs, and the commands of
/// probes.
fn in_manifest(text: &str) -> Vec<Vec<String>> {
    let word = |text: &str| text.trim().trim_matches('"').to_owned();
    let flow = |text: &str| text.split(']').next().unwrap().split(',').map(word).collect::<Vec<_>>();
    let mut found = Vec::new();
    let mut ours = false;
    let mut lines = text.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        if let Some(image) = line.strip_prefix("image: ") {
            ours = image.split('/').next_back().unwrap().starts_with("csi-nfs:");
        } else if let Some(list) = line.strip_prefix("args: [").filter(|_| ours) {
            found.push(flow(list));
        } else if line == "args:" && ours {
            let mut words = Vec::new();
            while let Some(item) = lines.next_if(|line| line.starts_with("- ")) {
                words.push(word(&item[2..]));
            }
            found.push(words);
        } else if let Some((_, list)) = line.split_once("command: [/csi-nfs, ") {
            found.push(flow(list));
        }
    }
    found
}

/// The command lines of csi-nfs in a unit, and in the indented lines of a document.
fn in_lines(text: &str) -> Vec<Vec<String>> {
    let commands = text.lines().filter(|line| line.starts_with("    ") || line.starts_with("ExecStart="));
    let commands = commands.filter(|line| !line.contains("helm ")).filter_map(|line| line.split_once("/csi-nfs "));
    let end = |word: &&str| !["&", "&&", "||", "|", ">", "2>"].contains(word) && !word.starts_with('#');
    let word = |word: &str| word.replace([';', '"'], "");
    commands.map(|(_, words)| words.split_whitespace().take_while(end).map(word).collect()).collect()
}

#[test]
fn the_arguments_of_every_shipped_manifest_unit_and_document_are_accepted() {
    let mut parts = std::collections::BTreeMap::<&str, usize>::new();
    for (path, text) in [files_below("deploy"), files_below("docs"), files_below("README.md")].concat() {
        let commands = match path.rsplit('.').next() {
            Some("yaml") if !path.contains("/templates/") => in_manifest(&text),
            Some("service" | "md") => in_lines(&text),
            _ => continue,
        };
        for words in commands {
            let words: Vec<_> = words.iter().map(|word| word.replace("${CSI_NFS_AGENT_PATHS}", "/a,/b")).collect();
            let read = read(&words.iter().map(String::as_str).collect::<Vec<_>>(), &[("NODE_ID", "n")]);
            let part = match read {
                Ok(Task::Serve(_)) => "serve",
                Ok(Task::Probe(_)) => "probe",
                Ok(Task::Agent(_)) => "agent",
                Ok(Task::Status(_)) => "status",
                Ok(Task::Bundle(_)) => "bundle",
                Ok(Task::Check(_)) => "check",
                Ok(Task::Doctor(_)) => "doctor",
                Err(refusal) => panic!("{path}: {words:?}: {refusal:?}"),
            };
            *parts.entry(part).or_default() += 1;
        }
    }
    // Two services in each of three manifests, and their probes; the agent's unit and manifest; and the documents.
    let at_least = [("serve", 6), ("probe", 12), ("agent", 2), ("status", 1), ("check", 1), ("doctor", 1)];
    assert!(at_least.iter().all(|(part, count)| parts.get(part) >= Some(count)), "{parts:?}");
}
