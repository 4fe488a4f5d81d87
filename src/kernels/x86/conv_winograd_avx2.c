/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file conv_winograd_avx2.c
 * 3x3 layers with vpmaddubsw into 16-bit sums on transformed codes and weights (minimal.h): 16
 * channels x 6 tiles through all points in one call.
 */
#include "kernels/minimal.h"
#include "kernels/registry.h"
#include "kernels/x86/madd_avx2.h"

#if BB_ARCH_X86_64

#define INLINE BB_AVX2 __attribute__((always_inline)) static inline

enum { LANES = 8, BLOCK = 16, TILES = 6, POINT = TILES * BLOCK };

static bool supports(const bb_conv_desc *desc) {
    return bb_minimal_form_for(desc, true) != NULL;
}

/* ---- input ---- */

INLINE __m256i add8(__m256i a, __m256i b) {
    return _mm256_add_epi8(a, b);
}

INLINE void put8(uint8_t *dst, __m256i v, __m256i offset) {
    _mm256_storeu_si256((void *)dst, add8(v, offset));
}

INLINE __m256i sub8(__m256i a, __m256i b) {
    return _mm256_sub_epi8(a, b);
}

/** Minimal filtering with m = 2, the only form of narrow sums. */
BB_AVX2 static void transform(const bb_minimal_form *form, const bb_minimal_pass *pass) {
    __m256i offset[4];

    for (int i = 0; i < 4; i++)
        offset[i] = _mm256_set1_epi8((char)pass->offset[i]);
    for (size_t t = 0; t < (size_t)pass->count; t++)
        for (size_t c = 0; c < pass->bytes; c += 32) {
            const size_t from = t * pass->in_step + c, to = t * pass->out_step + c;
            __m256i d[4];

            for (int k = 0; k < 4; k++)
                d[k] = _mm256_loadu_si256((const void *)(pass->in[k] + from));
            put8(pass->out[0] + to, sub8(d[0], d[2]), offset[0]);
            put8(pass->out[1] + to, add8(d[1], d[2]), offset[1]);
            put8(pass->out[2] + to, sub8(d[2], d[1]), offset[2]);
            put8(pass->out[3] + to, sub8(d[1], d[3]), offset[3]);
        }
    (void)form;
}

/* ---- products ---- */

typedef struct loop_args {
    const uint8_t *codes;           /* 0 */
    size_t code_stride;             /* 8 */
    const uint8_t *weights;         /* 16: the bias first */
    const bb_minimal_chunk *chunks; /* 24 */
    int32_t *products;              /* 32 */
    size_t codes_skip;              /* 40: from the end of a point's codes to the next one's */
    size_t point_bytes;             /* 48 */
} loop_args;

_Static_assert(offsetof(loop_args, point_bytes) == 48, "the assembly knows these offsets");

/* clang-format off */
/* rsi: the bias of the point whose sums are in registers. */
#define SET(at, half, a)                                                                           \
    "vpmaddwd %1, %%ymm" a ", %%ymm" a "\n\t"                                                      \
    "vpaddd " half "(%%rsi), %%ymm" a ", %%ymm" a "\n\t"                                           \
    "vmovdqa %%ymm" a ", " at "+" half "(%%r15)\n\t"
#define ROWS "0", "64", "128", "192", "256", "320"
#define FIRST(fold) BB_MADD_EXPAND(BB_MADD_STEP_FIRST, "vpmaddubsw", fold, ROWS)
#define FOLD(fold) BB_MADD_EXPAND(BB_MADD_FOLD, fold, ROWS)

/** All points of six tiles: products[point][6][16]. */
BB_AVX2 static void loop(const loop_args *args) {
    __asm__ volatile(
        "movq (%0), %%r8\n\t"
        "movq 8(%0), %%rcx\n\t"
        "movq 16(%0), %%rsi\n\t"
        "movq 24(%0), %%rbx\n\t"
        "movq 32(%0), %%r15\n\t"
        "leaq 64(%%rsi), %%rdx\n\t"
        "leaq (%%r8,%%rcx), %%r9\n\t"
        "leaq (%%r9,%%rcx), %%r10\n\t"
        "leaq (%%r10,%%rcx), %%r11\n\t"
        "leaq (%%r11,%%rcx), %%r12\n\t"
        "leaq (%%r12,%%rcx), %%r13\n\t"
        "xorl %%eax, %%eax\n\t"
        BB_ASM_CLEAR
        "jmp 6f\n\t"
        ".p2align 4\n"
    "1:\n\t" /* a chunk */
        "movzwl 4(%%rbx), %%r14d\n\t"
        "testl %%r14d, %%r14d\n\t"
        "jz 2f\n\t"
        "addq 40(%0), %%rax\n\t"
        "addq $64, %%rdx\n\t"
    "2:\n\t"
        "cmpw $0, 2(%%rbx)\n\t"
        "jne 3f\n\t"
        FIRST(SET)
        "jmp 4f\n\t"
    "3:\n\t"
        FIRST(BB_MADD_ADD_16)
    "4:\n\t"
        "testl %%r14d, %%r14d\n\t"
        "jz 7f\n\t"
        "addq $384, %%r15\n\t"
        "addq 48(%0), %%rsi\n"
    "7:\n\t"
        BB_MADD_NEXT
        "addq $8, %%rbx\n\t"
        "decl %%ecx\n\t"
        "jz 6f\n\t"
        ".p2align 4\n"
    "5:\n\t"
        BB_MADD_STEP("vpmaddubsw", "vpaddw")
        BB_MADD_NEXT
        "decl %%ecx\n\t"
        "jnz 5b\n"
    "6:\n\t" /* the next chunk */
        "movzwl (%%rbx), %%ecx\n\t"
        "testl %%ecx, %%ecx\n\t"
        "jnz 1b\n\t"
        "cmpw $0, 2(%%rbx)\n\t"
        "jne 8f\n\t"
        FOLD(SET)
        "jmp 9f\n"
    "8:\n\t"
        FOLD(BB_MADD_ADD_16)
    "9:\n\t"
        "vzeroupper\n\t"
        :
        : "D"(args), "m"(bb_words_of_one)
        : BB_ASM_CLOBBERS);
}
/* clang-format on */

