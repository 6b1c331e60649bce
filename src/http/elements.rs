//! Cuts a body that arrives in pieces into the elements of a batch: lines, or the elements of an
//! array.
//!
//! Memory is bounded by the longest element that is wanted, whatever the body's size. What is between
//! the cuts is not looked at here: an element may well be no JSON.

use memchr::{memchr, memchr2};

/// One cut.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Element<'a> {
    /// The bytes of one element.
    Whole(&'a [u8]),
    /// An element that is longer than wanted.
    TooLong,
    /// From here on there is nothing to cut.
    Broken(&'static str),
}

/// How elements are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Separation {
    /// One on each line; empty lines are none.
    Lines,
    /// A JSON array.
    Array,
}

/// The elements of one body.
#[derive(Debug)]
pub(super) struct Elements {
    separation: Separation,
    max_bytes: usize,
    /// What has arrived and is not yet taken.
    buffer: Vec<u8>,
    /// Where the present element begins in the buffer.
    start: usize,
    /// Up to where it was looked at.
    seen: usize,
    /// The present element is longer than wanted: its bytes are dropped as they come.
    too_long: bool,
    place: Place,
    number: u64,
}

/// Where in an array the cut stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    /// Behind the opening bracket, or behind a comma.
    Between {
        first: bool,
    },
    Inside {
        depth: usize,
        string: bool,
        escaped: bool,
    },
    After,
    Broken,
}

impl Elements {
    /// Elements of at most `max_bytes` each.
    pub(super) fn new(separation: Separation, max_bytes: usize) -> Self {
        Self {
            separation,
            max_bytes,
            buffer: Vec::new(),
            start: 0,
            seen: 0,
            too_long: false,
            place: Place::Before,
            number: 0,
        }
    }

    /// How many elements were given out, blank lines included.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Takes the next piece of the body; everything in the last one must have been taken out.
    pub(super) fn feed(&mut self, piece: &[u8]) {
        self.buffer.drain(..self.start);
        self.seen -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(piece);
    }

    /// The next element that is complete, with its number from 1: of its line, or its place in the
    /// array.
    pub(super) fn next(&mut self) -> Option<(u64, Element<'_>)> {
        match self.separation {
            Separation::Lines => self.next_line(),
            Separation::Array => self.next_of_array(),
        }
    }

    /// What is left when the body has ended; nothing more after the first `None`.
    pub(super) fn finish(&mut self) -> Option<(u64, Element<'_>)> {
        match self.separation {
            Separation::Lines if self.start < self.buffer.len() || self.too_long => {
                self.number += 1;
                let end = self.buffer.len();
                self.cut(end, end)
            }
            Separation::Array if !matches!(self.place, Place::After | Place::Broken) => self
                .break_off(match self.place {
                    Place::Before => "the body is not a JSON array",
                    _ => "the array is not closed",
                }),
            _ => None,
        }
    }

    fn next_line(&mut self) -> Option<(u64, Element<'_>)> {
        loop {
            let Some(length) = memchr(b'\n', &self.buffer[self.seen..]) else {
                self.seen = self.buffer.len();
                self.drop_too_long();
                return None;
            };
            let end = self.seen + length;
            self.number += 1;
            let is_blank = trimmed(&self.buffer[self.start..end]).is_empty();
            // One that is too long is named as such however it arrives.
            if is_blank && !self.too_long && end - self.start <= self.max_bytes {
                (self.start, self.seen) = (end + 1, end + 1);
                continue;
            }
            return self.cut(end, end + 1);
        }
    }

    /// The element up to `end`, unless it is blank; the next begins at `next`.
    fn cut(&mut self, end: usize, next: usize) -> Option<(u64, Element<'_>)> {
        let start = self.start;
        (self.start, self.seen) = (next, next);
        if std::mem::take(&mut self.too_long) || end - start > self.max_bytes {
            return Some((self.number, Element::TooLong));
        }
        let element = trimmed(&self.buffer[start..end]);
        (!element.is_empty()).then_some((self.number, Element::Whole(element)))
    }

