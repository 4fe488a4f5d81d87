/* SPDX-License-Identifier: Apache-2.0 */
/* The paper's identities, in the order of docs/algorithm.md. Small widths are tested exhaustively.
 */
#include "unit.h"

#include "base/base.h"
#include "bitbranch/encode.h"
#include "encode/encode.h"
#include <math.h>
#include <string.h>

enum { BITS = BB_MAX_BITS, LENGTH = 400 };

static bool close_to(double a, double b, double tolerance) {
    return fabs(a - b) <= tolerance;
}

/* ---- quantizer ------------------------------------------------------------------------------- */

static void test_range_functions(void **state) {
    static const double x[] = {-3, -1, -0.5, 0, 0.5, 1, 3};
    static const double htanh[] = {-1, -1, -0.5, 0, 0.5, 1, 1}, hrelu[] = {0, 0, 0, 0, 0.5, 1, 1};
    static const double hrelu_slope[] = {0, 0, 0, 1, 1, 1, 0},
                        htanh_slope[] = {0, 1, 1, 1, 1, 1, 0};
    for (size_t i = 0; i < BB_COUNT(x); i++) {
        assert_true(bb_range_apply(BB_RANGE_HTANH, x[i]) == htanh[i]);
        assert_true(bb_range_apply(BB_RANGE_HRELU, x[i]) == hrelu[i]);
        assert_true(bb_range_slope(BB_RANGE_HTANH, x[i]) == htanh_slope[i]);
        assert_true(bb_range_slope(BB_RANGE_HRELU, x[i]) == hrelu_slope[i]);
        assert_true(close_to(bb_range_apply(BB_RANGE_TANH, x[i]), tanh(x[i]), 1e-15));
        assert_true(close_to(bb_range_apply(BB_RANGE_SIGMOID, x[i]), 1 / (1 + exp(-x[i])), 1e-15));
        for (int r = BB_RANGE_TANH; r <= BB_RANGE_SIGMOID; r++) {
            double h = 1e-5, slope = (bb_range_apply((bb_range)r, x[i] + h) -
                                      bb_range_apply((bb_range)r, x[i] - h)) /
                                     (2 * h);
            assert_true(close_to(bb_range_slope((bb_range)r, x[i]), slope, 1e-9));
        }
    }
    assert_true(bb_range_apply(BB_RANGE_HTANH, NAN) == -1);
    assert_true(bb_range_apply(BB_RANGE_HRELU, NAN) == 0);
    assert_int_equal(bb_code_from_value(NAN, 8), 0);
    assert_int_equal(bb_code_from_value(INFINITY, 8), 255);
}

/* Eq. 15 as printed: 2(<L(x+1)/2>/L - 1/2). */
static void test_quantizer_is_equation_15(void **state) {
    for (uint32_t b = 1; b <= BITS; b++) {
        double last = bb_last_code(b);
        for (int i = -12000; i <= 12000; i++) {
            double x = i / 10000.0 + 1e-7, c = fmax(-1, fmin(1, x));
            double q = 2 * (floor(last * (c + 1) / 2 + 0.5) / last - 0.5);
            assert_true(close_to(bb_quantize_real(x, b), q, 1e-12));
            assert_true(fabs(q - c) <= 1 / last + 1e-12);
        }
    }
    static const double two[] = {-1, -1.0 / 3, 1.0 / 3, 1};
    static const double three[] = {-1, -5.0 / 7, -3.0 / 7, -1.0 / 7, 1.0 / 7, 3.0 / 7, 5.0 / 7, 1};
    for (int i = 0; i < 4; i++)
        assert_true(bb_quantize_real(two[i] + 0.01, 2) == two[i]);
    for (int i = 0; i < 8; i++)
        assert_true(bb_quantize_real(three[i] - 0.01, 3) == three[i]);
    assert_true(bb_quantize_real(-1e-300, 1) == -1 && bb_quantize_real(0.0, 1) == 1);
    assert_true(bb_quantize_real(-0.0, 1) == 1); /* sign(0) = +1 */
}

/* Thresholds are the even t = L*x; a tie goes up, the number just below goes down. */
static void test_ties_go_up(void **state) {
    for (uint32_t b = 1; b <= BITS; b++) {
        int32_t last = bb_last_code(b), half = 1 << (b - 1);
        for (int32_t j = -(half - 1); j <= half - 1; j++) {
            uint32_t upper = (uint32_t)(j + half);
            assert_int_equal(bb_code_from_scaled(2 * j, b), upper);
            assert_int_equal(bb_code_from_scaled(fmin(nextafter(2 * j, -1000), 2 * j - 1e-300), b),
                             upper - 1);
            double x = 2.0 * j / last; /* the nearest double to the threshold itself */
            assert_int_equal(bb_code_from_value(x, b), upper);
            assert_int_equal(bb_code_from_value(x - 1e-12, b), upper - 1);
        }
        assert_int_equal(bb_code_from_value(0, b), half);
        uint32_t to_even = (uint32_t)rint(last / 2.0);
        assert_int_equal(to_even, b == 1 ? 0 : half); /* why the rule is stated, not left to rint */
    }
}

