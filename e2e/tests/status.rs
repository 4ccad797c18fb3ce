//! `csi-nfs status`: what a running driver tells of itself.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tonic::Request;

use crate::support::driver::program;
use crate::support::requests::{self, from, of_volume};
use crate::support::{Driver, Lab, Outage, Place, wait};

/// What `csi-nfs status` prints for a driver.
fn told(driver: &Driver, more: &[&str]) -> String {
    let endpoint = format!("--endpoint=unix://{}", driver.socket().display());
    let output = Command::new(program()).args(["status", &endpoint]).args(more).output().unwrap();
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), driver.log());
    String::from_utf8(output.stdout).unwrap()
}

fn json(driver: &Driver) -> Value {
    serde_json::from_str(&told(driver, &["--format=json"])).unwrap()
}

#[tokio::test]
async fn a_driver_tells_its_servers_exports_mounts_and_last_failures() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Xfs);
    let driver = Driver::with(&["--mount-options=vers=4.2"]).await;
    let v = driver.create(requests::create(&share, "v")).await.unwrap();
    fs::write(share.path.join("v/file"), "content").unwrap();
    driver.create(from(&share, "c", of_volume(&v.volume_id))).await.unwrap();
    let mut odd = requests::create(&share, "odd");
    odd.parameters.insert("server".to_owned(), "no.such.server.invalid".to_owned());
    odd.secrets.insert("mountOptions".to_owned(), "vers=4.2,planted-secret".to_owned());
    driver.create(odd.clone()).await.unwrap_err();
    odd.secrets.clear();
    driver.create(odd).await.unwrap_err();

    let status = json(&driver);
    assert_eq!((&status["state"], &status["serves"][0]), (&"serving".into(), &"controller".into()), "{status}");
    assert!(status["settings"].as_array().unwrap().contains(&"--mount-options=vers=4.2".into()), "{status}");
    let servers = status["servers"].as_array().unwrap();
    let server = |name: &str| servers.iter().find(|server| server["server"] == name).unwrap();
    assert_eq!(server(&share.server)["address"], share.server, "{status}");
    assert!(server("no.such.server.invalid")["error"].is_string(), "{status}");
    let export = &status["exports"][0];
    assert_eq!(export["export"], format!("{}:{}", share.server, share.share), "{status}");
    assert_eq!((&export["version"], &export["locks"], &export["clone"]), (&"4.2".into(), &true.into(), &true.into()));
    assert_eq!(status["failures"].as_array().unwrap().len(), 2, "{status}");
    assert_eq!(
        (&status["failures"][0]["code"], &status["failures"][0]["volume"]),
        (&"Unavailable".into(), &"odd".into())
    );
    for list in ["calls", "work", "locks"] {
        assert_eq!(status[list].as_array().unwrap().len(), 0, "{list}: {status}");
    }

    let text = told(&driver, &[]);
    assert!(text.contains("calls under way: none") && text.contains("DOES NOT ANSWER"), "{text}");
    assert!(!format!("{status}{text}").contains("planted-secret"), "{text}");

    let target = driver.target("pod");
    driver.publish(&v, &target).await.unwrap();
    let mounts = json(&driver)["mounts"].clone();
    // Other tests mount, too.
    let mine = |mount: &Value| mount["server"] == share.server && mount["version"] == "4.2";
    assert!(mounts.as_array().unwrap().iter().any(mine), "{mounts}");
}

#[tokio::test]
async fn a_copy_is_told_with_its_progress_while_it_runs() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Tmpfs);
    let driver = Driver::with(&["--copy-workers=1"]).await;
    let v = driver.create(requests::create(&share, "v")).await.unwrap();
    for n in 0..20_000 {
        fs::write(share.path.join(format!("v/{n}")), n.to_string()).unwrap();
    }
    let request = from(&share, "c", of_volume(&v.volume_id));
    let mut controller = driver.controller();
    let call = tokio::spawn(async move { controller.create_volume(request).await.map(drop) });
    let mut entries = Vec::new();
    let known = wait::until("a copy of a known size", Duration::from_secs(60), || {
        let status = json(&driver);
        let work = status["work"].as_array().unwrap().first()?.clone();
        assert_eq!((&work["kind"], &work["name"]), (&"copy".into(), &"#volume#c".into()), "{status}");
        assert_eq!(status["calls"][0]["method"], "CreateVolume");
        entries.push(work["entries"].as_u64().unwrap());
        work["entriesExpected"].as_u64()
    })
    .await;
    assert_eq!(known, 20_001);
    assert!(entries.is_sorted() && entries.last() > entries.first(), "{entries:?}");
    call.await.unwrap().unwrap();
    assert_eq!(json(&driver)["work"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn an_answer_comes_at_once_while_a_server_is_away_and_shows_the_call_that_waits() {
    let lab = Lab::alone().await;
    let share = lab.share(Place::Ganesha);
    let driver = Driver::start().await;
    driver.create(requests::create(&share, "v")).await.unwrap();
    let away = lab.without_ganesha(Outage::Frozen);
    let mut call = Request::new(requests::create(&share, "w"));
    call.set_timeout(Duration::from_secs(60));
    let mut controller = driver.controller();
    let call = tokio::spawn(async move { controller.create_volume(call).await.map(drop) });
    let status = wait::until("the call in the status", Duration::from_secs(4), || {
        let begun = std::time::Instant::now();
        let status = json(&driver);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        (status["calls"][0]["method"] == "CreateVolume").then_some(status)
    })
    .await;
    assert_eq!(
        (&status["calls"][0]["volume"], &status["calls"][0]["server"]),
        (&"w".into(), &share.server.as_str().into())
    );
    call.await.unwrap().unwrap_err();
    drop(away);
}

#[tokio::test]
async fn a_driver_that_does_not_run_is_said_not_to_answer_and_the_socket_is_root_s_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut driver = Driver::start().await;
    let socket = driver.path("csi.sock.admin");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(driver.terminate().await.success());
    assert!(!socket.exists());
    let endpoint = format!("--endpoint=unix://{}", driver.socket().display());
    let output = Command::new(program()).args(["status", &endpoint]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains("csi.sock.admin") && line.lines().count() == 1, "{line}");
}
