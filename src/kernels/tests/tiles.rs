//! Tiles: the model of the instructions against the sums that it defines, to the bit, and against
//! plain arithmetic; the instructions, where they are, against the model.

use super::super::tiles::{Model, Tile, Tiles};
use super::*;

fn tile_rows(isa: Isa, values: &[f32], k: usize) -> TileRows {
    let mut x = TileRows::default();
    x.fill(isa, values, k);
    x
}

fn tiled(isa: Isa, w: TileWeights<'_>, x: &TileRows) -> Vec<f32> {
    let mut out = vec![f32::NAN; w.panels() * x.rows() * PANEL];
    matmul_tiles(isa, w, x, 0..w.panels(), &mut out);
    out
}

/// Rounded to bf16.
fn half(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}

/// The same, with ties away from zero, as quantized weights are.
fn half_of_weight(x: f32) -> f32 {
    f32::from_bits((x.to_bits() + 0x8000) & 0xffff_0000)
}

/// `[panel, row, 16]` by the definition, of `w`, `[n, k]`, in bf16 already, and `x`, `[rows, k]`;
/// and with it the sum of the sizes of the terms and their exact sum. Nothing here is subnormal.
fn defined(w: &[f32], x: &[f32], n: usize, k: usize) -> Vec<(f32, f64, f64)> {
    let rows = x.len() / k;
    let mut out = vec![(0.0, 0.0, 0.0); n.div_ceil(PANEL) * rows * PANEL];
    for row in 0..rows {
        for column in 0..n {
            let (x, w) = (&x[row * k..][..k], &w[column * k..][..k]);
            let (mut total, mut size, mut exact) = (0f32, 0.0, 0.0);
            for (x, w) in x.chunks(BLOCK).zip(w.chunks(BLOCK)) {
                let mut sums = [0f32; 2];
                for (i, (x, w)) in x.iter().zip(w).enumerate() {
                    let (x, w) = (half(*x), *w);
                    sums[i % 4 / 2] = x.mul_add(w, sums[i % 4 / 2]);
                    exact += f64::from(x) * f64::from(w);
                    size += (f64::from(x) * f64::from(w)).abs();
                }
                total += sums[0] + sums[1];
            }
            out[(column / PANEL * rows + row) * PANEL + column % PANEL] = (total, size, exact);
        }
    }
    out
}

/// Against the definition to the bit, and against arithmetic: each term is rounded up to 16 times
/// in its block, once with the other half of it, and once for each block after it.
#[track_caller]
fn assert_defined(found: &[f32], expected: &[(f32, f64, f64)], k: usize, what: &str) {
    let roundings = 17.0 + k.div_ceil(BLOCK) as f64;
    for (i, (found, (defined, size, exact))) in found.iter().zip(expected).enumerate() {
        assert_eq!(found, defined, "{what}: element {i}");
        let error = (f64::from(*found) - exact).abs();
        assert!(error <= size * roundings * 6e-8, "{what}: {found} {exact}");
    }
}

/// Numbers from -1 to 1 of all sizes down to a millionth.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    let number = |i: usize| {
        let bits = ((i + seed) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        (bits % 4001) as f32 / 2000.0 - 1.0
    };
    (0..count)
        .map(|i| number(i) * if i % 5 == 0 { 1e-6 } else { 1.0 })
        .collect()
}

#[test]
fn products_are_as_defined_for_every_format() {
    for format in Format::ALL {
        // Short last panels and tiles, an odd number of either, every number of tiles at a time.
        for (n, blocks, rows) in [
            (1, 1, 1),
            (19, 2, 15),
            (35, 1, 33),
            (16, 17, 48),
            (40, 1, 20),
            (33, 1, 50),
            (17, 2, 70),
            (16, 1, 96),
        ] {
            let k = blocks * format.block_inputs();
            let bytes = matrix(format, n, k, Fill::Random, (n + rows) as u64);
            let mut weights = vec![0.0; n * k];
            format.dequantize(&bytes, &mut weights);
            let weights: Vec<f32> = weights.into_iter().map(half_of_weight).collect();
            let values = numbers(rows * k, n);
            let w = PackedMatrix::pack(format, &bytes, n, k).unwrap();
            let expected = defined(&weights, &values, n, k);
            for isa in [Isa::SCALAR, Isa::detect()] {
                let x = tile_rows(isa, &values, k);
                let found = tiled(isa, TileWeights::Packed(&w), &x);
                assert_defined(
                    &found,
                    &expected,
                    k,
                    &format!("{isa} {format} {n} {k} {rows}"),
                );
            }
        }
    }
}

