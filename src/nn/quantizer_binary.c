/* SPDX-License-Identifier: Apache-2.0 */
/* DoReFa-Net (Zhou et al. 2016), binary weight networks and XNOR-Net (Rastegari et al. 2016),
 * ternary weight networks (Li et al. 2016), ABC-Net (Lin et al. 2017), and the paper's encoder
 * functions with their own derivatives. */
#include "nn/quantizer_binary.h"
#include "encode/encode.h"
#include <float.h>
#include <math.h>
#include <string.h>

/* TWN: weights below so much of E|w| become 0. */
static const double TERNARY_THRESHOLD = 0.7;

static double mean_magnitude(const float *x, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += fabs((double)x[i]);
    return n ? sum / (double)n : 0.0;
}

static double straight_through(const bb_quantizer_args *args, const float *x, const float *dy,
                               float *dx, size_t n) {
    if (dx != dy)
        memcpy(dx, dy, n * sizeof(*dx));
    return 0.0;
}

/* ---- DoReFa: eq. 15 on tanh(x) / max|tanh(x)| ------------------------------------------------ */

static float largest_tanh(const float *x, size_t n) {
    float most = FLT_MIN;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(x[i]));
    return tanhf(most);
}

static void dorefa_forward(const bb_quantizer_args *args, const float *x, float *y, size_t n) {
    double most = (double)largest_tanh(x, n);
    for (size_t i = 0; i < n; i++)
        y[i] = (float)bb_quantize_real(tanh((double)x[i]) / most, (uint32_t)args->bits);
}

/* The maximum is taken as a constant. */
static double dorefa_backward(const bb_quantizer_args *args, const float *x, const float *dy,
                              float *dx, size_t n) {
    float most = largest_tanh(x, n);
    for (size_t i = 0; i < n; i++) {
        float t = tanhf(x[i]);
        dx[i] = dy[i] * (1.0f - t * t) / most;
    }
    return 0.0;
}

/* ---- binary weights: E|x| * sign(x) ---------------------------------------------------------- */

static void binary_forward(const bb_quantizer_args *args, const float *x, float *y, size_t n) {
    float alpha = (float)mean_magnitude(x, n);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] >= 0.0f ? alpha : -alpha;
}

/* d(alpha*sign(x))/dx = 1/n + alpha*1[|x| <= 1] for each element by itself. */
static double xnor_backward(const bb_quantizer_args *args, const float *x, const float *dy,
                            float *dx, size_t n) {
    float alpha = (float)mean_magnitude(x, n), share = 1.0f / (float)n;
    for (size_t i = 0; i < n; i++)
        dx[i] = dy[i] * (share + (fabsf(x[i]) <= 1.0f ? alpha : 0.0f));
    return 0.0;
}

/* ---- ternary weights ------------------------------------------------------------------------- */

static void ternary_forward(const bb_quantizer_args *args, const float *x, float *y, size_t n) {
    float threshold = (float)(TERNARY_THRESHOLD * mean_magnitude(x, n));
    double sum = 0.0;
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (fabsf(x[i]) <= threshold)
            continue;
        sum += fabs((double)x[i]);
        kept++;
    }
    float alpha = kept ? (float)(sum / (double)kept) : 0.0f;
    for (size_t i = 0; i < n; i++)
        y[i] = fabsf(x[i]) <= threshold ? 0.0f : x[i] > 0.0f ? alpha : -alpha;
}

/* ---- ABC-Net --------------------------------------------------------------------------------- */

typedef struct abc {
    uint32_t bits;
    float threshold[BB_MAX_BITS]; /* base i is the sign of x - threshold[i] */
    double coefficient[BB_MAX_BITS];
} abc;

static void choose_bases(abc *a, const float *x, size_t n) {
    double sum = 0.0, squares = 0.0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i];
    double mean = n ? sum / (double)n : 0.0;
    for (size_t i = 0; i < n; i++)
        squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    double deviation = n ? sqrt(squares / (double)n) : 0.0;
    for (uint32_t k = 0; k < a->bits; k++) {
        double u = a->bits > 1 ? -1.0 + 2.0 * k / (a->bits - 1) : 0.0;
        a->threshold[k] = (float)(mean - u * deviation);
    }
}

static int base(const abc *a, uint32_t k, float x) {
    return x >= a->threshold[k] ? 1 : -1;
}

