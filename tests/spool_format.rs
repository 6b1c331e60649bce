//! The spool under damage: of a single file in memory, and of a whole directory. Nothing wrong is
//! ever read back, nothing sound is ever lost, and no length in a file is believed before it is
//! checked.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use proptest::sample::Index;
use traffic_api::domain::Stream;
use traffic_api::pipeline::spool::format::{decode, encode};
use traffic_api::pipeline::spool::{
    Error, FormatError, Held, Kind, Name, ReadError, Shelf, Spool, Spooled,
};
use traffic_api::pipeline::{Batch, Mark};
use uuid::Uuid;

/// Remembers the largest piece of memory that was ever asked for.
struct Watched;

static LARGEST_REQUEST: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator can't be written without")]
// SAFETY: every call is passed on unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST_REQUEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST_REQUEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        LARGEST_REQUEST.fetch_max(new_size, Ordering::Relaxed);
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static WATCHED: Watched = Watched;

/// Far above what any test in here needs, far below what a flipped length would ask for.
const TAME_BYTES: usize = 16 << 20;

fn nothing_wild_was_allocated() {
    let largest = LARGEST_REQUEST.load(Ordering::Relaxed);
    assert!(largest < TAME_BYTES, "{largest} bytes at once");
}

fn batches() -> impl Strategy<Value = Batch> {
    let record = (1..60_usize, 1..5_u32, 0..12_u64);
    let columns = prop::collection::vec("[a-z_][a-z0-9_]{0,8}", 1..5);
    (
        prop::collection::vec(record, 1..40),
        columns,
        any::<u128>(),
        any::<u8>(),
    )
        .prop_map(|(records, columns, token, fill)| {
            let mut bytes = Vec::new();
            let mut marks = Vec::new();
            for (length, rows, identity) in records {
                bytes.resize_with(bytes.len() + length, || fill);
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = fill.wrapping_add(i as u8);
                }
                marks.push(Mark {
                    end: bytes.len() as u32,
                    rows,
                    identity,
                });
            }
            Batch {
                stream: Stream::PageViews,
                columns,
                rows: marks.iter().map(|mark| mark.rows as usize).sum(),
                token: Uuid::from_u128(token),
                records: marks,
                bytes: bytes.into(),
            }
        })
}

fn one_batch(identity: u64, length: usize) -> Batch {
    Batch {
        stream: Stream::PageViews,
        columns: vec!["a".into()],
        rows: 1,
        token: Uuid::new_v4(),
        records: vec![Mark {
            end: length as u32,
            rows: 1,
            identity,
        }],
        bytes: vec![7; length].into(),
    }
}

/// What happens to a file behind the service's back.
#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Append(Vec<u8>),
    Swap([Index; 4]),
    Duplicate(Index, Index),
    Zero(Index, Index),
    Twice,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        2 => any::<Index>().prop_map(Damage::Cut),
        1 => prop::collection::vec(any::<u8>(), 1..40).prop_map(Damage::Append),
        1 => any::<[Index; 4]>().prop_map(Damage::Swap),
        1 => any::<(Index, Index)>().prop_map(|(a, b)| Damage::Duplicate(a, b)),
        1 => any::<(Index, Index)>().prop_map(|(a, b)| Damage::Zero(a, b)),
        1 => Just(Damage::Twice),
    ]
}

