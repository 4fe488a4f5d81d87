/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/onednn_internal.h"
#include <string.h>

/* libgomp is oneDNN's runtime in Debian; its header exists only for some compilers. */
extern void omp_set_num_threads(int);
extern int omp_get_max_threads(void);
extern int omp_get_thread_num(void);
extern int omp_get_num_threads(void);
extern void GOMP_parallel(void (*fn)(void *), void *data, unsigned threads, unsigned flags);

int bb_dn_set_threads(int threads) {
    int before = omp_get_max_threads();
    omp_set_num_threads(threads > 0 ? threads : 1);
    return before;
}

typedef struct parallel_call {
    void (*fn)(void *user, int part, int parts);
    void *user;
    int parts;
} parallel_call;

static void run_part(void *data) {
    const parallel_call *call = data;
    int threads = omp_get_num_threads();
    for (int part = omp_get_thread_num(); part < call->parts; part += threads)
        call->fn(call->user, part, call->parts);
}

void bb_dn_parallel(int parts, void (*fn)(void *user, int part, int parts), void *user) {
    parallel_call call = {fn, user, parts};
    if (parts > 1)
        GOMP_parallel(run_part, &call, (unsigned)parts, 0);
    else
        fn(user, 0, 1);
}

bb_status bb_dn_fail(bb_error *err, dnnl_status_t status, const char *what) {
    switch (status) {
    case dnnl_out_of_memory:
        return bb_fail_memory(err, what);
    case dnnl_unimplemented:
    case dnnl_invalid_arguments:
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "oneDNN cannot do this %s", what);
    default:
        return bb_fail(err, BB_STATUS_INTERNAL, "oneDNN failed in %s with status %d", what,
                       (int)status);
    }
}

bb_status bb_dn_create(bb_dn **out, bb_error *err) {
    bb_dn *dn = bb_calloc_array(1, sizeof(*dn));
    if (!dn)
        return bb_fail_memory(err, "oneDNN engine");
    dn->arena = bb_arena_create();
    dnnl_status_t status = dn->arena ? dnnl_success : dnnl_out_of_memory;
    if (status == dnnl_success)
        status = dnnl_engine_create(&dn->engine, dnnl_cpu, 0);
    if (status == dnnl_success)
        status = dnnl_stream_create(&dn->stream, dn->engine, dnnl_stream_default_flags);
    if (status != dnnl_success) {
        bb_dn_destroy(dn);
        return bb_dn_fail(err, status, "engine");
    }
    *out = dn;
    return BB_STATUS_OK;
}

bool bb_dn_has_bf16(void) {
    const unsigned wanted = dnnl_cpu_isa_avx512_core_bf16;
    return ((unsigned)dnnl_get_effective_cpu_isa() & wanted) == wanted;
}

void bb_dn_allow_shared_sums(bb_dn *dn) {
    dn->shared_sums = true;
}

static void release_op(bb_dn_op *op) {
    for (int i = 0; i < op->n_args; i++)
        dnnl_memory_destroy(op->args[i].memory);
    if (op->primitive)
        dnnl_primitive_destroy(op->primitive);
    if (op->pd)
        dnnl_primitive_desc_destroy(op->pd);
}

void bb_dn_destroy(bb_dn *dn) {
    if (!dn)
        return;
    for (bb_dn_op *op = dn->ops; op; op = op->next)
        release_op(op);
    if (dn->stream)
        dnnl_stream_destroy(dn->stream);
    if (dn->engine)
        dnnl_engine_destroy(dn->engine);
    bb_arena_destroy(dn->arena);
    bb_free(dn);
}

/* ---- layouts --------------------------------------------------------------------------------- */

/* oneDNN reads `rank` entries but declares its arrays with their full length. */
static void full_dims(dnnl_dims_t full, int rank, const int64_t *dims) {
    for (int i = 0; i < DNNL_MAX_NDIMS; i++)
        full[i] = i < rank ? dims[i] : 0;
}

