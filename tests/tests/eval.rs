//! `hadal eval` against clusters of separate processes: its numbers are sane and reproducible, and what it cannot
//! measure it says.

use anyhow::{Context, Result};
use hadal_tests::checkpoint::Checkpoint;
use hadal_tests::cluster::{Cluster, Plan};
use hadal_tests::golden;
use hadal_tests::process::{Ended, run};
use serde_json::Value;
use tempfile::TempDir;

const MODEL: &str = "deepseek_v32";

/// Some thousand tokens of a small vocabulary.
fn text(sentences: usize) -> String {
    (0..sentences).map(|i| format!("Sentence {i} follows the one before it. ")).collect()
}

/// A folder with `name` in it, and the path of that.
fn file(name: &str, bytes: &[u8]) -> Result<(TempDir, String)> {
    let folder = TempDir::new()?;
    let path = folder.path().join(name);
    std::fs::write(&path, bytes)?;
    Ok((folder, path.display().to_string()))
}

async fn eval(cluster: &Cluster, text: &str, flags: &str) -> Result<Ended> {
    let grpc = cluster.router.address("grpc")?.to_string();
    let words = ["eval", text, "--grpc", &grpc];
    run(&words.into_iter().chain(flags.split_whitespace()).collect::<Vec<_>>()).await
}

async fn json(cluster: &Cluster, text: &str, flags: &str) -> Result<Value> {
    let ended = eval(cluster, text, &format!("{flags} --json")).await?;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    Ok(serde_json::from_str(&ended.stdout)?)
}

