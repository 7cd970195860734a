//! Reading golden data. Prompts and tensors that are not there are left out: a folder may be cut to the short ones.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::files::{OpenError, TensorFile};

/// Golden data that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// No golden data.
    #[error(
        "{path}: no golden data beside this checkpoint; hadal check needs golden/golden.json and \
         golden/golden.safetensors (with --quality, --text FILE will do)"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Reading failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The list of prompts.
    #[error("{path}: no list of golden prompts: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The tensors.
    #[error(transparent)]
    Tensors(#[from] OpenError),
    /// A tensor of another shape or type.
    #[error("golden tensor {tensor} has {found} numbers, but the prompt needs {expected}")]
    Size {
        /// The tensor.
        tensor: String,
        /// Numbers needed.
        expected: usize,
        /// Numbers found; 0 for a type that cannot be read.
        found: usize,
    },
}

/// A prompt of the list.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Prompt {
    pub(super) name: String,
    pub(super) input_ids: Vec<u32>,
    pub(super) greedy_ids: Vec<u32>,
}

/// Factors that the golden data name.
#[derive(Clone, Debug, Default, Deserialize)]
struct List {
    prompts: Vec<Prompt>,
    rope_cos_sin_factor: Option<f64>,
    attention_scale: Option<f64>,
}

/// Golden data of one checkpoint.
pub(super) struct Golden {
    pub(super) prompts: Vec<Prompt>,
    pub(super) cos_sin_factor: Option<f64>,
    pub(super) attention_scale: Option<f64>,
    tensors: TensorFile,
}

impl Golden {
    pub(super) fn open(dir: &Path) -> Result<Self, GoldenError> {
        let path = dir.join("golden").join("golden.json");
        let json = match std::fs::read(&path) {
            Ok(json) => json,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(GoldenError::Missing { path }),
            Err(source) => return Err(GoldenError::Io { path, source }),
        };
        let list: List = serde_json::from_slice(&json)
            .map_err(|e| GoldenError::Json { path: path.clone(), reason: e.to_string() })?;
        if list.prompts.is_empty() || list.prompts.iter().any(|p| p.input_ids.is_empty()) {
            return Err(GoldenError::Json { path, reason: "no prompts, or an empty one".to_owned() });
        }
        let tensors = dir.join("golden").join("golden.safetensors");
        if !tensors.exists() {
            return Err(GoldenError::Missing { path: tensors });
        }
        Ok(Self {
            prompts: list.prompts,
            cos_sin_factor: list.rope_cos_sin_factor,
            attention_scale: list.attention_scale,
            tensors: TensorFile::open(&tensors)?,
        })
    }

    /// A tensor of so many f32, if it is there.
    pub(super) fn floats(&self, name: &str, expected: usize) -> Result<Option<Vec<f32>>, GoldenError> {
        let Some(tensor) = self.tensors.tensor(name) else { return Ok(None) };
        sized(name, expected, tensor.to_f32()).map(Some)
    }

    /// A tensor of `rows` rows of integers, if it is there.
    pub(super) fn integers(&self, name: &str, rows: usize) -> Result<Option<Vec<Vec<i64>>>, GoldenError> {
        let Some(tensor) = self.tensors.tensor(name) else { return Ok(None) };
        let columns = tensor.shape.get(1).copied().unwrap_or(1);
        let all = sized(name, rows * columns, tensor.to_i64())?;
        Ok(Some(all.chunks(columns.max(1)).map(<[i64]>::to_vec).collect()))
    }
}

fn sized<T>(name: &str, expected: usize, values: Option<Vec<T>>) -> Result<Vec<T>, GoldenError> {
    let values = values.unwrap_or_default();
    if values.len() == expected {
        return Ok(values);
    }
    Err(GoldenError::Size { tensor: name.to_owned(), expected, found: values.len() })
}
