// What is computed on a card beside the tensor library's kernels. kernels.ptx, beside this file, is
// made of it by NVRTC 12.1 (drivers from 530 on) for compute_75, as by
//
//   nvcc --ptx -arch=compute_75 kernels.cu
//
// Sums are added up in an order that depends on nothing but the length of a row.

constexpr unsigned THREADS = 512;  // of a block, a power of 2

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

template <class T>
__device__ T narrow(float x);

template <>
__device__ float narrow<float>(float x) {
    return x;
}

// To the nearest, of two the even one; what is not a number stays none.
template <>
__device__ bfloat16 narrow<bfloat16>(float x) {
    const unsigned bits = __float_as_uint(x);
    const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
    const unsigned rounded = is_nan ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
    return {static_cast<unsigned short>(rounded >> 16)};
}

template <>
__device__ float16 narrow<float16>(float x) {
    float16 narrowed;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrowed.bits) : "f"(x));
    return narrowed;
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

// SwiGLU of rows that hold gate and up side by side, `[rows, 2 width]`: silu(gate) up.
template <class T>
__device__ void swiglu(const T* both, unsigned width, T* out) {
    const unsigned at = blockIdx.y * THREADS + threadIdx.x;
    if (at < width) {
        both += 2 * size_t(blockIdx.x) * width;
        const float gate = widen(both[at]), up = widen(both[width + at]);
        out[size_t(blockIdx.x) * width + at] = narrow<T>(gate / (1 + expf(-gate)) * up);
    }
}

// The sum of two rows, and behind all sums its RMS norm: `[2, rows, width]`, a block for each row.
template <class T>
__device__ void add_norm(const T* xs, const T* delta, const T* weight, unsigned width, float eps,
                         T* out) {
    __shared__ float room[THREADS];
    const size_t row = size_t(blockIdx.x) * width;
    T* normed = out + size_t(gridDim.x) * width + row;
    xs += row;
    delta += row;
    out += row;
    float squares = 0;
    for (unsigned at = threadIdx.x; at < width; at += THREADS) {
        const T sum = narrow<T>(widen(xs[at]) + widen(delta[at]));
        out[at] = sum;
        squares += widen(sum) * widen(sum);
    }
    squares = reduce(squares, room, [](float a, float b) { return a + b; });
    const float scale = rsqrtf(squares / width + eps);
    for (unsigned at = threadIdx.x; at < width; at += THREADS) {
        normed[at] = narrow<T>(scale * widen(out[at]) * widen(weight[at]));
    }
}

constexpr unsigned MOST_CANVASES = 64;

// Keys and then values of some canvases, `[2 groups, capacity, width]` each, in float32.
struct Caches {
    float* key_values[MOST_CANVASES];
    unsigned capacity[MOST_CANVASES];
};

// Queries, keys and values of rows `[rows, heads, 2 half]`, with a bias or none, each head rotated
// by the cosines and sines of its group `[heads / per_group, rows, half]`, a block for each head of
// each row. The queries come out as `[queries, rows, 2 half]`; keys and values are put in the
// caches at `places`, a canvas and an index for each row, `[2, rows]`.
template <class T>
__device__ void store_heads(const T* projected, const float* bias, const float* cosines,
                            const float* sines, unsigned per_group, unsigned half,
                            unsigned queries, const unsigned* places, const Caches& caches,
                            float* out) {
    const unsigned row = blockIdx.x, rows = gridDim.x, head = blockIdx.y, heads = gridDim.y;
    projected += (size_t(row) * heads + head) * 2 * half;
    const size_t angles = (size_t(head / per_group) * rows + row) * half;
    if (head < queries) {
        out += (size_t(head) * rows + row) * 2 * half;
    } else {
        const unsigned canvas = places[row], index = places[rows + row];
        const size_t first = size_t(head - queries) * caches.capacity[canvas];
        out = caches.key_values[canvas] + (first + index) * 2 * half;
    }
    for (unsigned at = threadIdx.x; at < half; at += blockDim.x) {
        float x = widen(projected[at]), y = widen(projected[half + at]);
        if (bias != nullptr) {
            x += bias[head * 2 * half + at];
            y += bias[head * 2 * half + half + at];
        }
        const float cosine = cosines[angles + at], sine = sines[angles + at];
        out[at] = x * cosine - y * sine;
        out[half + at] = x * sine + y * cosine;
    }
}

