//! Events as rows of RowBinary (see [`super::super::rows`]). A UUID is two integers of 64 bits, the
//! upper half first, each little-endian.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::domain::{CreatedAt, Event, Stream};
use crate::pipeline::{Batch, Record};
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

fn read_uuid(rest: &mut &[u8]) -> Option<Uuid> {
    let upper = u64::from_le_bytes(take(rest)?);
    Some(Uuid::from_u64_pair(upper, u64::from_le_bytes(take(rest)?)))
}

/// The rows of a batch of events for a person to read; nothing where this version does not know their
/// encoding.
pub(in crate::repository) fn readable(batch: &Batch) -> Option<Vec<Value>> {
    if batch.stream != Stream::Events || batch.columns != <Event as Record>::COLUMNS {
        return None;
    }
    let mut rest = &batch.bytes[..];
    let row = || {
        let site = read_uuid(&mut rest)?;
        let of = String::from_utf8_lossy(read_string(&mut rest)?).into_owned();
        let time = CreatedAt::from_unix(u32::from_le_bytes(take(&mut rest)?));
        let id = read_uuid(&mut rest)?;
        Some(json!({
            "site_id": site.to_string(),
            "type": of,
            "correlation_id": id.to_string(),
            "time": time.to_string(),
        }))
    };
    Some(std::iter::from_fn(row).collect())
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
            let torn = Batch {
                bytes,
                ..batch.clone()
            };
            assert!(readable(&torn).unwrap().len() < 2);
        }
    }
}
