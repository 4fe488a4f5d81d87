/* SPDX-License-Identifier: Apache-2.0 */
#include "quantize/solve.h"
#include <cblas.h>
#include <float.h>
#include <lapacke.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

/* Rows solved together, and columns whose updates are gathered into one matrix product. */
enum { ROW_CHUNK = 32, COLUMN_BLOCK = 96 };
/* Candidates of the range search: 2.1 * max|w| * RATIO^-i. One bit may need twice the largest
 * weight, because its cells reach from 0 to twice the level. */
enum { RANGE_CANDIDATES = 80 };
static const float RANGE_TOP = 2.1f, RANGE_RATIO = 0.96f;
/* Layers of so few inputs per output are solved from several starts: they are cheap, and their
 * scale matters most. */
enum { SMALL_DEPTH = 64 };
static const float STARTS[] = {1.0f, 0.8f, 0.9f, 1.1f, 1.25f};

typedef struct solver {
    const bb_solve_problem *problem;
    uint32_t max_bits;
    size_t by_bits[BB_SOLVE_MAX_PROFILES];  /* profiles, fewest bits first */
    float *h[BB_SOLVE_MAX_PROFILES];        /* [groups][d][d]: cov(x) + lambda, columns permuted */
    float *diagonal[BB_SOLVE_MAX_PROFILES]; /* [groups][d] of h */
    float *lambda[BB_SOLVE_MAX_PROFILES];   /* [groups] */
    uint32_t *order;                        /* [groups][d]: column i is input order[i] */
    atomic_int failure;                     /* a bb_status */
} solver;

/** Everything known of one chunk of rows in one profile; all rows have d entries. */
typedef struct lane {
    uint32_t shift;   /* of the shared codes */
    int32_t top;      /* L = 2^bits - 1 */
    const float *h;   /* NULL: no second moments */
    const float *hjj; /* its diagonal */
    float *b, *g;     /* cov(y,x) + lambda*w; levels * h */
    float *target;    /* error-compensated weights */
    float *dq;        /* [ROW_CHUNK][COLUMN_BLOCK] changes of levels */
    float scale[ROW_CHUNK];
    float residual[ROW_CHUNK]; /* error that the unrounded target leaves */
    float weight[ROW_CHUNK];   /* of its error in the joint objective */
} lane;

typedef struct chunk {
    const solver *s;
    size_t group, row, m, d; /* rows row..row+m-1 of the group */
    size_t n_lanes;
    lane lanes[BB_SOLVE_MAX_PROFILES]; /* fewest bits first */
    uint8_t *codes, *best_codes;       /* [m][d], columns permuted */
    float best_scales[BB_SOLVE_MAX_PROFILES][ROW_CHUNK];
    float best_error[ROW_CHUNK];
} chunk;

static void fail(solver *s, bb_status status) {
    atomic_store(&s->failure, (int)status);
}

static int32_t level(const lane *l, uint8_t code) {
    return 2 * (int32_t)(code >> l->shift) - l->top;
}

/** Code of the odd integer nearest to r (halves up), clamped to lo..hi. */
static int32_t nearest_code(const lane *l, float r, int32_t lo, int32_t hi) {
    float u = (r + (float)l->top + 1.0f) * 0.5f;
    if (!(u > (float)lo))
        return lo;
    return u < (float)hi ? (int32_t)u : hi;
}

/* ---- second moments -------------------------------------------------------------------------- */

/** Columns with the most energy first: their rounding errors are what later ones make up for. */
static void order_columns(const float *xx, size_t d, uint32_t *order) {
    for (size_t i = 0; i < d; i++)
        order[i] = (uint32_t)i;
    /* Shell sort keeps this free of globals; ties go by index, so the order is total. */
    size_t gap = 1;
    while (gap < d / 3)
        gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3) {
        for (size_t i = gap; i < d; i++) {
            uint32_t x = order[i];
            float e = xx[x * d + x];
            size_t j = i;
            for (; j >= gap; j -= gap) {
                uint32_t y = order[j - gap];
                float f = xx[y * d + y];
                if (f > e || (f == e && y < x))
                    break;
                order[j] = y;
            }
            order[j] = x;
        }
    }
}

