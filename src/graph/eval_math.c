/* SPDX-License-Identifier: Apache-2.0 */
/* Elementwise arithmetic. Float32 results of + - * / and sqrt are those of IEEE float arithmetic;
 * other functions are computed in double and rounded once. Integers wrap around. */
#include "graph/eval_internal.h"
#include <float.h>
#include <math.h>
#include <string.h>

/* ---- functions of one number --------------------------------------------------------------- */

typedef struct unary_args {
    double alpha, beta;
    bool tanh_form; /* Gelu: approximate="tanh" */
} unary_args;

static double round_half_even(double x) {
    return nearbyint(x);
}

static double sign_of(double x) {
    return x > 0 ? 1 : x < 0 ? -1 : x; /* keeps 0 and NaN */
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

static double softplus(double x) {
    return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

static double hard_sigmoid(double x, double alpha, double beta) {
    double y = alpha * x + beta;
    return y < 0 ? 0 : y > 1 ? 1 : y;
}

static double gelu(double x, bool tanh_form) {
    const double pi = 3.14159265358979323846;
    if (tanh_form)
        return 0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x)));
    return 0.5 * x * (1 + erf(x / sqrt(2)));
}

static double unary(bb_op op, double x, const unary_args *p) {
    switch (op) {
    case BB_OP_ABS:
        return fabs(x);
    case BB_OP_ACOS:
        return acos(x);
    case BB_OP_ACOSH:
        return acosh(x);
    case BB_OP_ASIN:
        return asin(x);
    case BB_OP_ASINH:
        return asinh(x);
    case BB_OP_ATAN:
        return atan(x);
    case BB_OP_ATANH:
        return atanh(x);
    case BB_OP_CEIL:
        return ceil(x);
    case BB_OP_CELU:
        return x > 0 ? x : p->alpha * expm1(x / p->alpha);
    case BB_OP_COS:
        return cos(x);
    case BB_OP_COSH:
        return cosh(x);
    case BB_OP_ELU:
        return x >= 0 ? x : p->alpha * expm1(x);
    case BB_OP_ERF:
        return erf(x);
    case BB_OP_EXP:
        return exp(x);
    case BB_OP_FLOOR:
        return floor(x);
    case BB_OP_GELU:
        return gelu(x, p->tanh_form);
    case BB_OP_HARD_SIGMOID:
        return hard_sigmoid(x, p->alpha, p->beta);
    case BB_OP_HARD_SWISH:
        return x * hard_sigmoid(x, 1.0 / 6, 0.5);
    case BB_OP_LEAKY_RELU:
        return x >= 0 ? x : p->alpha * x;
    case BB_OP_LOG:
        return log(x);
    case BB_OP_MISH:
        return x * tanh(softplus(x));
    case BB_OP_NEG:
        return -x;
    case BB_OP_NOT:
        return x == 0;
    case BB_OP_RECIPROCAL:
        return 1 / x;
    case BB_OP_RELU:
        return x < 0 ? 0 : x;
    case BB_OP_ROUND:
        return round_half_even(x);
    case BB_OP_SELU:
        return p->beta * (x > 0 ? x : p->alpha * expm1(x));
    case BB_OP_SIGMOID:
        return sigmoid(x);
    case BB_OP_SIGN:
        return sign_of(x);
    case BB_OP_SIN:
        return sin(x);
    case BB_OP_SINH:
        return sinh(x);
    case BB_OP_SOFTPLUS:
        return softplus(x);
    case BB_OP_SOFTSIGN:
        return x / (1 + fabs(x));
    case BB_OP_SQRT:
        return sqrt(x);
    case BB_OP_TAN:
        return tan(x);
    case BB_OP_TANH:
        return tanh(x);
    case BB_OP_THRESHOLDED_RELU:
        return x > p->alpha ? x : 0;
    default:
        return x;
    }
}

