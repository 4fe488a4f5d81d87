/* SPDX-License-Identifier: Apache-2.0 */
/* One block as a graph of its own, for the float executor. */
#include "quantize/quantizer.h"
#include <string.h>

static bb_status out_of_memory(bb_graph **graph, bb_error *err) {
    bb_graph_destroy(*graph);
    *graph = NULL;
    return bb_fail_memory(err, "graph of one block");
}

/** Makes the listed values the graph's only inputs or outputs. */
static bool set_ends(bb_graph *graph, const int *inputs, size_t n, int output) {
    graph->inputs = bb_arena_array(graph->arena, n, sizeof *graph->inputs);
    graph->outputs = bb_arena_array(graph->arena, 1, sizeof *graph->outputs);
    if (!graph->inputs || !graph->outputs)
        return false;
    memcpy(graph->inputs, inputs, n * sizeof *inputs);
    graph->n_inputs = n;
    graph->outputs[0] = output;
    graph->n_outputs = 1;
    return true;
}

/** Marks the nodes between a block's inputs and its output; needed[v]: value v is used. */
static void mark_nodes(const bb_graph *graph, const bb_block *block, bool *needed, bool *chosen) {
    needed[block->output] = true;
    for (size_t i = graph->n_nodes; i-- > 0;) {
        const bb_node *node = &graph->nodes[i];
        bool wanted = false;
        for (int o = 0; o < node->n_out; o++)
            wanted |= node->out[o] >= 0 && needed[node->out[o]];
        for (int k = 0; k < block->n_in; k++)
            for (int o = 0; o < node->n_out; o++)
                wanted &= node->out[o] != block->in[k];
        chosen[i] = wanted;
        for (int k = 0; wanted && k < node->n_in; k++)
            if (node->in[k] >= 0)
                needed[node->in[k]] = true;
    }
}

static int copy_value(bb_graph *to, const bb_value *v) {
    int index = bb_graph_add_value(to, v->name, v->dtype, v->rank, v->dims);
    if (index >= 0)
        to->values[index].data = v->data;
    return index;
}

/** Copies a node whose values have the numbers map[old]. Attributes are shared: the private
 *  graph outlives its parts. */
static bool copy_node(bb_graph *to, const bb_node *node, const int *map) {
    int in[BB_MAX_NODE_INPUTS + 8], out[BB_MAX_NODE_INPUTS + 8];
    if (node->n_in > (int)BB_COUNT(in) || node->n_out > (int)BB_COUNT(out))
        return false;
    for (int i = 0; i < node->n_in; i++)
        in[i] = node->in[i] < 0 ? -1 : map[node->in[i]];
    for (int i = 0; i < node->n_out; i++)
        out[i] = node->out[i] < 0 ? -1 : map[node->out[i]];
    int index = bb_graph_add_node(to, node->name, node->op, node->n_in, in, node->n_out, out);
    if (index < 0)
        return false;
    to->nodes[index].n_attrs = node->n_attrs;
    to->nodes[index].attrs = node->attrs;
    return true;
}

static bool copy_block(bb_graph *to, const bb_graph *from, const bb_block *block, bool *needed,
                       bool *chosen, int *map) {
    mark_nodes(from, block, needed, chosen);
    for (size_t i = 0; i < from->n_nodes; i++)
        for (int o = 0; chosen[i] && o < from->nodes[i].n_out; o++)
            if (from->nodes[i].out[o] >= 0)
                needed[from->nodes[i].out[o]] = true;
    for (int k = 0; k < block->n_in; k++)
        needed[block->in[k]] = true;
    for (size_t v = 0; v < from->n_values; v++)
        if (needed[v] && (map[v] = copy_value(to, &from->values[v])) < 0)
            return false;
    for (size_t i = 0; i < from->n_nodes; i++)
        if (chosen[i] && !copy_node(to, &from->nodes[i], map))
            return false;
    int inputs[BB_MAX_NODE_INPUTS];
    size_t n = 0;
    for (int k = 0; k < block->n_in; k++) {
        bool again = false;
        for (int j = 0; j < k; j++)
            again |= block->in[j] == block->in[k];
        if (!again)
            inputs[n++] = map[block->in[k]];
    }
    return set_ends(to, inputs, n, map[block->output]);
}