static float mean_diagonal(const float *xx, size_t d) {
    double sum = 0.0;
    for (size_t i = 0; i < d; i++)
        sum += xx[i * d + i];
    return (float)(sum / (double)d);
}

/** Replaces xx by the Cholesky factor of h, adding to h's diagonal until there is one. */
static bool factorize(float *h, float *xx, size_t d, float *lambda) {
    for (int attempt = 0; attempt < 6; attempt++) {
        memcpy(xx, h, d * d * sizeof *h);
        if (LAPACKE_spotrf_work(LAPACK_COL_MAJOR, 'U', (lapack_int)d, xx, (lapack_int)d) == 0)
            return true;
        float more = 9.0f * *lambda;
        for (size_t i = 0; i < d; i++)
            h[i * d + i] += more;
        *lambda += more;
    }
    return false;
}

typedef struct prepare_job {
    solver *s;
    size_t profile;
} prepare_job;

static void order_task(void *user, size_t g, size_t worker) {
    prepare_job *job = user;
    size_t d = job->s->problem->d;
    const bb_gram *gram = job->s->problem->profiles[0].gram;
    (void)worker;
    if (gram) {
        order_columns(gram->xx + g * d * d, d, job->s->order + g * d);
        return;
    }
    for (size_t i = 0; i < d; i++)
        job->s->order[g * d + i] = (uint32_t)i;
}

static void prepare_task(void *user, size_t g, size_t worker) {
    prepare_job *job = user;
    solver *s = job->s;
    size_t d = s->problem->d;
    float *xx = s->problem->profiles[job->profile].gram->xx + g * d * d;
    float *h = s->h[job->profile] + g * d * d;
    const uint32_t *order = s->order + g * d;
    float mean = mean_diagonal(xx, d);
    float lambda = mean > 0.0f ? s->problem->ridge * mean : 1.0f;
    (void)worker;
    bb_blas_one_thread();
    for (size_t i = 0; i < d; i++)
        for (size_t j = 0; j < d; j++)
            h[i * d + j] = xx[order[i] * d + order[j]];
    for (size_t i = 0; i < d; i++)
        h[i * d + i] += lambda;
    if (!factorize(h, xx, d, &lambda))
        fail(s, BB_STATUS_INTERNAL);
    s->lambda[job->profile][g] = lambda;
    for (size_t i = 0; i < d; i++)
        s->diagonal[job->profile][g * d + i] = h[i * d + i];
}

/* ---- start: least squares, ranges, nearest codes --------------------------------------------- */

/** Fills b with cov(y,x) + lambda*w, target with b * h^-1 and residual; without moments target = w
 *  and there is none. */
static void least_squares(chunk *c, size_t profile, lane *l) {
    const solver *s = c->s;
    const bb_solve_problem *p = s->problem;
    size_t d = c->d;
    const uint32_t *order = s->order + c->group * d;
    const bb_gram *gram = p->profiles[profile].gram;
    float lambda = gram ? s->lambda[profile][c->group] : 0.0f;
    for (size_t r = 0; r < c->m; r++) {
        size_t row = c->group * p->rows + c->row + r;
        const float *w = p->weights + row * d, *yx = gram ? gram->yx + row * d : NULL;
        float *b = gram ? l->b + r * d : NULL, *t = l->target + r * d;
        for (size_t i = 0; i < d; i++) {
            t[i] = w[order[i]];
            if (gram)
                t[i] = b[i] = yx[order[i]] + lambda * w[order[i]];
        }
    }
    if (!gram)
        return;
    LAPACKE_spotrs_work(LAPACK_COL_MAJOR, 'U', (lapack_int)d, (lapack_int)c->m,
                        gram->xx + c->group * d * d, (lapack_int)d, l->target, (lapack_int)d);
    for (size_t r = 0; r < c->m; r++) {
        size_t row = c->group * p->rows + c->row + r;
        double left = gram->y_var[row];
        for (size_t i = 0; i < d; i++) {
            double w = p->weights[row * d + i];
            left += lambda * w * w - (double)l->target[r * d + i] * l->b[r * d + i];
        }
        /* What rounding to float leaves of a difference that should be 0 is noise. */
        l->residual[r] = (float)fmax(left, 1e-6 * gram->y_var[row]);
    }
}

