//! A server that lies. The client answers with an error, in time, and keeps nothing that it did not ask for.

use std::sync::Arc;

use rstest::rstest;

use super::*;
use crate::error::Error;
use crate::export::Export;
use crate::export::fs::{FsResult, LockMode, OpenMode, Seek, Status};
use crate::nfs4::attributes::attribute::{FSID, SIZE, TYPE};
use crate::nfs4::attributes::bitmap;
use crate::nfs4::codes::op;
use crate::testing::memory::Node;

/// An export with some content, on a server, with a client.
async fn served() -> (MemoryServer, NfsServer, UserFs) {
    let export = MemoryServer::new();
    export.plant("file", Node::file(0o644, "content")).unwrap();
    export.plant("link", Node::symlink("target")).unwrap();
    let server = NfsServer::start(&export).await;
    let fs = client(&server).await;
    (export, server, fs)
}

/// What the operation answers that the client uses this operation of the protocol for.
async fn ask(fs: &UserFs, operation: u32) -> FsResult<()> {
    let root = fs.root();
    let file = || async { fs.open(&root, &name("file"), OpenMode::ReadWrite).await.map(|(file, _)| file) };
    match operation {
        op::GETATTR | op::SEQUENCE | op::PUTFH => fs.getattr(&root).await.map(drop),
        op::GETFH | op::LOOKUP => fs.lookup(&root, &name("file")).await.map(drop),
        op::READ => fs.read(&file().await?, 0, 100).await.map(drop),
        op::READDIR => fs.readdir(&root, 0).await.map(drop),
        op::READLINK => fs.readlink(&fs.lookup(&root, &name("link")).await?.0).await.map(drop),
        op::LISTXATTRS => fs.list_xattrs(&root).await.map(drop),
        op::GETXATTR => fs.get_xattr(&root, b"user.key").await.map(drop),
        op::OPEN => file().await.map(drop),
        op::CREATE => fs.mkdir(&root, &name("new"), 0o755).await.map(drop),
        op::WRITE => fs.write(&file().await?, 0, b"written".to_vec()).await,
        op::LOCK => fs.try_lock(&file().await?, 0, LockMode::Exclusive).await.map(drop),
        op::SEEK => fs.seek(&file().await?, 0, Seek::Data).await.map(drop),
        op::COPY => {
            let (source, _) = fs.open(&root, &name("file"), OpenMode::Read).await?;
            let (target, _) = fs.create(&root, &name("copy"), 0o600).await?;
            fs.copy(&source, &target, 0, 7).await.map(drop)
        }
        _ => panic!("{operation}"),
    }
}

/// The result of an operation that the server makes up.
fn result(operation: u32, write: impl FnOnce(&mut Writer)) -> Fault {
    let mut result = Writer::default();
    result.u32(operation).u32(0);
    write(&mut result);
    Fault::Result(result.0)
}

/// The file system of the export.
const EXPORT: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];

