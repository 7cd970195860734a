//! OpenAI's API as a client of any server uses it: what is served, what it understands, how it counts, and answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hadal_shell::exit::Exit;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Uri};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::connection::{Answered, Server};
use super::prompt::{self, Rule, Run};
use super::sample::{Answer, Failure};
use super::sse::{self, Events};
use crate::fault::{Fault, OrExit};

/// How long a server may take to say what it serves, and to answer a probe.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of an error, of a list of models, or of an answer that is no stream.
const BODY_BYTES_MAX: usize = 16 << 20;

/// How long a connection may take to come free after an answer.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Words of the two prompts that show how a server counts.
const PROBES: [usize; 2] = [8, 264];

/// Flags of this door.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct HttpOptions {
    /// Load this server over HTTP, by OpenAI's API: http://HOST:PORT, with or without /v1, or https
    #[arg(long, value_name = "URL", conflicts_with = "grpc")]
    pub(super) http: Option<String>,
    /// File with the server's API key
    #[arg(long, value_name = "FILE", requires = "http")]
    api_key_file: Option<PathBuf>,
    /// Authorities that a server's certificate may be signed by, PEM; the system's when left out
    #[arg(long, value_name = "FILE", requires = "http")]
    tls_ca: Option<PathBuf>,
}

/// What a request says beside prompt and length. Some servers refuse what others need.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Fields {
    /// Answers as long as wanted.
    ignore_eos: bool,
    /// Counts at the end of a stream.
    usage: bool,
    /// The newer name of `max_tokens`.
    max_completion_tokens: bool,
}

/// From what is wanted to the least.
const FIELDS: [Fields; 4] = [
    Fields { ignore_eos: true, usage: true, max_completion_tokens: false },
    Fields { ignore_eos: false, usage: true, max_completion_tokens: false },
    Fields { ignore_eos: false, usage: true, max_completion_tokens: true },
    Fields { ignore_eos: false, usage: false, max_completion_tokens: false },
];

/// A server. Cheap to clone.
#[derive(Clone)]
pub(super) struct Http {
    server: Server,
    authority: Arc<str>,
    /// Of the URL, with `/v1`.
    base: Arc<str>,
    key: Option<Arc<str>>,
    model: Arc<str>,
    fields: Fields,
    rule: Rule,
}

/// What was learnt that a reader of the figures should know.
pub(super) type Notes = Vec<&'static str>;

impl Http {
    /// Asks what is served, and learns how it counts.
    ///
    /// # Errors
    /// When nobody answers, the model is not served, or it answers no chat.
    pub(super) async fn open(
        options: &HttpOptions,
        url: &str,
        model: Option<&str>,
        run: Run,
    ) -> Result<(Self, Notes), Fault> {
        let mut http = Self::at(options, url)?;
        let served = timeout(ANSWER_TIMEOUT, http.models()).await;
        let served = served.unwrap_or_else(|_| Err(Failure::new("timeout", "no answer in time")));
        http.model = pick(served, model, url)?.into();
        let notes = http.learn(run).await?;
        Ok((http, notes))
    }

