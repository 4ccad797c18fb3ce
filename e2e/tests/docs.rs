//! The documents name exactly what the code has: flags, parameters, mount options, metrics, codes, health reasons, and
//! quoted messages. The tests read these names from the program and its source, so nobody has to maintain a list.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rstest::rstest;

const PARAMETERS: &str = include_str!("../../docs/parameters.md");
const TROUBLESHOOTING: &str = include_str!("../../docs/troubleshooting.md");
const ALERTS: &str = include_str!("../../docs/alerts.md");
const DASHBOARDS: &str = include_str!("../../docs/dashboards.md");
const SECURITY: &str = include_str!("../../docs/security.md");

/// The plugin of kubectl, which has variables of its own.
const PLUGIN: &str = include_str!("../../deploy/kubectl-csi_nfs");

/// Flags of other programs that the documents name.
const OF_OTHERS: [&str; 2] = ["--extra-create-metadata", "--previous"];

type Names = BTreeSet<String>;

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// A source file without its tests, with each string on one line, and without the backticks around names in messages.
fn source(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap();
    let mut lines = code.split("\\\n");
    let first = lines.next().unwrap().to_owned();
    let joined = lines.fold(first, |joined, line| joined + line.trim_start());
    joined.replace('`', "").replace("{{", "{").replace("}}", "}")
}

/// All source files.
fn sources() -> Vec<String> {
    let mut open = vec![root().join("src")];
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                None => open.push(path),
                Some(_) if path.ends_with("tests.rs") => {}
                Some(_) => found.push(source(&path)),
            }
        }
    }
    found
}

/// The string literals of a source text that `wanted` accepts.
fn literals(source: &str, wanted: fn(&str) -> bool) -> Names {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split('"').skip(1).step_by(2)).filter(|text| wanted(text)).map(str::to_owned).collect()
}

/// The characters that follow each `start` in the text, as long as `more` accepts them.
fn following(text: &str, start: &str, more: fn(char) -> bool) -> Names {
    let is_start = |at: usize| !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || "-_".contains(c));
    text.match_indices(start)
        .filter(|(at, _)| is_start(*at))
        .map(|(at, _)| text[at + start.len()..].split(|c| !more(c)).next().unwrap().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// The cells of all tables whose first column has this heading, by row.
fn rows<'a>(text: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let mut rows = Vec::new();
    let mut lines = text.lines();
    let begins = format!("| {heading} |");
    while lines.by_ref().any(|line| line.starts_with(&begins)) {
        let table = lines.by_ref().skip(1).take_while(|line| line.starts_with('|'));
        rows.extend(table.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>()));
    }
    rows
}

/// The parts of the text in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn assert_documented(document: &str, names: &Names, example: &str) {
    assert!(names.contains(example), "{example} was not found in the code: {names:?}");
    let document: BTreeSet<_> = quoted(document).map(str::to_lowercase).collect();
    let is_there = |name: &str| {
        let forms = [name.to_owned(), format!("{name}="), format!("${{{name}}}")];
        forms.iter().any(|form| document.contains(&form.to_lowercase()))
    };
    let missing: Vec<_> = names.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "not in the document: {missing:?}");
}

/// Each flag of the driver or of a subcommand, with its part of the help.
fn flags(subcommand: &[&str]) -> Vec<(String, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_csi-nfs"));
    let output = command.args(subcommand).arg("--help").env_clear().output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let options = help.split_once("\nOptions:\n").unwrap().1;
    let mut flags: Vec<(String, String)> = Vec::new();
    for line in options.lines() {
        match following(line.trim_start(), "--", |c| c.is_ascii_lowercase() || c == '-').pop_first() {
            Some(name) if line.trim_start().starts_with('-') => flags.push((format!("--{name}"), String::new())),
            _ => {}
        }
        flags.last_mut().unwrap().1.push_str(line);
    }
    flags
}

