//! Copies of golden checkpoints that a test may damage.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::golden;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A copy in a folder of its own, removed with it.
pub struct Checkpoint {
    _folder: TempDir,
    path: PathBuf,
}

impl Checkpoint {
    /// Copies a folder of `tests/golden`, golden data included.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn copy(name: &str) -> Result<Self> {
        let folder = TempDir::new()?;
        // The folder's name is that of the model.
        let path = folder.path().join(name);
        copy_folder(&golden(name), &path)?;
        Ok(Self { _folder: folder, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        std::fs::remove_file(self.path.join(name)).with_context(|| format!("remove {name}"))
    }

    /// Cuts bytes off a file's end.
    ///
    /// # Errors
    /// When it is not there.
    pub fn truncate(&self, name: &str, bytes: u64) -> Result<()> {
        let file = std::fs::OpenOptions::new().write(true).open(self.path.join(name))?;
        Ok(file.set_len(file.metadata()?.len().saturating_sub(bytes))?)
    }

    /// Replaces a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(std::fs::write(self.path.join(name), text)?)
    }

    /// Changes a JSON file.
    ///
    /// # Errors
    /// When it is none.
    pub fn edit(&self, name: &str, edit: impl FnOnce(&mut Value)) -> Result<()> {
        let path = self.path.join(name);
        let mut value = serde_json::from_slice(&std::fs::read(&path)?)?;
        edit(&mut value);
        Ok(std::fs::write(path, serde_json::to_vec(&value)?)?)
    }

    /// Changes the header of the weights, which stay as they are.
    ///
    /// # Errors
    /// When the file is no safetensors file.
    pub fn edit_header(&self, edit: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
        let path = self.path.join(WEIGHTS);
        let bytes = std::fs::read(&path)?;
        let (length, rest) = bytes.split_first_chunk().context("no header")?;
        let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*length))?);
        let mut header = serde_json::from_slice(header)?;
        edit(&mut header);
        let header = serde_json::to_vec(&header)?;
        let length = (header.len() as u64).to_le_bytes();
        Ok(std::fs::write(path, [&length[..], &header, data].concat())?)
    }

    /// Makes it one of two shards, of which only the first is there; the second has the named tensor.
    ///
    /// # Errors
    /// When the file is no safetensors file.
    pub fn shard_without_second(&self, tensor: &str) -> Result<()> {
        let mut names = Vec::new();
        self.edit_header(|header| {
            names = header.keys().filter(|name| *name != "__metadata__").cloned().collect();
            header.remove(tensor);
        })?;
        let shard = |name: &String| if name == tensor { "model-00002-of-00002" } else { "model-00001-of-00002" };
        let map: Map<_, _> = names.iter().map(|n| (n.clone(), json!(format!("{}.safetensors", shard(n))))).collect();
        std::fs::rename(self.path.join(WEIGHTS), self.path.join("model-00001-of-00002.safetensors"))?;
        self.write(INDEX, &json!({"metadata": {}, "weight_map": map}).to_string())
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &target)?,
            false => drop(std::fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}
