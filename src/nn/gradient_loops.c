/* SPDX-License-Identifier: Apache-2.0 */
/* Steps of own loops: shared out among threads in whole cache lines, so that every result is
 * computed by one thread from start to end. */
#include "nn/gradient_internal.h"
#include <string.h>

enum { LINE = 16, SMALL = 8192 }; /* floats; less than SMALL is not worth a second thread */

void *bb_grad_alloc(bb_gradient *g, size_t n, size_t size) {
    return bb_arena_array(g->ex->arena, n, size);
}

bb_status bb_grad_emit(bb_gradient *g, const bb_node *node, bb_nn_run_fn run, void *state,
                       const bb_nn_arg *args, int n_args, bb_error *err) {
    bb_nn_step step = {.run = run, .node = node, .state = state, .tap = -1};
    return bb_nn_emit(g->ex, &step, args, n_args, err);
}

static void run_part(void *user, int part, int parts) {
    const bb_nn_step *step = user;
    const bb_grad_range *range = step->state;
    size_t lines = (range->n + LINE - 1) / LINE;
    size_t begin = lines * (size_t)part / (size_t)parts * LINE;
    size_t end = lines * (size_t)(part + 1) / (size_t)parts * LINE;
    range->fn(step, begin, end < range->n ? end : range->n);
}

static bb_status run_range(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    const bb_grad_range *range = step->state;
    bb_dn_parallel(range->n < SMALL ? 1 : ex->threads, run_part, (void *)(uintptr_t)step);
    return BB_STATUS_OK;
}

bb_status bb_grad_emit_range(bb_gradient *g, const bb_node *node, bb_grad_range_fn fn, size_t n,
                             void *state, const bb_nn_arg *args, int n_args, bb_error *err) {
    bb_grad_range *range = bb_grad_alloc(g, 1, sizeof(*range));
    if (!range)
        return bb_fail_memory(err, "gradient program");
    *range = (bb_grad_range){fn, n, state};
    return bb_grad_emit(g, node, run_range, range, args, n_args, err);
}

void *bb_grad_range_state(const bb_nn_step *step) {
    const bb_grad_range *range = step->state;
    return range->state;
}

/* ---- padding --------------------------------------------------------------------------------- */

static bb_status run_clear(bb_executor *ex, const bb_nn_step *step, bb_error *err) {
    bb_nn_clear_padding(step->state, step->data[0]);
    return BB_STATUS_OK;
}

bb_status bb_grad_emit_clear(bb_gradient *g, const bb_dn_layout *layout, int buffer,
                             bb_error *err) {
    bb_dn_channels form;
    if (!layout || !bb_dn_as_channels(layout, &form) || !bb_nn_has_padding(&form))
        return BB_STATUS_OK;
    bb_dn_channels *state = bb_grad_alloc(g, 1, sizeof(*state));
    if (!state)
        return bb_fail_memory(err, "gradient program");
    *state = form;
    bb_nn_arg arg = {buffer, 0};
    return bb_grad_emit(g, NULL, run_clear, state, &arg, 1, err);
}
