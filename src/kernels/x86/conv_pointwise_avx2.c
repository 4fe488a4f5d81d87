/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_pointwise_avx2.c
 * 1x1 layers with AVX2: 12 accumulators, 16 channels x 6 pixels or 8 x 12. Three kinds of products:
 *
 * - bytes: vpmaddubsw and 16-bit sums, widened into the tile in memory after T steps of four
 *   activations, as in conv_int8_avx2.c: direct weights b + o or halved ones, T = floor(32767 /
 *   (2*A*w)) for the largest code A and weight w.
 * - words, where bytes do not fit: codes are widened first; vpmaddwd and 32-bit sums, below 2^31 by
 *   the model's bound.
 * - AVX-VNNI: the 256-bit vpdpbusd, 32-bit sums.
 *
 * What is left in the accumulators of a tile is folded among the products of the next one's first
 * step, so that neither waits for the other.
 */
#include "kernels/layout.h"
#include "kernels/pointwise.h"
#include "kernels/registry.h"
#include "kernels/x86/madd_avx2.h"
#include "kernels/x86/pointwise_loop.h"

#if BB_ARCH_X86_64

#include <string.h>

enum {
    SUMS = 12,        /**< accumulators */
    LANES = 8,        /**< 32-bit lanes of one */
    WIDTH_MAX = 2,    /**< vectors of a block */
    SCHEDULE_MIN = 4, /**< below, words are faster */
    REST_MAX = 1      /**< pixels that are faster alone than as a tile */
};

/** Offsets are known to the assembly. */
typedef struct loop_args {
    bb_pointwise_head head;
    int64_t schedule; /* 48: steps between two folds */
    int64_t pixel;    /* 56: bytes of a pixel's codes */
    int64_t skip;     /* 64: bytes from behind a tile's first pixel to the next tile */
    int64_t rows;     /* 72: bytes of a tile's sums */
    int64_t folded;   /* 80: scratch: part of the tile's sums is in memory */
} loop_args;

_Static_assert(offsetof(loop_args, schedule) == 48 && offsetof(loop_args, folded) == 80,
               "the assembly knows these offsets");

/* clang-format off */
#define CODES(at) "vpbroadcastd " at ", %%ymm12\n\t"

/* Products of the codes in ymm12 with the weights in ymm14 and 15, added to sums or instead of
 * them. */
#define ADD_2(multiply, add, a, b)                                                                 \
    multiply " %%ymm14, %%ymm12, %%ymm13\n\t"                                                      \
    multiply " %%ymm15, %%ymm12, %%ymm12\n\t"                                                      \
    add " %%ymm13, %%ymm" a ", %%ymm" a "\n\t"                                                     \
    add " %%ymm12, %%ymm" b ", %%ymm" b "\n\t"
#define SET_2(multiply, a, b)                                                                      \
    multiply " %%ymm14, %%ymm12, %%ymm" a "\n\t"                                                   \
    multiply " %%ymm15, %%ymm12, %%ymm" b "\n\t"
#define ADD_1(multiply, add, a)                                                                    \
    multiply " %%ymm15, %%ymm12, %%ymm12\n\t"                                                      \
    add " %%ymm12, %%ymm" a ", %%ymm" a "\n\t"
#define SET_1(multiply, a) multiply " %%ymm15, %%ymm12, %%ymm" a "\n\t"
#define DOT(w, a) "%{vex%} vpdpbusd %%ymm" w ", %%ymm12, %%ymm" a "\n\t"
#define CLEAR(a) "vpxor %%xmm" a ", %%xmm" a ", %%xmm" a "\n\t"

