/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/internal.h"

enum { FLOAT_LANES = 8 };

/* From [output][tap][input] to [group][tap][input][output of the group, padded]: a vector then
 * holds outputs, and each of them keeps its own order of summation. */
static bb_status pack_weights(bb_engine *engine, bb_plan_node *plan, bb_error *err) {
    const bb_model_node *node = plan->node;
    const size_t groups = node->groups;
    const size_t outputs = (size_t)engine->tensors[node->out[0]].c / groups;
    const size_t depth = (size_t)engine->tensors[node->in[0]].c / groups;
    const size_t row = (size_t)node->geometry.kernel[0] * (size_t)node->geometry.kernel[1] * depth;
    const size_t padded = (outputs + FLOAT_LANES - 1) / FLOAT_LANES * FLOAT_LANES;
    size_t n;
    float *to = NULL;
    if (bb_size_mul(groups * padded, row, &n))
        to = bb_engine_array(engine, n, sizeof(*to));
    if (!to)
        return bb_fail_memory(err, "float weights");
    for (size_t g = 0; g < groups; g++)
        for (size_t i = 0; i < row; i++)
            for (size_t c = 0; c < outputs; c++)
                to[(g * row + i) * padded + c] = node->float_weights[(g * outputs + c) * row + i];
    plan->float_table = to;
    plan->float_padded = padded;
    bb_engine_need_scratch(engine, padded * sizeof(float));
    return BB_STATUS_OK;
}

bb_status bb_plan_float(bb_engine *engine, bb_plan_node *plan, bb_error *err) {
    switch (plan->node->float_op) {
    case BB_FLOAT_CONV:
        plan->run = bb_run_float_conv;
        return pack_weights(engine, plan, err);
    case BB_FLOAT_MAX_POOL:
    case BB_FLOAT_AVERAGE_POOL:
        plan->run = bb_run_float_pool;
        return BB_STATUS_OK;
    case BB_FLOAT_SOFTMAX:
        plan->run = bb_run_float_softmax;
        return BB_STATUS_OK;
    case BB_FLOAT_CONCAT:
        plan->run = bb_run_concat;
        return BB_STATUS_OK;
    case BB_FLOAT_RESHAPE:
        plan->run = bb_run_nothing;
        return BB_STATUS_OK;
    default:
        plan->run = bb_run_float_pointwise;
        return BB_STATUS_OK;
    }
}