impl Damage {
    fn apply(&self, file: &[u8]) -> Vec<u8> {
        let mut file = file.to_vec();
        if file.is_empty() {
            return file;
        }
        let length = file.len();
        let range = |a: &Index, b: &Index| {
            let (a, b) = (a.index(length), b.index(length));
            a.min(b)..a.max(b)
        };
        match self {
            Damage::Flip(at, bit) => file[at.index(length)] ^= 1 << bit,
            Damage::Cut(at) => file.truncate(at.index(length)),
            Damage::Append(more) => file.extend_from_slice(more),
            Damage::Swap(at) => {
                let mut ends = at.map(|at| at.index(length));
                ends.sort_unstable();
                let [a, b, c, d] = ends;
                file = [
                    &file[..a],
                    &file[c..d],
                    &file[b..c],
                    &file[a..b],
                    &file[d..],
                ]
                .concat();
            }
            Damage::Duplicate(a, b) => {
                let copy = file[range(a, b)].to_vec();
                file.splice(range(a, b).start..range(a, b).start, copy);
            }
            Damage::Zero(a, b) => file[range(a, b)].fill(0),
            Damage::Twice => file.extend_from_within(..),
        }
        file
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_was_encoded_is_decoded(batch in batches(), spooled_at_ms: u64) {
        let encoded = encode(&batch, spooled_at_ms).unwrap();
        let file = encoded.to_vec();
        prop_assert_eq!(encoded.length(), file.len() as u64);
        prop_assert_eq!(decode(&file), Ok(Spooled { batch, spooled_at_ms }));
    }

    #[test]
    fn damage_never_gives_another_batch(batch in batches(), damages in prop::collection::vec(damage(), 1..4)) {
        let original = encode(&batch, 5).unwrap().to_vec();
        let file = damages.iter().fold(original.clone(), |file, damage| damage.apply(&file));
        match decode(&file) {
            Ok(spooled) => {
                prop_assert_eq!(&file, &original, "accepted {:?}", damages);
                prop_assert_eq!(spooled.batch, batch);
            }
            Err(error) => {
                prop_assert!(file != original);
                let message = error.to_string();
                prop_assert!(!message.contains('\n') && !message.ends_with('.'));
            }
        }
        nothing_wild_was_allocated();
    }

    #[test]
    fn two_files_do_not_make_a_third(a in batches(), b in batches(), at: Index) {
        let (first, second) = (encode(&a, 1).unwrap().to_vec(), encode(&b, 2).unwrap().to_vec());
        prop_assert!(decode(&[first.as_slice(), &second].concat()).is_err());
        let at = at.index(first.len().min(second.len()));
        let mixed = [&first[..at], &second[at..]].concat();
        if let Ok(spooled) = decode(&mixed) {
            prop_assert!(mixed == first && spooled.batch == a || mixed == second && spooled.batch == b);
        }
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..200), with_magic: bool) {
        let magic = if with_magic { &b"\x89SPOOL\r\n"[..] } else { b"" };
        prop_assert!(decode(&[magic, &noise].concat()).is_err());
        nothing_wild_was_allocated();
    }
}

