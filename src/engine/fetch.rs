//! The engine's library: fetched once per user and version, then found in the cache.
//!
//! Invariants:
//! - Only a whole, digest-checked library ever gets the final name: it is written under a temporary
//!   one, synced and renamed. That is why a warm start trusts the name and the size.
//! - Only the holder of the lock fetches, so whatever temporary it finds belongs to a dead fetch.
//!
//! This module does not know where packages come from: the `npm` client and its settings do.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use super::error::{Error, excerpt};
use super::progress::Progress;
use super::unpack::{self, Pin};

/// A pinned package.
#[derive(Clone, Copy, Debug)]
struct Package {
    name: &'static str,
    version: &'static str,
    pin: Pin,
}

const LINUX_X64_GNU: Package = Package {
    name: "@chdb/lib-linux-x64-gnu",
    version: "26.7.3-stable.1",
    pin: Pin {
        packed_sha256: "c0d32b129e988f2b9a9a31c9141aecf5e1e2453f9a079efc4d36ab8e3f92b2ad",
        packed_bytes: 177_817_999,
        member: "package/libchdb.so",
        member_bytes: 566_330_096,
    },
};

const LIBRARY_FILE: &str = "libchdb.so";
const LOCK_FILE: &str = "fetch.lock";
const STAGING_PREFIX: &str = "fetching-";

/// How often a waiting start looks whether the other fetch has ended.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// How often the bytes on disk are counted for the progress bar.
const PROGRESS_POLL: Duration = Duration::from_millis(200);

/// The path of the engine's library in `cache_dir`, fetched if it is not there yet.
///
/// # Errors
/// Why there is none.
pub async fn library(cache_dir: &Path) -> Result<PathBuf, Error> {
    Fetch {
        cache_dir,
        npm: "npm".into(),
        package: package()?,
    }
    .library()
    .await
}