    fn at(options: &HttpOptions, url: &str) -> Result<Self, Fault> {
        let wrong =
            |problem: String| Fault::say(Exit::Usage, format!("--http {url}: {problem}; write http://HOST:PORT"));
        let uri: Uri = url.parse().map_err(|error| wrong(format!("it is no URL ({error})")))?;
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => Some(Arc::new(trusting(options.tls_ca.as_deref())?)),
            _ => return Err(wrong("it is neither http nor https".to_owned())),
        };
        let server = Server::new(&uri, tls).map_err(wrong)?;
        let path = uri.path().trim_end_matches('/');
        let base = if path.ends_with("/v1") { path.to_owned() } else { format!("{path}/v1") };
        let key = options.api_key_file.as_deref().map(key).transpose()?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let (model, rule) = ("".into(), Rule::GUESS);
        Ok(Self { server, authority: authority.into(), base: base.into(), key, model, fields: FIELDS[0], rule })
    }

    pub(super) fn model(&self) -> &str {
        &self.model
    }

    pub(super) fn rule(&self) -> Rule {
        self.rule
    }

    async fn send(&self, method: Method, path: String, body: String) -> Result<Answered, Failure> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &*self.authority);
        request = request.header(ACCEPT, "text/event-stream, application/json");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.body(body).map_err(|error| Failure::new("request", error.to_string()))?;
        let mut answered = self.server.send(request).await?;
        let status = answered.response.status();
        if status.is_success() {
            return Ok(answered);
        }
        let body = answered.text(BODY_BYTES_MAX).await?;
        self.server.keep(answered);
        Err(sse::refused(status.as_u16(), &body))
    }

    async fn json(&self, method: Method, path: String, body: String) -> Result<Value, Failure> {
        let mut answered = self.send(method, path, body).await?;
        let text = answered.text(BODY_BYTES_MAX).await?;
        serde_json::from_str(&text).map_err(|error| Failure::new("malformed", format!("no JSON: {error}")))
    }

    /// Names of what is served.
    async fn models(&self) -> Result<Vec<String>, Failure> {
        let list = self.json(Method::GET, format!("{}/models", self.base), String::new()).await?;
        let models = list["data"].as_array().ok_or_else(|| Failure::new("malformed", "no list of models"))?;
        Ok(models.iter().filter_map(|model| model["id"].as_str().map(str::to_owned)).collect())
    }

    fn body(&self, prompt: &str, output_tokens: u32) -> String {
        let mut body = json!({
            "model": *self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "stream": true,
        });
        let limit = if self.fields.max_completion_tokens { "max_completion_tokens" } else { "max_tokens" };
        body[limit] = output_tokens.into();
        if self.fields.ignore_eos {
            body["ignore_eos"] = true.into();
        }
        if self.fields.usage {
            body["stream_options"] = json!({"include_usage": true});
        }
        body.to_string()
    }

    /// Has a conversation of one message answered.
    ///
    /// # Errors
    /// When it is refused, or the stream breaks.
    pub(super) async fn ask(&self, prompt: String, output_tokens: u32) -> Result<Answer, Failure> {
        let body = self.body(&prompt, output_tokens);
        drop(prompt);
        let mut answered = self.send(Method::POST, format!("{}/chat/completions", self.base), body).await?;
        let mut answer = Answer::default();
        if !streams(&answered) {
            // Without pieces there is one time only, the end's.
            let whole = sse::chunk(&answered.text(BODY_BYTES_MAX).await?)?;
            answer.on_tokens(Instant::now(), u32::from(whole.text));
            answer.on_usage(whole.usage);
        } else if !self.stream(&mut answered, &mut answer).await? {
            return Err(Failure::new("broken stream", "the stream ends before the answer does"));
        }
        answer.on_end(Instant::now());
        // After its last event a server may leave the body open.
        if matches!(timeout(END_TIMEOUT, answered.bytes()).await, Ok(Ok(None))) {
            self.server.keep(answered);
        }
        Ok(answer)
    }

    /// Reads a stream; whether it came to its end.
    async fn stream(&self, answered: &mut Answered, answer: &mut Answer) -> Result<bool, Failure> {
        let (mut events, mut finished, mut done) = (Events::default(), false, false);
        while !done {
            let bytes = answered.bytes().await?;
            let now = Instant::now();
            let mut on = |data: &str| {
                let chunk = sse::chunk(data)?;
                answer.on_tokens(now, u32::from(chunk.text));
                answer.on_usage(chunk.usage);
                finished |= chunk.finished || chunk.done;
                done |= chunk.done;
                Ok(())
            };
            match bytes {
                Some(bytes) => events.push(&bytes, &mut on)?,
                None => {
                    events.end(&mut on)?;
                    break;
                }
            }
        }
        Ok(finished)
    }

    /// Learns which fields the server takes, and how it counts.
    async fn learn(&mut self, run: Run) -> Result<Notes, Fault> {
        let short = self.accepted(&prompt::words(&run.probe(0, PROBES[0]))).await?;
        let long =
            self.probed(&prompt::words(&run.probe(1, PROBES[1]))).await.map_err(|failure| self.fault(&failure))?;
        let mut notes = Notes::new();
        if !self.fields.ignore_eos {
            notes.push("the server does not take ignore_eos: answers may be shorter than wanted");
        }
        let counts = match (short.usage.prompt, long.usage.prompt) {
            (Some(short), Some(long)) => Some([short, long]),
            _ => self.tokenized(run).await,
        };
        match counts.and_then(|[short, long]| Rule::learn((PROBES[0], short), (PROBES[1], long))) {
            Some(rule) => self.rule = rule,
            None => notes.push("the server does not count prompts: their lengths are guessed"),
        }
        Ok(notes)
    }

    async fn probed(&self, prompt: &str) -> Result<Answer, Failure> {
        let late = || Failure::new("timeout", format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()));
        timeout(ANSWER_TIMEOUT, self.ask(prompt.to_owned(), 1)).await.map_err(|_| late())?
    }

    /// Asks with fewer fields until the server takes it.
    async fn accepted(&mut self, prompt: &str) -> Result<Answer, Fault> {
        let mut first = None;
        for fields in FIELDS {
            self.fields = fields;
            match self.probed(prompt).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => {
                    let fields_matter = ["http 400", "http 422"].iter().any(|kind| failure.kind.starts_with(kind));
                    first.get_or_insert(failure);
                    if !fields_matter {
                        break;
                    }
                }
            }
        }
        let unasked = || Failure::new("internal", "nothing was asked");
        Err(self.fault(&first.unwrap_or_else(unasked)))
    }

    fn fault(&self, failure: &Failure) -> Fault {
        let Failure { kind, message } = failure;
        let (exit, asked) = (Exit::Unavailable, format!("{}/chat/completions", self.base));
        Fault::say(exit, format!("{} does not answer at {asked}: {kind}: {message}", self.authority))
    }

    /// Tokens of the two probes by `/tokenize`, which some servers have; vLLM's shape and Hadal's.
    async fn tokenized(&self, run: Run) -> Option<[u32; 2]> {
        let mut counts = [0; 2];
        for (i, words) in (0..).zip(PROBES) {
            let messages = json!([{"role": "user", "content": prompt::words(&run.probe(i, words))}]);
            let body = json!({"model": *self.model, "messages": messages}).to_string();
            let path = format!("{}/tokenize", self.base.trim_end_matches("/v1"));
            let answer = timeout(ANSWER_TIMEOUT, self.json(Method::POST, path, body)).await.ok()?.ok()?;
            let count = answer["count"].as_u64().or_else(|| answer["tokens"].as_array().map(|all| all.len() as u64));
            counts[i as usize] = u32::try_from(count?).ok()?;
        }
        Some(counts)
    }
}