#define BYTES_ADD_2(a, b) ADD_2("vpmaddubsw", "vpaddw", a, b)
#define BYTES_SET_2(a, b) SET_2("vpmaddubsw", a, b)
#define BYTES_ADD_1(a) ADD_1("vpmaddubsw", "vpaddw", a)
#define BYTES_SET_1(a) SET_1("vpmaddubsw", a)
#define WORDS_ADD_2(a, b) ADD_2("vpmaddwd", "vpaddd", a, b)
#define WORDS_SET_2(a, b) SET_2("vpmaddwd", a, b)
#define WORDS_ADD_1(a) ADD_1("vpmaddwd", "vpaddd", a)
#define WORDS_SET_1(a) SET_1("vpmaddwd", a)
#define VNNI_ADD_2(a, b) DOT("14", a) DOT("15", b)
#define VNNI_SET_2(a, b) CLEAR(a) CLEAR(b) VNNI_ADD_2(a, b)
#define VNNI_ADD_1(a) DOT("15", a)
#define VNNI_SET_1(a) CLEAR(a) VNNI_ADD_1(a)

/* Folds of one accumulator into the row of sums at r15. */
#define WIDEN_SET(offset, a)                                                                       \
    "vpmaddwd %1, %%ymm" a ", %%ymm" a "\n\t"                                                      \
    "vmovdqu %%ymm" a ", " offset "(%%r15)\n\t"
#define WIDEN_ADD(offset, a)                                                                       \
    "vpmaddwd %1, %%ymm" a ", %%ymm" a "\n\t"                                                      \
    "vpaddd " offset "(%%r15), %%ymm" a ", %%ymm" a "\n\t"                                         \
    "vmovdqu %%ymm" a ", " offset "(%%r15)\n\t"
#define STORE(offset, a) "vmovdqu %%ymm" a ", " offset "(%%r15)\n\t"
#define NEXT_ROW "addq %%rsi, %%r15\n\t"

/* What is done for a pixel: in any step, in the first one after a fold, and in a fold alone. */
#define PLAIN_2(add, set, fold, at, a, b) CODES(at) add(a, b)
#define FIRST_2(add, set, fold, at, a, b) CODES(at) fold("0", a) fold("32", b) NEXT_ROW set(a, b)
#define FOLD_2(add, set, fold, at, a, b) fold("0", a) fold("32", b) NEXT_ROW
#define PLAIN_1(add, set, fold, at, a) CODES(at) add(a)
#define FIRST_1(add, set, fold, at, a) CODES(at) fold("0", a) NEXT_ROW set(a)
#define FOLD_1(add, set, fold, at, a) fold("0", a) NEXT_ROW

#define PIXELS_2(pixel, add, set, fold)                                                            \
    pixel(add, set, fold, BB_AT0("r8"), "0", "1")                                                  \
    pixel(add, set, fold, BB_AT1("r8"), "2", "3")                                                  \
    pixel(add, set, fold, BB_AT2("r8"), "4", "5")                                                  \
    pixel(add, set, fold, BB_AT3("r8"), "6", "7")                                                  \
    pixel(add, set, fold, BB_AT4("r8"), "8", "9")                                                  \
    pixel(add, set, fold, BB_AT0("r9"), "10", "11")
#define PIXELS_1(pixel, add, set, fold)                                                            \
    pixel(add, set, fold, BB_AT0("r8"), "0")   pixel(add, set, fold, BB_AT1("r8"), "1")            \
    pixel(add, set, fold, BB_AT2("r8"), "2")   pixel(add, set, fold, BB_AT3("r8"), "3")            \
    pixel(add, set, fold, BB_AT4("r8"), "4")   pixel(add, set, fold, BB_AT0("r9"), "5")            \
    pixel(add, set, fold, BB_AT1("r9"), "6")   pixel(add, set, fold, BB_AT2("r9"), "7")            \
    pixel(add, set, fold, BB_AT3("r9"), "8")   pixel(add, set, fold, BB_AT4("r9"), "9")            \
    pixel(add, set, fold, BB_AT0("r10"), "10") pixel(add, set, fold, BB_AT1("r10"), "11")

#define WEIGHTS_2                                                                                  \
    "vmovdqa (%%rdx), %%ymm14\n\t"                                                                 \
    "vmovdqa 32(%%rdx), %%ymm15\n\t"                                                               \
    "addq $64, %%rdx\n\t"
