/* SPDX-License-Identifier: Apache-2.0 */
#include "quantize/trained.h"
#include "quantize/fake.h"
#include "quantize/grid.h"
#include "quantize/quantizer.h"
#include <math.h>
#include <string.h>

typedef struct builder {
    const bb_trained *trained;
    bb_quantization *q; /* the first profile's `values`; all results go here */
    bb_quantization values[BB_QUANTIZE_MAX_PROFILES], units[BB_QUANTIZE_MAX_PROFILES];
    size_t opened;
    const bb_trained_layer **layer; /* [plan.n], NULL where not CONV */
} builder;

static const char *block_name(const bb_quantization *q, size_t b) {
    return q->graph->nodes[q->plan.blocks[b].node].name;
}

/* ---- opening --------------------------------------------------------------------------------- */

/** All graphs must have come out of the passes with the same blocks. */
static bb_status check_same(const bb_quantization *a, const bb_quantization *b, bb_error *err) {
    bool same = a->plan.n == b->plan.n;
    for (size_t i = 0; same && i < a->plan.n; i++)
        same = a->plan.blocks[i].kind == b->plan.blocks[i].kind &&
               strcmp(block_name(a, i), block_name(b, i)) == 0;
    return same ? BB_STATUS_OK
                : bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                          "%s: the profiles' networks differ in structure", a->graph->name);
}

static bb_status open_all(builder *w, const bb_quantize_options *options, bb_error *err) {
    for (size_t p = 0; p < options->n_profiles; p++) {
        w->opened = p + 1;
        BB_TRY(bb_quantize_open(&w->values[p], w->trained->values[p], options, err));
        BB_TRY(bb_quantize_open(&w->units[p], w->trained->units[p], options, err));
        BB_TRY(check_same(&w->values[0], &w->values[p], err));
        BB_TRY(check_same(&w->values[0], &w->units[p], err));
    }
    w->q = &w->values[0];
    return BB_STATUS_OK;
}

static void close_all(builder *w) {
    for (size_t p = 0; p < w->opened; p++) {
        bb_quantize_close(&w->values[p]);
        if (w->units[p].arena)
            bb_quantize_close(&w->units[p]);
    }
}

static bb_status find_layers(builder *w, bb_error *err) {
    bb_quantization *q = w->q;
    w->layer = bb_arena_array(q->arena, q->plan.n + 1, sizeof *w->layer);
    if (!w->layer)
        return bb_fail_memory(err, "trained layers");
    for (size_t b = 0; b < q->plan.n; b++) {
        if (q->plan.blocks[b].kind != BB_BLOCK_CONV)
            continue;
        for (size_t i = 0; i < w->trained->n_layers && !w->layer[b]; i++)
            if (strcmp(w->trained->layers[i].name, block_name(q, b)) == 0)
                w->layer[b] = &w->trained->layers[i];
        if (!w->layer[b])
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "%s: layer '%s' has not been trained",
                           q->graph->name, block_name(q, b));
    }
    return BB_STATUS_OK;
}

/* ---- weights --------------------------------------------------------------------------------- */

/** Code of level b, a sum of the plane weights with signs; the nearest where there is none. */
static uint32_t code_of(const bb_trained_layer *layer, uint32_t bits, double b) {
    if (!layer->plane_weight) {
        double top = (double)((1u << bits) - 1), u = floor((b + top) * 0.5 + 0.5);
        return (uint32_t)(u < 0.0 ? 0.0 : u > top ? top : u);
    }
    uint32_t best = 0;
    double error = INFINITY;
    for (uint32_t code = 0; code < 1u << bits; code++) {
        double sum = 0.0;
        for (uint32_t p = 0; p < bits; p++)
            sum += code >> (bits - 1 - p) & 1 ? layer->plane_weight[p] : -layer->plane_weight[p];
        if (fabs(sum - b) < error) {
            error = fabs(sum - b);
            best = code;
        }
    }
    return best;
}

typedef struct layer_numbers {
    float *values, *units, *bias, *unused;
} layer_numbers;

static bb_status read_layer(builder *w, size_t p, size_t b, const layer_numbers *n, bb_error *err) {
    bb_quantization *v = &w->values[p], *u = &w->units[p];
    BB_TRY(bb_lower_conv_weights(v->graph, &v->plan.blocks[b], n->values, n->bias, err));
    BB_TRY(bb_lower_conv_weights(u->graph, &u->plan.blocks[b], n->units, n->unused, err));
    bb_quantize_weights_for_pixels(v, b, n->values);
    bb_quantize_weights_for_pixels(u, b, n->units);
    return BB_STATUS_OK;
}

/** Codes of profile p must be the first planes of the shared ones, which the profile of most bits
 *  has set. */
