//! `hadal check --quality`: the text as tokens, and the report printed.

use std::path::{Path, PathBuf};

use hadal_model::Files;
use hadal_model::check::{QualityOptions, golden_tokens, quality};
use hadal_router_core::text::ModelText;
use hadal_shell::exit::Exit;
use hadal_types::{Dtype, KvEncoding};

use super::exit;
use crate::engine;
use crate::fault::{Fault, OrExit};
use crate::progress::Progress;
use crate::run;

/// What to measure.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Quality")]
pub(super) struct QualityFlags {
    /// Measure what types of activations and encodings of the cache cost, in place of checking golden data
    #[arg(long)]
    pub(super) quality: bool,
    /// Type of activations; both when left out
    #[arg(long, value_name = "f32|bf16", requires = "quality")]
    dtype: Vec<Dtype>,
    /// Encoding of the cache; all when left out
    #[arg(long, value_name = "f32|bf16|fp8|int8-index", requires = "quality")]
    kv: Vec<KvEncoding>,
    /// Text to measure on; the golden prompts when left out
    #[arg(long, value_name = "FILE", requires = "quality")]
    text: Option<PathBuf>,
    /// Tokens of each sequence of the text
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(2..=131_072))]
    window: u32,
    /// Sequences of the text at most
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    windows: u32,
}

impl QualityFlags {
    /// Every combination but the one that is compared with.
    fn kinds(&self) -> Vec<(Dtype, KvEncoding)> {
        let dtypes = if self.dtype.is_empty() { Dtype::ALL } else { &self.dtype };
        let kvs = if self.kv.is_empty() { KvEncoding::ALL } else { &self.kv };
        let all = dtypes.iter().flat_map(|&dtype| kvs.iter().map(move |&kv| (dtype, kv)));
        all.filter(|kind| *kind != (Dtype::F32, KvEncoding::F32)).collect()
    }

    fn tokens(&self, model: &Path, files: &Files) -> Result<Vec<Vec<u32>>, Fault> {
        let Some(path) = &self.text else {
            return golden_tokens(model).map_err(|error| Fault::new(exit(&error), error));
        };
        let said = |error| Fault::say(Exit::NoInput, format!("{}: {error}; give a text in UTF-8", path.display()));
        let text = std::fs::read_to_string(path).map_err(said)?;
        let named = files.small_files().iter().map(|f| (f.name.to_owned(), f.bytes.to_vec())).collect();
        let tokens = ModelText::from_files(&named).or_exit(Exit::Data)?.encode_plain(&text).or_exit(Exit::Data)?;
        let window = self.window.min(files.config().context_tokens) as usize;
        // What is left over at the end counts if anything of it is predicted.
        let windows: Vec<Vec<u32>> =
            tokens.chunks(window).filter(|w| w.len() > 1).take(self.windows as usize).map(<[u32]>::to_vec).collect();
        match windows.is_empty() {
            true => Err(Fault::say(Exit::Data, format!("{}: a text of two tokens at least is needed", path.display()))),
            false => Ok(windows),
        }
    }
}

/// Prints the report.
pub(super) fn run(options: &super::Options) -> Result<Exit, Fault> {
    let (files, _) = engine::open(Some(&options.model))?;
    let windows = options.quality.tokens(&options.model, &files)?;
    let kinds = options.quality.kinds();
    if kinds.is_empty() {
        return Err(Fault::say(Exit::Usage, "f32 with an f32 cache is what others are compared with; name another"));
    }
    let progress = Progress::new();
    let report = quality(
        &files,
        &windows,
        &QualityOptions {
            path: options.cpu.unwrap_or_else(hadal_model::Path::detect),
            pool: Some(engine::pool(options.threads)?),
            chunk_tokens: options.chunk_tokens.get(),
            kinds,
            progress: &|p| progress.show(|| engine::loading(p)),
        },
    );
    drop(progress);
    let report = report.map_err(|error| Fault::new(exit(&error), error))?;
    run::print(&match options.json {
        true => serde_json::to_string_pretty(&report).or_exit(Exit::Software)?,
        false => report.to_string(),
    })?;
    Ok(Exit::Ok)
}