#[test]
fn any_single_bit_and_any_cut_is_noticed() {
    let batch = one_batch(3, 20);
    let file = encode(&batch, 9).unwrap().to_vec();
    for at in 0..file.len() {
        assert!(decode(&file[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut flipped = file.clone();
            flipped[at] ^= 1 << bit;
            assert!(decode(&flipped).is_err(), "bit {bit} of byte {at}");
        }
    }
}

/// A file whose checksums are right, whatever it says.
fn sealed(version: u16, header: &str, table: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut file = b"\x89SPOOL\r\n".to_vec();
    file.extend_from_slice(&version.to_le_bytes());
    file.extend_from_slice(&(header.len() as u32).to_le_bytes());
    file.extend_from_slice(header.as_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&file);
    file.extend_from_slice(&crc.clone().finalize().to_le_bytes());
    for part in [table, bytes] {
        file.extend_from_slice(part);
        crc.update(part);
        file.extend_from_slice(&crc.clone().finalize().to_le_bytes());
    }
    file
}

fn header(stream: &str, column: &str, rows: u64, records: u64, bytes: u64) -> String {
    format!(
        r#"{{"stream":"{stream}","columns":["{column}"],"rows":{rows},"records":{records},"bytes":{bytes},"token":"67e55044-10b1-426f-9247-bb680e5fe0c8","spooled_at_ms":1}}"#
    )
}

fn marks(marks: &[(u32, u32)]) -> Vec<u8> {
    let mark = |(end, rows): &(u32, u32)| {
        [
            &end.to_le_bytes()[..],
            &rows.to_le_bytes(),
            &1_u64.to_le_bytes(),
        ]
        .concat()
    };
    marks.iter().flat_map(mark).collect()
}

#[test]
fn right_checksums_do_not_excuse_broken_rules() {
    let views = Stream::PageViews.name();
    let good = header(views, "a", 3, 2, 4);
    let table = marks(&[(1, 1), (4, 2)]);
    assert!(decode(&sealed(1, &good, &table, b"rows")).is_ok());

    use FormatError::{Corrupt, NewerFormat, NotASpoolFile, Truncated, UnknownStream};
    let newer = decode(&sealed(2, "other header", b"", b"")).unwrap_err();
    assert_eq!(newer, NewerFormat { version: 2 });
    let foreign = decode(&sealed(1, &header("games", "a", 3, 2, 4), &table, b"rows"));
    assert_eq!(foreign, Err(UnknownStream("games".into())));
    assert_eq!(decode(b""), Err(Truncated));
    assert_eq!(decode(b"\x89SPO"), Err(Truncated));
    assert_eq!(decode(b"SPOOL"), Err(NotASpoolFile));

    for column in ["", "A", "1a", "a b", "a,b", "a)", "a`", "é"] {
        let file = sealed(1, &header(views, column, 3, 2, 4), &table, b"rows");
        assert_eq!(decode(&file), Err(Corrupt("the columns")), "{column}");
    }
    for broken in [
        marks(&[(4, 1), (4, 2)]),
        marks(&[(0, 1), (4, 2)]),
        marks(&[(3, 1), (2, 2)]),
        marks(&[(1, 1), (3, 2)]),
        marks(&[(1, 1), (5, 2)]),
        marks(&[(1, 0), (4, 3)]),
        marks(&[(1, 2), (4, 2)]),
        marks(&[(1, u32::MAX), (4, u32::MAX)]),
    ] {
        let error = decode(&sealed(1, &good, &broken, b"rows")).unwrap_err();
        assert!(matches!(error, Corrupt(_)), "{error}");
    }
    for lying in [
        header(views, "a", 3, u32::MAX.into(), 4),
        header(views, "a", 3, 2, u32::MAX.into()),
        header(views, "a", 3, u64::MAX, 4),
        header(views, "a", u64::MAX, 2, 4),
        header(views, "a", 3, 0, 36),
        header(views, "a", 3, 2, 3),
        good.replace("spooled_at_ms", "spooled_at_s"),
        good.replace("\"rows\"", "\"more\":1,\"rows\""),
        good.replace("67e5", "67x5"),
    ] {
        assert!(decode(&sealed(1, &lying, &table, b"rows")).is_err());
    }
    let mut long = sealed(1, &good, &table, b"rows");
    long[10..14].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(decode(&long), Err(Corrupt("the length of the header")));
    nothing_wild_was_allocated();
}

#[test]
fn what_could_not_be_read_is_not_written() {
    let good = one_batch(1, 4);
    let broken = [
        Batch {
            records: Vec::new(),
            rows: 0,
            ..good.clone()
        },
        Batch {
            columns: vec!["a; drop".into()],
            ..good.clone()
        },
        Batch {
            rows: 2,
            ..good.clone()
        },
        Batch {
            bytes: vec![7; 5].into(),
            ..good.clone()
        },
        Batch {
            columns: vec!["a".repeat(70_000)],
            ..good
        },
    ];
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(dir.path(), 1 << 20, 9).unwrap();
    for batch in broken {
        assert!(encode(&batch, 1).is_err());
        assert!(matches!(spool.put(&batch, 1), Err(Error::Unfit(_))));
    }
    assert_eq!(spool.state().files, 0);
}

// ---- the directory ----

const ROOM: u64 = 1 << 30;

#[derive(Debug, Clone)]
enum Step {
    Put(Batch, u64),
    Harm(Index, Damage),
    Strew(u8),
    Reopen(usize),
    Rescan,
    Replay(usize),
    Remove(Index),
    PutBack,
    Quarantine(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (batches(), 1_000..1_020_u64).prop_map(|(batch, now)| Step::Put(batch, now)),
        2 => (any::<Index>(), damage()).prop_map(|(at, damage)| Step::Harm(at, damage)),
        1 => any::<u8>().prop_map(Step::Strew),
        1 => (0..30_usize).prop_map(Step::Reopen),
        1 => Just(Step::Rescan),
        2 => (1..4_usize).prop_map(Step::Replay),
        1 => any::<Index>().prop_map(Step::Remove),
        1 => Just(Step::PutBack),
        1 => any::<u8>().prop_map(Step::Quarantine),
    ]
}

/// The directory as it should be.
#[derive(Default)]
struct Model {
    waiting: BTreeMap<Name, Batch>,
    /// The files as they were written.
    files: BTreeMap<Name, Vec<u8>>,
    damaged: BTreeSet<Name>,
    rejected: usize,
    /// Put back by an operator and not counted yet.
    unnoticed: bool,
}

impl Model {
    fn put(&mut self, dir: &Path, name: Name, batch: Batch) {
        let file = fs::read(dir.join(name.to_string())).unwrap();
        self.files.insert(name, file);
        assert_eq!(
            self.waiting.insert(name, batch),
            None,
            "a name was used twice"
        );
    }

    fn replay(&mut self, spool: &Spool, name: Name) {
        let batch = self.waiting.remove(&name).expect("read twice or invented");
        match spool.read(&name) {
            Ok(spooled) => {
                assert!(!self.damaged.contains(&name), "accepted a damaged file");
                assert_eq!(spooled.batch, batch);
                spool.remove(&name).unwrap();
            }
            Err(ReadError::Format(error)) => {
                assert!(self.damaged.remove(&name), "refused a sound file: {error}");
                spool.reject(&name, &error.to_string()).unwrap();
                self.rejected += 1;
            }
            Err(error) => panic!("{error}"),
        }
        assert!(matches!(spool.read(&name), Err(ReadError::Gone)));
        // Once more does no harm.
        spool.remove(&name).unwrap();
        spool.reject(&name, "gone").unwrap();
    }

    fn check(&self, spool: &Spool) {
        let names: Vec<Name> = self.waiting.keys().copied().collect();
        assert_eq!(spool.oldest(None, 1_000).unwrap(), names);
        let state = spool.state();
        assert!(!state.last_write_failed);
        assert!(state.oldest_ms <= names.first().map(|name| name.ms()) || names.is_empty());
        if !self.unnoticed {
            assert_eq!(state.files, names.len() as u64);
            assert_eq!(state.rejected_files, self.rejected as u64);
            assert_eq!(state.oldest_ms.is_none(), names.is_empty());
        }
        for identity in 0..12 {
            let newest = self
                .waiting
                .iter()
                .rev()
                .find(|(_, batch)| batch.records.iter().any(|m| m.identity == identity))
                .map(|(name, _)| *name);
            match spool.holds(identity) {
                // Only an operator's own batch may be overlooked, until the next count.
                _ if self.unnoticed => {}
                Held::Yes(name) => assert_eq!(Some(name), newest),
                Held::No => assert_eq!(None, newest),
                Held::Unknown => assert!(!names.is_empty()),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nothing_sound_is_lost_and_nothing_damaged_is_read(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut spool = Spool::open(dir, ROOM, 1_000).unwrap().0;
        let shelf = Shelf::at(dir);
        let mut model = Model::default();
        let mut strewn = 0;
        for step in steps {
            match step {
                Step::Put(batch, now_ms) => {
                    let name = spool.put(&batch, now_ms).unwrap();
                    model.put(dir, name, batch);
                }
                Step::Harm(at, damage) => {
                    if let Some(name) = pick(&model, at) {
                        let path = dir.join(name.to_string());
                        let before = fs::read(&path).unwrap();
                        let after = damage.apply(&before);
                        fs::write(&path, &after).unwrap();
                        if model.files[&name] == after {
                            model.damaged.remove(&name);
                        } else {
                            model.damaged.insert(name);
                        }
                    }
                }
                Step::Strew(kind) => {
                    let file = match kind % 4 {
                        0 => "notes.txt".to_owned(),
                        1 => ".batch".to_owned(),
                        2 => format!("{:013x}-{:08x}-{}.tmp", 1_000, strewn, Uuid::new_v4()),
                        _ => "0019a7c3f5e21-00000000.batch".to_owned(),
                    };
                    fs::write(dir.join(&file), b"someone else's").unwrap();
                    fs::create_dir_all(dir.join("lost+found")).unwrap();
                    strewn += 1;
                }
                Step::Reopen(capacity) => {
                    drop(spool);
                    let (again, opened) = Spool::open(dir, ROOM, capacity).unwrap();
                    spool = again;
                    model.rejected += opened.foreign_files as usize;
                    model.unnoticed = false;
                    assert_eq!(opened.files, model.waiting.len() as u64);
                    assert!(dir.join("lost+found").exists() || strewn == 0);
                }
                Step::Rescan => {
                    spool.rescan().unwrap();
                    model.unnoticed = false;
                }
                Step::Replay(limit) => {
                    for name in spool.oldest(None, limit).unwrap() {
                        assert_eq!(Some(&name), model.waiting.keys().next(), "oldest first");
                        model.replay(&spool, name);
                    }
                }
                Step::Remove(at) => {
                    if let Some(name) = pick(&model, at) {
                        model.replay(&spool, name);
                    }
                }
                Step::PutBack => {
                    if let Some(batch) = model.waiting.values().next_back().cloned() {
                        let name = shelf.restore(&batch, 1_010).unwrap();
                        model.put(dir, name, batch);
                        model.unnoticed = true;
                    }
                }
                Step::Quarantine(lines) => {
                    let lines: Vec<String> = (0..lines).map(|i| format!("{{\"row\":{i}}}")).collect();
                    let file = spool.quarantine(&lines, 1_000).unwrap();
                    model.rejected += 1;
                    let text = fs::read_to_string(dir.join("rejected").join(file)).unwrap();
                    prop_assert!(text.lines().eq(lines.iter().map(String::as_str)));
                }
            }
            model.check(&spool);
        }
        drop(spool);
        let (spool, opened) = Spool::open(dir, ROOM, 1_000).unwrap();
        model.rejected += opened.foreign_files as usize;
        prop_assert_eq!(shelf.pending(None, 1_000).unwrap().len(), model.waiting.len());
        for name in spool.oldest(None, 1_000).unwrap() {
            model.replay(&spool, name);
        }
        prop_assert!(model.waiting.is_empty());
        let state = spool.state();
        prop_assert_eq!((state.files, state.bytes, state.oldest_ms), (0, 0, None));
        prop_assert_eq!(spool.holds(1), Held::No);
        prop_assert_eq!(shelf.rejected().unwrap().len(), model.rejected);
        prop_assert_eq!(state.rejected_files, model.rejected as u64);
        let left: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        prop_assert!(left.iter().all(|f| f == "lock" || f == "rejected" || f == "lost+found"), "{:?}", left);
        nothing_wild_was_allocated();
    }
}

fn pick(model: &Model, at: Index) -> Option<Name> {
    let count = model.waiting.len();
    (count > 0).then(|| *model.waiting.keys().nth(at.index(count)).unwrap())
}

#[test]
fn names_rise_over_restarts_while_the_clock_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut names = Vec::new();
    for now_ms in [9_000, 9_000, 3_000, 0, 8_999, 9_001] {
        let (spool, _) = Spool::open(dir.path(), ROOM, 9).unwrap();
        names.push(spool.put(&one_batch(1, 3), now_ms).unwrap());
        names.push(spool.put(&one_batch(1, 3), now_ms).unwrap());
    }
    let (spool, _) = Spool::open(dir.path(), ROOM, 9).unwrap();
    assert!(names.is_sorted());
    assert_eq!(spool.oldest(None, 99).unwrap(), names);
    assert_eq!(spool.oldest(Some(&names[3]), 2).unwrap(), names[4..6]);
    assert_eq!(spool.oldest(None, 0).unwrap(), []);
    assert_eq!(spool.state().oldest_ms, Some(9_000));
    assert_eq!(spool.holds(1), Held::Yes(names[11]));
}

#[test]
fn a_full_spool_keeps_nothing_more_and_has_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(dir.path(), 3 * 4096, 9).unwrap();
    let names: Vec<Name> = (0..3)
        .map(|i| spool.put(&one_batch(i, 10), 1).unwrap())
        .collect();
    let before = files(dir.path());
    let error = spool.put(&one_batch(7, 10), 1).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Full {
                used: 12_288,
                max: 12_288
            }
        ),
        "{error}"
    );
    assert!(matches!(spool.probe(), Err(Error::Full { .. })));
    assert_eq!((files(dir.path()), spool.holds(7)), (before, Held::No));
    assert!(!spool.state().last_write_failed);
    spool.remove(&names[0]).unwrap();
    spool.probe().unwrap();
    assert!(matches!(
        spool.put(&one_batch(7, 5_000), 1),
        Err(Error::Full { .. })
    ));
    spool.put(&one_batch(7, 10), 1).unwrap();
    // Refused rows have as much room of their own.
    let rows = ["x".repeat(8_000)];
    spool.quarantine(&rows, 1).unwrap();
    assert!(matches!(
        spool.quarantine(&rows, 1),
        Err(Error::Full { .. })
    ));
    assert_eq!(spool.state().rejected_bytes, 8_192);
}

#[test]
fn a_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let first = Spool::open(dir.path(), ROOM, 9).unwrap();
    let error = Spool::open(dir.path(), ROOM, 9).err().unwrap();
    assert!(matches!(error, Error::InUse(_)));
    assert!(
        error
            .to_string()
            .starts_with("another traffic-api already uses ")
    );
    drop(first);
    Spool::open(dir.path(), ROOM, 9).unwrap();
}

