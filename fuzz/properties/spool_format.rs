//! Whatever a file of the spool holds, decoding it neither panics nor gives a batch that was not
//! written. Run it with `-malloc_limit_mb=64`, so that one wild allocation fails it.
//!
//! The first byte of the input chooses what is done with the rest: take it for a file; take it for a
//! file after its checksums were made right, which is the way past them to the rules behind; or
//! damage a sound file with it.

use traffic_api::domain::Stream;
use traffic_api::pipeline::spool::format::{decode, encode};
use traffic_api::pipeline::{Batch, Mark};
use uuid::Uuid;

pub fn check(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else {
        return;
    };
    match choice % 4 {
        0 => must_be_a_fixed_point(rest),
        1 => must_be_a_fixed_point(&sealed(rest.to_vec())),
        2 => damage(rest, false),
        _ => damage(rest, true),
    }
}

/// What is accepted can be written, and is then accepted as the same.
fn must_be_a_fixed_point(file: &[u8]) {
    let Ok(first) = decode(file) else { return };
    let again = encode(&first.batch, first.spooled_at_ms).expect("a decoded batch obeys the rules");
    assert_eq!(decode(&again.to_vec()).as_ref(), Ok(&first));
    assert_eq!(
        first.batch.records.last().map(|m| m.end as usize),
        Some(first.batch.bytes.len())
    );
    assert_eq!(
        first
            .batch
            .records
            .iter()
            .map(|m| m.rows as usize)
            .sum::<usize>(),
        first.batch.rows
    );
}

/// Applies each three bytes of `edits` to a sound file: where, what, how.
fn damage(edits: &[u8], seal: bool) {
    let batch = sound();
    let original = encode(&batch, 1_700_000_000_000).unwrap().to_vec();
    let mut file = original.clone();
    for edit in edits.chunks_exact(3) {
        let at = (usize::from(edit[0]) * 257 + usize::from(edit[1] >> 2)) % file.len().max(1);
        match edit[1] % 4 {
            0 if at < file.len() => file[at] ^= edit[2],
            1 => file.truncate(at),
            2 => file.insert(at.min(file.len()), edit[2]),
            _ if at < file.len() => {
                let end = (at + usize::from(edit[2])).min(file.len());
                let copy = file[at..end].to_vec();
                file.splice(at..at, copy);
            }
            _ => {}
        }
    }
    if seal {
        return must_be_a_fixed_point(&sealed(file));
    }
    if let Ok(spooled) = decode(&file) {
        assert_eq!(file, original, "accepted a damaged file");
        assert_eq!(spooled.batch, batch);
    }
}

fn sound() -> Batch {
    Batch {
        stream: Stream::PageViews,
        columns: vec!["a".into(), "b_2".into()],
        rows: 4,
        token: Uuid::from_u128(7),
        records: vec![
            Mark {
                end: 3,
                rows: 1,
                identity: 1,
            },
            Mark {
                end: 40,
                rows: 2,
                identity: u64::MAX,
            },
            Mark {
                end: 41,
                rows: 1,
                identity: 1,
            },
        ],
        bytes: (0..41).collect::<Vec<u8>>().into(),
    }
}

/// The file with the right magic and checksums, wherever its own lengths put them.
fn sealed(mut file: Vec<u8>) -> Vec<u8> {
    let mut crc = crc32fast::Hasher::new();
    if file.len() < 14 {
        return file;
    }
    file[..8].copy_from_slice(b"\x89SPOOL\r\n");
    let header = u32::from_le_bytes(file[10..14].try_into().unwrap()) as usize;
    let Some(table) = put(&mut file, &mut crc, 0, 14_usize.saturating_add(header)) else {
        return file;
    };
    let text = String::from_utf8_lossy(&file[14..14 + header]).into_owned();
    let records = text
        .split_once("\"records\":")
        .and_then(|(_, rest)| {
            rest.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse::<usize>()
                .ok()
        })
        .unwrap_or(0);
    let end = table.saturating_add(records.saturating_mul(16));
    if let Some(bytes) = put(&mut file, &mut crc, table, end) {
        let end = file.len().saturating_sub(4).max(bytes);
        put(&mut file, &mut crc, bytes, end);
    }
    file
}

/// Sums up `begin..end`, writes the sum behind it and says where that ends.
fn put(file: &mut [u8], crc: &mut crc32fast::Hasher, begin: usize, end: usize) -> Option<usize> {
    let after = end.checked_add(4)?;
    crc.update(file.get(begin..end)?);
    file.get_mut(end..after)?
        .copy_from_slice(&crc.clone().finalize().to_le_bytes());
    Some(after)
}
