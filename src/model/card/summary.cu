// Rows of logits in short: the algorithm of `Summary::of` in src/diffusion/summary.rs, with a block
// of threads for each row. summary.ptx, beside this file, is made of it by NVRTC 12.1 (drivers from
// 530 on) for compute_75, as by
//
//   nvcc --ptx -arch=compute_75 summary.cu
//
// Sums are added up in an order that depends on nothing but the length of a row. Where listed
// tokens stand in the list is chance; the host sorts them.

constexpr unsigned THREADS = 512;       // of a block, a power of 2
constexpr unsigned AT_A_TIME = 4;       // logits that a thread waits for together
constexpr unsigned MOST_LISTED = 1024;  // tokens
constexpr unsigned STEPS = 256;
constexpr float STEPS_PER_UNIT = 16.0f;
constexpr unsigned NOT_FINITE = ~0u;
constexpr unsigned NO_TOKEN = ~0u;

// What is written for a row, in words: these, the tokens that are listed, and their logits.
enum { LISTED, STEPS_LISTED, SUM, SUM_BESIDE, NEGATIVE_ENTROPY, HEADER = 8 };

struct bfloat16 {
    unsigned short bits;
};
struct float16 {
    unsigned short bits;
};

__device__ float widen(float x) { return x; }
__device__ float widen(bfloat16 x) { return __uint_as_float(unsigned(x.bits) << 16); }
__device__ float widen(float16 x) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
}

// Does something with each logit of a row but one.
template <class T, class Do>
__device__ void for_each(const T* logits, unsigned vocabulary, unsigned but, Do act) {
#pragma unroll 1
    for (unsigned first = threadIdx.x; first < vocabulary; first += AT_A_TIME * THREADS) {
        float logit[AT_A_TIME];
        for (unsigned i = 0; i < AT_A_TIME; i++) {
            const unsigned token = first + i * THREADS;
            logit[i] = token < vocabulary ? widen(logits[token]) : 0;
        }
        for (unsigned i = 0; i < AT_A_TIME; i++) {
            const unsigned token = first + i * THREADS;
            if (token < vocabulary && token != but) {
                act(token, logit[i]);
            }
        }
    }
}

// Of the values of all threads, for each of them.
template <class T, class Join>
__device__ T reduce(T value, T* room, Join join) {
    __syncthreads();  // what was there before has been read
    room[threadIdx.x] = value;
#pragma unroll 1
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            room[threadIdx.x] = join(room[threadIdx.x], room[threadIdx.x + half]);
        }
    }
    __syncthreads();
    return room[0];
}

template <class T>
__device__ void summarize(const T* logits, unsigned vocabulary, const unsigned* barred,
                          float divisor, float beside, unsigned* out) {
    __shared__ float floats[THREADS];
    __shared__ double doubles[THREADS];
    __shared__ unsigned counts[STEPS];
    __shared__ unsigned infinite, steps, listed;
    const unsigned thread = threadIdx.x;
    logits += size_t(blockIdx.x) * vocabulary;
    out += size_t(blockIdx.x) * (HEADER + 2 * MOST_LISTED);
    const unsigned but = barred == nullptr ? NO_TOKEN : barred[blockIdx.x];
    if (thread < STEPS) {
        counts[thread] = 0;
    }
    if (thread == 0) {
        infinite = steps = listed = 0;
    }
    __syncthreads();

    float most = -3.402823466e38f;
    bool is_finite = true;
    for_each(logits, vocabulary, NO_TOKEN, [&](unsigned token, float logit) {
        is_finite &= (__float_as_uint(logit) & 0x7f800000) != 0x7f800000;
        most = token == but ? most : fmaxf(most, logit);
    });
    if (!is_finite) {
        infinite = 1;
    }
    const float largest = reduce(most, floats, [](float a, float b) { return fmaxf(a, b); });
    if (infinite) {
        if (thread == 0) {
            out[LISTED] = NOT_FINITE;
        }
        return;
    }

    const float log2_e = 1.442695041f;
    const float scale = log2_e / divisor, scale_beside = log2_e / beside;
    float sum = 0, sum_beside = 0;
    for_each(logits, vocabulary, but, [&](unsigned, float logit) {
        sum += exp2f((logit - largest) * scale);
        sum_beside += exp2f((logit - largest) * scale_beside);
        const unsigned step = unsigned((largest - logit) * STEPS_PER_UNIT);
        if (step < STEPS) {
            atomicAdd(&counts[step], 1);
        }
    });
    const auto add = [](double a, double b) { return a + b; };
    sum = float(reduce(double(sum), doubles, add));
    sum_beside = float(reduce(double(sum_beside), doubles, add));

    // How many there are down to each step.
#pragma unroll 1
    for (unsigned by = 1; by < STEPS; by *= 2) {
        const unsigned above = thread >= by && thread < STEPS ? counts[thread - by] : 0;
        __syncthreads();
        if (thread < STEPS) {
            counts[thread] += above;
        }
        __syncthreads();
    }
    if (thread < STEPS && counts[thread] <= MOST_LISTED &&
        (thread + 1 == STEPS || counts[thread + 1] > MOST_LISTED)) {
        steps = thread + 1;
    }
    __syncthreads();

    const float ln_2 = 0.693147181f;
    const float share = 1 / sum_beside;
    float surprise = 0;
    for_each(logits, vocabulary, but, [&](unsigned token, float logit) {
        const float p = exp2f((logit - largest) * scale_beside) * share;
        surprise += p * __log2f(p + 1e-10f);
        if (unsigned((largest - logit) * STEPS_PER_UNIT) < steps) {
            const unsigned at = atomicAdd(&listed, 1);
            out[HEADER + at] = token;
            out[HEADER + MOST_LISTED + at] = __float_as_uint(logit);
        }
    });
    const float negative_entropy = ln_2 * float(reduce(double(surprise), doubles, add));
    if (thread == 0) {
        out[LISTED] = listed;
        out[STEPS_LISTED] = steps;
        out[SUM] = __float_as_uint(sum);
        out[SUM_BESIDE] = __float_as_uint(sum_beside);
        out[NEGATIVE_ENTROPY] = __float_as_uint(negative_entropy);
    }
}

// Logits `[blocks, vocabulary]`, the token that is left out of each row or no list of them, what
// logits are divided by, and room for as many summaries.
#define SUMMARIZE(NAME, TYPE)                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
        NAME(const TYPE* logits, unsigned vocabulary, const unsigned* barred, float divisor,       \
             float beside, unsigned* out) {                                                        \
        summarize(logits, vocabulary, barred, divisor, beside, out);                               \
    }

SUMMARIZE(summarize_f32, float)
SUMMARIZE(summarize_bf16, bfloat16)
SUMMARIZE(summarize_f16, float16)