/** Squared error of rounding one row of targets to 2*top+1 reaching levels of this scale. */
static double range_error(const lane *l, const float *target, size_t d, float scale) {
    double sum = 0.0;
    float per = 0.5f / scale, half = ((float)l->top + 1.0f) * 0.5f, top = (float)l->top;
    for (size_t i0 = 0; i0 < d; i0 += 256) {
        float part = 0.0f;
        size_t end = i0 + 256 < d ? i0 + 256 : d;
        for (size_t i = i0; i < end; i++) {
            float u = target[i] * per + half;
            u = u > 0.0f ? u : 0.0f;
            u = u < top ? u : top;
            float e = target[i] - scale * (float)(2 * (int32_t)u - l->top);
            part += l->hjj ? e * e * l->hjj[i] : e * e;
        }
        sum += part;
    }
    return sum;
}

static float largest(const float *x, size_t n) {
    float top = 0.0f;
    for (size_t i = 0; i < n; i++)
        top = fmaxf(top, fabsf(x[i]));
    return top;
}

/** One range +-R per row for all profiles (scale_p = R / 2^bits_p), so that their cells nest;
 *  every profile's error counts relative to the least it can have, which few activation bits
 *  raise as much as few weight bits do. */
static float search_range(chunk *c, size_t r) {
    float max = largest(c->lanes[c->n_lanes - 1].target + r * c->d, c->d);
    double joint[RANGE_CANDIDATES] = {0};
    for (size_t p = 0; p < c->n_lanes; p++) {
        lane *l = &c->lanes[p];
        double error[RANGE_CANDIDATES], least = DBL_MAX;
        float range = RANGE_TOP * max;
        for (int i = 0; i < RANGE_CANDIDATES; i++, range *= RANGE_RATIO) {
            error[i] = max > 0.0f
                           ? range_error(l, l->target + r * c->d, c->d, range / (float)(l->top + 1))
                           : 0.0;
            least = fmin(least, error[i]);
        }
        l->weight[r] = (float)(1.0 / (least + l->residual[r] + 1e-30));
        for (int i = 0; i < RANGE_CANDIDATES; i++)
            joint[i] += error[i] * l->weight[r];
    }
    int best = 0;
    for (int i = 1; i < RANGE_CANDIDATES; i++)
        best = joint[i] < joint[best] ? i : best;
    return RANGE_TOP * max * powf(RANGE_RATIO, (float)best);
}

/** The shared code that serves all lanes best when lane p wants levels near want[p]: every
 *  lane's own favourite, coarsened for those of fewer bits and refined for those of more. */
static int32_t joint_code(const chunk *c, const float *want, const float *cost) {
    float least = FLT_MAX;
    int32_t best = 0;
    for (size_t p = 0; p < c->n_lanes; p++) {
        int32_t code[BB_SOLVE_MAX_PROFILES];
        code[p] = nearest_code(&c->lanes[p], want[p], 0, c->lanes[p].top);
        for (size_t q = p; q-- > 0;)
            code[q] = code[q + 1] >> (c->lanes[q].shift - c->lanes[q + 1].shift);
        for (size_t q = p + 1; q < c->n_lanes; q++) {
            uint32_t finer = c->lanes[q - 1].shift - c->lanes[q].shift;
            int32_t lo = code[q - 1] << finer;
            code[q] = nearest_code(&c->lanes[q], want[q], lo, lo + (1 << finer) - 1);
        }
        float sum = 0.0f;
        for (size_t q = 0; q < c->n_lanes; q++) {
            float e = (float)(2 * code[q] - c->lanes[q].top) - want[q];
            sum += cost[q] * e * e;
        }
        if (sum < least) {
            least = sum;
            best = code[c->n_lanes - 1];
        }
    }
    return best; /* the last lane has the most bits: its shift is 0 */
}

