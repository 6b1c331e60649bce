//! The properties that the fuzz targets look for, on the compiler that everybody has: over the checked-in
//! seeds, and over what a few thousand small damages make of them. So a target neither rots nor has to
//! be run to see a mistake come back.

use std::fs;
use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

#[path = "../fuzz/properties/cursors.rs"]
mod cursors;
#[path = "../fuzz/properties/elements.rs"]
mod elements;
#[path = "../fuzz/properties/events.rs"]
mod events;
#[path = "../fuzz/properties/forwarded.rs"]
mod forwarded;
#[path = "../fuzz/properties/keys.rs"]
mod keys;
#[path = "../fuzz/properties/page_views.rs"]
mod page_views;
#[path = "../fuzz/properties/parameters.rs"]
mod parameters;
#[path = "../fuzz/properties/spelling.rs"]
mod spelling;
#[path = "../fuzz/properties/spool_format.rs"]
mod spool_format;
#[path = "../fuzz/properties/times.rs"]
mod times;

type Property = fn(&[u8]);

const TARGETS: &[(&str, Property)] = &[
    ("cursors", cursors::check),
    ("elements", elements::check),
    ("events", events::check),
    ("forwarded", forwarded::check),
    ("keys", keys::check),
    ("page_views", page_views::check),
    ("parameters", parameters::check),
    ("spool_format", spool_format::check),
    ("times", times::check),
];

/// How many damaged copies of each seed are tried.
const DAMAGED: usize = 500;

#[test]
fn every_seed_and_what_is_near_it() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, check) in TARGETS {
        let mut tried = 0;
        for entry in fs::read_dir(seeds.join(name)).unwrap() {
            let path = entry.unwrap().path();
            let seed = fs::read(&path).unwrap();
            check(&seed);
            let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
            for _ in 0..DAMAGED {
                let damaged = damaged(&seed, &mut random);
                let outcome = std::panic::catch_unwind(|| check(&damaged));
                assert!(outcome.is_ok(), "{name}: {:?}", damaged.escape_ascii());
            }
            tried += 1;
        }
        assert!(tried > 0, "{name} has no seeds");
    }
}

fn damaged(seed: &[u8], random: &mut Xoshiro256PlusPlus) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..4) {
            0 if at < bytes.len() => bytes[at] = random.random(),
            1 => bytes.truncate(at),
            2 => bytes.insert(
                at,
                *b"0-:.,\"\\[]{}&= \n\0"
                    .get(random.random_range(0..16))
                    .unwrap(),
            ),
            _ => {
                let end = (at + random.random_range(0..16)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
    bytes
}

#[test]
fn every_target_is_in_the_list() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let mut targets: Vec<String> = fs::read_dir(fuzz.join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    targets.sort();
    assert_eq!(
        targets,
        TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>()
    );
    for target in targets {
        assert!(
            manifest.contains(&format!("name = \"{target}\"")),
            "{target}"
        );
    }
}