    fn drop_too_long(&mut self) {
        if self.seen - self.start > self.max_bytes {
            self.too_long = true;
        }
        if self.too_long {
            self.start = self.seen;
        }
    }

    fn break_off(&mut self, reason: &'static str) -> Option<(u64, Element<'_>)> {
        self.place = Place::Broken;
        self.start = self.buffer.len();
        self.seen = self.start;
        self.number += 1;
        Some((self.number, Element::Broken(reason)))
    }

    fn next_of_array(&mut self) -> Option<(u64, Element<'_>)> {
        while self.seen < self.buffer.len() {
            let byte = self.buffer[self.seen];
            match self.place {
                Place::Broken => {
                    self.seen = self.buffer.len();
                    self.start = self.seen;
                }
                Place::Before | Place::After | Place::Between { .. } if is_space(byte) => {
                    self.seen += 1;
                    self.start = self.seen;
                }
                Place::Before if byte == b'[' => {
                    self.seen += 1;
                    self.start = self.seen;
                    self.place = Place::Between { first: true };
                }
                Place::Before => return self.break_off("the body is not a JSON array"),
                Place::Between { first: true } if byte == b']' => {
                    self.seen += 1;
                    self.start = self.seen;
                    self.place = Place::After;
                }
                Place::Between { .. } if matches!(byte, b']' | b',') => {
                    return self.break_off("an element is missing between two separators");
                }
                Place::Between { .. } => {
                    self.place = Place::Inside {
                        depth: 0,
                        string: false,
                        escaped: false,
                    };
                }
                Place::Inside {
                    depth: 0,
                    string: false,
                    ..
                } if matches!(byte, b',' | b']') => {
                    self.place = if byte == b',' {
                        Place::Between { first: false }
                    } else {
                        Place::After
                    };
                    self.number += 1;
                    let end = self.seen;
                    return self.cut(end, end + 1);
                }
                Place::Inside {
                    depth,
                    string,
                    escaped,
                } => {
                    self.look_inside(byte, depth, string, escaped);
                }
                Place::After => return self.break_off("there is more behind the array's end"),
            }
        }
        self.drop_too_long();
        None
    }

    /// Takes one byte of an element, or all of a string up to what may end it.
    fn look_inside(&mut self, byte: u8, depth: usize, string: bool, escaped: bool) {
        let inside = |depth, string, escaped| Place::Inside {
            depth,
            string,
            escaped,
        };
        self.seen += 1;
        self.place = match (string, byte) {
            (true, _) if escaped => inside(depth, true, false),
            (true, b'\\') => inside(depth, true, true),
            (true, b'"') => inside(depth, false, false),
            (true, _) => {
                let rest = &self.buffer[self.seen..];
                self.seen += memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                inside(depth, true, false)
            }
            (false, b'"') => inside(depth, true, false),
            (false, b'{' | b'[') => inside(depth + 1, false, false),
            (false, b'}' | b']') => inside(depth.saturating_sub(1), false, false),
            (false, _) => inside(depth, false, false),
        };
    }
}

