//! The whole router but its servers, against a coordinator and workers on loopback.

mod fakes;

use std::time::Duration;

use futures_util::StreamExt;
use hadal_proto::cluster as w;
use hadal_router_core::{FinishReason, Usage};
use hadal_shell::Shell;
use hadal_types::{Attention, ChainRoot, Fingerprint, NumericsClass};
use tokio::net::TcpListener;
use tokio::time::timeout;

use self::fakes::{FakeCoordinator, FakeWorker, Play, token};
use super::*;
use crate::config::Config;
use crate::service::{Api, Backend, ModelInfo, Output, Readiness, RequestMeta, ServedModel};
use crate::start::{Service, service};

/// For waits that end at once unless something is broken.
const LONG: Duration = Duration::from_secs(30);

/// A router beside a coordinator and workers.
struct Cluster {
    service: Service,
    coordinator: FakeCoordinator,
    shell: Shell,
}

async fn cluster(workers: &[FakeWorker]) -> Cluster {
    let (coordinator, address) = FakeCoordinator::start(workers).await;
    let shell = Shell::local();
    Cluster { service: router(address, &shell), coordinator, shell }
}

async fn beside(worker: &FakeWorker) -> Cluster {
    cluster(std::slice::from_ref(worker)).await
}

fn router(coordinator: String, shell: &Shell) -> Service {
    service(&Config { coordinator, wait_max: LONG, ..Config::default() }, shell).unwrap()
}

impl Cluster {
    async fn model(&self) -> Arc<ServedModel> {
        timeout(LONG, self.service.model("tiny", None)).await.unwrap().unwrap()
    }

    /// Ten tokens after a prompt of three.
    async fn submission(&self) -> Submission {
        Submission {
            model: self.model().await,
            prompt: vec![7, 8, 9],
            params: SamplingParams::default(),
            max_tokens: Some(10),
            seed: Some(42),
            n: 1,
            stop: Vec::new(),
            context: RequestMeta {
                api: Api::Grpc,
                request_id: RequestId::new("r").unwrap(),
                tenant: "t".into(),
                salt: vec![1],
                attention: Attention::Sparse,
                priority: 0,
                session: "s".into(),
                traceparent: "00-trace".into(),
                deadline: None,
            },
        }
    }

    async fn answer(&self, submission: Submission) -> Answer {
        let model = Arc::clone(&submission.model);
        let stream = timeout(LONG, self.service.submit(submission)).await.unwrap().unwrap();
        collect(&model, stream).await
    }

    async fn failure(&self, submission: Submission) -> Failure {
        match timeout(LONG, self.service.submit(submission)).await.unwrap() {
            Err(failure) => failure,
            Ok(mut stream) => loop {
                match timeout(LONG, stream.next()).await.unwrap() {
                    Some(Err(failure)) => break failure,
                    Some(Ok(_)) => {}
                    None => panic!("the stream ended without a failure"),
                }
            },
        }
    }
}

/// What came, each token checked for its place.
#[derive(Default)]
struct Answer {
    tokens: Vec<Vec<u32>>,
    texts: Vec<String>,
    ends: Vec<Option<(FinishReason, Option<String>)>>,
    usage: Option<Usage>,
}

async fn collect(model: &ServedModel, mut stream: OutputStream) -> Answer {
    let mut answer = Answer::default();
    let mut started = 0;
    while let Some(output) = timeout(LONG, stream.next()).await.unwrap() {
        assert!(answer.usage.is_none(), "usage is the last");
        let output = output.unwrap();
        let choice = match &output {
            Output::Delta(delta) => delta.choice as usize,
            Output::Finished { choice, .. } => *choice as usize,
            _ => 0,
        };
        answer.tokens.resize(answer.tokens.len().max(choice + 1), Vec::new());
        answer.texts.resize(answer.tokens.len(), String::new());
        answer.ends.resize(answer.tokens.len(), None);
        match output {
            Output::Started { prompt_tokens, .. } => {
                assert_eq!(prompt_tokens, 3);
                started += 1;
            }
            Output::Delta(delta) => {
                assert_eq!(delta.first_token as usize, answer.tokens[choice].len(), "the next token, once");
                answer.tokens[choice].extend(delta.token_ids);
                answer.texts[choice].push_str(&delta.text);
            }
            Output::Finished { reason, stop, .. } => answer.ends[choice] = Some((reason, stop)),
            Output::Usage { usage, .. } => answer.usage = Some(usage),
        }
    }
    assert_eq!(started, 1);
    for (tokens, text) in answer.tokens.iter().zip(&answer.texts) {
        assert!(model.text.decode(tokens).starts_with(text.as_str()));
    }
    answer
}

