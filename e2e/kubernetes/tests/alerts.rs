//! The chart's alerts, beside docs/alerts.md and their tests. `make test-rules` plays the outages to them.
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use csi_nfs_e2e_kubernetes::template::{Values, rendered};
use csi_nfs_e2e_kubernetes::{cached, repository};
use serde_json::Value;

const RULES: &str = "deploy/helm/csi-nfs/files/rules.yaml";
const ENABLED: Values = &[("metrics.enabled", "true"), ("metrics.rules.enabled", "true")];

fn yaml(path: &str) -> Result<Value> {
    let text = std::fs::read_to_string(repository(path)).with_context(|| path.to_owned())?;
    serde_saphyr::from_str(&text).with_context(|| path.to_owned())
}

/// The elements of the list `name` in each of `values`.
fn each<'a>(values: impl IntoIterator<Item = &'a Value>, name: &str) -> Vec<&'a Value> {
    values.into_iter().flat_map(|value| value[name].as_array().into_iter().flatten()).collect()
}

/// The text at `pointer`, or nothing.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The sections of docs/alerts.md about alerts, by heading.
fn sections(document: &str) -> BTreeMap<&str, &str> {
    let sections = document.split("\n## ").filter_map(|section| section.split_once('\n'));
    sections.filter(|(heading, _)| heading.starts_with("NFS")).collect()
}

#[test]
fn every_alert_says_what_is_wrong_and_links_to_its_section_and_every_section_has_an_alert() -> Result<()> {
    let rules = yaml(RULES)?;
    let document = std::fs::read_to_string(repository("docs/alerts.md"))?;
    let sections = sections(&document);
    let mut alerts = BTreeSet::new();
    for rule in each(each([&rules], "groups"), "rules") {
        let alert = text(rule, "/alert");
        let section = sections.get(alert).with_context(|| format!("docs/alerts.md has no heading {alert}"))?;
        for part in ["**What it means.** ", "**Look**", "\n    ", "**Do.** ", "**It ends** "] {
            ensure!(section.contains(part), "{alert}: no {part:?} in docs/alerts.md");
        }
        let link = text(rule, "/annotations/runbook_url");
        ensure!(link.ends_with(&format!("/docs/alerts.md#{}", alert.to_lowercase())), "{alert}: {link}");
        for annotation in ["/annotations/summary", "/annotations/description"] {
            ensure!(text(rule, annotation).contains("{{ "), "{alert}: {annotation} names nothing");
        }
        let row = format!("| [{alert}](#{}) | {} | ", alert.to_lowercase(), text(rule, "/labels/severity"));
        ensure!(document.contains(&row), "the table of docs/alerts.md has no row {row}");
        ensure!(alerts.insert(alert), "{alert} is there twice");
    }
    ensure!(alerts.len() > 10 && alerts.iter().eq(sections.keys()), "{alerts:?} {:?}", sections.keys());
    let thresholds = &yaml("deploy/helm/csi-nfs/values.yaml")?["metrics"]["rules"]["thresholds"];
    for name in thresholds.as_object().context("no thresholds")?.keys() {
        ensure!(document.contains(&format!("`metrics.rules.thresholds.{name}`")), "docs/alerts.md lacks {name}");
    }
    Ok(())
}

#[test]
fn every_alert_is_tested_to_fire_and_to_end() -> Result<()> {
    let mut tested: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    for entry in std::fs::read_dir(repository("e2e/prometheus/alerts"))? {
        let file = serde_saphyr::from_str::<Value>(&std::fs::read_to_string(entry?.path())?)?;
        for case in each(each([&file], "tests"), "alert_rule_test") {
            let (fires, ends) = tested.entry(text(case, "/alertname").to_owned()).or_default();
            match each([case], "exp_alerts").is_empty() {
                // An alert that has not fired yet does not end.
                true => *ends |= *fires,
                false => *fires = true,
            }
        }
    }
    let rules = yaml(RULES)?;
    for rule in each(each([&rules], "groups"), "rules") {
        let alert = text(rule, "/alert");
        ensure!(tested.get(alert) == Some(&(true, true)), "{alert}: {:?}", tested.get(alert));
    }
    Ok(())
}

/// The `spec` of the PrometheusRule in what the chart renders with `values`.
fn spec(values: &[(&str, &str)]) -> Result<Value> {
    let output = rendered(values)?;
    let object = output.split("\n---\n").find(|object| object.contains("kind: PrometheusRule"));
    let object: Value = serde_saphyr::from_str(object.context("no PrometheusRule")?)?;
    Ok(object["spec"].clone())
}

#[test]
fn the_chart_renders_the_rules_that_are_tested() -> Result<()> {
    ensure!(spec(ENABLED)? == yaml(RULES)?, "the defaults of metrics.rules are not those of {RULES}");
    Ok(())
}

#[test]
fn prometheus_accepts_the_rules_with_any_thresholds() -> Result<()> {
    let thresholds = concat!(
        r#"{"exportFree":0.00001,"exportInodesFree":1,"exportPromised":1000,"agentSeconds":1,"#,
        r#""trashSeconds":31536000000,"stagingSeconds":1,"callsFailing":0}"#,
    );
    let changed = spec(&[ENABLED, &[("metrics.rules.thresholds", thresholds)]].concat())?;
    let directory = std::env::temp_dir().join(format!("csi-nfs-rules-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let file = directory.join("rules.yaml");
    std::fs::write(&file, changed.to_string())?;
    let output = Command::new(cached("prometheus/promtool")).args(["check", "rules"]).arg(&file).output();
    std::fs::remove_dir_all(&directory)?;
    let output = output.context("cannot run promtool; run make promtool to build it")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Go writes numbers with an exponent, which PromQL reads.
    for part in ["< 1e-05 # exportFree", "> 3.1536e+10 # trashSeconds", "> 0 # callsFailing"] {
        ensure!(changed.to_string().contains(part), "{part} is in no rule: {changed}");
    }
    Ok(())
}