#[test]
fn products_are_as_defined_for_dense_weights() {
    // The last in two parts, with sums between them: with few rows and with many.
    for (n, k, rows) in [
        (1, 1, 1),
        (33, 40, 17),
        (70, 129, 21),
        (16, 5500, 70),
        (32, 5500, 3),
        (35, 4100, 113),
    ] {
        let (w, x) = (numbers(n * k, 1), numbers(rows * k, 7));
        let rounded: Vec<f32> = w.iter().map(|&w| half::f16::from_f32(w).to_f32()).collect();
        let f16: Vec<u16> = w
            .iter()
            .map(|&w| half::f16::from_f32(w).to_bits())
            .collect();
        let bf16: Vec<u16> = w
            .iter()
            .map(|&w| half::bf16::from_f32(w).to_bits())
            .collect();
        let halves = DenseMatrix::from_halves;
        for (matrix, w) in [
            (DenseMatrix::from_f32(&w, n, k), &w),
            (halves(FloatFormat::F16, &f16, n, k), &rounded),
            (halves(FloatFormat::Bf16, &bf16, n, k), &w),
        ] {
            let w: Vec<f32> = w.iter().map(|&w| half(w)).collect();
            let expected = defined(&w, &x, n, k);
            for isa in [Isa::SCALAR, Isa::detect()] {
                let found = tiled(isa, TileWeights::Dense(&matrix), &tile_rows(isa, &x, k));
                let what = format!("{isa} {} {n} {k} {rows}", matrix.format());
                assert_defined(&found, &expected, k, &what);
            }
        }
    }
}

/// More rows than are taken at once, more panels than share them, and the panels in parts.
#[test]
fn results_do_not_depend_on_how_the_work_is_split() {
    let (n, k, rows) = (16 * 10 + 3, 64, 16 * 33 + 5);
    let bytes = matrix(Format::Q4_0, n, k, Fill::Random, 3);
    let mut weights = vec![0.0; n * k];
    Format::Q4_0.dequantize(&bytes, &mut weights);
    let weights: Vec<f32> = weights.into_iter().map(half_of_weight).collect();
    let w = PackedMatrix::pack(Format::Q4_0, &bytes, n, k).unwrap();
    let w = TileWeights::Packed(&w);
    let values = numbers(rows * k, 2);
    let expected: Vec<f32> = defined(&weights, &values, n, k)
        .into_iter()
        .map(|(defined, ..)| defined)
        .collect();
    let isa = Isa::detect();
    let x = tile_rows(isa, &values, k);
    assert_same_bits(&expected, &tiled(isa, w, &x), &"whole");
    for panels in [0..1, 1..4, 4..11] {
        let mut part = vec![f32::NAN; panels.len() * rows * PANEL];
        matmul_tiles(isa, w, &x, panels.clone(), &mut part);
        let expected = &expected[panels.start * rows * PANEL..panels.end * rows * PANEL];
        assert_same_bits(expected, &part, &panels);
    }
    // A single row, and the first one of many.
    let x = tile_rows(isa, &values[..k], k);
    for (panel, one) in expected
        .chunks(rows * PANEL)
        .zip(tiled(isa, w, &x).chunks(PANEL))
    {
        assert_same_bits(&panel[..PANEL], one, &"one row");
    }
}