bool bb_dn_any_md(dnnl_memory_desc_t *md, int rank, const int64_t *dims) {
    dnnl_dims_t full;
    full_dims(full, rank, dims);
    return dnnl_memory_desc_init_by_tag(md, rank, full, dnnl_f32, dnnl_format_tag_any) ==
           dnnl_success;
}

bool bb_dn_strided_md(dnnl_memory_desc_t *md, int rank, const int64_t *dims,
                      const int64_t *strides) {
    dnnl_dims_t full, full_strides;
    full_dims(full, rank, dims);
    full_dims(full_strides, rank, strides);
    return dnnl_memory_desc_init_by_strides(md, rank, full, dnnl_f32, full_strides) == dnnl_success;
}

static const bb_dn_layout *keep_layout(bb_dn *dn, const dnnl_memory_desc_t *md) {
    bb_dn_layout *layout = bb_arena_alloc(dn->arena, sizeof(*layout));
    if (layout)
        layout->md = *md;
    return layout;
}

const bb_dn_layout *bb_dn_strided(bb_dn *dn, int rank, const int64_t *dims,
                                  const int64_t *strides) {
    dnnl_memory_desc_t md;
    return bb_dn_strided_md(&md, rank, dims, strides) ? keep_layout(dn, &md) : NULL;
}

const bb_dn_layout *bb_dn_plain(bb_dn *dn, int rank, const int64_t *dims) {
    static const int64_t one[1] = {1};
    if (rank == 0) {
        rank = 1;
        dims = one;
    }
    if (rank < 0 || rank > BB_DN_MAX_RANK)
        return NULL;
    int64_t strides[BB_DN_MAX_RANK];
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; i--) {
        strides[i] = stride;
        stride *= dims[i] > 0 ? dims[i] : 1;
    }
    return bb_dn_strided(dn, rank, dims, strides);
}

const bb_dn_layout *bb_dn_channels_last(bb_dn *dn, int rank, const int64_t *dims) {
    int64_t strides[BB_DN_MAX_RANK], stride = dims[1];
    strides[1] = 1;
    for (int i = rank - 1; i >= 0; i--) {
        if (i == 1)
            continue;
        strides[i] = stride;
        stride *= dims[i];
    }
    return bb_dn_strided(dn, rank, dims, strides);
}

const bb_dn_layout *bb_dn_blocked_like(bb_dn *dn, const bb_dn_layout *layout, int rank,
                                       const int64_t *dims) {
    static const dnnl_format_tag_t tags[2][3] = {{dnnl_aBc8b, dnnl_aBcd8b, dnnl_aBcde8b},
                                                 {dnnl_aBc16b, dnnl_aBcd16b, dnnl_aBcde16b}};
    const dnnl_blocking_desc_t *blocking = &layout->md.format_desc.blocking;
    if (layout->md.format_kind != dnnl_blocked || blocking->inner_nblks != 1 ||
        blocking->inner_idxs[0] != 1 || rank < 3 || rank > 5 ||
        (blocking->inner_blks[0] != 8 && blocking->inner_blks[0] != 16))
        return NULL;
    dnnl_memory_desc_t md;
    dnnl_dims_t full;
    full_dims(full, rank, dims);
    dnnl_format_tag_t tag = tags[blocking->inner_blks[0] == 16][rank - 3];
    return dnnl_memory_desc_init_by_tag(&md, rank, full, dnnl_f32, tag) == dnnl_success
               ? keep_layout(dn, &md)
               : NULL;
}

const bb_dn_layout *bb_dn_any(bb_dn *dn, int rank, const int64_t *dims) {
    dnnl_memory_desc_t md;
    return bb_dn_any_md(&md, rank, dims) ? keep_layout(dn, &md) : NULL;
}

const bb_dn_layout *bb_dn_bf16(bb_dn *dn, const bb_dn_layout *layout) {
    dnnl_memory_desc_t md = layout->md;
    md.data_type = dnnl_bf16;
    return keep_layout(dn, &md);
}

bool bb_dn_same(const bb_dn_layout *a, const bb_dn_layout *b) {
    return dnnl_memory_desc_equal(&a->md, &b->md) != 0;
}

