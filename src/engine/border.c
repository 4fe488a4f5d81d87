/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Border classes. A kernel computes acc = sum over all taps of u*(b+o), with the code q in the
 * padding. With a = 2u - L and W_t = sum over the input channels of (b+o) at tap t:
 *     P = sum over valid t of (sum (a - a0)(b+o) + e_t)
 *       = 2*acc - 2q * sum over padded t of W_t + sum over valid t of (e_t - zero*W_t)
 * where zero = L + a0. The last two terms are the border vector of the pixel's class. If
 * 2q = zero they are the same for every class but for e.
 *
 * Sums are kept modulo 2^32: P itself fits int32, so P = 2*acc + border is right modulo 2^32
 * whatever its parts do.
 */
#include "engine/internal.h"
#include <string.h>

bb_tap_range bb_valid_taps(int32_t out, int32_t stride, int32_t dilation, int32_t pad,
                           int32_t kernel, int32_t size) {
    const int64_t start = (int64_t)out * stride - pad;
    int64_t first = start < 0 ? (-start + dilation - 1) / dilation : 0;
    int64_t last = size > start ? (size - start + dilation - 1) / dilation : 0;
    last = last > kernel ? kernel : last;
    first = first > last ? last : first;
    return (bb_tap_range){(int32_t)first, (int32_t)last};
}

uint32_t bb_border_pad_code(int32_t zero, int32_t top) {
    const bool is_code = zero % 2 == 0 && zero >= 0 && zero / 2 <= top;
    return is_code ? (uint32_t)(zero / 2) : 0;
}

/* Classes along one axis. */
typedef struct axis_classes {
    uint16_t *of;        /**< class of each output position */
    bb_tap_range *range; /**< of each class */
    size_t n;
} axis_classes;

static bb_tap_range taps_at(const bb_conv_desc *d, int axis, int32_t out) {
    return bb_valid_taps(out, d->stride[axis], d->dilation[axis], d->pad_begin[axis],
                         d->kernel[axis], axis == 0 ? d->in_height : d->in_width);
}

static bool same_range(bb_tap_range a, bb_tap_range b) {
    return a.first == b.first && a.last == b.last;
}

/* Both ends of the range fall as the position grows: a range never comes back once left, so only
 * the class before has to be compared. */
static bb_status find_classes(bb_engine *engine, const bb_conv_desc *d, int axis, bool merge,
                              axis_classes *result, bb_error *err) {
    const int32_t size = axis == 0 ? d->out_height : d->out_width;
    result->of = bb_engine_array(engine, (size_t)size, sizeof(*result->of));
    result->range = bb_engine_array(engine, (size_t)size, sizeof(*result->range));
    result->n = 0;
    if (!result->of || !result->range)
        return bb_fail_memory(err, "border classes");
    for (int32_t i = 0; i < size; i++) {
        const bb_tap_range range = merge ? (bb_tap_range){0, d->kernel[axis]} : taps_at(d, axis, i);
        if (result->n == 0 || !same_range(result->range[result->n - 1], range)) {
            if (result->n > UINT16_MAX)
                return bb_fail(err, BB_STATUS_LIMIT, "more than 65536 border classes");
            result->range[result->n++] = range;
        }
        result->of[i] = (uint16_t)(result->n - 1);
    }
    return BB_STATUS_OK;
}

static bb_status find_runs(bb_engine *engine, const axis_classes *columns, int32_t width,
                           bb_border *border, bb_error *err) {
    int32_t *run_end = bb_engine_array(engine, (size_t)width, sizeof(*run_end));
    if (!run_end)
        return bb_fail_memory(err, "border classes");
    for (int32_t x = width - 1; x >= 0; x--)
        run_end[x] = x + 1 < width && columns->of[x] == columns->of[x + 1] ? run_end[x + 1] : x + 1;
    border->run_end = run_end;
    return BB_STATUS_OK;
}

/* W_t of one output channel, modulo 2^32. */
static uint32_t tap_sum(const int16_t *weights, int32_t depth) {
    uint32_t sum = 0;
    for (int32_t i = 0; i < depth; i++)
        sum += (uint32_t)(int32_t)weights[i];
    return sum;
}

/*
 * border = sum over valid t of (e_t - (zero - 2q)*W_t) - 2q * sum over all t of W_t. The first sum
 * goes over a rectangle of taps, so it is four corners of running sums, whatever the window's size.
 */
typedef struct channel_sums {
    uint32_t *corner; /**< [kh + 1][kw + 1]: sum over the taps above and to the left */
    uint32_t constant;
} channel_sums;

static void sum_channel(const bb_border_input *in, int32_t c, channel_sums *sums) {
    const bb_conv_desc *d = in->desc;
    const int32_t depth = d->in_channels / d->groups, kw = d->kernel[1];
    const int16_t *weights =
        in->weights + (size_t)c * (size_t)d->kernel[0] * (size_t)kw * (size_t)depth;
    const uint32_t factor = (uint32_t)in->zero - 2 * d->pad_code;
    uint32_t all = 0;
    for (int32_t y = 0; y < d->kernel[0]; y++) {
        uint32_t *above = sums->corner + (size_t)y * (size_t)(kw + 1), *here = above + kw + 1;
        uint32_t row = 0;
        for (int32_t x = 0; x < kw; x++, weights += depth) {
            const size_t t = (size_t)y * (size_t)kw + (size_t)x;
            const uint32_t w = tap_sum(weights, depth);
            all += w;
            row -= factor * w;
            if (in->tap_add)
                row += (uint32_t)in->tap_add[t * (size_t)d->out_channels + (size_t)c];
            here[x + 1] = above[x + 1] + row;
        }
    }
    sums->constant = 0u - 2 * d->pad_code * all;
}