static unary_args read_args(const bb_node *node) {
    static const struct {
        bb_op op;
        float alpha, beta;
    } defaults[] = {
        {BB_OP_CELU, 1.0f, 0},
        {BB_OP_ELU, 1.0f, 0},
        {BB_OP_HARD_SIGMOID, 0.2f, 0.5f},
        {BB_OP_LEAKY_RELU, 0.01f, 0},
        {BB_OP_SELU, 1.67326319217681884765625f, 1.05070102214813232421875f},
        {BB_OP_THRESHOLDED_RELU, 1.0f, 0},
    };
    unary_args args = {0};
    for (size_t i = 0; i < BB_COUNT(defaults); i++)
        if (defaults[i].op == node->op) {
            args.alpha = bb_node_float(node, "alpha", defaults[i].alpha);
            args.beta = bb_node_float(node, "beta", defaults[i].beta);
        }
    if (node->op == BB_OP_SELU)
        args.beta = bb_node_float(node, "gamma", 1.05070102214813232421875f);
    args.tanh_form = strcmp(bb_node_string(node, "approximate", "none"), "tanh") == 0;
    return args;
}

static int64_t unary_int(bb_op op, int64_t x) {
    switch (op) {
    case BB_OP_ABS:
        return x < 0 ? (int64_t)(0 - (uint64_t)x) : x;
    case BB_OP_NEG:
        return (int64_t)(0 - (uint64_t)x);
    case BB_OP_SIGN:
        return (x > 0) - (x < 0);
    case BB_OP_RELU:
        return x < 0 ? 0 : x;
    case BB_OP_NOT:
        return x == 0;
    default:
        return x;
    }
}

static bool has_int_form(bb_op op) {
    return op == BB_OP_ABS || op == BB_OP_NEG || op == BB_OP_SIGN || op == BB_OP_RELU ||
           op == BB_OP_NOT;
}

static void leaky_f32(const float *x, float *y, size_t n, float slope) {
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] < 0 ? slope * x[i] : x[i];
}

static void clip_f32(const float *x, float *y, size_t n, float lo, float hi) {
    for (size_t i = 0; i < n; i++) {
        float v = x[i] < lo ? lo : x[i];
        y[i] = v > hi ? hi : v;
    }
}

bb_status bb_eval_unary(const bb_eval *e) {
    bb_op op = e->node->op;
    const bb_array *x = &e->in[0], *y = &e->out[0];
    size_t n = bb_array_elements(y);
    unary_args args = read_args(e->node);
    if (x->dtype == BB_DTYPE_F32 && op == BB_OP_LEAKY_RELU) {
        leaky_f32(x->data, y->data, n, (float)args.alpha);
    } else if (x->dtype == BB_DTYPE_F32 && op == BB_OP_RELU) {
        clip_f32(x->data, y->data, n, 0, INFINITY);
    } else if (x->dtype == BB_DTYPE_F32) {
        const float *from = x->data;
        float *to = y->data;
        for (size_t i = 0; i < n; i++)
            to[i] = (float)unary(op, from[i], &args);
    } else if (bb_dtype_is_float(x->dtype)) {
        for (size_t i = 0; i < n; i++)
            bb_array_put_double(y, i, unary(op, bb_array_double(x, i), &args));
    } else if (has_int_form(op)) {
        for (size_t i = 0; i < n; i++)
            bb_array_put_int(y, i, unary_int(op, bb_array_int(x, i)));
    } else {
        return bb_eval_fail(e, "its input is not of a float type");
    }
    return BB_STATUS_OK;
}