static void round_row(chunk *c, size_t r, float range) {
    size_t d = c->d;
    float tiny = FLT_MIN * 1024.0f;
    for (size_t p = 0; p < c->n_lanes; p++)
        c->lanes[p].scale[r] = fmaxf(range / (float)(c->lanes[p].top + 1), tiny);
    for (size_t i = 0; i < d; i++) {
        float want[BB_SOLVE_MAX_PROFILES], cost[BB_SOLVE_MAX_PROFILES];
        for (size_t p = 0; p < c->n_lanes; p++) {
            const lane *l = &c->lanes[p];
            want[p] = l->target[r * d + i] / l->scale[r];
            cost[p] = l->weight[r] * l->scale[r] * l->scale[r] * (l->hjj ? l->hjj[i] : 1.0f);
        }
        c->codes[r * d + i] = (uint8_t)joint_code(c, want, cost);
    }
}

/* ---- coordinate descent ---------------------------------------------------------------------- */

/** Best scale for the present codes: q.b / (q h q). Without moments: q.w / q.q. */
static void fit_scale(chunk *c, lane *l, size_t r) {
    size_t d = c->d;
    double num = 0.0, den = 0.0;
    for (size_t i = 0; i < d; i++) {
        double q = level(l, c->codes[r * d + i]);
        num += q * (l->h ? l->b : l->target)[r * d + i];
        den += q * (l->h ? (double)l->g[r * d + i] : q);
    }
    if (num > 0.0 && den > 0.0)
        l->scale[r] = (float)(num / den);
}

/** g = levels * h for all rows of the chunk; dq of one column block at a time as scratch. */
static void refresh_products(chunk *c, lane *l) {
    size_t d = c->d;
    memset(l->g, 0, c->m * d * sizeof *l->g);
    for (size_t j0 = 0; j0 < d; j0 += COLUMN_BLOCK) {
        size_t n = d - j0 < COLUMN_BLOCK ? d - j0 : COLUMN_BLOCK;
        for (size_t r = 0; r < c->m; r++)
            for (size_t j = 0; j < n; j++)
                l->dq[r * COLUMN_BLOCK + j] = (float)level(l, c->codes[r * d + j0 + j]);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)c->m, (int)d, (int)n, 1.0f,
                    l->dq, COLUMN_BLOCK, l->h + j0 * d, (int)d, 1.0f, l->g, (int)d);
    }
}

/** Visits columns j0..j0+n-1 of one row. Writes dq; `local` holds g of these columns and is kept
 *  exact, while the rest of g is brought up to date by the caller. */
static void descend_block(chunk *c, size_t r, size_t j0, size_t n,
                          float local[BB_SOLVE_MAX_PROFILES][COLUMN_BLOCK]) {
    size_t d = c->d;
    float want[BB_SOLVE_MAX_PROFILES], cost[BB_SOLVE_MAX_PROFILES];
    for (size_t j = 0; j < n; j++) {
        size_t at = r * d + j0 + j;
        for (size_t p = 0; p < c->n_lanes; p++) {
            const lane *l = &c->lanes[p];
            float hjj = l->hjj[j0 + j];
            want[p] = (l->b[at] / l->scale[r] - local[p][j]) / hjj + (float)level(l, c->codes[at]);
            cost[p] = l->weight[r] * l->scale[r] * l->scale[r] * hjj;
        }
        uint8_t old = c->codes[at];
        uint8_t code = (uint8_t)joint_code(c, want, cost);
        c->codes[at] = code;
        for (size_t p = 0; p < c->n_lanes; p++) {
            lane *l = &c->lanes[p];
            float dq = (float)(level(l, code) - level(l, old));
            l->dq[r * COLUMN_BLOCK + j] = dq;
            if (dq == 0.0f)
                continue;
            const float *h = l->h + (j0 + j) * d + j0;
            for (size_t k = 0; k < n; k++)
                local[p][k] += dq * h[k];
        }
    }
}

static void sweep(chunk *c) {
    size_t d = c->d;
    float local[BB_SOLVE_MAX_PROFILES][COLUMN_BLOCK];
    for (size_t j0 = 0; j0 < d; j0 += COLUMN_BLOCK) {
        size_t n = d - j0 < COLUMN_BLOCK ? d - j0 : COLUMN_BLOCK;
        for (size_t r = 0; r < c->m; r++) {
            for (size_t p = 0; p < c->n_lanes; p++)
                memcpy(local[p], c->lanes[p].g + r * d + j0, n * sizeof(float));
            descend_block(c, r, j0, n, local);
        }
        for (size_t p = 0; p < c->n_lanes; p++) {
            lane *l = &c->lanes[p];
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)c->m, (int)d, (int)n, 1.0f,
                        l->dq, COLUMN_BLOCK, l->h + j0 * d, (int)d, 1.0f, l->g, (int)d);
        }
    }
}

