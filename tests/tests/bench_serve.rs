//! `hadal bench serve` against a real `hadal up`, through both doors: every request is counted, prompts are as long and as
//! alike as the trace says, and what cannot be measured is said. Nothing here looks at a clock.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use hadal_tests::cluster::flags;
use hadal_tests::process::{Ended, Process, binary, run};
use hadal_tests::{PATIENCE, golden, root};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

const MODEL: &str = "deepseek_v32";

/// The embedded cluster with a golden checkpoint.
struct Up {
    up: Process,
    folder: TempDir,
}

impl Up {
    async fn start() -> Result<Self> {
        let folder = TempDir::new()?;
        let model = golden(MODEL).display().to_string();
        let mut args = vec!["up".to_owned(), model];
        args.extend(flags(
            "--http 127.0.0.1:0 --grpc 127.0.0.1:0 --prefill 1 --decode 1 --threads 1 --dtype f32 --kv f32",
        ));
        Ok(Self { up: Process::start(folder.path(), "up", &args).await?, folder })
    }

    /// The flags of a door.
    fn door(&self, door: &str) -> Result<[String; 2]> {
        let address = self.up.address(door)?;
        let at = if door == "http" { format!("http://{address}") } else { address.to_string() };
        Ok([format!("--{door}"), at])
    }

    async fn bench(&self, door: &str, line: &str) -> Result<Ended> {
        let mut args = flags("bench serve");
        args.extend(self.door(door)?);
        args.extend(flags(line));
        run(&args).await
    }

    async fn json(&self, door: &str, line: &str) -> Result<Value> {
        let ended = self.bench(door, &format!("{line} --json")).await?;
        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
        Ok(serde_json::from_str(&ended.stdout)?)
    }
}

fn trace(name: &str) -> String {
    root().join("tests/traces").join(name).display().to_string()
}

