//! AVX-VNNI: the loops of AVX2 round its 32-bit dot product of bytes.

use super::*;

/// The loops, and the dot products of a block, with the instruction in one of its two encodings.
macro_rules! vnni {
    ($features:literal, $dpbusd:ident) => {
        matmul!($features, split: false, rows: [6, 6], dots);

        #[inline]
        #[target_feature(enable = $features)]
        fn dots<F: BlockFormat, const R: usize>(
            w: &Weights,
            x: &[Block; R],
            part: usize,
        ) -> [[__m256i; 2]; R] {
            let mut dots = [[_mm256_setzero_si256(); 2]; R];
            for r in 0..R {
                dots[r] = [start::<F>(&x[r], part); 2];
            }
            for t in words::<F>(part) {
                for r in 0..R {
                    let inputs = _mm256_set1_epi32(x[r].words[t]);
                    for half in 0..2 {
                        dots[r][half] = $dpbusd(dots[r][half], w.quants[t][half], inputs);
                    }
                }
            }
            dots
        }
    };
}

vnni!("avx2,fma,f16c,avxvnni", _mm256_dpbusd_avx_epi32);

/// See `matmul::peak_ops`.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(in crate::kernels) fn peak_ops(rounds: u64) -> u64 {
    let mut sums = [_mm256_setzero_si256(); 14];
    let [mut a, b] = [_mm256_set1_epi8(3), _mm256_set1_epi8(2)];
    for _ in 0..rounds {
        a = std::hint::black_box(a);
        for sum in &mut sums {
            *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
        }
    }
    std::hint::black_box(sums);
    rounds * 14 * 64
}

/// In the encoding of AVX-512: a test of all of it for CPUs that have only that.
#[cfg(test)]
pub(in crate::kernels) mod as_avx512 {
    use super::*;

    vnni!("avx2,fma,f16c,avx512vl,avx512vnni", _mm256_dpbusd_epi32);
}
