//! Running the built binary.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for an answer, far beyond what any takes.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The binary.
pub(crate) fn hadal() -> Command {
    Command::new(env!("CARGO_BIN_EXE_hadal"))
}

/// How a run ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs to the end.
pub(crate) fn run(args: &[&str]) -> Ended {
    let output = hadal().args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code().unwrap(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// A process that serves; killed when dropped.
pub(crate) struct Child {
    process: std::process::Child,
    /// What it said of itself.
    pub(crate) told: serde_json::Value,
}

impl Child {
    /// Starts it and waits until it says where it listens.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process, told: serde_json::from_str(&line).expect("a line of JSON") }
    }

    /// Where a listener of it is.
    pub(crate) fn address(&self, listener: &str) -> String {
        self.told[listener].as_str().unwrap().to_owned()
    }

    /// GET, with headers, or why there is no answer.
    pub(crate) fn try_get(&self, path: &str) -> std::io::Result<String> {
        exchange(&self.address("http"), &format!("GET {path} HTTP/1.1\r\nhost: hadal\r\nconnection: close\r\n\r\n"))
    }

    /// Asks again until the answer is as expected; each time waits for the answer, and not for ever.
    pub(crate) fn until(&self, path: &str, expected: impl Fn(&std::io::Result<String>) -> bool) {
        let begun = Instant::now();
        while !expected(&self.try_get(path)) {
            assert!(begun.elapsed() < TIMEOUT, "{path} of {} never became what is expected", self.told);
            std::thread::yield_now();
        }
    }

    /// GET, with headers.
    pub(crate) fn get(&self, path: &str) -> String {
        self.try_get(path).unwrap()
    }

    /// POST of JSON, with headers.
    pub(crate) fn post(&self, path: &str, body: &str) -> String {
        self.request(path, body)().unwrap()
    }

    /// The same, to be sent from another thread.
    pub(crate) fn request(&self, path: &str, body: &str) -> impl FnOnce() -> std::io::Result<String> + Send + use<> {
        let (address, length) = (self.address("http"), body.len());
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: hadal\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        move || exchange(&address, &request)
    }

    /// SIGTERM.
    pub(crate) fn signal(&self) {
        // The shell's own kill, so that no crate is needed for one signal.
        let kill = format!("kill -TERM {}", self.process.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// The exit code.
    pub(crate) fn wait(&mut self) -> i32 {
        self.process.wait().unwrap().code().expect("an exit code, not a signal")
    }

    /// SIGTERM; the exit code.
    pub(crate) fn terminate(&mut self) -> i32 {
        self.signal();
        self.wait()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn exchange(address: &str, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A router beside a worker that never ends a step, with one request running.
pub(crate) fn busy_router(coordinator: &str, flags: &[&str]) -> Child {
    let args = ["router", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--coordinator", coordinator];
    let router = Child::start(hadal().args(args).args(flags));
    router.until("/ready", |answer| answer.as_ref().is_ok_and(|a| a.starts_with("HTTP/1.1 200")));
    let request = router.request("/v1/completions", r#"{"model":"hadal-sample","prompt":"Once upon a time"}"#);
    // It ends with the process, and how does not matter.
    std::thread::spawn(move || drop(request()));
    let running = "hadal_router_requests_active{model=\"hadal-sample\"} 1";
    router.until("/metrics", |answer| answer.as_ref().is_ok_and(|a| a.contains(running)));
    router
}