#define WEIGHTS_1                                                                                  \
    "vmovdqa (%%rdx), %%ymm15\n\t"                                                                 \
    "addq $32, %%rdx\n\t"
#define ADVANCE_2(by)                                                                              \
    "addq " by ", %%r8\n\t"                                                                        \
    "addq " by ", %%r9\n\t"
#define ADVANCE_1(by)                                                                              \
    ADVANCE_2(by)                                                                                  \
    "addq " by ", %%r10\n\t"
/* rcx = steps of the next chunk; rbx loses them. */
#define TAKE_CHUNK                                                                                 \
    "movq 48(%0), %%rcx\n\t"                                                                       \
    "cmpq %%rcx, %%rbx\n\t"                                                                        \
    "cmovbq %%rbx, %%rcx\n\t"                                                                      \
    "subq %%rcx, %%rbx\n\t"

#define LOOP(weights, advance, pixels, plain, first, alone, add, set, fold_set, fold_add)          \
    __asm__ volatile(                                                                              \
        BB_POINTWISE_BEGIN("56")                                                                   \
        "movq 24(%0), %%r15\n\t"                                                                   \
        "movq 32(%0), %%rsi\n\t"                                                                   \
        "movq 16(%0), %%rdx\n\t"                                                                   \
        "movq 40(%0), %%rbx\n\t"                                                                   \
        "movq $0, 80(%0)\n\t"                                                                      \
        TAKE_CHUNK                                                                                 \
        BB_ASM_CLEAR                                                                               \
        ".p2align 4\n"                                                                             \
    "1:\n\t"                                                                                       \
        weights                                                                                    \
        pixels(plain, add, set, fold_set)                                                          \
        advance("$4")                                                                              \
    "2:\n\t"                                                                                       \
        "decq %%rcx\n\t"                                                                           \
        "jnz 1b\n\t"                                                                               \
        "testq %%rbx, %%rbx\n\t"                                                                   \
        "jz 4f\n\t"                                                                                \
        /* another chunk of the same tile: its rows come again */                                  \
        TAKE_CHUNK                                                                                 \
        "cmpq $0, 80(%0)\n\t"                                                                      \
        "jne 3f\n\t"                                                                               \
        "movq $1, 80(%0)\n\t"                                                                      \
        weights                                                                                    \
        pixels(first, add, set, fold_set)                                                          \
        advance("$4")                                                                              \
        "subq 72(%0), %%r15\n\t"                                                                   \
        "jmp 2b\n"                                                                                 \
    "3:\n\t"                                                                                       \
        weights                                                                                    \
        pixels(first, add, set, fold_add)                                                          \
        advance("$4")                                                                              \
        "subq 72(%0), %%r15\n\t"                                                                   \
        "jmp 2b\n"                                                                                 \
    "4:\n\t" /* the next tile */                                                                   \
        "decq (%0)\n\t"                                                                            \
        "jz 6f\n\t"                                                                                \
        "movq 64(%0), %%rax\n\t"                                                                   \
        advance("%%rax")                                                                           \
        "movq 16(%0), %%rdx\n\t"                                                                   \
        "movq 40(%0), %%rbx\n\t"                                                                   \
        TAKE_CHUNK                                                                                 \
        "cmpq $0, 80(%0)\n\t"                                                                      \
        "jne 5f\n\t"                                                                               \
        weights                                                                                    \
        pixels(first, add, set, fold_set)                                                          \
        advance("$4")                                                                              \
        "jmp 2b\n"                                                                                 \
    "5:\n\t"                                                                                       \
        "movq $0, 80(%0)\n\t"                                                                      \
        weights                                                                                    \
        pixels(first, add, set, fold_add)                                                          \
        advance("$4")                                                                              \
        "jmp 2b\n"                                                                                 \
    "6:\n\t" /* the last fold */                                                                   \
        "cmpq $0, 80(%0)\n\t"                                                                      \
        "jne 7f\n\t"                                                                               \
        pixels(alone, add, set, fold_set)                                                          \
        "jmp 8f\n"                                                                                 \
    "7:\n\t"                                                                                       \
        pixels(alone, add, set, fold_add)                                                          \
    "8:\n\t"                                                                                       \
        "vzeroupper\n\t"                                                                           \
        :                                                                                          \
        : "D"(args), "m"(bb_words_of_one)                                                          \
        : BB_ASM_CLOBBERS)