bool bb_dn_is_plain(const bb_dn_layout *layout) {
    const dnnl_memory_desc_t *md = &layout->md;
    if (md->format_kind != dnnl_blocked || md->data_type != dnnl_f32 ||
        md->format_desc.blocking.inner_nblks != 0)
        return false;
    int64_t stride = 1;
    for (int i = md->ndims - 1; i >= 0; i--) {
        if (md->dims[i] != 1 && md->format_desc.blocking.strides[i] != stride)
            return false;
        stride *= md->dims[i];
    }
    return true;
}

size_t bb_dn_bytes(const bb_dn_layout *layout) {
    return dnnl_memory_desc_get_size(&layout->md);
}

/* The spatial axes follow each other densely, `step` floats from pixel to pixel. */
static bool dense_pixels(const dnnl_memory_desc_t *md, int64_t step) {
    for (int i = md->ndims - 1; i >= 2; i--) {
        if (md->dims[i] != 1 && md->format_desc.blocking.strides[i] != step)
            return false;
        step *= md->dims[i];
    }
    return true;
}

bool bb_dn_as_channels(const bb_dn_layout *layout, bb_dn_channels *form) {
    const dnnl_memory_desc_t *md = &layout->md;
    if (md->format_kind != dnnl_blocked || md->data_type != dnnl_f32 || md->offset0 != 0)
        return false;
    const dnnl_blocking_desc_t *blocking = &md->format_desc.blocking;
    size_t pixels = 1;
    for (int i = 2; i < md->ndims; i++)
        pixels *= (size_t)md->dims[i];
    *form = (bb_dn_channels){1, 1, pixels, 1, 1};
    if (md->ndims < 2) {
        form->blocks = form->channels = (size_t)md->dims[0];
        return bb_dn_is_plain(layout);
    }
    form->images = (size_t)md->dims[0];
    form->channels = (size_t)md->dims[1];
    if (bb_dn_is_plain(layout)) {
        form->blocks = form->channels;
        return true;
    }
    int64_t image = (int64_t)pixels, lanes = md->dims[1];
    if (blocking->inner_nblks == 0) {
        form->lanes = form->channels;
        image *= lanes;
        return blocking->strides[1] == 1 && dense_pixels(md, lanes) &&
               (md->dims[0] == 1 || blocking->strides[0] == image);
    }
    if (blocking->inner_nblks != 1 || blocking->inner_idxs[0] != 1)
        return false;
    lanes = blocking->inner_blks[0];
    form->lanes = (size_t)lanes;
    form->blocks = (size_t)(md->padded_dims[1] / lanes);
    image *= md->padded_dims[1];
    return dense_pixels(md, lanes) &&
           (form->blocks == 1 || blocking->strides[1] == (int64_t)pixels * lanes) &&
           (md->dims[0] == 1 || blocking->strides[0] == image);
}

/* ---- operations ------------------------------------------------------------------------------ */

dnnl_primitive_attr_t bb_dn_attributes(const bb_dn_posts *posts) {
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    bool ok =
        dnnl_primitive_attr_create(&attr) == dnnl_success &&
        dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user) == dnnl_success;
    if (ok && posts && posts->n > 0) {
        ok = dnnl_post_ops_create(&ops) == dnnl_success;
        for (int i = 0; ok && i < posts->n; i++) {
            const bb_dn_post *post = &posts->post[i];
            dnnl_status_t status =
                post->function == BB_DN_SUM
                    ? dnnl_post_ops_append_sum(ops, 1.0f)
                    : dnnl_post_ops_append_eltwise(ops, 1.0f, bb_dn_function_kind(post->function),
                                                   post->alpha, post->beta);
            ok = status == dnnl_success;
        }
        ok = ok && dnnl_primitive_attr_set_post_ops(attr, ops) == dnnl_success;
        if (ops)
            dnnl_post_ops_destroy(ops);
    }
    if (!ok && attr) {
        dnnl_primitive_attr_destroy(attr);
        attr = NULL;
    }
    return attr;
}

/* The matrix products of oneDNN ("x64:gemm:jit", "brgemm:...") share sums out among threads, so
 * that their last bits depend on how many there are; and "brgemm" inner products of version 2.6
 * then even leave out post-operations. Everything else sums each result in one order. */
