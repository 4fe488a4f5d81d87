/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images per second of whole training steps (forward, loss, backward, update) on made-up data, in
 * float and with fake quantizers. scripts/bench-train.py runs it beside PyTorch.
 *
 *   bench_train [--network small|r8|resnet20|vgg-small] [--batch N] [--threads N] [--bits MxK]
 *               [--seconds S] [--frozen] [--bf16]
 *
 * small is the demo's Fashion-MNIST network, r8 three residual blocks on 28x28 pixels. The first
 * convolution and the classifier stay float with --bits. Prints medians over the steps; processor
 * time tells two programs apart on a busy machine.
 */
#include "nn/gradient.h"
#include "nn/loss.h"
#include "nn/optimizer.h"
#include "nn/quantizer.h"
#include "train/network.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_PARAMETERS = 512, MOST_STEPS = 100000, CLASSES = 10 };

typedef struct settings {
    const char *network;
    int64_t batch;
    size_t threads;
    int activation_bits, weight_bits; /* 0: float */
    double seconds;
    bool training, bf16;
} settings;

typedef struct trainer {
    bb_graph *graph;
    bb_gradient *gradient;
    bb_optimizer *optimizer;
    int parameters[MOST_PARAMETERS];
    size_t n_parameters;
    bb_array input;
    int *labels;
    float *seed;
} trainer;

static double read_clock(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void) {
    return read_clock(CLOCK_MONOTONIC);
}

static void require(bb_status status, const bb_error *err) {
    if (status == BB_STATUS_OK)
        return;
    fprintf(stderr, "bench_train: %s\n", err->message);
    exit(1);
}

static void require_memory(bool ok) {
    bb_error err;
    if (!ok)
        require(bb_fail_memory(&err, "benchmark"), &err);
}

/* ---- the network ----------------------------------------------------------------------------- */

static void build_network(trainer *t, const settings *s) {
    bb_network_options o = {.kind = BB_NETWORK_RESNET20,
                            .channels = 1,
                            .height = 28,
                            .width = 28,
                            .classes = CLASSES,
                            .blocks = 1,
                            .seed = 1};
    bb_error err;
    if (strcmp(s->network, "small") == 0)
        o.kind = BB_NETWORK_FASHION_SMALL;
    else if (strcmp(s->network, "resnet20") == 0 || strcmp(s->network, "vgg-small") == 0) {
        o.channels = 3;
        o.height = o.width = 32;
        o.blocks = 3;
        if (s->network[0] == 'v')
            o.kind = BB_NETWORK_VGG_SMALL;
    }
    require(bb_network_build(&o, &t->graph, &err), &err);
}

static int add_step(bb_graph *graph, const char *name, size_t n, float value) {
    void *data;
    int64_t dims[1] = {(int64_t)n};
    int step = bb_graph_add_constant(graph, name, BB_DTYPE_F32, 1, dims, &data);
    require_memory(step >= 0);
    for (size_t i = 0; i < n; i++)
        ((float *)data)[i] = value;
    return step;
}

static int add_quantizer(bb_graph *graph, const char *kind, int bits, int x, int step) {
    char name[64];
    snprintf(name, sizeof(name), "%s_%d", kind, x);
    int out = bb_graph_add_value(graph, name, BB_DTYPE_F32, -1, NULL);
    int node =
        out < 0 ? -1
                : bb_graph_add_node(graph, name, BB_OP_FAKE_QUANTIZE, 2, (int[]){x, step}, 1, &out);
    require_memory(node >= 0 && bb_node_set_string(graph, &graph->nodes[node], "quantizer", kind) &&
                   bb_node_set_int(graph, &graph->nodes[node], "bits", bits));
    return out;
}

/* Weights per output channel and inputs of every convolution but the first. Two convolutions that
 * read one tensor share its quantizer. */
static void add_quantizers(bb_graph *graph, const settings *s) {
    bb_error err;
    size_t n_nodes = graph->n_nodes;
    int *quantized = calloc(graph->n_values, sizeof(int));
    require_memory(quantized != NULL);
    for (size_t n = 0; n < n_nodes; n++) {
        if (graph->nodes[n].op != BB_OP_CONV || graph->nodes[n].in[0] == graph->inputs[0])
            continue;
        int x = graph->nodes[n].in[0], w = graph->nodes[n].in[1];
        int w_step = add_step(graph, "w_step", (size_t)graph->values[w].dims[0], 0.05f);
        if (!quantized[x])
            quantized[x] = add_quantizer(graph, "unsigned", s->activation_bits, x,
                                         add_step(graph, "x_step", 1, 0.3f));
        int wq = add_quantizer(graph, "odd", s->weight_bits, w, w_step);
        graph->nodes[n].in[0] = quantized[x];
        graph->nodes[n].in[1] = wq;
    }
    free(quantized);
    require(bb_graph_link(graph, &err), &err);
    require(bb_graph_infer_shapes(graph, NULL, 0, &err), &err);
}

/* Every f32 constant that a node reads as weight, bias, scale, shift or step. */
static void find_parameters(trainer *t) {
    const bb_graph *graph = t->graph;
    for (size_t n = 0; n < graph->n_nodes; n++) {
        const bb_node *node = &graph->nodes[n];
        int last = node->op == BB_OP_BATCH_NORMALIZATION ? 3 : node->n_in;
        for (int i = 0; i < last && t->n_parameters < MOST_PARAMETERS; i++)
            if (node->in[i] >= 0 && graph->values[node->in[i]].data &&
                graph->values[node->in[i]].dtype == BB_DTYPE_F32)
                t->parameters[t->n_parameters++] = node->in[i];
    }
}

