//! Large batches column by column, as ClickHouse itself keeps them: Native
//! (<https://clickhouse.com/docs/interfaces/formats/Native>).
//!
//! In the spool a batch is rows; only on its way to ClickHouse it is turned. That costs this process
//! about a tenth of a microsecond a row and spares ClickHouse several times as much: it parses no
//! rows, each page (of events, each type) arrives once with a number for every row that has it, and the
//! rows stand in the order of the sorting key. Page views are turned here, events beside their rows
//! (`events/record.rs`).

use std::collections::HashMap;

use foldhash::quality::RandomState;

use super::rows::{self, Row};

/// Below, the fixed cost of an insert is nearly all there is.
pub(super) const MIN_ROWS: usize = 2000;

/// How the numbers of the pages are laid out, as in ClickHouse's
/// `src/DataTypes/Serializations/SerializationLowCardinality.cpp`: the version of the layout; then
/// 32-bit numbers (2) and keys that come along (bit 9), which are all the keys there are (bit 10).
const KEYS_VERSION: u64 = 1;
const KEYS_AND_NUMBERS: u64 = 2 | 1 << 9 | 1 << 10;

const COLUMNS: usize = 6;

/// Encoded page views, `count` rows of them, as one sorted Native block; nothing if they can't be
/// read.
pub(super) fn native(encoded: &[u8], count: usize) -> Option<Vec<u8>> {
    let mut rows = Vec::with_capacity(count);
    let mut rest = encoded;
    while !rest.is_empty() {
        rows.push(rows::read_row(&mut rest)?);
    }
    if rows.len() != count {
        return None;
    }
    let mut block = begin(COLUMNS, rows.len(), encoded.len());
    let rows = sorted(&rows);
    column(&mut block, "request_id", "UInt64");
    rows.iter()
        .for_each(|row| block.extend_from_slice(&row.request_id.to_le_bytes()));
    column(&mut block, "user_id", "UInt32");
    rows.iter()
        .for_each(|row| block.extend_from_slice(&row.user_id.to_le_bytes()));
    column(&mut block, "created_at", "DateTime('UTC')");
    rows.iter()
        .for_each(|row| block.extend_from_slice(&row.created_at.to_le_bytes()));
    column(&mut block, "page_url", "LowCardinality(String)");
    dictionary(rows.iter().map(|row| row.page_url), &mut block);
    column(&mut block, "version", "UInt64");
    rows.iter()
        .for_each(|row| block.extend_from_slice(&row.version.to_le_bytes()));
    column(&mut block, "is_deleted", "UInt8");
    rows.iter().for_each(|row| block.push(row.is_deleted));
    Some(block)
}

/// By the sorting key of `traffic`, so far as claims of one request id don't need telling apart:
/// ClickHouse looks itself, and sorts what is not in order.
fn sorted<'a>(rows: &[Row<'a>]) -> Vec<Row<'a>> {
    let mut order: Vec<(u64, u64, u32)> = (0..)
        .zip(rows)
        .map(|(place, row)| {
            let viewed = u64::from(row.user_id) << 32 | u64::from(row.created_at);
            (viewed, row.request_id, place)
        })
        .collect();
    order.sort_unstable();
    let row = |(_, _, place): (u64, u64, u32)| rows[place as usize];
    order.into_iter().map(row).collect()
}

/// A block of so many columns and rows, of about so many bytes.
pub(super) fn begin(columns: usize, rows: usize, bytes: usize) -> Vec<u8> {
    let mut block = Vec::with_capacity(bytes);
    rows::encode_length(columns, &mut block);
    rows::encode_length(rows, &mut block);
    block
}

/// The head of the next column; its values follow.
pub(super) fn column(block: &mut Vec<u8>, name: &str, kind: &str) {
    rows::encode_string(name.as_bytes(), block);
    rows::encode_string(kind.as_bytes(), block);
}

