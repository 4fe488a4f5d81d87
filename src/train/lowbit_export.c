/* SPDX-License-Identifier: Apache-2.0 */
/* From trained constants back to float graphs and to a model. */
#include "nn/quantizer_binary.h"
#include "quantize/trained.h"
#include "train/lowbit_internal.h"
#include <float.h>
#include <math.h>
#include <string.h>

/* What of a layer's weights a graph is to hold. */
typedef enum weight_view { VIEW_LATENT, VIEW_VALUES, VIEW_UNITS } weight_view;

/* Ternary values are -unit, 0, +unit as the sum of two planes of half a unit. */
static const int16_t TERNARY_PLANES[2] = {1, 1};

static const float *constant(const bb_graph *trained, int value) {
    return trained->values[value].data;
}

/* ---- real values of quantized weights -------------------------------------------------------- */

/** Step of row r in profile p, as the graph computes it. */
static float row_step(const bb_lowbit_layer *layer, const bb_graph *trained, size_t p, size_t r) {
    float wider = (float)(1u << (layer->most_bits - layer->bits[p]));
    return layer->step < 0 ? 1.0f : constant(trained, layer->step)[r] * wider;
}

static void branch_values(const bb_lowbit_layer *layer, const bb_graph *trained, float *y) {
    size_t n = layer->rows * layer->d;
    for (size_t i = 0; i < n; i++) {
        float sum = 0.0f;
        for (size_t k = 0; k < layer->n_latent; k++) {
            float weight = (float)(1u << k) / (float)((1u << layer->n_latent) - 1);
            sum += constant(trained, layer->latent[k])[i] >= 0.0f ? weight : -weight;
        }
        y[i] = sum;
    }
}

/** The quantizer itself, as the graph applies it. */
static void quantized_values(const bb_lowbit_layer *layer, const bb_graph *trained, size_t p,
                             float *y) {
    const bb_quantizer *kind = bb_quantizer_find(bb_lowbit_weight_kind(layer->weights));
    const float *x = constant(trained, layer->latent[0]);
    bb_quantizer_args args = {.bits = (int)layer->bits[p], .step = 1.0f};
    if (layer->weights == BB_LOWBIT_WEIGHTS_MULTI_BRANCH) {
        branch_values(layer, trained, y);
        return;
    }
    if (layer->step < 0 && !bb_lowbit_weights_by_row(layer->weights)) {
        kind->forward(&args, x, y, layer->rows * layer->d);
        return;
    }
    for (size_t r = 0; r < layer->rows; r++) {
        args.step = row_step(layer, trained, p, r);
        kind->forward(&args, x + r * layer->d, y + r * layer->d, layer->d);
    }
}

static float largest(const float *x, size_t n) {
    float most = 0.0f;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(x[i]));
    return most;
}

/** Unit of every row: real value = unit * b. */
static void row_units(const bb_lowbit_layer *layer, const bb_graph *trained, size_t p,
                      const float *values, float *units) {
    const bb_quantizer *kind = bb_quantizer_find(bb_lowbit_weight_kind(layer->weights));
    bb_quantizer_args args = {.bits = (int)layer->bits[p]};
    float just_above = FLT_MIN; /* lies in the cell of level +1 */
    for (size_t r = 0; r < layer->rows; r++) {
        const float *row = values + r * layer->d;
        args.step = row_step(layer, trained, p, r);
        switch (layer->weights) {
        case BB_LOWBIT_WEIGHTS_BWN:
        case BB_LOWBIT_WEIGHTS_XNOR:
            units[r] = largest(row, layer->d);
            break;
        case BB_LOWBIT_WEIGHTS_TWN:
            units[r] = 0.5f * largest(row, layer->d);
            break;
        case BB_LOWBIT_WEIGHTS_ABC:
            units[r] = bb_abc_unit(constant(trained, layer->latent[0]), layer->rows * layer->d,
                                   layer->bits[p], NULL);
            break;
        case BB_LOWBIT_WEIGHTS_LEARNED:
            kind->forward(&args, &just_above, &units[r], 1);
            break;
        default:
            units[r] = 1.0f / (float)((1u << layer->bits[p]) - 1);
        }
    }
}