#[test]
fn every_flag_is_documented_with_its_variables_and_its_default() {
    let rows = rows(PARAMETERS, "flag");
    let (shown, flags): (Vec<_>, Vec<_>) = flags(&[]).into_iter().partition(|(_, help)| !help.contains("[env: "));
    assert_eq!(shown.iter().map(|(flag, _)| flag.as_str()).collect::<Vec<_>>(), ["--help", "--version"]);
    assert_eq!(rows.len(), flags.len(), "the table has a row for each flag, and no other row");
    for (flag, help) in flags {
        let row = rows.iter().find(|row| row[0] == format!("`{flag}`")).unwrap_or_else(|| panic!("{flag} has no row"));
        let value = |key: &str| help.split_once(key).map(|(_, rest)| rest.split(']').next().unwrap());
        let variables: Vec<_> = value("[env: ").unwrap().split(", ").collect();
        assert_eq!(quoted(row[1]).collect::<Vec<_>>(), variables, "{flag}");
        match value("[default: ") {
            Some(default) => assert_eq!(row[2], format!("`{default}`"), "{flag}"),
            None => assert!(row[2].starts_with("none"), "{flag}: {}", row[2]),
        }
    }
}

#[rstest]
#[case("status")]
#[case("bundle")]
#[case("check")]
#[case("doctor")]
#[case("agent")]
fn every_flag_of_a_subcommand_is_documented(#[case] subcommand: &str) {
    let heading = format!("flag of `{subcommand}`");
    let documented: Names = rows(PARAMETERS, &heading).iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    let common: Vec<String> = flags(&["probe"]).into_iter().map(|(flag, _)| flag).collect();
    let own: Names =
        flags(&[subcommand]).into_iter().map(|(flag, _)| flag).filter(|flag| !common.contains(flag)).collect();
    assert!(!own.is_empty());
    assert_eq!(documented, own);
}

#[rstest]
#[case(PARAMETERS)]
#[case(TROUBLESHOOTING)]
fn no_flag_and_no_variable_is_named_that_does_not_exist(#[case] document: &str) {
    let parts = ["status", "bundle", "check", "doctor", "agent"].map(|part| flags(&[part]));
    let flags = [flags(&[]), parts.concat()].concat();
    let named = following(document, "--", |c| c.is_ascii_lowercase() || c == '-');
    // A name that starts with `-` is a line of a table.
    let named: Vec<_> = named.iter().filter(|name| !name.starts_with('-')).map(|name| format!("--{name}")).collect();
    assert!(named.len() > 2, "{named:?}");
    for flag in named.into_iter().filter(|flag| !OF_OTHERS.contains(&flag.as_str())) {
        assert!(flags.iter().any(|(known, _)| *known == flag), "{flag}");
    }
    for variable in following(document, "CSI_NFS_", |c| c.is_ascii_uppercase() || c == '_') {
        let name = format!("CSI_NFS_{variable}");
        assert!(PLUGIN.contains(&name) || flags.iter().any(|(_, help)| help.contains(&name)), "{name}");
    }
}

#[test]
fn every_parameter_policy_and_template_is_documented() {
    let source = source(&root().join("src/volume/parameters.rs"));
    let arms = source.lines().map(str::trim).filter_map(|line| line.strip_prefix('"')?.split_once("\" =>"));
    assert_documented(PARAMETERS, &arms.map(|(key, _)| key.to_owned()).collect(), "subdir");
}