#[test]
fn a_file_in_the_directorys_place_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let taken = dir.path().join("spool");
    fs::write(&taken, b"").unwrap();
    let error = Spool::open(&taken, ROOM, 9).err().unwrap();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn a_directory_that_is_none_is_an_error_and_its_return_is_noticed() {
    let outer = tempfile::tempdir().unwrap();
    let (dir, away) = (outer.path().join("spool"), outer.path().join("away"));
    let (spool, _) = Spool::open(&dir, ROOM, 9).unwrap();
    let name = spool.put(&one_batch(1, 3), 1).unwrap();
    let before = spool.state();
    fs::rename(&dir, &away).unwrap();
    fs::write(&dir, b"in its place").unwrap();
    assert!(matches!(
        spool.put(&one_batch(2, 3), 1),
        Err(Error::Io { .. })
    ));
    assert!(matches!(
        spool.quarantine(&["{}".into()], 1),
        Err(Error::Io { .. })
    ));
    assert!(matches!(spool.probe(), Err(Error::Io { .. })));
    assert!(spool.rescan().is_err() && spool.oldest(None, 1).is_err());
    let after = spool.state();
    assert!(after.last_write_failed);
    assert_eq!((after.files, after.bytes), (before.files, before.bytes));
    assert_eq!((after.rejected_files, after.rejected_bytes), (0, 0));
    assert_eq!(
        (spool.holds(1), spool.holds(2)),
        (Held::Yes(name), Held::No)
    );
    fs::remove_file(&dir).unwrap();
    fs::rename(&away, &dir).unwrap();
    spool.probe().unwrap();
    assert!(!spool.state().last_write_failed);
    assert_eq!(spool.oldest(None, 9).unwrap(), [name]);
}

