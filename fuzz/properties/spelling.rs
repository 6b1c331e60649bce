//! Another spelling of the same JSON: one that can't be read in place, so that the reading goes the
//! longer way.

/// Every character of every string as an escape, `\u0061` for `a`. Nothing where there is no UTF-8.
pub fn escaped(json: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(json).ok()?;
    let mut out = String::with_capacity(6 * text.len());
    let mut inside = false;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => {
                inside = !inside;
                out.push(c);
            }
            // An escape stays what it is; `\u` is followed by plain digits, which must too.
            '\\' if inside => {
                out.push(c);
                let escape = characters.next();
                out.extend(escape);
                if escape == Some('u') {
                    out.extend(characters.by_ref().take(4));
                }
            }
            // A raw control character is no JSON, but its escape is.
            c if inside && c >= ' ' => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    Some(out.into_bytes())
}
