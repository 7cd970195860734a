//! One file of a model from one of its workers, checked by its hash.

use std::time::Duration;

use hadal_proto::cluster as w;
use hadal_shell::grpc::explain;
use tokio::time::timeout;
use tracing::debug;

use crate::fleet::{FileRef, ModelView, WorkerView};
use crate::workers::Workers;

/// Bytes of one file at most: the largest published tokenizers have 35 MB.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Workers asked for one file before giving up for now.
const SOURCES_MAX: usize = 3;

/// A file that could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{file} has {bytes} bytes; at most {FILE_BYTES_MAX} are read")]
    TooLarge { file: String, bytes: u64 },
    #[error("no worker could send {file}: {problem}")]
    Failed { file: String, problem: String },
}

/// Fetches files.
pub(crate) struct Fetcher {
    pub(crate) workers: Workers,
    /// For one file from one worker.
    pub(crate) patience: Duration,
}

impl Fetcher {
    /// The file, from the first worker that sends what its hash promises.
    pub(crate) async fn fetch(&self, model: &ModelView, file: &FileRef) -> Result<Vec<u8>, FetchError> {
        if file.bytes > FILE_BYTES_MAX {
            return Err(FetchError::TooLarge { file: file.name.clone(), bytes: file.bytes });
        }
        let mut problem = "none has it".to_owned();
        for worker in model.workers.iter().filter(|worker| worker.has_files).take(SOURCES_MAX) {
            let read = timeout(self.patience, self.read(model, worker, file)).await;
            match read.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.patience))) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => {
                    debug!(worker = %worker.id, file = %file.name, %error, "file not had");
                    problem = format!("{}: {error}", worker.id);
                }
            }
        }
        Err(FetchError::Failed { file: file.name.clone(), problem })
    }

    async fn read(&self, model: &ModelView, worker: &WorkerView, file: &FileRef) -> Result<Vec<u8>, String> {
        let mut client = self.workers.client(&worker.address, worker.incarnation).map_err(|error| error.to_string())?;
        let request = w::ReadFileRequest { fingerprint: model.fingerprint.0.to_vec(), name: file.name.clone() };
        let mut chunks = client.read_file(request).await.map_err(|status| explain(&status))?.into_inner();
        let mut bytes = Vec::with_capacity(file.bytes as usize);
        while let Some(chunk) = chunks.message().await.map_err(|status| explain(&status))? {
            if (bytes.len() + chunk.data.len()) as u64 > file.bytes {
                return Err(format!("it is longer than the {} bytes announced", file.bytes));
            }
            bytes.extend_from_slice(&chunk.data);
        }
        if *blake3::hash(&bytes).as_bytes() != file.blake3 {
            return Err(format!("{} bytes came whose hash is not the one announced", bytes.len()));
        }
        Ok(bytes)
    }
}
