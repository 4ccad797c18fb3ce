//! Checks the records of groups against the records of their snapshots.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use crate::error::Result;
use crate::export::Export;
use crate::export::fs::{Fs, Name};
use crate::snapshot::group_record::GroupRecord;
use crate::snapshot::record::{Record, State};
use crate::volume::id::VolumeName;
use crate::volume::record_file::RecordFile as _;

/// The groups on an export; `None` for a group whose record cannot be read.
pub(super) struct Groups(BTreeMap<VolumeName, Option<GroupRecord>>);

impl Groups {
    /// Reads the groups among these entries of `.csi-nfs/snapshots`, and removes them from `entries`.
    pub(super) async fn take<F: Fs>(
        export: &Export<F>,
        entries: &mut BTreeSet<Name>,
        findings: &mut Vec<Finding>,
    ) -> Result<Self> {
        let mut groups = BTreeMap::new();
        let files: Vec<Name> = entries.extract_if(.., |entry| GroupRecord::of_file(entry).is_some()).collect();
        for file in files {
            let Some(name) = GroupRecord::of_file(&file) else { continue };
            match GroupRecord::read(export, &name).await {
                Ok(None) => {}
                Ok(Some(record)) => drop(groups.insert(name, Some(record))),
                Err(error) => {
                    findings.push(Finding::RecordUnreadable { file: file.to_string(), reason: error.to_string() });
                    groups.insert(name, None);
                }
            }
        }
        Ok(Self(groups))
    }

    /// Whether the snapshot belongs to a pending or deleted group. The group's own finding then covers the snapshot.
    pub(super) fn half_done(&self, snapshot: &Record) -> bool {
        let group = snapshot.group.as_ref().and_then(|group| self.0.get(group));
        matches!(group, Some(Some(group)) if group.state != State::Ready)
    }

    /// Compares the groups with the snapshots that exist.
    pub(super) fn compare(&self, snapshots: &BTreeMap<VolumeName, Record>, findings: &mut Vec<Finding>) {
        for (name, record) in self.0.iter().filter_map(|(name, record)| Some((name, record.as_ref()?))) {
            let group = name.to_string();
            match record.state {
                State::Pending => findings.push(Finding::GroupPending { group }),
                State::Deleted => findings.push(Finding::GroupDeleted { group }),
                State::Ready => findings.extend(
                    record
                        .members
                        .iter()
                        .map(|member| &member.snapshot)
                        .filter(|member| {
                            let found = snapshots.get(member).filter(|found| found.state == State::Ready);
                            found.is_none_or(|found| found.group.as_ref() != Some(name))
                        })
                        .map(|snapshot| Finding::MemberMissing {
                            group: group.clone(),
                            snapshot: snapshot.to_string(),
                        }),
                ),
            }
        }
        for (name, record) in snapshots.iter().filter(|(_, record)| record.state != State::Deleted) {
            let Some(group) = &record.group else { continue };
            let known = match self.0.get(group) {
                Some(Some(record)) => record.members.iter().any(|member| member.snapshot == *name),
                Some(None) => true,
                None => false,
            };
            if !known {
                findings.push(Finding::GroupMissing { snapshot: name.to_string(), group: group.to_string() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{check, repair};
    use super::*;
    use crate::snapshot::group_record::Member;
    use crate::snapshot::id::GroupId;
    use crate::testing::crash_harness::reach;
    use crate::testing::memory::{MemoryServer, Node};

    fn named(name: &str) -> VolumeName {
        VolumeName::parse("", name).unwrap()
    }

    /// A group with the snapshots `NAME-0` and `NAME-1`.
    async fn plant(server: &MemoryServer, name: &str, state: State) {
        let export = reach(server);
        let source = "nfs#export#v##".to_owned();
        let member = |n: u8| Member { snapshot: named(&format!("{name}-{n}")), source: source.clone(), size: 0 };
        let group = GroupRecord {
            id: GroupId { export: export.source().clone(), name: named(name) },
            members: vec![member(0), member(1)],
            mount_options: Vec::new(),
            state,
            created: 0,
            generation: None,
        };
        group.write(&export).await.unwrap();
        for member in &group.members {
            let record = Record {
                id: group.snapshot_id(member),
                source: source.clone(),
                size: 0,
                created: 0,
                mount_options: Vec::new(),
                group: Some(group.id.name.clone()),
                state: State::Ready,
                generation: None,
            };
            record.write(&export).await.unwrap();
            server.plant(format!(".csi-nfs/snapshots/{}.tree", member.snapshot), Node::directory(0o755)).unwrap();
        }
    }

    #[tokio::test]
    async fn inconsistent_groups_are_found_and_only_deletions_are_repaired() {
        let server = MemoryServer::new();
        let export = reach(&server);
        for (name, state) in [
            ("whole", State::Ready),
            ("begun", State::Pending),
            ("gone", State::Deleted),
            ("lost", State::Ready),
            ("part", State::Ready),
        ] {
            plant(&server, name, state).await;
        }
        let layout = export.make_layout().await.unwrap();
        for file in ["lost.group", "part-1.json", "part-1.tree"] {
            let name = Name::new(file).unwrap();
            match file.ends_with(".tree") {
                true => export.fs().rmdir(&layout.snapshots, &name).await.unwrap(),
                false => export.fs().unlink(&layout.snapshots, &name).await.unwrap(),
            }
        }
        let lost = |n: u8| Finding::GroupMissing { snapshot: format!("lost-{n}"), group: "lost".to_owned() };
        let stays = [
            Finding::GroupPending { group: "begun".to_owned() },
            Finding::MemberMissing { group: "part".to_owned(), snapshot: "part-1".to_owned() },
            lost(0),
            lost(1),
        ];
        let found = check(&export).await.unwrap();
        let mut expected = [&stays[..], &[Finding::GroupDeleted { group: "gone".to_owned() }]].concat();
        expected.sort();
        assert_eq!(found, expected);
        repair(&export, &found).await.unwrap();
        assert_eq!(check(&export).await.unwrap(), stays);
    }
}