static void multiply(const bb_minimal_route *route, const bb_minimal_product *job) {
    const loop_args args = {job->codes,        route->code_stride,
                            job->weights,      (const void *)(job->weights + route->chunks_at),
                            job->products,     route->codes_bytes - (size_t)route->steps * 4,
                            route->point_bytes};

    loop(&args);
}

/* ---- output ---- */

INLINE __m256i add(__m256i a, __m256i b) {
    return _mm256_add_epi32(a, b);
}

INLINE __m256i sub(__m256i a, __m256i b) {
    return _mm256_sub_epi32(a, b);
}

/** Twice the two outputs of one axis. */
INLINE void output(const __m256i *p, __m256i *y) {
    y[0] = add(add(add(p[0], p[0]), p[1]), p[2]);
    y[1] = sub(sub(p[1], p[2]), add(p[3], p[3]));
}

INLINE void finish_with(const bb_minimal_finish *job, int c, bool halved) {
    const __m256i parity = _mm256_load_si256((const void *)(job->parity + c));
    __m256i half[2][4], y[4];

    for (int x = 0; x < 4; x++) {
        __m256i p[4], two[2];

        for (int r = 0; r < 4; r++)
            p[r] = _mm256_load_si256((const void *)(job->products + (4 * r + x) * POINT + c));
        output(p, two);
        half[0][x] = two[0];
        half[1][x] = two[1];
    }
    output(half[0], y);
    output(half[1], y + 2);
    for (int i = 0; i < 4; i++) {
        const size_t r = (size_t)(i / 2), x = (size_t)(i % 2);

        /* four times the sum; halved: of half of it */
        y[i] = _mm256_srai_epi32(y[i], halved ? 1 : 2);
        if (halved) {
            const __m256i sum = _mm256_set1_epi32(job->sums[r * job->sums_stride + x]);

            y[i] = add(y[i], _mm256_and_si256(parity, sum));
        }
        _mm256_storeu_si256(
            (void *)(job->acc + r * job->row_ints + x * BB_MINIMAL_PIXEL + (size_t)c), y[i]);
    }
}

BB_AVX2 static void finish(const bb_minimal_route *route, const bb_minimal_finish *job) {
    for (int c = 0; c < BLOCK; c += LANES)
        if (route->halved)
            finish_with(job, c, true);
        else
            finish_with(job, c, false);
}

static const bb_minimal_ops ops = {
    .block_channels = BLOCK,
    .call_channels = BB_MINIMAL_PIXEL,
    .most_tiles = TILES,
    .narrow = true,
    .transform = transform,
    .multiply = multiply,
    .finish = finish,
    .sum_pixels = bb_sum_pixels_avx2,
};

BB_MINIMAL_FUNCTIONS(ops)

/**
 * Cycles: seven for a step, folds and finish, transforms, weights from afar; and 4 % more than
 * measured, because weights take several times the memory of the look-up kernels.
 */
static double cost(const bb_conv_desc *desc) {
    const bb_minimal_route route = bb_minimal_route_of(desc, &ops);
    const int32_t rows = (desc->out_height + 1) / 2;
    const double tiles = (double)rows * route.tiles_x;
    const double groups = (double)(int64_t)(tiles / TILES + 0.99);
    const double vectors = (desc->in_channels + 31) / 32, packed = (double)packed_size(desc);

    return 1.04 * (groups * route.blocks * (16 * (7.0 * route.steps + 8) + 300) +
                   tiles * vectors * 45 + packed / 40);
}

const bb_conv_kernel bb_conv_winograd_avx2 = {.name = "conv_winograd_avx2",
                                              .cpu = BB_CPU_AVX2,
                                              .supports = supports,
                                              .cost = cost,
                                              .packed_size = packed_size,
                                              .pack = pack,
                                              .scratch_size = scratch_size,
                                              .run = run};

#endif
