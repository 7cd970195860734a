//! The router: clients' requests in, tokens out. It holds no weights; it tokenises, has requests placed by the
//! coordinator, streams from workers, and moves a stream to another worker when one is lost.

mod config;
mod dispatch;
mod fleet;
mod grpc;
mod http;
mod metrics;
mod models;
mod service;
mod start;
mod tokens;
mod workers;

pub use config::{Config, ConfigError};
pub use service::{
    Api, Backend, ModelInfo, Output, OutputStream, Readiness, RequestMeta, ServedModel, Submission, Timings, salt,
};
pub use start::{Handle, Service, StartError, start};
