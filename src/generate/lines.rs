//! Lines of JSON, as the service takes them, and views as such lines.

use std::io::{self, Write};

use indicatif::ProgressBar;
use serde::Serialize;

use super::Source;
use crate::domain::PageView;

/// How many views or visits are written at once.
const TURN: u64 = 1000;

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<u64>,
    user_id: u32,
    created_at: String,
    page_url: &'a str,
}

/// Appends `view` with its request id, and a line feed.
pub(super) fn line(view: &PageView, into: &mut Vec<u8>) {
    json(view, Some(view.request_id.get()), into);
    into.push(b'\n');
}

/// The body of a single POST or PUT.
pub(super) fn body(view: &PageView) -> Vec<u8> {
    let mut body = Vec::new();
    json(view, None, &mut body);
    body
}

fn json(view: &PageView, request_id: Option<u64>, into: &mut Vec<u8>) {
    let line = Line {
        request_id,
        user_id: view.user_id.get(),
        created_at: view.created_at.to_string(),
        page_url: view.page_url.as_str(),
    };
    // Numbers and text, into memory.
    let _ = serde_json::to_writer(into, &line);
}

/// Writes all that is posted to `output`; returns how many lines that were, or nothing where the
/// reader has seen enough and went away, which is no error.
///
/// # Errors
/// `output` can't be written to.
pub fn write_lines(
    source: &Source,
    output: &mut impl Write,
    bar: &ProgressBar,
) -> io::Result<Option<u64>> {
    let (mut block, mut lines, mut next) = (Vec::new(), 0, 0);
    while next < source.count() {
        let end = source.count().min(next + TURN);
        block.clear();
        lines += source.lines(next..end, &mut block);
        match output.write_all(&block) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(None),
            written => written?,
        }
        bar.inc(end - next);
        next = end;
    }
    match output.flush() {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(None),
        flushed => flushed.map(|()| Some(lines)),
    }
}
