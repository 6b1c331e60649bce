//! Events as rows of RowBinary (see [`super::super::rows`]), and as columns (see
//! [`super::super::columns`]). A UUID is two integers of 64 bits, the upper half first, each
//! little-endian.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::domain::{CreatedAt, Event, Stream};
use crate::pipeline::{Batch, Record};
use crate::repository::columns;
use crate::repository::rows::{encode_string, read_string, take};

impl Record for Event {
    const STREAM: Stream = Stream::Events;
    const COLUMNS: &'static [&'static str] = &["site_id", "type", "time", "correlation_id"];

    /// All bits of both ids in 64. Nobody looks an event up by it.
    fn identity(&self) -> u64 {
        let (site, id) = (self.identity.site_id, self.identity.correlation_id);
        let (a, b) = site.get().as_u64_pair();
        let (c, d) = id.get().as_u64_pair();
        a.rotate_left(32) ^ b ^ c.rotate_left(16) ^ d
    }

    /// A copy of an event is the same row whenever it arrives.
    fn may_wait(&self) -> bool {
        true
    }

    fn rows(&self) -> usize {
        1
    }

    fn weight(&self) -> usize {
        size_of::<Event>()
    }

    fn encode(&self, buffer: &mut Vec<u8>) {
        encode_uuid(self.identity.site_id.get(), buffer);
        encode_string(self.identity.of.as_str().as_bytes(), buffer);
        buffer.extend_from_slice(&self.time.unix().to_le_bytes());
        encode_uuid(self.identity.correlation_id.get(), buffer);
    }
}

fn encode_uuid(id: Uuid, buffer: &mut Vec<u8>) {
    let (upper, lower) = id.as_u64_pair();
    buffer.extend_from_slice(&upper.to_le_bytes());
    buffer.extend_from_slice(&lower.to_le_bytes());
}

fn read_uuid(rest: &mut &[u8]) -> Option<Halves> {
    let upper = u64::from_le_bytes(take(rest)?);
    let lower = u64::from_le_bytes(take(rest)?);
    Some(Halves { lower, upper })
}

/// One encoded row; in the order of the sorting key.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Row<'a> {
    site: Halves,
    of: &'a [u8],
    time: u32,
    id: Halves,
}

/// A UUID in ClickHouse's order: the second half first
/// (<https://clickhouse.com/docs/sql-reference/data-types/uuid>).
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Halves {
    lower: u64,
    upper: u64,
}

impl Halves {
    fn uuid(&self) -> Uuid {
        Uuid::from_u64_pair(self.upper, self.lower)
    }
}

/// Takes the next row off; nothing if there is no whole one.
fn read_row<'a>(rest: &mut &'a [u8]) -> Option<Row<'a>> {
    Some(Row {
        site: read_uuid(rest)?,
        of: read_string(rest)?,
        time: u32::from_le_bytes(take(rest)?),
        id: read_uuid(rest)?,
    })
}

/// Whether the batch holds events as this version encodes them.
pub(in crate::repository) fn is_events(batch: &Batch) -> bool {
    batch.stream == Stream::Events && batch.columns == <Event as Record>::COLUMNS
}

/// Encoded events, `count` of them, as one sorted Native block; nothing if they can't be read.
pub(in crate::repository) fn native(encoded: &[u8], count: usize) -> Option<Vec<u8>> {
    let mut rows = Vec::with_capacity(count);
    let mut rest = encoded;
    while !rest.is_empty() {
        rows.push(read_row(&mut rest)?);
    }
    if rows.len() != count {
        return None;
    }
    rows.sort_unstable();
    let mut block = columns::begin(4, count, encoded.len());
    columns::column(&mut block, "site_id", "UUID");
    rows.iter()
        .for_each(|row| encode_uuid(row.site.uuid(), &mut block));
    columns::column(&mut block, "type", "LowCardinality(String)");
    columns::dictionary(rows.iter().map(|row| row.of), &mut block);
    columns::column(&mut block, "time", "DateTime('UTC')");
    rows.iter()
        .for_each(|row| block.extend_from_slice(&row.time.to_le_bytes()));
    columns::column(&mut block, "correlation_id", "UUID");
    rows.iter()
        .for_each(|row| encode_uuid(row.id.uuid(), &mut block));
    Some(block)
}