bb_status bb_subgraph_of_block(const bb_quantization *q, const bb_block *block, bb_graph **graph,
                               bb_error *err) {
    const bb_graph *from = q->graph;
    bool *needed = bb_calloc_array(from->n_values + from->n_nodes, sizeof *needed);
    int *map = bb_alloc_array(from->n_values, sizeof *map);
    *graph = bb_graph_create();
    bool ok = needed && map && *graph &&
              copy_block(*graph, from, block, needed, needed + from->n_values, map);
    bb_free(needed);
    bb_free(map);
    if (!ok)
        return out_of_memory(graph, err);
    (*graph)->name = from->name;
    (*graph)->opset = from->opset;
    bb_status status = bb_graph_link(*graph, err);
    if (status != BB_STATUS_OK) {
        bb_graph_destroy(*graph);
        *graph = NULL;
    }
    return status;
}

/** Position in the order of the ONNX operator, [depth][tap] of a row, of column j in model order;
 *  Gemm's columns lie as its input. */
static size_t operator_column(const bb_conv_shape *s, const uint32_t *columns, size_t j) {
    return columns ? columns[j] : j % s->depth * s->taps + j / s->depth;
}

static bb_status reorder(const bb_quantization *q, size_t block, bool to_model, const float *from,
                         float *to, bb_error *err) {
    const bb_conv_shape *s = &q->targets[block].shape;
    uint32_t *columns = NULL;
    size_t d = (size_t)s->taps * s->depth;
    if (q->graph->nodes[q->plan.blocks[block].node].op != BB_OP_CONV)
        BB_TRY(bb_subgraph_columns(q, &q->plan.blocks[block], &columns, err));
    for (size_t r = 0; r < s->rows; r++)
        for (size_t j = 0; j < d; j++) {
            size_t o = r * d + operator_column(s, columns, j);
            if (to_model)
                to[r * d + j] = from[o];
            else
                to[o] = from[r * d + j];
        }
    bb_free(columns);
    return BB_STATUS_OK;
}

bb_status bb_subgraph_to_operator(const bb_quantization *q, size_t block, const float *from,
                                  float *to, bb_error *err) {
    return reorder(q, block, false, from, to, err);
}

bb_status bb_subgraph_to_model(const bb_quantization *q, size_t block, const float *from, float *to,
                               bb_error *err) {
    return reorder(q, block, true, from, to, err);
}

/** Weight tensor of the lone node: Conv's own dims, or [rows][columns] for Gemm with transB. */
static int add_weights(const bb_quantization *q, size_t block, const float *weights, bb_graph *to,
                       bb_error *err) {
    const bb_block *b = &q->plan.blocks[block];
    const bb_node *node = &q->graph->nodes[b->node];
    const bb_conv_shape *s = &q->targets[block].shape;
    const bb_value *w = bb_node_input(q->graph, node, 1);
    int64_t dims[BB_MAX_RANK] = {s->rows, s->depth};
    int rank = 2;
    if (node->op == BB_OP_CONV) {
        rank = w->rank;
        memcpy(dims, w->dims, sizeof dims);
    }
    void *data;
    int index = bb_graph_add_constant(to, "weights", BB_DTYPE_F32, rank, dims, &data);
    return index >= 0 && bb_subgraph_to_operator(q, block, weights, data, err) == BB_STATUS_OK
               ? index
               : -1;
}

bb_status bb_subgraph_of_conv(const bb_quantization *q, size_t block, const float *weights,
                              bb_graph **graph, bb_error *err) {
    const bb_block *b = &q->plan.blocks[block];
    const bb_node *node = &q->graph->nodes[b->node];
    *graph = bb_graph_create();
    if (!*graph)
        return bb_fail_memory(err, "graph of one block");
    (*graph)->name = q->graph->name;
    (*graph)->opset = q->graph->opset;
    int in[2] = {copy_value(*graph, &q->graph->values[b->in[0]]),
                 add_weights(q, block, weights, *graph, err)};
    int out = copy_value(*graph, &q->graph->values[node->out[0]]);
    int index = in[0] < 0 || in[1] < 0 || out < 0
                    ? -1
                    : bb_graph_add_node(*graph, node->name, node->op, 2, in, 1, &out);
    if (index < 0 || !set_ends(*graph, in, 1, out))
        return out_of_memory(graph, err);
    bb_node *copy = &(*graph)->nodes[index];
    if (node->op == BB_OP_CONV) {
        copy->n_attrs = node->n_attrs;
        copy->attrs = node->attrs;
    } else if (!bb_node_set_int(*graph, copy, "transB", 1)) {
        return out_of_memory(graph, err);
    }
    bb_status status = bb_graph_link(*graph, err);
    if (status != BB_STATUS_OK) {
        bb_graph_destroy(*graph);
        *graph = NULL;
    }
    return status;
}

