//! The golden data through the serving path: a cluster of separate processes answers as transformers did, for every
//! architecture, over HTTP and gRPC and through the real clients.

use std::path::Path;

use anyhow::Result;
use hadal_tests::client::{greedy, request};
use hadal_tests::cluster::{Cluster, Plan};
use hadal_tests::{golden, process, root};
use serde_json::Value;

const ARCHITECTURES: &[&str] = &["deepseek_v32", "deepseek_v32-fp8", "glm_moe_dsa", "deepseek_v3", "deepseek_v2"];

struct Prompt {
    ids: Vec<u32>,
    greedy: Vec<u32>,
}

fn prompts(folder: &Path) -> Result<Vec<Prompt>> {
    let text = std::fs::read_to_string(folder.join("golden/golden.json"))?;
    let golden: Value = serde_json::from_str(&text)?;
    let ids = |v: &Value| v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect();
    let prompts = golden["prompts"].as_array().unwrap().iter();
    Ok(prompts.map(|p| Prompt { ids: ids(&p["input_ids"]), greedy: ids(&p["greedy_ids"]) }).collect())
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
            // The second time the prompt is cached; the tokens must not change.
            for _ in 0..2 {
                let answer = client.generate(request(name, &prompt.ids, greedy(32))).await?;
                assert_eq!(answer.tokens(), prompt.greedy, "{name}, prompt of {}", prompt.ids.len());
            }
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
