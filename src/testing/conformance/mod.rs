//! The contract of [`Fs`] as tests for every implementation: in memory, on a local directory, on a real server.
//!
//! A check panics if an implementation breaks the contract. The checks change owners and modes, so they have to run as
//! root, and the server must not squash root.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

use std::fmt::Debug;
use std::time::Duration;

use crate::export::fs::{Entry, Fs, FsResult, Kind, Name, Status};

mod attributes;
mod clients;
mod content;
mod files;
mod foreign;
mod listing;
mod locks;
mod moves;
mod names;
mod nasty;
mod objects;
#[cfg(test)]
mod random;
mod trees;

pub use clients::clients;
pub use foreign::foreign;
pub use nasty::{deep_tree, nasty_tree};
pub use objects::link_times;
pub use trees::{Compared, assert_same_tree};

/// Defines `all` and the tests for the implementations in memory and on a local directory.
macro_rules! all {
    ($($module:ident: $($check:ident),+;)+) => {
        /// Runs every check that needs only one client. Each check works in a directory of its own. All directories
        /// are removed at the end.
        pub async fn all<F: Fs>(fs: &F) {
            let place = Name::new(format!("conformance-{}", uuid::Uuid::new_v4())).unwrap();
            let (root, _) = fs.mkdir(&fs.root(), &place, 0o755).await.unwrap();
            $($({
                let dir = mkdir(fs, &root, stringify!($check)).await;
                $module::$check(fs, &dir).await;
            })+)+
            clear(fs, &root).await;
            becomes(Ok(()), async || fs.rmdir(&fs.root(), &place).await).await;
        }

        #[cfg(test)]
        mod in_memory {
            $($(
                #[tokio::test]
                async fn $check() {
                    let fs = crate::testing::memory::MemoryServer::new().client();
                    super::$module::$check(&fs, &super::Fs::root(&fs)).await;
                }
            )+)+
        }

        #[cfg(test)]
        mod on_a_local_directory {
            $($(
                #[tokio::test]
                async fn $check() {
                    let (_place, fs) = crate::testing::local_directory::local();
                    super::$module::$check(&fs, &super::Fs::root(&fs)).await;
                }
            )+)+
        }
    };
}

all! {
    names:
        a_name_is_bytes,
        a_name_is_taken_once,
        a_name_that_is_not_there_is_not_found,
        only_a_directory_has_names_in_it;
    attributes:
        a_new_object_has_the_mode_it_was_made_with,
        attributes_are_what_was_set,
        the_mode_outlives_a_new_owner,
        what_no_object_can_have_is_refused,
        a_change_in_a_directory_is_seen_in_its_time;
    files:
        what_was_written_is_read,
        a_hole_reads_as_zeros,
        a_second_opening_sees_what_the_first_wrote,
        a_file_that_is_not_open_for_it_is_not_read_or_written,
        a_file_is_opened_or_made,
        what_is_no_file_is_not_opened;
    content:
        a_size_is_set_by_who_may_write,
        holes_are_told_or_all_is_data,
        a_clone_or_a_copy_is_the_same_or_nothing,
        entries_are_cloned_with_all_that_they_have_or_are_left_to_others,
        extended_attributes_are_kept_where_there_are_any;
    objects:
        every_kind_of_object_is_made,
        a_symbolic_link_keeps_its_targets_bytes,
        an_object_has_as_many_names_as_it_was_given,
        a_directory_knows_the_one_it_is_in;
    moves:
        a_rename_replaces_like_by_like_alone,
        a_directory_moves_with_all_that_is_in_it,
        a_directory_does_not_move_into_itself,
        only_an_empty_directory_is_removed,
        names_are_removed_up_to_a_directory_with_entries,
        steps_are_carried_out_in_order_up_to_the_first_that_fails,
        a_removed_directory_is_stale,
        a_file_is_written_whole_and_takes_its_place,
        a_removed_file_is_gone_by_name;
    listing:
        a_listing_has_every_entry_once,
        a_listing_goes_on_where_it_was_while_entries_are_removed,
        a_file_is_read_if_a_directory_lacks_names,
        the_figures_of_the_file_system_make_sense;
    locks:
        a_byte_is_locked_by_one_at_a_time,
        a_shared_byte_has_many_holders_and_an_exclusive_one_has_one,
        a_lock_ends_with_the_file_it_was_taken_through;
}

fn name(text: impl AsRef<[u8]>) -> Name {
    Name::new(text).unwrap()
}

/// A new directory.
async fn mkdir<F: Fs>(fs: &F, dir: &F::Handle, text: &str) -> F::Handle {
    fs.mkdir(dir, &name(text), 0o755).await.unwrap().0
}

