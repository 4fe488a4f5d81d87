/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes whose output is their input under other dims. */
#include "nn/gradient_internal.h"

static bb_status backward(bb_gradient *g, const bb_grad_entry *entry, bb_error *err) {
    const bb_node *node = entry->node;
    bool same = node->op == BB_OP_IDENTITY || node->op == BB_OP_DROPOUT;
    const bb_dn_layout *layout = same ? g->ex->tensors[node->out[0]].forms->layout : NULL;
    int buffer;
    BB_TRY(bb_grad_read(g, node->out[0], layout, &buffer, NULL, err));
    return buffer < 0 ? BB_STATUS_OK : bb_grad_add(g, node->in[0], layout, buffer, err);
}

bb_status bb_grad_build_alias(bb_gradient *g, const bb_node *node, bb_error *err) {
    if (node->op == BB_OP_DROPOUT && node->n_out > 1 && node->out[1] >= 0)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "Dropout with a mask output");
    BB_TRY(bb_nn_build_alias(g->ex, node, err));
    return bb_grad_push(g, node, backward, NULL, err);
}
