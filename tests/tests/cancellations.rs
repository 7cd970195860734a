//! A client that leaves takes its pages with it, on both sides at once.

use anyhow::{Context, Result, ensure};
use hadal_proto::cluster::FleetView;
use hadal_tests::client::{Client, greedy, request};
use hadal_tests::cluster::{Cluster, Plan};
use hadal_tests::load::{Draw, prompt};
use hadal_tests::{PATIENCE, golden};
use tokio::task::JoinSet;
use tokio::time::timeout;

const MODEL: &str = "deepseek_v32";
const SEED: u64 = 77;
const CANCELLATIONS: u64 = 1000;
const CLIENTS: u64 = 16;

/// Pages of all workers: (in the pools, not free and not cached).
fn pages(view: &FleetView) -> (u64, u64) {
    let parts = view.workers.iter().filter_map(|w| w.ledger.as_ref()).flat_map(|l| &l.parts);
    parts.fold((0, 0), |(total, taken), p| {
        (total + p.pages_total, taken + p.pages_total - p.pages_free - p.pages_cached)
    })
}

/// Starts requests and leaves each after a few events: before the answer, within the prefill, or between tokens.
async fn leave(mut client: Client, number: u64) -> Result<()> {
    let mut draw = Draw(SEED + number);
    for round in 0..CANCELLATIONS.div_ceil(CLIENTS) {
        let mut sampling = greedy(200);
        sampling.n = draw.once_in(8).then_some(2);
        let ask = request(MODEL, &prompt(&mut draw, 600), sampling);
        let events = draw.below(5);
        let part = async {
            let mut stream = client.stream(ask).await?;
            for _ in 0..events {
                stream.message().await?.context("the stream ended by itself")?;
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, part).await.with_context(|| format!("client {number}, round {round}, seed {SEED}"))??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cancelled_requests_leave_no_page_taken() -> Result<()> {
    let mut plan = Plan::of(2, 2, "--kv-tokens 8192");
    plan.worker.extend(["--model".to_owned(), golden(MODEL).display().to_string()]);
    let cluster = Cluster::start(plan).await?;
    let before = pages(&cluster.pages_back().await?);
    ensure!(before.1 == 0 && before.0 > 0, "pages before: {before:?}");

    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(leave(cluster.client().await?, number));
    }
    while let Some(left) = clients.join_next().await {
        left??;
    }
    let after = pages(&cluster.pages_back().await?);
    assert_eq!(before, after);

    let answer = cluster.client().await?.generate(request(MODEL, &[5, 6, 7], greedy(4))).await?;
    assert_eq!(answer.tokens().len(), 4, "the cluster still serves");
    Ok(())
}
