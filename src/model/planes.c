/* SPDX-License-Identifier: Apache-2.0 */
/* Weight bit planes (paper eq. 10): packing, and levels back from planes or a prefix of them. */
#include "encode/encode.h"
#include "model/model.h"
#include <string.h>

enum { WORD_BITS = 64 };

size_t bb_planes_words(const bb_planes *planes) {
    return (size_t)planes->count * planes->rows * planes->row_words;
}

/* Dimensions and words of the planes; words == NULL on overflow or when out of memory. */
static uint64_t *planes_allocate(bb_arena *arena, bb_planes *planes) {
    uint64_t row = (uint64_t)planes->taps * planes->depth;
    size_t words;
    if (row == 0 || row > BB_MAX_ROW)
        return NULL;
    planes->row_words = (uint32_t)((row + WORD_BITS - 1) / WORD_BITS);
    if (!bb_size_mul(planes->count, planes->rows, &words) ||
        !bb_size_mul(words, planes->row_words, &words))
        return NULL;
    uint64_t *data = bb_arena_array(arena, words, sizeof(*data));
    planes->words = data;
    return data;
}

bb_planes *bb_planes_from_weighted_codes(bb_arena *arena, const uint8_t *codes, uint32_t rows,
                                         uint32_t taps, uint32_t depth, uint32_t count,
                                         const int16_t *weight) {
    if (count < 1 || count > BB_MAX_PLANES)
        return NULL;
    bb_planes *planes = bb_arena_alloc(arena, sizeof(*planes));
    if (!planes)
        return NULL;
    *planes = (bb_planes){.rows = rows, .taps = taps, .depth = depth, .count = count};
    memcpy(planes->weight, weight, count * sizeof(*weight));
    uint64_t *words = planes_allocate(arena, planes);
    if (!words)
        return NULL;
    size_t row = (size_t)taps * depth;
    for (uint32_t r = 0; r < rows; r++)
        bb_planes_split(codes + r * row, row, count, words + (size_t)r * planes->row_words,
                        (size_t)rows * planes->row_words);
    return planes;
}

bb_planes *bb_planes_from_codes(bb_arena *arena, const uint8_t *codes, uint32_t rows, uint32_t taps,
                                uint32_t depth, uint32_t count) {
    int16_t weight[BB_MAX_PLANES] = {0};
    for (uint32_t p = 0; p < count && p < BB_MAX_PLANES; p++)
        weight[p] = (int16_t)(1 << (count - 1 - p));
    return bb_planes_from_weighted_codes(arena, codes, rows, taps, depth, count, weight);
}

bool bb_planes_native(const bb_planes *planes) {
    for (uint32_t p = 0; p < planes->count; p++)
        if (planes->weight[p] != 1 << (planes->count - 1 - p))
            return false;
    return true;
}

int32_t bb_planes_weight(const bb_planes *planes, uint32_t used, uint32_t p) {
    return planes->weight[p] >> (planes->count - used);
}

/* Eight at a time, in a form compilers turn into vector code. */
static void add_signs(int16_t *restrict out, unsigned bits, int16_t weight) {
    static const int16_t bit[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    for (int i = 0; i < 8; i++)
        out[i] = (int16_t)(out[i] + ((int16_t)bits & bit[i] ? weight : -weight));
}

static void add_plane(int16_t *restrict out, const uint64_t *words, size_t n, int16_t weight) {
    size_t whole = n - n % 8;
    for (size_t j = 0; j < whole; j += 8)
        add_signs(out + j, (unsigned)(words[j / WORD_BITS] >> (j % WORD_BITS) & 0xff), weight);
    for (size_t j = whole; j < n; j++)
        out[j] =
            (int16_t)(out[j] + (words[j / WORD_BITS] >> (j % WORD_BITS) & 1 ? weight : -weight));
}

/* |b| <= sum of plane weights <= BB_MAX_WEIGHT < 2^15, as validated. */
void bb_planes_row_levels(const bb_planes *planes, uint32_t used, uint32_t row, int16_t *out) {
    size_t n = (size_t)planes->taps * planes->depth;
    memset(out, 0, n * sizeof(*out));
    for (uint32_t p = 0; p < used; p++)
        add_plane(out, planes->words + ((size_t)p * planes->rows + row) * planes->row_words, n,
                  (int16_t)bb_planes_weight(planes, used, p));
}

bb_status bb_planes_levels(const bb_planes *planes, uint32_t used, int16_t *out, bb_error *err) {
    if (used < 1 || used > planes->count)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "%u of %u weight planes asked for", used,
                       planes->count);
    if (used < planes->count && !bb_planes_native(planes))
        return bb_fail(err, BB_STATUS_UNSUPPORTED,
                       "weights on a grid of their own cannot run with fewer planes");
    size_t n = (size_t)planes->taps * planes->depth;
    for (uint32_t r = 0; r < planes->rows; r++)
        bb_planes_row_levels(planes, used, r, out + r * n);
    return BB_STATUS_OK;
}