#[test]
fn every_volume_attribute_is_documented() {
    let source = source(&root().join("src/service/publish_request.rs"));
    let keys: Names = source.split(".get(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
    assert_documented(PARAMETERS, &keys, "mountPermissions");
    let documented: Names = rows(PARAMETERS, "key").iter().flat_map(|row| quoted(row[0])).map(str::to_owned).collect();
    assert!(keys.is_subset(&documented), "{keys:?} {documented:?}");
}

#[test]
fn every_mount_option_is_documented() {
    let source = source(&root().join("src/nfs/option_table.rs"));
    let table = source.split_once("KNOWN: &[").unwrap().1.split("\n];").next().unwrap();
    let entries = table.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split_once('"'));
    assert_documented(PARAMETERS, &entries.map(|(name, _)| name.to_owned()).collect(), "nconnect");
}

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The metrics of a driver that has served a call.
fn scrape() -> String {
    let directory = tempfile::tempdir().unwrap();
    let csi_nfs = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_csi-nfs"));
        command.args(words).current_dir(directory.path()).env_clear().stdin(Stdio::null());
        command
    };
    // The loopback address belongs to this process only, so the port is free.
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let address = format!("127.{}.{b}.{c}:9189", a | 1);
    let http = format!("--http-endpoint={address}");
    let mut command = csi_nfs(&["--nodeid=n", "--endpoint=unix://csi.sock", &http]);
    let mut driver = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut log = BufReader::new(driver.0.stderr.take().unwrap()).lines();
    assert!(log.by_ref().map_while(Result::ok).any(|line| line.contains("serving")), "the driver ended");
    assert!(csi_nfs(&["probe", "--endpoint=unix://csi.sock"]).status().unwrap().success());
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn every_metric_is_documented_and_none_besides() {
    let scraped = scrape();
    // An agent runs only on a file system with project quotas.
    let of_agent = literals(&source(&root().join("src/driver/agent.rs")), |text| text.starts_with("agent_"));
    assert!(of_agent.contains("agent_volumes_behind"), "{of_agent:?}");
    let of_agent = of_agent.into_iter().map(|name| (format!("csi_nfs_{name}"), "gauge".to_owned()));
    let metrics: BTreeSet<(String, String)> = scraped
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| {
            // The text format knows no info.
            let kind = if name.ends_with("_info") { "info" } else { kind };
            (name.to_owned(), kind.to_owned())
        })
        .chain(of_agent)
        .collect();
    let documented: BTreeSet<(String, String)> =
        rows(PARAMETERS, "name").iter().map(|row| (row[0].trim_matches('`').to_owned(), row[1].to_owned())).collect();
    assert!(metrics.len() > 3, "{scraped}");
    assert_eq!(metrics, documented);
    for name in following(TROUBLESHOOTING, "csi_nfs_", |c| c.is_ascii_lowercase() || c == '_') {
        let name = format!("csi_nfs_{}", name.trim_end_matches("_count"));
        assert!(metrics.iter().any(|(known, _)| *known == name), "{name}");
    }
    for (name, _) in &metrics {
        assert!(TROUBLESHOOTING.contains(name.as_str()), "{name}");
    }
}

/// Whether the text is two or more words, each with a capital letter.
fn is_camel_case(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.chars().all(|c| c.is_ascii_alphabetic())
        && text.chars().filter(char::is_ascii_uppercase).count() > 1
        && text.chars().any(|c| c.is_ascii_lowercase())
}

#[test]
fn every_health_reason_is_documented_and_none_besides() {
    // A condition needs a severity, so the reasons are in the files with severities.
    let health = sources().into_iter().filter(|source| source.contains("Severity::"));
    let reasons: Names = health.flat_map(|source| literals(&source, is_camel_case)).collect();
    let documented: Names =
        rows(TROUBLESHOOTING, "reason").iter().flat_map(|row| quoted(row[0])).map(str::to_owned).collect();
    assert!(reasons.contains("DirectoryMissing"), "{reasons:?}");
    assert_eq!(reasons, documented);
}

#[test]
fn every_code_that_an_error_can_have_is_documented() {
    let codes = following(&source(&root().join("src/service/status.rs")).replace("tonic::", ""), "Code::", |c| {
        c.is_ascii_alphabetic()
    });
    assert!(codes.contains("Unavailable"), "{codes:?}");
    let documented: Names = rows(TROUBLESHOOTING, "code").iter().map(|row| row[1].to_owned()).collect();
    assert!(codes.is_subset(&documented), "{codes:?} {documented:?}");
}

/// What the code says in its string literals, in pieces between what is filled in.
struct Said(Vec<String>);