fn tokens(choice: u32, count: u32) -> Vec<u32> {
    (0..count).map(|index| token(choice, index)).collect()
}

#[tokio::test]
async fn an_answer_carries_what_the_request_says_and_counts_what_it_used() {
    let worker = FakeWorker::start("a", &[]).await;
    let cluster = beside(&worker).await;
    let submission = Submission { prompt: (0..130).collect(), ..cluster.submission().await };
    let prompt = submission.prompt.clone();
    let mut stream = timeout(LONG, cluster.service.submit(submission)).await.unwrap().unwrap();
    let mut usage = None;
    while let Some(output) = stream.next().await {
        if let Output::Usage { usage: used, .. } = output.unwrap() {
            usage = Some(used);
        }
    }
    assert_eq!(usage, Some(Usage { prompt_tokens: 130, completion_tokens: 10, cached_prompt_tokens: 2 }));
    let place = &cluster.coordinator.places()[0];
    let class = NumericsClass([1; 16]);
    let hashes = hadal_proto::hashes_to_bytes(&ChainRoot::new(class, &[1], Attention::Sparse).chain(&prompt));
    assert_eq!(place.chains, [w::BlockChain { numerics_class: class.0.to_vec(), hashes }]);
    assert_eq!((place.prompt_tokens, place.max_tokens, place.session.as_str()), (130, 10, "s"));
    let request = &worker.requests()[0];
    let context = request.context.as_ref().unwrap();
    assert_eq!((context.request_id.as_str(), context.tenant.as_str()), ("r#0", "t"));
    assert_eq!(context.traceparent, "00-trace");
    assert!(context.deadline_ms > 0);
    assert_eq!((request.tokens.len(), request.prompt_tokens), (130, 130));
    assert_eq!((request.sampling.as_ref().unwrap().seed, request.incarnation), (42, 5));
    assert_eq!((request.fingerprint.as_slice(), request.lease_id.as_slice()), ([9; 16].as_slice(), [3; 16].as_slice()));
}

#[tokio::test]
async fn a_dense_request_looks_for_blocks_of_its_own_and_says_so_to_its_worker() {
    let worker = FakeWorker::start("a", &[Play::Die(4)]).await;
    let next = FakeWorker::start("b", &[]).await;
    let cluster = cluster(&[worker.clone(), next.clone()]).await;
    let mut submission = cluster.submission().await;
    submission.prompt = (0..128).collect();
    submission.context.attention = Attention::Dense;
    submission.params.forced = tokens(0, 7);
    let prompt = submission.prompt.clone();
    let mut stream = timeout(LONG, cluster.service.submit(submission)).await.unwrap().unwrap();
    while let Some(output) = stream.next().await {
        output.unwrap();
    }
    let root = ChainRoot::new(NumericsClass([1; 16]), &[1], Attention::Dense);
    for place in cluster.coordinator.places() {
        assert!(place.context.unwrap().dense);
        assert_eq!(place.chains[0].hashes, hadal_proto::hashes_to_bytes(&root.chain(&prompt)));
    }
    // All forced tokens go to whoever goes on: they are found by their place in the output.
    for request in [&worker.requests()[0], &next.requests()[0]] {
        assert!(request.context.as_ref().unwrap().dense);
        assert_eq!(request.sampling.as_ref().unwrap().forced_tokens, tokens(0, 7));
    }
    assert_eq!(next.requests()[0].tokens.len(), 128 + 4);
}

#[tokio::test]
async fn more_forced_tokens_than_fit_are_refused_with_their_number() {
    let worker = FakeWorker::start("a", &[]).await;
    let cluster = beside(&worker).await;
    let mut submission = Submission { max_tokens: None, ..cluster.submission().await };
    submission.params.forced = vec![5; 1 << 20];
    let failure = cluster.failure(submission).await;
    assert_eq!((failure.kind, failure.param.as_deref()), (FailureKind::TooLong, Some("forced_tokens")));
    assert!(failure.message.contains("1048576") && worker.requests().is_empty(), "{failure}");
}

#[tokio::test]
async fn choices_are_worker_requests_of_their_own_with_one_drawn_seed() {
    let worker = FakeWorker::start("a", &[]).await;
    let cluster = beside(&worker).await;
    let answer = cluster.answer(Submission { n: 2, seed: None, ..cluster.submission().await }).await;
    assert_eq!(answer.tokens, [tokens(0, 10), tokens(1, 10)]);
    assert_eq!(answer.ends, vec![Some((FinishReason::Length, None)); 2]);
    assert_eq!(answer.usage.unwrap().completion_tokens, 20);
    let requests = worker.requests();
    let mut ids: Vec<_> = requests.iter().map(|r| r.context.as_ref().unwrap().request_id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["r#0", "r#1"]);
    let seeds: Vec<_> = requests.iter().map(|r| r.sampling.as_ref().unwrap().seed).collect();
    assert_eq!(seeds[0], seeds[1]);
}