template <class T>
__device__ void put(void* numbers, size_t at, float number) {
    static_cast<T*>(numbers)[at] = narrow<T>(number);
}

constexpr unsigned KEYS = 128;        // that a block looks at together: one a thread
constexpr unsigned QUERIES = 8;       // heads of a group that it does so for
constexpr unsigned MOST_WIDTH = 256;  // of a head
constexpr unsigned WARP = 32;
constexpr unsigned ALL_LANES = ~0u;

// Attention of rows to the first positions of their canvases, with a running maximum (arXiv
// 2205.14135, algorithm 1): a block for each row, group and `QUERIES` of the group's heads. Scaled
// queries are `[groups per_group, rows, width]`; `asked` has, for each block's row, its number
// among these, its canvas, and how many positions it sees: `[3, asked]`. What comes out is of
// `type`: `[asked, groups per_group width]`.
enum Type { F32, BF16, F16 };

extern "C" __global__ void __launch_bounds__(KEYS)
    attend(const float* queries, unsigned rows, unsigned per_group, unsigned width,
           const unsigned* asked, const Caches caches, Type type, void* out) {
    __shared__ float4 query[QUERIES * MOST_WIDTH / 4];
    __shared__ float weights[KEYS * QUERIES];  // scores first
    __shared__ float largest[QUERIES], sums[QUERIES], factors[QUERIES];
    const unsigned thread = threadIdx.x, group = blockIdx.y, groups = gridDim.y;
    const unsigned row = asked[blockIdx.x], canvas = asked[gridDim.x + blockIdx.x];
    const unsigned seen = asked[2 * gridDim.x + blockIdx.x];
    const unsigned first = blockIdx.z * QUERIES, quarter = width / 4;
    const unsigned count = min(QUERIES, per_group - first);
    const size_t capacity = caches.capacity[canvas];
    const float* keys = caches.key_values[canvas] + group * capacity * width;
    const float* values = keys + groups * capacity * width;
    for (unsigned at = thread; at < QUERIES * quarter; at += KEYS) {
        const unsigned head = at / quarter;
        const size_t from = size_t(group * per_group + first + head) * rows + row;
        const float4 zero = {0, 0, 0, 0};
        const float4* numbers = reinterpret_cast<const float4*>(queries + from * width);
        query[at] = head < count ? numbers[at % quarter] : zero;
    }
    if (thread < QUERIES) {
        largest[thread] = -3.402823466e38f;
        sums[thread] = 0;
    }
    float outputs[MOST_WIDTH / KEYS][QUERIES] = {};
#pragma unroll 1
    for (unsigned start = 0; start < seen; start += KEYS) {
        __syncthreads();
        const unsigned here = min(KEYS, seen - start);
        if (thread < here) {
            float scores[QUERIES] = {};
            const float* from = keys + size_t(start + thread) * width;
            const float4* key = reinterpret_cast<const float4*>(from);
#pragma unroll 2
            for (unsigned at = 0; at < quarter; at++) {
                const float4 k = key[at];
                for (unsigned head = 0; head < QUERIES; head++) {
                    const float4 q = query[head * quarter + at];
                    scores[head] += k.x * q.x + k.y * q.y + k.z * q.z + k.w * q.w;
                }
            }
            for (unsigned head = 0; head < QUERIES; head++) {
                weights[thread * QUERIES + head] = scores[head];
            }
        }
        __syncthreads();
        // A warp for each of the heads, one after the other.
        const unsigned lane = thread % WARP;
#pragma unroll 1
        for (unsigned head = thread / WARP; head < QUERIES; head += KEYS / WARP) {
            float most = largest[head];
            for (unsigned key = lane; key < here; key += WARP) {
                most = fmaxf(most, weights[key * QUERIES + head]);
            }
            for (unsigned half = WARP / 2; half > 0; half /= 2) {
                most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, half));
            }
            float sum = 0;
            for (unsigned key = lane; key < here; key += WARP) {
                const float weight = expf(weights[key * QUERIES + head] - most);
                weights[key * QUERIES + head] = weight;
                sum += weight;
            }
            for (unsigned half = WARP / 2; half > 0; half /= 2) {
                sum += __shfl_xor_sync(ALL_LANES, sum, half);
            }
            __syncwarp();
            if (lane == 0) {
                factors[head] = expf(largest[head] - most);
                sums[head] = sums[head] * factors[head] + sum;
                largest[head] = most;
            }
        }
        __syncthreads();
        for (unsigned i = 0; i < MOST_WIDTH / KEYS; i++) {
            const unsigned at = i * KEYS + thread;
            if (at >= width) {
                continue;
            }
            for (unsigned head = 0; head < QUERIES; head++) {
                outputs[i][head] *= factors[head];
            }
#pragma unroll 4
            for (unsigned key = 0; key < here; key++) {
                const float value = values[(start + key) * size_t(width) + at];
                for (unsigned head = 0; head < QUERIES; head++) {
                    outputs[i][head] += weights[key * QUERIES + head] * value;
                }
            }
        }
    }
    __syncthreads();
    const size_t heads = size_t(groups) * per_group;
    for (unsigned i = 0; i < MOST_WIDTH / KEYS; i++) {
        const unsigned at = i * KEYS + thread;
        for (unsigned head = 0; head < count && at < width; head++) {
            const size_t to = blockIdx.x * heads + group * per_group + first + head;
            const float output = outputs[i][head] / sums[head];
            switch (type) {
                case F32: put<float>(out, to * width + at, output); break;
                case BF16: put<bfloat16>(out, to * width + at, output); break;
                case F16: put<float16>(out, to * width + at, output); break;
            }
        }
    }
}