#[rstest]
#[case::a_bitmap_of_a_million_words(op::GETATTR, |to: &mut Writer| _ = to.u32(1_000_000).fixed(&[0; 1 << 20]))]
#[case::a_bitmap_that_is_not_there(op::GETATTR, |to: &mut Writer| _ = to.u32(u32::MAX))]
#[case::attributes_that_are_not_there(op::GETATTR, |to: &mut Writer| _ = to.list(&bitmap(&[SIZE])).u32(u32::MAX))]
#[case::attributes_cut_short(op::GETATTR, |to: &mut Writer| _ = to.list(&bitmap(&[SIZE])).opaque(b"1234"))]
#[case::attributes_unasked_for(op::GETATTR, |to: &mut Writer| _ = to.list(&[1 << 31]).opaque(b"1234"))]
#[case::not_all_attributes(op::GETATTR, |to: &mut Writer| _ = to.list(&bitmap(&[FSID])).opaque(&EXPORT))]
#[case::a_kind_of_no_object(op::GETATTR, |to: &mut Writer| _ = to.list(&bitmap(&[TYPE])).opaque(&[0, 0, 0, 9]))]
#[case::a_long_handle(op::GETFH, |to: &mut Writer| _ = to.opaque(&[7; 129]))]
#[case::a_handle_that_is_not_there(op::GETFH, |to: &mut Writer| _ = to.u32(128))]
#[case::more_data_than_wanted(op::READ, |to: &mut Writer| _ = to.bool(true).opaque(&[7; 101]))]
#[case::data_that_is_not_there(op::READ, |to: &mut Writer| _ = to.bool(true).u32(100))]
#[case::no_data_and_no_end(op::READ, |to: &mut Writer| _ = to.bool(false).opaque(b""))]
#[case::a_boolean_that_is_none(op::READ, |to: &mut Writer| _ = to.u32(2).opaque(b"content"))]
#[case::a_page_without_entries(op::READDIR, |to: &mut Writer| _ = to.u64(0).bool(false).bool(false))]
#[case::a_listing_that_begins_anew(op::READDIR, |to: &mut Writer| listed(to, 0, b"name"))]
#[case::a_name_that_leads_out(op::READDIR, |to: &mut Writer| listed(to, 5, b".."))]
#[case::a_name_of_two(op::READDIR, |to: &mut Writer| listed(to, 5, b"dir/name"))]
#[case::a_long_name(op::READDIR, |to: &mut Writer| listed(to, 5, &[b'n'; 256]))]
#[case::entries_that_are_not_there(op::READDIR, |to: &mut Writer| _ = to.u64(0).bool(true))]
#[case::a_long_target(op::READLINK, |to: &mut Writer| _ = to.opaque(&[b't'; 4096]))]
#[case::no_names_and_no_end(op::LISTXATTRS, |to: &mut Writer| _ = to.u64(5).u32(0).bool(false))]
#[case::names_without_end(op::LISTXATTRS, |to: &mut Writer| _ = to.u64(5).u32(1).opaque(b"name").bool(false))]
#[case::names_that_are_not_there(op::LISTXATTRS, |to: &mut Writer| _ = to.u64(5).u32(u32::MAX).opaque(b"name"))]
#[case::a_long_value(op::GETXATTR, |to: &mut Writer| _ = to.opaque(&[7; (64 << 10) + 1]))]
#[case::a_delegation(op::OPEN, |to: &mut Writer| _ = to.fixed(&[7; 16]).fixed(&[0; 20]).u32(0).u32(0).u32(1))]
#[case::an_open_file_cut_short(op::OPEN, |to: &mut Writer| _ = to.u64(7))]
#[case::a_lock_cut_short(op::LOCK, |to: &mut Writer| _ = to.u64(7))]
#[case::more_written_than_sent(op::WRITE, |to: &mut Writer| _ = to.u32(8).u32(0).fixed(&[0; 8]))]
#[case::nothing_written(op::WRITE, |to: &mut Writer| _ = to.u32(0).u32(0).fixed(&[0; 8]))]
#[case::more_copied_than_wanted(op::COPY, |to: &mut Writer| _ = to.u32(0).u64(8).u32(0).u64(0).u32(1).u32(1))]
#[case::a_copy_that_goes_on(op::COPY, |to: &mut Writer| _ = to.u32(1).fixed(&[7; 16]).u64(0).u32(0).u64(0))]
#[case::an_offset_cut_short(op::SEEK, |to: &mut Writer| _ = to.bool(false).u32(0))]
#[tokio::test]
async fn a_result_that_cannot_be_is_an_error(#[case] operation: u32, #[case] write: fn(&mut Writer)) {
    let (_export, server, fs) = served().await;
    server.on(operation, usize::MAX, result(operation, write));
    let before = server.requests();
    assert_eq!(ask(&fs, operation).await, Err(Status::Io));
    assert!(server.requests() - before < 6, "{}", server.requests() - before);
    // What follows is answered as ever.
    server.behave();
    fs.read_file(&fs.root(), &name("file"), 100).await.unwrap();
}

