//! Fetching, with a small package and a client of our own in npm's place.

use std::io::Write as _;
use std::process::Command;

use flate2::{Compression, write::GzEncoder};
use sha2::{Digest as _, Sha256};

use super::*;

const LIBRARY: &[u8] = b"not really a library";

struct Registry {
    dir: TempDir,
    package: Package,
}

impl Registry {
    /// A package as it should be, and a directory for the client and the cache.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (path, content) in [
            ("package/index.js", &b"{}"[..]),
            ("package/lib.so", LIBRARY),
            ("package/z", b"z"),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, content).unwrap();
        }
        let packed = archive.into_inner().unwrap().finish().unwrap();
        std::fs::write(dir.path().join("packed"), &packed).unwrap();
        let pin = Pin {
            packed_sha256: unpack::hex(&Sha256::digest(&packed)).leak(),
            packed_bytes: packed.len() as u64,
            member: "package/lib.so",
            member_bytes: LIBRARY.len() as u64,
        };
        Self {
            dir,
            package: Package {
                name: "@a/b",
                version: "1.2.3",
                pin,
            },
        }
    }

    fn cache_dir(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn calls(&self) -> usize {
        std::fs::read_to_string(self.dir.path().join("calls"))
            .map_or(0, |calls| calls.lines().count())
    }

    async fn fetch_with(&self, client: &str) -> Result<PathBuf, Error> {
        self.fetch(self.client(client)).await
    }

    fn client(&self, client: &str) -> PathBuf {
        let npm = self.dir.path().join("npm");
        // Written by another process: a script that this one holds open for writing can't be run
        // while another test forks.
        let mut writer = Command::new("sh")
            .args(["-c", r#"cat > "$0" && chmod 755 "$0""#])
            .arg(&npm)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let dir = self.dir.path().display();
        let script = format!("#!/bin/sh\ndir='{dir}'\necho \"$@\" >> \"$dir/calls\"\n{client}\n");
        writer
            .stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        assert!(writer.wait().unwrap().success());
        npm
    }

    async fn fetch(&self, npm: impl Into<OsString>) -> Result<PathBuf, Error> {
        Fetch {
            cache_dir: &self.cache_dir(),
            npm: npm.into(),
            package: self.package,
        }
        .library()
        .await
    }

    /// Whatever the outcome: no temporary is left, and the final name is whole or absent.
    fn assert_tidy(&self, present: bool) {
        let names: Vec<_> = std::fs::read_dir(self.cache_dir())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != LOCK_FILE)
            .collect();
        assert_eq!(names.contains(&"1.2.3".to_owned()), present, "{names:?}");
        assert!(
            !names.iter().any(|name| name.starts_with(STAGING_PREFIX)),
            "{names:?}"
        );
    }
}

const GOOD: &str = r#"cp "$dir/packed" a-b-1.2.3.tgz; echo a-b-1.2.3.tgz"#;

#[tokio::test]
async fn a_package_is_fetched_once_and_then_found() {
    let registry = Registry::new();
    let path = registry.fetch_with(GOOD).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), LIBRARY);
    assert_eq!(registry.fetch_with("exit 1").await.unwrap(), path);
    assert_eq!(registry.calls(), 1);
    registry.assert_tidy(true);
}

#[tokio::test]
async fn two_at_once_fetch_once() {
    let registry = Registry::new();
    let slow = registry.client(&format!("sleep 0.3; {GOOD}"));
    let (first, second) = tokio::join!(registry.fetch(&slow), registry.fetch(&slow));
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(registry.calls(), 1);
    registry.assert_tidy(true);
}

#[tokio::test]
async fn a_cut_file_and_the_rest_of_a_dead_fetch_are_replaced() {
    let registry = Registry::new();
    let version = registry.cache_dir().join("1.2.3");
    std::fs::create_dir_all(&version).unwrap();
    std::fs::write(version.join(LIBRARY_FILE), "cut").unwrap();
    std::fs::create_dir_all(
        registry
            .cache_dir()
            .join(format!("{STAGING_PREFIX}dead/npm-cache")),
    )
    .unwrap();
    let path = registry.fetch_with(GOOD).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), LIBRARY);
    registry.assert_tidy(true);
}

#[tokio::test]
async fn another_package_is_refused() {
    for damage in [
        "printf x >> \"$dir/packed\"",
        "printf rubbish > \"$dir/packed\"",
        "truncate -s 60 \"$dir/packed\"",
    ] {
        let registry = Registry::new();
        let error = registry
            .fetch_with(&format!("{damage}; {GOOD}"))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");
        assert!(error.to_string().contains("sha256"), "{error}");
        registry.assert_tidy(false);
    }
}

#[tokio::test]
async fn a_fetch_that_is_given_up_leaves_nothing() {
    let registry = Registry::new();
    let given_up = tokio::time::timeout(
        Duration::from_millis(200),
        registry.fetch_with("exec sleep 60"),
    )
    .await;
    assert!(given_up.is_err());
    registry.assert_tidy(false);
    registry.fetch_with(GOOD).await.unwrap();
}

#[tokio::test]
async fn a_client_that_is_missing_or_fails_is_named() {
    let registry = Registry::new();
    let error = registry.fetch("no-such-client-anywhere").await.unwrap_err();
    assert!(matches!(error, Error::NpmMissing), "{error}");

    let complaint = r#"printf 'npm error code E404\nnpm error 404 Not Found - GET https://token@host/x - Not found\nnpm error A complete log of this run can be found in: /x\n' >&2; exit 1"#;
    let error = registry
        .fetch_with(complaint)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("404 Not Found - GET (address) - Not found") && !error.contains("token"),
        "{error}"
    );

    let full = "echo 'npm error code ENOSPC' >&2; echo 'npm error nospc Clear up some disk space and try again.' >&2; exit 1";
    let error = registry.fetch_with(full).await.unwrap_err();
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");

    let error = registry.fetch_with("exit 3").await.unwrap_err().to_string();
    assert!(error.contains("exit status: 3"), "{error}");
    registry.assert_tidy(false);
}

#[tokio::test]
async fn a_cache_that_cannot_be_is_named() {
    let registry = Registry::new();
    std::fs::write(registry.cache_dir(), "a file").unwrap();
    let error = registry.fetch_with(GOOD).await.unwrap_err();
    assert!(matches!(error, Error::CacheDir { .. }), "{error}");
}