/* clang-format on */
#define LOOP_2(add, set, fold_set, fold_add)                                                       \
    LOOP(WEIGHTS_2, ADVANCE_2, PIXELS_2, PLAIN_2, FIRST_2, FOLD_2, add, set, fold_set, fold_add)
#define LOOP_1(add, set, fold_set, fold_add)                                                       \
    LOOP(WEIGHTS_1, ADVANCE_1, PIXELS_1, PLAIN_1, FIRST_1, FOLD_1, add, set, fold_set, fold_add)

typedef void (*loop_fn)(loop_args *args);

BB_AVX2 static void bytes_1(loop_args *args) {
    LOOP_1(BYTES_ADD_1, BYTES_SET_1, WIDEN_SET, WIDEN_ADD);
}

BB_AVX2 static void bytes_2(loop_args *args) {
    LOOP_2(BYTES_ADD_2, BYTES_SET_2, WIDEN_SET, WIDEN_ADD);
}

BB_AVX2 static void words_1(loop_args *args) {
    LOOP_1(WORDS_ADD_1, WORDS_SET_1, STORE, STORE);
}

BB_AVX2 static void words_2(loop_args *args) {
    LOOP_2(WORDS_ADD_2, WORDS_SET_2, STORE, STORE);
}

#if BB_ASM_AVX_VNNI
BB_AVX2 static void vnni_1(loop_args *args) {
    LOOP_1(VNNI_ADD_1, VNNI_SET_1, STORE, STORE);
}

BB_AVX2 static void vnni_2(loop_args *args) {
    LOOP_2(VNNI_ADD_2, VNNI_SET_2, STORE, STORE);
}
#endif

static void run_loop(const bb_pointwise_job *job, loop_fn loop) {
    const bb_pointwise_route *route = job->route;
    loop_args args = {
        .head = bb_pointwise_head_of(job),
        .schedule = route->schedule,
        .pixel = (int64_t)route->pixel_bytes,
        .skip = bb_pointwise_skip(route),
        .rows = (int64_t)job->stride * 4 * route->tile,
    };

    loop(&args);
}

/** acc = 2*acc + parity*sum(u) of some pixels; the parity masks end the block. */
BB_AVX2 static void finish_halved(const bb_pointwise_job *job, int32_t pixels) {
    const bb_pointwise_route *route = job->route;
    const __m256i *parity =
        (const void *)(job->weights + (size_t)route->steps * (size_t)route->block * 4);

    for (int32_t p = 0; p < pixels; p++) {
        __m256i *acc = (void *)(job->acc + (size_t)p * job->stride);
        const __m256i sum = _mm256_set1_epi32(job->sums[p]);

        for (int32_t v = 0; v < route->block / LANES; v++) {
            const __m256i a = _mm256_slli_epi32(_mm256_loadu_si256(acc + v), 1);

            _mm256_storeu_si256(acc + v, _mm256_add_epi32(a, _mm256_and_si256(parity[v], sum)));
        }
    }
}

static void run_bytes(const bb_pointwise_job *job) {
    run_loop(job, job->route->block == LANES ? bytes_1 : bytes_2);
    if (job->route->halved)
        finish_halved(job, job->n_tiles * job->route->tile);
}

static void run_words(const bb_pointwise_job *job) {
    run_loop(job, job->route->block == LANES ? words_1 : words_2);
}

