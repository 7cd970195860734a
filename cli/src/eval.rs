//! `hadal eval`: what sparse attention costs in quality, measured on a running cluster by ordinary requests.
//!
//! The same weights answer twice, with the choice of the model's indexer and with dense attention: perplexity by
//! position on a text, facts found by distance, and facts found through the prefix cache. docs/eval.md has the
//! formulas. `text`, `score`, `needle` and `report` are pure; `ask` and `measure` talk to the cluster.

mod ask;
mod measure;
mod needle;
mod report;
mod score;
mod text;

use std::path::{Path, PathBuf};

use hadal_proto::v1;
use hadal_shell::exit::Exit;

use crate::fault::{Fault, OrExit};
use crate::files;
use crate::plot;
use crate::run;
use crate::served::Served;
use ask::Ask;
use measure::Haystack;
use report::Report;

pub(crate) const HELP: &str = "\
Examples:
  hadal eval book.txt                              the cluster of `hadal up` on this machine
  hadal eval book.txt --window 8192 --distances 1024,4096,16384 --svg curves.svg
  hadal eval book.txt --grpc router:8001 --model deep --others 7 --json

TEXT is any text in UTF-8 that the model was not trained on. docs/eval.md says what each figure means.";

/// Tokens of a window at least: some must be left to score after the prompt.
const WINDOW_MIN: u32 = 128;
const WINDOW_DEFAULT: u32 = 2048;

/// Distances when none are given, as far as the context goes.
const DISTANCES: [u32; 5] = [128, 256, 512, 1024, 2048];

/// Tokens beside the distance: text before the fact (twice `measure`'s 64 at most), the question, its template and the
/// answer.
const AROUND_TOKENS: u32 = 256;

/// Bounds of what is measured, and of what a cluster is asked at a time.
const WINDOWS_MAX: i64 = 10_000;
const NEEDLES_MAX: i64 = 10_000;
const CONCURRENCY_MAX: i64 = 1024;

/// Conversations that are asked again through the prefix cache, at most.
const CACHED_MAX: usize = 4;

/// Flags of `hadal eval`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// The text to measure on, in UTF-8
    #[arg(value_name = "TEXT")]
    text: PathBuf,
    #[command(flatten)]
    served: Served,
    /// Tokens of a window of the text; the first eighth is given, the rest scored. 2048 when left out, or the context
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(i64::from(WINDOW_MIN)..))]
    window: Option<u32>,
    /// Windows to score, at most: as many as the text has, from its beginning
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=WINDOWS_MAX))]
    windows: u32,
    /// Tokens between a fact and its question; 128,256,512,1024,2048 when left out, as far as the context goes
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(16..))]
    distances: Vec<u32>,
    /// Facts to ask for at each distance; 0 asks for none
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(..=NEEDLES_MAX))]
    needles: u32,
    /// Other facts of the same form in the text, to tell apart
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=needle::OTHERS_MAX as i64))]
    others: u32,
    /// Requests at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=CONCURRENCY_MAX))]
    concurrency: u32,
    /// Write the curves to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Measures, and prints what was found.
pub(crate) async fn run(options: Options) -> Result<Exit, Fault> {
    let text = read(&options.text)?;
    let (client, model) = options.served.connect().await?;
    let lengths = Lengths::of(&options, &model)?;
    if let Some(path) = &options.svg {
        files::writable(path)?;
    }
    if options.needles > 0 && lengths.distances.is_empty() {
        let (v1::Model { name, context_tokens: context, .. }, [shortest, ..]) = (&model, DISTANCES);
        let why = format!("in a context of {context} tokens there is no room for a distance of {shortest}");
        eprintln!("hadal: {name} is not asked for facts: {why}; give shorter --distances");
    }
    let report = measured(&options, &lengths, &text, Ask::new(client, model.clone()), &model).await?;
    if let Some(path) = &options.svg {
        files::write(path, &plot::svg(&report.plots()))?;
    }
    let shown = if options.json {
        serde_json::to_string_pretty(&report.json()).or_exit(Exit::Software)?
    } else {
        report.table()
    };
    run::print(&shown)?;
    Ok(Exit::Ok)
}

fn read(path: &Path) -> Result<String, Fault> {
    let bytes = std::fs::read(path)
        .map_err(|error| Fault::say(Exit::NoInput, format!("cannot read {}: {error}", path.display())))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let hint = "give a text in UTF-8, such as by `iconv -t UTF-8`";
        Fault::say(Exit::Data, format!("{} is not UTF-8: byte {at} begins no character; {hint}", path.display()))
    })
}