/* ---- float graphs ---------------------------------------------------------------------------- */

/**
 * Latent weights. A row whose step has run away from them (BatchNormalization makes a row's length
 * irrelevant to the loss, so nothing brings it back) is taken at its quantized values: the
 * statistics of BatchNormalization belong to those.
 */
static bb_status latent_values(const bb_lowbit_layer *layer, const bb_graph *trained, size_t p,
                               float *w, bb_error *err) {
    const float *latent = constant(trained, layer->latent[0]);
    size_t n = layer->rows * layer->d;
    memcpy(w, latent, n * sizeof(*w));
    if (layer->step < 0)
        return BB_STATUS_OK;
    float *values = bb_alloc_array(n, sizeof(*values));
    if (!values)
        return bb_fail_memory(err, "weights");
    quantized_values(layer, trained, p, values);
    for (size_t at = 0; at < n; at += layer->d) {
        double own = 0.0, quantized = 0.0;
        for (size_t i = at; i < at + layer->d; i++) {
            own += (double)latent[i] * (double)latent[i];
            quantized += (double)values[i] * (double)values[i];
        }
        if (quantized > 4.0 * own)
            memcpy(w + at, values + at, layer->d * sizeof(*w));
    }
    bb_free(values);
    return BB_STATUS_OK;
}

static bb_status write_weights(const bb_lowbit_layer *layer, const bb_graph *trained, size_t p,
                               weight_view view, float *w, bb_error *err) {
    size_t n = layer->rows * layer->d;
    if (view == VIEW_LATENT && layer->weights != BB_LOWBIT_WEIGHTS_MULTI_BRANCH)
        BB_TRY(latent_values(layer, trained, p, w, err));
    else
        quantized_values(layer, trained, p, w);
    float *units = bb_alloc_array(layer->rows, sizeof(*units));
    if (!units)
        return bb_fail_memory(err, "weights");
    if (view == VIEW_UNITS) {
        row_units(layer, trained, p, w, units);
        for (size_t i = 0; i < n; i++)
            w[i] = units[i / layer->d];
    }
    for (size_t i = 0; i < n && layer->unit; i++)
        w[i] *= layer->unit[i];
    bb_free(units);
    return BB_STATUS_OK;
}

/** The base graph with the trained constants of profile p; layers' weights as `view` says. */
static bb_status float_graph(const bb_lowbit *l, const bb_graph *trained, size_t p,
                             weight_view view, bb_graph **graph, bb_error *err) {
    bb_graph *g = *graph = bb_graph_clone(l->base);
    if (!g)
        return bb_fail_memory(err, "trained network");
    for (size_t v = 0; v < l->base->n_values; v++)
        if (l->constant_of[p][v] >= 0)
            g->values[v].data = constant(trained, l->constant_of[p][v]);
    for (size_t i = 0; i < l->n_layers; i++) {
        const bb_lowbit_layer *layer = &l->layers[i];
        float *w = bb_arena_array(g->arena, layer->rows * layer->d, sizeof(*w));
        if (!w)
            return bb_fail_memory(err, "trained network");
        BB_TRY(write_weights(layer, trained, p, view, w, err));
        g->values[layer->base_w].data = w;
    }
    return BB_STATUS_OK;
}

/** Copies every f32 constant into the graph itself. */
static bb_status own_constants(bb_graph *graph, bb_error *err) {
    for (size_t v = 0; v < graph->n_values; v++) {
        bb_value *value = &graph->values[v];
        size_t n;
        if (!value->data || value->dtype != BB_DTYPE_F32 || !bb_value_elements(value, &n))
            continue;
        float *copy = bb_arena_array(graph->arena, n + 1, sizeof(*copy));
        if (!copy)
            return bb_fail_memory(err, "trained network");
        memcpy(copy, value->data, n * sizeof(*copy));
        value->data = copy;
    }
    return BB_STATUS_OK;
}

