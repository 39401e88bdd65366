//! Every version against the scalar one, to the bit; the scalar one against plain arithmetic on the
//! formats.

mod blocks;
mod tiles;

use super::activations::Stored;
use super::*;
use blocks::{FILLS, Fill, activations, dequantize, halves_of, matrix};
#[cfg(target_arch = "x86_64")]
use std::arch::is_x86_feature_detected as has;

fn product(isa: Isa, w: &PackedMatrix, x: &Activations) -> Vec<f32> {
    let mut out = vec![f32::NAN; w.panels() * x.rows() * PANEL];
    matmul_panels(isa, w, x, 0..w.panels(), &mut out);
    out
}

fn quantized(isa: Isa, values: &[f32], k: usize, group: usize) -> Activations {
    let mut x = Activations::default();
    x.quantize(isa, values, k, group);
    x
}

#[track_caller]
fn assert_same_bits(expected: &[f32], actual: &[f32], what: &dyn std::fmt::Debug) {
    assert_eq!(expected.len(), actual.len());
    for (i, (e, a)) in expected.iter().zip(actual).enumerate() {
        assert!(
            e.to_bits() == a.to_bits() || (e.is_nan() && a.is_nan()),
            "{what:?}: element {i} is {a}, expected {e}"
        );
    }
}

type Product = Box<dyn Fn(&PackedMatrix, &Activations) -> Vec<f32>>;

/// Every version that this CPU can run, but the scalar one.
fn versions() -> Vec<(&'static str, Product)> {
    let mut versions: Vec<(&'static str, Product)> = Vec::new();
    for isa in Isa::available().filter(|isa| *isa != Isa::SCALAR) {
        versions.push((isa.name(), Box::new(move |w, x| product(isa, w, x))));
    }
    #[cfg(target_arch = "x86_64")]
    if Isa::named("avx2").is_some() && has!("avx512vl") && has!("avx512vnni") {
        versions.push(("avxvnni as avx512vnni", Box::new(product_of_vnni_loops)));
    }
    versions
}

/// The loops of AVX-VNNI, where the CPU has its instruction in the encoding of AVX-512 only.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn product_of_vnni_loops(w: &PackedMatrix, x: &Activations) -> Vec<f32> {
    let mut out = vec![f32::NAN; w.panels() * x.rows() * PANEL];
    let (columns, _) = out.as_chunks_mut();
    format::with_format!(w.format(), F => {
        // SAFETY: `versions` found the features.
        unsafe { avx2::vnni::as_avx512::matmul::<F>(w, x, 0..w.panels(), columns) }
    });
    out
}

#[test]
fn every_available_version_equals_scalar() {
    let versions = versions();
    for format in Format::ALL {
        for (i, fill) in FILLS.into_iter().enumerate() {
            for n in [1, 15, 16, 17, 33] {
                // Extremes at a few sizes, the sizes with random weights.
                let rows: Vec<usize> = match (fill, n) {
                    (Fill::Random, 17) => (1..=19).chain([33, 65]).collect(),
                    (Fill::Random, _) => vec![1, 2, 3, 4, 5, 8, 13],
                    _ if n == 17 => vec![1, 4, 7],
                    _ => continue,
                };
                let k = format.block_inputs() * (1 + (n + i) % 3);
                let bytes = matrix(format, n, k, fill, n as u64);
                let w = PackedMatrix::pack(format, &bytes, n, k).unwrap();
                for rows in rows {
                    let group = [1, 4, 3, 2][(rows + n) % 4];
                    let values = activations(rows, k, rows as u64);
                    let x = quantized(Isa::SCALAR, &values, k, group);
                    let expected = product(Isa::SCALAR, &w, &x);
                    for (name, version) in &versions {
                        let what = (name, format, fill, n, k, rows, group);
                        assert_same_bits(&expected, &version(&w, &x), &what);
                    }
                }
            }
        }
    }
}

