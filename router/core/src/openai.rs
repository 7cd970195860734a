//! The OpenAI API without HTTP: requests from the bytes of a body, and the JSON of answers, whole or in pieces.

mod answer;
mod chat;
mod common;
mod completion;
mod fields;
mod shape;
mod tokenize;

pub use answer::{Answer, Chunks, Endpoint, Head};
pub use chat::ChatRequest;
pub use common::{Common, Prompt};
pub use completion::CompletionRequest;
pub use tokenize::{TokenizeInput, TokenizeRequest};

#[cfg(test)]
mod tests;
