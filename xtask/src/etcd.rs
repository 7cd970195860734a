//! A real etcd for the tests: the one in the environment, or else Debian's, unpacked outside the checkout and installed
//! nowhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run;

/// The binary; fetched at the first call.
pub(crate) fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("HADAL_TEST_ETCD") {
        return Ok(path.into());
    }
    let found = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|p| p.join("etcd")).find(|p| p.is_file()));
    if let Some(path) = found {
        return Ok(path);
    }
    let folder = run::cache()?.join("tools").join("etcd");
    let binary = folder.join("etcd");
    if !binary.exists() {
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fetch(&folder).context(
            "no etcd: put etcd 3.4 or later on PATH, or name it in HADAL_TEST_ETCD (it was looked for among this \
             system's packages with apt-get, too)",
        )?;
    }
    Ok(binary)
}

/// Fetches the package and keeps its one program.
fn fetch(folder: &Path) -> Result<()> {
    let work = folder.join("package");
    // What an interrupted run left is of no use.
    let _ = std::fs::remove_dir_all(&work);
    std::fs::create_dir_all(&work)?;
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        // Root in a container has no other user to fetch as.
        command.args(["-qq", "-o", "APT::Sandbox::User=root"]).args(arguments).current_dir(&work);
        command
    };
    if run::finish(apt(&["download", "etcd-server"]), "apt-get download etcd-server").is_err() {
        run::finish(apt(&["update"]), "apt-get update")?;
        run::finish(apt(&["download", "etcd-server"]), "apt-get download etcd-server")?;
    }
    let package = std::fs::read_dir(&work)?.filter_map(Result::ok).map(|entry| entry.path());
    let package = package.into_iter().find(|path| path.extension().is_some_and(|e| e == "deb"));
    let package = package.context("apt-get left no package")?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(&package).arg(work.join("root"));
    run::finish(unpack, "dpkg-deb -x")?;
    let program = work.join("root/usr/bin/etcd");
    ensure!(program.is_file(), "{} has no usr/bin/etcd", package.display());
    // Last, and in one step: a file that is there is whole.
    std::fs::rename(&program, folder.join("etcd"))?;
    std::fs::remove_dir_all(&work)?;
    Ok(())
}
