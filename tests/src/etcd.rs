//! A real etcd of one or three members on loopback, ended with the test.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::PATIENCE;

/// Tries until a set of ports is free: they cannot be bound before etcd is told of them.
const TRIES: usize = 5;

/// One member.
struct Member {
    name: String,
    client: String,
    peer: String,
    process: Option<Child>,
}

/// A running etcd. Dropping it kills its members.
pub struct Etcd {
    members: Vec<Member>,
    data: TempDir,
}

fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("HADAL_TEST_ETCD");
    Ok(path.context("HADAL_TEST_ETCD is not set: run `cargo xtask test`, which has an etcd")?.into())
}

fn free_address() -> Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

impl Etcd {
    /// Starts so many members and waits until they serve.
    ///
    /// # Errors
    /// With what a member said last.
    pub async fn start(count: usize) -> Result<Self> {
        let mut last = None;
        for _ in 0..TRIES {
            match Self::try_start(count).await {
                Ok(etcd) => return Ok(etcd),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("never tried")?)
    }

    async fn try_start(count: usize) -> Result<Self> {
        let member = |i: usize| {
            anyhow::Ok(Member { name: format!("m{i}"), client: free_address()?, peer: free_address()?, process: None })
        };
        let members = (0..count).map(member).collect::<Result<Vec<_>>>()?;
        let mut etcd = Self { members, data: TempDir::new()? };
        etcd.restart_all().await?;
        Ok(etcd)
    }

    /// Starts all members, none of which may run, and waits until they serve.
    ///
    /// # Errors
    /// With what one said last.
    pub async fn restart_all(&mut self) -> Result<()> {
        // Together: none serves before most of them are there.
        let said = (0..self.members.len()).map(|member| self.spawn(member)).collect::<Result<Vec<_>>>()?;
        for stderr in said {
            until_ready(stderr).await?;
        }
        Ok(())
    }

    /// Starts a member that was stopped again, and waits until it serves.
    ///
    /// # Errors
    /// With what it said last.
    pub async fn restart(&mut self, member: usize) -> Result<()> {
        let stderr = self.spawn(member)?;
        until_ready(stderr).await
    }

    fn spawn(&mut self, member: usize) -> Result<ChildStderr> {
        let cluster: Vec<_> = self.members.iter().map(|m| format!("{}=http://{}", m.name, m.peer)).collect();
        let data = self.data.path().join(format!("m{member}"));
        let member = &mut self.members[member];
        let (client, peer) = (format!("http://{}", member.client), format!("http://{}", member.peer));
        let mut command = Command::new(binary()?);
        command.args(["--name", &member.name, "--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &cluster.join(","), "--data-dir"]).arg(data);
        // What tests write is not worth a disk's time.
        command.args(["--snapshot-count", "1000"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let stderr = process.stderr.take().context("stderr is piped")?;
        member.process = Some(process);
        Ok(stderr)
    }

    /// Kills a member at once.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self, member: usize) -> Result<()> {
        let mut process = self.members[member].process.take().context("it does not run")?;
        Ok(process.kill().await?)
    }

    /// What coordinators are given as `--store`.
    pub fn store(&self) -> String {
        format!("etcd://{}", self.addresses().join(","))
    }

    /// Where clients reach the members.
    pub fn addresses(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.clone()).collect()
    }
}

/// Reads until a member serves; what it says afterwards is let go, so that it does not wait for a reader.
async fn until_ready(stderr: ChildStderr) -> Result<()> {
    let mut lines = BufReader::new(stderr).lines();
    let mut said = Vec::new();
    let ready = async {
        while let Some(line) = lines.next_line().await? {
            let ready = line.contains("ready to serve client requests");
            said.push(line);
            if ready {
                return Ok(());
            }
        }
        bail!("etcd ended")
    };
    let ready = timeout(PATIENCE, ready).await;
    let last = said.len().saturating_sub(20);
    ready.context("etcd takes too long").flatten().with_context(|| said[last..].join("\n"))?;
    drop(tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} }));
    Ok(())
}