constexpr unsigned AT_A_TIME = 4;       // logits that a thread waits for together
constexpr unsigned MOST_LISTED = 1024;  // tokens
constexpr unsigned STEPS = 256;
constexpr float STEPS_PER_UNIT = 16.0f;
constexpr unsigned NOT_FINITE = ~0u;
constexpr unsigned NO_TOKEN = ~0u;

// What is written for a row, in words: these, of which sums have two, the tokens that are listed,
// and their logits.
enum { LISTED, STEPS_LISTED, NEGATIVE_ENTROPY, SUM = 4, SUM_BESIDE = 6, HEADER = 8 };

__device__ void write(double number, unsigned* words) {
    const unsigned long long bits = __double_as_longlong(number);
    words[0] = unsigned(bits);
    words[1] = unsigned(bits >> 32);
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

// Rows of logits in short: the algorithm of `Summary::of` in src/diffusion/summary.rs, with a block
// for each row. Where listed tokens stand in the list is chance; the host sorts them.
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
    double sum = 0, sum_beside = 0;  // what is beside the largest can be a billionth of it
    for_each(logits, vocabulary, but, [&](unsigned, float logit) {
        sum += exp2f((logit - largest) * scale);
        sum_beside += exp2f((logit - largest) * scale_beside);
        const unsigned step = unsigned((largest - logit) * STEPS_PER_UNIT);
        if (step < STEPS) {
            atomicAdd(&counts[step], 1);
        }
    });
    const auto add = [](double a, double b) { return a + b; };
    sum = reduce(sum, doubles, add);
    sum_beside = reduce(sum_beside, doubles, add);

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
    const float share = 1 / float(sum_beside);
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
        write(sum, out + SUM);
        write(sum_beside, out + SUM_BESIDE);
        out[NEGATIVE_ENTROPY] = __float_as_uint(negative_entropy);
    }
}

// For rows of logits: the token that is left out of each or no list of them, what logits are
// divided by, and room for as many summaries.
#define KERNELS(TYPE, NUMBER)                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
        swiglu_##TYPE(const NUMBER* both, unsigned width, NUMBER* out) {                           \
        swiglu(both, width, out);                                                                  \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
        add_norm_##TYPE(const NUMBER* xs, const NUMBER* delta, const NUMBER* weight,               \
                        unsigned width, float eps, NUMBER* out) {                                  \
        add_norm(xs, delta, weight, width, eps, out);                                              \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
        store_heads_##TYPE(const NUMBER* projected, const float* bias, const float* cosines,       \
                           const float* sines, unsigned per_group, unsigned half,                  \
                           unsigned queries, const unsigned* places, const Caches caches,          \
                           float* out) {                                                           \
        store_heads(projected, bias, cosines, sines, per_group, half, queries, places, caches,     \
                    out);                                                                          \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                          \
        summarize_##TYPE(const NUMBER* logits, unsigned vocabulary, const unsigned* barred,        \
                         float divisor, float beside, unsigned* out) {                             \
        summarize(logits, vocabulary, barred, divisor, beside, out);                               \
    }

KERNELS(f32, float)
KERNELS(bf16, bfloat16)
KERNELS(f16, float16)
