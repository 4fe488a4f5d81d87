/* SPDX-License-Identifier: Apache-2.0 */
#include "quantize/fake.h"
#include <math.h>
#include <string.h>

int bb_fake_constant(bb_graph *graph, const char *name, const float *from, size_t n) {
    int64_t dims[1] = {(int64_t)n};
    void *data;
    int value = bb_graph_add_constant(graph, name, BB_DTYPE_F32, n > 0, dims, &data);
    if (value >= 0)
        memcpy(data, from, (n ? n : 1) * sizeof *from);
    return value;
}

int bb_fake_add(bb_graph *graph, const bb_fake *fake) {
    const bb_value x = graph->values[fake->x];
    int in[3] = {fake->x, fake->step, fake->zero};
    int n_in = fake->zero >= 0 ? 3 : fake->step >= 0 ? 2 : 1;
    int out = bb_graph_add_value(graph, fake->name, BB_DTYPE_F32, x.rank, x.dims);
    int node =
        out < 0 ? -1 : bb_graph_add_node(graph, fake->name, BB_OP_FAKE_QUANTIZE, n_in, in, 1, &out);
    if (node < 0 || !bb_node_set_string(graph, &graph->nodes[node], "quantizer", fake->quantizer) ||
        !bb_node_set_int(graph, &graph->nodes[node], "bits", fake->bits) ||
        (fake->by_row && !bb_node_set_int(graph, &graph->nodes[node], "axis", 0)))
        return -1;
    return out;
}

/* ---- grids ----------------------------------------------------------------------------------- */

static int32_t last_code(uint32_t bits) {
    return (int32_t)((1u << bits) - 1);
}

const char *bb_fake_kind(const bb_grid *grid) {
    if (grid->a0 == -last_code(grid->bits))
        return "unsigned";
    return grid->a0 == 0 ? "odd_input" : "affine";
}

float bb_fake_step(const bb_grid *grid) {
    return grid->a0 == 0 ? grid->step : 2.0f * grid->step;
}

float bb_fake_zero(const bb_grid *grid) {
    return (float)((grid->a0 + last_code(grid->bits)) / 2);
}

bb_grid bb_fake_grid(const char *kind, uint32_t bits, float step, float zero) {
    int32_t top = last_code(bits);
    step = fabsf(step);
    if (strcmp(kind, "unsigned") == 0)
        return (bb_grid){bits, 0.5f * step, -top};
    if (strcmp(kind, "affine") == 0)
        return (bb_grid){bits, 0.5f * step, 2 * (int32_t)lrintf(zero) - top};
    if (strcmp(kind, "hard_relu_affine") == 0)
        return (bb_grid){bits, 0.5f / (float)top, -top};
    if (strcmp(kind, "odd_input") == 0)
        return (bb_grid){bits, step, 0};
    return (bb_grid){bits, 1.0f / (float)top, 0}; /* the kinds of eq. 15 */
}

int bb_fake_add_grid(bb_graph *graph, int x, const bb_grid *grid, const char *name) {
    float step = bb_fake_step(grid), zero = bb_fake_zero(grid);
    bb_fake fake = {.quantizer = bb_fake_kind(grid), .name = name, .bits = grid->bits, .x = x};
    fake.step = bb_fake_constant(graph, "step", &step, 0);
    fake.zero = -1;
    if (strcmp(fake.quantizer, "affine") == 0 &&
        (fake.zero = bb_fake_constant(graph, "zero", &zero, 0)) < 0)
        return -1;
    return fake.step < 0 ? -1 : bb_fake_add(graph, &fake);
}

bool bb_fake_redirect(bb_graph *graph, int node, int i, int value) {
    bb_node *n = &graph->nodes[node];
    int *in = bb_arena_array(graph->arena, (size_t)n->n_in, sizeof *in);
    if (!in)
        return false;
    memcpy(in, n->in, (size_t)n->n_in * sizeof *in);
    in[i] = value;
    n->in = in;
    return true;
}
