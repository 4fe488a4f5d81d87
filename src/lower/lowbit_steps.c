/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of a function of one root over everything the root can reach, and the grid its values
 * lie on. Where every operator in between never changes direction, bisection finds all steps:
 * equal values at both ends of an interval mean equal values inside. Else all points are tried. */
#include "lower/lowbit.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 64, MAX_POINTS = 1 << 22 };

/* ---- growing lists of (z, value) ------------------------------------------------------------ */

typedef struct sample {
    int64_t z;
    float value;
} sample;

typedef struct samples {
    sample *data;
    size_t n, cap;
} samples;

static bool push(samples *s, int64_t z, float value) {
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 32;
        sample *bigger = bb_realloc_array(s->data, cap, sizeof(*bigger));
        if (!bigger)
            return false;
        s->data = bigger;
        s->cap = cap;
    }
    s->data[s->n++] = (sample){z, value};
    return true;
}

/* An interval whose ends have different values and whose inside is unknown. */
typedef struct interval {
    sample low, high;
} interval;

typedef struct search {
    bb_lowbit *l;
    int value;
    uint32_t channels;
    const bb_root *root;
    size_t max_steps;
    samples *found; /* [channels] points where a step may begin, in any order */
    interval **todo;
    size_t *n_todo, *cap_todo;
    int64_t *z;
    float *out;
    bool too_many;
} search;

static int64_t low_of(const search *s, uint32_t c) {
    return s->root->low[s->root->channels == 1 ? 0 : c];
}

static int64_t high_of(const search *s, uint32_t c) {
    return s->root->high[s->root->channels == 1 ? 0 : c];
}

static bool push_interval(search *s, uint32_t c, sample low, sample high) {
    if (low.value == high.value)
        return true;
    if (high.z - low.z <= s->root->stride)
        return push(&s->found[c], high.z, high.value);
    if (s->n_todo[c] == s->cap_todo[c]) {
        size_t cap = s->cap_todo[c] ? 2 * s->cap_todo[c] : 32;
        interval *bigger = bb_realloc_array(s->todo[c], cap, sizeof(*bigger));
        if (!bigger)
            return false;
        s->todo[c] = bigger;
        s->cap_todo[c] = cap;
    }
    s->todo[c][s->n_todo[c]++] = (interval){low, high};
    return true;
}

static int64_t middle(const search *s, const interval *i) {
    int64_t steps = (i->high.z - i->low.z) / s->root->stride;
    return i->low.z + steps / 2 * s->root->stride;
}

/* One round: the middles of up to BATCH intervals of every channel at once. */
static bb_status split_round(search *s, bool *any) {
    *any = false;
    uint32_t channels = s->channels;
    size_t rows = 0;
    for (uint32_t c = 0; c < channels; c++) {
        size_t n = s->n_todo[c] < BATCH ? s->n_todo[c] : BATCH;
        rows = n > rows ? n : rows;
    }
    if (rows == 0)
        return BB_STATUS_OK;
    for (uint32_t c = 0; c < channels; c++)
        for (size_t r = 0; r < rows; r++)
            s->z[r * channels + c] =
                r < s->n_todo[c] ? middle(s, &s->todo[c][s->n_todo[c] - 1 - r]) : low_of(s, c);
    BB_TRY(bb_lb_evaluate(s->l, s->value, s->z, rows, channels, s->out));
    for (uint32_t c = 0; c < channels; c++) {
        size_t n = s->n_todo[c] < rows ? s->n_todo[c] : rows;
        interval taken[BATCH];
        for (size_t r = 0; r < n; r++)
            taken[r] = s->todo[c][s->n_todo[c] - 1 - r];
        s->n_todo[c] -= n;
        for (size_t r = 0; r < n; r++) {
            sample mid = {s->z[r * channels + c], s->out[r * channels + c]};
            if (!push_interval(s, c, taken[r].low, mid) || !push_interval(s, c, mid, taken[r].high))
                return bb_fail_memory(s->l->err, "steps");
        }
        if (s->found[c].n + s->n_todo[c] > s->max_steps)
            s->too_many = true;
    }
    *any = true;
    return BB_STATUS_OK;
}

static bb_status bisect(search *s) {
    uint32_t channels = s->channels;
    for (uint32_t c = 0; c < channels; c++) {
        s->z[c] = low_of(s, c);
        s->z[channels + c] = high_of(s, c);
    }
    BB_TRY(bb_lb_evaluate(s->l, s->value, s->z, 2, channels, s->out));
    for (uint32_t c = 0; c < channels; c++) {
        sample low = {s->z[c], s->out[c]}, high = {s->z[channels + c], s->out[channels + c]};
        if (!push(&s->found[c], low.z, low.value) || !push_interval(s, c, low, high))
            return bb_fail_memory(s->l->err, "steps");
    }
    bool any = true;
    while (any && !s->too_many)
        BB_TRY(split_round(s, &any));
    return BB_STATUS_OK;
}

