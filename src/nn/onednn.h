/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file onednn.h
 * The only door to oneDNN: f32 memory layouts and prepared operations behind opaque handles.
 * Written for the C API of oneDNN 2.x; a 3.x port changes onednn.c and onednn_ops.c alone.
 *
 * Objects belong to the bb_dn that made them and die with it.
 */
#ifndef BB_NN_ONEDNN_H
#define BB_NN_ONEDNN_H

#include "base/base.h"

enum {
    BB_DN_MAX_RANK = 8,
    BB_DN_DIMS = 12, /**< room oneDNN wants in every dims array */
    BB_DN_MAX_POSTS = 6,
    BB_DN_MAX_ARGS = 8
};

typedef struct bb_dn bb_dn;               /**< engine and stream */
typedef struct bb_dn_layout bb_dn_layout; /**< where each f32 element of a tensor lies */
typedef struct bb_dn_op bb_dn_op;         /**< one prepared operation and its memory */

typedef enum bb_dn_arg {
    BB_DN_SRC,
    BB_DN_SRC1,
    BB_DN_WEIGHTS, /**< also the slopes of PReLU, and scale then shift of batch norm */
    BB_DN_BIAS,
    BB_DN_MEAN,
    BB_DN_VARIANCE,
    BB_DN_DST,
    BB_DN_SCRATCH,
    BB_DN_WORKSPACE, /**< what a forward operation of training leaves to its backward one */
    BB_DN_DIFF_SRC,
    BB_DN_DIFF_WEIGHTS, /**< as BB_DN_WEIGHTS */
    BB_DN_DIFF_BIAS,
    BB_DN_DIFF_DST,
    BB_DN_MULTIPLE /**< BB_DN_MULTIPLE + i = input i of a concat */
} bb_dn_arg;

typedef enum bb_dn_function {
    BB_DN_RELU,   /**< alpha = slope below zero */
    BB_DN_CLIP,   /**< to [alpha, beta] */
    BB_DN_LINEAR, /**< alpha*x + beta */
    BB_DN_LOGISTIC,
    BB_DN_TANH,
    BB_DN_ELU, /**< alpha */
    BB_DN_HARD_SWISH,
    BB_DN_MISH,
    BB_DN_GELU_ERF,
    BB_DN_GELU_TANH,
    BB_DN_ROUND, /**< half to even */
    BB_DN_SUM    /**< adds what lies in the destination before */
} bb_dn_function;

/** Applied in order to the result before it is stored. */
typedef struct bb_dn_post {
    bb_dn_function function;
    float alpha, beta;
} bb_dn_post;

typedef struct bb_dn_posts {
    int n;
    bb_dn_post post[BB_DN_MAX_POSTS];
} bb_dn_posts;

bb_status bb_dn_create(bb_dn **dn, bb_error *err);
/** True where the processor multiplies bfloat16 numbers (oneDNN would emulate them elsewhere). */
bool bb_dn_has_bf16(void);
/** From now on operations may use kernels whose last bits depend on the number of threads. */
void bb_dn_allow_shared_sums(bb_dn *dn);
void bb_dn_destroy(bb_dn *dn); /**< NULL is fine */

/** Sets the threads of this calling thread's oneDNN calls; returns the number set before. */
int bb_dn_set_threads(int threads);
/** Calls fn(user, part, parts) for every part at once, on oneDNN's own threads. */
void bb_dn_parallel(int parts, void (*fn)(void *user, int part, int parts), void *user);

/* ---- layouts; all functions give NULL when out of memory or not expressible ---------------- */

/** Row-major. Rank 0 is treated as one element. */
const bb_dn_layout *bb_dn_plain(bb_dn *dn, int rank, const int64_t *dims);
const bb_dn_layout *bb_dn_strided(bb_dn *dn, int rank, const int64_t *dims, const int64_t *strides);
/** Channels innermost (NHWC for rank 4). */
const bb_dn_layout *bb_dn_channels_last(bb_dn *dn, int rank, const int64_t *dims);
/** Channels in blocks as in `layout`, for other dims; NULL where layout is not of that kind. */
const bb_dn_layout *bb_dn_blocked_like(bb_dn *dn, const bb_dn_layout *layout, int rank,
                                       const int64_t *dims);
