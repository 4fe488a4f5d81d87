/* SPDX-License-Identifier: Apache-2.0 */
#include "quantize/gram.h"
#include <cblas.h>
#include <math.h>
#include <string.h>

/* Side of the square tiles of xx that are one task each; yx is cut the same way. The cut, and so
 * the order of every sum, is the same for any number of threads. */
enum { TILE = 384 };

bb_status bb_gram_create(bb_gram *gram, size_t groups, size_t d, size_t rows, bool second,
                         bb_error *err) {
    size_t inputs, outputs, squares = 0, crosses = 0;
    memset(gram, 0, sizeof *gram);
    gram->groups = groups;
    gram->d = d;
    gram->rows = rows;
    if (!bb_size_mul(groups, d, &inputs) || !bb_size_mul(groups, rows, &outputs) ||
        !bb_size_mul(inputs, d, &squares) || !bb_size_mul(outputs, d, &crosses))
        return bb_fail(err, BB_STATUS_LIMIT, "layer too large to quantize");
    gram->x_mean = bb_calloc_array(inputs, sizeof(double));
    gram->y_mean = bb_calloc_array(outputs, sizeof(double));
    gram->y_var = bb_calloc_array(outputs, sizeof(double));
    if (second) {
        gram->xx = bb_calloc_array(squares, sizeof(float));
        gram->yx = bb_calloc_array(crosses, sizeof(float));
    }
    if (gram->x_mean && gram->y_mean && gram->y_var && (!second || (gram->xx && gram->yx)))
        return BB_STATUS_OK;
    bb_gram_free(gram);
    return bb_fail_memory(err, "second moments of a layer");
}

void bb_gram_free(bb_gram *gram) {
    bb_free(gram->xx);
    bb_free(gram->yx);
    bb_free(gram->x_mean);
    bb_free(gram->y_mean);
    bb_free(gram->y_var);
    memset(gram, 0, sizeof *gram);
}

typedef struct add_job {
    bb_gram *gram;
    const float *x, *y;
    size_t n, across; /* tiles along d */
} add_job;

void bb_blas_one_thread(void) {
    openblas_set_num_threads(1);
}

static size_t tile_count(size_t n) {
    return (n + TILE - 1) / TILE;
}

static size_t tile_size(size_t n, size_t tile) {
    size_t left = n - tile * TILE;
    return left < TILE ? left : TILE;
}

/** sum += a^T b of n rows. */
static void add_product(float *sum, size_t ld_sum, const float *a, size_t lda, size_t m,
                        const float *b, size_t ldb, size_t k, size_t n) {
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)m, (int)k, (int)n, 1.0f, a, (int)lda,
                b, (int)ldb, 1.0f, sum, (int)ld_sum);
}

static void add_means(bb_gram *gram, const float *x, const float *y, size_t n, size_t group) {
    double *xm = gram->x_mean + group * gram->d, *ym = gram->y_mean + group * gram->rows;
    double *yv = gram->y_var + group * gram->rows;
    for (size_t s = 0; s < n; s++) {
        for (size_t i = 0; i < gram->d; i++)
            xm[i] += x[s * gram->d + i];
        for (size_t r = 0; r < gram->rows; r++) {
            double v = y[s * gram->groups * gram->rows + r];
            ym[r] += v;
            yv[r] += v * v;
        }
    }
}

/** One task: tile row `i` of group `g`: the tiles (i, i..) of xx, column i of yx. */
static void add_task(void *user, size_t task, size_t worker) {
    add_job *job = user;
    bb_gram *gram = job->gram;
    size_t g = task / job->across, i = task % job->across, d = gram->d, n = job->n;
    size_t ld_y = gram->groups * gram->rows;
    const float *x = job->x + g * n * d, *y = job->y + g * gram->rows;
    (void)worker;
    bb_blas_one_thread();
    if (i == 0)
        add_means(gram, x, y, n, g);
    if (!gram->xx)
        return;
    float *xx = gram->xx + g * d * d, *yx = gram->yx + g * gram->rows * d;
    size_t m = tile_size(d, i);
    for (size_t j = i; j < job->across; j++)
        add_product(xx + i * TILE * d + j * TILE, d, x + i * TILE, d, m, x + j * TILE, d,
                    tile_size(d, j), n);
    add_product(yx + i * TILE, d, y, ld_y, gram->rows, x + i * TILE, d, m, n);
}

void bb_gram_add(bb_gram *gram, const float *x, const float *y, size_t n, bb_pool *pool) {
    add_job job = {gram, x, y, n, tile_count(gram->d)};
    bb_pool_run(pool, gram->groups * job.across, add_task, &job);
    gram->n += n;
}

static void finish_task(void *user, size_t g, size_t worker) {
    bb_gram *gram = user;
    size_t d = gram->d;
    double per_n = gram->n ? 1.0 / (double)gram->n : 0.0;
    double *xm = gram->x_mean + g * d, *ym = gram->y_mean + g * gram->rows;
    (void)worker;
    for (size_t i = 0; i < d; i++)
        xm[i] *= per_n;
    double *yv = gram->y_var + g * gram->rows;
    for (size_t r = 0; r < gram->rows; r++) {
        ym[r] *= per_n;
        yv[r] = yv[r] * per_n - ym[r] * ym[r];
    }
    if (!gram->xx)
        return;
    float *xx = gram->xx + g * d * d, *yx = gram->yx + g * gram->rows * d;
    for (size_t i = 0; i < d; i++) {
        for (size_t j = i; j < d; j++) {
            float c = (float)((double)xx[i * d + j] * per_n - xm[i] * xm[j]);
            xx[i * d + j] = xx[j * d + i] = c;
        }
    }
    for (size_t r = 0; r < gram->rows; r++)
        for (size_t i = 0; i < d; i++)
            yx[r * d + i] = (float)((double)yx[r * d + i] * per_n - ym[r] * xm[i]);
}

void bb_gram_finish(bb_gram *gram, bb_pool *pool) {
    bb_pool_run(pool, gram->groups, finish_task, gram);
}

double bb_gram_fit(const bb_gram *gram, size_t output, const uint8_t *codes, uint32_t bits,
                   uint32_t shift, double scale, float *scratch) {
    size_t d = gram->d;
    const float *xx = gram->xx + output / gram->rows * d * d, *yx = gram->yx + output * d;
    float *b = scratch, *product = scratch + d;
    double covariance = 0.0, variance = 0.0;
    for (size_t i = 0; i < d; i++)
        b[i] = (float)(2 * (codes[i] >> shift) - ((1 << bits) - 1));
    cblas_sgemv(CblasRowMajor, CblasNoTrans, (int)d, (int)d, 1.0f, xx, (int)d, b, 1, 0.0f, product,
                1);
    for (size_t i = 0; i < d; i++) {
        covariance += (double)b[i] * (double)yx[i];
        variance += (double)b[i] * (double)product[i];
    }
    return covariance > 0.0 && variance > 0.0 ? covariance / variance : scale;
}

double bb_gram_spread(const bb_gram *gram, size_t output, const uint8_t *codes, uint32_t bits,
                      uint32_t shift, double scale) {
    const float *yx = gram->yx + output * gram->d;
    double covariance = 0.0;
    for (size_t i = 0; i < gram->d; i++)
        covariance += (2 * (codes[i] >> shift) - ((1 << bits) - 1)) * (double)yx[i];
    /* At the least squares scale var(scale*b.x) = scale*cov(b.x, y), and xx is not needed. */
    double explained = scale * covariance, variance = gram->y_var[output];
    return variance > explained && variance < 16.0 * explained ? sqrt(variance / explained) : 1.0;
}