#[test]
fn ranges_of_panels_are_parts_of_the_product() {
    let (n, k, rows) = (16 * 7 - 3, 64, 6);
    let w = PackedMatrix::pack(
        Format::Q4_0,
        &matrix(Format::Q4_0, n, k, Fill::Random, 1),
        n,
        k,
    )
    .unwrap();
    for isa in Isa::available() {
        let x = quantized(isa, &activations(rows, k, 2), k, 2);
        let whole = product(isa, &w, &x);
        for start in 0..=7 {
            for end in start..=7 {
                let mut part = vec![f32::NAN; (end - start) * rows * PANEL];
                matmul_panels(isa, &w, &x, start..end, &mut part);
                assert_same_bits(
                    &whole[start * rows * PANEL..end * rows * PANEL],
                    &part,
                    &(isa, start, end),
                );
            }
        }
        let mut y = vec![f32::NAN; rows * n];
        let (head, tail) = y.split_at_mut(2 * n);
        copy_rows(&whole, rows, n, 0, head);
        copy_rows(&whole, rows, n, 2, tail);
        for row in 0..rows {
            for column in 0..n {
                let expected = whole[(column / PANEL * rows + row) * PANEL + column % PANEL];
                assert_eq!(y[row * n + column].to_bits(), expected.to_bits());
            }
        }
    }
}

/// Random blocks of every format, and what ggml makes of them.
#[test]
fn blocks_stand_for_the_numbers_that_ggml_computes() {
    let mut rest = &include_bytes!("../../tests/fixtures/gguf/blocks.bin")[..];
    for format in Format::ALL {
        let (blocks, numbers);
        (blocks, rest) = rest.split_at(512 / format.block_inputs() * format.block_bytes());
        (numbers, rest) = rest.split_at(512 * 4);
        let mut found = [0f32; 512];
        format.dequantize(blocks, &mut found);
        for (i, (found, number)) in found.iter().zip(numbers.as_chunks().0).enumerate() {
            let expected = f32::from_le_bytes(*number);
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "{format} {i}: {found} {expected}"
            );
        }
    }
    assert!(rest.is_empty());
}

/// With `e = 2^-24`, every term of an output has a relative error of at most `(1 + e)^(4g + n)`: up
/// to four additions for each of the `g` blocks of its group, one for each of the `n` groups.
/// Quantized activations are exact in `f64`.
#[test]
fn scalar_is_the_product_of_the_dequantized_values() {
    let (n, rows) = (19, 3);
    for format in Format::ALL {
        for fill in FILLS {
            let k = 3 * format.block_inputs();
            let bytes = matrix(format, n, k, fill, 7);
            let weights = dequantize(format, &bytes);
            let w = PackedMatrix::pack(format, &bytes, n, k).unwrap();
            let mut values = activations(rows, k, 5);
            values.iter_mut().for_each(|v| *v = v.clamp(-4.0, 4.0));
            let group = format.scale_group();
            let x = quantized(Isa::SCALAR, &values, k, group);
            let restored = restore(&x);
            let y = product(Isa::SCALAR, &w, &x);
            for row in 0..rows {
                for column in 0..n {
                    let terms = (0..k).map(|i| weights[column * k + i] * restored[row * k + i]);
                    let exact: f64 = terms.clone().sum();
                    // What is taken off is added up apart.
                    let size: f64 = match halves_of(format) {
                        &[_, _] => {
                            let at = column * k / format.block_inputs() * format.block_bytes();
                            size_of_parts(format, &bytes[at..], &restored[row * k..][..k])
                        }
                        _ => terms.map(f64::abs).sum(),
                    };
                    // One more for the rounding of a weight to f32.
                    let roundings = 1 + 4 * group + (k / BLOCK).div_ceil(group);
                    let bound =
                        size * ((1.0 + f64::powi(2.0, -24)).powi(roundings as i32) - 1.0) + 1e-40;
                    let actual =
                        f64::from(y[(column / PANEL * rows + row) * PANEL + column % PANEL]);
                    assert!(
                        (actual - exact).abs() <= bound,
                        "{format} {fill:?} {row} {column}: {actual}, expected {exact}"
                    );
                }
            }
        }
    }
}

