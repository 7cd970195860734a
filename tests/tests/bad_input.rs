//! Bad input of every kind: a clear answer that says what is wrong and what to do, and the cluster goes on serving.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use hadal_proto::v1::SamplingOptions;
use hadal_tests::checkpoint::Checkpoint;
use hadal_tests::client::{Answer, Client, greedy, request, tokens};
use hadal_tests::cluster::{BUNDLED, Cluster, Plan, flags};
use hadal_tests::process::{self, Process};
use hadal_tests::{PATIENCE, golden, http};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;

const MODEL: &str = "deepseek_v32";
/// A tensor of the golden checkpoint, bfloat16, 160 x 128.
const TENSOR: &str = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight";

/// A kind of damage, the exit code that it ends with, and what the message says.
struct Damage {
    name: &'static str,
    make: fn(&Checkpoint) -> Result<()>,
    code: i32,
    says: &'static [&'static str],
}

const DAMAGES: &[Damage] = &[
    Damage {
        name: "missing weights",
        make: |c| c.remove("model.safetensors"),
        code: 66,
        says: &["model.safetensors: missing", "model.safetensors.index.json"],
    },
    Damage {
        name: "missing shard",
        make: |c| c.shard_without_second(TENSOR),
        code: 66,
        says: &["model-00002-of-00002.safetensors: missing", "fetch"],
    },
    Damage {
        name: "truncated shard",
        make: |c| c.truncate("model.safetensors", 1000),
        code: 65,
        says: &["model.safetensors", "truncated", "fetch"],
    },
    Damage {
        name: "shard cut within its header",
        make: |c| c.write("model.safetensors", "short"),
        code: 65,
        says: &["model.safetensors"],
    },
    Damage {
        name: "wrong shape",
        make: |c| c.edit_header(|h| h[TENSOR]["shape"] = json!([128, 160])),
        code: 65,
        says: &[TENSOR, "[128, 160]", "[160, 128]"],
    },
    Damage {
        name: "wrong type",
        make: |c| {
            c.edit_header(|h| {
                h[TENSOR]["dtype"] = json!("I32");
                h[TENSOR]["shape"] = json!([80, 128]);
            })
        },
        code: 65,
        says: &[TENSOR],
    },
    Damage {
        name: "wrong type of the right shape",
        // As many bytes, so that the sizes fit.
        make: |c| c.edit_header(|h| h[TENSOR]["dtype"] = json!("I16")),
        code: 65,
        says: &[TENSOR, "must be BF16, F32"],
    },
    Damage {
        name: "missing tensor",
        make: |c| c.edit_header(|h| drop(h.remove(TENSOR))),
        code: 65,
        says: &[TENSOR, "missing"],
    },
    Damage {
        name: "unknown architecture",
        make: |c| {
            c.edit("config.json", |v| {
                v["model_type"] = json!("gpt_oss");
                v["architectures"] = json!(["GptOssForCausalLM"]);
            })
        },
        code: 65,
        says: &["config.json", "gpt_oss", "deepseek_v32", "glm_moe_dsa"],
    },
    Damage {
        name: "absurd dimension",
        make: |c| c.edit("config.json", |v| v["hidden_size"] = json!(-5)),
        code: 65,
        says: &["config.json", "hidden_size"],
    },
    Damage { name: "no JSON", make: |c| c.write("config.json", "{"), code: 65, says: &["config.json"] },
    Damage {
        name: "missing configuration",
        make: |c| c.remove("config.json"),
        code: 66,
        says: &["config.json: missing", "copy it"],
    },
    Damage {
        name: "missing tokenizer",
        make: |c| c.remove("tokenizer.json"),
        code: 66,
        says: &["tokenizer.json: missing", "copy it"],
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn damaged_checkpoints_are_named_with_what_to_do() -> Result<()> {
    for damage in DAMAGES {
        let checkpoint = Checkpoint::copy(MODEL)?;
        (damage.make)(&checkpoint)?;
        let path = checkpoint.path().display().to_string();
        let lines = [
            vec!["check", &path],
            vec!["worker", "--metrics", "127.0.0.1:0", "--model", &path],
            vec!["up", &path, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"],
        ];
        for args in &lines {
            let ended = process::run(args).await?;
            let what = format!("{}, {}", damage.name, args[0]);
            assert_eq!(ended.code, Some(damage.code), "{what}: {}", ended.stderr);
            for says in damage.says.iter().chain([&path.as_str()]) {
                assert!(ended.stderr.contains(says), "{what} does not say {says:?}: {}", ended.stderr);
            }
            let last = ended.stderr.lines().last().unwrap_or_default();
            assert!(last.starts_with("hadal: ") && last.len() < 1000, "{what}: {last}");
            assert_eq!(ended.stdout, "", "{what}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tokenizer_that_is_none_keeps_the_router_waiting_and_it_says_why() -> Result<()> {
    let checkpoint = Checkpoint::copy(MODEL)?;
    checkpoint.write("tokenizer.json", r#"{"version": "1.0", "model": {"type": "Magic"}}"#)?;
    let logs = tempfile::tempdir()?;
    let path = checkpoint.path().display().to_string();
    let mut plan = Plan::of(0, 1, "--dtype f32 --kv f32 --threads 1");
    plan.worker.extend(["--model".to_owned(), path]);
    let coordinator = Process::start(logs.path(), "coordinator", &plan.coordinator_args("127.0.0.1:0")).await?;
    let address = coordinator.address("grpc")?.to_string();
    let router = Process::start(logs.path(), "router", &plan.router_args(&address)).await?;
    // A worker needs no tokenizer to compute, but its operator is better off with an error at the start.
    match Process::start(logs.path(), "decode-0", &plan.worker_args(&address, "decode-0")).await {
        Err(refused) => assert!(refused.to_string().contains("tokenizer.json"), "{refused}"),
        Ok(_worker) => {
            router.until_says(&["tokenizer.json"]).await?;
            let ready = http::send(router.address("http")?, "GET", "/ready", "").await?;
            assert!(ready.status == 503 && ready.text.contains("tokenizer.json"), "{}", ready.text);
        }
    }
    Ok(())
}

/// A cluster, and what it answered when all was well.
struct Served {
    cluster: Cluster,
    client: Client,
    http: SocketAddr,
    model: &'static str,
    expected: Answer,
}

impl Served {
    async fn start(plan: Plan, model: &'static str) -> Result<Self> {
        let cluster = Cluster::start(plan).await?;
        let mut client = cluster.client().await?;
        let expected = client.generate(request(model, &tokens(1, 100), greedy(8))).await?;
        let http = cluster.router.address("http")?;
        Ok(Self { cluster, client, http, model, expected })
    }

    /// Whether it answers as before.
    async fn still_serves(&mut self) -> Result<()> {
        let answer = self.client.generate(request(self.model, &tokens(1, 100), greedy(8))).await?;
        anyhow::ensure!(answer.choices == self.expected.choices, "it answers differently: {answer:?}");
        Ok(())
    }

    /// Posts a body as it is, and reads the error of OpenAI's shape that it is answered with.
    async fn refused(&self, path: &str, body: &str) -> Result<(u16, Value)> {
        let answer = http::send(self.http, "POST", path, body).await?;
        let error = answer.json()?["error"].clone();
        for key in ["message", "type", "code", "param"] {
            anyhow::ensure!(error.get(key).is_some(), "no {key} in {}", answer.text);
        }
        Ok((answer.status, error))
    }
}

fn golden_plan(worker: &str) -> Plan {
    let mut plan = Plan { prefill: 1, decode: 1, ..Plan::exact(&golden(MODEL)) };
    plan.worker.extend(flags(worker));
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_http_that_cannot_be_are_refused_by_name() -> Result<()> {
    let mut served = Served::start(golden_plan("--kv-tokens 1024"), MODEL).await?;
    let over = |changes: Value| {
        let mut body = json!({"model": MODEL, "prompt": [3, 4, 5], "max_tokens": 4});
        let fields = body.as_object_mut().unwrap();
        for (key, value) in changes.as_object().unwrap() {
            match value.is_null() {
                true => drop(fields.remove(key)),
                false => drop(fields.insert(key.clone(), value.clone())),
            }
        }
        body.to_string()
    };
    let long = |count: u32| over(json!({"prompt": tokens(1, count)}));
    let cases = [
        ("{".to_owned(), 400, "invalid_value", None, "not valid JSON"),
        (String::new(), 400, "invalid_value", None, "empty"),
        ("[]".to_owned(), 400, "invalid_value", None, "object"),
        ("\u{1}\u{2}".to_owned(), 400, "invalid_value", None, "not valid JSON"),
        ("[".repeat(100_000), 400, "invalid_value", None, "not valid JSON"),
        (over(json!({"model": null})), 400, "invalid_value", Some("model"), "missing"),
        (over(json!({"model": 5})), 400, "invalid_value", Some("model"), "must be"),
        (over(json!({"model": "gpt-4"})), 404, "model_not_found", Some("model"), MODEL),
        (over(json!({"prompt": null})), 400, "invalid_value", Some("prompt"), "missing"),
        (over(json!({"prompt": ""})), 400, "invalid_value", Some("prompt"), "empty"),
        (over(json!({"prompt": []})), 400, "invalid_value", Some("prompt"), "empty"),
        (over(json!({"prompt": {"a": 1}})), 400, "invalid_value", Some("prompt"), "must be"),
        (over(json!({"prompt": [3, 512]})), 400, "invalid_value", Some("prompt"), "token 512 at position 1"),
        (over(json!({"prompt": [3, -1]})), 400, "invalid_value", Some("prompt"), "must be"),
        (over(json!({"prompt": [3, 1e30]})), 400, "invalid_value", Some("prompt"), "must be"),
        (over(json!({"max_tokens": -1})), 400, "invalid_value", Some("max_tokens"), "-1"),
        (over(json!({"max_tokens": "ten"})), 400, "invalid_value", Some("max_tokens"), "must be"),
        (over(json!({"max_tokens": 0})), 400, "invalid_value", Some("max_tokens"), "max_tokens"),
        (over(json!({"max_tokens": 4_000_000_000_u32})), 400, "context_length_exceeded", Some("max_tokens"), "1024"),
        (over(json!({"temperature": -0.1})), 400, "invalid_value", Some("temperature"), "temperature"),
        (over(json!({"temperature": 1e300})), 400, "invalid_value", Some("temperature"), "temperature"),
        (over(json!({"temperature": "hot"})), 400, "invalid_value", Some("temperature"), "must be"),
        (over(json!({"top_p": 0})), 400, "invalid_value", Some("top_p"), "top_p"),
        (over(json!({"top_p": 1.5})), 400, "invalid_value", Some("top_p"), "top_p"),
        (over(json!({"top_k": -2})), 400, "invalid_value", Some("top_k"), "-2"),
        (over(json!({"min_p": 2})), 400, "invalid_value", Some("min_p"), "min_p"),
        (over(json!({"frequency_penalty": 3})), 400, "invalid_value", Some("frequency_penalty"), "frequency"),
        (over(json!({"repetition_penalty": -1})), 400, "invalid_value", Some("repetition_penalty"), "repetition"),
        (over(json!({"logit_bias": {"512": 1}})), 400, "invalid_value", Some("logit_bias"), "512"),
        (over(json!({"n": 1000})), 400, "invalid_value", Some("n"), "16"),
        (over(json!({"logprobs": 21})), 400, "invalid_value", Some("logprobs"), "logprobs"),
        (over(json!({"stream": "yes"})), 400, "invalid_value", Some("stream"), "true or false"),
        (long(1024), 400, "context_length_exceeded", Some("prompt"), "no worker's cache holds more than 1024"),
        (long(10_240), 400, "context_length_exceeded", Some("prompt"), "context is 10240"),
        (
            over(json!({"prompt": tokens(1, 1000), "max_tokens": 100})),
            400,
            "context_length_exceeded",
            Some("max_tokens"),
            "1024",
        ),
    ];
    for (body, status, code, param, says) in cases {
        let shown: String = body.chars().take(80).collect();
        let (got, error) = served.refused("/v1/completions", &body).await?;
        assert_eq!((got, &error["code"]), (status, &json!(code)), "{shown}: {error}");
        assert_eq!(error["param"], json!(param), "{shown}: {error}");
        let message = error["message"].as_str().context("a message")?;
        assert!(message.contains(says) && message.len() < 1000, "{shown}: {error}");
    }
    let chats = [
        (json!({"model": MODEL}), "messages"),
        (json!({"model": MODEL, "messages": []}), "messages"),
        (json!({"model": MODEL, "messages": "hi"}), "messages"),
        (json!({"model": MODEL, "messages": [{"role": "user", "content": 5}]}), "messages[0].content"),
    ];
    for (body, param) in chats {
        let (status, error) = served.refused("/v1/chat/completions", &body.to_string()).await?;
        assert_eq!((status, &error["param"]), (400, &json!(param)), "{body}: {error}");
    }
    let (status, _) = served.refused("/v1/nothing", "{}").await?;
    assert_eq!(status, 404);
    let get = http::send(served.http, "GET", "/v1/completions", "").await?;
    assert_eq!(get.status, 405, "{}", get.text);
    served.still_serves().await?;
    served.cluster.pages_back().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_grpc_that_cannot_be_are_refused_by_name() -> Result<()> {
    let mut served = Served::start(golden_plan("--kv-tokens 1024"), MODEL).await?;
    let sampled = |change: fn(&mut SamplingOptions)| {
        let mut sampling = greedy(4);
        change(&mut sampling);
        request(MODEL, &[3, 4], sampling)
    };
    let cases = [
        (request("gpt-4", &[3], greedy(4)), Code::NotFound, MODEL),
        (request(MODEL, &[], greedy(4)), Code::InvalidArgument, "empty"),
        (request(MODEL, &[3, 512], greedy(4)), Code::InvalidArgument, "token 512 at position 1"),
        (request(MODEL, &tokens(1, 2000), greedy(4)), Code::InvalidArgument, "1024"),
        (request(MODEL, &tokens(1, 20_000), greedy(4)), Code::InvalidArgument, "10240"),
        (sampled(|s| s.temperature = Some(f32::NAN)), Code::InvalidArgument, "temperature"),
        (sampled(|s| s.temperature = Some(-1.0)), Code::InvalidArgument, "temperature"),
        (sampled(|s| s.top_p = Some(f32::INFINITY)), Code::InvalidArgument, "top_p"),
        (sampled(|s| s.n = Some(0)), Code::InvalidArgument, "n must be"),
        (sampled(|s| s.max_tokens = Some(0)), Code::InvalidArgument, "max_tokens"),
        (sampled(|s| s.max_tokens = Some(u32::MAX)), Code::InvalidArgument, "max_tokens"),
        (sampled(|s| s.logit_bias.extend([(u32::MAX, 1.0)])), Code::InvalidArgument, "logit_bias"),
        (sampled(|s| s.forced_tokens = vec![3, 512]), Code::InvalidArgument, "forced_tokens has token 512"),
        (sampled(|s| s.forced_tokens = vec![3; 5]), Code::InvalidArgument, "5 tokens, more than max_tokens"),
        (sampled(|s| (s.forced_tokens, s.n) = (vec![3], Some(2))), Code::InvalidArgument, "n must be 1"),
        (sampled(|s| (s.choice_overlap, s.logprobs) = (true, None)), Code::InvalidArgument, "choice_overlap"),
    ];
    for (request, code, says) in cases {
        let status = served.client.refused(request).await?;
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(says), "{status:?}");
    }
    let mut nothing = request(MODEL, &[3], greedy(4));
    nothing.prompt = None;
    let status = served.client.refused(nothing).await?;
    assert!(status.code() == Code::InvalidArgument && status.message().contains("prompt"), "{status:?}");
    served.still_serves().await?;
    served.cluster.pages_back().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_ten_megabytes_is_refused_and_the_connection_of_others_is_fine() -> Result<()> {
    let mut served = Served::start(Plan { prefill: 0, decode: 1, ..Plan::sim("0s") }, BUNDLED).await?;
    let mut other = TcpStream::connect(served.http).await?;
    let body = json!({"model": BUNDLED, "prompt": "x".repeat(10 << 20)}).to_string();
    let (status, error) = served.refused("/v1/completions", &body).await?;
    assert_eq!((status, &error["code"]), (413, &json!("body_too_large")), "{error}");
    assert!(error["message"].as_str().context("a message")?.contains("8388608 bytes"), "{error}");

    let mut large = request(BUNDLED, &[3], greedy(1));
    large.prompt = Some(hadal_proto::v1::generate_request::Prompt::Text("x".repeat(10 << 20)));
    let mut client = served.cluster.client().await?;
    let status = client.refused(large).await?;
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    // The same gRPC connection goes on.
    assert_eq!(client.generate(request(BUNDLED, &[3], greedy(3))).await?.tokens().len(), 3);

    let ask = http::request(served.http, "GET", "/v1/models", &[], "");
    other.write_all(ask.as_bytes()).await?;
    let mut text = String::new();
    timeout(PATIENCE, other.read_to_string(&mut text)).await??;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    served.still_serves().await
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_http_and_connections_that_say_nothing_disturb_nobody() -> Result<()> {
    let mut served = Served::start(Plan { prefill: 0, decode: 1, ..Plan::sim("0s") }, BUNDLED).await?;
    let silent = TcpStream::connect(served.http).await?;
    for bytes in [&b"\x16\x03\x01\x02\x00 no TLS here\r\n\r\n"[..], b"GET\r\n\r\n", b"\0\0\0\0\0\0\0\0\r\n\r\n"] {
        let listeners =
            [served.http, served.cluster.router.address("grpc")?, served.cluster.coordinator.address("grpc")?];
        for address in listeners.into_iter().chain([served.cluster.workers[0].address("transfer")?]) {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(bytes).await?;
            stream.shutdown().await?;
            let mut answer = Vec::new();
            // Refused with an answer or without one; the end of the connection comes in any case.
            drop(timeout(PATIENCE, stream.read_to_end(&mut answer)).await.context("the connection stays open")?);
        }
    }
    drop(silent);
    served.still_serves().await
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_cost_bounded_memory_and_delay_nobody() -> Result<()> {
    let mut plan = Plan { prefill: 0, decode: 1, ..Plan::sim("0s") };
    plan.worker.extend(flags("--output-tokens-max 512 --kv-tokens 131072"));
    let mut served = Served::start(plan, BUNDLED).await?;
    let before = [served.cluster.router.resident_bytes()?, served.cluster.workers[0].resident_bytes()?];
    // About 2 kB a token: more than 100 MB in all, if somebody kept it.
    let body = json!({
        "model": BUNDLED, "prompt": [3, 4, 5], "max_tokens": 9000, "ignore_eos": true, "stream": true, "logprobs": 20,
        "n": 8,
    });
    let mut readers = Vec::new();
    for _ in 0..2 {
        let mut reader = TcpStream::connect(served.http).await?;
        let ask = http::request(served.http, "POST", "/v1/completions", &[], &body.to_string());
        reader.write_all(ask.as_bytes()).await?;
        let mut first = [0; 12];
        timeout(PATIENCE, reader.read_exact(&mut first)).await??;
        assert_eq!(&first, b"HTTP/1.1 200");
        readers.push(reader);
    }
    served.still_serves().await?;
    served.cluster.busiest("decode").await?;
    // The worker gives up whoever does not read; until then it goes on beside them.
    served.cluster.pages_back().await?;
    let after = [served.cluster.router.resident_bytes()?, served.cluster.workers[0].resident_bytes()?];
    for (part, (before, after)) in ["router", "worker"].iter().zip(before.iter().zip(&after)) {
        let grown = after.saturating_sub(*before) >> 20;
        assert!(grown < 48, "the {part} grew by {grown} MiB");
    }
    served.still_serves().await?;
    // What came before is there, and then the reason.
    for mut reader in readers {
        let mut rest = Vec::new();
        drop(timeout(PATIENCE, reader.read_to_end(&mut rest)).await.context("the answer does not end")?);
        let end = String::from_utf8_lossy(&rest[rest.len().saturating_sub(600)..]);
        assert!(end.contains("output-tokens-max") && end.contains("\"error\""), "{end}");
    }
    served.still_serves().await
}
