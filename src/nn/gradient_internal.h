/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file gradient_internal.h
 * Inside of a forward-and-backward program. Its steps are those of one bb_executor: forward steps
 * first, backward steps after them, so that one buffer plan serves both.
 *
 * A node that a gradient passes through is built by one function per group of node kinds. That
 * emits the forward steps and notes a function that will emit the backward ones; those are called
 * in reverse order once all forward steps exist. A backward function reads the gradient of the
 * node's outputs (bb_grad_read) and adds to that of its inputs (bb_grad_add).
 *
 * Unused channels of blocked layouts are zero in all values and gradients; whoever writes a buffer
 * in such a layout keeps it so (bb_nn_clear_padding).
 */
#ifndef BB_NN_GRADIENT_INTERNAL_H
#define BB_NN_GRADIENT_INTERNAL_H

#include "nn/gradient.h"
#include "nn/program.h"

/** One addend of a value's gradient. */
typedef struct bb_grad_part {
    const bb_dn_layout *layout; /**< NULL: row-major */
    int buffer;
    struct bb_grad_part *next;
} bb_grad_part;

typedef struct bb_grad_value {
    bool active;     /**< depends on something that is differentiated */
    bool saved;      /**< a backward step reads its contents: not to be overwritten */
    bool from_input; /**< depends on a graph input */
    int kept;        /**< index into g->kept, or -1 */
    int parameter;   /**< index into g->parameters, or -1 */
    bb_grad_part *parts;
} bb_grad_value;

typedef struct bb_grad_parameter {
    int value;
    size_t elements;
    float *master, *gradient;
    int gradient_buffer;
    bool single; /**< one reader: its gradient is written in place */
} bb_grad_parameter;

/** A value that callers read, or give a gradient to. */
typedef struct bb_grad_kept {
    int value;
    int buffer;        /**< row-major contents */
    const float *seed; /**< during a backward run; NULL: none */
} bb_grad_kept;

typedef struct bb_grad_statistic {
    int value;
    size_t elements;
    float *data;
} bb_grad_statistic;

typedef struct bb_grad_entry bb_grad_entry;
typedef bb_status (*bb_grad_backward_fn)(bb_gradient *g, const bb_grad_entry *entry, bb_error *err);

struct bb_grad_entry {
    const bb_node *node;
    bb_grad_backward_fn backward;
    void *state;
    bb_grad_entry *previous;
};

typedef struct bb_grad_wanted {
    int value;
    int buffer;
    float *data;
} bb_grad_wanted;

struct bb_gradient {
    bb_executor *ex;
    bool training, forward_only;
    float momentum; /**< negative: each node's own */
    bb_grad_value *values;
    bool *special; /**< per node: built by this room */
    size_t n_parameters, n_kept, n_statistics, n_wanted;
    bb_grad_parameter *parameters;
    bb_grad_kept *kept;
    bb_grad_statistic *statistics;
    bb_grad_wanted *wanted;
    bb_grad_entry *tape; /**< the last one built */
    int *holds;          /**< per buffer: gradients that rest in it */
    size_t cap_holds;
    size_t n_forward; /**< steps of the forward pass */
    bool has_forward, has_backward;
};

/* ---- gradient_build.c ------------------------------------------------------------------------ */

bb_status bb_grad_build(bb_gradient *g, const int64_t *const *input_dims, bb_error *err);
/** Notes the backward function of a node that has just been built. */
bb_status bb_grad_push(bb_gradient *g, const bb_node *node, bb_grad_backward_fn backward,
                       void *state, bb_error *err);
/** True where input i is present and its gradient is wanted. */
bool bb_grad_wants(const bb_gradient *g, const bb_node *node, int i);
/** Says that a backward step will read this value. */
void bb_grad_save(bb_gradient *g, int value);
/** True where the node being built may write over the value's contents. */
bool bb_grad_may_overwrite(const bb_gradient *g, int value);
/** The one node that reads `value` where its contents are of no other interest, or -1. */
int bb_grad_only_reader(const bb_gradient *g, int value);
/** The momentum-updated statistic that stands for constant `value`, or NULL. */
bb_grad_statistic *bb_grad_statistic_of(bb_gradient *g, int value);

