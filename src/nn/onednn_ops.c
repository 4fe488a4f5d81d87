/* SPDX-License-Identifier: Apache-2.0 */
/* One function per kind of oneDNN operation: descriptor in, prepared operation out. */
#include "nn/onednn_internal.h"

_Static_assert(BB_DN_DIMS == DNNL_MAX_NDIMS, "dims arrays are handed to oneDNN as they are");

dnnl_alg_kind_t bb_dn_function_kind(bb_dn_function function) {
    switch (function) {
    case BB_DN_RELU:
        return dnnl_eltwise_relu;
    case BB_DN_CLIP:
        return dnnl_eltwise_clip;
    case BB_DN_LINEAR:
        return dnnl_eltwise_linear;
    case BB_DN_LOGISTIC:
        return dnnl_eltwise_logistic;
    case BB_DN_TANH:
        return dnnl_eltwise_tanh;
    case BB_DN_ELU:
        return dnnl_eltwise_elu;
    case BB_DN_HARD_SWISH:
        return dnnl_eltwise_hardswish;
    case BB_DN_MISH:
        return dnnl_eltwise_mish;
    case BB_DN_GELU_ERF:
        return dnnl_eltwise_gelu_erf;
    case BB_DN_GELU_TANH:
        return dnnl_eltwise_gelu_tanh;
    case BB_DN_ROUND:
        return dnnl_eltwise_round;
    case BB_DN_SUM:
        break;
    }
    return dnnl_alg_kind_undef;
}

bool bb_dn_conv_mds(const bb_dn_conv *conv, dnnl_memory_desc_t *src, dnnl_memory_desc_t *weights,
                    dnnl_memory_desc_t *bias, dnnl_memory_desc_t *dst) {
    int64_t dims[BB_DN_MAX_RANK];
    int n = 0;
    if (conv->groups > 1)
        dims[n++] = conv->groups;
    dims[n++] = conv->dst[1] / conv->groups;
    dims[n++] = conv->src[1] / conv->groups;
    for (int i = 0; i < conv->rank - 2; i++)
        dims[n++] = conv->kernel[i];
    return bb_dn_any_md(src, conv->rank, conv->src) && bb_dn_any_md(dst, conv->rank, conv->dst) &&
           bb_dn_any_md(weights, n, dims) && bb_dn_any_md(bias, 1, &conv->dst[1]);
}

bb_status bb_dn_make_conv(bb_dn *dn, const bb_dn_conv *conv, const bb_dn_posts *posts,
                          bb_dn_op **op, bb_error *err) {
    dnnl_memory_desc_t src, weights, bias, dst;
    dnnl_dims_t extra = {0}; /* oneDNN counts the gaps: 0 = dense */
    if (!bb_dn_conv_mds(conv, &src, &weights, &bias, &dst))
        return bb_dn_fail(err, dnnl_invalid_arguments, "convolution");
    for (int i = 0; i < conv->rank - 2; i++)
        extra[i] = conv->dilation[i] - 1;
    const dnnl_memory_desc_t *bias_md = conv->bias ? &bias : NULL;
    union {
        dnnl_convolution_desc_t conv;
        dnnl_deconvolution_desc_t deconv;
    } desc;
    dnnl_status_t status =
        conv->transposed
            ? dnnl_dilated_deconvolution_forward_desc_init(
                  &desc.deconv, dnnl_forward_inference, dnnl_deconvolution_direct, &src, &weights,
                  bias_md, &dst, conv->stride, extra, conv->pad_begin, conv->pad_end)
            : dnnl_dilated_convolution_forward_desc_init(
                  &desc.conv, dnnl_forward_inference, dnnl_convolution_direct, &src, &weights,
                  bias_md, &dst, conv->stride, extra, conv->pad_begin, conv->pad_end);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "convolution");
    return bb_dn_finish(dn, &desc, posts, 5, "convolution", op, err);
}

bb_status bb_dn_make_pool(bb_dn *dn, const bb_dn_pool *pool, const bb_dn_layout *src, bb_dn_op **op,
                          bb_error *err) {
    static const dnnl_alg_kind_t kinds[] = {[BB_DN_POOL_MAX] = dnnl_pooling_max,
                                            [BB_DN_POOL_AVG] = dnnl_pooling_avg_exclude_padding,
                                            [BB_DN_POOL_AVG_PADDED] =
                                                dnnl_pooling_avg_include_padding};
    dnnl_memory_desc_t dst;
    dnnl_dims_t extra = {0};
    for (int i = 0; i < pool->rank - 2; i++)
        extra[i] = pool->dilation[i] - 1;
    dnnl_pooling_v2_desc_t desc;
    dnnl_status_t status =
        bb_dn_any_md(&dst, pool->rank, pool->dst) ? dnnl_success : dnnl_invalid_arguments;
    if (status == dnnl_success)
        status = dnnl_pooling_v2_forward_desc_init(&desc, dnnl_forward_inference, kinds[pool->kind],
                                                   &src->md, &dst, pool->stride, pool->kernel,
                                                   extra, pool->pad_begin, pool->pad_end);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "pooling");
    return bb_dn_finish(dn, &desc, NULL, 3, "pooling", op, err);
}

bb_status bb_dn_make_function(bb_dn *dn, const bb_dn_post *function, const bb_dn_layout *layout,
                              bb_dn_op **op, bb_error *err) {
    dnnl_eltwise_desc_t desc;
    dnnl_status_t status = dnnl_eltwise_forward_desc_init(
        &desc, dnnl_forward_inference, bb_dn_function_kind(function->function), &layout->md,
        function->alpha, function->beta);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "elementwise function");
    return bb_dn_finish(dn, &desc, NULL, 3, "elementwise function", op, err);
}

