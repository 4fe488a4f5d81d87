/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_winograd_avx512.c
 * 3x3 layers with vpdpbusd on transformed codes and weights (minimal.h): 64 channels x up to 6
 * tiles. vpdpbusd wraps, it does not saturate; minimal.h bounds the sums.
 */
#include "kernels/minimal.h"
#include "kernels/registry.h"
#include "kernels/x86/avx512.h"

#if BB_ARCH_X86_64

#define BB_VNNI __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512vnni")))
#define INLINE BB_VNNI __attribute__((always_inline)) static inline

enum { LANES = 16, VECTORS = 4, BLOCK = LANES * VECTORS, MOST_TILES = 6 };

static bool supports(const bb_conv_desc *desc) {
    return bb_minimal_form_for(desc, false) != NULL;
}

/* ---- input ---- */

INLINE __m512i add8(__m512i a, __m512i b) {
    return _mm512_add_epi8(a, b);
}

INLINE __m512i sub8(__m512i a, __m512i b) {
    return _mm512_sub_epi8(a, b);
}

INLINE void input_2(const __m512i *d, __m512i *v) {
    v[0] = sub8(d[0], d[2]);
    v[1] = add8(d[1], d[2]);
    v[2] = sub8(d[2], d[1]);
    v[3] = sub8(d[1], d[3]);
}

INLINE void input_3(const __m512i *d, __m512i *v) {
    const __m512i a = sub8(d[0], d[2]), b = sub8(d[1], d[2]), e = sub8(d[3], d[1]);

    v[0] = add8(add8(a, a), e);
    v[1] = sub8(sub8(e, d[1]), d[2]);
    v[2] = add8(add8(b, b), sub8(d[3], d[2]));
    v[3] = e;
    v[4] = sub8(sub8(d[4], d[2]), add8(e, e));
}

INLINE void input_4(const __m512i *d, __m512i *v) {
    const __m512i a = add8(d[2], d[4]), b = add8(d[1], d[3]);
    const __m512i e = sub8(d[4], d[2]), f = sub8(d[3], d[1]);

    v[0] = sub8(d[0], d[4]);
    v[1] = sub8(d[5], d[1]);
    v[2] = add8(a, b);
    v[3] = sub8(a, b);
    v[4] = add8(e, f);
    v[5] = sub8(f, e);
    v[6] = sub8(_mm512_setzero_si512(), f);
}

INLINE void transform_with(const bb_minimal_pass *pass, int patch, int points,
                           void (*input)(const __m512i *d, __m512i *v)) {
    __m512i offset[BB_MINIMAL_AXIS];

    for (int i = 0; i < points; i++)
        offset[i] = _mm512_set1_epi8((char)pass->offset[i]);
    for (size_t t = 0; t < (size_t)pass->count; t++)
        for (size_t c = 0; c < pass->bytes; c += 64) {
            __m512i d[BB_MINIMAL_PATCH], v[BB_MINIMAL_AXIS];

            for (int k = 0; k < patch; k++)
                d[k] = _mm512_loadu_si512(pass->in[k] + t * pass->in_step + c);
            input(d, v);
            for (int i = 0; i < points; i++)
                _mm512_storeu_si512(pass->out[i] + t * pass->out_step + c, add8(v[i], offset[i]));
        }
}

BB_VNNI static void transform(const bb_minimal_form *form, const bb_minimal_pass *pass) {
    if (form->outputs == 2)
        transform_with(pass, 4, 4, input_2);
    else if (form->outputs == 3)
        transform_with(pass, 5, 5, input_3);
    else
        transform_with(pass, 6, 7, input_4);
}

/* ---- products ---- */

/** Changed by the loops. */
typedef struct loop_args {
    const uint8_t *codes;   /* 0 */
    const uint8_t *weights; /* 8: of each point, the bias first */
    int32_t *products;      /* 16 */
    int64_t code_stride;    /* 24 */
    int64_t tile_bytes;     /* 32: of one tile's products to the next */
    int64_t vector_bytes;   /* 40: of one vector's products to the next */
    const uint8_t *next;    /* 48: weights to fetch from far, 128 bytes a step */
    int64_t points;         /* 56 */
    int64_t point_bytes;    /* 64: from the end of a tile's codes to those of the next point */
} loop_args;

_Static_assert(offsetof(loop_args, point_bytes) == 64, "the assembly knows these offsets");

