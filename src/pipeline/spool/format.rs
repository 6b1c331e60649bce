//! The file format of the spool. One file is one batch.
//!
//! # Invariants
//!
//! - A file is decoded to exactly the batch that was encoded, or refused. Three checksums cover
//!   every byte, and each continues the one before it, so parts of two sound files do not make a
//!   third.
//! - The header says how long the file is. A file of any other length is refused: no byte is missing
//!   and none is left over.
//! - Every length is compared with the length of the file before memory is taken for it.
//! - A decoded batch obeys the rules of one that the lane made: at least one record; ends that rise
//!   strictly and finish at the end of the bytes; at least one row in each record, together as many
//!   as the header says; columns that are plain identifiers, because they become part of a
//!   statement.
//!
//! # Layout
//!
//! Integers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic `89 53 50 4F 4F 4C 0D 0A`: not text, and broken by a transfer that takes it for text |
//! | 2 | format version, 1 |
//! | 4 | H, the length of the header, at most 65,536 |
//! | H | header: a JSON object, below |
//! | 4 | CRC-32 (IEEE) of everything above |
//! | 16 x `records` | table: per record its end in the bytes (u32), its rows (u32), its identity (u64) |
//! | 4 | the same CRC-32, continued over the table |
//! | `bytes` | the encoded rows, one record behind the other |
//! | 4 | the same CRC-32, continued over these bytes |
//!
//! "Continued" leaves the stored checksums themselves out: a CRC that runs over data and then over
//! that data's own CRC always arrives at the same value and would forget what it had covered.
//!
//! The header names everything that is needed to send the rows again without the program that wrote
//! them: `stream`, `columns`, `rows`, `records`, `bytes` (counts), `token` (the UUID that a repeated
//! insert carries) and `spooled_at_ms` (milliseconds since 1970, UTC).
//!
//! Magic, version, header and the first checksum stay where they are in all versions to come. So a
//! damaged version number is known to be damage, and only a sound file is called newer.
//!
//! # Recovery
//!
//! - A file gets its final name only after its content is on disk. What a crash leaves half-written
//!   has a temporary name, was never acknowledged, and is deleted at the next start.
//! - A file with its final name that does not decode is damage from outside. Nothing in it is
//!   guessed at or repaired: the whole file is moved aside for a human, and the next one is taken.
//! - A file of a newer version, or of a stream that this program does not know, is sound: it is
//!   moved aside too, and can be put back under the program that knows it.

use std::io::{self, Read, Write};

use crc32fast::Hasher;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ReadError;
use crate::domain::Stream;
use crate::pipeline::{Batch, Mark};

/// What every file begins with.
pub const MAGIC: [u8; 8] = *b"\x89SPOOL\r\n";
/// The version that this program writes, and the newest that it reads.
pub const VERSION: u16 = 1;

const PREFIX_BYTES: usize = 14;
const MAX_HEADER_BYTES: usize = 64 * 1024;
const MARK_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;

/// Why a file is not a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It does not begin like one.
    #[error("not a spool file")]
    NotASpoolFile,
    /// Sound as far as this program can tell, but written by a later one.
    #[error("written in spool format {version}, newer than the {VERSION} known here")]
    NewerFormat {
        /// The version that it states.
        version: u16,
    },
    /// It ends before it should.
    #[error("the file ends too early")]
    Truncated,
    /// A checksum or a rule is broken.
    #[error("corrupt: {0}")]
    Corrupt(&'static str),
    /// Sound, but of a stream that this program does not know.
    #[error("unknown stream {0:?}")]
    UnknownStream(String),
}

use FormatError::Corrupt;

/// A batch as it came back from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spooled {
    /// The batch, equal to the one that was written.
    pub batch: Batch,
    /// When it was written: milliseconds since 1970, UTC.
    pub spooled_at_ms: u64,
}

/// Everything about a batch but its bytes: what can be learnt from a file without reading it whole.
/// The checksums up to here were right; that of the bytes was not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Which stream the rows belong to.
    pub stream: Stream,
    /// The columns of each row, in order.
    pub columns: Vec<String>,
    /// How many rows.
    pub rows: usize,
    /// The identity of the batch.
    pub token: Uuid,
    /// One mark for each record, in order; never empty.
    pub records: Vec<Mark>,
    /// How many bytes the encoded rows take.
    pub bytes: u32,
    /// When it was written: milliseconds since 1970, UTC.
    pub spooled_at_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    stream: String,
    columns: Vec<String>,
    rows: u64,
    records: u32,
    bytes: u32,
    token: String,
    spooled_at_ms: u64,
}

