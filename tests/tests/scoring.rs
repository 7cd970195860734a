//! Scoring through ordinary requests: given tokens, dense attention and the overlap of choices are the same whatever
//! the batch, the cache and the worker.

use anyhow::{Context, Result};
use hadal_proto::v1::{Attention, GenerateRequest, SamplingOptions};
use hadal_tests::client::{Answer, Choice, Client, greedy, request, tokens};
use hadal_tests::cluster::{Cluster, Plan};
use hadal_tests::{golden, http};

const MODEL: &str = "deepseek_v32";

/// Positions that an indexer of the golden model chooses; with no more tokens than these, everything is chosen.
const TOPK: u32 = 32;

fn pair() -> Plan {
    Plan { prefill: 1, decode: 1, ..Plan::exact(&golden(MODEL)) }
}

/// The given tokens as the output, and nothing after them.
fn scored(prompt: &[u32], text: &[u32]) -> GenerateRequest {
    let forced_tokens = text.to_vec();
    request(MODEL, prompt, SamplingOptions { forced_tokens, ..greedy(text.len() as u32) })
}

fn dense(mut request: GenerateRequest) -> GenerateRequest {
    request.options.get_or_insert_default().attention = Attention::Dense.into();
    request
}

fn with_overlap(mut request: GenerateRequest) -> GenerateRequest {
    request.sampling.get_or_insert_default().choice_overlap = true;
    request
}

fn choice(answer: &Answer) -> &Choice {
    &answer.choices[&0]
}

fn cached(answer: &Answer) -> u32 {
    answer.usage.as_ref().map_or(0, |usage| usage.cached_prompt_tokens)
}