/// The rows of a batch of events for a person to read; nothing where this version does not know their
/// encoding.
pub(in crate::repository) fn readable(batch: &Batch) -> Option<Vec<Value>> {
    if !is_events(batch) {
        return None;
    }
    let mut rest = &batch.bytes[..];
    let rows = std::iter::from_fn(|| read_row(&mut rest));
    let object = |row: Row<'_>| {
        json!({
            "site_id": row.site.uuid().to_string(),
            "type": String::from_utf8_lossy(row.of),
            "correlation_id": row.id.uuid().to_string(),
            "time": CreatedAt::from_unix(row.time).to_string(),
        })
    };
    Some(rows.map(object).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CorrelationId, EventIdentity, EventType, SiteId};

    #[test]
    fn events_are_read_back_as_they_were() {
        let event = |id: u128, of: &str| Event {
            identity: EventIdentity {
                site_id: SiteId::new(Uuid::from_u128(u128::MAX - id)),
                correlation_id: CorrelationId::new(Uuid::from_u128(id)),
                of: of.parse().unwrap(),
            },
            time: CreatedAt::from_unix(978_328_507),
        };
        let batch = Batch::encode(&[
            event(1, "serve"),
            event(u128::MAX << 7, EventType::SOLVE.as_str()),
        ]);
        let rows = readable(&batch).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(
            rows[0]["correlation_id"],
            "00000000-0000-0000-0000-000000000001"
        );
        assert_eq!(rows[0]["site_id"], "ffffffff-ffff-ffff-ffff-fffffffffffe");
        assert_eq!(
            (&rows[1]["type"], &rows[1]["time"]),
            (&json!("solve"), &json!("2001-01-01T05:55:07Z"))
        );
        for cut in 0..batch.bytes.len() {
            let bytes = batch.bytes.slice(..cut);
            assert_eq!(native(&bytes, 2), None, "{cut}");
            let torn = Batch {
                bytes,
                ..batch.clone()
            };
            assert!(readable(&torn).unwrap().len() < 2);
        }
    }

    #[test]
    fn events_are_turned_and_sorted() {
        let event = |site: u128, of: &str, time, id| Event {
            identity: EventIdentity {
                site_id: SiteId::new(Uuid::from_u128(site)),
                correlation_id: CorrelationId::new(Uuid::from_u128(id)),
                of: of.parse().unwrap(),
            },
            time: CreatedAt::from_unix(time),
        };
        let batch = Batch::encode(&[
            event(2, "serve", 5, 1),
            event(1, "solve", 5, 3),
            event(1, "serve", 7, 4),
            event(1 << 64, "serve", 9, 5),
        ]);
        let uuid = |(upper, lower): (u64, u64)| [upper.to_le_bytes(), lower.to_le_bytes()].concat();
        let uuids = |ids: [(u64, u64); 4]| ids.map(uuid).concat();
        let mut expected = columns::begin(4, 4, 0);
        assert_eq!(expected, [4, 4]);
        columns::column(&mut expected, "site_id", "UUID");
        expected.extend(uuids([(1, 0), (0, 1), (0, 1), (0, 2)]));
        columns::column(&mut expected, "type", "LowCardinality(String)");
        columns::dictionary(
            [&b"serve"[..], b"serve", b"solve", b"serve"].into_iter(),
            &mut expected,
        );
        columns::column(&mut expected, "time", "DateTime('UTC')");
        expected.extend([9_u32, 7, 5, 5].map(u32::to_le_bytes).concat());
        columns::column(&mut expected, "correlation_id", "UUID");
        expected.extend(uuids([(0, 5), (0, 4), (0, 3), (0, 1)]));
        assert_eq!(native(&batch.bytes, 4).unwrap(), expected);
        assert_eq!(native(&batch.bytes, 3), None);
    }
}
