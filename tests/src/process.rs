//! One process of Hadal, started by a test and ended with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::{PATIENCE, tail};

/// A running part. Dropping it kills it.
pub struct Process {
    child: Child,
    /// What it said of itself when it was ready.
    pub ready: Value,
    log: PathBuf,
    said: watch::Receiver<Arc<str>>,
}

/// The binary under test: `HADAL_BIN`, or the one beside the running test's build.
///
/// # Errors
/// When it was not built.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("HADAL_BIN") {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("a test runs from target/PROFILE/deps")?;
    let binary = folder.join("hadal");
    if !binary.exists() {
        bail!("{} is missing: run `cargo xtask test`, or build it with `cargo build -p hadal`", binary.display());
    }
    Ok(binary)
}

/// Runs one of the clients in `tests/clients` to its end.
///
/// # Errors
/// With what it printed when it fails.
pub async fn python(script: &str, args: &[&str]) -> Result<String> {
    let python = std::env::var_os("HADAL_TEST_PYTHON");
    let python = python.context("HADAL_TEST_PYTHON is not set: run `cargo xtask test`, which makes the environment")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
    let mut command = Command::new(python);
    command.arg(&script).args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.context("a Python client takes too long")??;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{}: {}\n{printed}\n{}", script.display(), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(printed)
}

/// What a command that ends by itself gave back.
pub struct Ended {
    /// The exit code, if it was no signal.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
}

/// Runs `hadal ARGS` to its end.
///
/// # Errors
/// When it does not start or does not end in time.
pub async fn run<S: AsRef<str>>(args: &[S]) -> Result<Ended> {
    let mut command = Command::new(binary()?);
    command.args(args.iter().map(AsRef::as_ref)).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.context("hadal does not end")??;
    Ok(Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

impl Process {
    /// Starts `hadal ARGS --json` with its log in `logs/NAME.log`, and waits until it says where it listens.
    ///
    /// # Errors
    /// With the end of its log when it ends or takes too long.
    pub async fn start(logs: &Path, name: &str, args: &[String]) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let mut child = Command::new(binary()?)
            .args(args)
            .arg("--json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (teller, said) = watch::channel(Arc::default());
        let stderr = child.stderr.take().context("stderr is piped")?;
        let copy = copy(stderr, tokio::fs::File::create(&log).await?, teller);
        // Ends with the process, which is killed with the test.
        drop(tokio::spawn(copy));
        let mut stdout = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let mut line = String::new();
        let read = timeout(PATIENCE, stdout.read_line(&mut line)).await;
        read.with_context(|| format!("{name} is not ready in time:\n{}", tail(&log)))??;
        if line.is_empty() {
            let status = child.wait().await?;
            bail!("hadal {} ended with {status}:\n{}", args.join(" "), tail(&log));
        }
        let ready = serde_json::from_str(&line).with_context(|| format!("{name} said {line:?}"))?;
        Ok(Self { child, ready, log, said })
    }

    /// An address that it told.
    ///
    /// # Errors
    /// When it did not tell this one.
    pub fn address(&self, name: &str) -> Result<SocketAddr> {
        let text = self.ready[name].as_str().with_context(|| format!("no {name} address in {}", self.ready))?;
        Ok(text.parse()?)
    }

    /// Whether its end was not waited for yet.
    pub fn runs(&self) -> bool {
        self.child.id().is_some()
    }

    /// Sends it a signal by name (`TERM`, `KILL`, `STOP`, `CONT`, `INT`).
    ///
    /// # Errors
    /// When it is gone.
    pub async fn signal(&self, name: &str) -> Result<()> {
        let pid = self.child.id().context("it has ended")?.to_string();
        let status = Command::new("kill").args([format!("-{name}"), pid]).status().await?;
        if !status.success() {
            bail!("kill -{name}: {status}");
        }
        if name == "STOP" {
            // The signal is taken by one thread when it next runs; until then the others go on.
            timeout(PATIENCE, async {
                while !self.is_stopped()? {
                    tokio::task::yield_now().await;
                }
                anyhow::Ok(())
            })
            .await
            .context("it does not stop")??;
        }
        Ok(())
    }

    /// Whether all of its threads stand still.
    fn is_stopped(&self) -> Result<bool> {
        let pid = self.child.id().context("it has ended")?;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread that has ended in the meantime stands still, too.
            let Ok(status) = std::fs::read_to_string(task?.path().join("status")) else { continue };
            if !status.lines().any(|line| line.starts_with("State:") && line.contains('T')) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// With the end of its log when it does not end in time.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        let waited = timeout(PATIENCE, self.child.wait()).await;
        Ok(waited.with_context(|| format!("it does not end:\n{}", tail(&self.log)))??)
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.said.borrow().to_string()
    }

    /// Waits until its log says all of `words` in one line.
    ///
    /// # Errors
    /// With the end of its log when it does not say so in time, or ends before.
    pub async fn until_says(&self, words: &[&str]) -> Result<()> {
        let mut said = self.said.clone();
        let says = |log: &Arc<str>| log.lines().any(|line| words.iter().all(|word| line.contains(word)));
        let waited = timeout(PATIENCE, said.wait_for(says)).await;
        let found = waited.is_ok_and(|log| log.is_ok());
        found.then_some(()).with_context(|| format!("it does not say {words:?}:\n{}", tail(&self.log)))
    }

    /// Resident memory, in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resident_bytes(&self) -> Result<u64> {
        let pid = self.child.id().context("it has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("no VmRSS")?;
        let kilobytes: u64 = line.split_whitespace().nth(1).context("no value")?.parse()?;
        Ok(kilobytes * 1024)
    }
}

/// Keeps what a process complains, and tells of it.
async fn copy(mut from: ChildStderr, mut to: tokio::fs::File, teller: watch::Sender<Arc<str>>) -> Result<()> {
    let (mut all, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count]).await?;
        to.flush().await?;
        all.extend_from_slice(&buffer[..count]);
        teller.send_replace(String::from_utf8_lossy(&all).into());
    }
}