/// A page with one entry, which is not the last.
fn listed(to: &mut Writer, cookie: u64, name: &[u8]) {
    to.u64(0).bool(true).u64(cookie).opaque(name).list(&[]).opaque(b"").bool(false).bool(false);
}

#[rstest]
#[tokio::test]
async fn a_result_of_another_operation_is_an_error(
    #[values(
        op::GETATTR,
        op::PUTFH,
        op::GETFH,
        op::LOOKUP,
        op::READ,
        op::READDIR,
        op::READLINK,
        op::LISTXATTRS,
        op::GETXATTR,
        op::OPEN,
        op::CREATE,
        op::WRITE,
        op::LOCK,
        op::SEEK,
        op::COPY
    )]
    operation: u32,
) {
    let (_export, server, fs) = served().await;
    server.on(operation, usize::MAX, result(op::COMMIT, |to| _ = to.fixed(&[0; 64])));
    assert_eq!(ask(&fs, operation).await, Err(Status::Io));
}

#[tokio::test]
async fn a_list_without_names_is_not_followed() {
    let (_export, server, fs) = served().await;
    for cookie in 1..100 {
        server.on(op::LISTXATTRS, 1, result(op::LISTXATTRS, |to| _ = to.u64(cookie).u32(0).bool(false)));
    }
    let before = server.requests();
    assert_eq!(ask(&fs, op::LISTXATTRS).await, Err(Status::Io));
    assert_eq!(server.requests() - before, 1);
}

#[tokio::test]
async fn a_directory_without_end_is_an_error() {
    let (_export, server, fs) = served().await;
    let share = Source::share(source::Server::parse("server", "nfs").unwrap(), Share::parse("share", "/").unwrap());
    let export = Export::new(share, fs, Arc::default());
    let page = |cookie: u64| {
        result(op::READDIR, |to| {
            to.u64(0);
            (0..1000).for_each(|_| _ = to.bool(true).u64(cookie).opaque(b"name").list(&[]).opaque(b""));
            to.bool(false).bool(false);
        })
    };
    for number in 0..1100 {
        server.on(op::READDIR, 1, page(5 + number % 2));
    }
    let listed = export.names(&export.fs().root()).await;
    assert!(matches!(listed, Err(Error::Export { status: Status::FBig, .. })), "{listed:?}");
}

#[tokio::test]
async fn an_object_of_another_file_system_is_none_of_the_export() {
    let (_export, server, fs) = served().await;
    server.on(op::GETATTR, 1, result(op::GETATTR, |to| _ = to.list(&bitmap(&[FSID])).opaque(&[7; 16])));
    assert_eq!(ask(&fs, op::GETATTR).await, Err(Status::XDev));
}

#[rstest]
#[tokio::test]
async fn a_record_is_not_said_to_be_written_unless_all_of_it_is(#[values(0, 5, 7, u32::MAX)] count: u32) {
    let (_export, server, fs) = served().await;
    server.on(op::WRITE, 1, result(op::WRITE, |to| _ = to.u32(count).u32(2).fixed(&[0; 8])));
    assert_eq!(fs.write_file(&fs.root(), &name("record"), 0o600, b"record".to_vec()).await, Err(Status::Io));
}

