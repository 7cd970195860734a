//! A checkpoint as published: a Hugging Face folder, or the same files built into the binary.
//!
//! Opening reads the small files, maps the shards and checks every header against its file, so that what is missing
//! or truncated shows at once, by name. Tensors are read when they are asked for.

mod map;
mod safetensors;
mod synthetic;
mod tensor;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hadal_types::Fingerprint;
use serde::Deserialize;

use crate::config::{Config, ConfigError};
use map::Bytes;
pub use safetensors::{HeaderError, TensorType};
pub(crate) use synthetic::{Random, UNIFORM};
pub use tensor::Tensor;

/// The small files of a checkpoint: whether one must be there, and what to do when it is not.
const SMALL_FILES: [(&str, Option<&str>); 6] = [
    ("config.json", Some("copy it from the model's repository; a folder in DeepSeek's own demo format has none")),
    (
        "tokenizer.json",
        Some("copy it from the model's repository, or save it with transformers: tokenizer.save_pretrained(FOLDER)"),
    ),
    ("generation_config.json", None),
    ("tokenizer_config.json", None),
    ("chat_template.jinja", None),
    ("chat_template.json", None),
];
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// No published small file comes near this; tokenizers have up to 20 MB.
const SMALL_BYTES_MAX: u64 = 256 << 20;
/// How much of each end of a tensor enters the fingerprint: enough to tell trained weights apart, little enough to
/// read for a checkpoint of 700 GB.
const SAMPLE_BYTES: usize = 4096;

/// Why a checkpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No such folder.
    #[error(
        "{path}: no such model folder; give one in Hugging Face layout (config.json, tokenizer.json, *.safetensors)"
    )]
    NoFolder {
        /// What was given.
        path: PathBuf,
    },
    /// A file that a model needs.
    #[error("{path}: missing; {advice}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do.
        advice: String,
    },
    /// Reading failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A small file of absurd size.
    #[error("{path}: {bytes} bytes; a file of this name has at most {SMALL_BYTES_MAX}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A shard that cannot be used.
    #[error("{path}: {source}")]
    Shard {
        /// The shard.
        path: PathBuf,
        /// Why.
        source: HeaderError,
    },
    /// The index of shards.
    #[error("{path}: {reason}")]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The configuration.
    #[error("{path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ConfigError,
    },
}

/// A small file: configuration, tokenizer, template.
#[derive(Clone, Debug)]
pub struct SmallFile {
    /// Its name in the folder.
    pub name: &'static str,
    /// All of it.
    pub bytes: Arc<[u8]>,
    /// BLAKE3 of the bytes.
    pub blake3: [u8; 32],
}

/// An open checkpoint.
pub struct Files {
    small: Vec<SmallFile>,
    shards: Vec<Bytes>,
    tensors: BTreeMap<String, (usize, safetensors::Entry)>,
    config: Config,
    fingerprint: Fingerprint,
    origin: PathBuf,
}