/* Normal equations of the bases, with a ridge far below any real share; Gauss elimination. */
static void fit_coefficients(abc *a, const float *x, size_t n) {
    double m[BB_MAX_BITS][BB_MAX_BITS + 1] = {{0}};
    uint32_t bits = a->bits;
    for (size_t i = 0; i < n; i++) {
        int b[BB_MAX_BITS];
        for (uint32_t k = 0; k < bits; k++)
            b[k] = base(a, k, x[i]);
        for (uint32_t k = 0; k < bits; k++) {
            for (uint32_t j = 0; j < bits; j++)
                m[k][j] += b[k] * b[j];
            m[k][bits] += b[k] * (double)x[i];
        }
    }
    for (uint32_t k = 0; k < bits; k++)
        m[k][k] += 1e-6 * (double)n + 1e-30;
    for (uint32_t k = 0; k < bits; k++)
        for (uint32_t r = 0; r < bits; r++)
            for (uint32_t j = bits + 1; r != k && j-- > k;)
                m[r][j] -= m[k][j] * (m[r][k] / m[k][k]);
    for (uint32_t k = 0; k < bits; k++)
        a->coefficient[k] = m[k][bits] / m[k][k];
}

/* Shares of at least 1, in all at most BB_ABC_SHARES. */
static float round_coefficients(abc *a, int16_t *share) {
    double total = 0.0;
    for (uint32_t k = 0; k < a->bits; k++)
        total += fabs(a->coefficient[k]);
    float unit = (float)(total / (BB_ABC_SHARES - (double)a->bits));
    for (uint32_t k = 0; k < a->bits; k++) {
        double s = total > 0.0 ? fmax(floor(fabs(a->coefficient[k]) / (double)unit), 1.0) : 1.0;
        a->coefficient[k] = a->coefficient[k] < 0.0 ? -s * (double)unit : s * (double)unit;
        if (share)
            share[a->bits - 1 - k] = (int16_t)s;
    }
    return unit;
}

float bb_abc_unit(const float *x, size_t n, uint32_t bits, int16_t *share) {
    abc a = {.bits = bits};
    choose_bases(&a, x, n);
    fit_coefficients(&a, x, n);
    return round_coefficients(&a, share);
}

static void abc_forward(const bb_quantizer_args *args, const float *x, float *y, size_t n) {
    abc a = {.bits = (uint32_t)args->bits};
    choose_bases(&a, x, n);
    fit_coefficients(&a, x, n);
    round_coefficients(&a, NULL);
    for (size_t i = 0; i < n; i++) {
        double sum = 0.0;
        for (uint32_t k = 0; k < a.bits; k++)
            sum += base(&a, k, x[i]) * a.coefficient[k];
        y[i] = (float)sum;
    }
}

/* ---- the paper's encoder functions ----------------------------------------------------------- */

static void encoder_forward(const bb_quantizer_args *args, const float *x, float *y, size_t n) {
    for (size_t i = 0; i < n; i++)
        y[i] = (float)bb_quantize_real((double)x[i], (uint32_t)args->bits);
}

/* Plane m counts 2^(m-1)/L; its derivative is that of its wave (eqs. 12, 13). */
static double encoder_backward(const bb_quantizer_args *args, const float *x, const float *dy,
                               float *dx, size_t n) {
    uint32_t bits = (uint32_t)args->bits;
    double last = (double)bb_last_code(bits);
    for (size_t i = 0; i < n; i++) {
        double slope = 0.0;
        for (uint32_t m = 1; m <= bits; m++)
            slope += (double)(1u << (m - 1)) / last * bb_encoder_slope((double)x[i], bits, m);
        dx[i] = (float)((double)dy[i] * slope);
    }
    return 0.0;
}

/* ---- kinds ----------------------------------------------------------------------------------- */

const bb_quantizer bb_binary_kinds[] = {
    {.name = "dorefa", .forward = dorefa_forward, .backward = dorefa_backward},
    {.name = "bwn", .forward = binary_forward, .backward = straight_through},
    {.name = "xnor", .forward = binary_forward, .backward = xnor_backward},
    {.name = "twn", .forward = ternary_forward, .backward = straight_through},
    {.name = "abc", .forward = abc_forward, .backward = straight_through},
    {.name = "encoder",
     .elementwise = true,
     .forward = encoder_forward,
     .backward = encoder_backward},
};
const size_t bb_n_binary_kinds = BB_COUNT(bb_binary_kinds);
