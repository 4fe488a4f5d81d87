/* SPDX-License-Identifier: Apache-2.0 */
/* Chains of data movement that amount to choosing channels, e.g. the channel shuffle
 * Reshape-Transpose-Reshape: recognised by what they do to numbered elements, not by their form. */
#include "graph/eval.h"
#include "passes/rewrite.h"
#include <string.h>

enum { MAX_CHAIN = 16 };
/* Elements of the largest tensor of a chain; larger ones are left alone. */
static const size_t MAX_ELEMENTS = (size_t)1 << 21;

static bool moves_elements(const bb_graph *graph, const bb_node *node) {
    switch (node->op) {
    case BB_OP_RESHAPE:
    case BB_OP_TRANSPOSE:
    case BB_OP_SLICE:
    case BB_OP_GATHER:
    case BB_OP_SPLIT:
    case BB_OP_SQUEEZE:
    case BB_OP_UNSQUEEZE:
    case BB_OP_FLATTEN:
        break;
    default:
        return false;
    }
    for (int i = 1; i < node->n_in; i++)
        if (node->in[i] >= 0 && !graph->values[node->in[i]].data)
            return false;
    return node->n_in > 0 && node->in[0] >= 0 && !graph->values[node->in[0]].data;
}

typedef struct chain {
    int nodes[MAX_CHAIN]; /* from the last one backwards */
    int n;
    int source; /* value that the first one reads */
} chain;

static bool is_image(const bb_value *v) {
    return v->rank == 4 && v->dims[1] > 0 && v->dims[2] > 0 && v->dims[3] > 0;
}

static bool small_enough(const bb_value *value, int64_t batch) {
    size_t n = 1;
    for (int i = 0; i < value->rank; i++) {
        size_t dim = (size_t)(value->dims[i] < 0 ? batch : value->dims[i]);
        if (!bb_size_mul(n, dim, &n) || n > MAX_ELEMENTS)
            return false;
    }
    return value->rank >= 0;
}

static bool chain_is_small(const bb_graph *graph, const chain *c, int64_t batch) {
    bool small = small_enough(&graph->values[c->source], batch);
    for (int i = 0; i < c->n && small; i++)
        for (int k = 0; k < graph->nodes[c->nodes[i]].n_out; k++) {
            int out = graph->nodes[c->nodes[i]].out[k];
            small = small && out >= 0 && small_enough(&graph->values[out], batch);
        }
    return small;
}

/* Runs the chain on `source` with its elements numbered; *result is freed with the arena. */
static bool run_numbered(const bb_graph *graph, const chain *c, int64_t batch, bb_arena *arena,
                         bb_array *result) {
    const bb_value *source = &graph->values[c->source];
    bb_array x = {
        BB_DTYPE_I64, 4, {batch, source->dims[1], source->dims[2], source->dims[3]}, NULL};
    size_t n;
    if (!chain_is_small(graph, c, batch) || !bb_dims_product(x.dims, 4, &n))
        return false;
    int64_t *numbers = bb_arena_array(arena, n, sizeof(*numbers));
    for (size_t i = 0; numbers && i < n; i++)
        numbers[i] = (int64_t)i;
    x.data = numbers;
    for (int i = c->n - 1; i >= 0 && x.data; i--) {
        const bb_node *node = &graph->nodes[c->nodes[i]];
        bb_array *in = bb_arena_array(arena, (size_t)node->n_in, sizeof(*in));
        bb_array *out = bb_arena_array(arena, (size_t)node->n_out, sizeof(*out));
        int wanted = i > 0 ? graph->nodes[c->nodes[i - 1]].in[0] : -1, which = 0;
        if (!in || !out)
            return false;
        for (int k = 1; k < node->n_in; k++)
            if (node->in[k] >= 0)
                bb_array_from_value(&graph->values[node->in[k]], &in[k]);
        in[0] = x;
        if (bb_eval_node(graph, node, in, out, arena, NULL) != BB_STATUS_OK)
            return false;
        for (int k = 0; k < node->n_out && i > 0; k++)
            which = node->out[k] == wanted ? k : which;
        x = out[which];
    }
    *result = x;
    return x.data != NULL;
}

