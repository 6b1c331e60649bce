//! Takes one file out of a packed package, in a stream, and only if the package is the pinned one.
//!
//! Invariant: the file is whole and on disk when this succeeds; when it fails, nobody will use it.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;

use flate2::read::GzDecoder;
use sha2::{Digest as _, Sha256};

/// What a package and the one file of interest inside it must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pin {
    /// SHA-256 of the packed package, in hex. It determines everything inside.
    pub(super) packed_sha256: &'static str,
    pub(super) packed_bytes: u64,
    /// The file's path inside the package.
    pub(super) member: &'static str,
    pub(super) member_bytes: u64,
}

#[derive(Debug)]
pub(super) enum Failure {
    /// The package is not the pinned one.
    Mismatch(String),
    /// The disk failed us.
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // How the decoders report a damaged package.
        match error.kind() {
            io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::UnexpectedEof => Self::Mismatch(error.to_string()),
            _ => Self::Io(error),
        }
    }
}

/// Writes the member of `packed` to `target`, telling `progress` how many bytes are written.
pub(super) fn unpack(
    packed: &Path,
    pin: &Pin,
    target: &Path,
    progress: impl Fn(u64),
) -> Result<(), Failure> {
    let mut source = Digesting {
        inner: io::BufReader::with_capacity(CHUNK_BYTES, File::open(packed)?),
        digest: Sha256::new(),
    };
    let written = extract(&mut source, pin, target, &progress);
    // What follows the member belongs to the digest too, and a wrong digest explains most failures.
    io::copy(&mut source, &mut io::sink())?;
    let digest = hex(&source.digest.finalize());
    if digest != pin.packed_sha256 {
        return Err(Failure::Mismatch(format!(
            "sha256 is {digest}, expected {}",
            pin.packed_sha256
        )));
    }
    match written? {
        Some(bytes) if bytes == pin.member_bytes => Ok(()),
        Some(bytes) => Err(Failure::Mismatch(format!(
            "{} has {bytes} bytes, expected {}",
            pin.member, pin.member_bytes
        ))),
        None => Err(Failure::Mismatch(format!("{} is missing", pin.member))),
    }
}

const CHUNK_BYTES: usize = 256 * 1024;

fn extract(
    source: impl Read,
    pin: &Pin,
    target: &Path,
    progress: &impl Fn(u64),
) -> Result<Option<u64>, Failure> {
    let mut archive = tar::Archive::new(GzDecoder::new(source));
    for entry in archive.entries()? {
        let mut entry = entry?;
        if *entry.path()? != *Path::new(pin.member) {
            continue;
        }
        let mut file = File::create_new(target)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut written = 0;
        loop {
            let length = entry.read(&mut chunk)?;
            if length == 0 {
                break;
            }
            file.write_all(&chunk[..length])?;
            written += length as u64;
            progress(written);
        }
        file.sync_all()?;
        return Ok(Some(written));
    }
    Ok(None)
}

/// Digests whatever is read through it.
struct Digesting<R> {
    inner: R,
    digest: Sha256,
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.digest.update(&buffer[..length]);
        Ok(length)
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
