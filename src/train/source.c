/* SPDX-License-Identifier: Apache-2.0 */
#include "passes/passes.h"
#include "train/run.h"
#include "vision/config.h"
#include <string.h>

/* Losses take scores; probabilities come from a Softmax that the exported network does not need. */
static void drop_softmax(bb_graph *graph) {
    const bb_value *out = &graph->values[graph->outputs[0]];
    const bb_node *last = out->producer >= 0 ? &graph->nodes[out->producer] : NULL;
    if (last && (last->op == BB_OP_SOFTMAX || last->op == BB_OP_LOG_SOFTMAX))
        graph->outputs[0] = last->in[0];
}

/* Dims of what nodes compute are inferred again from the input's. */
static void forget_shapes(bb_graph *graph) {
    for (size_t i = 0; i < graph->n_values; i++)
        if (graph->values[i].producer >= 0)
            graph->values[i].rank = -1;
}

static bb_status check_ends(const bb_run *run, const bb_graph *graph, const char *path,
                            bb_error *err) {
    int channels, height, width;
    bb_config_input(run->settings.task, &channels, &height, &width);
    const bb_value *in = graph->n_inputs == 1 ? &graph->values[graph->inputs[0]] : NULL;
    if (!in || in->rank != 4 || in->dtype != BB_DTYPE_F32 ||
        (in->dims[1] >= 0 && in->dims[1] != channels))
        return bb_fail(err, BB_STATUS_UNSUPPORTED,
                       "%s: needs one input of f32 [N,%d,height,width] to be trained", path,
                       channels);
    if (graph->n_outputs != 1)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "%s: has %zu outputs, training needs one", path,
                       graph->n_outputs);
    if (bb_graph_is_quantized(graph))
        return bb_fail(err, BB_STATUS_UNSUPPORTED,
                       "%s: carries quantizers of its own; training starts with a float network",
                       path);
    return BB_STATUS_OK;
}

static bb_status adapt(const bb_run *run, bb_graph *graph, const char *path, bb_error *err) {
    int channels, height, width;
    bb_config_input(run->settings.task, &channels, &height, &width);
    BB_TRY(check_ends(run, graph, path, err));
    const int64_t dims[4] = {-1, channels, height, width};
    bb_value *in = &graph->values[graph->inputs[0]];
    BB_TRY(bb_pass_remove_identities(graph, err));
    BB_TRY(bb_pass_canonicalise(graph, err));
    drop_softmax(graph);
    BB_TRY(bb_graph_link(graph, err));
    in = &graph->values[graph->inputs[0]];
    memcpy(in->dims, dims, sizeof(dims));
    forget_shapes(graph);
    return bb_graph_infer_shapes(graph, NULL, 0, err);
}

bb_status bb_run_import(const bb_run *run, const char *path, bb_graph **graph, bb_error *err) {
    BB_TRY(bb_import_onnx(path, graph, err));
    bb_status status = adapt(run, *graph, path, err);
    if (status != BB_STATUS_OK) {
        bb_graph_destroy(*graph);
        *graph = NULL;
    }
    return status;
}

static bb_status import_first(bb_run *run, const char *path, bb_graph **graph, bb_error *err) {
    BB_TRY(bb_run_import(run, path, graph, err));
    if (!run->settings.network_norm)
        return BB_STATUS_OK;
    bb_status status = bb_run_unfold(run, *graph, err);
    if (status != BB_STATUS_OK) {
        bb_graph_destroy(*graph);
        *graph = NULL;
    }
    return status;
}

bb_status bb_run_source(bb_run *run, const bb_stage *stage, bb_graph **graph, bb_error *err) {
    const bb_settings *s = &run->settings;
    if (!stage->from)
        return s->network_file ? import_first(run, s->network_file, graph, err)
                               : bb_network_build(&s->network, graph, err);
    const char *path = bb_run_path(run, stage->from, ".onnx");
    return path ? bb_run_import(run, path, graph, err) : bb_fail_memory(err, "network");
}