fn write(folder: &Path, name: &str, text: &str) -> Result<String> {
    let path = folder.join(name);
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// That every request is in the report, with its tokens and its times.
fn whole(report: &Value, answered: u64, output_tokens: u64) -> Result<()> {
    let requests = &report["requests"];
    assert_eq!((&requests["planned"], &requests["answered"]), (&answered.into(), &answered.into()), "{report}");
    assert_eq!((&requests["failed"], &report["answers_without_usage"]), (&0.into(), &0.into()), "{report}");
    assert_eq!(report["output_tokens"], output_tokens, "{report}");
    assert_eq!((&report["ttft_ms"]["count"], &report["end_to_end_ms"]["count"]), (&answered.into(), &answered.into()));
    for spread in ["ttft_ms", "tpot_ms", "end_to_end_ms"] {
        let of = |name: &str| report[spread][name].as_f64().with_context(|| format!("{spread} {name}"));
        let rising = [of("p50")?, of("p90")?, of("p95")?, of("p99")?, of("max")?];
        assert!(rising[0] >= 0.0 && rising.is_sorted(), "{report}");
    }
    for rate in ["requests_per_s", "output_tokens_per_s", "prompt_tokens_per_s", "duration_s"] {
        assert!(report[rate].as_f64().is_some_and(|rate| rate > 0.0), "{rate}: {report}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_go_through_both_doors_and_equal_blocks_come_from_the_cache() -> Result<()> {
    let up = Up::start().await?;
    let svg = up.folder.path().join("load.svg").display().to_string();
    let mooncake = format!("--trace {} --concurrency 1", trace("mooncake.jsonl"));
    for door in ["grpc", "http"] {
        let report = up.json(door, &format!("{mooncake} --svg {svg}")).await?;
        whole(&report, 5, 15)?;
        assert_eq!((&report["model"], &report["door"]), (&MODEL.into(), &door.into()));
        let tokens = |name: &str| report["prompt_tokens"][name].as_u64().context("no tokens");
        let (wanted, counted, cached) = (tokens("wanted")?, tokens("counted")?, tokens("cached")?);
        assert_eq!(wanted, 1100 + 1400 + 600 + 1536 + 30);
        // Text is as long as wanted but for what words scatter, which is much in a vocabulary so small; ids are exact.
        let off = counted.abs_diff(wanted) as f64 / wanted as f64;
        assert!(if door == "grpc" { off == 0.0 } else { off < 0.15 }, "{door}: {report}");
        // The second request begins with 1024 tokens of the first, the fourth with all 1100; of these whole blocks of the
        // cache, and as far as words go.
        assert!((1700..=2400).contains(&cached), "{door}: {report}");
        assert!(std::fs::read_to_string(&svg)?.contains("Time to first token"));
    }
    let scaled = up.json("grpc", &format!("{mooncake} --input-scale 0.25 --output-scale 2 --limit 3")).await?;
    whole(&scaled, 3, 18)?;
    assert_eq!(scaled["prompt_tokens"]["counted"], 275 + 350 + 150);
    let azure = format!("--trace {} --speed 2 --slo-ttft-ms 1e9", trace("azure.csv"));
    for door in ["grpc", "http"] {
        let report = up.json(door, &azure).await?;
        whole(&report, 3, 9)?;
        assert_eq!((&report["loop"]["speed"], &report["goodput"]["requests"]), (&2.0.into(), &3.into()), "{report}");
        assert_eq!((&report["goodput"]["share"], &report["sent_after_due_ms"]["count"]), (&1.0.into(), &3.into()));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn synthetic_load_is_closed_or_open_and_a_seed_makes_it_again() -> Result<()> {
    let up = Up::start().await?;
    let lengths = "--requests 12 --input-tokens 16-64 --output-tokens 2-6";
    let closed = up.json("grpc", &format!("{lengths} --concurrency 4 --seed 7")).await?;
    whole(&closed, 12, closed["output_tokens"].as_u64().context("no tokens")?)?;
    assert_eq!((&closed["loop"]["concurrency"], &closed["seed"]), (&4.into(), &7.into()));
    assert_eq!(closed["prompt_tokens"]["cached"], 0, "{closed}");
    // The same prompts again, now cached; another seed's are not.
    let again = up.json("grpc", &format!("{lengths} --rate 200 --seed 7")).await?;
    for same in [["prompt_tokens", "counted"], ["prompt_tokens", "wanted"]] {
        assert_eq!(again[same[0]][same[1]], closed[same[0]][same[1]]);
    }
    assert_eq!((&again["output_tokens"], &again["loop"]["rate"]), (&closed["output_tokens"], &200.0.into()));
    assert_eq!(again["sent_after_due_ms"]["count"], 12);
    let table = up.bench("http", &format!("{lengths} --concurrency 3 --slo-tpot-ms 1e9")).await?;
    for part in
        ["closed loop, 3 at a time", "12 of 12 requests answered, 0 failed", "per output token", "100.0 % of all"]
    {
        assert!(table.stdout.contains(part), "{part}\n{}", table.stdout);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_counted_by_kind() -> Result<()> {
    let up = Up::start().await?;
    // The first prompt is longer than any context, the second is not.
    let line = |tokens: u32| format!("{{\"timestamp\":0,\"input_length\":{tokens},\"output_length\":1}}\n");
    let trace = write(up.folder.path(), "t.jsonl", &[line(200_000), line(20)].concat())?;
    for (door, kind) in [("grpc", "grpc InvalidArgument"), ("http", "http 400 context_length_exceeded")] {
        let report = up.json(door, &format!("--trace {trace}")).await?;
        assert_eq!(
            (&report["requests"]["answered"], &report["requests"]["failed"]),
            (&1.into(), &1.into()),
            "{report}"
        );
        assert_eq!((&report["failures"][0]["kind"], &report["failures"][0]["count"]), (&kind.into(), &1.into()));
    }
    let none = up.bench("grpc", &format!("--trace {trace} --limit 1")).await?;
    assert!(none.code == Some(69) && none.stdout.contains("0 of 1 requests answered, 1 failed"), "{}", none.stdout);
    assert!(none.stderr.contains("no request was answered"), "{}", none.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_measured_is_said() -> Result<()> {
    let up = Up::start().await?;
    let folder = up.folder.path();
    let broken = write(folder, "broken.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,12\n")?;
    let empty = write(folder, "empty.jsonl", "\n")?;
    let refused: [(&str, &str, i32, &[&str]); 9] = [
        ("grpc", "--model other", 64, &["serves no model \"other\"", MODEL]),
        ("http", "--model other", 64, &["serves no model \"other\"", MODEL]),
        ("grpc", &format!("--trace {broken}"), 65, &["broken.csv:2: GeneratedTokens is missing"]),
        ("grpc", &format!("--trace {empty}"), 65, &["empty.jsonl has no request"]),
        ("grpc", "--trace /nowhere/t.jsonl", 66, &["cannot read /nowhere/t.jsonl"]),
        ("grpc", "--svg /nowhere/load.svg", 74, &["cannot write /nowhere/load.svg"]),
        ("grpc", "--speed 2", 64, &["--trace"]),
        ("grpc", "--rate 1 --concurrency 2", 64, &["--rate", "--concurrency"]),
        ("grpc", "--input-tokens 9-3", 64, &["--input-tokens", "a range"]),
    ];
    for (door, line, code, says) in refused {
        let ended = up.bench(door, line).await?;
        assert_eq!(ended.code, Some(code), "{line}: {}", ended.stderr);
        assert!(says.iter().all(|part| ended.stderr.contains(part)), "{line}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{line}");
    }
    for door in [["--grpc", "127.0.0.1:9"], ["--http", "http://127.0.0.1:9"]] {
        let nobody = run(&[["bench", "serve"], door].concat()).await?;
        assert_eq!(nobody.code, Some(69), "{}", nobody.stderr);
        assert!(nobody.stderr.contains("127.0.0.1:9") && nobody.stderr.contains("hadal up"), "{}", nobody.stderr);
    }
    // The other door of the same cluster is told apart.
    let http = format!("http://{}", up.up.address("grpc")?);
    let wrong = run(&["bench", "serve", "--http", &http]).await?;
    assert!(wrong.code == Some(69) && wrong.stderr.contains(&http), "{}", wrong.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_prints_what_was_measured_and_ends_the_rest() -> Result<()> {
    let up = Up::start().await?;
    // The second request is due after an hour.
    let line = |ms: u32| format!("{{\"timestamp\":{ms},\"input_length\":20,\"output_length\":2}}\n");
    let trace = write(up.folder.path(), "t.jsonl", &[line(0), line(3_600_000)].concat())?;
    let [flag, address] = up.door("grpc")?;
    let args = ["bench", "serve", &flag, &address, "--trace", &trace, "--speed", "1", "--json"];
    let mut child = Command::new(binary()?)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut said = BufReader::new(child.stderr.take().context("stderr is piped")?).lines();
    // The first one is done when progress says so.
    let until = async {
        while let Some(line) = said.next_line().await? {
            if line.contains("] 1 of 2") {
                return anyhow::Ok(());
            }
        }
        anyhow::bail!("it ended")
    };
    timeout(PATIENCE, until).await.context("no progress is shown")??;
    let pid = child.id().context("it has ended")?.to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await?.success());
    let ended = timeout(PATIENCE, child.wait_with_output()).await.context("it does not end")??;
    assert_eq!(ended.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&ended.stdout)?;
    assert_eq!((&report["interrupted"], &report["requests"]["answered"]), (&true.into(), &1.into()), "{report}");
    Ok(())
}
