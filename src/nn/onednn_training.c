/* SPDX-License-Identifier: Apache-2.0 */
/* oneDNN operations of training: forward ones that keep what backward needs, and backward ones. */
#include "nn/onednn_internal.h"
#include <string.h>

/* ---- convolution ----------------------------------------------------------------------------- */

typedef union conv_desc {
    dnnl_convolution_desc_t conv;
    dnnl_deconvolution_desc_t deconv;
} conv_desc;

typedef struct conv_mds {
    dnnl_memory_desc_t src, weights, bias, dst;
    dnnl_dims_t extra; /* oneDNN counts the gaps of dilation: 0 = dense */
} conv_mds;

static bb_status describe(const bb_dn_conv *conv, conv_mds *mds, bb_error *err) {
    memset(mds, 0, sizeof(*mds));
    if (!bb_dn_conv_mds(conv, &mds->src, &mds->weights, &mds->bias, &mds->dst))
        return bb_dn_fail(err, dnnl_invalid_arguments, "convolution");
    for (int i = 0; i < conv->rank - 2; i++)
        mds->extra[i] = conv->dilation[i] - 1;
    return BB_STATUS_OK;
}

static bb_status make_forward(bb_dn *dn, const bb_dn_conv *conv, const conv_mds *mds,
                              const bb_dn_posts *posts, bb_dn_op **op, bb_error *err) {
    conv_desc desc;
    const dnnl_memory_desc_t *bias = conv->bias ? &mds->bias : NULL;
    dnnl_status_t status = conv->transposed
                               ? dnnl_dilated_deconvolution_forward_desc_init(
                                     &desc.deconv, dnnl_forward_training, dnnl_deconvolution_direct,
                                     &mds->src, &mds->weights, bias, &mds->dst, conv->stride,
                                     mds->extra, conv->pad_begin, conv->pad_end)
                               : dnnl_dilated_convolution_forward_desc_init(
                                     &desc.conv, dnnl_forward_training, dnnl_convolution_direct,
                                     &mds->src, &mds->weights, bias, &mds->dst, conv->stride,
                                     mds->extra, conv->pad_begin, conv->pad_end);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "convolution");
    return bb_dn_finish(dn, &desc, posts, 5, "convolution", op, err);
}

bb_status bb_dn_make_conv_training(bb_dn *dn, const bb_dn_conv *conv, bb_dn_op **op,
                                   bb_error *err) {
    conv_mds mds;
    BB_TRY(describe(conv, &mds, err));
    return make_forward(dn, conv, &mds, NULL, op, err);
}

/* Backward in the forward's layouts, so that nothing is turned between the passes. */
static bool pin(conv_mds *mds, const bb_dn_op *forward) {
    const dnnl_memory_desc_t *src =
        dnnl_primitive_desc_query_md(forward->pd, dnnl_query_exec_arg_md, DNNL_ARG_SRC);
    const dnnl_memory_desc_t *dst =
        dnnl_primitive_desc_query_md(forward->pd, dnnl_query_exec_arg_md, DNNL_ARG_DST);
    if (!src || !dst)
        return false;
    mds->src = *src;
    mds->dst = *dst;
    return true;
}

/* oneDNN falls back silently to loops that are 50 times slower where it has no kernel. */
static bool is_slow(const bb_dn_op *op) {
    return strstr(op->implementation, "ref") != NULL;
}

typedef bb_status (*make_fn)(bb_dn *dn, const bb_dn_conv *conv, const conv_mds *mds,
                             const bb_dn_op *forward, bb_dn_op **op, bb_error *err);

static bb_status make_pinned(bb_dn *dn, const bb_dn_conv *conv, const bb_dn_op *forward,
                             make_fn make, bb_dn_op **op, bb_error *err) {
    conv_mds any, pinned;
    BB_TRY(describe(conv, &any, err));
    pinned = any;
    *op = NULL;
    if (pin(&pinned, forward))
        (void)make(dn, conv, &pinned, forward, op, NULL);
    if (*op && !is_slow(*op))
        return BB_STATUS_OK;
    bb_dn_op *slow = *op;
    bb_status status = make(dn, conv, &any, forward, op, slow ? NULL : err);
    if (slow && (status != BB_STATUS_OK || is_slow(*op))) {
        *op = slow;
        status = BB_STATUS_OK;
    }
    return status;
}

static bb_status make_data(bb_dn *dn, const bb_dn_conv *conv, const conv_mds *mds,
                           const bb_dn_op *forward, bb_dn_op **op, bb_error *err) {
    conv_desc desc;
    dnnl_status_t status =
        conv->transposed ? dnnl_dilated_deconvolution_backward_data_desc_init(
                               &desc.deconv, dnnl_deconvolution_direct, &mds->src, &mds->weights,
                               &mds->dst, conv->stride, mds->extra, conv->pad_begin, conv->pad_end)
                         : dnnl_dilated_convolution_backward_data_desc_init(
                               &desc.conv, dnnl_convolution_direct, &mds->src, &mds->weights,
                               &mds->dst, conv->stride, mds->extra, conv->pad_begin, conv->pad_end);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "convolution's gradient of its input");
    return bb_dn_finish_backward(dn, &desc, forward, 4, "convolution's gradient of its input", op,
                                 err);
}

