//! TLS between all parts, both sides authenticated.

use std::path::PathBuf;

use anyhow::{Context, Result};
use hadal_proto::cluster as w;
use hadal_proto::cluster::coordinator_client::CoordinatorClient;
use hadal_proto::cluster::worker_client::WorkerClient;
use hadal_tests::client::{Client, greedy, request, tokens};
use hadal_tests::cluster::{Cluster, Plan, flags, fleet_until_over};
use hadal_tests::process::Process;
use hadal_tests::{PATIENCE, golden, http};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

const MODEL: &str = "deepseek_v32";

/// An authority and one certificate of it, for parts on 127.0.0.1.
struct Authority {
    folder: TempDir,
}

impl Authority {
    fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let cert = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &ca)?;
        std::fs::write(folder.path().join("ca.pem"), ca.pem())?;
        std::fs::write(folder.path().join("part.pem"), cert.pem())?;
        std::fs::write(folder.path().join("part.key"), key.serialize_pem())?;
        Ok(Self { folder })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn flags(&self) -> Vec<String> {
        let [cert, key, ca] = ["part.pem", "part.key", "ca.pem"].map(|name| self.file(name).display().to_string());
        ["--tls-cert", &cert, "--tls-key", &key, "--tls-ca", &ca].map(str::to_owned).to_vec()
    }

    /// What a part of this authority dials with; without its own certificate if `anonymous`.
    fn client(&self, anonymous: bool) -> Result<ClientTlsConfig> {
        let read = |name| std::fs::read(self.file(name));
        let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("ca.pem")?));
        Ok(match anonymous {
            true => config,
            false => config.identity(Identity::from_pem(read("part.pem")?, read("part.key")?)),
        })
    }
}

fn channel(address: &str, tls: Option<ClientTlsConfig>) -> Result<Channel> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = Channel::from_shared(format!("{scheme}://{address}"))?;
    Ok(match tls {
        Some(tls) => endpoint.tls_config(tls)?.connect_lazy(),
        None => endpoint.connect_lazy(),
    })
}

fn golden_prompt() -> Result<(Vec<u32>, Vec<u32>)> {
    let text = std::fs::read_to_string(golden(MODEL).join("golden/golden.json"))?;
    let golden: Value = serde_json::from_str(&text)?;
    let longest = golden["prompts"].as_array().and_then(|p| p.last()).context("there are prompts")?;
    let ids = |key: &str| serde_json::from_value(longest[key].clone());
    Ok((ids("input_ids")?, ids("greedy_ids")?))
}

/// The golden prompt, answered as transformers did.
async fn serves(client: &mut Client) -> Result<()> {
    let (prompt, expected) = golden_prompt()?;
    let answer = client.generate(request(MODEL, &prompt, greedy(expected.len() as u32))).await?;
    anyhow::ensure!(answer.tokens() == expected, "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_parts_talk_over_tls_and_strangers_are_refused() -> Result<()> {
    let (ours, foreign) = (Authority::new()?, Authority::new()?);
    let plan = Plan { prefill: 1, decode: 1, all: ours.flags(), ..Plan::exact(&golden(MODEL)) };
    let cluster = Cluster::start(plan.clone()).await?;
    let coordinator = cluster.coordinator.address("grpc")?.to_string();
    let tls = || channel(&coordinator, Some(ours.client(false)?));
    fleet_until_over(tls()?, "both are registered", |view| view.workers.len() == 2).await?;
    let mut client = cluster.client().await?;
    serves(&mut client).await?;
    // It crossed from one worker to the other, over TLS as well.
    let decode = cluster.workers[1].address("metrics")?;
    assert!(http::metric(decode, "hadal_worker_kv_bytes_total", &[r#"direction="received""#]).await? > 0.0);
    assert_eq!(http::metric(decode, "hadal_worker_recomputes_total", &[]).await?, 0.0);

    // Whole parts with other papers, or none: they wait and say why.
    let logs = TempDir::new()?;
    let foreign_plan = Plan { all: foreign.flags(), ..plan.clone() };
    let plain_plan = Plan { all: Vec::new(), ..plan };
    for (id, plan, why) in [("decode-8", &foreign_plan, "certificate"), ("decode-9", &plain_plan, "no coordinator")] {
        let stranger = Process::start(logs.path(), id, &plan.worker_args(&coordinator, id)).await?;
        stranger.until_says(&["no coordinator", why]).await?;
        let ready = http::send(stranger.address("metrics")?, "GET", "/ready", "").await?;
        assert_eq!(ready.status, 503, "{}", ready.text);
    }
    let router = Process::start(logs.path(), "router", &foreign_plan.router_args(&coordinator)).await?;
    router.until_says(&["waiting for the coordinator", "certificate"]).await?;

    // By hand, at every internal listener.
    let worker = cluster.workers[0].address("grpc")?.to_string();
    for tls in [None, Some(ours.client(true)?), Some(foreign.client(false)?)] {
        let mut stranger = CoordinatorClient::new(channel(&coordinator, tls.clone())?);
        timeout(PATIENCE, stranger.place(w::PlaceRequest::default())).await?.unwrap_err();
        let mut stranger = WorkerClient::new(channel(&worker, tls)?);
        timeout(PATIENCE, stranger.prefill(w::PrefillRequest::default())).await?.unwrap_err();
    }
    let view = fleet_until_over(tls()?, "only ours are in", |view| view.workers.len() == 2).await?;
    assert!(view.workers.iter().all(|w| ["prefill-0", "decode-0"].contains(&w.id.as_str())));
    serves(&mut client).await?;
    assert_eq!(client.generate(request(MODEL, &tokens(3, 200), greedy(5))).await?.tokens().len(), 5);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_files_that_cannot_be_used_are_refused_at_the_start() -> Result<()> {
    let (ours, foreign) = (Authority::new()?, Authority::new()?);
    let [cert, key, ca] = ["part.pem", "part.key", "ca.pem"].map(|name| ours.file(name).display().to_string());
    let other = foreign.file("part.key").display().to_string();
    let cases = [
        ([cert.as_str(), "/nowhere.key", &ca], "/nowhere.key"),
        ([&cert, &key, "/nowhere.pem"], "/nowhere.pem"),
        ([&cert, &cert, &ca], "--tls-key"),
        ([&key, &key, &ca], "--tls-cert"),
        ([&cert, &other, &ca], "key"),
    ];
    for ([cert, key, ca], says) in cases {
        let mut args = flags("coordinator --grpc 127.0.0.1:0");
        args.extend(["--tls-cert", cert, "--tls-key", key, "--tls-ca", ca].map(str::to_owned));
        let ended = hadal_tests::process::run(&args).await?;
        assert_eq!(ended.code, Some(78), "{says}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{says}: {}", ended.stderr);
    }
    Ok(())
}