/// A batch in the form of a file; borrows the batch's bytes, because they may be many.
#[derive(Debug)]
pub struct Encoded<'a> {
    head: Vec<u8>,
    bytes: &'a [u8],
    checksum: [u8; CHECKSUM_BYTES],
}

impl Encoded<'_> {
    /// The parts of the file, one behind the other.
    pub fn parts(&self) -> [&[u8]; 3] {
        [&self.head, self.bytes, &self.checksum]
    }

    /// The length of the file in bytes.
    pub fn length(&self) -> u64 {
        self.parts().iter().map(|part| part.len() as u64).sum()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Those of `target`.
    pub fn write_to(&self, target: &mut impl Write) -> io::Result<()> {
        self.parts()
            .iter()
            .try_for_each(|part| target.write_all(part))
    }

    /// The file in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts().concat()
    }
}

/// The file of a batch written at `spooled_at_ms`, in milliseconds since 1970.
///
/// # Errors
/// The batch breaks a rule that [`decode`] checks, so that nothing is written that can't be read.
pub fn encode(batch: &Batch, spooled_at_ms: u64) -> Result<Encoded<'_>, FormatError> {
    let bytes = u32::try_from(batch.bytes.len()).map_err(|_| Corrupt("more than 4 GiB"))?;
    let records = u32::try_from(batch.records.len()).map_err(|_| Corrupt("too many records"))?;
    check_columns(&batch.columns)?;
    check_records(&batch.records, bytes, batch.rows as u64)?;
    let header = serde_json::to_vec(&Header {
        stream: batch.stream.name().to_owned(),
        columns: batch.columns.clone(),
        rows: batch.rows as u64,
        records,
        bytes,
        token: batch.token.to_string(),
        spooled_at_ms,
    })
    .map_err(|_| Corrupt("the header"))?;
    let header_bytes = u32::try_from(header.len())
        .ok()
        .filter(|length| *length as usize <= MAX_HEADER_BYTES)
        .ok_or(Corrupt("the length of the header"))?;

    let table = batch.records.len() * MARK_BYTES;
    let mut head = Vec::with_capacity(PREFIX_BYTES + header.len() + table + 2 * CHECKSUM_BYTES);
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&header_bytes.to_le_bytes());
    head.extend_from_slice(&header);
    let mut checksum = Hasher::new();
    checksum.update(&head);
    head.extend_from_slice(&checksum.clone().finalize().to_le_bytes());
    let begin = head.len();
    for mark in &batch.records {
        head.extend_from_slice(&mark.end.to_le_bytes());
        head.extend_from_slice(&mark.rows.to_le_bytes());
        head.extend_from_slice(&mark.identity.to_le_bytes());
    }
    checksum.update(&head[begin..]);
    head.extend_from_slice(&checksum.clone().finalize().to_le_bytes());
    checksum.update(&batch.bytes);
    Ok(Encoded {
        head,
        bytes: &batch.bytes,
        checksum: checksum.finalize().to_le_bytes(),
    })
}

/// The batch in a file.
///
/// # Errors
/// The bytes are not exactly a file that [`encode`] made.
pub fn decode(file: &[u8]) -> Result<Spooled, FormatError> {
    read(&mut &*file, file.len() as u64).map_err(|error| match error {
        ReadError::Format(error) => error,
        // Memory gives no other errors than its end.
        ReadError::Gone | ReadError::Io(_) => FormatError::Truncated,
    })
}

/// The batch in a file of `length` bytes.
pub(super) fn read(file: &mut impl Read, length: u64) -> Result<Spooled, ReadError> {
    let (index, mut checksum) = read_head(file, length)?;
    let bytes = take(file, index.bytes as usize)?;
    checksum.update(&bytes);
    verify(file, &checksum, "the checksum of the rows")?;
    Ok(Spooled {
        batch: Batch {
            stream: index.stream,
            columns: index.columns,
            rows: index.rows,
            token: index.token,
            records: index.records,
            bytes: bytes.into(),
        },
        spooled_at_ms: index.spooled_at_ms,
    })
}

/// The batch in a file of `length` bytes, without its rows.
pub(super) fn read_index(file: &mut impl Read, length: u64) -> Result<Index, ReadError> {
    read_head(file, length).map(|(index, _)| index)
}