#[tokio::test]
async fn the_longest_id_is_an_id() {
    let worker = FakeWorker::start("a", &[]).await;
    let cluster = beside(&worker).await;
    let mut submission = cluster.submission().await;
    submission.context.request_id = RequestId::new("r".repeat(128)).unwrap();
    assert_eq!(cluster.answer(submission).await.tokens, [tokens(0, 10)]);
}

#[tokio::test]
async fn tokens_of_one_checkpoint_are_not_given_to_another() {
    let worker = FakeWorker::start("a", &[]).await;
    let cluster = beside(&worker).await;
    let submission = cluster.submission().await;
    let model = &*submission.model;
    let info = ModelInfo { fingerprint: Fingerprint([8; 16]), ..model.info.clone() };
    let (fleet_name, text) = (model.fleet_name.clone(), Arc::clone(&model.text));
    let before = Arc::new(ServedModel { info, fleet_name, text, vocab_size: model.vocab_size });
    let failure = cluster.failure(Submission { model: before, ..submission }).await;
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert!(worker.requests().is_empty());
}

#[tokio::test]
async fn a_busy_worker_is_passed_over() {
    let busy = FakeWorker::start("a", &[Play::Refuse(w::error::Kind::Busy, true)]).await;
    let free = FakeWorker::start("b", &[]).await;
    let cluster = cluster(&[busy, free.clone()]).await;
    let answer = cluster.answer(cluster.submission().await).await;
    assert_eq!(answer.tokens, [tokens(0, 10)]);
    let places = cluster.coordinator.places();
    assert_eq!((places[1].exclude.as_slice(), places[1].attempt), (["a".to_owned()].as_slice(), 1));
    assert_eq!(free.requests().len(), 1);
}

#[tokio::test]
async fn a_lost_worker_s_stream_goes_on_elsewhere_without_a_token_twice() {
    let other_class = FakeWorker::of_class("z", 2, &[]).await;
    let lost = FakeWorker::start("a", &[Play::Die(4)]).await;
    let repeats = FakeWorker::start("b", &[Play::Repeat(3)]).await;
    let ends = FakeWorker::start("c", &[Play::Stop(1)]).await;
    let last = FakeWorker::start("d", &[]).await;
    let cluster = cluster(&[lost, repeats.clone(), ends.clone(), last.clone(), other_class.clone()]).await;
    let answer = cluster.answer(cluster.submission().await).await;
    assert_eq!(answer.tokens, [tokens(0, 10)]);
    assert_eq!(answer.usage.unwrap(), Usage { prompt_tokens: 3, completion_tokens: 10, cached_prompt_tokens: 2 });
    for (worker, had) in [(&repeats, 4), (&ends, 7), (&last, 8)] {
        let request = &worker.requests()[0];
        assert_eq!(request.tokens, [vec![7, 8, 9], tokens(0, had)].concat());
        assert_eq!(request.prompt_tokens, 3);
        let sampling = request.sampling.as_ref().unwrap();
        assert_eq!((sampling.seed, sampling.choice, sampling.max_tokens), (42, 0, 10));
    }
    let place = &cluster.coordinator.places()[3];
    assert_eq!((place.numerics_class.as_slice(), place.prompt_tokens), ([1; 16].as_slice(), 11));
    assert_eq!(place.max_tokens, 2);
    assert!(other_class.requests().is_empty());
}

#[tokio::test]
async fn a_worker_lost_after_the_last_token_costs_nothing() {
    let worker = FakeWorker::start("a", &[Play::Die(10)]).await;
    let cluster = beside(&worker).await;
    let answer = cluster.answer(cluster.submission().await).await;
    assert_eq!(answer.tokens, [tokens(0, 10)]);
    assert_eq!(answer.ends, [Some((FinishReason::Length, None))]);
    assert_eq!(worker.requests().len(), 1);
}

#[tokio::test]
async fn four_attempts_are_all() {
    let busy = || Play::Refuse(w::error::Kind::Busy, true);
    let worker = FakeWorker::start("a", &[busy(), busy(), busy(), busy()]).await;
    let cluster = beside(&worker).await;
    let failure = cluster.failure(cluster.submission().await).await;
    assert_eq!(failure.kind, FailureKind::Overloaded);
    assert!(failure.message.contains("4 attempts") && failure.message.contains('a'), "{failure}");
    assert_eq!(worker.requests().len(), 4);
}

