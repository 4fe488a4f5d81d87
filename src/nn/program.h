/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file program.h
 * Inside of an executor: tensors with their stored forms, buffers with lifetimes, steps.
 *
 * Building walks the nodes once. A node's builder asks for its inputs in the layout it wants
 * (conversions are emitted on demand and kept for later readers), defines its outputs and emits
 * steps. What depends on constants and shapes alone is computed while building ("fixed").
 */
#ifndef BB_NN_PROGRAM_H
#define BB_NN_PROGRAM_H

#include "nn/executor.h"
#include "nn/onednn.h"

/** One stored form of a value. */
typedef struct bb_nn_form {
    const bb_dn_layout *layout; /**< NULL: row-major */
    int buffer;
    struct bb_nn_form *next;
} bb_nn_form;

typedef struct bb_nn_tensor {
    bool known; /**< shape and type are set and it is stored or fixed */
    bool tapped;
    bb_dtype dtype;
    int rank;
    int64_t dims[BB_MAX_RANK];
    size_t elements;
    const void *fixed; /**< contents where they are known while building, row-major */
    size_t uses_left;  /**< readers not built yet; a graph output counts for ever */
    int reader;        /**< the node of the last counted use */
    bool is_output;    /**< of the graph */
    bb_nn_form *forms; /**< the first is what the producer wrote */
} bb_nn_tensor;

typedef struct bb_nn_buffer {
    size_t bytes;
    int first, last;   /**< steps that touch it; first > last: none */
    size_t pending;    /**< uses_left of all values that lie in it */
    size_t offset;     /**< in executor->memory, after planning */
    const void *fixed; /**< contents outside of executor->memory, or NULL */
} bb_nn_buffer;

typedef struct bb_nn_step bb_nn_step;
typedef bb_status (*bb_nn_run_fn)(bb_executor *ex, const bb_nn_step *step, bb_error *err);

/** A buffer a step touches. For oneDNN steps `role` is the bb_dn_arg. */
typedef struct bb_nn_arg {
    int buffer;
    int role;
} bb_nn_arg;

struct bb_nn_step {
    bb_nn_run_fn run;
    const bb_node *node; /**< for messages; NULL for taps of inputs */
    bb_dn_op *op;        /**< oneDNN steps */
    void *state;         /**< parameters of other steps, in the executor's arena */
    int n_args;
    const bb_nn_arg *args;
    void **data; /**< args' memory, set when buffers are placed */
    int tap;     /**< value to show, or -1 */
};

struct bb_executor {
    const bb_graph *graph;
    bb_arena *arena;
    bb_dn *dn;
    int threads;
    bool bf16;             /**< convolutions read bfloat16 copies where oneDNN is fast in them */
    bb_nn_tensor *tensors; /**< one per value */
    bool *built;           /**< per node: done, or fused into an earlier one */
    size_t n_buffers, cap_buffers;
    bb_nn_buffer *buffers;
    size_t n_steps, cap_steps;
    bb_nn_step *steps;
    size_t n_new_taps; /**< tapped values that appeared since the last flush */
    int *new_taps;
    size_t n_kept, cap_kept; /**< packed weights */
    void **kept;
    int *input_buffers, *output_buffers;
    uint8_t *memory;
    size_t memory_bytes;
    void *scratch;
    size_t scratch_bytes;
    /* during a run */
    bb_arena *run_arena;
    bb_executor_tap tap;
    void *tap_user;
    bool has_run;
};

/* ---- build.c --------------------------------------------------------------------------------- */

bb_status bb_nn_build(bb_executor *ex, const int64_t *const *input_dims, bb_error *err);

/** Tensor of input i of a node, or NULL where it is left out. */
bb_nn_tensor *bb_nn_input(bb_executor *ex, const bb_node *node, int i);
/** f32 contents of a fixed input, or NULL. */
const float *bb_nn_fixed_f32(bb_executor *ex, const bb_node *node, int i);
/** Sets shape and type of a value. LIMIT where its size is absurd. */
bb_status bb_nn_define(bb_executor *ex, int value, bb_dtype dtype, int rank, const int64_t *dims,
                       bb_error *err);
/** Says that a defined value lies in `buffer`. layout NULL or plain = row-major. */
bb_status bb_nn_store(bb_executor *ex, int value, const bb_dn_layout *layout, int buffer,
                      bb_error *err);
/** Makes a defined value fixed. */
bb_status bb_nn_fix(bb_executor *ex, int value, const void *data, bb_error *err);