/* clang-format off */
/* Tile t: codes at the t-th of r8-r13 + rax, sums in zmm(4t) to zmm(4t+3). */
#define TILE(from, to) "leaq (%%" from ",%%r15), %%" to "\n\t"
#define BIAS                                                                                       \
    "vmovdqa64 (%%rdx), %%zmm0\n\t"                                                                \
    "vmovdqa64 64(%%rdx), %%zmm1\n\t"                                                              \
    "vmovdqa64 128(%%rdx), %%zmm2\n\t"                                                             \
    "vmovdqa64 192(%%rdx), %%zmm3\n\t"                                                             \
    "addq $256, %%rdx\n\t"
#define START(a, b, c, d)                                                                          \
    "vmovdqa64 %%zmm0, %%zmm" a "\n\t"                                                             \
    "vmovdqa64 %%zmm1, %%zmm" b "\n\t"                                                             \
    "vmovdqa64 %%zmm2, %%zmm" c "\n\t"                                                             \
    "vmovdqa64 %%zmm3, %%zmm" d "\n\t"
#define WEIGHTS                                                                                    \
    "vmovdqa64 (%%rdx), %%zmm24\n\t"                                                               \
    "vmovdqa64 64(%%rdx), %%zmm25\n\t"                                                             \
    "vmovdqa64 128(%%rdx), %%zmm26\n\t"                                                            \
    "vmovdqa64 192(%%rdx), %%zmm27\n\t"
#define DOT(p, a, b, c, d)                                                                         \
    "vpbroadcastd (%%" p ",%%rax), %%zmm28\n\t"                                                    \
    "vpdpbusd %%zmm24, %%zmm28, %%zmm" a "\n\t"                                                    \
    "vpdpbusd %%zmm25, %%zmm28, %%zmm" b "\n\t"                                                    \
    "vpdpbusd %%zmm26, %%zmm28, %%zmm" c "\n\t"                                                    \
    "vpdpbusd %%zmm27, %%zmm28, %%zmm" d "\n\t"
#define STORE(a, b, c, d)                                                                          \
    "vmovdqu64 %%zmm" a ", (%%rcx)\n\t"                                                            \
    "vmovdqu64 %%zmm" b ", (%%rcx,%%rsi)\n\t"                                                      \
    "vmovdqu64 %%zmm" c ", (%%rcx,%%rsi,2)\n\t"                                                    \
    "vmovdqu64 %%zmm" d ", (%%rcx,%%r14)\n\t"                                                      \
    "addq %%rbx, %%rcx\n\t"

#define LOOP(tiles, start, dot, store)                                                             \
    __asm__ volatile(                                                                              \
        "movq (%0), %%r8\n\t"                                                                      \
        "movq 8(%0), %%rdx\n\t"                                                                    \
        "movq 24(%0), %%r15\n\t"                                                                   \
        tiles                                                                                      \
        "xorl %%eax, %%eax\n"                                                                      \
    "1:\n\t" /* a point */                                                                         \
        "movq 48(%0), %%r14\n\t"                                                                   \
        BIAS                                                                                       \
        start                                                                                      \
        ".p2align 4\n"                                                                             \
    "2:\n\t"                                                                                       \
        WEIGHTS                                                                                    \
        dot                                                                                        \
        "prefetcht1 (%%r14)\n\t"                                                                   \
        "prefetcht1 64(%%r14)\n\t"                                                                 \
        "subq $-128, %%r14\n\t"                                                                    \
        "addq $256, %%rdx\n\t"                                                                     \
        "addq $4, %%rax\n\t"                                                                       \
        "cmpq %%r15, %%rax\n\t"                                                                    \
        "jl 2b\n\t"                                                                                \
        "movq %%r14, 48(%0)\n\t"                                                                   \
        "movq 16(%0), %%rcx\n\t"                                                                   \
        "movq 32(%0), %%rbx\n\t"                                                                   \
        "movq 40(%0), %%rsi\n\t"                                                                   \
        "leaq (%%rsi,%%rsi,2), %%r14\n\t"                                                          \
        store                                                                                      \
        "addq $64, 16(%0)\n\t"                                                                     \
        "addq 64(%0), %%rax\n\t"                                                                   \
        "movq 24(%0), %%r15\n\t"                                                                   \
        "addq %%rax, %%r15\n\t"                                                                    \
        "decq 56(%0)\n\t"                                                                          \
        "jnz 1b\n\t"                                                                               \
        "vzeroupper\n\t"                                                                           \
        :                                                                                          \
        : "D"(args)                                                                                \
        : BB_ASM_CLOBBERS, BB_ASM_CLOBBERS_512)