#[tokio::test]
async fn the_request_s_own_fault_is_not_tried_again() {
    let worker = FakeWorker::start("a", &[Play::Refuse(w::error::Kind::Invalid, false)]).await;
    let cluster = beside(&worker).await;
    assert_eq!(cluster.failure(cluster.submission().await).await.kind, FailureKind::Invalid);
    assert_eq!(worker.requests().len(), 1);
}

#[tokio::test]
async fn a_refusal_of_the_coordinator_says_why_and_when_to_try_again() {
    let worker = FakeWorker::start("a", &[]).await;
    let cluster = cluster(&[worker]).await;
    let kind = w::refusal::Kind::Overloaded.into();
    cluster.coordinator.refuse(w::Refusal { kind, message: "the queue is full".into(), retry_after_ms: 700 });
    let failure = cluster.failure(cluster.submission().await).await;
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Overloaded, "the queue is full"));
    assert_eq!(failure.retry_after, Some(Duration::from_millis(700)));
}

#[tokio::test]
async fn dropping_the_answer_drops_the_worker_s_stream_and_frees_the_id() {
    let worker = FakeWorker::start("a", &[Play::Hang]).await;
    let cluster = beside(&worker).await;
    let stream = timeout(LONG, cluster.service.submit(cluster.submission().await)).await.unwrap().unwrap();
    let twice = cluster.failure(cluster.submission().await).await;
    assert_eq!(twice.kind, FailureKind::Duplicate);
    drop(stream);
    timeout(LONG, worker.dropped()).await.unwrap();
    // The task is over soon after; joining waits for it.
    timeout(LONG, cluster.shell.tasks.join(LONG)).await.unwrap().unwrap();
    assert!(cluster.service.in_flight_is_empty());
}

#[tokio::test]
async fn a_deadline_ends_the_request_and_the_worker_s_stream() {
    let worker = FakeWorker::start("a", &[Play::Hang]).await;
    let cluster = beside(&worker).await;
    let mut submission = cluster.submission().await;
    submission.context.deadline = Some(Instant::now() + Duration::from_millis(200));
    assert_eq!(cluster.failure(submission).await.kind, FailureKind::Deadline);
    timeout(LONG, worker.dropped()).await.unwrap();
    let left = worker.requests()[0].context.as_ref().unwrap().deadline_ms;
    assert!((1..=200).contains(&left), "{left}");
}

#[tokio::test]
async fn a_stop_string_ends_the_output_before_it_and_drops_the_worker_s_stream() {
    let worker = FakeWorker::start("a", &[]).await;
    let cluster = beside(&worker).await;
    let submission = cluster.submission().await;
    let whole = submission.model.text.decode(&tokens(0, 20));
    let stop: String = whole.chars().skip(9).take(4).collect();
    let before = whole[..whole.find(&stop).unwrap()].to_owned();
    let submission = Submission { max_tokens: Some(1_000_000), stop: vec![stop.clone()], ..submission };
    let answer = cluster.answer(submission).await;
    assert_eq!(answer.texts, [before]);
    assert_eq!(answer.ends, [Some((FinishReason::Stop, Some(stop)))]);
    assert_eq!(answer.usage.unwrap().completion_tokens as usize, answer.tokens[0].len());
    timeout(LONG, worker.dropped()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_worker_up_and_not_the_memory() {
    let worker = FakeWorker::start("a", &[]).await;
    let cluster = beside(&worker).await;
    let count = 60_000;
    let submission = Submission { max_tokens: Some(count), ..cluster.submission().await };
    let model = Arc::clone(&submission.model);
    let stream = timeout(LONG, cluster.service.submit(submission)).await.unwrap().unwrap();
    timeout(LONG, worker.blocked()).await.unwrap();
    assert!(worker.sent() < count / 2, "{} deltas were taken unread", worker.sent());
    let answer = collect(&model, stream).await;
    assert_eq!(answer.tokens, [tokens(0, count)]);
}

#[tokio::test]
async fn requests_wait_for_a_coordinator_and_a_first_worker() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let shell = Shell::local();
    let service = router(address.clone(), &shell);
    let Readiness::Waiting(reason) = service.readiness() else { panic!("there is no coordinator") };
    assert!(reason.contains("coordinator"), "{reason}");
    let waiting = tokio::spawn({
        let service = service.clone();
        async move { service.model("tiny", None).await }
    });
    let coordinator = FakeCoordinator::serve(TcpListener::bind(&address).await.unwrap(), &[]);
    coordinator.add(&FakeWorker::start("a", &[]).await);
    let model = timeout(LONG, waiting).await.unwrap().unwrap().unwrap();
    let cluster = Cluster { service, coordinator, shell };
    let answer = cluster.answer(Submission { model, ..cluster.submission().await }).await;
    assert_eq!(answer.tokens, [tokens(0, 10)]);
    assert_eq!(cluster.service.readiness(), Readiness::Ready);
    assert_eq!(cluster.service.models()[0].name, "tiny");
}

#[tokio::test]
async fn an_unknown_model_is_refused_at_once_with_the_known_ones() {
    let cluster = cluster(&[FakeWorker::start("a", &[]).await]).await;
    cluster.model().await;
    let failure = timeout(LONG, cluster.service.model("large", None)).await.unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::UnknownModel);
    assert!(failure.message.contains("tiny"), "{failure}");
}