#[tokio::test]
async fn a_commit_fails_if_the_server_has_lost_what_was_written() {
    let (_export, server, fs) = served().await;
    let (file, _) = fs.create(&fs.root(), &name("new"), 0o600).await.unwrap();
    let other =
        |operation| result(operation, |to| _ = if operation == op::WRITE { to.u32(1).u32(0) } else { to }.u64(7));
    let write = async || fs.write(&file, 0, b"x".to_vec()).await.unwrap();

    write().await;
    server.on(op::COMMIT, 1, other(op::COMMIT));
    assert_eq!(fs.commit(&file).await, Err(Status::Io), "it restarts before the commit");

    server.on(op::WRITE, 1, other(op::WRITE));
    write().await;
    write().await;
    assert_eq!(fs.commit(&file).await, Err(Status::Io), "it restarts between two writes");

    server.on(op::WRITE, 1, other(op::WRITE));
    write().await;
    assert_eq!(fs.commit(&file).await, Err(Status::Io), "it restarts after the only write");

    write().await;
    assert_eq!(fs.commit(&file).await, Ok(()), "what is written again is kept");
}

/// Whatever is asked now is stale, and changes nothing after the first request.
async fn is_over(export: &MemoryServer, fs: &UserFs) {
    assert_eq!(fs.getattr(&fs.root()).await, Err(Status::Stale));
    let before = export.tree();
    assert_eq!(fs.mkdir(&fs.root(), &name("late"), 0o755).await.map(drop), Err(Status::Stale));
    assert_eq!(export.tree(), before);
}

/// A stream that is none of an NFS server's.
type Stream = fn(u32, &[u8]) -> Vec<u8>;

const TWO_GIBIBYTES: Stream = |_, _| vec![0xff; 4096];
const EMPTY_FRAGMENTS: Stream = |_, _| vec![0; 1 << 20];
const FRAGMENTS_WITHOUT_END: Stream = |_, _| [&(1_u32 << 20).to_be_bytes()[..], &[0; 1 << 20]].concat().repeat(3);
const WEB_SERVER: Stream = |_, _| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();

#[rstest]
#[case::a_record_of_two_gibibytes(TWO_GIBIBYTES)]
#[case::empty_fragments(EMPTY_FRAGMENTS)]
#[case::fragments_without_end(FRAGMENTS_WITHOUT_END)]
#[case::a_web_server(WEB_SERVER)]
#[tokio::test]
async fn a_stream_that_is_no_nfs_servers_is_left_and_the_request_repeated(#[case] stream: Stream) {
    let (_export, server, fs) = served().await;
    server.on(op::SEQUENCE, 1, Fault::Reply(stream));
    fs.mkdir(&fs.root(), &name("new"), 0o755).await.unwrap();
    let made = server.fs().history().iter().filter(|words| words.starts_with("mkdir")).count();
    assert_eq!(made, 1);
}

#[rstest]
#[case::a_record_of_two_gibibytes(TWO_GIBIBYTES)]
#[case::empty_fragments(EMPTY_FRAGMENTS)]
#[case::the_answer_to_another_call(|xid: u32, results: &[u8]| reply(!xid, results))]
#[case::a_call(|xid: u32, _: &[u8]| [1 << 31 | 8, xid, 0].map(u32::to_be_bytes).concat())]
#[tokio::test]
async fn a_server_that_never_answers_what_it_was_asked_costs_a_caller_its_patience(#[case] stream: Stream) {
    let (_export, server, fs) = served().await;
    let (before, root) = (server.requests(), fs.root());
    server.on(op::SEQUENCE, usize::MAX, Fault::Reply(stream));
    let new = name("new");
    let mut asked = std::pin::pin!(fs.mkdir(&root, &new, 0o755));
    assert!(futures_util::poll!(&mut asked).is_pending());
    got(&server, before + 1).await;
    pass(LONGEST).await;
    let told = asked.await.map(drop);
    assert!(matches!(told, Err(Status::Stuck | Status::Stale)), "{told:?}");
    let made = server.fs().history().iter().filter(|words| words.starts_with("mkdir")).count();
    assert_eq!(made, 1);
}

/// A reply whose results differ in the lowest bit of a word. SEQUENCE is the first of the results, after 20 bytes.
fn other(word: usize, xid: u32, results: &[u8]) -> Vec<u8> {
    let mut results = results.to_vec();
    results[4 * word + 3] ^= 1;
    reply(xid, &results)
}