static bool depends_on_threads(dnnl_primitive_desc_t pd) {
    const char *name = NULL;
    return dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name) == dnnl_success &&
           name && strstr(name, "gemm") != NULL;
}

static bb_status make_op(bb_dn *dn, const_dnnl_op_desc_t desc, dnnl_primitive_attr_t attr,
                         const bb_dn_op *hint, int n_args, const char *what, bb_dn_op **op,
                         bb_error *err) {
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t status =
        dnnl_primitive_desc_create(&pd, desc, attr, dn->engine, hint ? hint->pd : NULL);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, what);
    if (dn->shared_sums || omp_get_max_threads() == 1 || !depends_on_threads(pd))
        return bb_dn_finish_pd(dn, pd, n_args, what, op, err);
    dnnl_primitive_desc_destroy(pd);
    int before = bb_dn_set_threads(1); /* it is planned for the number set while it is made */
    bb_status result = make_op(dn, desc, attr, hint, n_args, what, op, err);
    bb_dn_set_threads(before);
    if (result == BB_STATUS_OK)
        (*op)->serial = true;
    return result;
}

static bb_status finish(bb_dn *dn, const_dnnl_op_desc_t desc, const bb_dn_posts *posts,
                        const bb_dn_op *hint, int n_args, const char *what, bb_dn_op **op,
                        bb_error *err) {
    dnnl_primitive_attr_t attr = bb_dn_attributes(posts);
    if (!attr)
        return bb_fail_memory(err, "oneDNN attributes");
    bb_status status = make_op(dn, desc, attr, hint, n_args, what, op, err);
    dnnl_primitive_attr_destroy(attr);
    return status;
}

bb_status bb_dn_finish(bb_dn *dn, const_dnnl_op_desc_t desc, const bb_dn_posts *posts, int n_args,
                       const char *what, bb_dn_op **op, bb_error *err) {
    return finish(dn, desc, posts, NULL, n_args, what, op, err);
}

bb_status bb_dn_finish_backward(bb_dn *dn, const_dnnl_op_desc_t desc, const bb_dn_op *hint,
                                int n_args, const char *what, bb_dn_op **op, bb_error *err) {
    return finish(dn, desc, NULL, hint, n_args, what, op, err);
}

bb_status bb_dn_finish_pd(bb_dn *dn, dnnl_primitive_desc_t pd, int n_args, const char *what,
                          bb_dn_op **out, bb_error *err) {
    bb_dn_op *op = bb_arena_alloc(dn->arena, sizeof(*op));
    dnnl_exec_arg_t *args = bb_arena_array(dn->arena, (size_t)n_args, sizeof(*args));
    if (!op || !args) {
        dnnl_primitive_desc_destroy(pd);
        return bb_fail_memory(err, what);
    }
    op->args = args;
    op->cap_args = n_args;
    op->pd = pd;
    op->next = dn->ops;
    dn->ops = op;
    dnnl_status_t status = dnnl_primitive_create(&op->primitive, pd);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, what);
    if (dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &op->implementation) !=
        dnnl_success)
        op->implementation = "";
    const dnnl_memory_desc_t *md = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    op->scratch = md ? dnnl_memory_desc_get_size(md) : 0;
    *out = op;
    return BB_STATUS_OK;
}

static const int dnnl_args[] = {[BB_DN_SRC] = DNNL_ARG_SRC,
                                [BB_DN_SRC1] = DNNL_ARG_SRC_1,
                                [BB_DN_WEIGHTS] = DNNL_ARG_WEIGHTS,
                                [BB_DN_BIAS] = DNNL_ARG_BIAS,
                                [BB_DN_MEAN] = DNNL_ARG_MEAN,
                                [BB_DN_VARIANCE] = DNNL_ARG_VARIANCE,
                                [BB_DN_DST] = DNNL_ARG_DST,
                                [BB_DN_SCRATCH] = DNNL_ARG_SCRATCHPAD,
                                [BB_DN_WORKSPACE] = DNNL_ARG_WORKSPACE,
                                [BB_DN_DIFF_SRC] = DNNL_ARG_DIFF_SRC,
                                [BB_DN_DIFF_WEIGHTS] = DNNL_ARG_DIFF_WEIGHTS,
                                [BB_DN_DIFF_BIAS] = DNNL_ARG_DIFF_BIAS,
                                [BB_DN_DIFF_DST] = DNNL_ARG_DIFF_DST,
                                [BB_DN_MULTIPLE] = DNNL_ARG_MULTIPLE_SRC};

