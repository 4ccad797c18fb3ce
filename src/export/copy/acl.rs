//! Access control lists as Linux presents them in extended attributes.

/// The tags of acl(5) entries that a mode expresses: the owner, the group, and others.
const MODE_TAGS: [u16; 3] = [0x01, 0x04, 0x20];
/// The header of a POSIX draft ACL, version 2 (`linux/posix_acl_xattr.h`). Setting it without entries removes the ACL.
const POSIX_HEADER: [u8; 4] = [2, 0, 0, 0];
/// The flags of an NFSv4 ACE that new files and directories inherit (RFC 8881, section 6.2.1.4).
const INHERITED_BY_NEW: u32 = 0x1 | 0x2 | 0x8;
/// The NFSv4 principals that a mode expresses.
const MODE_PRINCIPALS: [&[u8]; 3] = [b"OWNER@", b"GROUP@", b"EVERYONE@"];

/// Returns the list `value` of the attribute `name` without entries that a mode does not express: those for named users
/// and groups, and those that new objects inherit. `None` if it has no such entries, or if it is not a list.
pub(crate) fn plain(name: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    match name {
        b"system.nfs4_acl" => plain_nfs4(value),
        // A directory without a default ACL does not have this attribute.
        b"system.posix_acl_default" => (value.len() > POSIX_HEADER.len()).then(|| POSIX_HEADER.to_vec()),
        b"system.posix_acl_access" => {
            let entries = value.strip_prefix(&POSIX_HEADER)?.chunks_exact(8);
            let mut tags = entries.map(|entry| u16::from_le_bytes([entry[0], entry[1]]));
            tags.any(|tag| !MODE_TAGS.contains(&tag)).then(|| POSIX_HEADER.to_vec())
        }
        _ => None,
    }
}

/// The list is XDR: a count, and entries of type, flags, mask, and the principal as a string.
fn plain_nfs4(value: &[u8]) -> Option<Vec<u8>> {
    let (count, mut rest) = number(value)?;
    let (mut kept, mut entries) = (0_u32, Vec::new());
    for _ in 0..count {
        let whole = rest;
        let (flags, after) = number(rest.get(4..)?)?;
        let (length, after) = number(after.get(4..)?)?;
        let length = usize::try_from(length).ok()?;
        let principal = after.get(..length)?;
        rest = after.get(length.checked_next_multiple_of(4)?..)?;
        if flags & INHERITED_BY_NEW == 0 && MODE_PRINCIPALS.contains(&principal) {
            kept += 1;
            entries.extend_from_slice(&whole[..whole.len() - rest.len()]);
        }
    }
    let plain = [&kept.to_be_bytes()[..], &entries].concat();
    (kept > 0 && kept < count).then_some(plain)
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn posix(tags: &[u16]) -> Vec<u8> {
        let entry = |tag: &u16| [&tag.to_le_bytes()[..], &[7, 0, 0xff, 0xff, 0xff, 0xff]].concat();
        POSIX_HEADER.into_iter().chain(tags.iter().flat_map(entry)).collect()
    }

    fn nfs4(entries: &[(u32, &str)]) -> Vec<u8> {
        let mut list = (entries.len() as u32).to_be_bytes().to_vec();
        for (flags, principal) in entries {
            for number in [0, *flags, 0x1f, principal.len() as u32] {
                list.extend(number.to_be_bytes());
            }
            list.extend(principal.bytes());
            list.resize(list.len().next_multiple_of(4), 0);
        }
        list
    }

    #[test]
    fn a_posix_list_is_removed_if_it_says_more_than_a_mode() {
        assert_eq!(plain(b"system.posix_acl_access", &posix(&[0x01, 0x04, 0x20])), None);
        let named = posix(&[0x01, 0x02, 0x04, 0x10, 0x20]);
        assert_eq!(plain(b"system.posix_acl_access", &named), Some(POSIX_HEADER.to_vec()));
        let default = posix(&[0x01, 0x04, 0x20]);
        assert_eq!(plain(b"system.posix_acl_default", &default), Some(POSIX_HEADER.to_vec()));
        assert_eq!(plain(b"user.acl", &named), None);
    }

    #[test]
    fn an_nfs4_list_loses_what_is_inherited_and_named_principals() {
        let own = [(0, "OWNER@"), (0, "GROUP@"), (0, "EVERYONE@")];
        assert_eq!(plain(b"system.nfs4_acl", &nfs4(&own)), None);
        let more = [own[0], (0, "1000"), own[1], (0x40, "team@example.org"), own[2], (0xb, "OWNER@"), (0xb, "1000")];
        assert_eq!(plain(b"system.nfs4_acl", &nfs4(&more)), Some(nfs4(&own)));
    }

    proptest! {
        #[test]
        fn a_list_of_a_lying_server_does_not_panic_and_a_plain_list_stays(
            list in prop::collection::vec(any::<u8>(), 0..99),
        ) {
            for name in [&b"system.nfs4_acl"[..], b"system.posix_acl_access", b"system.posix_acl_default"] {
                if let Some(less) = plain(name, &list) {
                    prop_assert!(less.len() < list.len());
                    prop_assert_eq!(plain(name, &less), None);
                }
            }
        }

        #[test]
        fn what_is_kept_of_an_nfs4_list_is_in_order(flags in prop::collection::vec(0_u32..16, 0..9)) {
            let entries: Vec<(u32, &str)> = flags.iter().map(|&flags| (flags, "GROUP@")).collect();
            let kept: Vec<_> = entries.iter().copied().filter(|(flags, _)| flags & INHERITED_BY_NEW == 0).collect();
            let expected = (!kept.is_empty() && kept.len() < entries.len()).then(|| nfs4(&kept));
            prop_assert_eq!(plain(b"system.nfs4_acl", &nfs4(&entries)), expected);
        }
    }
}