/// Sum of the sizes of a row's scaled quants and minimums.
fn size_of_parts(format: Format, blocks: &[u8], x: &[f64]) -> f64 {
    let blocks = &blocks[..x.len() / format.block_inputs() * format.block_bytes()];
    let sizes = halves_of(format).iter().map(|&without| {
        let mut blocks = blocks.to_vec();
        for block in blocks.chunks_exact_mut(format.block_bytes()) {
            block[without..without + 2].fill(0);
            if format == Format::Q2K {
                // One minimum is taken off everywhere, the difference to the other in the first
                // half: at most twice the largest.
                block[..16].iter_mut().for_each(|scales| *scales |= 0xf0);
            }
        }
        let terms = dequantize(format, &blocks);
        terms.iter().zip(x).map(|(w, x)| (w * x).abs()).sum::<f64>()
    });
    sizes.sum::<f64>() * if format == Format::Q2K { 2.0 } else { 1.0 }
}

/// The values that quantized activations stand for, `[rows, k]`.
fn restore(x: &Activations) -> Vec<f64> {
    let mut values = vec![0.0; x.rows() * x.k()];
    for (first_row, rows, blocks) in x.tiles() {
        for (i, block) in blocks.iter().enumerate() {
            let at = (first_row + i % rows) * x.k() + i / rows * BLOCK;
            for (value, q) in values[at..].iter_mut().zip(block.quants()) {
                *value = f64::from(block.scale) * f64::from(q);
            }
        }
    }
    values
}