static uint32_t class_sum(const channel_sums *sums, int32_t kw, bb_tap_range rows,
                          bb_tap_range columns) {
    const uint32_t *top = sums->corner + (size_t)rows.first * (size_t)(kw + 1),
                   *bottom = sums->corner + (size_t)rows.last * (size_t)(kw + 1);
    return bottom[columns.last] - bottom[columns.first] - top[columns.last] + top[columns.first] +
           sums->constant;
}

/* Entries of border vectors; a gigabyte of them is no sensible network. */
enum { MAX_ENTRIES = 1 << 28 };

static bb_status allocate_vectors(bb_engine *engine, size_t classes, bb_border *border,
                                  int32_t **vectors, bb_error *err) {
    size_t n;
    if (!bb_size_mul(classes, border->padded, &n) || n > MAX_ENTRIES)
        return bb_fail(err, BB_STATUS_LIMIT, "its padding makes %zu classes of border pixels",
                       classes);
    *vectors = bb_engine_array(engine, n, sizeof(**vectors));
    border->vectors = *vectors;
    return *vectors ? BB_STATUS_OK : bb_fail_memory(err, "border vectors");
}

static bool all_zero(const int32_t *values, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (values[i] != 0)
            return false;
    return true;
}

static bb_status fill_vectors(bb_engine *engine, const bb_border_input *in,
                              const axis_classes *rows, const axis_classes *columns,
                              bb_border *border, bb_error *err) {
    const bb_conv_desc *d = in->desc;
    const size_t corners = (size_t)(d->kernel[0] + 1) * (size_t)(d->kernel[1] + 1);
    int32_t *vectors;
    border->padded = bb_padded_channels((size_t)d->out_channels);
    BB_TRY(allocate_vectors(engine, rows->n * columns->n, border, &vectors, err));
    channel_sums sums = {.corner = bb_calloc_array(corners, sizeof(*sums.corner))};
    if (!sums.corner)
        return bb_fail_memory(err, "border vectors");
    for (int32_t c = 0; c < d->out_channels; c++) {
        int32_t *at = vectors + c;
        sum_channel(in, c, &sums);
        for (size_t r = 0; r < rows->n; r++)
            for (size_t k = 0; k < columns->n; k++, at += border->padded)
                *at = (int32_t)class_sum(&sums, d->kernel[1], rows->range[r], columns->range[k]);
    }
    bb_free(sums.corner);
    border->all_zero = all_zero(vectors, rows->n * columns->n * border->padded);
    return BB_STATUS_OK;
}

bb_status bb_border_build(bb_engine *engine, const bb_border_input *in, bb_border *border,
                          bb_error *err) {
    axis_classes rows, columns;
    const bool merged = !in->tap_add && 2 * (int64_t)in->desc->pad_code == (int64_t)in->zero;
    BB_TRY(find_classes(engine, in->desc, 0, merged, &rows, err));
    BB_TRY(find_classes(engine, in->desc, 1, merged, &columns, err));
    BB_TRY(find_runs(engine, &columns, in->desc->out_width, border, err));
    border->n_row_classes = rows.n;
    border->n_column_classes = columns.n;
    border->row_class = rows.of;
    border->column_class = columns.of;
    return fill_vectors(engine, in, &rows, &columns, border, err);
}

/* |P| <= sum |a - a0| |b+o| + sum |e| over all taps. */
int64_t bb_border_max_p(const bb_border_input *in) {
    const bb_conv_desc *d = in->desc;
    const int64_t top = ((int64_t)1 << d->activation_bits) - 1, unknown = (int64_t)1 << 31;
    const int64_t first = in->zero < 0 ? -(int64_t)in->zero : in->zero; /* |a - a0| of code 0 */
    const int64_t last = 2 * top < in->zero ? in->zero - 2 * top : 2 * top - in->zero;
    const int64_t largest = first > last ? first : last;
    const size_t taps = (size_t)d->kernel[0] * (size_t)d->kernel[1];
    const size_t row = taps * (size_t)(d->in_channels / d->groups);
    int64_t worst = 0; /* row <= 2^24, |b+o| < 2^15, |a - a0| < 2^18, taps <= 2^16: below 2^58 */
    for (int32_t c = 0; c < d->out_channels; c++) {
        int64_t sum = 0;
        for (size_t i = 0; i < row; i++) {
            const int64_t w = in->weights[(size_t)c * row + i];
            sum += w < 0 ? -w : w;
        }
        sum *= largest;
        for (size_t t = 0; in->tap_add && t < taps; t++) {
            const int64_t e = in->tap_add[t * (size_t)d->out_channels + (size_t)c];
            sum += e < 0 ? -e : e;
        }
        worst = sum > worst ? sum : worst;
    }
    return worst < unknown ? worst : unknown;
}
