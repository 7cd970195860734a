//! A backend that serves the tiny golden model's text and answers by a script.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use hadal_router_core::{Failure, FailureKind, FinishReason, ModelText, TextDelta, Usage};
use hadal_types::Fingerprint;
use tokio::sync::{mpsc, watch};

use super::{Backend, ModelInfo, Output, OutputStream, Readiness, ServedModel, Submission, Timings};

/// What a submission is answered with.
#[derive(Clone)]
pub(crate) enum Script {
    /// These events, then the end.
    Events(Vec<Result<Output, Failure>>),
    /// A refusal before anything else.
    Refuse(Failure),
    /// Deltas without end.
    Endless,
    /// Nothing after the start.
    Silent,
}

#[derive(Clone)]
pub(crate) struct Double {
    script: Script,
    model: Arc<ServedModel>,
    pub(crate) submissions: Arc<Mutex<Vec<Submission>>>,
    pub(crate) refused: Arc<Mutex<Vec<FailureKind>>>,
    /// Events that were sent.
    pub(crate) sent: Arc<AtomicUsize>,
    /// Answers that were dropped before their end.
    pub(crate) cancelled: watch::Sender<usize>,
}

/// Events that an answer may be ahead of its reader.
pub(crate) const BUFFER: usize = 4;

impl Double {
    pub(crate) fn new(script: Script) -> Self {
        Self {
            script,
            model: served(),
            submissions: Arc::default(),
            refused: Arc::default(),
            sent: Arc::default(),
            cancelled: watch::Sender::new(0),
        }
    }

    pub(crate) fn submission(&self) -> Submission {
        self.submissions.lock().unwrap().first().unwrap().clone()
    }
}

fn served() -> Arc<ServedModel> {
    static MODEL: OnceLock<Arc<ServedModel>> = OnceLock::new();
    let load = || {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/deepseek_v32");
        let read = |name: &str| Some((name.to_owned(), std::fs::read(folder.join(name)).ok()?));
        let files: BTreeMap<_, _> = ModelText::FILES.into_iter().filter_map(read).collect();
        let info = ModelInfo {
            name: "org/tiny".into(),
            architecture: "deepseek_v32".into(),
            fingerprint: Fingerprint([1; 16]),
            context_tokens: 64,
            workers: 1,
            created: 7,
        };
        let text = Arc::new(ModelText::from_files(&files).unwrap());
        Arc::new(ServedModel { info, fleet_name: "tiny".into(), text, vocab_size: 512 })
    };
    MODEL.get_or_init(load).clone()
}

impl Backend for Double {
    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }

    fn models(&self) -> Vec<ModelInfo> {
        vec![self.model.info.clone()]
    }

    async fn model(&self, name: &str, _deadline: Option<Instant>) -> Result<Arc<ServedModel>, Failure> {
        if name == self.model.info.name {
            return Ok(self.model.clone());
        }
        Err(Failure::new(FailureKind::UnknownModel, format!("no model {name:?}")).with_param("model"))
    }

    async fn submit(&self, submission: Submission) -> Result<OutputStream, Failure> {
        let request_id = submission.context.request_id.clone();
        let prompt_tokens = submission.prompt.len() as u32;
        self.submissions.lock().unwrap().push(submission);
        let started = Output::Started { request_id, prompt_tokens };
        let events: Box<dyn Iterator<Item = Result<Output, Failure>> + Send> = match self.script.clone() {
            Script::Refuse(failure) => return Err(failure),
            Script::Events(events) => Box::new(events.into_iter()),
            Script::Silent => Box::new(std::iter::empty()),
            Script::Endless => Box::new((0..).map(|i| Ok(delta(0, "word ", i)))),
        };
        let silent = matches!(self.script, Script::Silent);
        let (sender, receiver) = mpsc::channel(BUFFER);
        let this = self.clone();
        tokio::spawn(async move {
            for event in std::iter::once(Ok(started)).chain(events) {
                if sender.send(event).await.is_err() {
                    this.cancelled.send_modify(|n| *n += 1);
                    return;
                }
                this.sent.fetch_add(1, Ordering::SeqCst);
            }
            if silent {
                sender.closed().await;
            }
        });
        Ok(OutputStream::new(receiver))
    }

    fn refused(&self, _api: crate::Api, failure: &Failure) {
        self.refused.lock().unwrap().push(failure.kind);
    }
}

pub(crate) fn delta(choice: u32, text: &str, token: u32) -> Output {
    Output::Delta(TextDelta { choice, text: text.into(), token_ids: vec![token], logprobs: vec![], first_token: 0 })
}

pub(crate) fn finished(choice: u32, reason: FinishReason) -> Output {
    Output::Finished { choice, reason, stop: None }
}

pub(crate) fn usage(prompt_tokens: u32, completion_tokens: u32, cached_prompt_tokens: u32) -> Output {
    let usage = Usage { prompt_tokens, completion_tokens, cached_prompt_tokens };
    Output::Usage { usage, timings: Timings::default() }
}