/** 32-bit sums of `steps` steps of one pixel and vector; weights are `stride` vectors apart. */
BB_AVX2 static inline __m256i sum_steps(const uint8_t *codes, const __m256i *weights,
                                        int32_t stride, int32_t steps, bool bytes) {
    __m256i sum = _mm256_setzero_si256();

    for (int32_t i = 0; i < steps; i++, codes += 4, weights += stride) {
        int32_t piece;
        __m256i u;

        memcpy(&piece, codes, 4);
        u = _mm256_set1_epi32(piece);
        sum = bytes ? _mm256_add_epi16(sum, _mm256_maddubs_epi16(u, *weights))
                    : _mm256_add_epi32(sum, _mm256_madd_epi16(u, *weights));
    }
    return bytes ? _mm256_madd_epi16(sum, _mm256_set1_epi16(1)) : sum;
}

/** One pixel at a time. */
BB_AVX2 static inline void run_rest(const bb_pointwise_job *job, bool bytes) {
    const bb_pointwise_route *route = job->route;
    const int32_t width = route->block / LANES;

    for (int32_t p = 0; p < job->n_tiles; p++)
        for (int32_t v = 0; v < width; v++) {
            const uint8_t *codes = job->codes + (size_t)p * route->pixel_bytes;
            const __m256i *weights = (const __m256i *)(const void *)job->weights + v;
            __m256i sum = _mm256_setzero_si256();

            for (int32_t i = 0, n; i < route->steps; i += n, codes += 4 * n, weights += width * n) {
                n = route->steps - i < route->schedule ? route->steps - i : route->schedule;
                sum = _mm256_add_epi32(sum, sum_steps(codes, weights, width, n, bytes));
            }
            _mm256_storeu_si256((void *)(job->acc + (size_t)p * job->stride + (size_t)v * LANES),
                                sum);
        }
}

static void rest_bytes(const bb_pointwise_job *job) {
    run_rest(job, true);
    if (job->route->halved)
        finish_halved(job, job->n_tiles);
}

static void rest_words(const bb_pointwise_job *job) {
    run_rest(job, false);
}

/** Two activations a step: [step][channel][2] int16. */
static void put_words(const bb_pointwise_route *route, uint8_t *block, int32_t lane,
                      const int16_t *weights, int32_t n) {
    int16_t *dst = (int16_t *)(void *)block + (ptrdiff_t)lane * 2;

    for (int32_t i = 0; i < n; i++)
        dst[(ptrdiff_t)(i / 2) * route->block * 2 + i % 2] = weights[i];
}

static double products(const bb_conv_desc *desc, int32_t width) {
    return (double)bb_up_to(desc->out_channels, width * LANES) *
           bb_up_to(desc->out_height * desc->out_width, SUMS / width);
}

/** Everything but the kind of products. One vector needs twice the loads for its products. */
static bb_pointwise_route any_route(const bb_conv_desc *desc, int32_t step_activations) {
    const int32_t width = 1.1 * products(desc, 1) < products(desc, WIDTH_MAX) ? 1 : WIDTH_MAX;
    const int32_t steps = bb_div_up(desc->in_channels, step_activations);

    return (bb_pointwise_route){
        .tile = SUMS / width,
        .block = width * LANES,
        .chunk_sums = 4096,
        .steps = steps,
        .schedule = steps,
        .pixel_bytes = (size_t)(desc->in_channels * (4 / step_activations)),
        .block_bytes = (size_t)bb_up_to((steps + 1) * width * 32, 64),
        .sum = bb_sum_pixels_avx2,
    };
}

static void use_bytes(bb_pointwise_route *route, bool halved) {
    route->halved = route->wants_sums = route->rewrites = halved;
    route->put = bb_pointwise_put_bytes;
}

static bb_pointwise_route bytes_route(const bb_conv_desc *desc, bool halved) {
    bb_pointwise_route route = any_route(desc, 4);

    use_bytes(&route, halved);
    route.schedule = bb_exact_steps(desc->activation_bits,
                                    halved ? bb_div_up(desc->max_weight, 2) : desc->max_weight);
    route.run = run_bytes;
    route.rest = rest_bytes;
    route.rest_max = REST_MAX;
    return route;
}