/* clang-format on */

#define TILE2 TILE("r8", "r9")
#define TILE3 TILE2 TILE("r9", "r10")
#define TILE4 TILE3 TILE("r10", "r11")
#define TILE5 TILE4 TILE("r11", "r12")
#define TILE6 TILE5 TILE("r12", "r13")
#define START2 START("4", "5", "6", "7")
#define START3 START2 START("8", "9", "10", "11")
#define START4 START3 START("12", "13", "14", "15")
#define START5 START4 START("16", "17", "18", "19")
#define START6 START5 START("20", "21", "22", "23")
#define DOT1 DOT("r8", "0", "1", "2", "3")
#define DOT2 DOT1 DOT("r9", "4", "5", "6", "7")
#define DOT3 DOT2 DOT("r10", "8", "9", "10", "11")
#define DOT4 DOT3 DOT("r11", "12", "13", "14", "15")
#define DOT5 DOT4 DOT("r12", "16", "17", "18", "19")
#define DOT6 DOT5 DOT("r13", "20", "21", "22", "23")
#define STORE1 STORE("0", "1", "2", "3")
#define STORE2 STORE1 STORE("4", "5", "6", "7")
#define STORE3 STORE2 STORE("8", "9", "10", "11")
#define STORE4 STORE3 STORE("12", "13", "14", "15")
#define STORE5 STORE4 STORE("16", "17", "18", "19")
#define STORE6 STORE5 STORE("20", "21", "22", "23")

BB_VNNI static void loop_1(loop_args *args) {
    LOOP("", "", DOT1, STORE1);
}

BB_VNNI static void loop_2(loop_args *args) {
    LOOP(TILE2, START2, DOT2, STORE2);
}

BB_VNNI static void loop_3(loop_args *args) {
    LOOP(TILE3, START3, DOT3, STORE3);
}

BB_VNNI static void loop_4(loop_args *args) {
    LOOP(TILE4, START4, DOT4, STORE4);
}

BB_VNNI static void loop_5(loop_args *args) {
    LOOP(TILE5, START5, DOT5, STORE5);
}

BB_VNNI static void loop_6(loop_args *args) {
    LOOP(TILE6, START6, DOT6, STORE6);
}

static void multiply(const bb_minimal_route *route, const bb_minimal_product *job) {
    static void (*const loops[MOST_TILES])(loop_args * args) = {loop_1, loop_2, loop_3,
                                                                loop_4, loop_5, loop_6};
    loop_args args = {
        .codes = job->codes,
        .weights = job->weights,
        .products = job->products,
        .code_stride = (int64_t)route->code_stride,
        .tile_bytes = (int64_t)(route->products_stride * sizeof(int32_t)),
        .vector_bytes = (int64_t)route->points * LANES * (int64_t)sizeof(int32_t),
        .next = job->next,
        .points = job->points,
        .point_bytes = (int64_t)(route->codes_bytes - route->code_stride),
    };

    loops[job->tiles - 1](&args);
}

/* ---- output ---- */

INLINE __m512i add(__m512i a, __m512i b) {
    return _mm512_add_epi32(a, b);
}

INLINE __m512i sub(__m512i a, __m512i b) {
    return _mm512_sub_epi32(a, b);
}

INLINE void output_2(const __m512i *p, __m512i *y) {
    y[0] = add(add(add(p[0], p[0]), p[1]), p[2]);
    y[1] = sub(sub(p[1], p[2]), add(p[3], p[3]));
}

INLINE void output_3(const __m512i *p, __m512i *y) {
    const __m512i a = add(p[1], add(p[1], p[1])), s = add(a, p[2]), twice = add(p[3], p[3]);

    y[0] = add(sub(p[0], s), p[3]);
    y[1] = add(sub(p[2], a), twice);
    y[2] = add(sub(p[4], s), add(twice, twice));
}

INLINE void output_4(const __m512i *p, __m512i *y) {
    const __m512i s = add(p[2], p[3]), d = sub(p[2], p[3]), twice = add(p[6], p[6]);
    const __m512i e = add(p[4], twice), f = add(p[5], twice);

    y[0] = add(add(p[0], s), e);
    y[1] = add(d, f);
    y[2] = sub(s, e);
    y[3] = sub(add(p[1], d), f);
}

