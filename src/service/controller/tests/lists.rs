//! Lists that are larger than a page, and lists over exports of which one is gone.

use std::collections::BTreeSet;

use super::*;
use crate::service::controller::list::{PAGE, Position, Token};

/// A little more than a page.
const MANY: usize = PAGE + 20;

async fn many(lab: &Lab) -> BTreeSet<String> {
    let mut made = BTreeSet::new();
    for n in 0..MANY {
        made.insert(lab.create("a", &format!("v{n:04}"), &[]).await.unwrap());
    }
    made
}

/// A controller whose list of exports has one that cannot be mounted, besides those of `lab`.
fn with_a_lost_export(lab: &mut Lab, shares: &[&str]) {
    let exports = shares.iter().map(|server| (export_of(server), MountOptions::default()));
    let jobs = Arc::new(Jobs::new(Options::default(), CancellationToken::new()));
    let pool = Arc::new(Pool::new(Process::new(&lab.servers), exports));
    lab.controller = Controller::new(pool, lab.controller.settings.clone(), jobs);
}

#[tokio::test]
async fn an_unpaged_list_is_cut_into_pages_that_miss_nothing() {
    let lab = Lab::new("");
    let made = many(&lab).await;
    let (first, token) = lab.list(0, "").await.unwrap();
    assert_eq!(first.len(), PAGE);
    let (rest, end) = lab.list(0, &token).await.unwrap();
    assert_eq!(end, "");
    assert_eq!(first.into_iter().chain(rest).collect::<BTreeSet<_>>(), made);
}

#[tokio::test]
async fn a_survey_of_healthy_volumes_looks_at_so_many_in_a_call_and_goes_on_by_its_token() {
    let lab = Lab::new("");
    many(&lab).await;
    lab.server("a").remove("v1010").unwrap();
    // Nothing is wrong in the first part, and yet the list has not ended.
    let (unhealthy, token) = lab.unhealthy(0, "").await;
    assert_eq!(unhealthy, []);
    assert_ne!(token, "");
    let (unhealthy, end) = lab.unhealthy(0, &token).await;
    assert_eq!(unhealthy, [("a#export#v1010##".to_owned(), vec!["DirectoryMissing".to_owned()])]);
    assert_eq!(end, "");
    // All that was seen is told of when the server is gone, page by page. What was seen by another list that has only
    // begun takes nothing away.
    lab.unhealthy(0, "").await;
    lab.servers.gone.store(true, Ordering::Relaxed);
    let (first, token) = lab.unhealthy(0, "").await;
    let (second, end) = lab.unhealthy(0, &token).await;
    assert_eq!((first.len(), second.len(), end.as_str()), (PAGE, MANY - PAGE, ""));
}

#[tokio::test]
async fn a_survey_that_ends_with_an_export_goes_on_with_the_next() {
    let lab = Lab::new("");
    for n in 0..PAGE {
        lab.create("a", &format!("v{n:04}"), &[]).await.unwrap();
    }
    lab.create("b", "w", &[]).await.unwrap();
    lab.server("b").remove("w").unwrap();
    let (unhealthy, token) = lab.unhealthy(0, "").await;
    assert_eq!(unhealthy, []);
    let (unhealthy, end) = lab.unhealthy(0, &token).await;
    assert_eq!(unhealthy, [("b#export#w##".to_owned(), vec!["DirectoryMissing".to_owned()])]);
    assert_eq!(end, "");
}

#[tokio::test]
async fn pages_go_on_for_another_controller_and_have_each_volume_once_that_is_there_all_the_time() {
    let lab = Lab::new("");
    for name in ["a", "b", "c", "d"] {
        lab.create("a", name, &[]).await.unwrap();
    }
    let (mut listed, token) = lab.list(1, "").await.unwrap();
    let mut left = ["a", "b", "c", "d"].map(|name| format!("a#export#{name}##")).to_vec();
    left.retain(|id| !listed.contains(id));
    lab.delete(&left.pop().unwrap()).await.unwrap();
    let other = lab.other();
    other.create("a", "new", &[]).await.unwrap();
    let rest = other.list(0, &token).await.unwrap();
    assert_eq!((rest.0.contains(&listed[0]), rest.1.as_str()), (false, ""));
    listed.extend(rest.0);
    listed.retain(|id| !id.contains("new"));
    left.push(listed[0].clone());
    assert_eq!(listed.iter().collect::<BTreeSet<_>>(), left.iter().collect());
    assert_eq!(listed.len(), left.len());
}

#[tokio::test]
async fn a_survey_forgets_volumes_that_are_deleted_by_this_controller_or_by_another() {
    let mut lab = Lab::new("");
    for name in ["u", "v", "w"] {
        lab.create("a", name, &[]).await.unwrap();
    }
    lab.unhealthy(0, "").await;
    lab.delete("a#export#v##").await.unwrap();
    let mut known = controller(&lab.servers, &lab.configured);
    std::mem::swap(&mut lab.controller, &mut known);
    lab.delete("a#export#w##").await.unwrap();
    lab.controller = known;
    let lost = async |lab: &Lab| {
        lab.servers.gone.store(true, Ordering::Relaxed);
        let lost = lab.unhealthy(0, "").await.0;
        lab.servers.gone.store(false, Ordering::Relaxed);
        lost.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    // This controller knows nothing yet of what the other has deleted.
    assert_eq!(lost(&lab).await, ["a#export#u##", "a#export#w##"]);
    lab.unhealthy(0, "").await;
    assert_eq!(lost(&lab).await, ["a#export#u##"]);
}

#[tokio::test]
async fn an_export_that_is_gone_is_left_out_of_lists_of_others() {
    let mut lab = Lab::new("");
    lab.create("a", "v", &[]).await.unwrap();
    lab.create("b", "w", &[]).await.unwrap();
    lab.snapshot("b#export#w##", "s", &[]).await.unwrap();
    with_a_lost_export(&mut lab, &["a", "gone", "b", "z-gone"]);
    assert_eq!(lab.list(0, "").await.unwrap().0, ["a#export#v##", "b#export#w##"]);
    assert_eq!(lab.snapshots("").await.len(), 1);
    assert_eq!(lab.unhealthy(0, "").await, (vec![], String::new()));
    // A later page, on which there is nothing but the lost export, is the end.
    let (_, token) = lab.list(1, "").await.unwrap();
    assert_eq!(lab.list(1, &token).await.unwrap(), (vec!["b#export#w##".to_owned()], String::new()));
    let end = Token::new(&export_of("b"), Position::At(i64::MAX as u64));
    assert_eq!(lab.list(1, &end.to_string()).await.unwrap(), (vec![], String::new()));
}

#[tokio::test]
async fn a_list_that_is_about_a_lost_export_alone_fails() {
    let mut lab = Lab::new("");
    with_a_lost_export(&mut lab, &["gone"]);
    assert_eq!(lab.list(0, "").await.unwrap_err().code(), Code::NotFound);
    with_a_lost_export(&mut lab, &["a", "gone"]);
    // The request names a volume of the lost export.
    let source_volume_id = "gone#export#v##".to_owned();
    let request = csi::ListSnapshotsRequest { source_volume_id, ..Default::default() };
    let answer = Rpc::list_snapshots(&lab.controller, Request::new(request)).await;
    assert_eq!(answer.unwrap_err().code(), Code::NotFound);
}