static void test_codes_and_levels_correspond(void **state) {
    for (uint32_t b = 1; b <= BITS; b++)
        for (uint32_t u = 0; u <= (uint32_t)bb_last_code(b); u++) {
            int32_t a = bb_level_from_code(u, b), sum = 0;
            assert_true(a % 2 != 0 && a >= -bb_last_code(b) && a <= bb_last_code(b));
            assert_int_equal(bb_code_from_level(a, b), u);
            assert_int_equal(bb_code_from_scaled(a, b), u); /* levels are fixed points */
            for (uint32_t m = 1; m <= b; m++)
                sum += bb_encoder_plane(u, m) * (1 << (m - 1)); /* eq. 10 */
            assert_int_equal(sum, a);
        }
}

static void test_table_2(void **state) {
    static const int8_t planes[4][2] = {{-1, -1}, {-1, 1}, {1, -1}, {1, 1}};
    static const double values[4] = {-1, -1.0 / 3, 1.0 / 3, 1};
    for (uint32_t u = 0; u < 4; u++) {
        bb_encoding e;
        assert_int_equal(bb_encode_code(u, 2, &e, NULL), BB_STATUS_OK);
        assert_true(e.value == values[u]);
        assert_memory_equal(e.planes, planes[u], 2);
        assert_int_equal(e.level, 2 * e.planes[0] + e.planes[1]);
        assert_int_equal(bb_encode_number(values[u], 2, &e, NULL), BB_STATUS_OK);
        assert_int_equal(e.code, u);
    }
    bb_encoding e;
    assert_int_equal(bb_encode_code(4, 2, &e, NULL), BB_STATUS_INVALID_ARGUMENT);
    assert_int_equal(bb_encode_number(0, 9, &e, NULL), BB_STATUS_INVALID_ARGUMENT);
    assert_int_equal(bb_encode_number(0, 0, &e, NULL), BB_STATUS_INVALID_ARGUMENT);
}

/* ---- encoder functions ----------------------------------------------------------------------- */

/* Coefficients of pi*x, most significant plane first; the first wave is +sin, the others -sin. */
static void test_encoder_waves(void **state) {
    static const double table[4][4] = {
        {1.0 / 2},
        {3.0 / 4, 3.0 / 2},
        {7.0 / 8, 7.0 / 4, 7.0 / 2},
        {15.0 / 16, 15.0 / 8, 15.0 / 4, 15.0 / 2},
    };
    const double pi = acos(-1);
    for (uint32_t b = 1; b <= 4; b++)
        for (uint32_t p = 0; p < b; p++)
            for (double x = -1; x <= 1; x += 0.01) {
                double wave = sin(table[b - 1][p] * pi * x) * (p == 0 ? 1 : -1);
                assert_true(close_to(bb_encoder_wave(x, b, b - p), wave, 1e-12));
            }
    /* Eq. 11 is the case of two bits; 8 bits from 255/256 to 255/2. */
    assert_true(close_to(bb_encoder_wave(0.1, 8, 8), sin(255.0 / 256 * pi * 0.1), 1e-12));
    assert_true(close_to(bb_encoder_wave(0.1, 8, 1), -sin(255.0 / 2 * pi * 0.1), 1e-12));
}

static void test_encoder_forms_agree(void **state) {
    bb_rng rng;
    bb_rng_seed(&rng, 5);
    for (uint32_t b = 1; b <= BITS; b++) {
        for (int i = 0; i < 20000; i++) {
            double x = 2.4 * bb_rng_uniform(&rng) - 1.2;
            uint32_t u = bb_code_from_value(x, b);
            for (uint32_t m = 1; m <= b; m++)
                assert_int_equal(bb_encoder_sign(x, b, m), bb_encoder_plane(u, m));
        }
        for (uint32_t u = 0; u <= (uint32_t)bb_last_code(b); u++)
            for (uint32_t m = 1; m <= b; m++) {
                double centre = (double)bb_level_from_code(u, b) / bb_last_code(b);
                assert_int_equal(bb_encoder_sign(centre, b, m), bb_encoder_plane(u, m));
            }
    }
}