static bb_pointwise_route words_route(const bb_conv_desc *desc) {
    bb_pointwise_route route = any_route(desc, 2);

    route.transform = bb_widen_avx2;
    route.put = put_words;
    route.run = run_words;
    route.rest = rest_words;
    route.rest_max = REST_MAX;
    return route;
}

/** Cycles: 6.7 a step (measured 7; tiles in larger pieces are requantized faster), 8 a fold. */
static double cost_of(const bb_conv_desc *desc, const bb_pointwise_route *route) {
    const double pixels = (double)desc->out_height * desc->out_width;
    const double tiles = products(desc, route->block / LANES) / (SUMS * LANES);
    const int32_t folds = bb_div_up(route->steps, route->schedule);
    const double widening = route->transform ? 0.1 * pixels * desc->in_channels : 0;
    const double sums = route->wants_sums ? 0.1 * pixels * desc->in_channels : 0;
    const double halves = route->halved ? 0.2 * pixels * desc->out_channels : 0;

    return tiles * (route->steps * 6.7 + folds * 8 + 3) + widening + sums + halves;
}

static bool supports(const bb_conv_desc *desc) {
    return bb_pointwise_supports(desc) && desc->max_weight <= 32767;
}

/** The halved form has twice the steps between folds, but sums of codes to add. */
static bb_pointwise_route route_of(const bb_conv_desc *desc) {
    const bb_pointwise_route direct = bytes_route(desc, false), halved = bytes_route(desc, true);
    const bool fits = desc->max_weight <= 127 && direct.schedule >= SCHEDULE_MIN;

    if (desc->max_weight > 255 || halved.schedule < SCHEDULE_MIN)
        return words_route(desc);
    return fits && cost_of(desc, &direct) <= cost_of(desc, &halved) ? direct : halved;
}

static double cost(const bb_conv_desc *desc) {
    const bb_pointwise_route route = route_of(desc);

    return cost_of(desc, &route);
}

BB_POINTWISE_FUNCTIONS(pointwise, route_of)

const bb_conv_kernel bb_conv_pointwise_avx2 = {.name = "conv_pointwise_avx2",
                                               .cpu = BB_CPU_AVX2,
                                               .supports = supports,
                                               .cost = cost,
                                               .packed_size = pointwise_packed_size,
                                               .pack = pointwise_pack,
                                               .scratch_size = pointwise_scratch_size,
                                               .run = pointwise_run};

#if BB_ASM_AVX_VNNI
static void run_vnni(const bb_pointwise_job *job) {
    run_loop(job, job->route->block == LANES ? vnni_1 : vnni_2);
    if (job->route->halved)
        finish_halved(job, job->n_tiles * job->route->tile);
}

static bool vnni_supports(const bb_conv_desc *desc) {
    return bb_pointwise_supports(desc) && desc->max_weight <= 255;
}

static bb_pointwise_route vnni_route_of(const bb_conv_desc *desc) {
    bb_pointwise_route route = any_route(desc, 4);

    use_bytes(&route, desc->max_weight > 127);
    route.run = run_vnni;
    return route;
}

static double vnni_cost(const bb_conv_desc *desc) {
    const bb_pointwise_route route = vnni_route_of(desc);

    return 0.92 * cost_of(desc, &route); /* 6 cycles a step */
}

BB_POINTWISE_FUNCTIONS(vnni, vnni_route_of)

const bb_conv_kernel bb_conv_pointwise_vnni_avx2 = {.name = "conv_pointwise_vnni_avx2",
                                                    .cpu = BB_CPU_AVX2 | BB_CPU_AVX_VNNI,
                                                    .supports = vnni_supports,
                                                    .cost = vnni_cost,
                                                    .packed_size = vnni_packed_size,
                                                    .pack = vnni_pack,
                                                    .scratch_size = vnni_scratch_size,
                                                    .run = vnni_run};
#endif

#endif