fn package() -> Result<Package, Error> {
    if cfg!(all(
        target_os = "linux",
        target_arch = "x86_64",
        target_env = "gnu"
    )) {
        return Ok(LINUX_X64_GNU);
    }
    let libc = if cfg!(target_env = "musl") {
        " musl"
    } else {
        ""
    };
    Err(Error::UnsupportedPlatform {
        platform: format!("{} {}{libc}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

struct Fetch<'a> {
    cache_dir: &'a Path,
    npm: OsString,
    package: Package,
}

impl Fetch<'_> {
    async fn library(&self) -> Result<PathBuf, Error> {
        let library = self.cache_dir.join(self.package.version).join(LIBRARY_FILE);
        if self.is_whole(&library) {
            return Ok(library);
        }
        std::fs::create_dir_all(self.cache_dir).map_err(|error| self.cache_error(error))?;
        let lock = self.lock().await?;
        // The process that we waited for may have fetched it.
        if self.is_whole(&library) {
            return Ok(library);
        }
        let staging = self.staging().map_err(|error| self.cache_error(error))?;
        let packed = self.pack(staging.path()).await?;
        self.unpack(packed, library.clone(), staging, lock).await?;
        Ok(library)
    }

    fn is_whole(&self, library: &Path) -> bool {
        library
            .metadata()
            .is_ok_and(|found| found.is_file() && found.len() == self.package.pin.member_bytes)
    }

    async fn lock(&self) -> Result<File, Error> {
        let path = self.cache_dir.join(LOCK_FILE);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(|error| self.cache_error(error))?;
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(error)) => return Err(self.cache_error(error)),
                Err(TryLockError::WouldBlock) => {
                    if !told {
                        tracing::info!("another process is fetching the engine, waiting");
                        told = true;
                    }
                    tokio::time::sleep(LOCK_POLL).await;
                }
            }
        }
    }

    /// A fresh directory on the file system of the cache, after those of dead fetches are swept.
    fn staging(&self) -> io::Result<TempDir> {
        for entry in std::fs::read_dir(self.cache_dir)? {
            let entry = entry?;
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(STAGING_PREFIX)
            {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        tempfile::Builder::new()
            .prefix(STAGING_PREFIX)
            .tempdir_in(self.cache_dir)
    }

    async fn pack(&self, staging: &Path) -> Result<PathBuf, Error> {
        let npm_cache = staging.join("npm-cache");
        let npm = Command::new(&self.npm)
            .arg("pack")
            .arg(format!("{}@{}", self.package.name, self.package.version))
            .args(["--loglevel=error", "--no-update-notifier", "--no-progress"])
            .arg("--cache")
            .arg(&npm_cache)
            .current_dir(staging)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::NpmMissing,
                _ => Error::NpmFailed {
                    reason: excerpt(&error.to_string()),
                },
            })?;

        let progress = Progress::begin("fetching the engine", self.package.pin.packed_bytes);
        let mut tick = tokio::time::interval(PROGRESS_POLL);
        let mut output = std::pin::pin!(npm.wait_with_output());
        let output = loop {
            tokio::select! {
                output = &mut output => break output,
                _ = tick.tick() => progress.at(bytes_below(&npm_cache)),
            }
        };
        let output = output.map_err(|error| Error::NpmFailed {
            reason: excerpt(&error.to_string()),
        })?;
        if !output.status.success() {
            return Err(self.npm_error(&output));
        }
        progress.done();
        // npm keeps a second copy, and the library needs the room.
        std::fs::remove_dir_all(&npm_cache).ok();

        // The last line of npm's output is the name of the file it wrote.
        let printed = String::from_utf8_lossy(&output.stdout);
        let name = printed
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| line.ends_with(".tgz"));
        name.and_then(|name| Path::new(name).file_name())
            .map(|name| staging.join(name))
            .ok_or_else(|| Error::NpmFailed {
                reason: "it named no file".to_owned(),
            })
    }

    async fn unpack(
        &self,
        packed: PathBuf,
        library: PathBuf,
        staging: TempDir,
        lock: File,
    ) -> Result<(), Error> {
        let pin = self.package.pin;
        // The lock and the directory go along: a caller that gives up must not let the next one in
        // while this thread still writes.
        let unpacked = tokio::task::spawn_blocking(move || {
            let progress = Progress::begin("unpacking the engine", pin.member_bytes);
            let temporary = staging.path().join(LIBRARY_FILE);
            unpack::unpack(&packed, &pin, &temporary, |bytes| progress.at(bytes))?;
            if let Some(directory) = library.parent() {
                std::fs::create_dir_all(directory)?;
                std::fs::rename(&temporary, &library)?;
                File::open(directory)?.sync_all()?;
            }
            progress.done();
            drop(staging);
            drop(lock);
            Ok(())
        })
        .await
        .unwrap_or_else(|panic| Err(unpack::Failure::Io(io::Error::other(panic))));
        unpacked.map_err(|failure| match failure {
            unpack::Failure::Io(error) => self.cache_error(error),
            unpack::Failure::Mismatch(reason) => Error::Mismatch {
                package: format!("{}@{}", self.package.name, self.package.version),
                reason: excerpt(&reason),
            },
        })
    }

    fn cache_error(&self, error: io::Error) -> Error {
        // npm holds the package twice for a moment, but gives one copy up before it is unpacked.
        let pin = self.package.pin;
        Error::cache(
            self.cache_dir,
            error,
            pin.packed_bytes + pin.member_bytes.max(pin.packed_bytes),
        )
    }

    fn npm_error(&self, output: &Output) -> Error {
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stderr.contains("ENOSPC") {
            return self.cache_error(io::ErrorKind::StorageFull.into());
        }
        let reason = npm_reason(&stderr);
        Error::NpmFailed {
            reason: reason.unwrap_or_else(|| output.status.to_string()),
        }
    }
}

/// The last line of npm's complaint that says something, without addresses: they may hold secrets.
fn npm_reason(stderr: &str) -> Option<String> {
    let mut complaints = stderr.lines().filter_map(|line| {
        let line = line.trim();
        let line = line
            .strip_prefix("npm error")
            .or_else(|| line.strip_prefix("npm ERR!"))?
            .trim();
        let pointless =
            line.is_empty() || line.starts_with("A complete log") || line.contains("-debug-");
        (!pointless).then_some(line)
    });
    let complaint = complaints
        .next_back()
        .or_else(|| stderr.lines().rev().find(|line| !line.trim().is_empty()))?;
    let words: Vec<&str> = complaint
        .split_whitespace()
        .map(|word| {
            if word.contains("://") {
                "(address)"
            } else {
                word
            }
        })
        .collect();
    Some(excerpt(&words.join(" ")))
}

/// How many bytes the files below a directory have; what vanishes meanwhile does not count.
fn bytes_below(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => bytes_below(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests;
