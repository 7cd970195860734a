//! The answers to the prompts of one request, as one stream. Choice `c` of prompt `p` is choice `p * n + c`.

use std::pin::Pin;

use futures_util::stream::{SelectAll, select_all};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use hadal_router_core::{Failure, Usage};

use crate::service::{Backend, Output, Submission};

type Answer = Pin<Box<dyn Stream<Item = Result<Output, Failure>> + Send>>;

/// Events of all answers, in each one's order; `Usage` only once, at the end, for all of them.
pub(super) struct Streams {
    answers: SelectAll<Answer>,
    running: usize,
    used: Usage,
}

impl Streams {
    /// Submits all at once: one after the other, an early one could wait for its reader and a late one for memory that
    /// the early one holds.
    pub(super) fn submit<B: Backend>(backend: &B, submissions: Vec<Submission>) -> Self {
        let running = submissions.len();
        let answers = submissions.into_iter().enumerate().map(|(prompt, submission)| {
            let (backend, first_choice) = (backend.clone(), prompt as u32 * submission.n);
            let begun = stream::once(async move { backend.submit(submission).await });
            let answer = begun.try_flatten().map_ok(move |output| renumber(output, first_choice));
            Box::pin(answer) as Answer
        });
        Self { answers: select_all(answers), running, used: Usage::default() }
    }

    /// The next event; none after the end or a failure.
    pub(super) async fn next(&mut self) -> Option<Result<Output, Failure>> {
        while self.running > 0 {
            match self.answers.next().await {
                Some(Ok(Output::Usage { usage, timings })) => {
                    self.running -= 1;
                    self.used.prompt_tokens += usage.prompt_tokens;
                    self.used.completion_tokens += usage.completion_tokens;
                    self.used.cached_prompt_tokens += usage.cached_prompt_tokens;
                    if self.running == 0 {
                        return Some(Ok(Output::Usage { usage: self.used, timings }));
                    }
                }
                Some(Ok(output)) => return Some(Ok(output)),
                Some(Err(failure)) => return self.end(failure),
                None => return self.end(Failure::internal("the answer broke off before its end")),
            }
        }
        None
    }

    /// Ends with a failure; the other answers are cancelled.
    fn end(&mut self, failure: Failure) -> Option<Result<Output, Failure>> {
        self.running = 0;
        self.answers = SelectAll::new();
        Some(Err(failure))
    }
}

fn renumber(output: Output, first_choice: u32) -> Output {
    match output {
        Output::Delta(mut delta) => {
            delta.choice += first_choice;
            Output::Delta(delta)
        }
        Output::Finished { choice, reason, stop } => Output::Finished { choice: choice + first_choice, reason, stop },
        other => other,
    }
}
