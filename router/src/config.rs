//! The router's configuration: one documented struct, from flags or a file that writes them down.

use std::collections::BTreeMap;
use std::time::Duration;

use hadal_shell::units::{bytes, duration};

/// How a router is run.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Where the coordinator listens, or each of several, of which one leads; the router waits for it as long as it
    /// takes
    #[arg(long, value_name = "HOST:PORT[,...]", default_value = "127.0.0.1:8002")]
    pub coordinator: String,

    /// Where OpenAI's HTTP API is served, and /health, /ready and /metrics beside it
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8000")]
    pub http: String,

    /// Where gRPC hadal.v1 is served
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8001")]
    pub grpc: String,

    /// Another name for a served model: ALIAS=MODEL, or ALIAS alone when the fleet serves one model; may be repeated.
    /// A model that has an alias is listed under its aliases only
    #[arg(long = "served-model-name", value_name = "ALIAS[=MODEL]")]
    pub served_model_name: Vec<String>,

    /// Largest request, on HTTP and gRPC
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = bytes)]
    pub request_bytes_max: u64,

    /// Requests in flight at once; more are refused as overloaded
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub requests_max: usize,

    /// Requests that may wait for a first worker or for the coordinator; more are refused as overloaded
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub waiting_max: usize,

    /// Longest wait of a request for a first worker or for the coordinator
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub wait_max: Duration,

    /// Deadline of requests that bring none
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub request_timeout: Duration,

    /// Events that an answer may be ahead of its client; then its worker's stream waits
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub output_buffer: usize,

    /// Longest wait for a worker to accept or refuse a request, or for a model's files; then the worker counts as lost
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub worker_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            coordinator: "127.0.0.1:8002".into(),
            http: "127.0.0.1:8000".into(),
            grpc: "127.0.0.1:8001".into(),
            served_model_name: Vec::new(),
            request_bytes_max: 8 << 20,
            requests_max: 4096,
            waiting_max: 256,
            wait_max: Duration::from_secs(30),
            request_timeout: Duration::from_secs(3600),
            output_buffer: 32,
            worker_timeout: Duration::from_secs(10),
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{key} {problem}")]
pub struct ConfigError {
    /// The setting, as its flag is spelled.
    pub key: &'static str,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// Times and bounds of a dispatch, out of a [`Config`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) requests: usize,
    pub(crate) waiting: usize,
    pub(crate) wait: Duration,
    pub(crate) request: Duration,
    pub(crate) worker: Duration,
    pub(crate) output_buffer: usize,
}

impl Config {
    pub(crate) fn limits(&self) -> Result<Limits, ConfigError> {
        let none = [
            ("requests-max", self.requests_max == 0),
            ("request-bytes-max", self.request_bytes_max == 0),
            ("wait-max", self.wait_max.is_zero()),
            ("request-timeout", self.request_timeout.is_zero()),
            ("output-buffer", self.output_buffer == 0),
            ("worker-timeout", self.worker_timeout.is_zero()),
        ];
        if let Some((key, _)) = none.into_iter().find(|&(_, none)| none) {
            return Err(ConfigError { key, problem: "must be more than 0".into() });
        }
        Ok(Limits {
            requests: self.requests_max,
            waiting: self.waiting_max,
            wait: self.wait_max,
            request: self.request_timeout,
            worker: self.worker_timeout,
            output_buffer: self.output_buffer,
        })
    }
}

/// Names that clients use for models.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Aliases {
    named: BTreeMap<String, String>,
    only: Vec<String>,
}

impl Aliases {
    /// Reads `ALIAS=MODEL` and `ALIAS`.
    pub(crate) fn parse(names: &[String]) -> Result<Self, ConfigError> {
        let error = |problem: String| ConfigError { key: "served-model-name", problem };
        let mut aliases = Self::default();
        for name in names {
            let (alias, model) = name.split_once('=').map_or((name.as_str(), None), |(a, m)| (a, Some(m)));
            if alias.is_empty() || model.is_some_and(str::is_empty) {
                return Err(error(format!("{name:?} is neither ALIAS=MODEL nor ALIAS")));
            }
            if aliases.named.contains_key(alias) || aliases.only.iter().any(|a| a == alias) {
                return Err(error(format!("{alias:?} is given twice")));
            }
            match model {
                Some(model) => _ = aliases.named.insert(alias.to_owned(), model.to_owned()),
                None => aliases.only.push(alias.to_owned()),
            }
        }
        Ok(aliases)
    }

    /// The fleet's name of what a client names, among the models served now.
    pub(crate) fn resolve<'a>(&'a self, name: &'a str, mut served: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        if let Some(model) = self.named.get(name) {
            return Some(model);
        }
        if !self.only.iter().any(|alias| alias == name) {
            return served.any(|model| model == name).then_some(name);
        }
        let model = served.next()?;
        served.next().is_none().then_some(model)
    }

    /// The names under which a model of the fleet is listed.
    pub(crate) fn names(&self, model: &str, alone: bool) -> Vec<String> {
        let mut names: Vec<String> = if alone { self.only.clone() } else { Vec::new() };
        names.extend(self.named.iter().filter(|(_, m)| *m == model).map(|(alias, _)| alias.clone()));
        if names.is_empty() {
            names.push(model.to_owned());
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn the_flags_defaults_are_the_structs() {
        let parsed = Flags::parse_from(["router"]).config;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn aliases_name_models_and_a_bare_one_the_only_model() {
        let aliases = Aliases::parse(&["gpt=deep".into(), "it".into()]).unwrap();
        let served = ["deep"];
        assert_eq!(aliases.resolve("gpt", served.into_iter()), Some("deep"));
        assert_eq!(aliases.resolve("it", served.into_iter()), Some("deep"));
        assert_eq!(aliases.resolve("it", ["a", "b"].into_iter()), None);
        assert_eq!(aliases.resolve("deep", served.into_iter()), Some("deep"));
        assert_eq!(aliases.resolve("other", served.into_iter()), None);
        assert_eq!(aliases.names("deep", true), ["it", "gpt"]);
        assert_eq!(aliases.names("b", false), ["b"]);
    }

    #[test]
    fn wrong_settings_are_refused_by_name() {
        for bad in ["=x", "a=", ""] {
            let error = Aliases::parse(&[bad.into()]).unwrap_err();
            assert_eq!(error.key, "served-model-name");
        }
        assert!(Aliases::parse(&["a".into(), "a=b".into()]).is_err());
        let config = Config { output_buffer: 0, ..Config::default() };
        assert_eq!(config.limits().unwrap_err().key, "output-buffer");
        Config::default().limits().unwrap();
    }
}
