//! What workers compute with: a checkpoint or the bundled model, loaded as the flags say.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use hadal_model::{Files, LoadOptions, Model, OpenError, Pool};
use hadal_shell::exit::Exit;
use hadal_shell::units::show_bytes;
use hadal_types::{Dtype, KvEncoding};
use hadal_worker::Engine;

use crate::bundled;
use crate::fault::{Fault, OrExit};
use crate::progress::Progress;

/// How a model computes. Workers work together only where all of this is equal.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelOptions {
    /// Type of activations: f32 is exact, bf16 is faster
    #[arg(long, value_name = "f32|bf16", default_value = "bf16")]
    pub(crate) dtype: Dtype,
    /// Encoding of the cache: f32 is exact, fp8 is smallest, int8-index is bf16 with index keys that are scanned
    /// fastest
    #[arg(long, value_name = "f32|bf16|fp8|int8-index", default_value = "bf16")]
    pub(crate) kv: KvEncoding,
    /// Draft tokens with the checkpoint's draft layer (MTP), and verify them in the same step: faster, the same answers.
    /// auto does so where it has one; on demands it; either way workers leave it where it does not pay
    #[arg(long, value_name = "auto|on|off", default_value = "auto", hide_possible_values = true)]
    pub(crate) speculate: Speculate,
    /// Kernel path: avx512, avx2 or portable; the best one that this machine has when left out
    #[arg(long, value_name = "PATH")]
    pub(crate) cpu: Option<hadal_model::Path>,
    /// Threads that compute; one for each core when left out
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
}

/// Whether the draft layer is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Speculate {
    /// If there is one.
    Auto,
    /// Or the process does not start.
    On,
    /// Not even loaded.
    Off,
}

/// Opens a checkpoint, or the bundled model when none is named, and says under which name it is served.
pub(crate) fn open(folder: Option<&Path>) -> Result<(Files, String), Fault> {
    let Some(folder) = folder else {
        return Ok((bundled::open().or_exit(Exit::Software)?, bundled::NAME.to_owned()));
    };
    let files = Files::open(folder).map_err(|error| Fault::new(open_exit(&error), error))?;
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = absolute.file_name().map_or_else(|| "model".to_owned(), |n| n.to_string_lossy().into_owned());
    Ok((files, name))
}

/// What a checkpoint that cannot be opened ends with.
pub(crate) fn open_exit(error: &OpenError) -> Exit {
    match error {
        OpenError::NoFolder { .. } | OpenError::Missing { .. } => Exit::NoInput,
        OpenError::Io { .. } => Exit::Io,
        _ => Exit::Data,
    }
}

/// Loads the weights, with progress when it takes long.
pub(crate) fn load(files: &Files, options: &ModelOptions) -> Result<Arc<Model>, Fault> {
    if options.speculate == Speculate::On && !Model::can_draft(files) {
        return Err(Fault::say(Exit::Data, "--speculate on: this checkpoint has no draft layer; give auto or off"));
    }
    let progress = Progress::new();
    let load = LoadOptions {
        dtype: options.dtype,
        kv: options.kv,
        path: options.cpu.unwrap_or_else(hadal_model::Path::detect),
        drafts: options.speculate != Speculate::Off,
        pool: Some(pool(options.threads)?),
        progress: &|p| progress.show(|| loading(p)),
    };
    Model::load(files, &load).map(Arc::new).or_exit(Exit::Data)
}

/// A line of progress.
pub(crate) fn loading(progress: hadal_model::Progress) -> String {
    format!("loading weights: {} of {}", show_bytes(progress.bytes), show_bytes(progress.bytes_total))
}

/// An engine for one or more workers of this process.
pub(crate) fn engine(folder: Option<&Path>, name: Option<&str>, options: &ModelOptions) -> Result<Engine, Fault> {
    let (files, own_name) = open(folder)?;
    let model = load(&files, options).map_err(|fault| match folder {
        Some(folder) => Fault::say(fault.exit, format!("{}: {fault}", folder.display())),
        None => fault,
    })?;
    Ok(Engine::model(model, &files, name.unwrap_or(&own_name)))
}

/// The threads that compute, for all workers of this process.
pub(crate) fn pool(threads: Option<NonZeroUsize>) -> Result<Arc<Pool>, Fault> {
    Pool::new(threads).map(Arc::new).or_exit(Exit::Os)
}
