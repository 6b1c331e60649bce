//! How each stream's records become rows: table, columns, encoding.
//!
//! RowBinary (<https://clickhouse.com/docs/interfaces/formats/RowBinary>): integers little-endian,
//! strings behind their length as LEB128, no separators.

use crate::domain::{Claim, ClaimSet, Stream};
use crate::pipeline::Record;

/// The table that a stream's batches go into.
pub(super) fn table(stream: Stream) -> &'static str {
    match stream {
        Stream::PageViews => "traffic",
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
            encode_string(claim.view.page_url.as_str(), buffer);
            buffer.extend_from_slice(&claim.version.get().to_le_bytes());
            buffer.push(u8::from(claim.is_deleted));
        }
    }
}

fn encode_string(text: &str, buffer: &mut Vec<u8>) {
    let mut length = text.len();
    while length >= 0x80 {
        buffer.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    buffer.push(length as u8);
    buffer.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_leb128() {
        let encoded = |length: usize| {
            let mut buffer = Vec::new();
            encode_string(&"a".repeat(length), &mut buffer);
            buffer[..buffer.len() - length].to_vec()
        };
        assert_eq!(encoded(0), [0]);
        assert_eq!(encoded(127), [127]);
        assert_eq!(encoded(128), [0x80, 1]);
        assert_eq!(encoded(2048), [0x80, 0x10]);
    }
}