/** To be chosen by the operation. */
const bb_dn_layout *bb_dn_any(bb_dn *dn, int rank, const int64_t *dims);
/** The same places for bfloat16 numbers. Reorders round to the nearest. */
const bb_dn_layout *bb_dn_bf16(bb_dn *dn, const bb_dn_layout *layout);
bool bb_dn_same(const bb_dn_layout *a, const bb_dn_layout *b);
/** True where f32 elements lie row-major without gaps. */
bool bb_dn_is_plain(const bb_dn_layout *layout);
size_t bb_dn_bytes(const bb_dn_layout *layout);

/** A layout seen as [images][blocks][pixels][lanes]: channel c is lane c % lanes of block
 *  c / lanes. Row-major: lanes 1; channels innermost: blocks 1. */
typedef struct bb_dn_channels {
    size_t images, blocks, pixels, lanes, channels;
} bb_dn_channels;
/** False where the layout is not of that kind, or not of f32. Row-major tensors of rank 0 and 1 are
 * one image. */
bool bb_dn_as_channels(const bb_dn_layout *layout, bb_dn_channels *form);

/* ---- operations ------------------------------------------------------------------------------ */

/** Convolution or its transpose. dims are N, C, spatial...; weights as oneDNN orders them:
 *  [groups,] out, in, spatial.... Spatial arrays have rank-2 entries. */
typedef struct bb_dn_conv {
    bool transposed;
    int rank;
    int groups; /**< 1: weights without group axis */
    int64_t src[BB_DN_DIMS], dst[BB_DN_DIMS];
    int64_t kernel[BB_DN_DIMS], stride[BB_DN_DIMS], dilation[BB_DN_DIMS];
    int64_t pad_begin[BB_DN_DIMS], pad_end[BB_DN_DIMS];
    bool bias;
} bb_dn_conv;

typedef struct bb_dn_pool {
    enum { BB_DN_POOL_MAX, BB_DN_POOL_AVG, BB_DN_POOL_AVG_PADDED } kind;
    int rank;
    int64_t dst[BB_DN_DIMS];
    int64_t kernel[BB_DN_DIMS], stride[BB_DN_DIMS], dilation[BB_DN_DIMS];
    int64_t pad_begin[BB_DN_DIMS], pad_end[BB_DN_DIMS];
} bb_dn_pool;

/** Sums, then products, then the rest: gradients ask from which on operands are needed again. */
typedef enum bb_dn_binary {
    BB_DN_ADD,
    BB_DN_SUB,
    BB_DN_MUL,
    BB_DN_DIV,
    BB_DN_MAX,
    BB_DN_MIN
} bb_dn_binary;

bb_status bb_dn_make_conv(bb_dn *dn, const bb_dn_conv *conv, const bb_dn_posts *posts,
                          bb_dn_op **op, bb_error *err);
bb_status bb_dn_make_pool(bb_dn *dn, const bb_dn_pool *pool, const bb_dn_layout *src, bb_dn_op **op,
                          bb_error *err);
bb_status bb_dn_make_function(bb_dn *dn, const bb_dn_post *function, const bb_dn_layout *layout,
                              bb_dn_op **op, bb_error *err);
/** dst = src0 op src1 in src0's layout; src1 may have ones for dims. */
bb_status bb_dn_make_binary(bb_dn *dn, bb_dn_binary binary, const bb_dn_layout *src0,
                            const bb_dn_layout *src1, const bb_dn_posts *posts, bb_dn_op **op,
                            bb_error *err);
bb_status bb_dn_make_concat(bb_dn *dn, int axis, int n, const bb_dn_layout *const *src,
                            const bb_dn_layout *dst, bb_dn_op **op, bb_error *err);
/** dst[m][n] = sum_k src[m][k] weights[n][k] + bias[n]. */
bb_status bb_dn_make_inner_product(bb_dn *dn, int64_t m, int64_t n, int64_t k, bool bias,
                                   const bb_dn_posts *posts, bb_dn_op **op, bb_error *err);
/** dst = src * weights over the last two axes, leading ones broadcast. */
bb_status bb_dn_make_matmul(bb_dn *dn, const bb_dn_layout *src, const bb_dn_layout *weights,
                            const bb_dn_layout *dst, const bb_dn_posts *posts, bb_dn_op **op,
                            bb_error *err);
bb_status bb_dn_make_softmax(bb_dn *dn, bool logarithm, int axis, const bb_dn_layout *layout,
                             bb_dn_op **op, bb_error *err);
/** With given mean and variance; WEIGHTS holds scale[C] then shift[C]. */
bb_status bb_dn_make_batch_norm(bb_dn *dn, float epsilon, const bb_dn_layout *layout, bb_dn_op **op,
                                bb_error *err);