/* At a threshold a wave is zero, and sign(0) = +1 alone would decode x = 0 to +1. */
static void test_encoder_trap(void **state) {
    for (uint32_t b = 1; b <= BITS; b++) {
        int32_t naive = 0, level = 0, half = 1 << (b - 1);
        for (uint32_t m = 1; m <= b; m++) {
            assert_true(bb_encoder_wave(0, b, m) == 0);
            naive += (bb_encoder_wave(0, b, m) >= 0 ? 1 : -1) * (1 << (m - 1));
            level += bb_encoder_sign(0, b, m) * (1 << (m - 1));
        }
        assert_int_equal(naive, bb_last_code(b));
        assert_int_equal(level, 1);
        assert_int_equal(naive - level, (1 << b) - 2);
        for (int32_t j = -(half - 1); j <= half - 1; j++) {
            double x = 2.0 * j / bb_last_code(b);
            uint32_t u = bb_code_from_value(x, b);
            for (uint32_t m = 1; m <= b; m++) {
                assert_int_equal(bb_encoder_sign(x, b, m), bb_encoder_plane(u, m));
                if ((2 * j) % (1 << m) == 0) { /* the rule of the right limit in words */
                    int32_t odd = 2 * j / (1 << m) % 2 != 0;
                    assert_int_equal(bb_encoder_sign(x, b, m), m == b || odd ? 1 : -1);
                }
            }
        }
    }
}

static void test_encoder_derivatives(void **state) {
    const double pi = acos(-1);
    for (double x = -0.99; x < 1; x += 0.03) { /* eqs. 12 and 13 */
        assert_true(close_to(bb_encoder_slope(x, 2, 2), 0.75 * pi * cos(0.75 * pi * x), 1e-12));
        assert_true(close_to(bb_encoder_slope(x, 2, 1), -1.5 * pi * cos(1.5 * pi * x), 1e-12));
    }
    for (uint32_t b = 1; b <= BITS; b++)
        for (uint32_t m = 1; m <= b; m++) {
            for (double x = -0.999; x < 1; x += 0.01) {
                double h = 1e-6,
                       slope =
                           (bb_encoder_wave(x + h, b, m) - bb_encoder_wave(x - h, b, m)) / (2 * h);
                assert_true(close_to(bb_encoder_slope(x, b, m), slope, 1e-3));
            }
            assert_true(bb_encoder_slope(1.01, b, m) == 0 && bb_encoder_slope(-1.01, b, m) == 0);
            assert_true(bb_encoder_slope(1, b, m) != 0 && bb_encoder_slope(NAN, b, m) == 0);
        }
}

static void test_mean_slope_of_the_decoded_waves(void **state) {
    static const double mean[] = {1, .805, .564, .367, .228, .137, .080, .046};
    const double pi = acos(-1);
    for (uint32_t b = 1; b <= BITS; b++) {
        double rise = 0, formula = 0;
        for (uint32_t m = 1; m <= b; m++) {
            double weight = ldexp(1, (int)m - 1) / bb_last_code(b);
            rise += weight * (bb_encoder_wave(1, b, m) - bb_encoder_wave(-1, b, m)) / 2;
            formula += weight * sin(pi / ldexp(1, (int)m));
        }
        assert_true(close_to(rise, formula, 1e-12));
        assert_true(close_to(formula, mean[b - 1], 6e-4));
    }
}

/* ---- products -------------------------------------------------------------------------------- */

typedef struct vectors {
    uint8_t a[5000], b[5000];
    uint64_t pa[BITS * 79], pb[BITS * 79];
    bb_plane_pair pair;
} vectors;

static void encode_vectors(vectors *v, uint32_t a_bits, uint32_t b_bits, size_t n) {
    memset(v->pa, 0, sizeof(v->pa));
    memset(v->pb, 0, sizeof(v->pb));
    bb_planes_split(v->a, n, a_bits, v->pa, bb_bit_words(n));
    bb_planes_split(v->b, n, b_bits, v->pb, bb_bit_words(n));
    v->pair = (bb_plane_pair){v->pa, v->pb, a_bits, b_bits, n};
}

static void random_vectors(vectors *v, bb_rng *rng, uint32_t a_bits, uint32_t b_bits, size_t n) {
    for (size_t i = 0; i < n; i++) {
        v->a[i] = (uint8_t)bb_rng_below(rng, UINT64_C(1) << a_bits);
        v->b[i] = (uint8_t)bb_rng_below(rng, UINT64_C(1) << b_bits);
    }
    encode_vectors(v, a_bits, b_bits, n);
}