/**
 * Divides a multiple of 4, 36 or 16 exactly; halved: times 2, so by 2, 18 or 8. Odd factors are
 * removed by their inverse modulo 2^32, which is the quotient because that fits 32 bits.
 */
INLINE __m512i divide(__m512i y, int outputs, bool halved) {
    const int shift = (outputs == 4 ? 4 : 2) - (halved ? 1 : 0);

    y = _mm512_srai_epi32(y, (unsigned)shift);
    if (outputs == 3)
        y = _mm512_mullo_epi32(y, _mm512_set1_epi32(0x38e38e39)); /* 1/9 */
    return y;
}

INLINE void finish_with(const bb_minimal_finish *job, bool halved, int outputs, int points,
                        void (*output)(const __m512i *p, __m512i *y)) {
    for (int c = 0; c < BLOCK; c += LANES) {
        const __m512i parity = _mm512_load_si512(job->parity + c);
        __m512i half[BB_MINIMAL_AXIS][4];

        for (int x = 0; x < points; x++) {
            __m512i p[BB_MINIMAL_AXIS];

            for (int y = 0; y < points; y++)
                p[y] = _mm512_loadu_si512(job->products + (ptrdiff_t)(y * points + x) * LANES +
                                          c * points * points);
            output(p, half[x]);
        }
        for (int r = 0; r < outputs; r++) {
            __m512i p[BB_MINIMAL_AXIS], y[4];

            for (int x = 0; x < points; x++)
                p[x] = half[x][r];
            output(p, y);
            for (int x = 0; x < outputs; x++) {
                int32_t *acc =
                    job->acc + (size_t)r * job->row_ints + (ptrdiff_t)x * BB_MINIMAL_PIXEL + c;

                y[x] = divide(y[x], outputs, halved);
                if (halved) {
                    const size_t at = (size_t)r * job->sums_stride + (size_t)x;
                    const __m512i sum = _mm512_set1_epi32(job->sums[at]);

                    y[x] = add(y[x], _mm512_and_si512(parity, sum));
                }
                _mm512_storeu_si512(acc, y[x]);
            }
        }
    }
}

BB_VNNI static void finish_whole(int outputs, const bb_minimal_finish *job) {
    if (outputs == 2)
        finish_with(job, false, 2, 4, output_2);
    else if (outputs == 3)
        finish_with(job, false, 3, 5, output_3);
    else
        finish_with(job, false, 4, 7, output_4);
}

BB_VNNI static void finish_halved(int outputs, const bb_minimal_finish *job) {
    if (outputs == 2)
        finish_with(job, true, 2, 4, output_2);
    else if (outputs == 3)
        finish_with(job, true, 3, 5, output_3);
    else
        finish_with(job, true, 4, 7, output_4);
}

static void finish(const bb_minimal_route *route, const bb_minimal_finish *job) {
    if (route->halved)
        finish_halved(route->form->outputs, job);
    else
        finish_whole(route->form->outputs, job);
}

static const bb_minimal_ops ops = {
    .block_channels = BLOCK,
    .call_channels = BLOCK,
    .most_tiles = MOST_TILES,
    .transform = transform,
    .multiply = multiply,
    .finish = finish,
    .sum_pixels = bb_sum_pixels_avx2,
};

BB_MINIMAL_FUNCTIONS(ops)

/** Fitted on Zen 5: transforms, products, stores, finish; weights that come from far. */
static double cost(const bb_conv_desc *desc) {
    const bb_minimal_route route = bb_minimal_route_of(desc, &ops);
    const double tiles = (double)route.tiles_x *
                         ((desc->out_height + route.form->outputs - 1) / route.form->outputs);
    const double vectors = (desc->in_channels + 63) / 64, packed = (double)packed_size(desc);
    const double sums = route.halved ? 0.1 * desc->in_channels + 4 : 0;

    return tiles * route.points * (route.blocks * (2.1 * route.steps + 14) + 4 * vectors) +
           sums * desc->in_height * desc->in_width + packed / 24;
}

const bb_conv_kernel bb_conv_winograd_avx512 = {
    .name = "conv_winograd_avx512",
    .cpu = BB_CPU_AVX2 | BB_CPU_AVX512 | BB_CPU_AVX512_VNNI,
    .supports = supports,
    .cost = cost,
    .packed_size = packed_size,
    .pack = pack,
    .scratch_size = scratch_size,
    .run = run,
};

#endif