static bb_status make_weights(bb_dn *dn, const bb_dn_conv *conv, const conv_mds *mds,
                              const bb_dn_op *forward, bb_dn_op **op, bb_error *err) {
    conv_desc desc;
    const dnnl_memory_desc_t *bias = conv->bias ? &mds->bias : NULL;
    dnnl_status_t status =
        conv->transposed
            ? dnnl_dilated_deconvolution_backward_weights_desc_init(
                  &desc.deconv, dnnl_deconvolution_direct, &mds->src, &mds->weights, bias,
                  &mds->dst, conv->stride, mds->extra, conv->pad_begin, conv->pad_end)
            : dnnl_dilated_convolution_backward_weights_desc_init(
                  &desc.conv, dnnl_convolution_direct, &mds->src, &mds->weights, bias, &mds->dst,
                  conv->stride, mds->extra, conv->pad_begin, conv->pad_end);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "convolution's gradient of its weights");
    return bb_dn_finish_backward(dn, &desc, forward, 5, "convolution's gradient of its weights", op,
                                 err);
}

bb_status bb_dn_make_conv_data(bb_dn *dn, const bb_dn_conv *conv, const bb_dn_op *forward,
                               bb_dn_op **op, bb_error *err) {
    return make_pinned(dn, conv, forward, make_data, op, err);
}

bb_status bb_dn_make_conv_weights(bb_dn *dn, const bb_dn_conv *conv, const bb_dn_op *forward,
                                  bb_dn_op **op, bb_error *err) {
    return make_pinned(dn, conv, forward, make_weights, op, err);
}

/* What a pass reads is bf16, what it writes f32. */
static void read_bf16(conv_mds *mds, bb_dn_pass pass) {
    if (pass != BB_DN_BACKWARD_DATA)
        mds->src.data_type = dnnl_bf16;
    if (pass != BB_DN_BACKWARD_WEIGHTS)
        mds->weights.data_type = dnnl_bf16;
    if (pass != BB_DN_FORWARD)
        mds->dst.data_type = dnnl_bf16;
}

/* Rounding one element takes the time that three passes gain in so many products (Zen 5, one
 * thread): depthwise layers and thin 1x1 layers wait for memory and would lose. */
static const double PRODUCTS_PER_ROUNDING = 18;

static bool pays_rounding(const bb_dn_conv *conv) {
    const int64_t *summed = conv->transposed ? conv->dst : conv->src;
    double inputs = 1, outputs = 1, products = (double)(summed[1] / conv->groups);
    for (int i = 0; i < conv->rank; i++) {
        inputs *= (double)conv->src[i];
        outputs *= (double)conv->dst[i];
    }
    for (int i = 0; i < conv->rank - 2; i++)
        products *= (double)conv->kernel[i];
    products *= conv->transposed ? inputs : outputs;
    return products > PRODUCTS_PER_ROUNDING * (inputs + outputs);
}

bb_status bb_dn_make_conv_bf16(bb_dn *dn, const bb_dn_conv *conv, bb_dn_pass pass,
                               const bb_dn_op *forward, const bb_dn_posts *posts, bb_dn_op **op,
                               bb_error *err) {
    conv_mds mds;
    *op = NULL;
    BB_TRY(describe(conv, &mds, err));
    if (!pays_rounding(conv) || !pin(&mds, forward))
        return BB_STATUS_OK;
    read_bf16(&mds, pass);
    bb_error own;
    bb_status status = pass == BB_DN_FORWARD ? make_forward(dn, conv, &mds, posts, op, &own)
                       : pass == BB_DN_BACKWARD_DATA
                           ? make_data(dn, conv, &mds, forward, op, &own)
                           : make_weights(dn, conv, &mds, forward, op, &own);
    if (status == BB_STATUS_UNSUPPORTED || (status == BB_STATUS_OK && is_slow(*op))) {
        *op = NULL;
        return BB_STATUS_OK;
    }
    if (status != BB_STATUS_OK && err)
        *err = own;
    return status;
}

/* ---- batch normalization --------------------------------------------------------------------- */

static unsigned norm_flags(const bb_dn_norm *norm) {
    return (unsigned)dnnl_use_scaleshift | (norm->relu ? (unsigned)dnnl_fuse_norm_relu : 0u) |
           (norm->fixed ? (unsigned)dnnl_use_global_stats : 0u);
}

bb_status bb_dn_make_norm_training(bb_dn *dn, const bb_dn_norm *norm, const bb_dn_layout *layout,
                                   bb_dn_op **op, bb_error *err) {
    dnnl_batch_normalization_desc_t desc;
    dnnl_status_t status = dnnl_batch_normalization_forward_desc_init(
        &desc, dnnl_forward_training, &layout->md, norm->epsilon, norm_flags(norm));
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "batch normalization");
    return bb_dn_finish(dn, &desc, NULL, 7, "batch normalization", op, err);
}

