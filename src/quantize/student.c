/* SPDX-License-Identifier: Apache-2.0 */
#include "quantize/student.h"
#include "quantize/fake.h"
#include "quantize/grid.h"
#include <math.h>
#include <string.h>

/* Latent weights start where the float weights lie, but no further than this part of half a cell
 * from the middle of the cell that the solver chose: the first small steps must not tip weights
 * over, and one exactly in the middle has forgotten which way it leans. */
static const float CELL_MARGIN = 0.5f;

float *bb_student_constant(const bb_student *student, int value) {
    return (float *)(uintptr_t)student->graph->values[value].data;
}

/* ---- weights --------------------------------------------------------------------------------- */

static size_t weight_count(const bb_quantization *q, size_t b) {
    const bb_conv_shape *s = &q->targets[b].shape;
    return (size_t)s->rows * s->taps * s->depth;
}

/** Weights on raw pixels have codes in another unit than the float network's. */
static bool is_frozen(const bb_student *s, size_t b) {
    return bb_quantize_is_pixels(s->q, s->q->plan.blocks[b].in[0]);
}

static void place_latents(const bb_student *s, size_t b, const float *real, const float *w,
                          float *latent) {
    const bb_conv_shape *shape = &s->q->targets[b].shape;
    const float *scale = s->q->profiles[s->profile].blocks[b].weight_scale;
    size_t d = (size_t)shape->taps * shape->depth;
    for (size_t i = 0; i < shape->rows * d; i++) {
        float reach = CELL_MARGIN * fabsf(scale[i / d]);
        latent[i] = fminf(fmaxf(w[i], real[i] - reach), real[i] + reach);
    }
}

/** Weights as a constant: quantized ones where they are frozen, else latents. */
static bb_status make_weights(bb_student *s, size_t b, bb_error *err) {
    const bb_quantization *q = s->q;
    int node = q->plan.blocks[b].node;
    const bb_value w = q->graph->values[q->graph->nodes[node].in[1]];
    void *data;
    int value = bb_graph_add_constant(s->graph, "latent", BB_DTYPE_F32, w.rank, w.dims, &data);
    float *real = bb_quantize_real_weights(q, b, s->profile);
    float *turned = bb_alloc_array(weight_count(q, b), sizeof *turned);
    bb_status status = value >= 0 && real && turned
                           ? bb_subgraph_to_operator(q, b, real, turned, err)
                           : bb_fail_memory(err, "latent weights");
    if (status == BB_STATUS_OK && is_frozen(s, b))
        memcpy(data, turned, weight_count(q, b) * sizeof *turned);
    else if (status == BB_STATUS_OK)
        place_latents(s, b, turned, w.data, data);
    bb_free(real);
    bb_free(turned);
    s->layers[b].latent = value;
    return status;
}

/** w * gain, a number for each row. Returns the product. */
static int add_gain(bb_student *s, size_t b, int w) {
    const bb_value v = s->graph->values[w];
    int64_t rows = s->q->targets[b].shape.rows, dims[BB_MAX_RANK] = {rows, 1, 1, 1, 1, 1, 1, 1};
    void *data;
    int gain = bb_graph_add_constant(s->graph, "gain", BB_DTYPE_F32, v.rank, dims, &data);
    int out = bb_graph_add_value(s->graph, "weights", BB_DTYPE_F32, v.rank, v.dims);
    int in[2] = {w, gain};
    for (int64_t r = 0; gain >= 0 && r < rows; r++)
        ((float *)data)[r] = 1.0f;
    s->layers[b].gain = gain;
    return gain >= 0 && out >= 0 &&
                   bb_graph_add_node(s->graph, "weights", BB_OP_MUL, 2, in, 1, &out) >= 0
               ? out
               : -1;
}

static bb_status connect_weights(bb_student *s, size_t b, bb_error *err) {
    const bb_block_quant *quant = &s->q->profiles[s->profile].blocks[b];
    bb_student_layer *layer = &s->layers[b];
    int node = s->q->plan.blocks[b].node, w = layer->latent;
    if (is_frozen(s, b)) {
        layer->latent = -1;
    } else {
        layer->step = bb_fake_constant(s->graph, "weight_step", quant->weight_scale,
                                       s->q->targets[b].shape.rows);
        bb_fake fake = {"odd", "weights", quant->planes, w, layer->step, -1, false};
        w = layer->step < 0 ? -1 : bb_fake_add(s->graph, &fake);
        w = w < 0 ? -1 : add_gain(s, b, w);
    }
    return w >= 0 && bb_fake_redirect(s->graph, node, 1, w) ? BB_STATUS_OK
                                                            : bb_fail_memory(err, "student");
}

