//! Traces, with a real Jaeger.

use std::time::Duration;

use crate::quota::published;
use crate::support::jaeger::{COLLECTOR, Jaeger, Span};
use crate::support::requests::{create, from, of_volume};
use crate::support::{Code, Driver, Lab, Place, wait};

#[tokio::test]
async fn a_call_has_a_span_with_its_volume_its_export_and_what_took_long_in_it() {
    let lab = Lab::alone().await;
    let directory = tempfile::tempdir().unwrap();
    let jaeger = Jaeger::start(&directory.path().join("jaeger.log")).await;
    let share = lab.share(Place::Xfs);
    let export = format!("{}:{}", share.server, share.share);
    let mut driver = Driver::with(&[&format!("--otlp-endpoint=http://{COLLECTOR}")]).await;
    let v = {
        let _slow = lab.with_delay("15ms");
        let v = driver.create(create(&share, "v")).await.unwrap();
        let both = tokio::join!(driver.create(create(&share, "w")), driver.create(create(&share, "w")));
        both.0.unwrap();
        both.1.unwrap();
        published(&driver, &v).await;
        v
    };
    driver.create(from(&share, "c", of_volume(&v.volume_id))).await.unwrap();
    assert_eq!(driver.delete("").await.unwrap_err().code(), Code::InvalidArgument);

    let of = |volume: &'static str| move |span: &Span| span.tag("volume").is_some_and(|tag| *tag == volume);
    let made = jaeger.span("CreateVolume", of("v")).await;
    assert_eq!(made.tag("server").unwrap(), &share.server);
    assert_eq!(made.tag("export").unwrap(), &export);
    assert_eq!(made.tag("rpc.grpc.status_code").unwrap(), 0);
    for slow in ["mount", "mkdir", "write_file"] {
        assert!(made.slow().contains(&slow), "{slow}: {made:?}");
    }
    let waited = |span: &Span| of("w")(span) && span.slow().contains(&"wait for locks");
    jaeger.span("CreateVolume", waited).await;
    let published = jaeger.span("NodePublishVolume", |_| true).await;
    assert_eq!(published.tag("export").unwrap(), &export);
    assert!(published.slow().contains(&"mount"), "{published:?}");
    let copied = jaeger.span("copy", |_| true).await;
    assert_eq!(copied.tag("export").unwrap(), &export);
    let failed = jaeger.span("DeleteVolume", |span| span.tag("error").is_some()).await;
    assert_eq!(failed.tag("rpc.grpc.status_code").unwrap(), Code::InvalidArgument as i32);
    assert!(failed.tag("otel.status_description").unwrap().as_str().unwrap().contains("volume_id"), "{failed:?}");
    assert!(jaeger.spans("Probe").is_empty(), "they come all the time and tell nothing");

    // What is left is sent at the end.
    driver.create(create(&share, "last")).await.unwrap();
    assert!(driver.terminate().await.success());
    assert!(jaeger.spans("CreateVolume").iter().any(of("last")));
}

#[tokio::test]
async fn a_collector_that_is_away_is_told_once_and_holds_nothing_up() {
    let lab = Lab::enter().await;
    let share = lab.share(Place::Tmpfs);
    let mut driver = Driver::with(&["--otlp-endpoint=http://127.0.0.1:9"]).await;
    driver.create(create(&share, "v")).await.unwrap();
    let warned = || driver.log().contains("traces cannot be sent").then_some(());
    wait::until("the warning", Duration::from_secs(30), warned).await;
    // The end sends the span of this call in vain, too.
    driver.create(create(&share, "w")).await.unwrap();
    assert!(driver.terminate().await.success());
    assert_eq!(driver.log().matches("traces cannot be sent").count(), 1, "{}", driver.log());
}
