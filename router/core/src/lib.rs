//! The router's decisions, without IO: text to tokens and back, stop strings, one choice of an answer, whether
//! and where it is tried again, and the OpenAI API's requests, responses and errors.

pub mod attempts;
pub mod backoff;
pub mod choice;
pub mod detokenizer;
pub mod failure;
pub mod generation;
pub mod openai;
pub mod sampling;
pub mod stop;
pub mod template;
pub mod text;
pub mod vocabulary;

pub use attempts::{Attempts, Blame, Placed, Trouble};
pub use backoff::Backoff;
pub use choice::{Choice, ChoiceEvent, FinishReason, Gap, Logprob, RawLogprobs, TextDelta, TokenLogprobs, Usage};
pub use detokenizer::Detokenizer;
pub use failure::{Failure, FailureKind};
pub use generation::GenerationDefaults;
pub use sampling::{Resolved, SamplingOptions};
pub use stop::StopMatcher;
pub use template::{ChatMessage, ChatOptions};
pub use text::{ModelText, ModelTextError};
pub use vocabulary::Vocabulary;