bb_status bb_eval_clip(const bb_eval *e) {
    const bb_array *x = &e->in[0], *y = &e->out[0];
    const bb_array *min = bb_eval_in(e, 1), *max = bb_eval_in(e, 2);
    size_t n = bb_array_elements(y);
    if ((min && bb_array_elements(min) != 1) || (max && bb_array_elements(max) != 1))
        return bb_eval_fail(e, "its limits are not scalars");
    if (!bb_dtype_is_float(x->dtype)) {
        int64_t lo = min ? bb_array_int(min, 0) : INT64_MIN;
        int64_t hi = max ? bb_array_int(max, 0) : INT64_MAX;
        for (size_t i = 0; i < n; i++) {
            int64_t v = bb_array_int(x, i);
            v = v < lo ? lo : v;
            bb_array_put_int(y, i, v > hi ? hi : v);
        }
        return BB_STATUS_OK;
    }
    double lo = min ? bb_array_double(min, 0) : -INFINITY;
    double hi = max ? bb_array_double(max, 0) : INFINITY;
    if (x->dtype == BB_DTYPE_F32) {
        clip_f32(x->data, y->data, n, (float)lo, (float)hi);
        return BB_STATUS_OK;
    }
    for (size_t i = 0; i < n; i++) {
        double v = bb_array_double(x, i);
        v = v < lo ? lo : v;
        bb_array_put_double(y, i, v > hi ? hi : v);
    }
    return BB_STATUS_OK;
}

/* ---- functions of two numbers ---------------------------------------------------------------- */