impl Files {
    /// Opens a folder in Hugging Face layout.
    ///
    /// # Errors
    /// When the folder or a file that a model needs is missing, truncated or corrupt; names the file.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        if !dir.is_dir() {
            return Err(OpenError::NoFolder { path: dir.to_owned() });
        }
        Self::read(dir, &mut |name| {
            let path = dir.join(name);
            match Bytes::map(&path) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(OpenError::Io { path, source }),
            }
        })
    }

    /// Opens files that are built into the binary, given by name.
    ///
    /// # Errors
    /// As [`Files::open`].
    pub fn embedded(files: &[(&str, &'static [u8])]) -> Result<Self, OpenError> {
        Self::read(Path::new("(bundled model)"), &mut |name| {
            Ok(files.iter().find(|(n, _)| *n == name).map(|(_, b)| Bytes::Static(b)))
        })
    }

    /// Opens files that a fuzzer made up.
    #[cfg(any(test, feature = "test-util"))]
    pub(crate) fn made_up(files: &[(&str, &[u8])]) -> Result<Self, OpenError> {
        Self::read(Path::new("made-up"), &mut |name| {
            Ok(files.iter().find(|(n, _)| *n == name).map(|(_, b)| Bytes::Owned(b.to_vec())))
        })
    }

    fn read(origin: &Path, get: &mut dyn FnMut(&str) -> Result<Option<Bytes>, OpenError>) -> Result<Self, OpenError> {
        let small = small_files(origin, get)?;
        let raw = small.iter().find(|f| f.name == "config.json").map_or(&[][..], |f| &f.bytes);
        let config =
            Config::parse(raw).map_err(|source| OpenError::Config { path: origin.join("config.json"), source })?;
        let mut files = Self {
            config,
            small,
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            fingerprint: Fingerprint([0; 16]),
            origin: origin.to_owned(),
        };
        let wanted = files.read_shards(get)?;
        if let Some(missing) = wanted.iter().find(|name| !files.tensors.contains_key(*name)) {
            let reason = format!("lists tensor {missing}, which its shard does not have; fetch the shard again");
            return Err(OpenError::Index { path: origin.join(INDEX), reason });
        }
        files.fingerprint = files.compute_fingerprint();
        Ok(files)
    }

    /// Maps the shards and reads their headers. Returns the tensors that the index promises.
    fn read_shards(
        &mut self,
        get: &mut dyn FnMut(&str) -> Result<Option<Bytes>, OpenError>,
    ) -> Result<BTreeSet<String>, OpenError> {
        let mut wanted = BTreeSet::new();
        let mut names = BTreeSet::from([SINGLE.to_owned()]);
        if let Some(index) = get(INDEX)? {
            let map = shard_names(index.as_slice())
                .map_err(|reason| OpenError::Index { path: self.origin.join(INDEX), reason })?;
            names = map.values().cloned().collect();
            wanted = map.into_keys().collect();
        }
        for name in names {
            let path = self.origin.join(&name);
            let Some(bytes) = get(&name)? else {
                let advice = match wanted.is_empty() {
                    true => format!("nor is there a {INDEX}; the weights have to be in safetensors files"),
                    false => "fetch this shard of the checkpoint again".to_owned(),
                };
                return Err(OpenError::Missing { path, advice });
            };
            let header =
                safetensors::read_header(bytes.as_slice()).map_err(|source| OpenError::Shard { path, source })?;
            let shard = self.shards.len();
            self.tensors.extend(header.into_iter().map(|(name, entry)| (name, (shard, entry))));
            self.shards.push(bytes);
        }
        Ok(wanted)
    }

    fn compute_fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new_derive_key("hadal v1 model fingerprint");
        if let Some(config) = self.small_file("config.json") {
            hasher.update(&config.blake3);
        }
        for tensor in self.tensors() {
            let sizes: Vec<u8> = tensor.shape.iter().flat_map(|&n| (n as u64).to_le_bytes()).collect();
            for part in [tensor.name.as_bytes(), tensor.dtype.name().as_bytes(), &sizes] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
            }
            let bytes = tensor.bytes;
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(&bytes[..bytes.len().min(SAMPLE_BYTES)]);
            hasher.update(&bytes[bytes.len().saturating_sub(SAMPLE_BYTES)..]);
        }
        let mut out = [0; 16];
        out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Fingerprint(out)
    }

    /// The parsed configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A hash of the configuration and of every tensor's name, type, shape, size and both ends.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Configuration, tokenizer and templates: what a router needs of a model.
    pub fn small_files(&self) -> &[SmallFile] {
        &self.small
    }

    /// One of them by name.
    pub fn small_file(&self, name: &str) -> Option<&SmallFile> {
        self.small.iter().find(|f| f.name == name)
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.tensors.get_key_value(name).map(|(name, entry)| self.view(name, entry))
    }

    /// Every tensor, by name.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        self.tensors.iter().map(|(name, entry)| self.view(name, entry))
    }

    fn view<'a>(&'a self, name: &'a str, (shard, entry): &'a (usize, safetensors::Entry)) -> Tensor<'a> {
        // The header was checked against the file's size when it was read.
        let bytes = self.shards[*shard].as_slice().get(entry.begin..entry.end).unwrap_or_default();
        Tensor { name, dtype: entry.dtype, shape: &entry.shape, bytes }
    }

    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.values().map(|(_, e)| (e.end - e.begin) as u64).sum()
    }

    /// Where it was opened.
    pub fn origin(&self) -> &Path {
        &self.origin
    }
}

/// A safetensors file of its own, as golden data are.
pub(crate) struct TensorFile {
    bytes: Bytes,
    entries: BTreeMap<String, safetensors::Entry>,
}

impl TensorFile {
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let bytes = Bytes::map(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        let entries = safetensors::read_header(bytes.as_slice())
            .map_err(|source| OpenError::Shard { path: path.to_owned(), source })?;
        Ok(Self { bytes, entries })
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let (name, entry) = self.entries.get_key_value(name)?;
        let bytes = self.bytes.as_slice().get(entry.begin..entry.end)?;
        Some(Tensor { name, dtype: entry.dtype, shape: &entry.shape, bytes })
    }

    /// Where a tensor begins in the file, for tests that damage it.
    #[cfg(test)]
    pub(crate) fn offset(&self, name: &str) -> Option<usize> {
        self.entries.get(name).map(|e| e.begin)
    }
}

fn small_files(
    origin: &Path,
    get: &mut dyn FnMut(&str) -> Result<Option<Bytes>, OpenError>,
) -> Result<Vec<SmallFile>, OpenError> {
    let mut small = Vec::new();
    for (name, needed) in SMALL_FILES {
        let path = origin.join(name);
        match (get(name)?, needed) {
            (Some(bytes), _) => {
                let bytes = bytes.as_slice();
                if bytes.len() as u64 > SMALL_BYTES_MAX {
                    return Err(OpenError::TooLarge { path, bytes: bytes.len() as u64 });
                }
                small.push(SmallFile { name, bytes: bytes.into(), blake3: *blake3::hash(bytes).as_bytes() });
            }
            (None, Some(advice)) => return Err(OpenError::Missing { path, advice: advice.to_owned() }),
            (None, None) => {}
        }
    }
    Ok(small)
}

/// The shard of each tensor. Names of shards are file names: no path may lead out of the folder.
fn shard_names(index: &[u8]) -> Result<BTreeMap<String, String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).map_err(|e| format!("no index of shards: {e}"))?;
    if index.weight_map.is_empty() {
        return Err("lists no tensor".to_owned());
    }
    match index.weight_map.values().find(|n| n.contains(['/', '\\']) || n.starts_with('.') || n.is_empty()) {
        Some(name) => Err(format!("names the shard {name:?}, which is no plain file name")),
        None => Ok(index.weight_map),
    }
}

#[cfg(test)]
mod tests;
