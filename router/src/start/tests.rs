//! A router without a coordinator.

use super::*;

#[tokio::test]
async fn a_request_that_waits_for_a_worker_ends_with_the_drain() {
    let shell = Shell::local();
    // Nobody listens there.
    let config = Config { coordinator: "127.0.0.1:9".to_owned(), ..Config::default() };
    let service = service(&config, &shell).unwrap();
    let deadline = Some(Instant::now() + Duration::from_secs(20));
    let (waited, ()) = tokio::join!(service.model("tiny", deadline), async { shell.tasks.drain() });
    let failure = waited.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert!(failure.message.contains("drains"), "{failure}");
    shell.tasks.join(Duration::from_secs(20)).await.unwrap();
}