/// A reply with flags in the result of SEQUENCE.
fn flagged(flags: u8, xid: u32, results: &[u8]) -> Vec<u8> {
    let mut results = results.to_vec();
    results[4 * 13 + 3] = flags;
    reply(xid, &results)
}

#[rstest]
#[case::denied(|xid: u32, _: &[u8]| [1 << 31 | 20, xid, 1, 1, 1, 5].map(u32::to_be_bytes).concat())]
#[case::no_such_program(|xid: u32, _: &[u8]| [1 << 31 | 24, xid, 1, 0, 0, 0, 1].map(u32::to_be_bytes).concat())]
#[case::cut_short(|xid: u32, _: &[u8]| [1 << 31 | 8, xid, 1].map(u32::to_be_bytes).concat())]
#[case::no_results(|xid: u32, _: &[u8]| reply(xid, &[]))]
#[case::a_long_tag(|xid: u32, _: &[u8]| reply(xid, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]))]
#[case::results_that_are_not_there(|xid: u32, _: &[u8]| reply(xid, &[[0; 8], [0xff; 8]].concat()))]
#[case::another_operation(|xid: u32, results: &[u8]| other(3, xid, results))]
#[case::an_unknown_error(|xid: u32, results: &[u8]| other(4, xid, results))]
#[case::another_session(|xid: u32, results: &[u8]| other(8, xid, results))]
#[case::another_sequence(|xid: u32, results: &[u8]| other(9, xid, results))]
#[case::another_slot(|xid: u32, results: &[u8]| other(10, xid, results))]
#[case::all_state_was_revoked(|xid: u32, results: &[u8]| flagged(0x08, xid, results))]
#[case::some_state_was_revoked(|xid: u32, results: &[u8]| flagged(0x10, xid, results))]
#[case::state_was_revoked_by_hand(|xid: u32, results: &[u8]| flagged(0x20, xid, results))]
#[tokio::test]
async fn an_answer_that_is_not_to_the_request_ends_the_client(#[case] answer: Stream) {
    let (export, server, fs) = served().await;
    server.on(op::SEQUENCE, 1, Fault::Reply(answer));
    is_over(&export, &fs).await;
}

#[tokio::test]
async fn a_server_that_cannot_call_back_is_used_as_ever() {
    let (_export, server, fs) = served().await;
    server.on(op::SEQUENCE, usize::MAX, Fault::Reply(|xid, results| flagged(0x01, xid, results)));
    fs.mkdir(&fs.root(), &name("new"), 0o755).await.unwrap();
    fs.getattr(&fs.root()).await.unwrap();
}

#[rstest]
#[case::no_client(op::EXCHANGE_ID, |to: &mut Writer| _ = to.u32(7))]
#[case::no_session(op::CREATE_SESSION, |to: &mut Writer| _ = to.u64(7))]
#[case::another_operation(op::EXCHANGE_ID, |to: &mut Writer| to.0 = vec![0; 64])]
#[case::no_slots(op::CREATE_SESSION, |to: &mut Writer| _ = to.fixed(&[0; 80]))]
#[case::slots_without_number(op::CREATE_SESSION, |to: &mut Writer| _ = to.fixed(&[0xff; 80]))]
#[case::no_root(op::GETFH, |to: &mut Writer| _ = to.opaque(&[7; 129]))]
#[case::no_attributes(op::GETATTR, |to: &mut Writer| _ = to.list(&[]).opaque(b""))]
#[tokio::test]
async fn no_connection_is_made_to_a_server_that_lies(#[case] operation: u32, #[case] write: fn(&mut Writer)) {
    let server = NfsServer::start(&MemoryServer::new()).await;
    server.on(operation, usize::MAX, result(operation, write));
    assert!(connected(&process(), server.address, "vers=4.2").await.is_err());
}
