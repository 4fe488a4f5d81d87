/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/quantizer.h"
#include "nn/clones.h"
#include "nn/quantizer_binary.h"
#include <float.h>
#include <math.h>
#include <string.h>

static const float TINY_STEP = 1e-12f;
/* Candidates of the search for the step of least squared error. */
enum { STEP_CANDIDATES = 80 };
static const float STEP_RATIO = 0.96f;

/* A lower bound, not an addend: steps that are powers of 2 apart stay so, and with them codes that
 * are prefixes of each other's. A step that is no number stays so, and with it the loss. */
static float step_of(const bb_quantizer_args *args) {
    float step = fabsf(args->step);
    return step < TINY_STEP ? TINY_STEP : step;
}

static float last_code(const bb_quantizer_args *args) {
    return (float)((1 << args->bits) - 1);
}

static inline float clamp(float x, float lo, float hi) {
    x = x < lo ? lo : x;
    return x > hi ? hi : x;
}

/** Derivative of |step|. */
static double step_sign(const bb_quantizer_args *args) {
    return args->step < 0.0f ? -1.0 : 1.0;
}

typedef void (*forward_fn)(const bb_quantizer_args *args, const float *x, float *y, size_t n);

/** The largest candidate is `top` * max|x|. */
static float search_step(forward_fn forward, const bb_quantizer_args *args, const float *x,
                         size_t n, float top) {
    float largest = 0.0f, best = 1e-4f;
    double least = DBL_MAX;
    for (size_t i = 0; i < n; i++)
        largest = fmaxf(largest, fabsf(x[i]));
    if (!(largest > FLT_MIN * 4096.0f))
        return best;
    bb_quantizer_args a = *args;
    a.step = top * largest;
    for (int c = 0; c < STEP_CANDIDATES; c++, a.step *= STEP_RATIO) {
        double error = 0.0;
        for (size_t i = 0; i < n; i++) {
            float y;
            forward(&a, &x[i], &y, 1);
            error += ((double)x[i] - (double)y) * ((double)x[i] - (double)y);
        }
        if (error < least) {
            least = error;
            best = a.step;
        }
    }
    return best;
}

/** LSQ's 1 / sqrt(n * largest level). */
static double learned_step_gradient(const bb_quantizer_args *args, double n) {
    return 1.0 / sqrt(n * (double)last_code(args));
}

/*
 * Loops below sum LANES columns side by side and add these up in double after every BLOCK elements:
 * in one order whatever the instruction set, and precise enough for any length.
 */
enum { LANES = 16, BLOCK = 4096 };

static double sum_lanes(float *lanes) {
    double sum = 0.0;
    for (size_t l = 0; l < LANES; l++) {
        sum += (double)lanes[l];
        lanes[l] = 0.0f;
    }
    return sum;
}

/* dx of all elements and the sum of what element(slope, x, dy, &dx) returns. */
#define DEFINE_SLOPES(name, slope_type, element)                                                   \
    BB_CLONES static double name(const slope_type *slope, const float *x, const float *dy,         \
                                 float *dx, size_t n) {                                            \
        const slope_type s = *slope;                                                               \
        float lanes[LANES] = {0};                                                                  \
        double sum = 0.0;                                                                          \
        size_t i = 0;                                                                              \
        while (i + LANES <= n) {                                                                   \
            size_t end = n - i > BLOCK ? i + BLOCK : n;                                            \
            for (; i + LANES <= end; i += LANES)                                                   \
                for (size_t l = 0; l < LANES; l++)                                                 \
                    lanes[l] += element(&s, x[i + l], dy[i + l], &dx[i + l]);                      \
            sum += sum_lanes(lanes);                                                               \
        }                                                                                          \
        for (; i < n; i++)                                                                         \
            sum += (double)element(&s, x[i], dy[i], &dx[i]);                                       \
        return sum;                                                                                \
    }

/* ---- odd grid -------------------------------------------------------------------------------- */

BB_CLONES static void odd_values(float step, float top, const float *x, float *y, size_t n) {
    float half = 0.5f / step;
    for (size_t i = 0; i < n; i++)
        y[i] = step * clamp(2.0f * floorf(x[i] * half) + 1.0f, -top, top);
}