#[tokio::test]
async fn waiting_for_a_worker_ends_with_the_deadline() {
    let cluster = cluster(&[]).await;
    let deadline = Some(Instant::now() + Duration::from_millis(50));
    let failure = timeout(LONG, cluster.service.model("tiny", deadline)).await.unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Deadline);
    assert!(failure.message.contains("tiny"), "{failure}");
}

#[tokio::test]
async fn bad_prompts_are_refused_with_numbers() {
    let cluster = cluster(&[FakeWorker::start("a", &[]).await]).await;
    let base = cluster.submission().await;
    let vocab_size = base.model.vocab_size;
    let with = |prompt: Vec<u32>, max_tokens| Submission { prompt, max_tokens, ..base.clone() };
    let cases = [
        (with(vec![], None), FailureKind::Invalid, "empty".to_owned()),
        (with(vec![1, vocab_size], None), FailureKind::Invalid, format!("token {vocab_size} at position 1")),
        (with(vec![1; 1 << 20], None), FailureKind::TooLong, "1048576 tokens".to_owned()),
        (with(vec![1; 10], Some(1 << 20)), FailureKind::TooLong, "together 1048586".to_owned()),
        (Submission { n: 0, ..base.clone() }, FailureKind::Invalid, "n must be".to_owned()),
    ];
    for (submission, kind, says) in cases {
        let failure = cluster.failure(submission).await;
        assert_eq!(failure.kind, kind);
        assert!(failure.message.contains(&says), "{failure}");
    }
    assert!(cluster.coordinator.places().is_empty());
}

#[tokio::test]
async fn as_many_tokens_as_fit_follow_when_none_are_named() {
    let worker = FakeWorker::start("a", &[Play::Hang]).await;
    let cluster = beside(&worker).await;
    let submission = Submission { max_tokens: None, ..cluster.submission().await };
    let _stream = timeout(LONG, cluster.service.submit(submission)).await.unwrap().unwrap();
    assert_eq!(worker.requests()[0].sampling.as_ref().unwrap().max_tokens, (1 << 20) - 3);
}

#[tokio::test]
async fn a_draining_router_takes_nothing_new_and_finishes_what_runs() {
    let worker = FakeWorker::start("a", &[]).await;
    let cluster = beside(&worker).await;
    let (first, second) = (cluster.submission().await, cluster.submission().await);
    let model = Arc::clone(&first.model);
    let submission = Submission { max_tokens: Some(20_000), ..first };
    let stream = timeout(LONG, cluster.service.submit(submission)).await.unwrap().unwrap();
    cluster.shell.tasks.drain();
    assert_eq!(cluster.service.readiness(), Readiness::Draining);
    assert_eq!(cluster.failure(second).await.kind, FailureKind::Unavailable);
    let (answer, joined) = tokio::join!(collect(&model, stream), cluster.shell.tasks.join(LONG));
    assert_eq!(answer.tokens, [tokens(0, 20_000)]);
    joined.unwrap();
}

#[test]
fn a_request_over_the_bound_is_refused_and_ids_come_back() {
    let in_flight = InFlight::default();
    let id = |name: &str| RequestId::new(name).unwrap();
    let first = in_flight.enter(&id("a"), 1).unwrap();
    assert_eq!(in_flight.enter(&id("b"), 1).err().unwrap().kind, FailureKind::Overloaded);
    assert_eq!(in_flight.enter(&id("a"), 2).err().unwrap().kind, FailureKind::Duplicate);
    drop(first);
    in_flight.enter(&id("a"), 1).unwrap();
}
