//! The id under which a request is found in the log and named in its answer.
//!
//! Not a view's `request_id`: this one is of the call, from `X-Request-Id` where a client or a proxy
//! gave a good one.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// The header, in both directions.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer one is not taken over.
const MAX_BYTES: usize = 128;

/// The one that came with the request, if it is visible ASCII and not too long, or a new one.
pub(super) fn of(headers: &HeaderMap) -> HeaderValue {
    let good = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=MAX_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    let given = headers.get(X_REQUEST_ID).filter(good);
    given.cloned().unwrap_or_else(fresh)
}

/// A random UUID. Not from the operating system: nobody is kept out by it, and a call costs more than
/// all the rest.
fn fresh() -> HeaderValue {
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let text = id.hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(value: &[u8]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
        of(&headers).as_bytes() == value
    }

    #[test]
    fn only_a_good_id_is_taken_over() {
        assert!(taken(b"a") && taken(b"00-4bf92f3577b34da6-01/{x}") && taken(&[b'~'; MAX_BYTES]));
        for bad in [
            &b""[..],
            b"a b",
            b"a\tb",
            "é".as_bytes(),
            &[b'a'; MAX_BYTES + 1],
        ] {
            assert!(!taken(bad), "{bad:?}");
        }
        let (one, other) = (of(&HeaderMap::new()), of(&HeaderMap::new()));
        assert!(one.len() == 36 && one != other);
    }
}