/// A write that breaks off in the middle, as on a full disk: the test runs itself once more where no
/// file may become large.
#[test]
fn a_write_that_breaks_off_leaves_nothing() {
    const INNER: &str = "SPOOL_TEST_UNDER_A_FILE_SIZE_LIMIT";
    if std::env::var_os(INNER).is_some() {
        return under_a_file_size_limit();
    }
    let script =
        r#"trap '' XFSZ; ulimit -f 128; exec "$0" --exact a_write_that_breaks_off_leaves_nothing"#;
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(INNER, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

fn under_a_file_size_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(dir.path(), ROOM, 9).unwrap();
    let name = spool.put(&one_batch(1, 1_000), 1).unwrap();
    let before = (files(dir.path()), spool.state().bytes);
    let error = spool.put(&one_batch(2, 200_000), 1).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the file size limit is too low: "),
        "{error}"
    );
    let rows = ["x".repeat(200_000)];
    assert!(matches!(spool.quarantine(&rows, 1), Err(Error::Io { .. })));
    assert_eq!((files(dir.path()), spool.state().bytes), before);
    assert!(spool.state().last_write_failed && spool.state().rejected_files == 0);
    assert_eq!(
        (spool.holds(1), spool.holds(2)),
        (Held::Yes(name), Held::No)
    );
}