fn small(prefill: usize, decode: usize, folder: &std::path::Path) -> Plan {
    Plan { prefill, decode, ..Plan::exact(folder) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_are_sane_and_the_same_whatever_goes_on_beside() -> Result<()> {
    let cluster = Cluster::start(Plan::exact(&golden(MODEL))).await?;
    let (folder, text) = file("text.txt", text(200).as_bytes())?;
    let svg = folder.path().join("curves.svg").display().to_string();
    let flags = "--window 256 --windows 3 --distances 200,100 --needles 2 --others 1";
    let report = json(&cluster, &text, &format!("{flags} --svg {svg}")).await?;
    assert_eq!((&report["model"], &report["architecture"]), (&MODEL.into(), &MODEL.into()));
    let number = |value: &Value| value.as_f64().context("no number");
    let all = &report["perplexity"];
    assert_eq!(all["tokens"], 3 * (256 - 96));
    assert_eq!((&all["first_position"], &all["last_position"]), (&96.into(), &255.into()));
    // Random weights know nothing of the text: worse than a guess among the 512 tokens of the vocabulary.
    for kind in ["sparse", "dense"] {
        let perplexity = number(&all[kind])?;
        assert!(perplexity.is_finite() && perplexity > 512.0, "{report}");
    }
    // 32 positions are chosen of up to 256: not all, and not always the same.
    assert!((0.1..0.999).contains(&number(&all["choice_overlap"])?), "{report}");
    let (ratio, error) = (number(&all["ratio"])?, number(&all["ratio_standard_error"])?);
    assert!(ratio != 1.0 && error > 0.0 && (ratio - 1.0).abs() < 5.0 * error, "{report}");
    let quotient = number(&all["sparse"])? / number(&all["dense"])?;
    assert!((quotient - ratio).abs() < 1e-9 * ratio, "{report}");
    let rows = report["perplexity_by_position"].as_array().context("no rows")?;
    assert_eq!(rows.iter().map(|row| row["tokens"].as_u64().unwrap()).sum::<u64>(), 3 * (256 - 96));
    assert_eq!(rows.len(), 3);
    assert_eq!(report["asked_by"], "chat");
    let recall = report["needle_recall"].as_array().context("no recall")?;
    assert_eq!(recall.len(), 2, "{report}");
    for (row, distance) in recall.iter().zip([100, 200]) {
        assert_eq!((&row["distance_tokens"], &row["asked"]), (&distance.into(), &2.into()));
    }
    for kind in ["sparse", "dense"] {
        let cached = &report["needle_prefix_cache"][kind];
        assert_eq!(
            (&cached["asked"], &cached["from_cache"], &cached["same_as_uncached"]),
            (&2.into(), &2.into(), &2.into())
        );
        assert!(number(&cached["cached_token_share"])? > 0.5, "{report}");
    }
    assert!(std::fs::read_to_string(&svg)?.contains("Share of facts found"));
    let again = json(&cluster, &text, &format!("{flags} --concurrency 1")).await?;
    for part in ["perplexity", "perplexity_by_position", "needle_recall"] {
        assert_eq!(again[part], report[part]);
    }
    let table = eval(&cluster, &text, "--window 256 --windows 1 --needles 0").await?;
    assert!(
        table.stdout.contains("perplexity by position") && table.stdout.contains("  96 to 127 "),
        "{}",
        table.stdout
    );
    cluster.pages_back().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_chat_template_the_question_follows_the_text() -> Result<()> {
    let checkpoint = Checkpoint::copy(MODEL)?;
    checkpoint.edit("tokenizer_config.json", |config| {
        config.as_object_mut().unwrap().remove("chat_template");
    })?;
    let cluster = Cluster::start(small(1, 1, checkpoint.path())).await?;
    let (_folder, text) = file("text.txt", text(60).as_bytes())?;
    let report = json(&cluster, &text, "--window 128 --windows 1 --distances 64 --needles 1").await?;
    assert_eq!((&report["asked_by"], &report["needle_recall"][0]["asked"]), (&"text".into(), &1.into()));
    // The golden model chooses 32 positions of 96 or more.
    assert_eq!(report["everything_chosen"], false);
    let crowded = eval(&cluster, &text, "--window 128 --windows 1 --distances 64 --others 20").await?;
    assert_eq!(crowded.code, Some(64), "{}", crowded.stderr);
    assert!(crowded.stderr.contains("64 tokens") && crowded.stderr.contains("fewer --others"), "{}", crowded.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_everything_is_chosen_it_says_that_nothing_was_compared() -> Result<()> {
    let checkpoint = Checkpoint::copy(MODEL)?;
    checkpoint.edit("config.json", |config| config["index_topk"] = 128.into())?;
    let cluster = Cluster::start(small(1, 1, checkpoint.path())).await?;
    let (_folder, text) = file("text.txt", text(60).as_bytes())?;
    let report = json(&cluster, &text, "--window 128 --windows 1 --needles 0").await?;
    assert_eq!((&report["everything_chosen"], &report["perplexity"]["ratio"]), (&true.into(), &1.0.into()), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_measured_is_said() -> Result<()> {
    let cluster = Cluster::start(small(1, 1, &golden("deepseek_v3"))).await?;
    let (_folder, long) = file("long.txt", text(200).as_bytes())?;
    let (_folder, short) = file("short.txt", text(8).as_bytes())?;
    let (_folder, latin1) = file("latin1.txt", b"caf\xe9")?;
    let (_folder, empty) = file("empty.txt", b"")?;
    let refused: [(&str, &str, i32, &[&str]); 10] = [
        (&long, "--window 256", 64, &["deepseek_v3", "has no index"]),
        (&long, "--window 1000000", 64, &["--window 1000000 does not fit", "has a context of"]),
        (&long, "--distances 128,1000000", 64, &["--distances 1000000 does not fit", "has a context of"]),
        (&long, "--model other", 64, &["serves no model \"other\"", "deepseek_v3"]),
        (&long, "--window 12", 64, &["--window"]),
        (&long, "--svg /nowhere/curves.svg", 74, &["cannot write /nowhere/curves.svg"]),
        (&short, "--window 1024", 65, &["short.txt has ", " tokens, less than a window of 1024", "or --window "]),
        (&empty, "--window 1024", 65, &["empty.txt has 0 tokens", "the shortest window is 128"]),
        (&latin1, "", 65, &["latin1.txt is not UTF-8", "byte 3"]),
        ("/nowhere/book.txt", "", 66, &["cannot read /nowhere/book.txt"]),
    ];
    for (text, flags, code, says) in refused {
        let ended = eval(&cluster, text, flags).await?;
        assert_eq!(ended.code, Some(code), "{text} {flags}: {}", ended.stderr);
        assert!(says.iter().all(|part| ended.stderr.contains(part)), "{text} {flags}: {}", ended.stderr);
        assert_eq!(ended.stdout, "");
    }
    let nobody = run(&["eval", &long, "--grpc", "127.0.0.1:9"]).await?;
    assert_eq!(nobody.code, Some(69), "{}", nobody.stderr);
    assert!(nobody.stderr.contains("127.0.0.1:9") && nobody.stderr.contains("hadal up"), "{}", nobody.stderr);
    Ok(())
}