/// Weights as every version unpacks them are what ggml computes, rounded.
#[test]
fn the_extremes_of_every_format_become_the_nearest_bf16() {
    for format in Format::ALL {
        for fill in FILLS {
            let (n, k) = (16, 2 * format.block_inputs());
            let bytes = matrix(format, n, k, fill, 11);
            let mut weights = vec![0.0; n * k];
            format.dequantize(&bytes, &mut weights);
            let w = PackedMatrix::pack(format, &bytes, n, k).unwrap();
            // Each input by itself: a row has a one, and zeros.
            let rows = k;
            let mut ones = vec![0.0; rows * k];
            (0..k).for_each(|i| ones[i * k + i] = 1.0);
            for isa in [Isa::SCALAR, Isa::detect()] {
                let found = tiled(isa, TileWeights::Packed(&w), &tile_rows(isa, &ones, k));
                for (i, found) in found.as_chunks::<PANEL>().0.iter().enumerate() {
                    for (column, found) in found.iter().enumerate() {
                        let expected = half_of_weight(weights[column * k + i]);
                        assert_eq!(*found, expected, "{isa} {format} {fill:?} {i} {column}");
                    }
                }
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_reach_their_own_row_only() {
    let (k, rows) = (64, 20);
    let bytes = matrix(Format::Q8_0, 16, k, Fill::Random, 3);
    let w = PackedMatrix::pack(Format::Q8_0, &bytes, 16, k).unwrap();
    for bad in [f32::NAN, f32::from_bits(0xffff_ffff), f32::INFINITY] {
        for isa in [Isa::SCALAR, Isa::detect()] {
            let mut values = vec![1.0; rows * k];
            values[17 * k + 5] = bad;
            let y = tiled(isa, TileWeights::Packed(&w), &tile_rows(isa, &values, k));
            for (row, y) in y.chunks_exact(PANEL).enumerate() {
                assert!(
                    y.iter().all(|v| v.is_finite() == (row != 17)),
                    "{isa} {row}"
                );
            }
        }
    }
}

/// What subnormal numbers and ties become in each step of one instruction.
#[test]
fn the_model_rounds_and_flushes_as_intel_defines() {
    const TINY: f32 = f32::MIN_POSITIVE;
    let pair = |x: &[f32]| x[0].to_bits() >> 16 | x[1].to_bits();
    let product = |before: f32, a: [f32; 4], b: [f32; 4]| {
        let (mut rows, mut weights) = (Tile([[0; PANEL]; 16]), Tile([[0; PANEL]; 16]));
        for (i, (a, b)) in a.chunks(2).zip(b.chunks(2)).enumerate() {
            (rows.0[3][i], weights.0[i][5]) = (pair(a), pair(b));
        }
        let mut found = Vec::new();
        let mut step = |tiles: &mut dyn FnMut() -> f32| found.push(tiles());
        step(&mut || one_step(&mut Model::new(), before, &rows, &weights));
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        if Isa::named("amx").is_some() {
            // SAFETY: the CPU has it.
            let mut tiles = unsafe { amx::Amx::configure() };
            step(&mut || one_step(&mut tiles, before, &rows, &weights));
        }
        assert!(
            found.iter().all(|x| x.to_bits() == found[0].to_bits()),
            "{found:?}"
        );
        found[0]
    };
    assert_eq!(product(2.0, [1.0, 2.0, 3.0, 4.0], [1.0; 4]), 12.0);
    // A subnormal factor, sum before, product and half of a sum.
    assert_eq!(product(0.0, [TINY / 2.0, 0.0, 0.0, 0.0], [1024.0; 4]), 0.0);
    assert_eq!(product(TINY / 2.0, [TINY, 0.0, 0.0, 0.0], [1.0; 4]), TINY);
    assert_eq!(product(TINY, [TINY, 0.0, 0.0, 0.0], [0.5; 4]), TINY);
    assert_eq!(
        product(0.0, [2.0 * TINY, 0.0, -1.5 * TINY, 0.0], [1.0; 4]),
        0.0
    );
    // The even and the odd inputs apart: 2^24 + 1 loses its one, 1 + 1 does not.
    let large = 16_777_216.0;
    assert_eq!(product(0.0, [large, 1.0, 1.0, 1.0], [1.0; 4]), large + 2.0);
    assert_eq!(product(large, [1.0, 0.0, 0.0, 0.0], [1.0; 4]), large); // to even
    assert_eq!(
        product(large + 2.0, [1.0, 0.0, 0.0, 0.0], [1.0; 4]),
        large + 4.0
    );
    // A product is not rounded before it is added: 1.0078125^2 - 1.015625.
    let x = 1.0 + 1.0 / 128.0;
    assert_eq!(
        product(0.0, [-1.0, 0.0, x, 0.0], [1.015_625, 0.0, x, 0.0]),
        1.0 / 16384.0
    );
}

/// `before + a · b` at row 3 and column 5.
fn one_step(tiles: &mut impl Tiles, before: f32, a: &Tile, b: &Tile) -> f32 {
    let mut sums = [[before; PANEL]; 16];
    tiles.load_sums(2, &sums);
    tiles.load::<4>(a);
    tiles.load::<7>(b);
    tiles.multiply_add::<2, 4, 7>();
    tiles.store_sums(2, &mut sums);
    sums[3][5]
}