static bb_status try_all(search *s) {
    uint32_t channels = s->channels;
    int64_t most = 0;
    for (uint32_t c = 0; c < channels; c++) {
        int64_t n = (high_of(s, c) - low_of(s, c)) / s->root->stride + 1;
        most = n > most ? n : most;
    }
    if (most > MAX_POINTS / (int64_t)channels) {
        s->too_many = true;
        return BB_STATUS_OK;
    }
    for (int64_t first = 0; first < most && !s->too_many; first += BATCH) {
        size_t rows = (size_t)(most - first < BATCH ? most - first : BATCH);
        for (uint32_t c = 0; c < channels; c++)
            for (size_t r = 0; r < rows; r++) {
                int64_t z = low_of(s, c) + (first + (int64_t)r) * s->root->stride;
                s->z[r * channels + c] = z < high_of(s, c) ? z : high_of(s, c);
            }
        BB_TRY(bb_lb_evaluate(s->l, s->value, s->z, rows, channels, s->out));
        for (uint32_t c = 0; c < channels; c++)
            for (size_t r = 0; r < rows; r++) {
                samples *f = &s->found[c];
                float value = s->out[r * channels + c];
                if (f->n && (f->data[f->n - 1].value == value ||
                             f->data[f->n - 1].z >= s->z[r * channels + c]))
                    continue;
                if (!push(f, s->z[r * channels + c], value))
                    return bb_fail_memory(s->l->err, "steps");
                s->too_many = s->too_many || f->n > s->max_steps;
            }
    }
    return BB_STATUS_OK;
}

/* ---- result --------------------------------------------------------------------------------- */

static int by_z(const void *a, const void *b) {
    int64_t x = ((const sample *)a)->z, y = ((const sample *)b)->z;
    return (x > y) - (x < y);
}

void bb_lb_steps_free(bb_steps *steps) {
    for (uint32_t c = 0; c < steps->channels && steps->start; c++)
        bb_free(steps->start[c]);
    for (uint32_t c = 0; c < steps->channels && steps->value; c++)
        bb_free(steps->value[c]);
    bb_free(steps->start);
    bb_free(steps->value);
    bb_free(steps->n);
    *steps = (bb_steps){0};
}

static bool store(search *s, bb_steps *steps) {
    steps->channels = s->channels;
    steps->n = bb_calloc_array(s->channels, sizeof(*steps->n));
    steps->start = bb_calloc_array(s->channels, sizeof(*steps->start));
    steps->value = bb_calloc_array(s->channels, sizeof(*steps->value));
    if (!steps->n || !steps->start || !steps->value)
        return false;
    for (uint32_t c = 0; c < s->channels; c++) {
        samples *f = &s->found[c];
        qsort(f->data, f->n, sizeof(*f->data), by_z);
        steps->n[c] = f->n;
        steps->start[c] = bb_alloc_array(f->n, sizeof(**steps->start));
        steps->value[c] = bb_alloc_array(f->n, sizeof(**steps->value));
        if (!steps->start[c] || !steps->value[c])
            return false;
        for (size_t i = 0; i < f->n; i++) {
            steps->start[c][i] = f->data[i].z;
            steps->value[c][i] = f->data[i].value;
        }
    }
    return true;
}

static bb_status run_search(search *s, bb_steps *steps, bool *found) {
    int8_t *direction = bb_alloc_array(s->channels, 1);
    bb_status status = direction ? bb_lb_directions(s->l, s->value, s->channels, direction)
                                 : bb_fail_memory(s->l->err, "steps");
    steps->monotone = true;
    for (uint32_t c = 0; c < s->channels && status == BB_STATUS_OK; c++)
        steps->monotone = steps->monotone && direction[c] != 2;
    bb_free(direction);
    if (status == BB_STATUS_OK)
        status = steps->monotone ? bisect(s) : try_all(s);
    if (status != BB_STATUS_OK || s->too_many)
        return status;
    if (!store(s, steps))
        return bb_fail_memory(s->l->err, "steps");
    *found = true;
    return BB_STATUS_OK;
}

bb_status bb_lb_steps(bb_lowbit *l, int value, size_t max_steps, bb_steps *steps, bool *found) {
    const bb_root root = l->roots[l->root_of[value]];
    uint32_t channels = bb_lb_uniform(l, value) ? 1 : bb_lb_channels(l, value);
    search s = {
        .l = l,
        .value = value,
        .channels = channels,
        .root = &root,
        .max_steps = max_steps,
        .found = bb_calloc_array(channels, sizeof(*s.found)),
        .todo = bb_calloc_array(channels, sizeof(*s.todo)),
        .n_todo = bb_calloc_array(channels, sizeof(*s.n_todo)),
        .cap_todo = bb_calloc_array(channels, sizeof(*s.cap_todo)),
        .z = bb_calloc_array((size_t)BATCH * channels, sizeof(*s.z)),
        .out = bb_calloc_array((size_t)BATCH * channels, sizeof(*s.out)),
    };
    *steps = (bb_steps){0};
    *found = false;
    bool ok = s.found && s.todo && s.n_todo && s.cap_todo && s.z && s.out;
    bb_status status = ok ? run_search(&s, steps, found) : bb_fail_memory(l->err, "steps");
    for (uint32_t c = 0; c < channels && ok; c++) {
        bb_free(s.found[c].data);
        bb_free(s.todo[c]);
    }
    bb_free(s.found);
    bb_free(s.todo);
    bb_free(s.n_todo);
    bb_free(s.cap_todo);
    bb_free(s.z);
    bb_free(s.out);
    if (status != BB_STATUS_OK)
        bb_lb_steps_free(steps);
    return status;
}