size_t bb_subgraph_list_inputs(const bb_quantization *q, const bb_block *block, int n_in,
                               float *data, bb_array *arrays) {
    size_t n = 0;
    for (int i = 0; i < n_in; i++) {
        bool again = false;
        for (int j = 0; j < i; j++)
            again |= block->in[j] == block->in[i];
        const bb_value *v = &q->graph->values[block->in[i]];
        if (!again) {
            arrays[n] = (bb_array){.dtype = BB_DTYPE_F32, .rank = v->rank, .data = data};
            memcpy(arrays[n++].dims, v->dims, sizeof v->dims);
        }
        data += bb_quantize_elements(q, block->in[i]);
    }
    return n;
}

/** The image that a Gemm reads flattened in NCHW order, or NULL. */
static const bb_value *flattened_image(const bb_quantization *q, int value) {
    int made_by = q->block_of[value];
    if (made_by < 0 || q->plan.blocks[made_by].kind != BB_BLOCK_RESHAPE)
        return NULL;
    int root = q->plan.blocks[made_by].in[0];
    for (int v = value; v != root;) {
        const bb_node *node = &q->graph->nodes[q->graph->values[v].producer];
        if (node->op == BB_OP_TRANSPOSE)
            return NULL; /* flattened from NHWC: the model's own order */
        v = node->in[0];
    }
    const bb_value *image = &q->graph->values[root];
    return image->rank == 4 ? image : NULL;
}

bb_status bb_subgraph_columns(const bb_quantization *q, const bb_block *block, uint32_t **columns,
                              bb_error *err) {
    *columns = NULL;
    const bb_value *image = flattened_image(q, block->in[0]);
    if (!image || image->dims[1] == 1 || image->dims[2] * image->dims[3] == 1)
        return BB_STATUS_OK;
    size_t n = bb_quantize_elements(q, block->in[0]), channels = (size_t)image->dims[1];
    *columns = bb_alloc_array(n, sizeof **columns);
    if (!*columns)
        return bb_fail_memory(err, "column order");
    for (size_t j = 0; j < n; j++)
        (*columns)[j] = (uint32_t)(j % channels * (n / channels) + j / channels);
    return BB_STATUS_OK;
}

/* ---- executors ------------------------------------------------------------------------------- */

bb_status bb_runners_create(bb_runners *runners, const bb_graph *graph, const int *tapped,
                            size_t n_tapped, size_t n, bb_error *err) {
    const int64_t *dims[BB_MAX_NODE_INPUTS];
    bb_executor_options options = {.threads = 1, .tapped = tapped, .n_tapped = n_tapped};
    runners->n = 0;
    runners->executors = bb_calloc_array(n, sizeof(bb_executor *));
    if (!runners->executors)
        return bb_fail_memory(err, "executors");
    for (size_t i = 0; i < graph->n_inputs && i < BB_COUNT(dims); i++)
        dims[i] = graph->values[graph->inputs[i]].dims;
    for (size_t i = 0; i < n; i++) {
        bb_status status = bb_executor_create(graph, dims, &options, &runners->executors[i], err);
        if (status != BB_STATUS_OK) {
            bb_runners_destroy(runners);
            return status;
        }
        runners->n = i + 1;
    }
    return BB_STATUS_OK;
}

void bb_runners_destroy(bb_runners *runners) {
    for (size_t i = 0; i < runners->n; i++)
        bb_executor_destroy(runners->executors[i]);
    bb_free(runners->executors);
    runners->executors = NULL;
    runners->n = 0;
}
