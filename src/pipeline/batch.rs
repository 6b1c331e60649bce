//! Encoded rows of one stream, written as one insert, and where its records begin and end.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
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

/// Records that are being encoded, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    bytes: Vec<u8>,
    marks: Vec<Mark>,
}

impl Encoded {
    pub(super) fn push<R: Record>(&mut self, record: &R) {
        record.encode(&mut self.bytes);
        self.marks.push(Mark {
            // The byte budgets of all lanes are below 4 GiB.
            end: u32::try_from(self.bytes.len()).unwrap_or(u32::MAX),
            rows: u32::try_from(record.rows()).unwrap_or(u32::MAX),
            identity: record.identity(),
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Keeps those records whose place `keep` accepts, in order.
    pub(super) fn retain(&mut self, keep: impl Fn(usize) -> bool) {
        let kept = (0..self.marks.len()).filter(|place| keep(*place));
        *self = Self::copied(&self.bytes, &self.marks, kept);
    }

    /// The records at `places` of encoded ones.
    fn copied(bytes: &[u8], marks: &[Mark], places: impl Iterator<Item = usize>) -> Self {
        let mut copied = Self::default();
        for place in places {
            copied.bytes.extend_from_slice(&bytes[range(marks, place)]);
            copied.marks.push(Mark {
                end: u32::try_from(copied.bytes.len()).unwrap_or(u32::MAX),
                ..marks[place]
            });
        }
        copied
    }

    /// A batch under a new token; there is at least one record, all of them of the type `R`.
    pub(super) fn into_batch<R: Record>(self) -> Batch {
        Batch {
            stream: R::STREAM,
            columns: R::COLUMNS.iter().map(|c| (*c).to_owned()).collect(),
            rows: total_rows(&self.marks),
            token: Uuid::new_v4(),
            records: self.marks,
            bytes: self.bytes.into(),
        }
    }
}

impl Batch {
    /// Encodes `records`, of which there is at least one, under a new token.
    pub fn encode<'a, R: Record>(records: impl IntoIterator<Item = &'a R>) -> Self {
        let mut encoded = Encoded::default();
        for record in records {
            encoded.push(record);
        }
        encoded.into_batch::<R>()
    }

    /// The bytes of one record.
    pub fn record(&self, index: usize) -> Bytes {
        self.bytes.slice(range(&self.records, index))
    }

    /// A batch of those records whose index `keep` accepts, in order; `None` when there are none.
    /// Under the same token only if it is the whole batch.
    pub fn select(&self, keep: impl Fn(usize) -> bool) -> Option<Batch> {
        let kept: Vec<usize> = (0..self.records.len()).filter(|i| keep(*i)).collect();
        if kept.len() == self.records.len() {
            return Some(self.clone());
        }
        let Encoded { bytes, marks } =
            Encoded::copied(&self.bytes, &self.records, kept.into_iter());
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

impl Batch {
    /// Whether the records of both could stand in one batch.
    pub(super) fn is_like(&self, other: &Batch) -> bool {
        self.stream == other.stream && self.columns == other.columns
    }

    /// One batch of all records, in order, under the first one's token; nothing for no batch. All of
    /// them must be alike ([`Batch::is_like`]).
    pub(super) fn join<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Option<Batch> {
        let mut batches = batches.into_iter();
        let mut joined = batches.next()?.clone();
        let mut bytes = Vec::from(joined.bytes);
        for batch in batches {
            let begin = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&batch.bytes);
            joined.records.extend(batch.records.iter().map(|mark| Mark {
                end: begin.saturating_add(mark.end),
                ..*mark
            }));
            joined.rows += batch.rows;
        }
        joined.bytes = bytes.into();
        Some(joined)
    }
}

/// As a line of JSON keeps it.
#[derive(Serialize, Deserialize)]
struct Kept {
    stream: String,
    columns: Vec<String>,
    /// (bytes, rows, identity) of each record.
    records: Vec<(usize, u32, u64)>,
    /// Hexadecimal.
    bytes: String,
}

impl Batch {
    /// The batch as JSON, from which [`Batch::from_json`] makes it again.
    pub(super) fn to_json(&self) -> Value {
        let records = (0..self.records.len()).map(|i| {
            (
                self.record(i).len(),
                self.records[i].rows,
                self.records[i].identity,
            )
        });
        let kept = Kept {
            stream: self.stream.name().to_owned(),
            columns: self.columns.clone(),
            records: records.collect(),
            bytes: self
                .bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        };
        serde_json::to_value(kept).unwrap_or_default()
    }

    /// The batch that [`Batch::to_json`] wrote, under a new token; nothing if it is damaged.
    pub fn from_json(value: &Value) -> Option<Self> {
        let kept = Kept::deserialize(value).ok()?;
        let pairs = kept.bytes.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Vec<u8> = pairs.map(byte).collect::<Option<_>>()?;
        let mut end = 0_u32;
        let mut records = Vec::with_capacity(kept.records.len());
        for (length, rows, identity) in kept.records {
            end = end.checked_add(u32::try_from(length).ok()?)?;
            records.push(Mark {
                end,
                rows,
                identity,
            });
        }
        if records.is_empty() || end as usize != bytes.len() {
            return None;
        }
        Some(Batch {
            stream: Stream::from_name(&kept.stream)?,
            columns: kept.columns,
            rows: total_rows(&records),
            token: Uuid::new_v4(),
            records,
            bytes: bytes.into(),
        })
    }
}

/// Where the record at `index` lies.
fn range(marks: &[Mark], index: usize) -> Range<usize> {
    let begin = index.checked_sub(1).map_or(0, |before| marks[before].end);
    begin as usize..marks[index].end as usize
}

fn total_rows(marks: &[Mark]) -> usize {
    marks.iter().map(|mark| mark.rows as usize).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(texts: &[&str]) -> Batch {
        let mut bytes = Vec::new();
        let mut records = Vec::new();
        for (identity, text) in (0..).zip(texts) {
            bytes.extend_from_slice(text.as_bytes());
            records.push(Mark {
                end: u32::try_from(bytes.len()).unwrap(),
                rows: 2,
                identity,
            });
        }
        Batch {
            stream: Stream::PageViews,
            columns: vec!["a".to_owned()],
            rows: 2 * texts.len(),
            token: Uuid::new_v4(),
            records,
            bytes: bytes.into(),
        }
    }

    fn texts(batch: &Batch) -> Vec<String> {
        (0..batch.records.len())
            .map(|i| String::from_utf8(batch.record(i).to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn selected_and_joined_records_are_the_same_records() {
        let whole = batch(&["one", "", "three", "four"]);
        assert_eq!(whole.select(|_| true), Some(whole.clone()));
        assert_eq!(whole.select(|_| false), None);
        let odd = whole.select(|i| i % 2 == 1).unwrap();
        assert_eq!(
            (texts(&odd), odd.rows),
            (vec![String::new(), "four".to_owned()], 4)
        );
        assert_ne!(odd.token, whole.token);
        let even = whole.select(|i| i % 2 == 0).unwrap();
        let joined = Batch::join([&even, &odd]).unwrap();
        assert_eq!(texts(&joined), ["one", "three", "", "four"]);
        assert_eq!((joined.rows, joined.token), (8, even.token));
        assert_eq!(joined.records[3].identity, 3);
        assert_eq!(Batch::join([]), None);
    }

    #[test]
    fn a_line_of_json_keeps_a_batch() {
        let whole = batch(&["one", "\u{0}ü", ""]);
        let again = Batch::from_json(&whole.to_json()).unwrap();
        assert_eq!(
            again,
            Batch {
                token: again.token,
                ..whole.clone()
            }
        );
        let mut damaged = whole.to_json();
        damaged["bytes"] = "6f".into();
        assert_eq!(Batch::from_json(&damaged), None);
        damaged["bytes"] = "é".into();
        assert_eq!(Batch::from_json(&damaged), None);
        assert_eq!(Batch::from_json(&Value::Null), None);
    }
}