static double mod_floor(double a, double b) {
    double r = fmod(a, b);
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

static double binary(bb_op op, double a, double b, bool c_mod) {
    switch (op) {
    case BB_OP_ADD:
    case BB_OP_SUM:
    case BB_OP_MEAN:
        return a + b;
    case BB_OP_SUB:
        return a - b;
    case BB_OP_MUL:
        return a * b;
    case BB_OP_DIV:
        return a / b;
    case BB_OP_POW:
        return pow(a, b);
    case BB_OP_MAX:
        return a > b || a != a ? a : b;
    case BB_OP_MIN:
        return a < b || a != a ? a : b;
    case BB_OP_MOD:
        return c_mod ? fmod(a, b) : mod_floor(a, b);
    case BB_OP_PRELU:
        return a < 0 ? a * b : a;
    default:
        return a;
    }
}

/* b != 0 for DIV and MOD. */
static int64_t binary_int(bb_op op, int64_t a, int64_t b, bool c_mod) {
    switch (op) {
    case BB_OP_ADD:
    case BB_OP_SUM:
    case BB_OP_MEAN:
        return (int64_t)((uint64_t)a + (uint64_t)b);
    case BB_OP_SUB:
        return (int64_t)((uint64_t)a - (uint64_t)b);
    case BB_OP_MUL:
    case BB_OP_PRELU:
        return op == BB_OP_PRELU && a >= 0 ? a : (int64_t)((uint64_t)a * (uint64_t)b);
    case BB_OP_DIV:
        return b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b;
    case BB_OP_POW: {
        int64_t r = 1;
        if (b < 0)
            return a == 1 ? 1 : a == -1 ? (b & 1 ? -1 : 1) : 0;
        for (uint64_t base = (uint64_t)a; b; b >>= 1, base *= base)
            if (b & 1)
                r = (int64_t)((uint64_t)r * base);
        return r;
    }
    case BB_OP_MAX:
        return a > b ? a : b;
    case BB_OP_MIN:
        return a < b ? a : b;
    case BB_OP_MOD: {
        int64_t r = b == -1 ? 0 : a % b;
        return !c_mod && r != 0 && (r < 0) != (b < 0) ? r + b : r;
    }
    default:
        return a;
    }
}

typedef struct rows {
    int64_t n, sa, sb; /* elements, strides of a and b */
} rows;

#define ROW(expression)                                                                            \
    for (int64_t i = 0; i < r.n; i++) {                                                            \
        float p = a[i * r.sa], q = b[i * r.sb];                                                    \
        y[i] = (expression);                                                                       \
    }                                                                                              \
    break

static void row_f32(bb_op op, rows r, const float *a, const float *b, float *y, bool c_mod) {
    switch (op) {
    case BB_OP_ADD:
    case BB_OP_SUM:
    case BB_OP_MEAN:
        ROW(p + q);
    case BB_OP_SUB:
        ROW(p - q);
    case BB_OP_MUL:
        ROW(p * q);
    case BB_OP_DIV:
        ROW(p / q);
    case BB_OP_PRELU:
        ROW(p < 0 ? p * q : p);
    default:
        ROW((float)binary(op, p, q, c_mod));
    }
}

static bb_status row_any(const bb_eval *e, rows r, const bb_array *a, int64_t at_a,
                         const bb_array *b, int64_t at_b, const bb_array *y, int64_t at_y) {
    bb_op op = e->node->op;
    bool c_mod = bb_node_int(e->node, "fmod", 0) != 0;
    bool floats = bb_dtype_is_float(a->dtype) || bb_dtype_is_float(b->dtype);
    for (int64_t i = 0; i < r.n; i++) {
        size_t ia = (size_t)(at_a + i * r.sa), ib = (size_t)(at_b + i * r.sb);
        if (floats) {
            double v = binary(op, bb_array_double(a, ia), bb_array_double(b, ib), c_mod);
            bb_array_put_double(y, (size_t)(at_y + i), v);
            continue;
        }
        int64_t p = bb_array_int(a, ia), q = bb_array_int(b, ib);
        if (q == 0 && (op == BB_OP_DIV || op == BB_OP_MOD))
            return bb_eval_fail(e, "division of integers by zero");
        bb_array_put_int(y, (size_t)(at_y + i), binary_int(op, p, q, c_mod));
    }
    return BB_STATUS_OK;
}

/* A walk over y (operand 0) and n inputs broadcast to it (operands 1 to n), along rows of the last
 * dimension. False where y is empty. */
static bool walk_broadcast(bb_walk *w, const bb_array *y, int n, const bb_array *const in[]) {
    *w = (bb_walk){.rank = y->rank, .n = n + 1};
    memcpy(w->dims, y->dims, sizeof(y->dims));
    bb_array_strides(y, w->strides[0]);
    for (int k = 0; k < n; k++)
        bb_broadcast_strides(in[k], y, w->strides[k + 1]);
    bb_walk_begin(w);
    return !bb_walk_empty(w);
}

/* y = a op b with both broadcast to y; y may be a itself where a has y's shape. */
static bb_status combine(const bb_eval *e, const bb_array *a, const bb_array *b,
                         const bb_array *y) {
    bb_walk w;
    if (!walk_broadcast(&w, y, 2, (const bb_array *const[]){a, b}))
        return BB_STATUS_OK;
    int last = w.rank - 1;
    rows r = {w.dims[last], w.strides[1][last], w.strides[2][last]};
    bool f32 = a->dtype == BB_DTYPE_F32 && b->dtype == BB_DTYPE_F32;
    bool c_mod = bb_node_int(e->node, "fmod", 0) != 0;
    do {
        if (f32)
            row_f32(e->node->op, r, (const float *)a->data + w.offset[1],
                    (const float *)b->data + w.offset[2], (float *)y->data + w.offset[0], c_mod);
        else
            BB_TRY(row_any(e, r, a, w.offset[1], b, w.offset[2], y, w.offset[0]));
    } while (bb_walk_next(&w));
    return BB_STATUS_OK;
}

bb_status bb_eval_binary(const bb_eval *e) {
    return combine(e, &e->in[0], &e->in[1], &e->out[0]);
}

bb_status bb_eval_prelu(const bb_eval *e) {
    return combine(e, &e->in[0], &e->in[1], &e->out[0]);
}

static void broadcast_copy(const bb_array *from, const bb_array *to) {
    bb_walk w = {.rank = to->rank, .n = 2};
    memcpy(w.dims, to->dims, sizeof(to->dims));
    bb_array_strides(to, w.strides[0]);
    bb_broadcast_strides(from, to, w.strides[1]);
    bb_walk_copy(&w, bb_dtype_size(to->dtype), to->data, from->data);
}

bb_status bb_eval_variadic(const bb_eval *e) {
    const bb_array *y = &e->out[0];
    int n = e->node->n_in;
    broadcast_copy(&e->in[0], y);
    for (int i = 1; i < n; i++)
        BB_TRY(combine(e, y, &e->in[i], y));
    if (e->node->op == BB_OP_MEAN)
        for (size_t i = 0; i < bb_array_elements(y); i++)
            bb_array_put_double(y, i, bb_array_double(y, i) / n);
    return BB_STATUS_OK;
}

bb_status bb_eval_expand(const bb_eval *e) {
    broadcast_copy(&e->in[0], &e->out[0]);
    return BB_STATUS_OK;
}

/* ---- comparisons and choice ------------------------------------------------------------------ */

static bool compare(bb_op op, double a, double b) {
    switch (op) {
    case BB_OP_EQUAL:
        return a == b;
    case BB_OP_GREATER:
        return a > b;
    case BB_OP_GREATER_OR_EQUAL:
        return a >= b;
    case BB_OP_LESS:
        return a < b;
    case BB_OP_LESS_OR_EQUAL:
        return a <= b;
    case BB_OP_AND:
        return a != 0 && b != 0;
    case BB_OP_OR:
        return a != 0 || b != 0;
    default: /* XOR */
        return (a != 0) != (b != 0);
    }
}

static bool compare_int(bb_op op, int64_t a, int64_t b) {
    /* Only the order matters, and int64 does not fit a double. */
    return op == BB_OP_AND || op == BB_OP_OR || op == BB_OP_XOR ? compare(op, a != 0, b != 0)
                                                                : compare(op, (a > b) - (a < b), 0);
}

bb_status bb_eval_compare(const bb_eval *e) {
    const bb_array *a = &e->in[0], *b = &e->in[1], *y = &e->out[0];
    bb_walk w;
    if (!walk_broadcast(&w, y, 2, (const bb_array *const[]){a, b}))
        return BB_STATUS_OK;
    int last = w.rank - 1;
    uint8_t *out = y->data;
    do {
        for (int64_t i = 0; i < w.dims[last]; i++) {
            size_t ia = (size_t)(w.offset[1] + i * w.strides[1][last]);
            size_t ib = (size_t)(w.offset[2] + i * w.strides[2][last]);
            out[w.offset[0] + i] =
                bb_dtype_is_float(a->dtype)
                    ? compare(e->node->op, bb_array_double(a, ia), bb_array_double(b, ib))
                    : compare_int(e->node->op, bb_array_int(a, ia), bb_array_int(b, ib));
        }
    } while (bb_walk_next(&w));
    return BB_STATUS_OK;
}

bb_status bb_eval_where(const bb_eval *e) {
    const bb_array *y = &e->out[0];
    size_t size = bb_dtype_size(y->dtype);
    bb_walk w;
    if (!walk_broadcast(&w, y, 3, (const bb_array *const[]){&e->in[0], &e->in[1], &e->in[2]}))
        return BB_STATUS_OK;
    int last = w.rank - 1;
    do {
        for (int64_t i = 0; i < w.dims[last]; i++) {
            bool c = bb_array_int(&e->in[0], (size_t)(w.offset[1] + i * w.strides[1][last])) != 0;
            int k = c ? 2 : 3;
            size_t from = (size_t)(w.offset[k] + i * w.strides[k][last]);
            memcpy((char *)y->data + (size_t)(w.offset[0] + i) * size,
                   (const char *)e->in[k - 1].data + from * size, size);
        }
    } while (bb_walk_next(&w));
    return BB_STATUS_OK;
}

bb_status bb_eval_cast(const bb_eval *e) {
    const bb_array *x = &e->in[0], *y = &e->out[0];
    size_t n = bb_array_elements(y);
    bool floats = bb_dtype_is_float(x->dtype);
    int64_t lo, hi;
    bb_dtype_range(y->dtype, &lo, &hi);
    for (size_t i = 0; i < n; i++) {
        if (bb_dtype_is_float(y->dtype) || (y->dtype == BB_DTYPE_BOOL && floats)) {
            bb_array_put_double(y, i, bb_array_double(x, i));
            continue;
        }
        int64_t v = bb_array_int(x, i);
        if (floats)
            v = v < lo ? lo : v > hi ? hi : v;
        bb_array_put_int(y, i, v);
    }
    return BB_STATUS_OK;
}