static bb_status connect_bias(bb_student *s, size_t b, bb_error *err) {
    const bb_block_quant *quant = &s->q->profiles[s->profile].blocks[b];
    bb_node *node = &s->graph->nodes[s->q->plan.blocks[b].node];
    int *in = bb_arena_array(s->graph->arena, 3, sizeof *in);
    int bias = bb_fake_constant(s->graph, "bias", quant->bias, s->q->targets[b].shape.rows);
    if (!in || bias < 0)
        return bb_fail_memory(err, "student");
    memcpy(in, node->in, 2 * sizeof *in);
    in[2] = s->layers[b].bias = bias;
    node->in = in;
    node->n_in = 3;
    return BB_STATUS_OK;
}

/* ---- activations ----------------------------------------------------------------------------- */

/** The quantizer behind `value` with this step, where there is one. */
static int find_quantizer(const bb_graph *graph, int value, int step) {
    for (size_t i = 0; i < graph->n_nodes; i++) {
        const bb_node *node = &graph->nodes[i];
        if (node->op == BB_OP_FAKE_QUANTIZE && node->in[0] == value && node->n_in > 1 &&
            node->in[1] == step)
            return node->out[0];
    }
    return -1;
}

static bb_status connect_input(bb_student *s, size_t b, bb_error *err) {
    const bb_quantization *q = s->q;
    const bb_block *block = &q->plan.blocks[b];
    int value = block->in[0], class = q->class_of[value];
    int g = q->profiles[s->profile].blocks[b].in_grid[0];
    const bb_value_quant *quant = &q->profiles[s->profile].values[value];
    size_t at = (size_t) class * BB_MAX_GRIDS + (size_t)g;
    if (q->classes[class].fixed || g >= quant->n)
        return BB_STATUS_OK;
    const bb_grid *grid = &quant->grids[g];
    int x = s->graph->nodes[block->node].in[0], y = -1;
    if (s->steps[at] >= 0)
        y = find_quantizer(s->graph, x, s->steps[at]);
    if (y < 0) {
        float step = bb_fake_step(grid), zero = bb_fake_zero(grid);
        bb_fake fake = {bb_fake_kind(grid), "activations", grid->bits, x, s->steps[at], -1, false};
        if (fake.step < 0)
            fake.step = bb_fake_constant(s->graph, "step", &step, 0);
        if (strcmp(fake.quantizer, "affine") == 0)
            fake.zero = bb_fake_constant(s->graph, "zero", &zero, 0);
        y = fake.step < 0 ? -1 : bb_fake_add(s->graph, &fake);
        s->steps[at] = fake.step;
        s->grids[at] = *grid;
    }
    s->layers[b].input_step = s->steps[at];
    s->layers[b].input_node = y;
    return y >= 0 && bb_fake_redirect(s->graph, block->node, 0, y) ? BB_STATUS_OK
                                                                   : bb_fail_memory(err, "student");
}

/* ---- making it ------------------------------------------------------------------------------- */

static bb_status allocate(bb_student *s, bb_error *err) {
    bb_quantization *q = s->q;
    size_t n = q->n_classes * BB_MAX_GRIDS;
    s->graph = bb_graph_clone(q->graph);
    s->layers = bb_arena_array(q->arena, q->plan.n + 1, sizeof *s->layers);
    s->grids = bb_arena_array(q->arena, n + 1, sizeof *s->grids);
    s->steps = bb_arena_array(q->arena, n + 1, sizeof *s->steps);
    if (!s->graph || !s->layers || !s->grids || !s->steps)
        return bb_fail_memory(err, "student");
    for (size_t i = 0; i < n; i++)
        s->steps[i] = -1;
    for (size_t b = 0; b < q->plan.n; b++)
        s->layers[b] = (bb_student_layer){-1, -1, -1, -1, -1, -1};
    return BB_STATUS_OK;
}

static bb_status build(bb_student *s, bb_error *err) {
    BB_TRY(allocate(s, err));
    for (size_t b = 0; b < s->q->plan.n; b++) {
        if (s->q->plan.blocks[b].kind != BB_BLOCK_CONV)
            continue;
        BB_TRY(make_weights(s, b, err));
        BB_TRY(connect_weights(s, b, err));
        BB_TRY(connect_bias(s, b, err));
        BB_TRY(connect_input(s, b, err));
    }
    return bb_graph_link(s->graph, err);
}

bb_status bb_student_create(bb_quantization *q, size_t profile, bb_student *student,
                            bb_error *err) {
    *student = (bb_student){.q = q, .profile = profile, .most_batch = SIZE_MAX};
    bb_status status = build(student, err);
    if (status != BB_STATUS_OK)
        bb_student_destroy(student);
    return status;
}

void bb_student_destroy(bb_student *student) {
    bb_graph_destroy(student->graph);
    student->graph = NULL;
}