bb_status bb_lowbit_latent(const bb_lowbit *lowbit, const bb_graph *trained, size_t profile,
                           bb_graph **graph, bb_error *err) {
    *graph = NULL;
    if (profile >= lowbit->n_profiles)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "there is no profile %zu", profile);
    bb_status status = float_graph(lowbit, trained, profile, VIEW_LATENT, graph, err);
    if (status == BB_STATUS_OK)
        status = own_constants(*graph, err);
    if (status != BB_STATUS_OK) {
        bb_graph_destroy(*graph);
        *graph = NULL;
    }
    return status;
}

/* ---- the model ------------------------------------------------------------------------------- */

static bb_grid trained_grid(const bb_lowbit_input *input, const bb_graph *trained) {
    if (!input->kind)
        return (bb_grid){0};
    float step = input->step < 0 ? 0.0f : *constant(trained, input->step);
    float zero = input->zero < 0 ? 0.0f : *constant(trained, input->zero);
    return bb_fake_grid(input->kind, input->bits, step, zero);
}

static bb_status describe_layer(const bb_lowbit *l, const bb_lowbit_layer *layer,
                                const bb_graph *trained, bb_arena *arena, bb_trained_layer *out,
                                bb_error *err) {
    bb_grid *grids = bb_arena_array(arena, l->n_profiles, sizeof(*grids));
    int16_t *planes = bb_arena_array(arena, BB_LOWBIT_MAX_BRANCHES, sizeof(*planes));
    if (!grids || !planes)
        return bb_fail_memory(err, "trained layers");
    for (size_t p = 0; p < l->n_profiles; p++)
        grids[p] = trained_grid(&layer->input[p], trained);
    *out = (bb_trained_layer){.name = layer->name, .grids = grids, .planes = layer->most_bits};
    if (layer->weights == BB_LOWBIT_WEIGHTS_TWN)
        out->plane_weight = TERNARY_PLANES;
    if (layer->weights == BB_LOWBIT_WEIGHTS_ABC) {
        bb_abc_unit(constant(trained, layer->latent[0]), layer->rows * layer->d, layer->most_bits,
                    planes);
        out->plane_weight = planes;
    }
    return BB_STATUS_OK;
}

typedef struct export_graphs {
    bb_arena *arena;
    bb_graph *values[BB_QUANTIZE_MAX_PROFILES], *units[BB_QUANTIZE_MAX_PROFILES];
} export_graphs;

static bb_status make_graphs(const bb_lowbit *l, const bb_graph *trained, export_graphs *e,
                             bb_trained_layer **layers, bb_error *err) {
    e->arena = bb_arena_create();
    *layers = e->arena ? bb_arena_array(e->arena, l->n_layers + 1, sizeof(**layers)) : NULL;
    if (!*layers)
        return bb_fail_memory(err, "trained layers");
    for (size_t p = 0; p < l->n_profiles; p++) {
        BB_TRY(float_graph(l, trained, p, VIEW_VALUES, &e->values[p], err));
        BB_TRY(float_graph(l, trained, p, VIEW_UNITS, &e->units[p], err));
    }
    for (size_t i = 0; i < l->n_layers; i++)
        BB_TRY(describe_layer(l, &l->layers[i], trained, e->arena, &(*layers)[i], err));
    return BB_STATUS_OK;
}

bb_status bb_lowbit_export(const bb_lowbit *lowbit, const bb_graph *trained,
                           bb_calibration_fn calibration, void *user, size_t count,
                           bb_model **model, bb_quantize_report *report, bb_error *err) {
    export_graphs e = {0};
    bb_trained_layer *layers;
    *model = NULL;
    bb_status status = make_graphs(lowbit, trained, &e, &layers, err);
    if (status == BB_STATUS_OK) {
        bb_trained t = {.values = (const bb_graph *const *)e.values,
                        .units = (const bb_graph *const *)e.units,
                        .n_layers = lowbit->n_layers,
                        .layers = layers};
        status = bb_quantize_trained(&t, &lowbit->options.quantize, calibration, user, count, model,
                                     report, err);
    }
    for (size_t p = 0; p < lowbit->n_profiles; p++) {
        bb_graph_destroy(e.values[p]);
        bb_graph_destroy(e.units[p]);
    }
    bb_arena_destroy(e.arena);
    return status;
}