bb_status bb_nn_new_buffer(bb_executor *ex, size_t bytes, int *buffer, bb_error *err);
/** A new row-major buffer for a defined value, stored. */
bb_status bb_nn_new_plain(bb_executor *ex, int value, int *buffer, bb_error *err);
/** Memory that lives as long as the executor, 64-byte aligned, and a buffer for it. */
bb_status bb_nn_keep(bb_executor *ex, size_t bytes, void **data, int *buffer, bb_error *err);

/** Layout in which a value is stored already, cheapest to read. */
const bb_dn_layout *bb_nn_layout(bb_executor *ex, int value);
/** True where that layout has the channels innermost, densely. */
bool bb_nn_is_channels_last(bb_executor *ex, int value);
bb_status bb_nn_in_plain(bb_executor *ex, int value, int *buffer, bb_error *err);
bb_status bb_nn_in_layout(bb_executor *ex, int value, const bb_dn_layout *layout, int *buffer,
                          bb_error *err);
/** True where the node being built is the last reader of everything in the buffer. */
bool bb_nn_may_overwrite(const bb_executor *ex, int buffer);

/** Appends a step; args are copied. */
bb_status bb_nn_emit(bb_executor *ex, const bb_nn_step *step, const bb_nn_arg *args, int n_args,
                     bb_error *err);
bb_status bb_nn_emit_op(bb_executor *ex, const bb_node *node, bb_dn_op *op, const bb_nn_arg *args,
                        int n_args, bb_error *err);
/** Copies a buffer from one layout to another. */
bb_status bb_nn_emit_reorder(bb_executor *ex, const bb_dn_layout *src, int src_buffer,
                             const bb_dn_layout *dst, int dst_buffer, bb_error *err);
/** Notes that a node has read its inputs. */
void bb_nn_consume(bb_executor *ex, const bb_node *node);

/** The walk's parts, for programs that build some nodes in their own way. */
void bb_nn_count_uses(bb_executor *ex);
bb_status bb_nn_enter_input(bb_executor *ex, size_t i, const int64_t *dims, bb_error *err);
bb_status bb_nn_enter_constant(bb_executor *ex, int value, bb_error *err);
bb_status bb_nn_build_node(bb_executor *ex, const bb_node *node, bb_error *err);
/** Adds what lies outside of the executor's memory: `data` must outlive it. */
bb_status bb_nn_external(bb_executor *ex, size_t bytes, const void *data, int *buffer,
                         bb_error *err);
/** Keeps a buffer's contents to the end of the program as it stands. */
void bb_nn_touch(bb_executor *ex, int buffer);
/** Names the node of an error. */
bb_status bb_nn_prefix(const bb_executor *ex, const bb_node *node, bb_status status, bb_error *err);

/** Geometry of a Conv or ConvTranspose (`bias` left false). */
bb_status bb_nn_conv_geometry(bb_executor *ex, const bb_node *node, bb_dn_conv *conv,
                              bb_error *err);
/** Layout of its ONNX weights, seen through oneDNN's order of axes. */
const bb_dn_layout *bb_nn_conv_weights(bb_executor *ex, const bb_dn_conv *conv);

/** Geometry of a MaxPool or AveragePool. */
bb_status bb_nn_pool_geometry(bb_executor *ex, const bb_node *node, bb_dn_pool *pool,
                              bb_window *window, bb_error *err);
/** True where oneDNN divides by the right number: it counts every padded position, also those that
 *  only ceil_mode added. */
bool bb_nn_pool_is_exact(const bb_window *window);

/* ---- executor.c ------------------------------------------------------------------------------ */

/** An executor without steps; threads as in the options. */
bb_status bb_nn_new_executor(const bb_graph *graph, const bb_executor_options *options,
                             bb_executor **executor, bb_error *err);
bb_status bb_nn_copy_inputs(bb_executor *ex, const bb_array *inputs, bb_error *err);
/** Runs steps [first, last). */
bb_status bb_nn_run_steps(bb_executor *ex, size_t first, size_t last, bb_error *err);

/** True where a layout has channels that are not the tensor's. */
bool bb_nn_has_padding(const bb_dn_channels *form);
/** Sets those to zero, as oneDNN leaves and expects them. */
void bb_nn_clear_padding(const bb_dn_channels *form, float *data);

/* ---- fuse.c ---------------------------------------------------------------------------------- */