/// Creates a file with this content and closes it.
async fn file<F: Fs>(fs: &F, dir: &F::Handle, text: &str, content: &str) {
    let (file, _) = fs.create(dir, &name(text), 0o644).await.unwrap();
    fs.write(&file, 0, content.into()).await.unwrap();
    fs.commit(&file).await.unwrap();
}

/// The result of an operation without its value.
fn answer<T>(result: FsResult<T>) -> FsResult<()> {
    result.map(drop)
}

/// All entries of a directory in the server's order, without the `.nfs…` entries that an NFS client keeps for files
/// that were removed or replaced while they were open.
async fn list<F: Fs>(fs: &F, dir: &F::Handle) -> Vec<Entry> {
    let (mut entries, mut next) = (Vec::new(), Some(0));
    while let Some(cookie) = next {
        let page = fs.readdir(dir, cookie).await.unwrap();
        entries.extend(page.entries.into_iter().filter(|entry| !entry.name.as_bytes().starts_with(b".nfs")));
        next = page.next;
    }
    entries
}

/// The names in a directory, sorted.
async fn names<F: Fs>(fs: &F, dir: &F::Handle) -> Vec<String> {
    let mut names: Vec<_> = list(fs, dir).await.iter().map(|entry| entry.name.to_string()).collect();
    names.sort();
    names
}

/// Removes everything in a directory.
async fn clear<F: Fs>(fs: &F, dir: &F::Handle) {
    for entry in list(fs, dir).await {
        let (object, attr) = fs.lookup(dir, &entry.name).await.unwrap();
        if attr.kind == Kind::Directory {
            Box::pin(clear(fs, &object)).await;
            becomes(Ok(()), async || fs.rmdir(dir, &entry.name).await).await;
        } else {
            drop(object);
            fs.unlink(dir, &entry.name).await.unwrap();
        }
    }
}

/// Repeats `ask` for up to 5 s until it returns `expected`. Effects of closing a file appear only a little later.
async fn becomes<T: PartialEq + Debug>(expected: T, mut ask: impl AsyncFnMut() -> T) {
    for _ in 0..500 {
        let answer = ask().await;
        if answer == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(ask().await, expected, "after 5 s");
}

/// Makes the objects that [`foreign`] expects, in a directory of an export in memory: its path with a slash, or nothing for
/// the root.
#[cfg(test)]
pub fn plant_foreign(server: &crate::testing::memory::MemoryServer, directory: &str) {
    use crate::testing::memory::Node;
    for (text, node) in [
        ("target", Node::file(0o644, "target")),
        ("link", Node::symlink("target")),
        ("outside", Node::symlink("/etc")),
        ("dangling", Node::symlink("nowhere")),
        ("fifo", Node::special(Kind::Fifo, 0o644)),
        ("socket", Node::special(Kind::Socket, 0o755)),
        ("device", Node::special(Kind::CharDevice, 0o600)),
    ] {
        server.plant(format!("{directory}{text}"), node).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::local_directory;
    use crate::testing::memory::MemoryServer;

    #[tokio::test]
    async fn foreign_objects_in_memory() {
        let server = MemoryServer::new();
        plant_foreign(&server, "");
        let fs = server.client();
        foreign(&fs, &fs.root()).await;
    }

    #[tokio::test]
    async fn foreign_objects_on_a_local_directory() {
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat, symlink};
        let (place, fs) = local_directory::local();
        let path = |text: &str| place.path().join(text);
        std::fs::write(path("target"), "target").unwrap();
        symlink("target", path("link")).unwrap();
        symlink("/etc", path("outside")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        mknodat(CWD, path("fifo"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        mknodat(CWD, path("device"), FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(1, 3)).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        foreign(&fs, &fs.root()).await;
    }

    #[tokio::test]
    async fn times_of_links_in_memory_and_on_a_local_directory() {
        link_times(&MemoryServer::new().client()).await;
        link_times(&local_directory::local().1).await;
    }

    #[tokio::test]
    async fn two_clients_in_memory() {
        let server = MemoryServer::new();
        clients(&server.client(), &server.client()).await;
        assert_eq!(server.tree().paths(), [""; 0]);
    }

    #[tokio::test]
    async fn two_clients_on_a_local_directory() {
        let (place, fs) = local_directory::local();
        clients(&fs, &local_directory::export(&place)).await;
    }

    #[tokio::test]
    async fn everything_is_cleared_up() {
        let server = MemoryServer::new();
        all(&server.client()).await;
        assert_eq!(server.tree().paths(), [""; 0]);
    }
}
