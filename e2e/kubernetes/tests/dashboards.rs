//! The chart's dashboards: each panel says what it shows and in which unit, each query is PromQL, and each metric of
//! the dashboards and of the alerts is one that docs/parameters.md lists.
use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use csi_nfs_e2e_kubernetes::template::rendered;
use csi_nfs_e2e_kubernetes::{cached, repository};
use serde_json::Value;

const FOLDER: &str = "deploy/helm/csi-nfs/files/dashboards";
/// Units of Grafana that the panels may have.
const UNITS: [&str; 5] = ["short", "s", "bytes", "percentunit", "reqps"];

/// Each dashboard, with its file name.
fn dashboards() -> Result<Vec<(String, Value)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(repository(FOLDER))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let value = serde_json::from_str(&std::fs::read_to_string(entry.path())?).with_context(|| name.clone())?;
        found.push((name, value));
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    ensure!(found.len() == 2, "{} dashboards", found.len());
    Ok(found)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The queries of all panels of a dashboard.
fn queries(dashboard: &Value) -> Vec<&str> {
    let targets = list(dashboard, "/panels").iter().flat_map(|panel| list(panel, "/targets"));
    targets.map(|target| text(target, "/expr")).collect()
}

/// The names after each `$` of a text, as `$name` or `${name}`.
fn variables(text: &str) -> BTreeSet<String> {
    let names = text.split('$').skip(1).map(|rest| rest.trim_start_matches('{'));
    let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    names.map(|rest| rest.split(end).next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn every_panel_has_a_title_a_description_a_unit_and_the_data_source_that_is_chosen() -> Result<()> {
    for (file, dashboard) in dashboards()? {
        ensure!(format!("{}.json", text(&dashboard, "/uid")) == file, "{file} has another uid");
        ensure!(text(&dashboard, "/description").ends_with('.'), "{file} has no description");
        let mut titles = BTreeSet::new();
        for panel in list(&dashboard, "/panels") {
            let title = text(panel, "/title");
            ensure!(!title.is_empty() && titles.insert(title), "{file}: the title {title:?} is empty or there twice");
            ensure!(text(panel, "/description").ends_with(['.', ')']), "{file}: {title} has no description");
            let unit = text(panel, "/fieldConfig/defaults/unit");
            ensure!(UNITS.contains(&unit), "{file}: {title} has the unit {unit:?}");
            ensure!(text(panel, "/datasource/uid") == "${datasource}", "{file}: {title} has a data source of its own");
            let references: BTreeSet<_> = list(panel, "/targets").iter().map(|target| text(target, "/refId")).collect();
            ensure!(references.len() == list(panel, "/targets").len(), "{file}: {title}: {references:?}");
            for target in list(panel, "/targets") {
                ensure!(!text(target, "/expr").is_empty(), "{file}: {title} has an empty query");
                ensure!(!text(target, "/legendFormat").is_empty(), "{file}: {title} has a query without a legend");
            }
        }
        ensure!(titles.len() > 10, "{file}: {titles:?}");
    }
    Ok(())
}

#[test]
fn every_variable_is_declared_and_used() -> Result<()> {
    for (file, dashboard) in dashboards()? {
        let declared: BTreeSet<_> =
            list(&dashboard, "/templating/list").iter().map(|variable| text(variable, "/name").to_owned()).collect();
        ensure!(text(&dashboard, "/templating/list/0/query") == "prometheus", "{file} has no data source variable");
        let used = variables(&dashboard.to_string());
        let used: BTreeSet<_> = used.into_iter().filter(|name| !name.starts_with("__")).collect();
        ensure!(declared == used, "{file}: {declared:?} {used:?}");
    }
    Ok(())
}

#[test]
fn no_panel_covers_another_and_none_is_outside_of_the_page() -> Result<()> {
    for (file, dashboard) in dashboards()? {
        let mut taken = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in list(&dashboard, "/panels") {
            let title = text(panel, "/title");
            ensure!(ids.insert(panel["id"].as_u64().context("no id")?), "{file}: {title} has the id of another");
            let side = |name: &str| panel["gridPos"][name].as_u64().with_context(|| format!("{file}: {title}: {name}"));
            let (x, y, w, h) = (side("x")?, side("y")?, side("w")?, side("h")?);
            ensure!(w > 0 && h > 0 && x + w <= 24, "{file}: {title} is outside of the page");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                ensure!(taken.insert(cell), "{file}: {title} covers another panel at {cell:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn every_query_is_promql() -> Result<()> {
    let mut rules = Vec::new();
    for (file, dashboard) in dashboards()? {
        for (n, query) in queries(&dashboard).into_iter().enumerate() {
            let expr = query.replace("$__rate_interval", "5m").replace("$export", "nfs.example.org:/export");
            let record = format!("{}:{n}", file.replace(['-', '.'], "_"));
            rules.push(serde_json::json!({"record": record, "expr": expr}));
        }
    }
    let directory = std::env::temp_dir().join(format!("csi-nfs-queries-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let file = directory.join("rules.yaml");
    let groups = serde_json::json!({"groups": [{"name": "dashboards", "rules": rules}]});
    std::fs::write(&file, groups.to_string())?;
    let output = Command::new(cached("prometheus/promtool")).args(["check", "rules"]).arg(&file).output();
    std::fs::remove_dir_all(&directory)?;
    let output = output.context("cannot run promtool; run make promtool to build it")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The names of metrics in a text: the driver's own, and those of a process.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let own = words.filter(|word| word.starts_with("csi_nfs_") || word.starts_with("process_"));
    // csi_nfs_part is a label, which the chart's ServiceMonitor sets.
    own.filter(|word| *word != "csi_nfs_part").map(str::to_owned).collect()
}

#[test]
fn every_metric_of_the_dashboards_and_the_alerts_is_documented() -> Result<()> {
    let parameters = std::fs::read_to_string(repository("docs/parameters.md"))?;
    let rows = parameters.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let documented: BTreeSet<_> = rows.map(|(name, _)| name.to_owned()).collect();
    ensure!(documented.contains("csi_nfs_server_reachable"), "docs/parameters.md lists no metrics");
    let rules = std::fs::read_to_string(repository("deploy/helm/csi-nfs/files/rules.yaml"))?;
    let mut used = metrics(&rules);
    for (_, dashboard) in dashboards()? {
        queries(&dashboard).into_iter().for_each(|query| used.extend(metrics(query)));
    }
    let of_histogram = |name: &str| {
        let parts = ["_bucket", "_count", "_sum"];
        parts.iter().any(|part| name.strip_suffix(part).is_some_and(|name| documented.contains(name)))
    };
    let known = |name: &str| documented.contains(name) || of_histogram(name);
    let unknown: Vec<_> = used.iter().filter(|name| !known(name)).collect();
    ensure!(used.len() > 20 && unknown.is_empty(), "not in docs/parameters.md: {unknown:?}");
    Ok(())
}

#[test]
fn the_chart_renders_each_dashboard_as_it_is() -> Result<()> {
    let output = rendered(&[("metrics.enabled", "true"), ("metrics.dashboards.enabled", "true")])?;
    let objects = output.split("\n---\n").filter(|object| object.contains("kind: ConfigMap"));
    let objects: Vec<Value> = objects.map(serde_saphyr::from_str).collect::<Result<_, _>>()?;
    for (file, dashboard) in dashboards()? {
        let holds = |object: &&Value| object["data"][&file].is_string();
        let object = objects.iter().find(holds).with_context(|| format!("{file} is in no ConfigMap"))?;
        let shown: Value = serde_json::from_str(text(&object["data"], &format!("/{file}")))?;
        ensure!(shown == dashboard, "{file} is changed by the chart");
        ensure!(text(object, "/metadata/labels/grafana_dashboard") == "1", "{file}: no label for the sidecar");
    }
    Ok(())
}