/// The values of a `LowCardinality(String)`: every text once, then for each row the number of its own.
pub(super) fn dictionary<'a>(texts: impl Iterator<Item = &'a [u8]>, block: &mut Vec<u8>) {
    // The first key is the type's default, by rule.
    let mut keys: Vec<&[u8]> = vec![b""];
    let mut numbers: HashMap<&[u8], u32, RandomState> = HashMap::default();
    numbers.insert(b"", 0);
    let mut number = |text| {
        *numbers.entry(text).or_insert_with(|| {
            keys.push(text);
            keys.len() as u32 - 1
        })
    };
    let of_rows: Vec<u32> = texts.map(&mut number).collect();
    block.extend_from_slice(&KEYS_VERSION.to_le_bytes());
    block.extend_from_slice(&KEYS_AND_NUMBERS.to_le_bytes());
    block.extend_from_slice(&(keys.len() as u64).to_le_bytes());
    for key in keys {
        rows::encode_string(key, block);
    }
    block.extend_from_slice(&(of_rows.len() as u64).to_le_bytes());
    of_rows
        .into_iter()
        .for_each(|number| block.extend_from_slice(&number.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        Claim, ClaimSet, CreatedAt, PageUrl, PageView, RequestId, UserId, Version,
    };
    use crate::pipeline::Batch;

    fn claims(user_id: u32, created_at: u32, request_id: u64, page: &str) -> ClaimSet {
        ClaimSet::One(Claim::first(PageView {
            request_id: RequestId::new(request_id),
            user_id: UserId::new(user_id),
            created_at: CreatedAt::from_unix(created_at),
            page_url: PageUrl::trusted(page),
        }))
    }

    #[test]
    fn rows_are_turned_and_sorted() {
        let batch = Batch::encode(&[
            claims(2, 1, 1, "/b"),
            claims(1, 5, 7, "/a"),
            claims(1, 5, 6, "/b"),
        ]);
        let block = native(&batch.bytes, 3).unwrap();
        let mut expected = vec![6, 3];
        let mut head = |name: &str, kind: &str, data: &[u8]| {
            column(&mut expected, name, kind);
            expected.extend_from_slice(data);
        };
        let longs = |numbers: [u64; 3]| numbers.map(u64::to_le_bytes).concat();
        let ints = |numbers: [u32; 3]| numbers.map(u32::to_le_bytes).concat();
        head("request_id", "UInt64", &longs([6, 7, 1]));
        head("user_id", "UInt32", &ints([1, 1, 2]));
        head("created_at", "DateTime('UTC')", &ints([5, 5, 1]));
        let keys = [
            &longs([1, 0x602, 3])[..],
            b"\0\x02/b\x02/a",
            &3_u64.to_le_bytes(),
        ]
        .concat();
        let pages = [&keys[..], &ints([1, 2, 1])].concat();
        head("page_url", "LowCardinality(String)", &pages);
        head("version", "UInt64", &longs([0; 3]));
        head("is_deleted", "UInt8", &[0; 3]);
        assert_eq!(block, expected);
    }

    #[test]
    fn what_cannot_be_read_is_left_as_it_is() {
        let batch = Batch::encode(&[claims(1, 1, 1, "/a"), claims(1, 1, 2, "/a")]);
        assert!(native(&batch.bytes, 2).is_some());
        assert_eq!(native(&batch.bytes, 3), None);
        for end in 0..batch.bytes.len() {
            assert_eq!(native(&batch.bytes[..end], 2), None, "{end}");
        }
    }

    #[test]
    fn versions_and_tombstones_are_kept() {
        let claim = |version, is_deleted| Claim {
            version: Version::new(version),
            is_deleted,
            ..claims(1, 1, 1, "/a").claims()[0].clone()
        };
        let batch = Batch::encode([&ClaimSet::Many(vec![claim(9, true), claim(8, false)])]);
        let block = native(&batch.bytes, 2).unwrap();
        assert_eq!(block[block.len() - 2..], [1, 0]);
    }
}
