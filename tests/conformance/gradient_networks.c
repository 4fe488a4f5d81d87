/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Float networks of the data folder as forward-and-backward programs, all weights differentiated:
 * outputs are those of the executor, and a small step against the gradient lowers a loss by what
 * the gradient says. As imported, and as bb_pass_prepare leaves them. Where the processor has bf16,
 * the gradients that a program in bf16 finds are near those of the one in f32.
 *
 *   gradient_networks [data folder]     exit 77: no data
 */
#include "nn/executor.h"
#include "nn/gradient.h"
#include "onnx/onnx.h"
#include "passes/passes.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_PARAMETERS = 1024, MOST_OUTPUTS = 16 };

/* Wrong operands or layouts give 1 and more. That single layers are right to 1e-5 is proved in
 * tests/unit/test_nn_conv_double.c; here the rounding of one random image adds up, to 0.03 in
 * ResNets and 0.25 in segmentation networks. */
static const double BF16_BOUND = 0.5;

static const char *const networks[] = {
    "resnet8_cifar10/resnet8_cifar10.onnx",
    "resnet20_cifar10/resnet20_cifar10.onnx",
    "mobilenetv1_025_128_imagenet/mobilenetv1_025_128.onnx",
    "mobilenetv2_imagenet/mobilenetv2.onnx.gz",
    "resnet18_imagenet/resnet18_pqf.onnx",
    "squeezenet_imagenet/squeezenet1.0_dc.onnx",
    "deeplabv3_mnv2_dm05_voc/deeplabv3_mnv2_dm05_voc.onnx",
    "espnet_camvid/espnet_camvid.onnx",
    "fastestdet_coco/FastestDet.onnx",
    "yunet_face/yunet_n_320_320.onnx",
    "ultraface_rfb320/version-RFB-320_simplified.onnx",
};

typedef struct subject {
    bb_graph *graph;
    int64_t dims[BB_MAX_RANK];
    bb_array input;
    int parameters[MOST_PARAMETERS];
    size_t n_parameters;
    bb_gradient *g;
    float *seeds[MOST_OUTPUTS];
    size_t elements[MOST_OUTPUTS];
} subject;

static bool load(subject *s, const char *path, bool prepare, bb_error *err) {
    if (bb_onnx_read(path, &s->graph, err) != BB_STATUS_OK)
        return false;
    if (prepare && bb_pass_prepare(s->graph, err) != BB_STATUS_OK)
        return false;
    const bb_value *in = &s->graph->values[s->graph->inputs[0]];
    size_t n;
    s->input = (bb_array){.dtype = BB_DTYPE_F32, .rank = in->rank};
    for (int d = 0; d < in->rank; d++)
        s->dims[d] = s->input.dims[d] = in->dims[d] > 0 ? in->dims[d] : d == 0 ? 1 : 224;
    if (s->graph->n_inputs != 1 || s->graph->n_outputs > MOST_OUTPUTS ||
        !bb_dims_product(s->dims, (size_t)in->rank, &n))
        return false;
    float *data = malloc(n * sizeof(*data));
    bb_rng rng;
    bb_rng_seed(&rng, 5);
    for (size_t i = 0; data && i < n; i++)
        data[i] = (float)bb_rng_normal(&rng);
    s->input.data = data;
    return data != NULL;
}

/* Every f32 constant with more than one element that a layer reads. */
static void find_parameters(subject *s) {
    bool *seen = calloc(s->graph->n_values, sizeof(*seen));
    for (size_t n = 0; seen && n < s->graph->n_nodes; n++) {
        const bb_node *node = &s->graph->nodes[n];
        bool layer = node->op == BB_OP_CONV || node->op == BB_OP_CONV_TRANSPOSE ||
                     node->op == BB_OP_GEMM || node->op == BB_OP_MATMUL ||
                     node->op == BB_OP_BATCH_NORMALIZATION || node->op == BB_OP_PRELU;
        int last = node->op == BB_OP_BATCH_NORMALIZATION ? 3 : node->n_in;
        for (int i = 1; layer && i < last; i++) {
            const bb_value *v = bb_node_input(s->graph, node, i);
            if (v && v->data && v->dtype == BB_DTYPE_F32 && !seen[node->in[i]] &&
                s->n_parameters < MOST_PARAMETERS) {
                seen[node->in[i]] = true;
                s->parameters[s->n_parameters++] = node->in[i];
            }
        }
    }
    free(seen);
}

