//! The OpenAI API: requests, responses.
