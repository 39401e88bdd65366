//! Markers of holes in a file: `<FILL>`, or `<FILL:40>` with a length in tokens.

use super::Hole;
use crate::text::place::{Place, place};

const OPEN: &[u8] = b"<FILL";
/// Nobody means a longer one, and no context holds it.
const MAX_TOKENS: usize = 1 << 20;

/// A marker that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the marker at {}:{} has no length in tokens, from 1 to {MAX_TOKENS}: {marker}",
    place.line, place.column
)]
pub struct MarkerError {
    /// Where it is.
    pub place: Place,
    /// What is written there.
    pub marker: String,
}

/// The holes that are marked. What only looks like a marker (`<FILLER>`) is text.
pub fn find(bytes: &[u8]) -> Result<Vec<Hole>, MarkerError> {
    let mut holes = Vec::new();
    let mut at = 0;
    let mut unclosed = 0; // up to here no marker closes
    while let Some(found) = memchr::memmem::find(&bytes[at..], OPEN) {
        let start = at + found;
        let inside = start + OPEN.len();
        at = inside;
        match bytes.get(inside) {
            Some(b'>') => {
                at = inside + 1;
                holes.push(Hole {
                    bytes: start..at,
                    tokens: None,
                });
            }
            Some(b':') if inside >= unclosed => {
                let end = memchr::memchr2(b'\n', b'>', &bytes[inside..]);
                let end = end.map_or(bytes.len(), |len| inside + len);
                if bytes.get(end) != Some(&b'>') {
                    unclosed = end;
                    continue;
                }
                at = end + 1;
                let tokens = std::str::from_utf8(&bytes[inside + 1..at - 1]).ok();
                let tokens = tokens.and_then(|digits| digits.parse().ok());
                if tokens.is_none_or(|tokens| tokens == 0 || tokens > MAX_TOKENS) {
                    return Err(MarkerError {
                        place: place(bytes, start),
                        marker: String::from_utf8_lossy(&bytes[start..at]).into_owned(),
                    });
                }
                holes.push(Hole {
                    bytes: start..at,
                    tokens,
                });
            }
            _ => {}
        }
    }
    Ok(holes)
}