static bb_status take_codes(builder *w, size_t p, size_t b, const layer_numbers *n, uint8_t *codes,
                            bool first, bb_error *err) {
    const bb_conv_shape *s = &w->q->targets[b].shape;
    const bb_trained_layer *layer = w->layer[b];
    uint32_t bits = bb_quantize_bits(w->q, b, p).weight;
    uint32_t shift = layer->planes - bits;
    size_t d = (size_t)s->taps * s->depth;
    for (size_t i = 0; i < s->rows * d; i++) {
        float unit = n->units[i / d * d];
        uint32_t code =
            unit != 0.0f ? code_of(layer, bits, (double)n->values[i] / (double)unit) : 0;
        if (first)
            codes[i] = (uint8_t)code;
        else if (unit != 0.0f && (uint32_t)codes[i] >> shift != code)
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                           "%s: weight %zu of layer '%s' is no prefix of its %u planes in profile "
                           "%zu",
                           w->q->graph->name, i, block_name(w->q, b), layer->planes, p);
    }
    return BB_STATUS_OK;
}

static bb_status take_profile(builder *w, size_t p, size_t b, const layer_numbers *n,
                              bb_error *err) {
    const bb_conv_shape *s = &w->q->targets[b].shape;
    bb_block_quant *out = &w->q->profiles[p].blocks[b];
    size_t d = (size_t)s->taps * s->depth;
    float *scale = bb_arena_array(w->q->arena, s->rows, sizeof *scale);
    float *bias = bb_arena_array(w->q->arena, s->rows, sizeof *bias);
    if (!scale || !bias)
        return bb_fail_memory(err, "weight scales");
    for (size_t r = 0; r < s->rows; r++)
        scale[r] = n->units[r * d];
    memcpy(bias, n->bias, s->rows * sizeof *bias);
    out->planes =
        w->layer[b]->plane_weight ? w->layer[b]->planes : bb_quantize_bits(w->q, b, p).weight;
    out->weight_scale = scale;
    out->bias = bias;
    return bb_quantize_is_pixels(w->q, w->q->plan.blocks[b].in[0])
               ? bb_quantize_fold_mean(w->q, b, p, err)
               : BB_STATUS_OK;
}

static size_t widest_profile(const builder *w, size_t b) {
    size_t best = 0;
    for (size_t p = 1; p < w->q->n_profiles; p++)
        if (bb_quantize_bits(w->q, b, p).weight > bb_quantize_bits(w->q, b, best).weight)
            best = p;
    return best;
}

static bb_status take_layer(builder *w, size_t b, const layer_numbers *n, bb_error *err) {
    const bb_conv_shape *s = &w->q->targets[b].shape;
    uint8_t *codes =
        bb_arena_array(w->q->arena, (size_t)s->rows * s->taps * s->depth, sizeof *codes);
    if (!codes)
        return bb_fail_memory(err, "weight codes");
    w->q->codes[b] = (bb_block_codes){
        s->rows, s->taps, s->depth, w->layer[b]->planes, codes, w->layer[b]->plane_weight};
    size_t widest = widest_profile(w, b);
    BB_TRY(read_layer(w, widest, b, n, err));
    BB_TRY(take_codes(w, widest, b, n, codes, true, err));
    for (size_t p = 0; p < w->q->n_profiles; p++) {
        BB_TRY(read_layer(w, p, b, n, err));
        BB_TRY(take_codes(w, p, b, n, codes, false, err));
        BB_TRY(take_profile(w, p, b, n, err));
    }
    return BB_STATUS_OK;
}

static bb_status take_layers(builder *w, bb_error *err) {
    for (size_t b = 0; b < w->q->plan.n; b++) {
        if (!w->layer[b])
            continue;
        const bb_conv_shape *s = &w->q->targets[b].shape;
        size_t weights = (size_t)s->rows * s->taps * s->depth;
        layer_numbers n = {bb_alloc_array(2 * weights + 2 * (size_t)s->rows, sizeof(float)), 0, 0,
                           0};
        if (!n.values)
            return bb_fail_memory(err, "weights");
        n.units = n.values + weights;
        n.bias = n.units + weights;
        n.unused = n.bias + s->rows;
        bb_status status = take_layer(w, b, &n, err);
        bb_free(n.values);
        BB_TRY(status);
    }
    return BB_STATUS_OK;
}

/* ---- grids ----------------------------------------------------------------------------------- */

/** Grid g of the class of `value` in profile p, in all its values. */
static void set_grid(bb_quantization *q, size_t p, int class, int g, const bb_grid *grid) {
    for (size_t v = 0; v < q->graph->n_values; v++)
        if (q->class_of[v] == class)
            q->profiles[p].values[v].grids[g] = *grid;
}

/** `given[class]` gets a bit for every grid that a layer brings. */
static bb_status take_grids(builder *w, size_t p, uint8_t *given, bb_error *err) {
    bb_quantization *q = w->q;
    for (size_t b = 0; b < q->plan.n; b++) {
        const bb_grid *grid = w->layer[b] ? &w->layer[b]->grids[p] : NULL;
        int value = q->plan.blocks[b].in[0], class = grid ? q->class_of[value] : -1;
        if (!grid || !grid->bits || q->classes[class].fixed)
            continue;
        int g = q->profiles[p].blocks[b].in_grid[0];
        bb_grid old = q->profiles[p].values[value].grids[g];
        bool again = given[class] >> g & 1;
        if (old.bits != grid->bits || (again && (old.step != grid->step || old.a0 != grid->a0)))
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                           "%s: layer '%s' was trained on another grid than its input has",
                           q->graph->name, block_name(q, b));
        given[class] |= (uint8_t)(1u << g);
        set_grid(q, p, class, g, grid);
    }
    return BB_STATUS_OK;
}

