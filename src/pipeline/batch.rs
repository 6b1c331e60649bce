//! Encoded rows of one stream, written as one insert, and where its records begin and end.

use bytes::Bytes;
use uuid::Uuid;

use super::Record;
use crate::domain::Stream;

/// Records of one stream in their encoded form. What the lane, the sink and the spool pass on: none
/// of them looks inside the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Which stream the rows belong to.
    pub stream: Stream,
    /// The columns of each row, in order.
    pub columns: Vec<String>,
    /// How many rows, at least as many as records.
    pub rows: usize,
    /// The identity of the batch: a repeated write carries the same token.
    pub token: Uuid,
    /// One mark for each record, in order; never empty.
    pub records: Vec<Mark>,
    /// The records, one behind the other.
    pub bytes: Bytes,
}

/// One record inside a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Where it ends in the batch's bytes; it begins where the one before it ends.
    pub end: u32,
    /// How many rows it has.
    pub rows: u32,
    /// Which thing it is about ([`Record::identity`]).
    pub identity: u64,
}

impl Batch {
    /// Encodes `records`, of which there is at least one, under a new token.
    pub fn encode<'a, R: Record>(records: impl IntoIterator<Item = &'a R>) -> Self {
        let mut bytes = Vec::new();
        let mut marks = Vec::new();
        for record in records {
            record.encode(&mut bytes);
            marks.push(Mark {
                // The byte budget of a lane is below 4 GiB.
                end: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
                rows: u32::try_from(record.rows()).unwrap_or(u32::MAX),
                identity: record.identity(),
            });
        }
        Self {
            stream: R::STREAM,
            columns: R::COLUMNS.iter().map(|c| (*c).to_owned()).collect(),
            rows: total_rows(&marks),
            token: Uuid::new_v4(),
            records: marks,
            bytes: bytes.into(),
        }
    }

    /// The bytes of one record.
    pub fn record(&self, index: usize) -> Bytes {
        let begin = if index == 0 {
            0
        } else {
            self.records[index - 1].end as usize
        };
        self.bytes.slice(begin..self.records[index].end as usize)
    }

    /// A batch of those records whose index `keep` accepts, in order; `None` when there are none.
    /// Under the same token only if it is the whole batch.
    pub fn select(&self, keep: impl Fn(usize) -> bool) -> Option<Batch> {
        let kept: Vec<usize> = (0..self.records.len()).filter(|i| keep(*i)).collect();
        if kept.len() == self.records.len() {
            return Some(self.clone());
        }
        let mut bytes = Vec::new();
        let mut marks = Vec::with_capacity(kept.len());
        for index in kept {
            bytes.extend_from_slice(&self.record(index));
            marks.push(Mark {
                end: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
                ..self.records[index]
            });
        }
        (!marks.is_empty()).then(|| Batch {
            stream: self.stream,
            columns: self.columns.clone(),
            rows: total_rows(&marks),
            token: Uuid::new_v4(),
            records: marks,
            bytes: bytes.into(),
        })
    }
}

fn total_rows(marks: &[Mark]) -> usize {
    marks.iter().map(|mark| mark.rows as usize).sum()
}