/// JSON's white space, which has no form feed (RFC 8259, section 2).
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| !is_space(*byte));
    let end = bytes.iter().rposition(|byte| !is_space(*byte));
    match (start, end) {
        (Some(start), Some(end)) => &bytes[start..=end],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The elements of a body that arrives in pieces of `size` bytes.
    fn cut(separation: Separation, body: &str, size: usize, max: usize) -> Vec<(u64, String)> {
        let mut elements = Elements::new(separation, max);
        let mut found = Vec::new();
        let show = |element: Element<'_>| match element {
            Element::Whole(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Element::TooLong => "too long".to_owned(),
            Element::Broken(_) => "broken".to_owned(),
        };
        for piece in body.as_bytes().chunks(size) {
            elements.feed(piece);
            while let Some((number, element)) = elements.next() {
                found.push((number, show(element)));
            }
            assert!(elements.buffer.len() <= max + size, "memory is bounded");
        }
        while let Some((number, element)) = elements.finish() {
            found.push((number, show(element)));
        }
        found
    }

    fn both(separation: Separation, body: &str) -> Vec<(u64, String)> {
        let whole = cut(separation, body, body.len().max(1), 1000);
        for size in 1..8 {
            assert_eq!(cut(separation, body, size, 1000), whole, "pieces of {size}");
        }
        whole
    }

    fn numbered(list: &[(u64, &str)]) -> Vec<(u64, String)> {
        list.iter()
            .map(|(n, text)| (*n, (*text).to_owned()))
            .collect()
    }

    #[test]
    fn lines() {
        assert_eq!(
            both(Separation::Lines, "{1}\r\n\n  \n [2] \nx"),
            numbered(&[(1, "{1}"), (4, "[2]"), (5, "x")])
        );
        assert_eq!(both(Separation::Lines, ""), []);
        assert_eq!(both(Separation::Lines, "\n\n"), []);
        assert_eq!(both(Separation::Lines, "a\n  "), numbered(&[(1, "a")]));
    }

    #[test]
    fn arrays() {
        let array = |body| both(Separation::Array, body);
        assert_eq!(array(" [ ] "), []);
        assert_eq!(
            array(r#"[{"a": "],}\""}, [1, [2]],"x\\" , 4 ]"#),
            numbered(&[
                (1, r#"{"a": "],}\""}"#),
                (2, "[1, [2]]"),
                (3, r#""x\\""#),
                (4, "4")
            ])
        );
        assert_eq!(array("[1,"), numbered(&[(1, "1"), (2, "broken")]));
        assert_eq!(array("[1, {\"a\": 2"), numbered(&[(1, "1"), (2, "broken")]));
        assert_eq!(array("[1,]"), numbered(&[(1, "1"), (2, "broken")]));
        assert_eq!(array("[,1]"), numbered(&[(1, "broken")]));
        assert_eq!(array("[1] 2, 3"), numbered(&[(1, "1"), (2, "broken")]));
        // A form feed is no white space of JSON's: an element's reader will say so.
        assert_eq!(array("\x0c[1]"), numbered(&[(1, "broken")]));
        assert_eq!(array("[1\x0c]"), numbered(&[(1, "1\x0c")]));
        for no_array in ["{}", "", "  ", "1", "\"[1]\""] {
            assert_eq!(array(no_array), numbered(&[(1, "broken")]), "{no_array:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_dropped_as_it_comes() {
        let long = "a".repeat(50);
        for size in [1, 7, 1000] {
            assert_eq!(
                cut(
                    Separation::Lines,
                    &format!("1\n{long}\n2\n{long}"),
                    size,
                    10
                ),
                numbered(&[(1, "1"), (2, "too long"), (3, "2"), (4, "too long")])
            );
            assert_eq!(
                cut(
                    Separation::Lines,
                    &format!("1\n{}\n2", " ".repeat(11)),
                    size,
                    10
                ),
                numbered(&[(1, "1"), (2, "too long"), (3, "2")])
            );
            assert_eq!(
                cut(
                    Separation::Array,
                    &format!("[1,\"{long}, ]\",2,[{long}]]"),
                    size,
                    10
                ),
                numbered(&[(1, "1"), (2, "too long"), (3, "2"), (4, "too long")])
            );
        }
    }

    proptest! {
        #[test]
        fn every_array_is_cut_into_its_elements(
            values in proptest::collection::vec(
                prop_oneof![
                    any::<String>().prop_map(serde_json::Value::from),
                    any::<i64>().prop_map(serde_json::Value::from),
                    any::<String>().prop_map(|s| serde_json::json!({ s.clone(): [s, 1, {}] })),
                ],
                0..8,
            ),
            size in 1..40_usize,
        ) {
            let body = serde_json::to_string(&values).unwrap();
            let found = cut(Separation::Array, &body, size, 1 << 20);
            let again: Vec<serde_json::Value> =
                found.iter().map(|(_, text)| serde_json::from_str(text).unwrap()).collect();
            prop_assert_eq!(again, values);
        }
    }
}