impl Said {
    fn new() -> Self {
        let literals = sources().iter().flat_map(|source| literals(source, |_| true)).collect::<Names>();
        // A literal as a whole, too: not every brace is filled in.
        let pieces = literals.iter().flat_map(|literal| literal.split(['{', '}']).chain([literal.as_str()]));
        Self(pieces.filter(|piece| !piece.is_empty()).map(str::to_owned).collect())
    }

    /// Whether a literal has the fragment, as whole words. A single word has to be a whole piece: anything has words.
    fn has(&self, fragment: &str) -> bool {
        let in_a_word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let holds = |piece: &String| {
            piece.match_indices(fragment).any(|(at, _)| {
                let (before, after) = (&piece[..at], &piece[at + fragment.len()..]);
                !in_a_word(before.chars().next_back()) && !in_a_word(after.chars().next())
            })
        };
        match fragment.contains(' ') {
            true => self.0.iter().any(holds),
            false => self.0.iter().any(|piece| trimmed(piece) == fragment),
        }
    }
}

fn trimmed(fragment: &str) -> &str {
    fragment.trim_matches([' ', ':', ',', ';'])
}

#[test]
fn messages_are_quoted_as_the_code_has_them() {
    let said = Said::new();
    assert!(said.has("is not a numeric group ID"));
    // A part of a word, a comment, code, and a word that is in many messages.
    for nowhere in ["s not a numeric group I", "What the code says", "let mut", "network"] {
        assert!(!said.has(nowhere), "{nowhere}");
    }
    let rows = rows(TROUBLESHOOTING, "the message");
    assert!(rows.len() > 50, "{}", rows.len());
    let mut wrong = Vec::new();
    for quote in rows.iter().flat_map(|row| quoted(row[0])) {
        // A quote omits names and numbers, and its parts may come from different places in the source.
        let parts: Vec<&str> = quote.split(['…', ';']).flat_map(|part| part.split(": ")).map(trimmed).collect();
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let missing: Vec<&str> = parts.iter().copied().filter(|part| !said.has(part)).collect();
        if parts.is_empty() || !missing.is_empty() {
            wrong.push(format!("`{quote}`: {missing:?}"));
        }
    }
    assert!(wrong.is_empty(), "not in the source: {wrong:#?}");
}

#[rstest]
#[case(PARAMETERS)]
#[case(TROUBLESHOOTING)]
#[case(SECURITY)]
#[case(ALERTS)]
#[case(DASHBOARDS)]
fn links_lead_somewhere(#[case] document: &str) {
    let anchor = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
    };
    let links: Vec<_> = document.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
    assert!(links.len() > 3, "{links:?}");
    for link in links.into_iter().filter(|link| !link.starts_with("https://")) {
        let (file, heading) = link.split_once('#').unwrap_or((link, ""));
        let text = match file {
            "" => document.to_owned(),
            file => fs::read_to_string(root().join("docs").join(file)).unwrap_or_else(|e| panic!("{link}: {e}")),
        };
        let mut headings = text.lines().filter(|line| line.starts_with('#')).map(anchor);
        assert!(heading.is_empty() || headings.any(|other| other == heading), "{link}");
    }
}

/// ARCHITECTURE.md follows calls through the source. Each step names a file, and most steps name a function in it.
#[test]
fn every_file_and_function_that_the_architecture_names_exists() {
    let text: Vec<_> = include_str!("../../ARCHITECTURE.md").split_whitespace().collect();
    let text = text.join(" ");
    let pieces: Vec<&str> = text.split('`').collect();
    let mut functions = 0;
    for at in (1..pieces.len()).step_by(2).filter(|at| pieces[*at].ends_with(".rs")) {
        let places = [root().join("src"), root()].map(|directory| directory.join(pieces[at]));
        let path = places.iter().find(|path| path.exists()).unwrap_or_else(|| panic!("{} does not exist", pieces[at]));
        match pieces[at + 1..] {
            [", ", function, ..] if !function.contains(['/', '.']) => {
                assert!(source(path).contains(&format!("fn {function}")), "{}: {function}", pieces[at]);
                functions += 1;
            }
            _ => {}
        }
    }
    assert!(functions > 20, "{functions}");
}