/** What follows a convolution or matrix product and is computed together with it. */
typedef struct bb_nn_chain {
    int value; /**< what the fused group produces */
    bb_dn_posts posts;
    int sum;             /**< value added by a BB_DN_SUM post, or -1 */
    const bb_node *norm; /**< BatchNormalization to fold into weights and bias, or NULL */
    int n_nodes;
    int nodes[BB_DN_MAX_POSTS + 1]; /**< fused ones */
} bb_nn_chain;

/** A node as functions of its input `value` (of that rank) alone; false where it is none. */
bool bb_nn_function_posts(bb_executor *ex, const bb_node *node, int value, int rank,
                          bb_dn_posts *posts);
/** Collects what follows `value` (rank and dims are the value's). */
void bb_nn_collect(bb_executor *ex, int value, int rank, const int64_t *dims, bool norm, bool sum,
                   bb_nn_chain *chain);
/** Marks the chain's nodes as built and their inputs as read. */
void bb_nn_consume_chain(bb_executor *ex, const bb_nn_chain *chain);

/* ---- plan.c ---------------------------------------------------------------------------------- */

/** Places buffers by lifetime, allocates memory and resolves every step's pointers. */
bb_status bb_nn_place(bb_executor *ex, bb_error *err);

/** Where a placed buffer lies. */
void *bb_nn_pointer(const bb_executor *ex, int buffer);

/* ---- builders, one per group of node kinds --------------------------------------------------- */

bb_status bb_nn_build_conv(bb_executor *ex, const bb_node *node, bb_error *err);
bb_status bb_nn_build_gemm(bb_executor *ex, const bb_node *node, bb_error *err);
bb_status bb_nn_build_matmul(bb_executor *ex, const bb_node *node, bb_error *err);
bb_status bb_nn_build_pool(bb_executor *ex, const bb_node *node, bb_error *err);
bb_status bb_nn_build_global_pool(bb_executor *ex, const bb_node *node, bb_error *err);
bb_status bb_nn_build_batch_norm(bb_executor *ex, const bb_node *node, bb_error *err);
bb_status bb_nn_build_instance_norm(bb_executor *ex, const bb_node *node, bb_error *err);
bb_status bb_nn_build_layer_norm(bb_executor *ex, const bb_node *node, bb_error *err);
bb_status bb_nn_build_lrn(bb_executor *ex, const bb_node *node, bb_error *err);
bb_status bb_nn_build_softmax(bb_executor *ex, const bb_node *node, bb_error *err);
bb_status bb_nn_build_resize(bb_executor *ex, const bb_node *node, bb_error *err);
/** `state`: of the forward step, the last one when bb_nn_build_resize returned. Both row-major. */
bb_status bb_nn_build_resize_backward(bb_executor *ex, const bb_node *node, void *state, int dy,
                                      int dx, bb_error *err);
/** The same for an AveragePool in row-major loops. */
bb_status bb_nn_build_average_backward(bb_executor *ex, const bb_node *node, void *state, int dy,
                                       int dx, bb_error *err);
bb_status bb_nn_build_integer_conv(bb_executor *ex, const bb_node *node, bb_error *err);
bb_status bb_nn_build_integer_matmul(bb_executor *ex, const bb_node *node, bb_error *err);
bb_status bb_nn_build_dynamic_quantize(bb_executor *ex, const bb_node *node, bb_error *err);
bb_status bb_nn_build_fake_quantize(bb_executor *ex, const bb_node *node, bb_error *err);
/** Everything bb_eval_node can do. */
bb_status bb_nn_build_eval(bb_executor *ex, const bb_node *node, bb_error *err);
/** Evaluates a node whose inputs are all fixed. */
bb_status bb_nn_build_fixed(bb_executor *ex, const bb_node *node, bb_error *err);
/** Output is the input under other dims. */
bb_status bb_nn_build_alias(bb_executor *ex, const bb_node *node, bb_error *err);
/** The arithmetic of a node with two operands; false where it is none. */
bool bb_nn_binary_kind(bb_op op, bb_dn_binary *kind);
/* These keep oneDNN's layouts; *taken stays false where they leave the node to bb_nn_build_eval. */
bb_status bb_nn_build_function(bb_executor *ex, const bb_node *node, bool *taken, bb_error *err);
bb_status bb_nn_build_binary(bb_executor *ex, const bb_node *node, bool *taken, bb_error *err);
bb_status bb_nn_build_prelu(bb_executor *ex, const bb_node *node, bool *taken, bb_error *err);
bb_status bb_nn_build_concat(bb_executor *ex, const bb_node *node, bool *taken, bb_error *err);

#endif