static int64_t plain_dot(const vectors *v) {
    int64_t sum = 0;
    for (size_t i = 0; i < v->pair.n; i++)
        sum += bb_level_from_code(v->a[i], v->pair.a_bits) *
               bb_level_from_code(v->b[i], v->pair.b_bits);
    return sum;
}

/* Eqs. 9.2 and 9.3 for all 64 pairs of widths, with and without a tail. */
static void test_branch_products_are_exact(void **state) {
    static const size_t lengths[] = {1, 2, 63, 64, 65, 127, 128, 200, 1000, 5000};
    static vectors v;
    bb_rng rng;
    bb_rng_seed(&rng, 6);
    for (uint32_t m = 1; m <= BITS; m++)
        for (uint32_t k = 1; k <= BITS; k++)
            for (size_t i = 0; i < BB_COUNT(lengths); i++) {
                random_vectors(&v, &rng, m, k, lengths[i]);
                int64_t p = plain_dot(&v);
                assert_int_equal(bb_dot_levels(&v.pair), p);
                assert_int_equal(bb_dot_levels_and(&v.pair), p);
                assert_int_equal((p - (int64_t)lengths[i]) % 2, 0); /* P has the parity of n */
                size_t words = bb_bit_words(v.pair.n);
                for (uint32_t x = 0; x < m; x++)
                    assert_int_equal(bb_dot_plane_xnor(v.pa + x * words, v.pb, v.pair.n),
                                     bb_dot_plane(v.pa + x * words, v.pb, v.pair.n));
            }
}

static void test_small_products_exhaustively(void **state) {
    static vectors v;
    for (uint32_t m = 1; m <= 3; m++)
        for (uint32_t k = 1; k <= 3; k++)
            for (uint32_t i = 0; i < 1u << (2 * (m + k)); i++) {
                uint32_t x = i & ((1u << (2 * m)) - 1), w = i >> (2 * m);
                v.a[0] = (uint8_t)(x & ((1u << m) - 1));
                v.a[1] = (uint8_t)(x >> m);
                v.b[0] = (uint8_t)(w & ((1u << k) - 1));
                v.b[1] = (uint8_t)(w >> k);
                encode_vectors(&v, m, k, 2);
                assert_int_equal(bb_dot_levels(&v.pair), plain_dot(&v));
                assert_int_equal(bb_dot_levels_and(&v.pair), plain_dot(&v));
            }
}

static void test_products_reach_their_bound(void **state) {
    static vectors v;
    memset(v.a, 255, sizeof(v.a));
    memset(v.b, 0, sizeof(v.b));
    encode_vectors(&v, 8, 8, 4608);
    assert_int_equal(bb_dot_levels(&v.pair), -INT64_C(4608) * 255 * 255);
    assert_true(INT64_C(33025) * 255 * 255 <= INT32_MAX); /* 9.2: int32 up to n = 33025 */
    assert_true(INT64_C(33026) * 255 * 255 > INT32_MAX);
}

static void test_planes_join_what_they_split(void **state) {
    static vectors v;
    uint8_t back[LENGTH];
    bb_rng rng;
    bb_rng_seed(&rng, 7);
    for (uint32_t b = 1; b <= BITS; b++) {
        random_vectors(&v, &rng, b, b, LENGTH);
        bb_planes_join(v.pa, bb_bit_words(LENGTH), LENGTH, b, back);
        assert_memory_equal(back, v.a, LENGTH);
        /* One bit an element: 32/K times less than float32, but for the last word. */
        assert_int_equal(b * bb_bit_words(LENGTH) * 8, b * 56);
    }
    assert_int_equal(bb_bit_words(6400) * 64 * 32 / 6400, 32);
}

/* Fig. 1: a 2-bit fully connected layer as four branches weighted 1, 2, 2, 4 and scaled by 1/9. */
static void test_figure_1(void **state) {
    static vectors v;
    bb_rng rng;
    bb_rng_seed(&rng, 8);
    static const uint32_t weights[2][2] = {{1, 2}, {2, 4}};
    random_vectors(&v, &rng, 2, 2, 100);
    size_t words = bb_bit_words(100);
    int64_t sum = 0;
    double scaled = 0, real = 0;
    for (uint32_t m = 1; m <= 2; m++)
        for (uint32_t k = 1; k <= 2; k++) {
            bb_branch branch;
            assert_int_equal(bb_encode_branch(2, m, 2, k, &branch, NULL), BB_STATUS_OK);
            assert_int_equal(branch.weight, weights[m - 1][k - 1]);
            int64_t y = bb_dot_plane(v.pa + (2 - m) * words, v.pb + (2 - k) * words, 100);
            sum += branch.weight * y;
            scaled += branch.scale * (double)y;
        }
    for (size_t i = 0; i < 100; i++)
        real += (2.0 * v.a[i] / 3 - 1) * (2.0 * v.b[i] / 3 - 1);
    assert_int_equal(sum, plain_dot(&v));
    assert_true(bb_product_scale(2, 2) == 1.0 / 9);
    assert_true(close_to(scaled, real, 1e-12) && close_to((double)sum / 9, real, 1e-12));
    bb_branch branch;
    assert_int_equal(bb_encode_branch(2, 3, 2, 1, &branch, NULL), BB_STATUS_INVALID_ARGUMENT);
    assert_int_equal(bb_encode_branch(2, 1, 2, 0, &branch, NULL), BB_STATUS_INVALID_ARGUMENT);
}