static void odd_forward(const bb_quantizer_args *args, const float *x, float *y, size_t n) {
    odd_values(step_of(args), last_code(args), x, y, n);
}

/* Gradients pass where |v| <= reach; elsewhere the level is what the step scales. `per` is
 * 1 / step, or 0 where the levels' borders do not depend on the step (one bit). */
typedef struct odd_slope {
    float half, top, edge, per;
} odd_slope;

static inline float odd_element(const odd_slope *s, float x, float dy, float *dx) {
    float level = clamp(2.0f * floorf(x * s->half) + 1.0f, -s->top, s->top);
    bool inside = fabsf(x) <= s->edge;
    *dx = inside ? dy : 0.0f;
    return dy * level - *dx * (x * s->per);
}

DEFINE_SLOPES(odd_slopes, odd_slope, odd_element)

static double odd_gradient(const bb_quantizer_args *args, float reach, const float *x,
                           const float *dy, float *dx, size_t n) {
    float step = step_of(args);
    odd_slope s = {0.5f / step, last_code(args), reach * step, args->bits > 1 ? 1.0f / step : 0.0f};
    return odd_slopes(&s, x, dy, dx, n) * step_sign(args);
}

static double odd_backward(const bb_quantizer_args *args, const float *x, const float *dy,
                           float *dx, size_t n) {
    return odd_gradient(args, args->bits == 1 ? FLT_MAX : last_code(args) + 1.0f, x, dy, dx, n);
}

static double odd_input_backward(const bb_quantizer_args *args, const float *x, const float *dy,
                                 float *dx, size_t n) {
    return odd_gradient(args, last_code(args) + 1.0f, x, dy, dx, n);
}

static float odd_initial_step(const bb_quantizer_args *args, const float *x, size_t n) {
    /* One bit may need the largest magnitude itself as its level. */
    return search_step(odd_forward, args, x, n, 2.1f / (last_code(args) + 1.0f));
}

/* ---- codes from 0 ---------------------------------------------------------------------------- */

BB_CLONES static void affine_values(float step, float lo, float hi, const float *x, float *y,
                                    size_t n) {
    float per = 1.0f / step;
    for (size_t i = 0; i < n; i++)
        y[i] = step * clamp(floorf(x[i] * per + 0.5f), lo, hi);
}

static void affine_forward(const bb_quantizer_args *args, const float *x, float *y, size_t n) {
    affine_values(step_of(args), -args->zero, last_code(args) - args->zero, x, y, n);
}

typedef struct affine_slope {
    float per, lo, hi;
} affine_slope;

static inline float affine_element(const affine_slope *s, float x, float dy, float *dx) {
    float v = x * s->per, held = clamp(v, s->lo, s->hi);
    float code = clamp(floorf(v + 0.5f), s->lo, s->hi);
    *dx = held == v ? dy : 0.0f;
    return dy * code - *dx * v;
}

DEFINE_SLOPES(affine_slopes, affine_slope, affine_element)

static double affine_backward(const bb_quantizer_args *args, const float *x, const float *dy,
                              float *dx, size_t n) {
    affine_slope s = {1.0f / step_of(args), -args->zero, last_code(args) - args->zero};
    return affine_slopes(&s, x, dy, dx, n) * step_sign(args);
}

static void unsigned_forward(const bb_quantizer_args *args, const float *x, float *y, size_t n) {
    bb_quantizer_args a = {args->bits, args->step, 0.0f};
    affine_forward(&a, x, y, n);
}

static double unsigned_backward(const bb_quantizer_args *args, const float *x, const float *dy,
                                float *dx, size_t n) {
    bb_quantizer_args a = {args->bits, args->step, 0.0f};
    return affine_backward(&a, x, dy, dx, n);
}

static float unsigned_initial_step(const bb_quantizer_args *args, const float *x, size_t n) {
    return search_step(unsigned_forward, args, x, n, 1.1f / last_code(args));
}