static int dnnl_arg(bb_dn_arg arg) {
    return arg < BB_DN_MULTIPLE ? dnnl_args[arg]
                                : DNNL_ARG_MULTIPLE_SRC + ((int)arg - BB_DN_MULTIPLE);
}

static const dnnl_memory_desc_t *arg_md(const bb_dn_op *op, bb_dn_arg arg) {
    if (arg == BB_DN_SCRATCH)
        return dnnl_primitive_desc_query_md(op->pd, dnnl_query_scratchpad_md, 0);
    return dnnl_primitive_desc_query_md(op->pd, dnnl_query_exec_arg_md, dnnl_arg(arg));
}

const bb_dn_layout *bb_dn_op_layout(bb_dn *dn, const bb_dn_op *op, bb_dn_arg arg) {
    const dnnl_memory_desc_t *md = arg_md(op, arg);
    return md && md->ndims > 0 ? keep_layout(dn, md) : NULL;
}

size_t bb_dn_op_scratch(const bb_dn_op *op) {
    return op->scratch;
}

const char *bb_dn_op_implementation(const bb_dn_op *op) {
    return op->implementation;
}

bb_status bb_dn_op_bind(bb_dn *dn, bb_dn_op *op, bb_dn_arg arg, void *data, bb_error *err) {
    const dnnl_memory_desc_t *md = arg_md(op, arg);
    if (!md || op->n_args == op->cap_args)
        return bb_fail(err, BB_STATUS_INTERNAL, "oneDNN operation takes no argument %d", (int)arg);
    dnnl_memory_t memory = NULL;
    dnnl_status_t status = dnnl_memory_create(&memory, md, dn->engine, data);
    if (status != dnnl_success)
        return bb_dn_fail(err, status, "memory object");
    op->args[op->n_args++] = (dnnl_exec_arg_t){dnnl_arg(arg), memory};
    return BB_STATUS_OK;
}

bb_status bb_dn_op_run(bb_dn *dn, bb_dn_op *op, bb_error *err) {
    int before = op->serial ? bb_dn_set_threads(1) : 0;
    dnnl_status_t status = dnnl_primitive_execute(op->primitive, dn->stream, op->n_args, op->args);
    if (status == dnnl_success)
        status = dnnl_stream_wait(dn->stream);
    if (op->serial)
        bb_dn_set_threads(before);
    return status == dnnl_success ? BB_STATUS_OK : bb_dn_fail(err, status, "execution");
}

bb_status bb_dn_convert(bb_dn *dn, const bb_dn_layout *src, const void *from,
                        const bb_dn_layout *dst, void *to, bb_error *err) {
    bb_dn_op *op = NULL;
    BB_TRY(bb_dn_make_reorder(dn, src, dst, &op, err));
    void *scratch = NULL;
    bb_status status = BB_STATUS_OK;
    if (op->scratch > 0) {
        scratch = bb_alloc_aligned(op->scratch);
        status = scratch ? bb_dn_op_bind(dn, op, BB_DN_SCRATCH, scratch, err)
                         : bb_fail_memory(err, "scratch memory");
    }
    /* oneDNN takes inputs through non-const pointers but does not write them. */
    if (status == BB_STATUS_OK)
        status = bb_dn_op_bind(dn, op, BB_DN_SRC, (void *)(uintptr_t)from, err);
    if (status == BB_STATUS_OK)
        status = bb_dn_op_bind(dn, op, BB_DN_DST, to, err);
    if (status == BB_STATUS_OK)
        status = bb_dn_op_run(dn, op, err);
    release_op(op);
    dn->ops = op->next;
    bb_free_aligned(scratch);
    return status;
}
