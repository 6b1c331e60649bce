//! How each stream's records become rows: table, columns, encoding.
//!
//! RowBinary (<https://clickhouse.com/docs/interfaces/formats/RowBinary>): integers little-endian,
//! strings behind their length as LEB128, no separators.

use serde_json::{Map, Value, json};

use super::events;
use crate::domain::{
    Claim, ClaimSet, CreatedAt, PageUrl, PageView, RequestId, Stream, UserId, Version,
};
use crate::pipeline::{Batch, Record};

/// The table that a stream's batches go into.
pub(super) fn table(stream: Stream) -> &'static str {
    match stream {
        Stream::PageViews => "traffic",
        Stream::Events => "events",
    }
}

impl Record for ClaimSet {
    const STREAM: Stream = Stream::PageViews;
    const COLUMNS: &'static [&'static str] = &[
        "request_id",
        "user_id",
        "created_at",
        "page_url",
        "version",
        "is_deleted",
    ];

    fn identity(&self) -> u64 {
        self.claims()
            .first()
            .map_or(0, |claim| claim.view.request_id.get())
    }

    /// A post may: its claim is the same whenever it arrives. An update may not: only its sender's
    /// second look at the claims settles rivals, and that must not come before its rows.
    fn may_wait(&self) -> bool {
        matches!(self, ClaimSet::One(_))
    }

    fn rows(&self) -> usize {
        self.claims().len()
    }

    fn weight(&self) -> usize {
        let heap = |claim: &Claim| size_of::<Claim>() + claim.view.page_url.as_str().len();
        self.claims().iter().map(heap).sum()
    }

    fn encode(&self, buffer: &mut Vec<u8>) {
        for claim in self.claims() {
            buffer.extend_from_slice(&claim.view.request_id.get().to_le_bytes());
            buffer.extend_from_slice(&claim.view.user_id.get().to_le_bytes());
            buffer.extend_from_slice(&claim.view.created_at.unix().to_le_bytes());
            encode_string(claim.view.page_url.as_str().as_bytes(), buffer);
            buffer.extend_from_slice(&claim.version.get().to_le_bytes());
            buffer.push(u8::from(claim.is_deleted));
        }
    }
}

/// A string behind its length.
pub(super) fn encode_string(text: &[u8], buffer: &mut Vec<u8>) {
    encode_length(text.len(), buffer);
    buffer.extend_from_slice(text);
}

/// LEB128.
pub(super) fn encode_length(mut length: usize, buffer: &mut Vec<u8>) {
    while length >= 0x80 {
        buffer.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    buffer.push(length as u8);
}

/// One encoded row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) request_id: u64,
    pub(super) user_id: u32,
    pub(super) created_at: u32,
    pub(super) page_url: &'a [u8],
    pub(super) version: u64,
    pub(super) is_deleted: u8,
}

/// Takes the next row off; nothing if there is no whole one.
pub(super) fn read_row<'a>(rest: &mut &'a [u8]) -> Option<Row<'a>> {
    Some(Row {
        request_id: u64::from_le_bytes(take(rest)?),
        user_id: u32::from_le_bytes(take(rest)?),
        created_at: u32::from_le_bytes(take(rest)?),
        page_url: read_string(rest)?,
        version: u64::from_le_bytes(take(rest)?),
        is_deleted: u8::from_le_bytes(take(rest)?),
    })
}

pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(*taken)
}

pub(super) fn read_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut length = 0_usize;
    for shift in (0..usize::BITS - 7).step_by(7) {
        let [byte] = take(rest)?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let (text, left) = rest.split_at_checked(length)?;
            *rest = left;
            return Some(text);
        }
    }
    None
}

/// The claims in encoded rows of page views, as many as could be read; none in those of another stream.
pub(super) fn decode_claims(batch: &Batch) -> Vec<Claim> {
    if batch.stream != Stream::PageViews {
        return Vec::new();
    }
    let mut rest = &batch.bytes[..];
    let rows = std::iter::from_fn(|| read_row(&mut rest));
    rows.map(|row| Claim {
        view: PageView {
            request_id: RequestId::new(row.request_id),
            user_id: UserId::new(row.user_id),
            created_at: CreatedAt::from_unix(row.created_at),
            page_url: PageUrl::trusted(String::from_utf8_lossy(row.page_url)),
        },
        version: Version::new(row.version),
        is_deleted: row.is_deleted != 0,
    })
    .collect()
}

/// Whether the batch holds page views as this version encodes them.
pub(super) fn is_page_views(batch: &Batch) -> bool {
    batch.stream == Stream::PageViews && batch.columns == <ClaimSet as Record>::COLUMNS
}

/// The rows of a batch for a person to read, one JSON object each.
pub fn readable(batch: &Batch) -> Vec<Value> {
    if let Some(rows) = events::readable(batch) {
        return rows;
    }
    if !is_page_views(batch) {
        // Written by another version of the service: its encoding is not known here.
        return vec![json!({"columns": batch.columns, "encoded_bytes": batch.bytes.len()})];
    }
    let object = |claim: Claim| {
        let mut row = Map::new();
        row.insert("request_id".to_owned(), claim.view.request_id.get().into());
        row.insert("user_id".to_owned(), claim.view.user_id.get().into());
        row.insert(
            "created_at".to_owned(),
            claim.view.created_at.to_string().into(),
        );
        row.insert("page_url".to_owned(), claim.view.page_url.as_str().into());
        row.insert("version".to_owned(), claim.version.get().into());
        row.insert("is_deleted".to_owned(), claim.is_deleted.into());
        Value::Object(row)
    };
    decode_claims(batch).into_iter().map(object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_read_back_as_they_were() {
        let claim = |page: String, is_deleted| Claim {
            view: PageView {
                request_id: RequestId::new(u64::MAX),
                user_id: UserId::new(u32::MAX),
                created_at: CreatedAt::from_unix(1),
                page_url: PageUrl::trusted(page),
            },
            version: Version::new(7),
            is_deleted,
        };
        let claims = vec![
            claim("/".to_owned(), false),
            claim(format!("/{}", "é".repeat(1000)), true),
        ];
        let batch = Batch::encode([&ClaimSet::Many(claims.clone())]);
        assert_eq!(decode_claims(&batch), claims);
        assert_eq!(readable(&batch)[1]["is_deleted"], true);
        for cut in 0..batch.bytes.len() {
            let torn = Batch {
                bytes: batch.bytes.slice(..cut),
                ..batch.clone()
            };
            assert!(decode_claims(&torn).len() < 2);
        }
    }

    #[test]
    fn lengths_are_leb128() {
        let encoded = |length: usize| {
            let mut buffer = Vec::new();
            encode_string(&vec![b'a'; length], &mut buffer);
            buffer[..buffer.len() - length].to_vec()
        };
        assert_eq!(encoded(0), [0]);
        assert_eq!(encoded(127), [127]);
        assert_eq!(encoded(128), [0x80, 1]);
        assert_eq!(encoded(2048), [0x80, 0x10]);
    }
}