static float affine_initial_step(const bb_quantizer_args *args, const float *x, size_t n) {
    return search_step(affine_forward, args, x, n, 2.1f / last_code(args));
}

/* ---- eq. 15 ---------------------------------------------------------------------------------- */

/* (2u - L)/L with u = floor(L*(x+1)/2 + 1/2); written without the sum x + 1, whose rounding could
 * move a tie: u = floor(L*x/2) + 2^(bits-1), as L is odd. */
static float paper_value(float x, float top) {
    float u = floorf(x * top * 0.5f) + 0.5f * (top + 1.0f);
    return (2.0f * clamp(u, 0.0f, top) - top) / top;
}

static void hard_tanh_forward(const bb_quantizer_args *args, const float *x, float *y, size_t n) {
    float top = last_code(args);
    for (size_t i = 0; i < n; i++)
        y[i] = paper_value(clamp(x[i], -1.0f, 1.0f), top);
}

static void hard_relu_forward(const bb_quantizer_args *args, const float *x, float *y, size_t n) {
    float top = last_code(args);
    for (size_t i = 0; i < n; i++)
        y[i] = paper_value(clamp(x[i], 0.0f, 1.0f), top);
}

static void hard_relu_affine_forward(const bb_quantizer_args *args, const float *x, float *y,
                                     size_t n) {
    float top = last_code(args);
    for (size_t i = 0; i < n; i++)
        y[i] = floorf(top * clamp(x[i], 0.0f, 1.0f) + 0.5f) / top;
}

/* Straight through in the closed range. */
static double pass_inside(float lo, const float *x, const float *dy, float *dx, size_t n) {
    for (size_t i = 0; i < n; i++)
        dx[i] = x[i] >= lo && x[i] <= 1.0f ? dy[i] : 0.0f;
    return 0.0;
}

static double hard_tanh_backward(const bb_quantizer_args *args, const float *x, const float *dy,
                                 float *dx, size_t n) {
    return pass_inside(-1.0f, x, dy, dx, n);
}

static double hard_relu_backward(const bb_quantizer_args *args, const float *x, const float *dy,
                                 float *dx, size_t n) {
    return pass_inside(0.0f, x, dy, dx, n);
}

/* ---- the table ------------------------------------------------------------------------------- */

#define LEARNED_STEP .has_step = true, .elementwise = true, .step_gradient = learned_step_gradient

static const bb_quantizer kinds[] = {
    {.name = "odd",
     LEARNED_STEP,
     .forward = odd_forward,
     .backward = odd_backward,
     .initial_step = odd_initial_step},
    {.name = "odd_input",
     LEARNED_STEP,
     .forward = odd_forward,
     .backward = odd_input_backward,
     .initial_step = odd_initial_step},
    {.name = "unsigned",
     LEARNED_STEP,
     .forward = unsigned_forward,
     .backward = unsigned_backward,
     .initial_step = unsigned_initial_step},
    {.name = "affine",
     LEARNED_STEP,
     .has_zero = true,
     .forward = affine_forward,
     .backward = affine_backward,
     .initial_step = affine_initial_step},
    {.name = "hard_tanh",
     .elementwise = true,
     .forward = hard_tanh_forward,
     .backward = hard_tanh_backward},
    {.name = "hard_relu",
     .elementwise = true,
     .forward = hard_relu_forward,
     .backward = hard_relu_backward},
    {.name = "hard_relu_affine",
     .elementwise = true,
     .forward = hard_relu_affine_forward,
     .backward = hard_relu_backward},
};

const bb_quantizer *bb_quantizer_at(size_t i) {
    return i < BB_COUNT(kinds)                       ? &kinds[i]
           : i - BB_COUNT(kinds) < bb_n_binary_kinds ? &bb_binary_kinds[i - BB_COUNT(kinds)]
                                                     : NULL;
}

const bb_quantizer *bb_quantizer_find(const char *name) {
    const bb_quantizer *kind;
    for (size_t i = 0; (kind = bb_quantizer_at(i)) != NULL; i++)
        if (strcmp(kind->name, name) == 0)
            return kind;
    return NULL;
}