static void create(trainer *t, const settings *s) {
    bb_error err;
    build_network(t, s);
    if (s->weight_bits > 0)
        add_quantizers(t->graph, s);
    find_parameters(t);
    int64_t dims[4];
    memcpy(dims, t->graph->values[t->graph->inputs[0]].dims, sizeof(dims));
    dims[0] = s->batch;
    const int64_t *all[1] = {dims};
    bb_gradient_options options = {.threads = s->threads,
                                   .training = s->training,
                                   .bf16 = s->bf16,
                                   .parameters = t->parameters,
                                   .n_parameters = t->n_parameters};
    require(bb_gradient_create(t->graph, all, &options, &t->gradient, &err), &err);
    bb_parameter list[MOST_PARAMETERS];
    for (size_t i = 0; i < t->n_parameters; i++)
        list[i] = (bb_parameter){.value = bb_gradient_parameter(t->gradient, i),
                                 .gradient = bb_gradient_of(t->gradient, i),
                                 .n = bb_gradient_parameter_elements(t->gradient, i),
                                 .rate = 1.0f,
                                 .decay = 1.0f};
    bb_optimizer_options sgd;
    bb_optimizer_options_init(&sgd);
    sgd.weight_decay = 1e-4f;
    require(bb_optimizer_create(&sgd, list, t->n_parameters, &t->optimizer, &err), &err);
    size_t pixels = (size_t)(dims[0] * dims[1] * dims[2] * dims[3]);
    t->input = (bb_array){.dtype = BB_DTYPE_F32, .rank = 4};
    memcpy(t->input.dims, dims, sizeof(dims));
    float *data = malloc(pixels * sizeof(*data));
    t->labels = malloc((size_t)s->batch * sizeof(*t->labels));
    t->seed = malloc((size_t)s->batch * CLASSES * sizeof(*t->seed));
    require_memory(data && t->labels && t->seed);
    bb_rng rng;
    bb_rng_seed(&rng, 3);
    for (size_t i = 0; i < pixels; i++)
        data[i] = (float)bb_rng_normal(&rng);
    for (int64_t i = 0; i < s->batch; i++)
        t->labels[i] = (int)bb_rng_below(&rng, CLASSES);
    t->input.data = data;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static double train_step(trainer *t, size_t batch) {
    bb_error err;
    bb_array scores;
    int output = t->graph->outputs[0];
    require(bb_gradient_forward(t->gradient, &t->input, &err), &err);
    require(bb_gradient_value(t->gradient, output, &scores, &err), &err);
    memset(t->seed, 0, batch * CLASSES * sizeof(*t->seed));
    double loss = bb_loss_cross_entropy(scores.data, t->labels, batch, CLASSES, 0.0, 1.0, t->seed);
    bb_gradient_seed seed = {output, t->seed};
    require(bb_gradient_backward(t->gradient, &seed, 1, &err), &err);
    bb_optimizer_step(t->optimizer, 1e-3f);
    return loss;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(trainer *t, const settings *s) {
    double *seconds = malloc(MOST_STEPS * sizeof(*seconds)), loss = 0.0;
    double *processor = malloc(MOST_STEPS * sizeof(*processor));
    require_memory(seconds && processor);
    size_t n = 0;
    double end = now() + s->seconds;
    for (int warm = 0; warm < 3; warm++)
        loss = train_step(t, (size_t)s->batch);
    while (n < MOST_STEPS && (n < 3 || now() < end)) {
        double start = now(), used = read_clock(CLOCK_PROCESS_CPUTIME_ID);
        loss = train_step(t, (size_t)s->batch);
        processor[n] = read_clock(CLOCK_PROCESS_CPUTIME_ID) - used;
        seconds[n++] = now() - start;
    }
    qsort(seconds, n, sizeof(*seconds), by_value);
    qsort(processor, n, sizeof(*processor), by_value);
    printf("%.1f images/s, %.2f ms per step of %lld (%.2f ms of processor time), %zu steps, loss "
           "%.3f\n",
           (double)s->batch / seconds[n / 2], 1e3 * seconds[n / 2], (long long)s->batch,
           1e3 * processor[n / 2], n, loss);
    free(seconds);
    free(processor);
}

static bool read_option(settings *s, const char *name, const char *value) {
    if (strcmp(name, "--network") == 0)
        s->network = value;
    else if (strcmp(name, "--batch") == 0)
        s->batch = atoi(value);
    else if (strcmp(name, "--threads") == 0)
        s->threads = (size_t)atoi(value);
    else if (strcmp(name, "--seconds") == 0)
        s->seconds = atof(value);
    else if (strcmp(name, "--bits") == 0)
        return sscanf(value, "%dx%d", &s->activation_bits, &s->weight_bits) == 2;
    else
        return false;
    return true;
}

int main(int argc, char **argv) {
    settings s = {.network = "r8", .batch = 128, .threads = 1, .seconds = 5.0, .training = true};
    trainer t = {0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--frozen") == 0)
            s.training = false;
        else if (strcmp(argv[i], "--bf16") == 0)
            s.bf16 = true;
        else if (i + 1 == argc || !read_option(&s, argv[i], argv[i + 1]))
            return fprintf(stderr, "bench_train: bad option %s\n", argv[i]), 2;
        else
            i++;
    }
    create(&t, &s);
    measure(&t, &s);
    bb_optimizer_destroy(t.optimizer);
    bb_gradient_destroy(t.gradient);
    bb_graph_destroy(t.graph);
    free(t.input.data);
    free(t.labels);
    free(t.seed);
    return 0;
}