#[test]
fn an_index_without_room_says_unknown_until_the_spool_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(dir.path(), ROOM, 2).unwrap();
    assert_eq!(spool.holds(9), Held::No);
    let names: Vec<Name> = (0..3)
        .map(|i| spool.put(&one_batch(i, 3), 1).unwrap())
        .collect();
    assert_eq!(spool.holds(0), Held::Yes(names[0]));
    assert_eq!(
        (spool.holds(2), spool.holds(9)),
        (Held::Unknown, Held::Unknown)
    );
    for name in &names {
        assert_eq!(spool.holds(9), Held::Unknown);
        spool.remove(name).unwrap();
    }
    assert_eq!((spool.holds(0), spool.holds(9)), (Held::No, Held::No));
}

#[test]
fn an_operator_looks_through_and_puts_back() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::at(dir.path());
    let (spool, _) = Spool::open(dir.path(), ROOM, 9).unwrap();
    let batch = one_batch(5, 30);
    let name = spool.put(&batch, 1_234).unwrap();
    let listed = shelf.pending(None, 9).unwrap();
    assert_eq!(listed[0].name, name);
    let index = listed[0].index.as_ref().unwrap();
    assert_eq!(
        (index.rows, index.bytes, index.spooled_at_ms),
        (1, 30, 1_234)
    );
    fs::write(dir.path().join(name.to_string()), b"\x89SPOOL\r\n").unwrap();
    let listed = shelf.pending(None, 9).unwrap();
    assert!(matches!(
        listed[0].index,
        Err(ReadError::Format(FormatError::Truncated))
    ));

    fs::write(
        dir.path().join(name.to_string()),
        encode(&batch, 1_234).unwrap().to_vec(),
    )
    .unwrap();
    spool.reject(&name, "a test").unwrap();
    spool.quarantine(&["{}".into()], 1).unwrap();
    let rejected = shelf.rejected().unwrap();
    let kinds: Vec<Kind> = rejected.iter().map(|file| file.kind).collect();
    assert_eq!(kinds, [Kind::Batch, Kind::Rows]);
    let spooled = shelf.read_rejected(&rejected[0].file).unwrap();
    assert_eq!(spooled.batch, batch);
    let restored = shelf.restore(&spooled.batch, 2_000).unwrap();
    let twice = shelf.restore(&spooled.batch, 2_000).unwrap();
    assert!(restored < twice);
    for file in &rejected {
        shelf.remove_rejected(&file.file).unwrap();
    }
    assert_eq!(spool.oldest(None, 9).unwrap(), [restored, twice]);
    spool.rescan().unwrap();
    let state = spool.state();
    assert_eq!(
        (state.files, state.bytes, state.rejected_files),
        (2, 8_192, 0)
    );
    assert_eq!(spool.holds(5), Held::Unknown);
    // What comes after sorts after.
    assert!(spool.put(&batch, 1).unwrap() > twice);
}