/** slopes: same rank, dims 1 or equal; may be `any`. */
bb_status bb_dn_make_prelu(bb_dn *dn, const bb_dn_layout *layout, const bb_dn_layout *slopes,
                           bb_dn_op **op, bb_error *err);

/* Training: the forward operation computes what backward needs; backward ones take it as hint. */
bb_status bb_dn_make_conv_training(bb_dn *dn, const bb_dn_conv *conv, bb_dn_op **op, bb_error *err);
/** In the layouts of `forward` where oneDNN has a fast kernel for them, else in its own. */
bb_status bb_dn_make_conv_data(bb_dn *dn, const bb_dn_conv *conv, const bb_dn_op *forward,
                               bb_dn_op **op, bb_error *err);
bb_status bb_dn_make_conv_weights(bb_dn *dn, const bb_dn_conv *conv, const bb_dn_op *forward,
                                  bb_dn_op **op, bb_error *err);
typedef enum bb_dn_pass { BB_DN_FORWARD, BB_DN_BACKWARD_DATA, BB_DN_BACKWARD_WEIGHTS } bb_dn_pass;
/** A pass that reads bfloat16 numbers, sums in f32 and writes f32 (biases are f32), in the layouts
 *  of `forward`, which is in f32. *op = NULL where that gains nothing or has no fast kernel. posts:
 * of the forward pass, may be NULL. */
bb_status bb_dn_make_conv_bf16(bb_dn *dn, const bb_dn_conv *conv, bb_dn_pass pass,
                               const bb_dn_op *forward, const bb_dn_posts *posts, bb_dn_op **op,
                               bb_error *err);
/** `fixed`: with given mean and variance; else they are outputs. */
typedef struct bb_dn_norm {
    float epsilon;
    bool relu, fixed;
} bb_dn_norm;
bb_status bb_dn_make_norm_training(bb_dn *dn, const bb_dn_norm *norm, const bb_dn_layout *layout,
                                   bb_dn_op **op, bb_error *err);
bb_status bb_dn_make_norm_backward(bb_dn *dn, const bb_dn_norm *norm, const bb_dn_layout *layout,
                                   const bb_dn_op *forward, bb_dn_op **op, bb_error *err);
bb_status bb_dn_make_pool_training(bb_dn *dn, const bb_dn_pool *pool, const bb_dn_layout *src,
                                   bb_dn_op **op, bb_error *err);
bb_status bb_dn_make_pool_backward(bb_dn *dn, const bb_dn_pool *pool, const bb_dn_layout *src,
                                   const bb_dn_op *forward, bb_dn_op **op, bb_error *err);
/** From SRC and DIFF_DST to DIFF_SRC, all in one layout. */
bb_status bb_dn_make_function_backward(bb_dn *dn, const bb_dn_post *function,
                                       const bb_dn_layout *layout, bb_dn_op **op, bb_error *err);
/** c[m][n] = alpha * op(a) * op(b) + beta * c, row-major; leading dims as BLAS has them. */
typedef struct bb_dn_product {
    bool a_transposed, b_transposed;
    int64_t m, n, k, lda, ldb, ldc;
    float alpha, beta;
} bb_dn_product;
bb_status bb_dn_gemm(const bb_dn_product *product, const float *a, const float *b, float *c,
                     bb_error *err);

bb_status bb_dn_make_reorder(bb_dn *dn, const bb_dn_layout *src, const bb_dn_layout *dst,
                             bb_dn_op **op, bb_error *err);

/** Layout the operation settled on for an argument. */
const bb_dn_layout *bb_dn_op_layout(bb_dn *dn, const bb_dn_op *op, bb_dn_arg arg);
/** Bytes of BB_DN_SCRATCH to bind, 0 = none. */
size_t bb_dn_op_scratch(const bb_dn_op *op);
/** Implementation name, e.g. "jit:avx2"; one that holds "ref" is slow. */
const char *bb_dn_op_implementation(const bb_dn_op *op);
/** Gives an argument its memory, once, before the first run. Padding lanes are zeroed. */
bb_status bb_dn_op_bind(bb_dn *dn, bb_dn_op *op, bb_dn_arg arg, void *data, bb_error *err);
bb_status bb_dn_op_run(bb_dn *dn, bb_dn_op *op, bb_error *err);
/** Converts at once; used for weights. */
bb_status bb_dn_convert(bb_dn *dn, const bb_dn_layout *src, const void *from,
                        const bb_dn_layout *dst, void *to, bb_error *err);

#endif