/* True where the result is a choice of whole channels of the source, the same in every image. */
static bool chooses_channels(const bb_value *source, const bb_array *y, int64_t batch,
                             int64_t *channels) {
    if (y->rank != 4 || y->dims[0] != batch || y->dims[2] != source->dims[2] ||
        y->dims[3] != source->dims[3])
        return false;
    const int64_t *v = y->data;
    int64_t plane = y->dims[2] * y->dims[3], image = source->dims[1] * plane;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t c = 0; c < y->dims[1]; c++, v += plane) {
            int64_t from = v[0] / plane;
            if (b == 0)
                channels[c] = from;
            for (int64_t i = 0; i < plane; i++)
                if (v[i] != b * image + channels[c] * plane + i)
                    return false;
        }
    return true;
}

static bb_status replace_chain(bb_graph *graph, bb_node *node, int source, const int64_t *channels,
                               int64_t n, bool *changed, bb_error *err) {
    bool identity = n == graph->values[source].dims[1];
    for (int64_t i = 0; i < n; i++)
        identity = identity && channels[i] == i;
    if (identity) {
        *changed = bb_bypass(graph, node, source) || *changed;
        return BB_STATUS_OK;
    }
    void *data;
    const char *name = bb_arena_printf(graph->arena, "%s.channels", node->name);
    int indices = name ? bb_graph_add_constant(graph, name, BB_DTYPE_I64, 1, &n, &data) : -1;
    if (indices < 0)
        return bb_fail_memory(err, node->name);
    memcpy(data, channels, (size_t)n * sizeof(*channels));
    int in[2] = {source, indices};
    if (!bb_turn_into(graph, node, BB_OP_GATHER, 2, in) || !bb_node_set_int(graph, node, "axis", 1))
        return bb_fail_memory(err, node->name);
    *changed = true;
    return BB_STATUS_OK;
}

static bb_status try_chain(bb_graph *graph, bb_node *node, const chain *c, bool *changed,
                           bb_error *err) {
    const bb_value source = graph->values[c->source];
    /* With a symbolic batch, two images show whether they stay apart. */
    int64_t batch = source.dims[0] < 0 ? 2 : source.dims[0];
    int64_t n = graph->values[node->out[0]].dims[1];
    bb_arena *arena = bb_arena_create();
    int64_t *channels = arena ? bb_arena_array(arena, (size_t)n, sizeof(*channels)) : NULL;
    bb_array y;
    bb_status status = channels ? BB_STATUS_OK : bb_fail_memory(err, node->name);
    if (channels && run_numbered(graph, c, batch, arena, &y) && y.rank == 4 && y.dims[1] == n &&
        chooses_channels(&source, &y, batch, channels))
        status = replace_chain(graph, node, c->source, channels, n, changed, err);
    bb_arena_destroy(arena);
    return status;
}

bb_status bb_rewrite_channels(bb_graph *graph, size_t index, bool *changed, bb_error *err) {
    bb_node *node = &graph->nodes[index];
    chain c = {.n = 0};
    bool was_changed = *changed;
    /* Several outputs, or a single step, need no rewriting. */
    if (node->n_out != 1 || !moves_elements(graph, node) || !is_image(&graph->values[node->out[0]]))
        return BB_STATUS_OK;
    *changed = false;
    for (const bb_node *at = node; at && c.n < MAX_CHAIN && moves_elements(graph, at);
         at = bb_producer(graph, at->in[0])) {
        c.nodes[c.n++] = (int)(at - graph->nodes);
        c.source = at->in[0];
        if (c.n < 2 || !is_image(&graph->values[c.source]))
            continue;
        bb_status status = try_chain(graph, node, &c, changed, err);
        if (status != BB_STATUS_OK || *changed)
            return status;
    }
    *changed = was_changed;
    return BB_STATUS_OK;
}
