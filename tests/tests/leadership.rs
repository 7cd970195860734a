//! Leaders that die or hang, and a store that goes away: no request fails, and no deposed leader is obeyed. Times are
//! printed, not judged.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hadal_tests::client::{greedy, request, tokens};
use hadal_tests::cluster::{BUNDLED, Plan};
use hadal_tests::ensemble::{Ensemble, Load, drain};
use hadal_tests::history::{History, registered};
use hadal_tests::http;
use hadal_tests::process::{self, Process};
use tonic::Code;

const CLIENTS: u32 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_at_once_and_no_request_fails() -> Result<()> {
    let mut ensemble = Ensemble::start(Plan::sim("1ms"), 3, 3).await?;
    let mut load = Load::start(&ensemble, CLIENTS).await?;
    let mut history = History::default();
    let mut leader = ensemble.leader(0).await?;
    // First with all of etcd, then with two of three members, which may have to elect a leader of their own just then.
    for round in 0..2 {
        load.answered(50).await?;
        if round == 1 {
            ensemble.etcd.kill(0).await?;
        }
        load.answered(50).await?;
        let name = format!("coordinator-{}", leader.member);
        let killed = &mut ensemble.coordinators[leader.member];
        killed.signal("KILL").await?;
        let began = Instant::now();
        killed.ended().await?;
        let next = ensemble.leader(leader.term).await?;
        let etcd = if round == 0 { "etcd whole" } else { "a member of etcd as well" };
        println!("leader killed, {etcd}: {} ms without one", began.elapsed().as_millis());
        history.coordinator(&format!("{name}, before round {round}"), &ensemble.coordinators[leader.member]);
        ensemble.complete(leader.term).await?;
        load.answered(50).await?;
        ensemble.restart(leader.member, &format!("{name}-{round}")).await?;
        if round == 1 {
            ensemble.etcd.restart(0).await?;
        }
        let follows = ensemble.follows(leader.member).await?;
        assert_eq!((follows.term, follows.address), (next.term, ensemble.address(next.member)?));
        leader = next;
    }
    let (requests, longest) = load.end().await?;
    println!("{requests} requests, none failed, the longest took {} ms", longest.as_millis());
    let history = ensemble.check(history)?;
    assert_eq!(history.terms().len(), 3);
    for worker in &ensemble.workers {
        ensure!(registered(worker).is_sorted(), "a worker went back to an older leader: {}", worker.log());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hangs_is_replaced_and_commands_nothing_when_it_wakes() -> Result<()> {
    let mut ensemble = Ensemble::start(Plan::sim("1ms"), 1, 3).await?;
    let mut load = Load::start(&ensemble, CLIENTS).await?;
    load.answered(50).await?;
    let hung = ensemble.leader(0).await?;
    ensemble.coordinators[hung.member].signal("STOP").await?;
    let began = Instant::now();
    // It lies in the sockets of a leader that does not run.
    let early = tokio::spawn(drain(ensemble.address(hung.member)?, "decode-0".to_owned()));
    let next = ensemble.leader(hung.term).await?;
    println!("leader stopped: {} ms without one", began.elapsed().as_millis());
    ensemble.complete(hung.term).await?;
    load.answered(100).await?;
    ensemble.coordinators[hung.member].signal("CONT").await?;
    let status = early.await?.err().context("a deposed leader has commanded")?;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(ensemble.follows(hung.member).await?.term, next.term);
    for standby in (0..3).filter(|member| *member != next.member) {
        let status = ensemble.drain(standby, "decode-0").await.err().context("a standby commands")?;
        let leader = ensemble.address(next.member)?;
        ensure!(status.message().contains(&format!("not the leader; it is {leader}")), "{status:?}");
    }
    load.answered(50).await?;
    // The leader's own command is obeyed, and the worker ends when its streams have.
    assert_eq!(ensemble.drain(next.member, "decode-0").await?, next.term);
    let worker = ensemble.workers.iter_mut().find(|w| w.ready["id"] == "decode-0").context("it is ours")?;
    assert_eq!(worker.ended().await?.code(), Some(0), "{}", worker.log());
    let (requests, longest) = load.end().await?;
    println!("{requests} requests, none failed, the longest took {} ms", longest.as_millis());
    let history = ensemble.check(History::default())?;
    assert_eq!(history.terms(), [hung.term, next.term]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_while_the_store_is_away_and_commands_do_not() -> Result<()> {
    let mut ensemble = Ensemble::start(Plan::sim("1ms"), 1, 2).await?;
    let mut load = Load::start(&ensemble, CLIENTS).await?;
    load.answered(50).await?;
    let leader = ensemble.leader(0).await?;
    let nobody = ensemble.drain(leader.member, "nobody").await.err().context("nobody was drained")?;
    assert_eq!(nobody.code(), Code::NotFound);
    ensemble.etcd.kill(0).await?;
    let began = Instant::now();
    // Until its lease may have ended, for all that it knows.
    while ensemble.drain(leader.member, "nobody").await.err().is_none_or(|s| s.code() != Code::Unavailable) {}
    println!("after {} ms without the store the leader commands nothing more", began.elapsed().as_millis());
    load.answered(200).await?;
    let status = ensemble.drain(leader.member, "decode-0").await.err().context("it commanded")?;
    ensure!(status.message().contains("cannot show that it still leads"), "{status:?}");
    ensemble.etcd.restart(0).await?;
    let began = Instant::now();
    let commands = async {
        loop {
            let leader = ensemble.leader(0).await?;
            if ensemble.drain(leader.member, "nobody").await.err().is_some_and(|s| s.code() == Code::NotFound) {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(hadal_tests::PATIENCE, commands).await.context("nobody commands again")??;
    println!("the store is back: commands again after {} ms", began.elapsed().as_millis());
    load.answered(100).await?;
    let (requests, longest) = load.end().await?;
    println!("{requests} requests, none failed, the longest took {} ms", longest.as_millis());
    ensemble.check(History::default())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_ends_in_order_hands_over_and_streams_go_on() -> Result<()> {
    let mut ensemble = Ensemble::start(Plan::sim("2ms"), 1, 2).await?;
    let mut client = ensemble.client().await?;
    let mut running = client.open(request(BUNDLED, &tokens(1, 50), greedy(300))).await?;
    running.until_tokens(3).await?;
    let leader = ensemble.leader(0).await?;
    let ended = &mut ensemble.coordinators[leader.member];
    ended.signal("TERM").await?;
    assert_eq!(ended.ended().await?.code(), Some(0), "{}", ended.log());
    ensemble.complete(leader.term).await?;
    assert_eq!(client.generate(request(BUNDLED, &tokens(2, 50), greedy(10))).await?.tokens().len(), 10);
    assert_eq!(running.rest().await?.tokens().len(), 300);
    ensemble.check(History::default())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_waits_for_a_store_that_is_not_there_and_says_so() -> Result<()> {
    let logs = tempfile::tempdir()?;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let args = |store: &str| {
        let line = format!("coordinator --grpc 127.0.0.1:0 --metrics 127.0.0.1:0 --store {store}");
        hadal_tests::cluster::flags(&line)
    };
    let coordinator = Process::start(logs.path(), "alone", &args(&format!("etcd://{closed}/x"))).await?;
    coordinator.until_says(&["no word from the store", "trying again"]).await?;
    let ready = http::send(coordinator.address("metrics")?, "GET", "/ready", "").await?;
    ensure!(ready.status == 503 && ready.text.contains("the store cannot be reached"), "{}", ready.text);
    for (store, says) in [("zookeeper://a:1", "write memory, etcd://"), ("etcds://a:1", "--tls-cert")] {
        let ended = process::run(&args(store)).await?;
        ensure!(matches!(ended.code, Some(64 | 78)), "{:?}", ended.code);
        ensure!(ended.stderr.contains("--store") && ended.stderr.contains(says), "{}", ended.stderr);
    }
    Ok(())
}
