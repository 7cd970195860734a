//! Running the built binary.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

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

    fn exchange(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.told["http"].as_str().unwrap()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// GET, with headers.
    pub(crate) fn get(&self, path: &str) -> String {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nhost: hadal\r\nconnection: close\r\n\r\n"))
    }

    /// POST of JSON, with headers.
    pub(crate) fn post(&self, path: &str, body: &str) -> String {
        let length = body.len();
        self.exchange(&format!(
            "POST {path} HTTP/1.1\r\nhost: hadal\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        ))
    }

    /// SIGTERM; the exit code.
    pub(crate) fn terminate(&mut self) -> i32 {
        // The shell's own kill, so that no crate is needed for one signal.
        let kill = format!("kill -TERM {}", self.process.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        self.process.wait().unwrap().code().expect("an exit code, not a signal")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