static double loss(subject *s, bb_error *err) {
    double sum = 0.0;
    bb_array out;
    if (bb_gradient_forward(s->g, &s->input, err) != BB_STATUS_OK)
        return NAN;
    for (size_t o = 0; o < s->graph->n_outputs; o++) {
        if (!s->seeds[o])
            continue;
        if (bb_gradient_value(s->g, s->graph->outputs[o], &out, err) != BB_STATUS_OK)
            return NAN;
        for (size_t i = 0; i < s->elements[o]; i++)
            sum += (double)s->seeds[o][i] * (double)((float *)out.data)[i];
    }
    return sum;
}

/* Largest difference of the outputs from the executor's, relative to each output's range. */
static double compare_outputs(subject *s, bb_error *err) {
    const int64_t *dims[1] = {s->dims};
    bb_executor *ex;
    bb_array a, b;
    double worst = 0.0;
    bb_rng rng;
    bb_rng_seed(&rng, 9);
    if (bb_executor_create(s->graph, dims, NULL, &ex, err) != BB_STATUS_OK)
        return NAN;
    bb_status status = bb_executor_run(ex, &s->input, NULL, NULL, err);
    if (status == BB_STATUS_OK)
        status = bb_gradient_forward(s->g, &s->input, err);
    for (size_t o = 0; status == BB_STATUS_OK && o < s->graph->n_outputs; o++) {
        double range = 1e-6, difference = 0.0;
        status = bb_executor_output(ex, o, &a, err);
        if (status == BB_STATUS_OK)
            status = bb_gradient_value(s->g, s->graph->outputs[o], &b, err);
        if (status != BB_STATUS_OK || a.dtype != BB_DTYPE_F32 ||
            !bb_dims_product(a.dims, (size_t)a.rank, &s->elements[o]))
            continue;
        s->seeds[o] = malloc(s->elements[o] * sizeof(float));
        for (size_t i = 0; i < s->elements[o]; i++) {
            double x = (double)((float *)a.data)[i], y = (double)((float *)b.data)[i];
            range = fmax(range, fabs(x));
            difference = fmax(difference, fabs(x - y));
            s->seeds[o][i] = (float)bb_rng_normal(&rng);
        }
        worst = fmax(worst, difference / range);
    }
    bb_executor_destroy(ex);
    return status == BB_STATUS_OK ? worst : NAN;
}

/* Moves all parameters along their gradient. */
static void move(subject *s, double by) {
    for (size_t p = 0; p < s->n_parameters; p++) {
        float *w = bb_gradient_parameter(s->g, p);
        const float *d = bb_gradient_of(s->g, p);
        for (size_t i = 0; i < bb_gradient_parameter_elements(s->g, p); i++)
            w[i] = (float)((double)w[i] + by * (double)d[i]);
    }
}

static size_t list_seeds(const subject *s, bb_gradient_seed *seeds) {
    size_t n = 0;
    for (size_t o = 0; o < s->graph->n_outputs; o++)
        if (s->seeds[o])
            seeds[n++] = (bb_gradient_seed){s->graph->outputs[o], s->seeds[o]};
    return n;
}

/* Difference of the loss along the gradient over what the gradient predicts; 1 is right. */
static double predicted(subject *s, bb_error *err) {
    bb_gradient_seed seeds[MOST_OUTPUTS];
    size_t n = list_seeds(s, seeds);
    double square = 0.0, weights = 0.0;
    loss(s, err);
    if (bb_gradient_backward(s->g, seeds, n, err) != BB_STATUS_OK)
        return NAN;
    for (size_t p = 0; p < s->n_parameters; p++)
        for (size_t i = 0; i < bb_gradient_parameter_elements(s->g, p); i++) {
            double d = (double)bb_gradient_of(s->g, p)[i];
            double w = (double)bb_gradient_parameter(s->g, p)[i];
            square += d * d;
            weights += w * w;
        }
    double best = NAN; /* of several step lengths: rounding and kinks pull either way */
    for (double length = 1e-4; length > 1e-8; length /= 5.0) {
        double step = length * sqrt(weights / square);
        move(s, step);
        double up = loss(s, err);
        move(s, -2.0 * step);
        double down = loss(s, err);
        move(s, step);
        double ratio = (up - down) / (2.0 * step * square);
        if (isnan(best) || fabs(ratio - 1.0) < fabs(best - 1.0))
            best = ratio;
    }
    return best;
}

