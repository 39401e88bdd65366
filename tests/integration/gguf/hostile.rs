//! Files made to break the reader: errors, never a panic.

use diffucoder::model::config::Config;
use diffucoder::weights::gguf::{GgufError, GgufFile, GgufTokenizer};

use super::{TINY, tiny};

/// A file byte by byte, for what no writer would write.
#[derive(Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn new(version: u32, tensors: u64, keys: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(version).u64(tensors).u64(keys)
    }
    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    fn text(self, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        let mut raw = self.u64(text.len() as u64);
        raw.0.extend(text);
        raw
    }
    fn tensor(self, name: &str, dims: &[u64], number: u32, offset: u64) -> Self {
        let raw = self.text(name).u32(dims.len() as u32);
        let raw = dims.iter().fold(raw, |raw, &dim| raw.u64(dim));
        raw.u32(number).u64(offset)
    }
    fn zeros(mut self, len: usize) -> Self {
        self.0.resize(self.0.len() + len, 0);
        self
    }
}

#[test]
fn hostile_files_are_refused() {
    let raw = |tensors, keys| Raw::new(3, tensors, keys);
    let key = |value_type| raw(0, 1).text("key").u32(value_type);
    let array = |element: u32, len: u64| key(9).u32(element).u64(len).zeros(64);
    let tensor =
        |dims: &[u64], number, offset| raw(1, 0).tensor("x", dims, number, offset).zeros(4096);
    let deep = |depth: usize| (0..depth).fold(key(9), |raw, _| raw.u32(9).u64(1));
    let max = u64::MAX;
    for (file, says) in [
        (Raw(b"".to_vec()), "not a GGUF file"),
        (Raw(b"<htm".to_vec()), "it starts with \"<htm\""),
        (Raw(b"ggml\0\0\0\0".to_vec()), "not a GGUF file"),
        (Raw(b"GGUF".to_vec()), "cut short: version at byte 4"),
        (Raw::new(0, 0, 0), "GGUF version 0"),
        (Raw::new(1, 0, 0), "GGUF version 1 is not supported"),
        (Raw::new(4, 0, 0), "GGUF version 4"),
        (Raw::new(3u32.swap_bytes(), 0, 0), "a big-endian GGUF file"),
        (
            raw(max, 0),
            "tensor count (byte 8): it is 18446744073709551615",
        ),
        (raw(0, max), "key count (byte 16)"),
        (raw(1 << 40, 0).zeros(4096), "at most 124 are possible"),
        (
            raw(0, 1).text("").u32(4).zeros(64),
            "name of key 0 (byte 24): it is empty",
        ),
        (
            raw(0, 1).text(b"k\xff").u32(4).zeros(64),
            "not UTF-8 at byte 1",
        ),
        (
            raw(0, 1).u64(max).zeros(64),
            "cut short: name of key 0 at byte 32 needs 18446744073709551615",
        ),
        (raw(0, 1).u64(1 << 63).zeros(64), "cut short"),
        (
            key(13).zeros(64),
            "value of key key (byte 35): 13 is no type",
        ),
        (key(7).u32(2).zeros(64), "2 is no truth value"),
        (key(8).text([0xc0, 0x80]).zeros(64), "not UTF-8"),
        (key(8).u64(max).zeros(64), "cut short: value of key key"),
        (array(8, max), "cannot fit"),
        (array(8, 9), "cannot fit"),
        (array(10, 1 << 61), "cannot fit"),
        (array(9, 1 << 60), "cannot fit"),
        (
            array(0, 65),
            "65 entries of 1 bytes or more cannot fit in the 64",
        ),
        (array(99, 1), "99 is no type"),
        (deep(4).u32(0).u64(0), "nested more than 4 deep"),
        (deep(100_000).zeros(64), "nested more than 4 deep"),
        (
            raw(0, 2)
                .text("k")
                .u32(4)
                .u32(1)
                .text("k")
                .u32(4)
                .u32(1)
                .zeros(64),
            "key k (byte 41): it is there twice",
        ),
        (
            raw(0, 1).text("general.alignment").u32(4).u32(0),
            "general.alignment is 0",
        ),
        (
            raw(0, 1).text("general.alignment").u32(4).u32(48),
            "a power of two",
        ),
        (
            raw(0, 1).text("general.alignment").u32(4).u32(1 << 31),
            "a power of two",
        ),
        (
            raw(0, 1).text("general.alignment").u32(6).u32(0),
            "must be an integer",
        ),
        (tensor(&[], 0, 0), "0 dimensions"),
        (tensor(&[1; 5], 0, 0), "5 dimensions"),
        (tensor(&[4, 0], 0, 0), "is zero"),
        (tensor(&[max, 2], 0, 0), "too large"),
        (tensor(&[1 << 32, 1 << 32], 0, 0), "too large"),
        (tensor(&[1 << 62], 0, 0), "too large"),
        (
            tensor(&[33], 2, 0),
            "33 columns are not a multiple of 32, the block of Q4_0",
        ),
        (
            tensor(&[32], 4, 0),
            "tensor x: type number 4 is not supported",
        ),
        (tensor(&[32], max as u32, 0), "type number 4294967295"),
        (tensor(&[32], 0, 4), "not a multiple of 32"),
        (tensor(&[32], 0, 8192), "cut short: data of tensor x"),
        (tensor(&[32], 0, max - 31), "past the end"),
        (
            tensor(&[1 << 20], 0, 0),
            "cut short: data of tensor x at byte 64 needs 4194304",
        ),
        (
            raw(2, 0)
                .tensor("x", &[8], 0, 0)
                .tensor("x", &[8], 0, 32)
                .zeros(256),
            "tensor x (byte 57): it is there twice",
        ),
        (
            raw(2, 0)
                .tensor("x", &[16], 0, 32)
                .tensor("y", &[16], 0, 0)
                .zeros(256),
            "its data overlaps that of y",
        ),
        (
            raw(2, 0)
                .tensor("x", &[8], 0, 0)
                .tensor("y", &[8], 0, 0)
                .zeros(256),
            "overlaps",
        ),
        (
            raw(1, 0).tensor("", &[8], 0, 0).zeros(256),
            "name of tensor 0",
        ),
    ] {
        let error = GgufFile::parse(&file.0).expect_err(says).to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn small_files_that_are_fine() {
    // Version 2 has the same layout; a file may have no tensors, and then no padding.
    let file = Raw::new(2, 0, 1).text("k").u32(9).u32(9).u64(0);
    assert_eq!(GgufFile::parse(&file.0).unwrap().version(), 2);
    // No key is shorter: a byte of name, and one of value.
    let file = Raw::new(3, 0, 1).text("a").u32(0).zeros(1);
    assert_eq!(GgufFile::parse(&file.0).unwrap().u32("a").unwrap(), 0);
    // The last tensor need not be padded, nor the tensors be in order; four dimensions are most.
    let file = Raw::new(3, 2, 0)
        .tensor("x", &[1; 4], 0, 32)
        .tensor("y", &[8], 0, 0);
    let padded = file.0.len().next_multiple_of(32) + 36;
    let file = file.clone().zeros(padded - file.0.len());
    let parsed = GgufFile::parse(&file.0).unwrap();
    assert_eq!(parsed.data(&parsed.tensors()[0]).len(), 4);
}

fn header_bytes() -> usize {
    let file = tiny();
    let starts = file.tensors().iter().map(|tensor| tensor.range.start);
    starts.min().unwrap()
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let header = header_bytes();
    for len in (0..header).chain((header..TINY.len()).step_by(61)) {
        let error = GgufFile::parse(&TINY[..len]).expect_err("cut");
        assert!(
            matches!(
                error,
                GgufError::NotGguf { .. } | GgufError::Truncated { .. } | GgufError::Damaged { .. }
            ),
            "{len}: {error}"
        );
    }
}

#[test]
fn damaged_headers_never_panic() {
    let header = header_bytes();
    let mut state = 1u64; // a seeded generator, so that a failure can be repeated
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut bytes = TINY.to_vec();
    let (mut refused, rounds) = (0, 4000);
    for _ in 0..rounds {
        let places: Vec<usize> = (0..=random(3)).map(|_| random(header)).collect();
        for &place in &places {
            bytes[place] = match random(3) {
                0 => 0xff,
                1 => 0,
                _ => bytes[place] ^ (1 << random(8)),
            };
        }
        let read = GgufFile::parse(&bytes).and_then(|file| {
            let shape = Config::from_gguf(&file)?;
            for tensor in file.tensors() {
                let _ = (file.data(tensor).len(), tensor.elements());
            }
            GgufTokenizer::read(&file, shape.vocab_size)
        });
        refused += usize::from(read.is_err());
        for &place in &places {
            bytes[place] = TINY[place];
        }
    }
    assert!(refused > rounds / 4, "{refused}");
}
