/* SPDX-License-Identifier: Apache-2.0 */
/* Feature distillation: values within the network learn from the same nodes' in the teacher. */
#include "train/features.h"
#include "nn/loss.h"
#include "quantize/quantizer.h"
#include <string.h>

/* ---- which values ---------------------------------------------------------------------------- */

static const bb_node *find_node(const bb_graph *graph, const char *name) {
    for (size_t i = 0; i < graph->n_nodes; i++)
        if (strcmp(graph->nodes[i].name, name) == 0)
            return &graph->nodes[i];
    return NULL;
}

static bool is_layer(const bb_node *node) {
    return node->op == BB_OP_CONV || node->op == BB_OP_GEMM || node->op == BB_OP_MATMUL;
}

/* What the last layer reads. */
static bool is_default(const bb_graph *graph, const bb_node *node) {
    const bb_node *last = NULL;
    for (size_t i = 0; i < graph->n_nodes; i++)
        if (is_layer(&graph->nodes[i]))
            last = &graph->nodes[i];
    return last && last->in[0] == node->out[0];
}

/* Scores have losses of their own. */
static bool is_output(const bb_graph *graph, const bb_node *node) {
    for (size_t i = 0; i < graph->n_outputs; i++)
        if (graph->outputs[i] == node->out[0])
            return true;
    return false;
}

static bool is_wanted(const bb_stage *stage, const bb_graph *teacher, const bb_node *node) {
    if (node->n_out == 0 || is_output(teacher, node))
        return false;
    if (stage->n_features == 0)
        return is_default(teacher, node);
    for (size_t i = 0; i < stage->n_features; i++)
        if (bb_name_matches(stage->features[i], node->name))
            return true;
    return false;
}

/* Elements of one image; 0 where the values have different or unknown sizes. */
static size_t common_elements(const bb_value *a, const bb_value *b) {
    size_t n = 1;
    if (a->rank < 2 || a->rank != b->rank || a->dtype != BB_DTYPE_F32 || b->dtype != BB_DTYPE_F32)
        return 0;
    for (int d = 1; d < a->rank; d++)
        if (a->dims[d] <= 0 || a->dims[d] != b->dims[d] || !bb_size_mul(n, (size_t)a->dims[d], &n))
            return 0;
    return n;
}

static bb_status add_counterpart(const bb_features *f, bb_feature *feature, const bb_node *node,
                                 size_t profile, size_t batch, bb_error *err) {
    bb_arena *arena = f->teacher->arena;
    const char *name = bb_lowbit_profile_name(arena, node->name, profile);
    const bb_node *own = name ? find_node(f->student, name) : NULL;
    size_t elements;
    if (!name)
        return bb_fail_memory(err, "features");
    if (!own)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                       "stage '%s': the network has no node '%s' as its teacher has",
                       f->stage->name, node->name);
    feature->own[profile] = own->out[0];
    feature->elements =
        common_elements(&f->student->values[own->out[0]], &f->teacher->values[node->out[0]]);
    if (feature->elements == 0)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                       "stage '%s': what node '%s' computes has another size in the teacher",
                       f->stage->name, node->name);
    feature->gradient[profile] = bb_size_mul(batch, feature->elements, &elements)
                                     ? bb_arena_array(arena, elements, sizeof(float))
                                     : NULL;
    return feature->gradient[profile] ? BB_STATUS_OK : bb_fail_memory(err, "features");
}

static bb_status add_feature(bb_features *f, const bb_node *node, size_t batch, bb_error *err) {
    bb_feature *feature = &f->list[f->n++];
    feature->teacher = node->out[0];
    for (size_t p = 0; p < f->n_profiles; p++)
        BB_TRY(add_counterpart(f, feature, node, p, batch, err));
    return BB_STATUS_OK;
}

/* A pattern that names nothing is a slip of the pen. */
static bb_status check_patterns(const bb_stage *stage, const bb_graph *teacher, bb_error *err) {
    for (size_t i = 0; i < stage->n_features; i++) {
        bool found = false;
        for (size_t n = 0; n < teacher->n_nodes && !found; n++)
            found = bb_name_matches(stage->features[i], teacher->nodes[n].name);
        if (!found)
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                           "stage '%s': 'features' names no node of the teacher: '%s'", stage->name,
                           stage->features[i]);
    }
    return BB_STATUS_OK;
}

bb_status bb_features_find(bb_features *f, const bb_stage *stage, const bb_graph *student,
                           bb_graph *teacher, size_t batch, bb_error *err) {
    *f = (bb_features){
        .stage = stage, .student = student, .teacher = teacher, .n_profiles = student->n_outputs};
    if (stage->feature_weight <= 0)
        return BB_STATUS_OK;
    if (f->n_profiles > BB_TRAIN_MAX_PROFILES)
        return bb_fail(err, BB_STATUS_LIMIT, "too many outputs");
    BB_TRY(check_patterns(stage, teacher, err));
    f->list = bb_arena_array(teacher->arena, teacher->n_nodes, sizeof(*f->list));
    if (!f->list)
        return bb_fail_memory(err, "features");
    for (size_t i = 0; i < teacher->n_nodes; i++)
        if (is_wanted(stage, teacher, &teacher->nodes[i]))
            BB_TRY(add_feature(f, &teacher->nodes[i], batch, err));
    return f->n > 0
               ? BB_STATUS_OK
               : bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                         "stage '%s': no node of the teacher computes features before its last "
                         "layer: name them in 'features'",
                         stage->name);
}

const int *bb_features_values(const bb_features *f, bool teacher, size_t *n) {
    size_t profiles = teacher ? 1 : f->n_profiles;
    *n = 0;
    int *values = bb_arena_array(f->teacher->arena, f->n * profiles + 1, sizeof(*values));
    for (size_t i = 0; values && i < f->n; i++)
        for (size_t p = 0; p < profiles; p++)
            values[(*n)++] = teacher ? f->list[i].teacher : f->list[i].own[p];
    return values;
}

/* ---- the loss -------------------------------------------------------------------------------- */

static double mean_square(const float *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum / (double)n;
}

bb_status bb_features_loss(const bb_features *f, bb_gradient *student, bb_gradient *teacher,
                           size_t images, bb_gradient_seed *seeds, double *loss, bb_error *err) {
    for (size_t i = 0; i < f->n; i++) {
        const bb_feature *feature = &f->list[i];
        size_t n = images * feature->elements;
        bb_array right, own;
        BB_TRY(bb_gradient_value(teacher, feature->teacher, &right, err));
        double power = mean_square(right.data, n), share = (double)(f->n * f->n_profiles);
        double weight = power > 0 ? f->stage->feature_weight / (share * power) : 0;
        for (size_t p = 0; p < f->n_profiles; p++) {
            float *gradient = feature->gradient[p];
            BB_TRY(bb_gradient_value(student, feature->own[p], &own, err));
            memset(gradient, 0, n * sizeof(*gradient));
            *loss += bb_loss_mean_square(own.data, right.data, n, weight, gradient);
            *seeds++ = (bb_gradient_seed){feature->own[p], gradient};
        }
    }
    return BB_STATUS_OK;
}
