//! The bodies of batches, in pieces: the cuts do not depend on how a body arrives, no element is longer
//! than wanted, memory is bounded, and the elements are those that another parser finds.
//!
//! The first byte says what is cut and the second how long an element may be; then how long the pieces
//! are, up to a zero; the rest is the body.

#[path = "../../src/http/elements.rs"]
mod cutting;

use cutting::{Element, Elements, Separation};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cut {
    Whole(Vec<u8>),
    TooLong,
    Broken(&'static str),
}

pub fn check(input: &[u8]) {
    let [choice, max, rest @ ..] = input else {
        return;
    };
    let end = rest.iter().position(|byte| *byte == 0);
    let Some(end) = end else { return };
    let (lengths, body) = (&rest[..end], &rest[end + 1..]);
    let separation = match choice % 2 {
        0 => Separation::Lines,
        _ => Separation::Array,
    };
    // With much room for the comparison with another parser, and with little.
    let max = match max {
        128.. => 1 << 20,
        small => usize::from(*small) + 1,
    };
    let whole = cut(separation, max, [body].into_iter());
    assert_eq!(cut(separation, max, body.chunks(1)), whole, "byte by byte");
    assert_eq!(cut(separation, max, pieces(body, lengths)), whole, "pieces");
    for (place, (_, element)) in whole.iter().enumerate() {
        match element {
            Cut::Whole(bytes) => assert!((1..=max).contains(&bytes.len())),
            Cut::TooLong => {}
            Cut::Broken(_) => {
                assert_eq!(place + 1, whole.len(), "nothing comes behind a break");
            }
        }
    }
    if max < 1 << 20 {
        return;
    }
    match separation {
        Separation::Lines => assert_eq!(whole, lines(body)),
        Separation::Array => is_the_array(body, &whole),
    }
}

/// The pieces of these lengths, over and over.
fn pieces<'a>(body: &'a [u8], lengths: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = body;
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let length = lengths.next().map_or(rest.len(), |n| usize::from(*n));
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

fn cut<'a>(
    separation: Separation,
    max: usize,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Vec<(u64, Cut)> {
    let mut elements = Elements::new(separation, max);
    let mut found: Vec<(u64, Cut)> = Vec::new();
    let mut note = |(number, element): (u64, Element<'_>)| {
        let before = found.last().map_or(0, |(before, _)| *before);
        assert!(number > before, "numbers rise");
        let element = match element {
            Element::Whole(bytes) => Cut::Whole(bytes.to_vec()),
            Element::TooLong => Cut::TooLong,
            Element::Broken(reason) => Cut::Broken(reason),
        };
        found.push((number, element));
    };
    for piece in pieces {
        elements.feed(piece);
        while let Some(element) = elements.next() {
            note(element);
        }
    }
    while let Some(element) = elements.finish() {
        note(element);
    }
    assert!(found.iter().all(|(number, _)| *number <= elements.number()));
    found
}

fn lines(body: &[u8]) -> Vec<(u64, Cut)> {
    let lines = (1..).zip(body.split(|byte| *byte == b'\n'));
    let lines = lines.map(|(number, line)| (number, trimmed(line)));
    let lines = lines.filter(|(_, line)| !line.is_empty());
    lines
        .map(|(n, line)| (n, Cut::Whole(line.to_vec())))
        .collect()
}

/// Where serde_json sees an array, it has these elements; where it sees none, one of them is no JSON.
fn is_the_array(body: &[u8], found: &[(u64, Cut)]) {
    let value = |(_, element): &(u64, Cut)| match element {
        Cut::Whole(bytes) => serde_json::from_slice::<serde_json::Value>(bytes).ok(),
        Cut::TooLong | Cut::Broken(_) => None,
    };
    let found: Option<Vec<serde_json::Value>> = found.iter().map(value).collect();
    match serde_json::from_slice::<Vec<serde_json::Value>>(body) {
        Ok(values) => assert_eq!(found, Some(values)),
        // One level deeper than an element is the limit of the whole sooner.
        Err(error) if error.to_string().contains("recursion limit") => {}
        Err(error) => assert_eq!(found, None, "{error}"),
    }
}

/// Without JSON's white space.
fn trimmed(line: &[u8]) -> &[u8] {
    let space = |byte: &u8| b" \t\n\r".contains(byte);
    let start = line.iter().take_while(|byte| space(byte)).count();
    let end = line[start..].iter().rev().take_while(|byte| space(byte));
    &line[start..line.len() - end.count()]
}