/* The published CUDA kernels: coefficients of all M*K popcounts sum to (2^M-1)(2^K-1). */
static void test_branch_weights_sum_to_the_scale(void **state) {
    for (uint32_t m = 1; m <= BITS; m++)
        for (uint32_t k = 1; k <= BITS; k++) {
            uint32_t sum = 0;
            double scale = 0;
            for (uint32_t i = 1; i <= m; i++)
                for (uint32_t j = 1; j <= k; j++) {
                    bb_branch branch;
                    assert_int_equal(bb_encode_branch(m, i, k, j, &branch, NULL), BB_STATUS_OK);
                    sum += branch.weight;
                    scale += branch.scale;
                }
            assert_int_equal(sum, bb_last_code(m) * bb_last_code(k));
            assert_true(close_to(scale, 1, 1e-12));
        }
}

/* Eqs. 1-9 and 16-17: the {0,1} scheme gives the same through four terms instead of one. */
static void test_zero_one_scheme(void **state) {
    static vectors v;
    bb_rng rng;
    bb_rng_seed(&rng, 9);
    for (uint32_t m = 1; m <= BITS; m++)
        for (uint32_t k = 1; k <= BITS; k++) {
            random_vectors(&v, &rng, m, k, 77);
            double la = bb_last_code(m), lb = bb_last_code(k), four = 0, one = 0;
            int64_t codes = 0, bits = 0;
            for (size_t i = 0; i < 77; i++) {
                double x = v.a[i], w = v.b[i];
                four += 4 / (la * lb) * x * w - 2 / la * x - 2 / lb * w + 1;
                one += (2 * x - la) * (2 * w - lb) / (la * lb);
                codes += v.a[i] * v.b[i];
            }
            for (uint32_t i = 0; i < m;
                 i++) /* eq. 9: x.w = sum 2^(i+j) c_i.d_j over {0,1} planes */
                for (uint32_t j = 0; j < k; j++)
                    for (size_t e = 0; e < 77; e++)
                        bits += (int64_t)(v.a[e] >> i & v.b[e] >> j & 1) << (i + j);
            assert_int_equal(bits, codes);
            assert_true(close_to(four, one, 1e-10));
            assert_true(
                close_to((double)bb_dot_levels(&v.pair) * bb_product_scale(m, k), one, 1e-10));
        }
}

/* Eq. 19's learned weights include the fixed powers of two, and ternary weights as {1,1}. */
static void test_general_plane_weights(void **state) {
    static vectors v;
    bb_rng rng;
    bb_rng_seed(&rng, 10);
    const double powers[] = {8, 4, 2, 1}, ones[] = {1, 1};
    random_vectors(&v, &rng, 4, 4, 150);
    assert_true(bb_dot_weighted(&v.pair, powers, powers) == (double)bb_dot_levels(&v.pair));
    const double learned[] = {1.7, 0.9, 0.2, 0.05};
    double plain = 0;
    for (size_t i = 0; i < 150; i++) {
        double w = 0;
        for (uint32_t p = 0; p < 4; p++)
            w += learned[p] * bb_encoder_plane(v.b[i], 4 - p);
        plain += bb_level_from_code(v.a[i], 4) * w;
    }
    assert_true(close_to(bb_dot_weighted(&v.pair, powers, learned), plain, 1e-9));
    static const uint8_t ternary[] = {0, 1, 3}; /* -2, 0, 2 */
    double sum = 0;
    for (size_t i = 0; i < 150; i++) {
        v.b[i] = ternary[bb_rng_below(&rng, 3)];
        sum += bb_level_from_code(v.a[i], 4) * (v.b[i] == 0 ? -2 : v.b[i] == 1 ? 0 : 2);
    }
    encode_vectors(&v, 4, 2, 150);
    assert_true(bb_dot_weighted(&v.pair, powers, ones) == sum);
}