bb_status bb_dn_make_binary(bb_dn *dn, bb_dn_binary binary, const bb_dn_layout *src0,
                            const bb_dn_layout *src1, const bb_dn_posts *posts, bb_dn_op **op,
                            bb_error *err) {
    static const dnnl_alg_kind_t kinds[] = {
        [BB_DN_ADD] = dnnl_binary_add, [BB_DN_SUB] = dnnl_binary_sub,
        [BB_DN_MUL] = dnnl_binary_mul, [BB_DN_DIV] = dnnl_binary_div,
        [BB_DN_MAX] = dnnl_binary_max, [BB_DN_MIN] = dnnl_binary_min};
    dnnl_binary_desc_t desc;
    dnnl_status_t status =
        dnnl_binary_desc_init(&desc, kinds[binary], &src0->md, &src1->md, &src0->md);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "binary operation");
    return bb_dn_finish(dn, &desc, posts, 4, "binary operation", op, err);
}

bb_status bb_dn_make_concat(bb_dn *dn, int axis, int n, const bb_dn_layout *const *src,
                            const bb_dn_layout *dst, bb_dn_op **op, bb_error *err) {
    dnnl_memory_desc_t *mds = bb_alloc_array((size_t)n, sizeof(*mds));
    dnnl_primitive_attr_t attr = bb_dn_attributes(NULL);
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t status = dnnl_out_of_memory;
    if (mds && attr) {
        for (int i = 0; i < n; i++)
            mds[i] = src[i]->md;
        status = dnnl_concat_primitive_desc_create(&pd, &dst->md, n, axis, mds, attr, dn->engine);
    }
    bb_free(mds);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "concatenation");
    return bb_dn_finish_pd(dn, pd, n + 2, "concatenation", op, err);
}

bb_status bb_dn_make_inner_product(bb_dn *dn, int64_t m, int64_t n, int64_t k, bool bias,
                                   const bb_dn_posts *posts, bb_dn_op **op, bb_error *err) {
    dnnl_memory_desc_t src, weights, bias_md, dst;
    dnnl_inner_product_desc_t desc;
    int64_t src_dims[2] = {m, k}, weights_dims[2] = {n, k}, dst_dims[2] = {m, n};
    int64_t src_strides[2] = {k, 1}, dst_strides[2] = {n, 1};
    bool ok = bb_dn_strided_md(&src, 2, src_dims, src_strides) &&
              bb_dn_any_md(&weights, 2, weights_dims) && bb_dn_any_md(&bias_md, 1, &n) &&
              bb_dn_strided_md(&dst, 2, dst_dims, dst_strides);
    dnnl_status_t status =
        ok ? dnnl_inner_product_forward_desc_init(&desc, dnnl_forward_inference, &src, &weights,
                                                  bias ? &bias_md : NULL, &dst)
           : dnnl_invalid_arguments;
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "inner product");
    return bb_dn_finish(dn, &desc, posts, 5, "inner product", op, err);
}

bb_status bb_dn_make_matmul(bb_dn *dn, const bb_dn_layout *src, const bb_dn_layout *weights,
                            const bb_dn_layout *dst, const bb_dn_posts *posts, bb_dn_op **op,
                            bb_error *err) {
    dnnl_matmul_desc_t desc;
    dnnl_status_t status = dnnl_matmul_desc_init(&desc, &src->md, &weights->md, NULL, &dst->md);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "matrix product");
    return bb_dn_finish(dn, &desc, posts, 4, "matrix product", op, err);
}

bb_status bb_dn_make_softmax(bb_dn *dn, bool logarithm, int axis, const bb_dn_layout *layout,
                             bb_dn_op **op, bb_error *err) {
    dnnl_softmax_v2_desc_t desc;
    dnnl_status_t status = dnnl_softmax_v2_forward_desc_init(
        &desc, dnnl_forward_inference, logarithm ? dnnl_softmax_log : dnnl_softmax_accurate,
        &layout->md, &layout->md, axis);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "softmax");
    return bb_dn_finish(dn, &desc, NULL, 3, "softmax", op, err);
}

bb_status bb_dn_make_batch_norm(bb_dn *dn, float epsilon, const bb_dn_layout *layout, bb_dn_op **op,
                                bb_error *err) {
    dnnl_batch_normalization_desc_t desc;
    dnnl_status_t status = dnnl_batch_normalization_forward_desc_init(
        &desc, dnnl_forward_inference, &layout->md, epsilon,
        dnnl_use_global_stats | dnnl_use_scaleshift);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "batch normalization");
    return bb_dn_finish(dn, &desc, NULL, 6, "batch normalization", op, err);
}

bb_status bb_dn_make_prelu(bb_dn *dn, const bb_dn_layout *layout, const bb_dn_layout *slopes,
                           bb_dn_op **op, bb_error *err) {
    dnnl_prelu_desc_t desc;
    dnnl_status_t status =
        dnnl_prelu_forward_desc_init(&desc, dnnl_forward_inference, &layout->md, &slopes->md);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "PReLU");
    return bb_dn_finish(dn, &desc, NULL, 4, "PReLU", op, err);
}

bb_status bb_dn_make_reorder(bb_dn *dn, const bb_dn_layout *src, const bb_dn_layout *dst,
                             bb_dn_op **op, bb_error *err) {
    dnnl_primitive_attr_t attr = bb_dn_attributes(NULL);
    if (!attr)
        return bb_fail_memory(err, "oneDNN attributes");
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t status =
        dnnl_reorder_primitive_desc_create(&pd, &src->md, dn->engine, &dst->md, dn->engine, attr);
    dnnl_primitive_attr_destroy(attr);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "reorder");
    return bb_dn_finish_pd(dn, pd, 3, "reorder", op, err);
}
