//! Bytes outside the holes are sacred.

use proptest::prelude::*;

use super::*;
use crate::text::place::{Place, place};

fn filled(template: &Template, fillings: &[&str]) -> Vec<u8> {
    template.fill(fillings).0
}

#[test]
fn markers_are_found_with_their_lengths() {
    let template = Template::with_markers(b"a<FILL>b<FILL:40><FILLER><FILL".to_vec()).unwrap();
    let holes: Vec<_> = template
        .holes()
        .iter()
        .map(|hole| (hole.bytes.clone(), hole.tokens))
        .collect();
    assert_eq!(holes, [(1..7, None), (8..17, Some(40))]);
    assert_eq!(template.texts(), ["a", "b", "<FILLER><FILL"]);
    assert_eq!(filled(&template, &["1", "2"]), b"a1b2<FILLER><FILL");
}

/// Each of them would search the rest of its line again.
#[test]
fn many_beginnings_of_markers_are_read_once() {
    let open = "<FILL:".repeat(200_000);
    let text = format!("{open}\n{open}<FILL>\n<FILL:3>");
    let template = Template::with_markers(text.into_bytes());
    let holes = template.map(|template| template.holes().len());
    // The last beginning of the second line goes up to the marker's end, and has no length.
    assert!(holes.is_err());
    let text = format!("{open}\n<FILL:3>{open}");
    let template = Template::with_markers(text.into_bytes()).expect("a length");
    assert_eq!(template.holes().len(), 1);
}

#[test]
fn a_marker_without_a_length_is_refused_with_its_place() {
    for marker in [
        "<FILL:>",
        "<FILL:0>",
        "<FILL:-1>",
        "<FILL:4x>",
        "<FILL:99999999999999999999>",
    ] {
        let error = Template::with_markers(format!("x\n  é{marker}").into_bytes()).unwrap_err();
        assert_eq!(error.place, Place { line: 2, column: 4 });
        assert_eq!(error.marker, marker);
    }
    // Without an end on its line it is no marker.
    assert!(
        Template::with_markers(b"<FILL:4\n>".to_vec())
            .unwrap()
            .holes()
            .is_empty()
    );
}

#[test]
fn a_byte_order_mark_stays_in_the_file_and_is_no_text() {
    let template = Template::with_markers(b"\xef\xbb\xbfx = <FILL>\n".to_vec()).unwrap();
    assert_eq!(template.texts(), ["x = ", "\n"]);
    assert_eq!(filled(&template, &["1"]), b"\xef\xbb\xbfx = 1\n");
}

#[test]
fn fillings_take_the_line_ends_of_the_file() {
    let template = Template::with_markers(b"a\r\n<FILL>\r\n".to_vec()).unwrap();
    assert_eq!(template.texts(), ["a\n", "\n"]);
    assert_eq!(filled(&template, &["x\ny"]), b"a\r\nx\r\ny\r\n");
    let template = Template::with_markers(b"a\n<FILL>\nb\r\n".to_vec()).unwrap();
    assert_eq!(filled(&template, &["x\ny"]), b"a\nx\ny\nb\r\n");
}

/// Bytes that are likely to be trouble: line ends, tabs, marker parts, broken UTF-8.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\t".to_vec()),
        Just(b"<FILL".to_vec()),
        Just(b"\xff\x00\xc3".to_vec()),
        Just("é😀".as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn bytes_outside_the_holes_come_back(
        parts in prop::collection::vec(hostile(), 1..5),
        lengths in prop::collection::vec(prop::option::of(1usize..99), 4),
        filling in "[a-z\r\n\t]{0,9}",
    ) {
        let mut bytes = parts[0].clone();
        for (part, length) in parts[1..].iter().zip(lengths) {
            match length {
                Some(tokens) => bytes.extend(format!("<FILL:{tokens}>").bytes()),
                None => bytes.extend(b"<FILL>"),
            }
            bytes.extend(part);
        }
        // Random parts can spell markers of their own, good or bad: then there is nothing to say.
        let Ok(template) = Template::with_markers(bytes.clone()) else { return Ok(()) };
        prop_assume!(template.holes().len() == parts.len() - 1);
        let (filled, places) = template.fill(&vec![filling.as_str(); template.holes().len()]);
        let mut rest = &filled[..];
        let mut at = 0;
        for (i, part) in parts.iter().enumerate() {
            prop_assert!(rest.starts_with(part), "part {i}");
            (rest, at) = (&rest[part.len()..], at + part.len());
            if let Some(place) = places.get(i) {
                prop_assert_eq!(place.start, at);
                let written = match lines::is_crlf(&template.bytes) {
                    true => filling.replace("\r\n", "\n").replace('\n', "\r\n"),
                    false => filling.clone(),
                };
                prop_assert!(rest.starts_with(written.as_bytes()));
                (rest, at) = (&rest[written.len()..], at + written.len());
                prop_assert_eq!(place.end, at);
            }
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn a_byte_order_mark_stands_first_or_nowhere(prefix in "\u{feff}?[a\n]{0,3}", suffix in "[b\n]{0,3}") {
        let marked = format!("\u{feff}{suffix}");
        let (filled, _) = Template::between(prefix.as_bytes(), marked.as_bytes()).fill(&["x"]);
        let expected = match prefix.is_empty() {
            true => format!("\u{feff}x{suffix}"),
            false => format!("{prefix}x{suffix}"),
        };
        prop_assert_eq!(String::from_utf8(filled).unwrap(), expected);
    }

    #[test]
    fn a_hole_at_any_place_changes_no_other_byte(
        bytes in hostile(),
        line in 1usize..6,
        column in prop::option::of(1usize..9),
    ) {
        let Ok(template) = Template::with_holes_at(bytes.clone(), &[(line, column)]) else { return Ok(()) };
        let (filled, places) = template.fill(&["FILLING"]);
        let (before, after) = (&filled[..places[0].start], &filled[places[0].end..]);
        prop_assert_eq!(&filled[places[0].clone()], b"FILLING");
        prop_assert_eq!([before, after].concat(), bytes.clone());
        let found = place(&bytes, places[0].start);
        prop_assert_eq!(found.line, line);
        if let Some(column) = column {
            prop_assert_eq!(found.column, column);
        }
        prop_assert_eq!(template.fill(&[""]).0, bytes);
    }
}