/* ---- activations that are not negative, padding (9.4, 9.5) ----------------------------------- */

static void test_literal_hrelu_needs_one_plane_less(void **state) {
    static vectors v;
    bb_rng rng;
    bb_rng_seed(&rng, 11);
    for (uint32_t m = 2; m <= BITS; m++)
        for (uint32_t k = 1; k <= BITS; k++) {
            int64_t sum_b = 0;
            for (size_t i = 0; i < LENGTH; i++) {
                double x = bb_range_apply(BB_RANGE_HRELU, 2 * bb_rng_uniform(&rng) - 0.7);
                v.a[i] = (uint8_t)bb_code_from_value(x, m);
                v.b[i] = (uint8_t)bb_rng_below(&rng, UINT64_C(1) << k);
                assert_int_equal(bb_encoder_plane(v.a[i], m), 1); /* the top plane is constant */
                sum_b += bb_level_from_code(v.b[i], k);
            }
            encode_vectors(&v, m, k, LENGTH);
            bb_plane_pair low = v.pair;
            low.a += bb_bit_words(LENGTH);
            low.a_bits--;
            assert_int_equal(bb_dot_levels(&low) + sum_b * (1 << (m - 1)), plain_dot(&v));
        }
    assert_int_equal(bb_code_from_value(bb_range_apply(BB_RANGE_HRELU, -5), 1), 1);
    assert_int_equal(bb_code_from_value(bb_range_apply(BB_RANGE_HRELU, 5), 1), 1); /* degenerate */
}

static void test_affine_activations_use_all_codes(void **state) {
    static vectors v;
    bb_rng rng;
    bb_rng_seed(&rng, 12);
    for (uint32_t m = 1; m <= BITS; m++) {
        uint32_t k = 1 + m % BITS, last = (uint32_t)bb_last_code(m);
        int64_t sum_b = 0;
        double real = 0;
        for (size_t i = 0; i < LENGTH; i++) {
            double x = 1.2 * bb_rng_uniform(&rng) - 0.1;
            uint32_t u = bb_code_from_unsigned(x, m);
            assert_true(fabs((double)u / last - fmax(0, fmin(1, x))) <= 0.5 / last + 1e-12);
            v.a[i] = (uint8_t)u;
            v.b[i] = (uint8_t)bb_rng_below(&rng, UINT64_C(1) << k);
            int32_t b = bb_level_from_code(v.b[i], k);
            sum_b += b;
            real += (double)u / last * b / bb_last_code(k);
        }
        encode_vectors(&v, m, k, LENGTH);
        double y = (double)(bb_dot_levels(&v.pair) + last * sum_b) / (2.0 * last * bb_last_code(k));
        assert_true(close_to(y, real, 1e-9));
    }
    assert_int_equal(bb_code_from_unsigned(0, 4), 0);
    assert_int_equal(bb_code_from_unsigned(0.5, 1), 1); /* ties go up here too */
}

/* A row of 12 levels, 5 taps, padding 2: what each of the four exact ways gives at one position. */
static void test_zero_padding_is_exact_in_four_ways(void **state) {
    enum { N = 12, TAPS = 5, PAD = 2, M = 3, K = 2 };
    static vectors v;
    bb_rng rng;
    bb_rng_seed(&rng, 13);
    uint8_t x[N], w[TAPS];
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < N; i++)
            x[i] = (uint8_t)bb_rng_below(&rng, 1 << M);
        for (int i = 0; i < TAPS; i++)
            w[i] = (uint8_t)bb_rng_below(&rng, 1 << K);
        for (int at = 0; at < N; at++) {
            int64_t wanted = 0, padded_b = 0, wanted_unsigned = 0, sum_b = 0;
            uint64_t mask = 0;
            for (int t = 0; t < TAPS; t++) {
                int i = at + t - PAD;
                int32_t b = bb_level_from_code(w[t], K);
                bool valid = i >= 0 && i < N;
                wanted += valid ? bb_level_from_code(x[i], M) * b : 0;
                wanted_unsigned += valid ? 2 * x[i] * b : 0;
                padded_b += valid ? 0 : b;
                sum_b += b;
                mask |= (uint64_t)valid << t;
                v.a[t] = valid ? x[i] : 0; /* padding stores bits 0: a = -L */
                v.b[t] = w[t];
            }
            encode_vectors(&v, M, K, TAPS);
            int64_t low = bb_dot_levels(&v.pair);
            assert_int_equal(low + bb_last_code(M) * padded_b, wanted);       /* (i) */
            assert_int_equal(low + bb_last_code(M) * sum_b, wanted_unsigned); /* (iv) */
            int64_t masked = 0;
            for (uint32_t m = 0; m < M; m++)
                for (uint32_t k = 0; k < K; k++)
                    masked += bb_dot_plane_masked(v.pa + m, v.pb + k, &mask, TAPS) *
                              (1 << (M - 1 - m + K - 1 - k));
            assert_int_equal(masked, wanted); /* (iii) */
            for (int t = 0; t < TAPS; t++)
                v.a[t] = mask >> t & 1 ? v.a[t] : (1 << M) - 1;
            encode_vectors(&v, M, K, TAPS);
            assert_int_equal(low + bb_dot_levels(&v.pair), 2 * wanted); /* (ii) */
        }
    }
}