/// All answers; every stream is open before the first is read to its end.
async fn all_at_once(client: &mut Client, requests: &[GenerateRequest]) -> Result<Vec<Answer>> {
    let mut streams = Vec::new();
    for request in requests {
        streams.push(client.open(request.clone()).await?);
    }
    let mut answers = Vec::new();
    for stream in streams {
        answers.push(stream.rest().await?);
    }
    Ok(answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_model_says_is_reported_with_the_same_bits_when_it_is_forced() -> Result<()> {
    let cluster = Cluster::start(pair()).await?;
    let mut client = cluster.client().await?;
    // Prompts that the decode worker computes itself, and one that crosses the KV plane.
    for (seed, length) in [(1, 5), (2, 70), (3, 300)] {
        let prompt = tokens(seed, length);
        let free = client.generate(request(MODEL, &prompt, greedy(40))).await?;
        let said = free.tokens().to_vec();
        assert_eq!(said.len(), 40);
        let forced = client.generate(scored(&prompt, &said)).await?;
        assert_eq!(forced.choices, free.choices);
        // The draw's own parameters do not matter to forced tokens, and after them the model goes on by itself.
        let mut part = scored(&prompt, &said[..15]);
        part.sampling.get_or_insert_default().max_tokens = Some(40);
        assert_eq!(client.generate(part.clone()).await?.choices, free.choices);
        let mut drawn = scored(&prompt, &said);
        let sampling = drawn.sampling.get_or_insert_default();
        (sampling.temperature, sampling.seed, sampling.repetition_penalty) = (Some(2.0), Some(7), Some(5.0));
        assert_eq!(client.generate(drawn).await?.choices, free.choices);
        // Where a text is cut into prompt and output changes no token's score.
        let longer = [&prompt[..], &said[..25]].concat();
        let rest = client.generate(scored(&longer, &said[25..])).await?;
        assert_eq!(choice(&rest).logprobs, choice(&free).logprobs[25..]);
    }
    // A text that the model would not say.
    let (prompt, text) = (tokens(4, 100), tokens(9, 50));
    let answer = client.generate(scored(&prompt, &text)).await?;
    assert_eq!(answer.tokens(), text);
    assert!(choice(&answer).logprobs.iter().all(|&bits| f32::from_bits(bits) < 0.0));
    cluster.pages_back().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_stop_token_ends_the_output_unless_it_is_ignored() -> Result<()> {
    let cluster = Cluster::start(pair()).await?;
    let mut client = cluster.client().await?;
    let mut stopping = scored(&tokens(1, 20), &[5, 6, 7, 8]);
    stopping.sampling.get_or_insert_default().stop_token_ids = vec![6];
    assert_eq!(client.generate(stopping.clone()).await?.tokens(), [5, 6]);
    stopping.sampling.get_or_insert_default().min_tokens = Some(3);
    assert_eq!(client.generate(stopping).await?.tokens(), [5, 6, 7, 8]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dense_attention_differs_where_something_is_left_out_and_shares_no_cached_block() -> Result<()> {
    let cluster = Cluster::start(pair()).await?;
    let mut client = cluster.client().await?;
    let short = request(MODEL, &tokens(1, 12), greedy(TOPK - 12));
    let sparse = client.generate(short.clone()).await?;
    assert_eq!(client.generate(dense(short)).await?.choices, sparse.choices);

    let (prompt, text) = (tokens(2, 300), tokens(3, 60));
    let sparse = client.generate(scored(&prompt, &text)).await?;
    let full = client.generate(dense(scored(&prompt, &text))).await?;
    assert_eq!((cached(&sparse), cached(&full)), (0, 0));
    let pairs = choice(&sparse).logprobs.iter().zip(&choice(&full).logprobs);
    assert_eq!(pairs.filter(|(a, b)| a == b).count(), 0);
    for (request, before) in [(scored(&prompt, &text), &sparse), (dense(scored(&prompt, &text)), &full)] {
        let again = client.generate(request).await?;
        assert_eq!(cached(&again), 256);
        assert_eq!(again.choices, before.choices);
    }
    cluster.pages_back().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overlap_of_choices_is_a_share_and_depends_on_the_tokens_alone() -> Result<()> {
    let cluster = Cluster::start(Plan::exact(&golden(MODEL))).await?;
    let mut client = cluster.client().await?;
    let asked = with_overlap(scored(&tokens(2, 300), &tokens(3, 60)));
    let first = client.generate(asked.clone()).await?;
    let overlaps = &choice(&first).overlaps;
    assert_eq!((overlaps.len(), overlaps[0]), (60, None));
    let shares: Vec<f32> = overlaps[1..].iter().map(|o| o.context("it is told")).collect::<Result<_>>()?;
    // Each is a share, and they are neither all near 0 nor all 1: neighbours choose alike, but not the same.
    assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)), "{shares:?}");
    assert!(shares.iter().any(|&share| share > 0.2) && shares.iter().any(|&share| share < 1.0), "{shares:?}");
    let plain = client.generate(scored(&tokens(2, 300), &tokens(3, 60))).await?;
    assert!(choice(&plain).overlaps.iter().all(Option::is_none));
    assert_eq!(choice(&plain).logprobs, choice(&first).logprobs);
    // Cached or not, among others, on either decode worker.
    for answer in all_at_once(&mut client, &vec![asked.clone(); 8]).await? {
        assert_eq!(answer.choices, first.choices);
    }
    let full = client.generate(dense(asked)).await?;
    assert!(choice(&full).overlaps.iter().all(Option::is_none));
    // While everything is chosen, each row chooses all that the row before chose, and itself.
    let short = client.generate(with_overlap(scored(&tokens(4, 9), &[5; 20]))).await?;
    let expected = (10..29).map(|rows| Some((rows - 1) as f32 / rows as f32));
    let close = |(a, b): (&Option<f32>, Option<f32>)| a.zip(b).is_some_and(|(a, b)| (a - b).abs() < 1e-6);
    assert!(choice(&short).overlaps[1..].iter().zip(expected).all(close), "{:?}", choice(&short).overlaps);
    cluster.pages_back().await?;
    Ok(())
}

/// Requests of every kind, with prompts that cross to the decode worker and prompts that do not.
fn mixture(output: u32) -> Vec<GenerateRequest> {
    (0..8)
        .map(|i| {
            let prompt = tokens(i, 40 + 50 * i);
            let free = request(MODEL, &prompt, greedy(output));
            let given = scored(&prompt, &tokens(50 + i, output));
            match i % 4 {
                0 => with_overlap(given),
                1 => dense(given),
                2 => free,
                _ => dense(free),
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_with_requests_of_every_kind_leave_the_bits_of_each_alone() -> Result<()> {
    let cluster = Cluster::start(pair()).await?;
    let mut client = cluster.client().await?;
    let requests = mixture(60);
    let together = all_at_once(&mut client, &requests).await?;
    for (request, together) in requests.into_iter().zip(together) {
        assert_eq!(client.generate(request).await?.choices, together.choices);
    }
    cluster.pages_back().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_decode_worker_changes_no_score() -> Result<()> {
    let mut cluster = Cluster::start(Plan::exact(&golden(MODEL))).await?;
    let mut client = cluster.client().await?;
    // The first is so long that it is under way whenever its worker is killed.
    let long = with_overlap(scored(&tokens(8, 70), &tokens(60, 1500)));
    let requests = [vec![long], mixture(200)].concat();
    let undisturbed = all_at_once(&mut client, &requests).await?;
    cluster.pages_back().await?;
    let mut streams = Vec::new();
    let mut id = String::new();
    for request in &requests {
        let mut stream = client.open(request.clone()).await?;
        stream.until_tokens(3).await?;
        if streams.is_empty() {
            // Nothing else runs: this is the worker of the long one.
            id = cluster.busiest("decode").await?;
        }
        streams.push(stream);
    }
    let worker = cluster.named(&id).context("it is one of ours")?;
    worker.signal("KILL").await?;
    worker.ended().await?;
    for (i, (stream, expected)) in streams.into_iter().zip(&undisturbed).enumerate() {
        let answer = stream.rest().await?;
        let (answer, expected) = (choice(&answer), choice(expected));
        assert_eq!((&answer.tokens, &answer.logprobs), (&expected.tokens, &expected.logprobs));
        // The worker that goes on did not see the row before its first.
        let told = answer.overlaps.iter().zip(&expected.overlaps);
        let other = told.filter(|(a, b)| a != b).collect::<Vec<_>>();
        assert!(other.len() <= 1 && other.iter().all(|(a, _)| a.is_none()), "{other:?}");
        assert!(i > 0 || other.len() == 1, "the long stream was not disturbed");
    }
    let retried = http::metric(cluster.router.address("http")?, "hadal_router_retries_total", &[r#"reason="lost""#]);
    assert!(retried.await? >= 1.0, "no stream was disturbed");
    cluster.pages_back().await?;
    Ok(())
}