/// How long windows and distances are.
#[derive(Debug, PartialEq)]
struct Lengths {
    window: usize,
    distances: Vec<usize>,
}

impl Lengths {
    /// As given or left out; what does not fit the context is an error.
    fn of(options: &Options, model: &v1::Model) -> Result<Self, Fault> {
        let v1::Model { name, context_tokens: context, .. } = model;
        let fits = format!("{name} has a context of {context} tokens");
        if *context < WINDOW_MIN {
            return Err(Fault::say(Exit::Usage, format!("{fits}; the shortest window is {WINDOW_MIN}")));
        }
        let window = options.window.unwrap_or(WINDOW_DEFAULT.min(*context));
        if window > *context {
            return Err(Fault::say(Exit::Usage, format!("--window {window} does not fit: {fits}")));
        }
        // A text may be a little longer than its distance.
        let farthest = (f64::from(context.saturating_sub(AROUND_TOKENS)) / (1.0 + needle::NEAR_SHARE)) as u32;
        let mut distances = options.distances.clone();
        if let Some(far) = distances.iter().find(|distance| **distance > farthest) {
            let most = format!("with the question and what is around it, distances up to {farthest} fit");
            return Err(Fault::say(Exit::Usage, format!("--distances {far} does not fit: {fits}; {most}")));
        }
        if distances.is_empty() {
            distances = DISTANCES.into_iter().filter(|distance| *distance <= farthest).collect();
        }
        distances.sort_unstable();
        distances.dedup();
        if options.needles == 0 {
            distances.clear();
        }
        Ok(Self { window: window as usize, distances: distances.into_iter().map(|d| d as usize).collect() })
    }

    /// Tokens of the text that are looked at.
    fn wanted(&self, windows: u32) -> usize {
        let longest = self.distances.last().copied().unwrap_or(0);
        self.window.saturating_mul(windows as usize).max(longest)
    }
}

/// A text with no whole window.
fn too_short(path: &Path, tokens: usize, prefix: usize, window: usize) -> Fault {
    let whole = tokens + prefix;
    let shorter = match whole >= WINDOW_MIN as usize {
        true => format!(", or --window {whole}"),
        false => format!("; the shortest window is {WINDOW_MIN}"),
    };
    let path = path.display();
    let message = format!("{path} has {tokens} tokens, less than a window of {window}: give a longer text{shorter}");
    Fault::say(Exit::Data, message)
}

async fn measured(
    options: &Options,
    lengths: &Lengths,
    text: &str,
    ask: Ask,
    model: &v1::Model,
) -> Result<Report, Fault> {
    let prefix = ask.prefix().await?;
    let (tokens, bytes) = ask.tokens(text, &prefix, lengths.wanted(options.windows)).await?;
    let windows = text::windows(&prefix, &tokens, lengths.window, options.windows as usize);
    let Some(first) = windows.first() else {
        return Err(too_short(&options.text, tokens.len(), prefix.len(), lengths.window));
    };
    if !measure::chooses(&ask, first).await? {
        let v1::Model { name, architecture, .. } = model;
        let why = "every token attends to all before it, so there is no sparse attention to compare with dense";
        return Err(Fault::say(Exit::Usage, format!("{name} ({architecture}) has no index: {why}")));
    }
    let (count, limit) = (windows.len(), options.concurrency as usize);
    let (needles, others) = (options.needles as usize, options.others as usize);
    let haystack = Haystack {
        chats: ask.chats().await?,
        ask: ask.clone(),
        text: text[..bytes].into(),
        bytes_per_token: bytes as f64 / tokens.len() as f64,
        prefix,
        others,
    };
    if let [nearest, ..] = lengths.distances[..] {
        haystack.has_room(nearest, lengths.distances.last().copied().unwrap_or(nearest)).await?;
    }
    let scored = measure::scored(&ask, windows, limit).await?;
    let Some(all) = score::all(&scored) else {
        return Err(Fault::say(Exit::Software, "nothing was scored"));
    };
    let recall = haystack.recall(&lengths.distances, needles, limit).await?;
    let cached = match lengths.distances.last() {
        None => None,
        Some(&far) => Some((far, haystack.cached(far, needles.min(CACHED_MAX)).await?)),
    };
    Ok(Report {
        model: model.name.clone(),
        architecture: model.architecture.clone(),
        text: options.text.display().to_string(),
        window: lengths.window,
        prompt: text::prompt_tokens(lengths.window),
        windows: count,
        all,
        by_position: score::by_position(&scored),
        others,
        asked_by: if haystack.chats { "chat" } else { "text" },
        recall,
        cached,
    })
}

#[cfg(test)]
mod tests;
