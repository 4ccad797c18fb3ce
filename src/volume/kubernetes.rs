//! What Kubernetes calls a volume, as external-provisioner says with `--extra-create-metadata`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// The parameters of CreateVolume with the names.
pub const CLAIM: &str = "csi.storage.k8s.io/pvc/name";
pub const NAMESPACE: &str = "csi.storage.k8s.io/pvc/namespace";
pub const VOLUME: &str = "csi.storage.k8s.io/pv/name";

/// The longest name of an object of Kubernetes (RFC 1123, section 2.1).
const LONGEST: usize = 253;

/// The names of a volume in Kubernetes, for the labels of metrics; each is empty if it is not known.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubernetesNames {
    claim: String,
    namespace: String,
    volume: String,
}

impl KubernetesNames {
    /// The names in the parameters of CreateVolume; `None` if there are none.
    pub fn of(parameters: &HashMap<String, String>) -> Option<Self> {
        let name = |key: &str| parameters.get(key).filter(|text| is_name(text)).cloned().unwrap_or_default();
        let names = Self { claim: name(CLAIM), namespace: name(NAMESPACE), volume: name(VOLUME) };
        Some(names).filter(|names| *names != Self::default())
    }

    /// The names as labels. A record may have any text in their place.
    pub fn labels(&self) -> [(&'static str, &str); 3] {
        [("persistentvolumeclaim", &self.claim), ("namespace", &self.namespace), ("persistentvolume", &self.volume)]
            .map(|(label, name)| (label, if is_name(name) { name.as_str() } else { "" }))
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_kubernetes_are_taken() {
        let of = |pairs: &[(&str, &str)]| {
            KubernetesNames::of(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(of(&[("server", "nfs")]), None);
        assert_eq!(of(&[(CLAIM, "a\"b"), (NAMESPACE, &"x".repeat(254))]), None);
        let names = of(&[(CLAIM, "data"), (NAMESPACE, "team-a"), (VOLUME, "pvc-1.x")]).unwrap();
        let labels = [("persistentvolumeclaim", "data"), ("namespace", "team-a"), ("persistentvolume", "pvc-1.x")];
        assert_eq!(names.labels(), labels);
        let forged: KubernetesNames = serde_json::from_str(r#"{"claim":"a b","volume":"pv"}"#).unwrap();
        assert_eq!(forged.labels().map(|(_, name)| name), ["", "", "pv"]);
    }
}