/** Squared error of one row up to a constant, over the lanes. */
static float joint_error(const chunk *c, size_t r) {
    double sum = 0.0;
    for (size_t p = 0; p < c->n_lanes; p++) {
        const lane *l = &c->lanes[p];
        double qb = 0.0, qg = 0.0, s = l->scale[r];
        for (size_t i = 0; i < c->d; i++) {
            double q = level(l, c->codes[r * c->d + i]);
            qb += q * l->b[r * c->d + i];
            qg += q * l->g[r * c->d + i];
        }
        sum += l->weight[r] * (s * s * qg - 2.0 * s * qb);
    }
    return (float)sum;
}

static void keep_best(chunk *c, size_t r) {
    float error = c->lanes[0].h ? joint_error(c, r) : 0.0f;
    if (!(error < c->best_error[r]))
        return;
    c->best_error[r] = error;
    memcpy(c->best_codes + r * c->d, c->codes + r * c->d, c->d);
    for (size_t p = 0; p < c->n_lanes; p++)
        c->best_scales[p][r] = c->lanes[p].scale[r];
}

static void solve_from(chunk *c, const float *range, float start) {
    for (size_t r = 0; r < c->m; r++)
        round_row(c, r, range[r] * start);
    for (unsigned pass = 0; pass <= c->s->problem->sweeps; pass++) {
        for (size_t p = 0; p < c->n_lanes && c->lanes[p].h; p++)
            if (pass == 0)
                refresh_products(c, &c->lanes[p]);
        if (pass > 0)
            sweep(c);
        for (size_t p = 0; p < c->n_lanes; p++)
            for (size_t r = 0; r < c->m; r++)
                fit_scale(c, &c->lanes[p], r);
        if (!c->lanes[0].h)
            break;
    }
    for (size_t r = 0; r < c->m; r++)
        keep_best(c, r);
}

/* ---- one chunk of rows ----------------------------------------------------------------------- */

static bool chunk_alloc(chunk *c) {
    size_t cells = c->m * c->d;
    c->codes = bb_alloc_array(cells, 2);
    c->best_codes = c->codes ? c->codes + cells : NULL;
    bool ok = c->codes != NULL;
    for (size_t p = 0; p < c->n_lanes; p++) {
        lane *l = &c->lanes[p];
        l->target = bb_alloc_array(cells, 3 * sizeof(float));
        l->dq = bb_alloc_array(ROW_CHUNK * COLUMN_BLOCK, sizeof(float));
        ok = ok && l->target && l->dq;
        l->b = l->target ? l->target + cells : NULL;
        l->g = l->target ? l->target + 2 * cells : NULL;
    }
    return ok;
}

static void chunk_free(chunk *c) {
    bb_free(c->codes);
    for (size_t p = 0; p < c->n_lanes; p++) {
        bb_free(c->lanes[p].target);
        bb_free(c->lanes[p].dq);
    }
}

static void store(const chunk *c) {
    const bb_solve_problem *p = c->s->problem;
    const uint32_t *order = c->s->order + c->group * c->d;
    for (size_t r = 0; r < c->m; r++) {
        size_t row = c->group * p->rows + c->row + r;
        for (size_t i = 0; i < c->d; i++)
            p->codes[row * c->d + order[i]] = c->best_codes[r * c->d + i];
        for (size_t l = 0; l < c->n_lanes; l++)
            p->profiles[c->s->by_bits[l]].scale[row] = c->best_scales[l][r];
    }
}

static void solve_chunk(chunk *c) {
    float range[ROW_CHUNK];
    for (size_t p = 0; p < c->n_lanes; p++)
        least_squares(c, c->s->by_bits[p], &c->lanes[p]);
    for (size_t r = 0; r < c->m; r++) {
        range[r] = search_range(c, r);
        c->best_error[r] = FLT_MAX;
    }
    size_t starts = c->d <= SMALL_DEPTH && c->lanes[0].h ? BB_COUNT(STARTS) : 1;
    for (size_t i = 0; i < starts; i++)
        solve_from(c, range, STARTS[i]);
    store(c);
}