fn read_head(file: &mut impl Read, length: u64) -> Result<(Index, Hasher), ReadError> {
    let mut checksum = Hasher::new();
    let (version, header) = read_frame(file, length, &mut checksum)?;
    if version != VERSION {
        return Err(match version {
            0 => Corrupt("the version").into(),
            version => FormatError::NewerFormat { version }.into(),
        });
    }
    let frame = PREFIX_BYTES + header.len();
    let header: Header = serde_json::from_slice(&header).map_err(|_| Corrupt("the header"))?;
    let table = u64::from(header.records) * MARK_BYTES as u64;
    let expected = (frame + 3 * CHECKSUM_BYTES) as u64 + table + u64::from(header.bytes);
    if length < expected {
        return Err(FormatError::Truncated.into());
    }
    if length > expected {
        return Err(Corrupt("bytes behind the end").into());
    }
    let stream = Stream::from_name(&header.stream)
        .ok_or_else(|| FormatError::UnknownStream(header.stream.clone()))?;
    let token = Uuid::try_parse(&header.token).map_err(|_| Corrupt("the token"))?;
    let rows = usize::try_from(header.rows).map_err(|_| Corrupt("the number of rows"))?;
    check_columns(&header.columns)?;

    // The file is that long, so the table is no larger than the file.
    let table = take(file, header.records as usize * MARK_BYTES)?;
    checksum.update(&table);
    verify(file, &checksum, "the checksum of the table")?;
    let records: Vec<Mark> = table.chunks_exact(MARK_BYTES).map(mark).collect();
    check_records(&records, header.bytes, header.rows)?;
    let index = Index {
        stream,
        columns: header.columns,
        rows,
        token,
        records,
        bytes: header.bytes,
        spooled_at_ms: header.spooled_at_ms,
    };
    Ok((index, checksum))
}

/// What is the same in every version: the version and the header's text, both sound.
fn read_frame(
    file: &mut impl Read,
    length: u64,
    checksum: &mut Hasher,
) -> Result<(u16, Vec<u8>), ReadError> {
    let mut prefix = [0; PREFIX_BYTES];
    let available = length.min(PREFIX_BYTES as u64) as usize;
    file.read_exact(&mut prefix[..available])?;
    let magic = available.min(MAGIC.len());
    if prefix[..magic] != MAGIC[..magic] {
        return Err(FormatError::NotASpoolFile.into());
    }
    if available < PREFIX_BYTES {
        return Err(FormatError::Truncated.into());
    }
    let version = u16::from_le_bytes([prefix[8], prefix[9]]);
    let header = u32::from_le_bytes([prefix[10], prefix[11], prefix[12], prefix[13]]) as usize;
    if header > MAX_HEADER_BYTES {
        return Err(Corrupt("the length of the header").into());
    }
    if length < (PREFIX_BYTES + header + CHECKSUM_BYTES) as u64 {
        return Err(FormatError::Truncated.into());
    }
    let header = take(file, header)?;
    checksum.update(&prefix);
    checksum.update(&header);
    verify(file, checksum, "the checksum of the header")?;
    Ok((version, header))
}

fn take(file: &mut impl Read, length: usize) -> Result<Vec<u8>, ReadError> {
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn verify(file: &mut impl Read, computed: &Hasher, what: &'static str) -> Result<(), ReadError> {
    let mut stored = [0; CHECKSUM_BYTES];
    file.read_exact(&mut stored)?;
    if u32::from_le_bytes(stored) == computed.clone().finalize() {
        Ok(())
    } else {
        Err(Corrupt(what).into())
    }
}

fn mark(bytes: &[u8]) -> Mark {
    let mut fields = [0; MARK_BYTES];
    fields.copy_from_slice(bytes);
    // One little-endian number holds the three, the first one lowest.
    let fields = u128::from_le_bytes(fields);
    Mark {
        end: fields as u32,
        rows: (fields >> 32) as u32,
        identity: (fields >> 64) as u64,
    }
}

fn check_columns(columns: &[String]) -> Result<(), FormatError> {
    let plain = |column: &String| {
        column.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && column
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    if columns.is_empty() || !columns.iter().all(plain) {
        return Err(Corrupt("the columns"));
    }
    Ok(())
}

fn check_records(records: &[Mark], bytes: u32, rows: u64) -> Result<(), FormatError> {
    let mut end = 0;
    let mut sum = 0;
    for mark in records {
        if mark.end <= end {
            return Err(Corrupt("the ends of the records"));
        }
        if mark.rows == 0 {
            return Err(Corrupt("a record without rows"));
        }
        end = mark.end;
        sum += u64::from(mark.rows);
    }
    if records.is_empty() {
        return Err(Corrupt("no records"));
    }
    if end != bytes {
        return Err(Corrupt("the end of the last record"));
    }
    if sum != rows {
        return Err(Corrupt("the number of rows"));
    }
    Ok(())
}
