//! A fresh data directory, on memory where there is such a file system, gone at the end.

use std::path::{Path, PathBuf};

const MEMORY: &str = "/dev/shm";

/// A directory of this run's own.
pub struct Place {
    directory: PathBuf,
    kind: &'static str,
}

impl Place {
    /// On memory if possible; `BENCH_DIR` says otherwise.
    pub fn fast() -> Self {
        if let Some(root) = std::env::var_os("BENCH_DIR") {
            return Self::below(Path::new(&root), "BENCH_DIR");
        }
        if Path::new(MEMORY).is_dir() {
            return Self::below(Path::new(MEMORY), "memory (tmpfs)");
        }
        Self::disk()
    }

    /// On the disk that the build is on.
    pub fn disk() -> Self {
        Self::below(Path::new(env!("CARGO_TARGET_TMPDIR")), "disk")
    }

    fn below(root: &Path, kind: &'static str) -> Self {
        let name = format!("traffic-api-bench-{}", std::process::id());
        let free = |n: &u32| !root.join(format!("{name}-{n}")).exists();
        let number = (0..).find(free).unwrap_or_default();
        let directory = root.join(format!("{name}-{number}"));
        std::fs::create_dir_all(&directory)
            .unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        Self { directory, kind }
    }

    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// What it lies on, for the output.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Files and directories in it.
    pub fn inodes(&self) -> usize {
        let mut count = 0;
        let mut folders = vec![self.directory.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                count += 1;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                }
            }
        }
        count
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