/* ---- layers (9.6 - 9.11) --------------------------------------------------------------------- */

/* Spreading each input over its outputs equals convolving the zero-stuffed input, and needs no code
 * for zero. */
static void test_deconvolution_scatters(void **state) {
    enum { N = 9, TAPS = 4, STRIDE = 3, OUT = (N - 1) * STRIDE + TAPS };
    bb_rng rng;
    bb_rng_seed(&rng, 14);
    int32_t a[N], b[TAPS], stuffed[(N - 1) * STRIDE + 1 + 2 * (TAPS - 1)] = {0};
    int64_t scattered[OUT] = {0};
    for (int i = 0; i < N; i++)
        stuffed[TAPS - 1 + i * STRIDE] = a[i] =
            bb_level_from_code((uint32_t)bb_rng_below(&rng, 16), 4);
    for (int t = 0; t < TAPS; t++)
        b[t] = bb_level_from_code((uint32_t)bb_rng_below(&rng, 8), 3);
    for (int i = 0; i < N; i++)
        for (int t = 0; t < TAPS; t++)
            scattered[i * STRIDE + t] += a[i] * b[t];
    for (int o = 0; o < OUT; o++) {
        int64_t convolved = 0;
        for (int t = 0; t < TAPS; t++)
            convolved += stuffed[o + t] * b[TAPS - 1 - t];
        assert_int_equal(convolved, scattered[o]);
    }
}

static void test_maximum_commutes_with_the_quantizer(void **state) {
    bb_rng rng;
    bb_rng_seed(&rng, 15);
    for (uint32_t b = 1; b <= BITS; b++)
        for (int i = 0; i < 2000; i++) {
            double x = 2.2 * bb_rng_uniform(&rng) - 1.1, y = 2.2 * bb_rng_uniform(&rng) - 1.1;
            uint32_t ux = bb_code_from_value(x, b), uy = bb_code_from_value(y, b);
            assert_int_equal(bb_code_from_value(fmax(x, y), b), ux > uy ? ux : uy);
            if (b == 1)
                assert_int_equal(ux | uy, ux > uy ? ux : uy); /* OR */
        }
}

typedef struct batch_norm {
    double scale, shift; /* of P/(L_M*L_K) */
    uint32_t bits;
} batch_norm;

static uint32_t normalise_and_quantize(void *user, int32_t p) {
    const batch_norm *bn = user;
    return bb_code_from_value(bn->scale * p * bb_product_scale(4, 4) + bn->shift, bn->bits);
}

/* BN + clip + q_M = 2^M - 1 integer thresholds a channel, in falling order where gamma < 0. */
static void test_batch_norm_folds_into_thresholds(void **state) {
    bb_rng rng;
    bb_rng_seed(&rng, 16);
    for (int i = 0; i < 200; i++) {
        batch_norm bn = {4 * bb_rng_uniform(&rng) - 2, 2 * bb_rng_uniform(&rng) - 1,
                         1 + (uint32_t)bb_rng_below(&rng, 5)};
        int32_t t[31];
        uint8_t rising;
        assert_true(bb_thresholds_from_function(normalise_and_quantize, &bn, -3000, 3000, bn.bits,
                                                t, &rising));
        for (int32_t p = -3000; p <= 3000; p++)
            assert_int_equal(bb_thresholds_apply(t, rising, bn.bits, p),
                             normalise_and_quantize(&bn, p));
    }
}

static void test_pixels_are_codes(void **state) {
    for (uint32_t p = 0; p < 256; p++) {
        double x = 2 * (p / 255.0) - 1;
        assert_int_equal(bb_code_from_value(x, 8), p);
        assert_int_equal(bb_level_from_code(p, 8), 2 * (int32_t)p - 255);
    }
}

