//! What the examples and values.yaml say to the driver exists: parameters, attributes, mount options. `docs/parameters.md`
//! lists them, and the repository's test `docs` compares that list with the code.
use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use csi_nfs_e2e_kubernetes::repository;
use serde_json::Value;

/// Keys that Kubernetes' sidecars take or write begin with these.
const OF_SIDECARS: [&str; 2] = ["csi.storage.k8s.io/", "storage.kubernetes.io/"];

/// The words in backticks in docs/parameters.md, in small letters, without `=` and what follows.
fn documented() -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(repository("docs/parameters.md"))?;
    let words = text.split('`').skip(1).step_by(2);
    Ok(words.map(|word| word.split('=').next().unwrap_or_default().to_lowercase()).collect())
}

/// Adds the keys of each map called `parameters` or `volumeAttributes`, and the names of the mount options.
fn collect(value: &Value, keys: &mut BTreeSet<String>, options: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match (name.as_str(), value) {
                    ("parameters" | "volumeAttributes", Value::Object(map)) => keys.extend(map.keys().cloned()),
                    ("mountOptions", Value::Array(all)) => {
                        let name = |option: &Value| option.as_str()?.split('=').next().map(str::to_owned);
                        options.extend(all.iter().filter_map(name));
                    }
                    _ => collect(value, keys, options),
                }
            }
        }
        Value::Array(all) => all.iter().for_each(|value| collect(value, keys, options)),
        _ => {}
    }
}

#[test]
fn what_the_examples_and_the_values_name_is_documented() -> Result<()> {
    let (mut keys, mut options) = (BTreeSet::new(), BTreeSet::new());
    let mut files = vec![repository("deploy/helm/csi-nfs/values.yaml")];
    for entry in std::fs::read_dir(repository("deploy/examples"))? {
        files.push(entry?.path());
    }
    for file in files {
        let documents: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(&file)?)?;
        documents.iter().for_each(|document| collect(document, &mut keys, &mut options));
    }
    ensure!(keys.contains("subDir") && keys.contains("onDelete") && !options.is_empty(), "{keys:?} {options:?}");
    let documented = documented()?;
    let unknown = |name: &&String| {
        !OF_SIDECARS.iter().any(|prefix| name.starts_with(prefix)) && !documented.contains(&name.to_lowercase())
    };
    let unknown: Vec<_> = keys.iter().chain(&options).filter(unknown).collect();
    ensure!(unknown.is_empty(), "not in docs/parameters.md: {unknown:?}");
    Ok(())
}