/* ---- gradient_flow.c: gradients of values ---------------------------------------------------- */

/**
 * Sum of all that has been added to the gradient of `value`, in `layout` (NULL: row-major);
 * *buffer = -1 where nothing flows. *writable (may be NULL): the caller may overwrite the buffer.
 */
bb_status bb_grad_read(bb_gradient *g, int value, const bb_dn_layout *layout, int *buffer,
                       bool *writable, bb_error *err);
/** The same of output 0 in the layout in which the value itself is stored. */
bb_status bb_grad_read_output(bb_gradient *g, const bb_node *node, int *buffer, bool *writable,
                              bb_error *err);
/** Adds a buffer to the gradient of `value`; no-op for values that are not active. */
bb_status bb_grad_add(bb_gradient *g, int value, const bb_dn_layout *layout, int buffer,
                      bb_error *err);
/** A row-major buffer to write an addend of the value's gradient into, all of it. */
bb_status bb_grad_target(bb_gradient *g, int value, int *buffer, bb_error *err);
/** Collects the gradients of parameters and wanted inputs. */
bb_status bb_grad_collect(bb_gradient *g, bb_error *err);
/** dst = a + b of so many bytes; dst may be either. */
bb_status bb_grad_emit_add(bb_gradient *g, int dst, int a, int b, size_t bytes, bb_error *err);

/* ---- gradient_loops.c: what own steps are made of -------------------------------------------- */

/** A step of n floats, cut into parts of whole cache lines for the threads. */
typedef void (*bb_grad_range_fn)(const bb_nn_step *step, size_t begin, size_t end);
typedef struct bb_grad_range {
    bb_grad_range_fn fn;
    size_t n;
    void *state;
} bb_grad_range;
/** Emits a step that runs fn over [0, n); fn finds `state` by bb_grad_range_state(step). */
bb_status bb_grad_emit_range(bb_gradient *g, const bb_node *node, bb_grad_range_fn fn, size_t n,
                             void *state, const bb_nn_arg *args, int n_args, bb_error *err);
void *bb_grad_range_state(const bb_nn_step *step);
/** Emits a step of any other kind. */
bb_status bb_grad_emit(bb_gradient *g, const bb_node *node, bb_nn_run_fn run, void *state,
                       const bb_nn_arg *args, int n_args, bb_error *err);
/** Emits bb_nn_clear_padding where the layout has any; layout NULL: nothing. */
bb_status bb_grad_emit_clear(bb_gradient *g, const bb_dn_layout *layout, int buffer, bb_error *err);
void *bb_grad_alloc(bb_gradient *g, size_t n, size_t size); /**< zeroed, dies with g */

/* ---- builders, one per group of node kinds --------------------------------------------------- */

bb_status bb_grad_build_conv(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_norm(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_gemm(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_pool(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_global_pool(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_function(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_binary(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_matmul(bb_gradient *g, const bb_node *node, bb_error *err);
/** Gradient of what goes into a Relu that produced `value`; *buffer = -1 where nothing flows. */
bb_status bb_grad_relu_backward(bb_gradient *g, const bb_node *node, int value, int *buffer,
                                bool *writable, bb_error *err);
bb_status bb_grad_build_fake_quantize(bb_gradient *g, const bb_node *node, bb_error *err);
/** Mean over all but the first two axes; the output is defined already. */
bb_status bb_grad_build_channel_mean(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_move(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_concat(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_resize(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_softmax(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_reduce(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_row_norm(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_lrn(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_prelu(bb_gradient *g, const bb_node *node, bb_error *err);
bb_status bb_grad_build_alias(bb_gradient *g, const bb_node *node, bb_error *err);

#endif