#[test]
fn quantizing_is_the_same_everywhere_and_within_half_a_step() {
    let k = 96;
    for (rows, group) in [(1, 1), (2, 2), (31, 1), (32, 2), (33, 3), (70, 4)] {
        let values = activations(rows, k, rows as u64);
        let expected = quantized(Isa::SCALAR, &values, k, group);
        for (value, restored) in values.iter().zip(restore(&expected)) {
            assert!((f64::from(*value) - restored).abs() <= 0.5001 * 1e30 / 127.0);
        }
        let restored = restore(&expected);
        let groups = values
            .chunks_exact(k)
            .flat_map(|row| row.chunks(group * BLOCK));
        let restored = restored
            .chunks_exact(k)
            .flat_map(|row| row.chunks(group * BLOCK));
        for (values, restored) in groups.zip(restored) {
            let most = values.iter().fold(0f32, |most, v| most.max(v.abs()));
            for (value, restored) in values.iter().zip(restored) {
                assert!(
                    (f64::from(*value) - restored).abs() <= f64::from(most) / 253.9,
                    "{value} became {restored}"
                );
            }
        }
        for isa in Isa::available() {
            let mut x = Activations::default();
            x.resize(rows, k, group);
            let source = Stored { values: &values, k };
            x.parts_mut(1).for_each(|part| part.quantize(isa, &source));
            for (e, a) in expected.tiles().zip(x.tiles()) {
                assert_eq!((e.0, e.1), (a.0, a.1));
                for (e, a) in e.2.iter().zip(a.2) {
                    assert_eq!(e.words, a.words);
                    assert_eq!(e.scale.to_bits(), a.scale.to_bits());
                    assert_eq!(
                        (e.minus_8, e.minus_128, e.minus_32),
                        (a.minus_8, a.minus_128, a.minus_32)
                    );
                    let sum: i32 = a.quants().iter().map(|&q| i32::from(q)).sum();
                    assert_eq!((a.minus_8, a.minus_128), (-8 * sum, -128 * sum));
                    assert_eq!((a.sum, e.sum), (sum as f32, sum as f32));
                    assert_eq!(a.first_sum, a.minus_32[0] as f32 / -32.0);
                    assert_eq!((a.minus_16, e.minus_16), (-16 * sum, -16 * sum));
                    assert_eq!(a.minus_32[0] + a.minus_32[1], -32 * sum);
                }
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_reach_their_own_row_only() {
    let (k, rows) = (64, 6);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for format in [Format::Q4_0, Format::Q8_0] {
            let w =
                PackedMatrix::pack(format, &matrix(format, 16, k, Fill::Random, 3), 16, k).unwrap();
            for isa in Isa::available() {
                let mut values = vec![1.0; rows * k];
                values[2 * k + 5] = bad;
                let y = product(isa, &w, &quantized(isa, &values, k, format.scale_group()));
                for (row, y) in y.chunks_exact(PANEL).enumerate() {
                    assert!(
                        y.iter().all(|v| v.is_nan() == (row == 2)),
                        "{isa} {format} row {row}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_smallest_and_largest_activations_stay_finite() {
    for (value, expected) in [
        (f32::MAX, f32::MAX),
        (-f32::MAX, -f32::MAX),
        (1e-45, 0.0),
        (1e-37, 0.0),
        (2e-36, 2e-36),
    ] {
        let x = quantized(Isa::SCALAR, &[value; BLOCK], BLOCK, 1);
        let restored = restore(&x)[0];
        assert!(
            (restored - f64::from(expected)).abs() <= f64::from(expected).abs() * 1e-6,
            "{value} became {restored}"
        );
    }
}

#[test]
fn packing_does_not_depend_on_the_threads() {
    let (n, k) = (16 * 9 + 5, 512);
    for format in Format::ALL {
        let bytes = matrix(format, n, k, Fill::Random, 5);
        let pack = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            pool.install(|| PackedMatrix::pack(format, &bytes, n, k).unwrap())
        };
        let (one, five) = (pack(1), pack(5));
        for panel in 0..one.panels() {
            let (a, b) = (one.panel(panel), five.panel(panel));
            let lines = a.lines.iter().zip(b.lines).all(|(a, b)| a.0 == b.0);
            let scales = a.scales.iter().chain(a.supers);
            let scales = scales.zip(b.scales.iter().chain(b.supers));
            assert!(
                lines && scales.clone().all(|(a, b)| a.0 == b.0),
                "{format} {panel}"
            );
        }
        assert_eq!(one.bytes(), five.bytes());
    }
}

#[test]
fn wrong_sizes_are_refused() {
    let shape = |format, n, k| {
        matches!(
            PackedMatrix::pack(format, &[], n, k),
            Err(PackError::Shape { .. })
        )
    };
    assert!(
        shape(Format::Q4_0, 1, 31)
            && shape(Format::Q4K, 1, 32)
            && shape(Format::Q6K, 0, 256)
            && shape(Format::Q8_0, 1, 0)
    );
    assert!(shape(Format::Q8_0, usize::MAX, 64));
    let error = PackedMatrix::pack(Format::Q8_0, &[0; 33], 1, 32)
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        error,
        PackError::Length {
            expected_bytes: 34,
            actual_bytes: 33
        }
    );
    assert_eq!(error.to_string(), "expected 34 bytes of weights, got 33");
}

#[test]
fn names_find_what_is_available() {
    for isa in Isa::available() {
        assert_eq!(Isa::named(isa.name()), Some(isa));
    }
    assert_eq!(Isa::named("mmx"), None);
    assert_eq!(Isa::available().last(), Some(Isa::detect()));
}

#[test]
fn a_few_rows_of_each_of_several_canvases_take_tiles() {
    for isa in Isa::available() {
        let several = isa.of_several();
        for rows in [1, 15, 16, 320] {
            assert_eq!(several.for_rows(rows).has_tiles(), isa.has_tiles(), "{isa}");
        }
        if let Some(least) = isa.least_tile_rows() {
            assert_eq!(several.name(), "amx-always");
            assert!(isa.for_rows(least).has_tiles());
            assert!(!isa.for_rows(least - 1).has_tiles() || isa == several);
        } else {
            assert_eq!(several, isa);
        }
    }
}

#[test]
fn halves_are_exact() {
    for (half, value) in [
        (0, 0.0),
        (0x3c00, 1.0),
        (0xc000, -2.0),
        (1, 5.960_464_5e-8),
        (0x03ff, 6.097_555e-5),
        (0x7bff, 65504.0),
    ] {
        assert_eq!(stored::half_to_f32(half), value);
    }
    assert_eq!(stored::half_to_f32(0x8000).to_bits(), (-0f32).to_bits());
    assert_eq!(stored::half_to_f32(0xfc00), f32::NEG_INFINITY);
    assert!(stored::half_to_f32(0x7e00).is_nan());
}