#[test]
fn what_an_operator_put_back_hides_nothing_when_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(dir.path(), ROOM, 9).unwrap();
    for identity in [5, 5, 6] {
        spool.put(&one_batch(identity, 3), 9_000).unwrap();
    }
    for left in [2, 1, 0] {
        let restored = Shelf::at(dir.path()).restore(&one_batch(5, 3), 1).unwrap();
        spool.remove(&restored).unwrap();
        assert_eq!(spool.state().files, left);
        assert_ne!(spool.holds(5), Held::No);
    }
    spool.rescan().unwrap();
    assert_eq!((spool.state().files, spool.holds(5)), (3, Held::Unknown));
}

#[test]
fn what_an_operator_took_away_is_noticed_and_its_name_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(dir.path(), ROOM, 9).unwrap();
    let name = spool.put(&one_batch(5, 3), 9_000).unwrap();
    fs::remove_file(dir.path().join(name.to_string())).unwrap();
    assert_eq!(spool.holds(5), Held::Yes(name));
    assert!(matches!(spool.read(&name), Err(ReadError::Gone)));
    spool.rescan().unwrap();
    assert_eq!((spool.state().files, spool.state().bytes), (0, 0));
    assert_eq!(spool.holds(5), Held::No);
    assert!(spool.put(&one_batch(5, 3), 1).unwrap() > name);
}