bb_status bb_dn_make_norm_backward(bb_dn *dn, const bb_dn_norm *norm, const bb_dn_layout *layout,
                                   const bb_dn_op *forward, bb_dn_op **op, bb_error *err) {
    dnnl_batch_normalization_desc_t desc;
    dnnl_status_t status = dnnl_batch_normalization_backward_desc_init(
        &desc, dnnl_backward, &layout->md, &layout->md, norm->epsilon, norm_flags(norm));
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "batch normalization's gradient");
    return bb_dn_finish_backward(dn, &desc, forward, 9, "batch normalization's gradient", op, err);
}

/* ---- pools ----------------------------------------------------------------------------------- */

static dnnl_alg_kind_t pool_kind(const bb_dn_pool *pool) {
    return pool->kind == BB_DN_POOL_MAX   ? dnnl_pooling_max
           : pool->kind == BB_DN_POOL_AVG ? dnnl_pooling_avg_exclude_padding
                                          : dnnl_pooling_avg_include_padding;
}

bb_status bb_dn_make_pool_training(bb_dn *dn, const bb_dn_pool *pool, const bb_dn_layout *src,
                                   bb_dn_op **op, bb_error *err) {
    dnnl_memory_desc_t dst;
    dnnl_dims_t extra = {0};
    dnnl_pooling_v2_desc_t desc;
    for (int i = 0; i < pool->rank - 2; i++)
        extra[i] = pool->dilation[i] - 1;
    dnnl_status_t status =
        bb_dn_any_md(&dst, pool->rank, pool->dst) ? dnnl_success : dnnl_invalid_arguments;
    if (status == dnnl_success)
        status = dnnl_pooling_v2_forward_desc_init(&desc, dnnl_forward_training, pool_kind(pool),
                                                   &src->md, &dst, pool->stride, pool->kernel,
                                                   extra, pool->pad_begin, pool->pad_end);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "pooling");
    return bb_dn_finish(dn, &desc, NULL, 4, "pooling", op, err);
}

bb_status bb_dn_make_pool_backward(bb_dn *dn, const bb_dn_pool *pool, const bb_dn_layout *src,
                                   const bb_dn_op *forward, bb_dn_op **op, bb_error *err) {
    dnnl_dims_t extra = {0};
    dnnl_pooling_v2_desc_t desc;
    for (int i = 0; i < pool->rank - 2; i++)
        extra[i] = pool->dilation[i] - 1;
    const dnnl_memory_desc_t *dst =
        dnnl_primitive_desc_query_md(forward->pd, dnnl_query_exec_arg_md, DNNL_ARG_DST);
    dnnl_status_t status = dst ? dnnl_pooling_v2_backward_desc_init(
                                     &desc, pool_kind(pool), &src->md, dst, pool->stride,
                                     pool->kernel, extra, pool->pad_begin, pool->pad_end)
                               : dnnl_invalid_arguments;
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "pooling's gradient");
    return bb_dn_finish_backward(dn, &desc, forward, 4, "pooling's gradient", op, err);
}

/* ---- elementwise functions ------------------------------------------------------------------- */

bb_status bb_dn_make_function_backward(bb_dn *dn, const bb_dn_post *function,
                                       const bb_dn_layout *layout, bb_dn_op **op, bb_error *err) {
    dnnl_eltwise_desc_t desc;
    bb_dn_op forward = {0};
    dnnl_alg_kind_t kind = bb_dn_function_kind(function->function);
    dnnl_status_t status = dnnl_eltwise_forward_desc_init(
        &desc, dnnl_forward_training, kind, &layout->md, function->alpha, function->beta);
    if (status == dnnl_success)
        status = dnnl_primitive_desc_create(&forward.pd, &desc, NULL, dn->engine, NULL);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "elementwise function");
    status = dnnl_eltwise_backward_desc_init(&desc, kind, &layout->md, &layout->md, function->alpha,
                                             function->beta);
    bb_status result = status == dnnl_success
                           ? bb_dn_finish_backward(dn, &desc, &forward, 4,
                                                   "elementwise function's gradient", op, err)
                           : bb_dn_fail(err, status, "elementwise function's gradient");
    dnnl_primitive_desc_destroy(forward.pd);
    return result;
}

/* ---- matrix products ------------------------------------------------------------------------- */

bb_status bb_dn_gemm(const bb_dn_product *p, const float *a, const float *b, float *c,
                     bb_error *err) {
    if (p->m == 0 || p->n == 0)
        return BB_STATUS_OK;
    dnnl_status_t status =
        dnnl_sgemm(p->a_transposed ? 'T' : 'N', p->b_transposed ? 'T' : 'N', p->m, p->n, p->k,
                   p->alpha, a, p->lda, b, p->ldb, p->beta, c, p->ldc);
    return status == dnnl_success ? BB_STATUS_OK : bb_dn_fail(err, status, "matrix product");
}