/* Theorem 9.10: quantizing an already quantized value with one bit less drops its last plane. */
static void test_planes_nest_one_bit_at_a_time(void **state) {
    unsigned jumps = 0, codes = 0;
    for (uint32_t b = 2; b <= 12; b++) {
        double last = bb_last_code(b), less = bb_last_code(b - 1);
        for (uint32_t u = 0; u <= (uint32_t)last; u++) {
            double x = bb_level_from_code(u, b) / last;
            uint32_t shorter = bb_code_truncate(u, b, b - 1);
            assert_int_equal(bb_code_from_value(x, b - 1), shorter);
            assert_true(fabs(x - bb_level_from_code(shorter, b - 1) / less) <= 2 / last + 1e-12);
            uint32_t mirror = (uint32_t)last - u;
            assert_int_equal(bb_code_truncate(mirror, b, b - 1), (uint32_t)less - shorter);
            if (b >= 3 && b <= 8) {
                codes++;
                jumps += bb_code_from_value(x, b - 2) != bb_code_truncate(u, b, b - 2);
            }
        }
    }
    assert_int_equal(codes, 504);
    assert_int_equal(jumps, 78); /* a jump of two bits at once is something else */
}

/* Re-quantizing the real weights and dropping planes are different models. */
static void test_real_weights_do_not_nest(void **state) {
    unsigned differ = 0;
    const unsigned n = 1000000;
    for (unsigned i = 0; i < n; i++) {
        double w = 2 * ((i + 0.5) / n) - 1;
        differ += bb_code_from_value(w, 3) != bb_code_truncate(bb_code_from_value(w, 4), 4, 3);
    }
    assert_true(close_to((double)differ / n, 0.113, 0.002));
}

/* 9.11: K tensors of binary weights are one tensor of K-bit weights. */
static void test_binary_tensors_make_codes(void **state) {
    static vectors v;
    bb_rng rng;
    bb_rng_seed(&rng, 17);
    enum { K = 3, N = 90 };
    int8_t binary[K][N];
    for (size_t i = 0; i < N; i++) {
        unsigned code = 0;
        for (uint32_t k = 0; k < K; k++) { /* eq. 14: Binarize(x) = sign(HTanh(x)) */
            binary[k][i] = bb_quantize_real(bb_rng_normal(&rng), 1) > 0 ? 1 : -1;
            code |= (unsigned)(binary[k][i] > 0) << k;
        }
        v.a[i] = (uint8_t)bb_rng_below(&rng, 16);
        v.b[i] = (uint8_t)code;
    }
    encode_vectors(&v, 4, K, N);
    int64_t sum = 0;
    for (uint32_t k = 0; k < K; k++)
        for (size_t i = 0; i < N; i++)
            sum += bb_level_from_code(v.a[i], 4) * binary[k][i] * (1 << k);
    assert_int_equal(bb_dot_levels(&v.pair), sum);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_range_functions),
        cmocka_unit_test(test_quantizer_is_equation_15),
        cmocka_unit_test(test_ties_go_up),
        cmocka_unit_test(test_codes_and_levels_correspond),
        cmocka_unit_test(test_table_2),
        cmocka_unit_test(test_encoder_waves),
        cmocka_unit_test(test_encoder_forms_agree),
        cmocka_unit_test(test_encoder_trap),
        cmocka_unit_test(test_encoder_derivatives),
        cmocka_unit_test(test_mean_slope_of_the_decoded_waves),
        cmocka_unit_test(test_branch_products_are_exact),
        cmocka_unit_test(test_small_products_exhaustively),
        cmocka_unit_test(test_products_reach_their_bound),
        cmocka_unit_test(test_planes_join_what_they_split),
        cmocka_unit_test(test_figure_1),
        cmocka_unit_test(test_branch_weights_sum_to_the_scale),
        cmocka_unit_test(test_zero_one_scheme),
        cmocka_unit_test(test_general_plane_weights),
        cmocka_unit_test(test_literal_hrelu_needs_one_plane_less),
        cmocka_unit_test(test_affine_activations_use_all_codes),
        cmocka_unit_test(test_zero_padding_is_exact_in_four_ways),
        cmocka_unit_test(test_deconvolution_scatters),
        cmocka_unit_test(test_maximum_commutes_with_the_quantizer),
        cmocka_unit_test(test_batch_norm_folds_into_thresholds),
        cmocka_unit_test(test_pixels_are_codes),
        cmocka_unit_test(test_planes_nest_one_bit_at_a_time),
        cmocka_unit_test(test_real_weights_do_not_nest),
        cmocka_unit_test(test_binary_tensors_make_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