#[test]
fn an_operators_name_stays_inside() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("spool");
    let (_spool, _) = Spool::open(&dir, ROOM, 9).unwrap();
    fs::write(outer.path().join("secret"), b"").unwrap();
    fs::write(dir.join("rejected/plain"), b"").unwrap();
    fs::create_dir(dir.join("rejected/folder")).unwrap();
    std::os::unix::fs::symlink(outer.path().join("secret"), dir.join("rejected/link")).unwrap();
    let shelf = Shelf::at(&dir);
    let absolute = outer.path().join("secret");
    for name in [
        "",
        ".",
        "..",
        "/",
        "../lock",
        "../../secret",
        "./plain",
        "plain/",
        "a/../plain",
        "link",
        "folder",
        "none",
        "plain\0",
        absolute.to_str().unwrap(),
    ] {
        assert!(shelf.open_rejected(name).is_err(), "{name}");
        assert!(shelf.read_rejected(name).is_err(), "{name}");
        assert!(shelf.remove_rejected(name).is_err(), "{name}");
    }
    assert!(absolute.exists() && dir.join("lock").exists());
    shelf.remove_rejected("plain").unwrap();
}

#[test]
fn many_threads_share_one_spool() {
    const WRITERS: u64 = 4;
    const EACH: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(dir.path(), ROOM, 1_000).unwrap();
    let mut replayed = BTreeSet::new();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let spool = &spool;
            scope.spawn(move || {
                for i in 0..EACH {
                    let identity = writer * EACH + i;
                    spool.put(&one_batch(identity, 9), i).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..40 {
                spool.rescan().unwrap();
                spool.state();
            }
        });
        while replayed.len() < (WRITERS * EACH) as usize {
            for name in spool.oldest(None, 7).unwrap() {
                let identity = spool.read(&name).unwrap().batch.records[0].identity;
                assert!(replayed.insert(identity), "read twice");
                assert_ne!(spool.holds(identity), Held::No);
                spool.remove(&name).unwrap();
                assert!(!matches!(spool.holds(identity), Held::Yes(_)));
            }
        }
    });
    let state = spool.state();
    assert_eq!((state.files, state.bytes, state.oldest_ms), (0, 0, None));
    assert_eq!(spool.holds(1), Held::No);
}

/// All files below a directory.
fn files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.insert(entry.file_name().into_string().unwrap());
        }
    }
    found
}