/// Whether an answer comes in events. A server may forget to say so, but none says JSON of a stream.
fn streams(answered: &Answered) -> bool {
    let kind = answered.response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    !kind.is_some_and(|kind| kind.starts_with("application/json"))
}

/// The model to ask: the one named, or the first that is served.
fn pick(served: Result<Vec<String>, Failure>, wanted: Option<&str>, url: &str) -> Result<String, Fault> {
    match (served, wanted) {
        (Ok(names), Some(wanted)) if names.iter().any(|name| name == wanted) => Ok(wanted.to_owned()),
        (Ok(names), Some(wanted)) if !names.is_empty() => {
            let listed = names.join(", ");
            Err(Fault::say(Exit::Usage, format!("{url} serves no model {wanted:?}; it serves: {listed}")))
        }
        (Ok(names), None) if !names.is_empty() => Ok(names[0].clone()),
        (Ok(_), _) => Err(Fault::say(Exit::Temporary, format!("{url} serves no model yet"))),
        (Err(failure), _) if matches!(&*failure.kind, "connection" | "timeout") => {
            let hint = "start a cluster with `hadal up`, or name a server with --http URL";
            Err(Fault::say(Exit::Unavailable, format!("nothing answers at {url}: {}; {hint}", failure.message)))
        }
        (Err(failure), _) if failure.kind.starts_with("http 401") || failure.kind.starts_with("http 403") => {
            let hint = "give its key with --api-key-file FILE";
            Err(Fault::say(Exit::Permission, format!("{url} refuses: {}; {hint}", failure.message)))
        }
        // Not every server lists what it serves.
        (Err(_), Some(wanted)) => Ok(wanted.to_owned()),
        (Err(failure), None) => {
            let why = format!("{}: {}", failure.kind, failure.message);
            Err(Fault::say(Exit::Usage, format!("{url} does not say what it serves ({why}); name a --model")))
        }
    }
}

fn key(path: &Path) -> Result<Arc<str>, Fault> {
    let read = std::fs::read_to_string(path);
    let key = read.map_err(|error| Fault::say(Exit::NoInput, format!("cannot read {}: {error}", path.display())))?;
    Ok(key.trim().into())
}

/// Where systems keep the authorities that they trust, PEM.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

fn trusting(authorities: Option<&Path>) -> Result<rustls::ClientConfig, Fault> {
    let system = || SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists());
    let Some(path) = authorities.or_else(system) else {
        let problem = "this system has no list of authorities where it is usually kept; give one with --tls-ca FILE";
        return Err(Fault::say(Exit::NoInput, problem));
    };
    let problem = |problem: String| Fault::say(Exit::NoInput, format!("--tls-ca {}: {problem}", path.display()));
    let pem = std::fs::read(path).map_err(|error| problem(error.to_string()))?;
    let mut roots = rustls::RootCertStore::empty();
    // One that is too old to be read must not cost the others.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    if roots.is_empty() {
        return Err(problem("no PEM certificate in it (-----BEGIN CERTIFICATE-----)".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.or_exit(Exit::Software)?.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests;
