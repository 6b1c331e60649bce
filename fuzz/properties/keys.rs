//! What clients present as keys, and the lines that keys are kept in: a key has one spelling, a slip in
//! any place is noticed, and nothing that is not one is taken for one.
//!
//! The first byte says what is done with the rest: take it for a key; take it for the id and the secret
//! of one, and damage it; take it for the text of a key file; for a set of users.

use traffic_api::access::{Credential, Keyring};
use traffic_api::domain::{UserId, UserSet};

pub fn check(input: &[u8]) {
    let Some((choice, rest)) = input.split_first() else {
        return;
    };
    match choice % 4 {
        0 => {
            is_spelled_so(rest);
        }
        1 => sealed(rest),
        2 => key_file(rest),
        _ => users(rest),
    }
}

fn is_spelled_so(text: &[u8]) -> bool {
    let Some(credential) = Credential::read(text) else {
        return false;
    };
    assert_eq!(credential.reveal().as_bytes(), text);
    assert_eq!(credential.id().as_bytes(), &text[3..15]);
    // Whatever shows it in a log shows the id alone.
    assert_eq!(
        format!("{credential:?}"),
        format!("Credential({})", credential.id())
    );
    true
}

/// A sound key, then the same with one byte changed.
fn sealed(parts: &[u8]) {
    let mut parts = parts.iter().copied();
    let mut hex = |bytes: usize| -> Vec<u8> { parts.by_ref().take(bytes).collect() };
    let digits = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    let (id, secret) = (hex(6), hex(32));
    if secret.len() < 32 {
        return;
    }
    let id = digits(&id);
    let mut sum = crc32fast::Hasher::new();
    sum.update(id.as_bytes());
    sum.update(&secret);
    let text = format!("ta_{id}_{}{:08x}", digits(&secret), sum.finalize());
    assert!(is_spelled_so(text.as_bytes()), "{text}");
    let [place, other] = hex(2)[..] else { return };
    let mut slip = text.clone().into_bytes();
    let place = usize::from(place) % slip.len();
    slip[place] = other;
    assert_eq!(is_spelled_so(&slip), slip == text.as_bytes());
}

/// What can be read of a file names its keys once, and is read the same when it is written again.
fn key_file(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let Ok(ring) = Keyring::read(text) else {
        return;
    };
    let keys = ring.all();
    let lines: Vec<String> = keys.iter().map(|key| key.to_line()).collect();
    let again = Keyring::read(&lines.join("\n")).expect("what was read can be written");
    let again: Vec<String> = again.all().iter().map(|key| key.to_line()).collect();
    assert_eq!(again, lines);
    let mut ids: Vec<&str> = keys.iter().map(|key| key.id.as_str()).collect();
    ids.sort_unstable();
    assert!(ids.is_sorted_by(|a, b| a < b), "an id twice");
}

fn users(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let Ok(set) = text.parse::<UserSet>() else {
        return;
    };
    assert!(!set.is_everybody(), "a list is never everybody");
    assert_eq!(set.to_string().parse(), Ok(set.clone()));
    let member = text
        .split([',', '-'])
        .next()
        .and_then(|id| id.trim().parse().ok());
    assert!(member.is_some_and(|id: UserId| set.contains(id)));
}