/* |d - e| / |e| of all gradients, d found in bf16 and e in f32. */
static double bf16_distance(subject *s, const bb_gradient_options *options, bb_error *err) {
    bb_gradient_options bf16 = *options;
    bb_gradient_seed seeds[MOST_OUTPUTS];
    bb_gradient *g = NULL;
    const int64_t *dims[1] = {s->dims};
    size_t n = list_seeds(s, seeds);
    double difference = 0.0, square = 0.0;
    bf16.bf16 = true;
    if (bb_gradient_create(s->graph, dims, &bf16, &g, err) != BB_STATUS_OK)
        return NAN;
    bool ok = bb_gradient_forward(g, &s->input, err) == BB_STATUS_OK &&
              bb_gradient_backward(g, seeds, n, err) == BB_STATUS_OK &&
              bb_gradient_forward(s->g, &s->input, err) == BB_STATUS_OK &&
              bb_gradient_backward(s->g, seeds, n, err) == BB_STATUS_OK;
    for (size_t p = 0; ok && p < s->n_parameters; p++)
        for (size_t i = 0; i < bb_gradient_parameter_elements(g, p); i++) {
            double d = (double)bb_gradient_of(g, p)[i], e = (double)bb_gradient_of(s->g, p)[i];
            difference += (d - e) * (d - e);
            square += e * e;
        }
    bb_gradient_destroy(g);
    return ok ? sqrt(difference / square) : NAN;
}

static void release(subject *s) {
    bb_gradient_destroy(s->g);
    bb_graph_destroy(s->graph);
    free(s->input.data);
    for (size_t o = 0; o < MOST_OUTPUTS; o++)
        free(s->seeds[o]);
}

/* 0: as it must be. */
static int check(const char *folder, const char *network, bool prepare) {
    subject s = {0};
    bb_error err = {0};
    char path[1024];
    snprintf(path, sizeof(path), "%s/models/%s", folder, network);
    const int64_t *dims[1] = {s.dims};
    bool ok = load(&s, path, prepare, &err);
    find_parameters(&s);
    bb_gradient_options options = {.parameters = s.parameters, .n_parameters = s.n_parameters};
    ok = ok && bb_gradient_create(s.graph, dims, &options, &s.g, &err) == BB_STATUS_OK;
    double difference = ok ? compare_outputs(&s, &err) : NAN;
    double ratio = ok ? predicted(&s, &err) : NAN, distance = 0.0;
    ok = ok && difference < 1e-3 && fabs(ratio - 1.0) < 0.02;
    if (ok && !prepare && bb_gradient_check_bf16(NULL) == BB_STATUS_OK) {
        distance = bf16_distance(&s, &options, &err);
        ok = distance > 0.0 && distance < BF16_BOUND;
    }
    printf("%s %s%s: %zu parameters, outputs within %.1e, loss moves %.4f of what is predicted, ",
           ok ? "ok    " : "FAILED", network, prepare ? " (prepared)" : "", s.n_parameters,
           difference, ratio);
    if (distance > 0.0)
        printf("bf16 %.4f away", distance);
    else
        printf("bf16 not compared");
    printf("%s%s\n", err.message[0] ? ": " : "", err.message);
    release(&s);
    return !ok;
}

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : SOURCE_ROOT "/../shared/data";
    if (argc <= 1 && getenv("BITBRANCH_DATA"))
        folder = getenv("BITBRANCH_DATA");
    char path[1024];
    snprintf(path, sizeof(path), "%s/models/%s", folder, networks[0]);
    FILE *probe = fopen(path, "rb");
    if (!probe) {
        printf("skipped: no networks in %s\n", folder);
        return 77;
    }
    fclose(probe);
    int failed = 0;
    for (size_t i = 0; i < BB_COUNT(networks); i++) {
        failed += check(folder, networks[i], false);
        failed += check(folder, networks[i], true);
    }
    return failed > 0;
}
