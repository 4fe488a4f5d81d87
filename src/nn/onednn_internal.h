/* SPDX-License-Identifier: Apache-2.0 */
/** @file onednn_internal.h  Shared by the files that include dnnl.h, and only by them. */
#ifndef BB_NN_ONEDNN_INTERNAL_H
#define BB_NN_ONEDNN_INTERNAL_H

#include "nn/onednn.h"
#include <dnnl.h>

struct bb_dn_layout {
    dnnl_memory_desc_t md;
};

typedef struct bb_dn_binding {
    int dnnl_arg;
    dnnl_memory_t memory;
} bb_dn_binding;

struct bb_dn_op {
    bb_dn_op *next;
    dnnl_primitive_desc_t pd;
    dnnl_primitive_t primitive;
    const char *implementation;
    bool serial; /* runs on one thread, whatever is set */
    size_t scratch;
    int n_args, cap_args;
    dnnl_exec_arg_t *args;
};

struct bb_dn {
    bb_arena *arena;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    bb_dn_op *ops;
    bool shared_sums; /* operations may sum in an order that depends on the threads */
};

/** Memory descriptors of f32 tensors; false where oneDNN refuses. */
bool bb_dn_any_md(dnnl_memory_desc_t *md, int rank, const int64_t *dims);
bool bb_dn_strided_md(dnnl_memory_desc_t *md, int rank, const int64_t *dims,
                      const int64_t *strides);

/** A bb_status for a failed oneDNN call, naming it. */
bb_status bb_dn_fail(bb_error *err, dnnl_status_t status, const char *what);
/** Makes the primitive of a descriptor. posts may be NULL. n_args: most arguments it can have. */
bb_status bb_dn_finish(bb_dn *dn, const_dnnl_op_desc_t desc, const bb_dn_posts *posts, int n_args,
                       const char *what, bb_dn_op **op, bb_error *err);
/** The same for the backward operation of `hint`. */
bb_status bb_dn_finish_backward(bb_dn *dn, const_dnnl_op_desc_t desc, const bb_dn_op *hint,
                                int n_args, const char *what, bb_dn_op **op, bb_error *err);
/** Descriptors of a convolution's tensors, all `any`. */
bool bb_dn_conv_mds(const bb_dn_conv *conv, dnnl_memory_desc_t *src, dnnl_memory_desc_t *weights,
                    dnnl_memory_desc_t *bias, dnnl_memory_desc_t *dst);
/** The same for a primitive descriptor that has no operation descriptor; takes `pd` over. */
bb_status bb_dn_finish_pd(bb_dn *dn, dnnl_primitive_desc_t pd, int n_args, const char *what,
                          bb_dn_op **op, bb_error *err);
/** Attributes with a caller's scratchpad and post-operations, or NULL. */
dnnl_primitive_attr_t bb_dn_attributes(const bb_dn_posts *posts);
dnnl_alg_kind_t bb_dn_function_kind(bb_dn_function function);

#endif