void bb_student_settle(bb_student *student) {
    const bb_quantization *q = student->q;
    for (size_t b = 0; b < q->plan.n; b++) {
        const bb_student_layer *layer = &student->layers[b];
        if (layer->latent < 0)
            continue;
        uint32_t bits = q->profiles[student->profile].blocks[b].planes;
        float top = (float)((1u << bits) - 1), *w = bb_student_constant(student, layer->latent);
        const float *step = bb_student_constant(student, layer->step);
        size_t n = weight_count(q, b), d = n / q->targets[b].shape.rows;
        for (size_t i = 0; i < n; i++) {
            float v = w[i] / step[i / d], level = 2.0f * floorf(0.5f * v) + 1.0f;
            level = fminf(fmaxf(level, -top), top);
            v = fminf(fmaxf(v, level - CELL_MARGIN), level + CELL_MARGIN);
            w[i] = v * step[i / d];
        }
    }
}

/* ---- taking its numbers ---------------------------------------------------------------------- */

static bb_status take_weights(bb_student *s, size_t b, bb_error *err) {
    bb_quantization *q = s->q;
    const bb_student_layer *layer = &s->layers[b];
    const bb_conv_shape *shape = &q->targets[b].shape;
    bb_block_quant *quant = &q->profiles[s->profile].blocks[b];
    size_t n = weight_count(q, b), d = n / shape->rows;
    float *latent = bb_alloc_array(n, sizeof *latent);
    uint8_t *codes = bb_arena_array(q->arena, n, 1);
    float *scale = bb_arena_array(q->arena, shape->rows, sizeof *scale);
    if (!latent || !codes || !scale) {
        bb_free(latent);
        return bb_fail_memory(err, "weight codes");
    }
    bb_status status =
        bb_subgraph_to_model(q, b, bb_student_constant(s, layer->latent), latent, err);
    float top = (float)((1u << quant->planes) - 1);
    const float *step = bb_student_constant(s, layer->step);
    for (size_t r = 0; r < shape->rows; r++)
        scale[r] = step[r] * bb_student_constant(s, layer->gain)[r];
    for (size_t i = 0; i < n && status == BB_STATUS_OK; i++) {
        float level = 2.0f * floorf(0.5f * latent[i] / step[i / d]) + 1.0f;
        level = fminf(fmaxf(level, -top), top);
        codes[i] = (uint8_t)((level + top) / 2.0f);
    }
    bb_free(latent);
    quant->weight_scale = scale;
    q->codes[b].codes = codes;
    q->codes[b].planes = quant->planes;
    return status;
}

static bb_status take_layer(bb_student *s, size_t b, bb_error *err) {
    bb_quantization *q = s->q;
    bb_block_quant *quant = &q->profiles[s->profile].blocks[b];
    size_t rows = q->targets[b].shape.rows;
    float *bias = bb_arena_array(q->arena, rows, sizeof *bias);
    if (!bias)
        return bb_fail_memory(err, "biases");
    memcpy(bias, bb_student_constant(s, s->layers[b].bias), rows * sizeof *bias);
    quant->bias = bias;
    return s->layers[b].latent < 0 ? BB_STATUS_OK : take_weights(s, b, err);
}

static void set_grid(bb_student *s, size_t class, int g, const bb_grid *grid) {
    bb_quantization *q = s->q;
    for (size_t v = 0; v < q->graph->n_values; v++)
        if (q->class_of[v] == (int)class)
            q->profiles[s->profile].values[v].grids[g] = *grid;
}

static bb_status take_grids(bb_student *s, bb_histogram *seen, bb_error *err) {
    bb_quantization *q = s->q;
    for (size_t c = 0; c < q->n_classes; c++)
        bb_histogram_init(&seen[c]);
    BB_TRY(bb_quantize_observe(q, s->graph, seen, err));
    for (size_t c = 0; c < q->n_classes; c++) {
        const bb_value_class *k = &q->classes[c];
        for (int g = 0; g < k->n && !k->fixed; g++) {
            size_t at = c * BB_MAX_GRIDS + (size_t)g;
            bb_grid grid = s->grids[at];
            if (s->steps[at] >= 0)
                grid = bb_fake_grid(bb_fake_kind(&grid), grid.bits,
                                    *bb_student_constant(s, s->steps[at]), bb_fake_zero(&grid));
            else
                grid = bb_grid_search(&seen[c], k->bits[g][s->profile], k->lo, k->hi);
            set_grid(s, c, g, &grid);
        }
    }
    return BB_STATUS_OK;
}

bb_status bb_student_take(bb_student *student, bb_error *err) {
    bb_quantization *q = student->q;
    bb_histogram *seen = bb_alloc_array(q->n_classes, sizeof *seen);
    bb_status status = seen ? take_grids(student, seen, err) : bb_fail_memory(err, "histograms");
    bb_free(seen);
    for (size_t b = 0; b < q->plan.n && status == BB_STATUS_OK; b++)
        if (q->plan.blocks[b].kind == BB_BLOCK_CONV)
            status = take_layer(student, b, err);
    return status;
}
