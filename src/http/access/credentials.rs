//! Where a request carries its key.

use axum::http::{HeaderMap, HeaderName, header};

pub(in crate::http) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const BEARER: &[u8] = b"bearer ";

/// What a request brings to be known by.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Presented<'a> {
    Nothing,
    Key(&'a [u8]),
    /// Different keys: whom it would be by is not for us to choose.
    Several,
}

/// The key in `Authorization: Bearer` or `X-Api-Key`. The same in both is one. `Authorization` of another
/// scheme is between the client and a proxy.
pub(super) fn presented(headers: &HeaderMap) -> Presented<'_> {
    let bearers = headers.get_all(header::AUTHORIZATION).iter();
    let bearers = bearers.filter_map(|value| bearer(value.as_bytes()));
    let keys = headers.get_all(API_KEY).iter();
    let mut all = bearers.chain(keys.map(|value| value.as_bytes().trim_ascii()));
    let Some(first) = all.next() else {
        return Presented::Nothing;
    };
    if all.all(|other| other == first) {
        Presented::Key(first)
    } else {
        Presented::Several
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(BEARER.len())?;
    scheme
        .eq_ignore_ascii_case(BEARER)
        .then(|| key.trim_ascii())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// Visible ASCII, and bytes that are no UTF-8.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![9 => b'!'..=b'~', 1 => 0x80..=0xff_u8], 1..90)
    }

    proptest! {
        #[test]
        fn a_key_is_one_in_any_spelling_and_two_are_none(
            key in key(),
            other in key(),
            spellings in proptest::collection::vec(0..5_usize, 1..6),
            schemes in proptest::collection::vec("(Basic|Digest|bearer|Bearerx) ?", 0..3),
        ) {
            let spell = |headers: &mut HeaderMap, key: &[u8], spelling: usize| {
                let forms: [(HeaderName, &[u8], &[u8]); 5] = [
                    (header::AUTHORIZATION, b"Bearer ", b""),
                    (header::AUTHORIZATION, b"bEARER \t ", b" "),
                    (header::AUTHORIZATION, b"bearer  ", b"\t"),
                    (API_KEY, b"", b""),
                    (API_KEY, b" \t", b"  "),
                ];
                let (name, before, behind) = &forms[spelling];
                let value = HeaderValue::from_bytes(&[before, key, behind].concat()).unwrap();
                headers.append(name, value);
            };
            let mut headers = HeaderMap::new();
            for scheme in schemes.iter().filter(|scheme| *scheme != "bearer ") {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(scheme).unwrap());
            }
            prop_assert_eq!(presented(&headers), Presented::Nothing);
            for spelling in &spellings {
                spell(&mut headers, &key, *spelling);
            }
            prop_assert_eq!(presented(&headers), Presented::Key(&key));
            spell(&mut headers, &other, spellings[0]);
            let expected = if other == key { Presented::Key(&key) } else { Presented::Several };
            prop_assert_eq!(presented(&headers), expected);
        }
    }

    #[test]
    fn one_key_is_found_wherever_it_is() {
        let cases: &[(&[(&str, &str)], Presented<'_>)] = &[
            (&[], Presented::Nothing),
            (&[("authorization", "Bearer k")], Presented::Key(b"k")),
            (&[("authorization", "bearer  k ")], Presented::Key(b"k")),
            (&[("x-api-key", "k")], Presented::Key(b"k")),
            (
                &[("authorization", "Bearer k"), ("x-api-key", "k")],
                Presented::Key(b"k"),
            ),
            (
                &[("authorization", "Basic dTpw"), ("x-api-key", "k")],
                Presented::Key(b"k"),
            ),
            (&[("authorization", "Basic dTpw")], Presented::Nothing),
            (&[("authorization", "Bearer")], Presented::Nothing),
            (&[("x-api-key", "")], Presented::Key(b"")),
            (
                &[("authorization", "Bearer k"), ("x-api-key", "l")],
                Presented::Several,
            ),
            (
                &[("x-api-key", "k"), ("x-api-key", "l")],
                Presented::Several,
            ),
        ];
        for (given, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in *given {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(presented(&headers), *expected, "{given:?}");
        }
    }
}