/** The network of profile p with its known activation grids as fake quantizers; values keep their
 *  numbers. */
static bb_status quantized_graph(builder *w, size_t p, bb_graph **graph, bb_error *err) {
    const bb_quantization *v = &w->values[p];
    *graph = bb_graph_clone(v->graph);
    for (size_t b = 0; *graph && b < v->plan.n; b++) {
        const bb_grid *grid = w->layer[b] ? &w->layer[b]->grids[p] : NULL;
        if (!grid || !grid->bits || v->classes[v->class_of[v->plan.blocks[b].in[0]]].fixed)
            continue;
        int node = v->plan.blocks[b].node;
        int y = bb_fake_add_grid(*graph, (*graph)->nodes[node].in[0], grid, "quantized");
        if (y < 0 || !bb_fake_redirect(*graph, node, 0, y)) {
            bb_graph_destroy(*graph);
            *graph = NULL;
        }
    }
    return *graph ? bb_graph_link(*graph, err) : bb_fail_memory(err, "quantized network");
}

static bb_status calibrate_rest(builder *w, size_t p, const uint8_t *given, bb_histogram *seen,
                                bb_error *err) {
    bb_quantization *q = w->q, *v = &w->values[p];
    bb_graph *graph;
    for (size_t c = 0; c < q->n_classes; c++)
        bb_histogram_init(&seen[c]);
    bb_status status = quantized_graph(w, p, &graph, err);
    if (status == BB_STATUS_OK)
        status = bb_quantize_observe(v, graph, seen, err);
    bb_graph_destroy(graph);
    BB_TRY(status);
    for (size_t c = 0; c < q->n_classes; c++) {
        const bb_value_class *k = &q->classes[c];
        for (int g = 0; g < k->n && !k->fixed; g++) {
            if (given[c] >> g & 1)
                continue;
            bb_grid grid = bb_grid_search(&seen[c], k->bits[g][p], k->lo, k->hi);
            set_grid(q, p, (int)c, g, &grid);
        }
    }
    return BB_STATUS_OK;
}

static bb_status make_grids(builder *w, bb_error *err) {
    bb_quantization *q = w->q;
    uint8_t *given = bb_alloc_array(q->n_classes, 1);
    bb_histogram *seen = bb_alloc_array(q->n_classes, sizeof *seen);
    bb_status status = given && seen ? BB_STATUS_OK : bb_fail_memory(err, "histograms");
    for (size_t p = 0; status == BB_STATUS_OK && p < q->n_profiles; p++) {
        memset(given, 0, q->n_classes);
        status = take_grids(w, p, given, err);
        if (status == BB_STATUS_OK)
            status = calibrate_rest(w, p, given, seen, err);
    }
    bb_free(given);
    bb_free(seen);
    return status;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static bb_status build(builder *w, const bb_quantize_options *options, bb_model **model,
                       bb_quantize_report *report, bb_error *err) {
    bb_quantization *q = w->q;
    BB_TRY(find_layers(w, err));
    BB_TRY(make_grids(w, err));
    BB_TRY(take_layers(w, err));
    BB_TRY(bb_lower_float(q->graph, &q->plan, q->codes, q->profiles, q->n_profiles, options, model,
                          err));
    if (!report)
        return BB_STATUS_OK;
    bb_status status = bb_quantize_fill_report(q, report, err);
    if (status != BB_STATUS_OK) {
        bb_model_destroy(*model);
        *model = NULL;
    }
    return status;
}

bb_status bb_quantize_trained(const bb_trained *trained, const bb_quantize_options *options,
                              bb_calibration_fn calibration, void *user, size_t count,
                              bb_model **model, bb_quantize_report *report, bb_error *err) {
    *model = NULL;
    if (options->n_profiles < 1 || options->n_profiles > BB_QUANTIZE_MAX_PROFILES)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "between 1 and %d profiles are possible",
                       BB_QUANTIZE_MAX_PROFILES);
    if (!count)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "there are no calibration images");
    builder *w = bb_calloc_array(1, sizeof *w);
    if (!w)
        return bb_fail_memory(err, "trained network");
    w->trained = trained;
    bb_status status = open_all(w, options, err);
    for (size_t p = 0; p < w->opened; p++) {
        w->values[p].calibration = calibration;
        w->values[p].user = user;
        w->values[p].count = count;
    }
    if (status == BB_STATUS_OK)
        status = build(w, options, model, report, err);
    close_all(w);
    bb_free(w);
    return status;
}