static void chunk_task(void *user, size_t task, size_t worker) {
    solver *s = user;
    const bb_solve_problem *p = s->problem;
    size_t per_group = (p->rows + ROW_CHUNK - 1) / ROW_CHUNK;
    chunk c = {.s = s, .group = task / per_group, .row = task % per_group * ROW_CHUNK};
    c.m = p->rows - c.row < ROW_CHUNK ? p->rows - c.row : ROW_CHUNK;
    c.d = p->d;
    c.n_lanes = p->n_profiles;
    (void)worker;
    bb_blas_one_thread();
    for (size_t i = 0; i < c.n_lanes; i++) {
        size_t profile = s->by_bits[i];
        c.lanes[i].shift = s->max_bits - p->profiles[profile].bits;
        c.lanes[i].top = (1 << p->profiles[profile].bits) - 1;
        if (!s->h[profile])
            continue;
        c.lanes[i].h = s->h[profile] + c.group * p->d * p->d;
        c.lanes[i].hjj = s->diagonal[profile] + c.group * p->d;
    }
    if (chunk_alloc(&c))
        solve_chunk(&c);
    else
        fail(s, BB_STATUS_OUT_OF_MEMORY);
    chunk_free(&c);
}

/* ---- the layer ------------------------------------------------------------------------------- */

static void sort_profiles(solver *s) {
    const bb_solve_problem *p = s->problem;
    for (size_t i = 0; i < p->n_profiles; i++) {
        size_t j = i;
        for (; j > 0 && p->profiles[s->by_bits[j - 1]].bits > p->profiles[i].bits; j--)
            s->by_bits[j] = s->by_bits[j - 1];
        s->by_bits[j] = i;
    }
    s->max_bits = p->profiles[s->by_bits[p->n_profiles - 1]].bits;
}

static bb_status prepare(solver *s, bb_pool *pool, bb_error *err) {
    const bb_solve_problem *p = s->problem;
    prepare_job job = {s, 0};
    s->order = bb_alloc_array(p->groups * p->d, sizeof *s->order);
    if (!s->order)
        return bb_fail_memory(err, "column order");
    bb_pool_run(pool, p->groups, order_task, &job);
    for (size_t i = 0; i < p->n_profiles; i++) {
        if (!p->profiles[i].gram)
            continue;
        s->h[i] = bb_alloc_array(p->groups * p->d, p->d * sizeof(float));
        s->lambda[i] = bb_alloc_array(p->groups, sizeof(float));
        s->diagonal[i] = bb_alloc_array(p->groups * p->d, sizeof(float));
        if (!s->h[i] || !s->lambda[i] || !s->diagonal[i])
            return bb_fail_memory(err, "second moments of a layer");
        job.profile = i;
        bb_pool_run(pool, p->groups, prepare_task, &job);
    }
    return BB_STATUS_OK;
}

bb_status bb_solve(const bb_solve_problem *problem, bb_pool *pool, bb_error *err) {
    solver s = {.problem = problem};
    if (problem->n_profiles < 1 || problem->n_profiles > BB_SOLVE_MAX_PROFILES)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "between 1 and %d profiles are possible",
                       BB_SOLVE_MAX_PROFILES);
    sort_profiles(&s);
    bb_status status = prepare(&s, pool, err);
    size_t per_group = (problem->rows + ROW_CHUNK - 1) / ROW_CHUNK;
    if (status == BB_STATUS_OK && !atomic_load(&s.failure))
        bb_pool_run(pool, problem->groups * per_group, chunk_task, &s);
    for (size_t i = 0; i < problem->n_profiles; i++) {
        bb_free(s.h[i]);
        bb_free(s.lambda[i]);
        bb_free(s.diagonal[i]);
    }
    bb_free(s.order);
    bb_status failure = (bb_status)atomic_load(&s.failure);
    if (status == BB_STATUS_OK && failure == BB_STATUS_OUT_OF_MEMORY)
        status = bb_fail_memory(err, "scratch of the weight solver");
    else if (status == BB_STATUS_OK && failure)
        status = bb_fail(err, failure, "a layer's input moments are not positive definite");
    return status;
}
