//! The golden data through the serving path: a cluster of separate processes answers as transformers did, for every
//! architecture, over HTTP and gRPC and through the real clients.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Result, ensure};
use hadal_tests::client::{greedy, request};
use hadal_tests::cluster::{Cluster, Plan};
use hadal_tests::{golden, http, process, root};
use serde_json::{Value, json};

const ARCHITECTURES: &[&str] = &["deepseek_v32", "deepseek_v32-fp8", "glm_moe_dsa", "deepseek_v3", "deepseek_v2"];

struct Prompt {
    ids: Vec<u32>,
    greedy: Vec<u32>,
}

fn prompts(folder: &Path) -> Result<Vec<Prompt>> {
    let text = std::fs::read_to_string(folder.join("golden/golden.json"))?;
    let golden: Value = serde_json::from_str(&text)?;
    let prompts = golden["prompts"].as_array().unwrap().iter();
    Ok(prompts.map(|p| Prompt { ids: ids(&p["input_ids"]), greedy: ids(&p["greedy_ids"]) }).collect())
}

/// The 32 most likely tokens after a prompt, over HTTP.
async fn complete(router: SocketAddr, model: &str, prompt: &[u32]) -> Result<Vec<u32>> {
    let body = json!({
        "model": model, "prompt": prompt, "max_tokens": 32, "temperature": 0,
        "ignore_eos": true, "return_token_ids": true,
    });
    let answer = http::send(router, "POST", "/v1/completions", &body.to_string()).await?;
    ensure!(answer.status == 200, "{}", answer.text);
    Ok(ids(&answer.json()?["choices"][0]["token_ids"]))
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_passes_for_every_architecture() -> Result<()> {
    for name in ARCHITECTURES {
        let ended = process::run(&["check", &golden(name).display().to_string()]).await?;
        assert_eq!(ended.code, Some(0), "{name}: {}{}", ended.stdout, ended.stderr);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn separate_processes_answer_as_the_golden_data_for_every_architecture() -> Result<()> {
    for name in ARCHITECTURES {
        let folder = golden(name);
        let cluster = Cluster::start(Plan::exact(&folder)).await?;
        let mut client = cluster.client().await?;
        for prompt in prompts(&folder)? {
            let over_http = complete(cluster.router.address("http")?, name, &prompt.ids).await?;
            assert_eq!(over_http, prompt.greedy, "{name} over HTTP, prompt of {}", prompt.ids.len());
            // Now the prompt is cached; the tokens must not change.
            let answer = client.generate(request(name, &prompt.ids, greedy(32))).await?;
            assert_eq!(answer.tokens(), prompt.greedy, "{name} over gRPC, prompt of {}", prompt.ids.len());
        }
        cluster.pages_back().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_clients_are_answered_by_separate_processes() -> Result<()> {
    let name = "deepseek_v32";
    let folder = golden(name);
    let cluster = Cluster::start(Plan::exact(&folder)).await?;
    let expected = folder.join("golden/golden.json").display().to_string();
    let base = format!("http://{}", cluster.router.address("http")?);
    let printed = process::python("openai_client.py", &[&base, name, &expected]).await?;
    assert!(printed.ends_with("all passed\n"), "{printed}");
    let address = cluster.router.address("grpc")?.to_string();
    let protos = root().join("proto").display().to_string();
    let printed = process::python("grpc_client.py", &[&address, name, &expected, &protos]).await?;
    assert!(printed.ends_with("all passed\n"), "{printed}");
    cluster.pages_back().await?;
    Ok(())
}
