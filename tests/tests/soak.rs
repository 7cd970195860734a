//! Many clients at once: every answer of a cluster of separate processes equals that of a single worker in one process,
//! and every page is back at the end, also of what was cancelled.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use hadal_proto::v1::GenerateRequest;
use hadal_tests::client::{Answer, Client};
use hadal_tests::cluster::{Cluster, Plan, flags};
use hadal_tests::load::{Draw, mixed};
use hadal_tests::process::Process;
use hadal_tests::{PATIENCE, golden};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;

const MODEL: &str = "deepseek_v32";
const SEED: u64 = 20_260_101;
const REQUESTS: usize = 500;
const CLIENTS: usize = 16;

/// What to ask, and after how many deltas the client gives up, if it does.
#[derive(Clone)]
struct Case {
    request: GenerateRequest,
    give_up_after: Option<u64>,
}

fn cases() -> Vec<Case> {
    let mut draw = Draw(SEED);
    let case =
        |draw: &mut Draw| Case { request: mixed(draw, MODEL), give_up_after: draw.once_in(5).then(|| draw.below(12)) };
    (0..REQUESTS).map(|_| case(&mut draw)).collect()
}

/// Asks until the end, or until the client gives up.
async fn ask(client: &mut Client, case: &Case) -> Result<Answer> {
    let Some(deltas) = case.give_up_after else { return client.generate(case.request.clone()).await };
    let some = async {
        let mut stream = client.stream(case.request.clone()).await?;
        let mut answer = Answer::default();
        for _ in 0..deltas {
            match stream.message().await? {
                Some(response) => answer.take(response)?,
                None => break,
            }
        }
        anyhow::Ok(answer)
    };
    timeout(PATIENCE, some).await.context("a stream takes too long")?
}

/// All answers, asked by so many clients at once.
async fn ask_all(client: Client, cases: &Arc<Vec<Case>>, whole: bool) -> Result<Vec<Answer>> {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (mut client, cases) = (client.clone(), cases.clone());
        clients.spawn(async move {
            let mut answers = Vec::new();
            for index in (number..cases.len()).step_by(CLIENTS) {
                let mut case = cases[index].clone();
                if whole {
                    case.give_up_after = None;
                }
                let answer = ask(&mut client, &case).await;
                answers.push((index, answer.with_context(|| format!("request {index} of seed {SEED}"))?));
            }
            anyhow::Ok(answers)
        });
    }
    let mut all = vec![Answer::default(); cases.len()];
    while let Some(answers) = clients.join_next().await {
        for (index, answer) in answers?? {
            all[index] = answer;
        }
    }
    Ok(all)
}

/// Whether what a client that gave up had seen is the beginning of the whole answer.
fn is_beginning(part: &Answer, whole: &Answer) -> bool {
    part.choices.iter().all(|(number, choice)| {
        let whole = &whole.choices[number];
        whole.tokens.starts_with(&choice.tokens) && whole.text.starts_with(&choice.text)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_mixed_requests_of_sixteen_clients_are_answered_as_by_one_worker() -> Result<()> {
    let model = golden(MODEL).display().to_string();
    let cases = Arc::new(cases());
    let expected = {
        let logs = TempDir::new()?;
        let mut args = flags("up --prefill 0 --decode 1 --http 127.0.0.1:0 --grpc 127.0.0.1:0");
        args.push(model.clone());
        let alone = Process::start(logs.path(), "alone", &args).await?;
        ask_all(Client::connect(alone.address("grpc")?).await?, &cases, true).await?
    };
    // Pools of 4,096 tokens, so that blocks are evicted and prompts of several requests compete.
    let mut plan = Plan::of(2, 2, "--kv-tokens 4096");
    plan.worker.extend(["--model".to_owned(), model]);
    let cluster = Cluster::start(plan).await?;
    let answers = ask_all(cluster.client().await?, &cases, false).await?;
    for (index, (case, (answer, expected))) in cases.iter().zip(answers.iter().zip(&expected)).enumerate() {
        let same = match case.give_up_after {
            None => answer.choices == expected.choices,
            Some(_) => is_beginning(answer, expected),
        };
        ensure!(same, "request {index} of seed {SEED}: {answer:#?}\nnot as alone: {expected:#?}\n{:?}", case.request);
    }
    cluster.pages_back().await?;
    Ok(())
}