/* ---- grid ----------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Distinct values of all steps, ascending. NULL where one is not finite or memory is short. */
static float *distinct_values(const bb_steps *steps, size_t *n) {
    size_t total = 0;
    for (uint32_t c = 0; c < steps->channels; c++)
        total += steps->n[c];
    float *values = bb_alloc_array(total + 1, sizeof(*values));
    *n = 0;
    for (uint32_t c = 0; c < steps->channels && values; c++)
        for (size_t i = 0; i < steps->n[c]; i++) {
            if (!isfinite(steps->value[c][i])) {
                bb_free(values);
                return NULL;
            }
            values[(*n)++] = steps->value[c][i];
        }
    if (!values)
        return NULL;
    qsort(values, *n, sizeof(*values), by_value);
    size_t kept = 0;
    for (size_t i = 0; i < *n; i++)
        if (i == 0 || values[i] != values[kept - 1])
            values[kept++] = values[i];
    *n = kept;
    return values;
}

static uint32_t bits_for(double last) {
    uint32_t bits = 1;
    while (bits < 32 && ldexp(1, (int)bits) - 1 < last)
        bits++;
    return bits;
}

/* All values at low + k*unit within float32's rounding of such numbers. */
static bool fits(const float *values, size_t n, double low, double unit) {
    for (size_t i = 0; i < n; i++) {
        double k = ((double)values[i] - low) / unit;
        double slack = 1e-3 < 4e-7 * (fabs((double)values[i]) + fabs(low)) / unit
                           ? 4e-7 * (fabs((double)values[i]) + fabs(low)) / unit
                           : 1e-3;
        if (!(fabs(k - floor(k + 0.5)) <= slack) || slack > 0.25)
            return false;
    }
    return true;
}

/* The declared grid, if all values lie on it. BipolarQuant has levels -scale and +scale. */
static bool declared_grid(bb_lowbit *l, int value, const float *values, size_t n, uint32_t max_bits,
                          bb_uniform *grid) {
    bb_declared d;
    if (!bb_lb_declared(l, value, &d) || d.high - d.low >= INT64_C(1) << max_bits)
        return false;
    double unit = d.scale, low = ((double)d.low - d.zero) * d.scale;
    double last = (double)(d.high - d.low);
    if (!fits(values, n, low, unit) || (double)values[0] < low - unit / 2 ||
        (double)values[n - 1] > low + (last + 0.5) * unit)
        return false;
    *grid = (bb_uniform){bits_for(last), low, unit, (uint32_t)last};
    return true;
}

static bool found_grid(const float *values, size_t n, uint32_t max_bits, bb_uniform *grid) {
    double unit = INFINITY;
    for (size_t i = 1; i < n; i++)
        unit = fmin(unit, (double)values[i] - (double)values[i - 1]);
    if (n == 1)
        unit = values[0] != 0 ? fabs((double)values[0]) : 1;
    double span = (double)values[n - 1] - (double)values[0];
    double last = floor(span / unit + 0.5);
    if (last >= ldexp(1, (int)max_bits))
        return false;
    if (last > 0)
        unit = span / last;
    if (!fits(values, n, (double)values[0], unit))
        return false;
    *grid = (bb_uniform){bits_for(last), (double)values[0], unit, (uint32_t)last};
    return true;
}

/* low = unit/2 * (-L - a0), so a0 = -L - 2*low/unit. */
int32_t bb_lb_a0(const bb_uniform *grid, bool *whole) {
    double a0 = -(ldexp(1, (int)grid->bits) - 1) - 2 * grid->low / grid->unit;
    *whole = fabs(a0 - floor(a0 + 0.5)) < 1e-3 && fabs(a0) <= BB_MAX_A0;
    return *whole ? (int32_t)floor(a0 + 0.5) : 0;
}

bool bb_lb_grid(bb_lowbit *l, int value, const bb_steps *steps, uint32_t max_bits,
                bb_uniform *grid) {
    size_t n;
    float *values = distinct_values(steps, &n);
    bool whole = false;
    if (!values)
        return false;
    if (declared_grid(l, value, values, n, max_bits, grid) || found_grid(values, n, max_bits, grid))
        bb_lb_a0(grid, &whole);
    bb_free(values);
    return whole;
}
