/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time of a whole network with random weights at 224x224: the residual network of 18 layers (He et
 * al. 2015) or, with -m, MobileNetV2 (Sandler et al. 2018). First and last layer are w8a8, all
 * others have the bits given. Per-layer times (-l) show where the time goes; accuracy has no
 * meaning here.
 *
 *     bench_engine [-m] [-w K] [-a M] [-t THREADS] [-n RUNS] [-c CPU] [-l]
 */
#include "bitbranch/engine.h"
#include "model/model.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_TENSORS = 128, RESIDUAL_BITS = 8 };

typedef struct builder {
    bb_model *model;
    bb_rng rng;
    uint32_t bits[MAX_TENSORS];
    double depth[MAX_TENSORS]; /**< taps*depth*weight range of the producing layer */
    bool second[MAX_TENSORS];  /**< its producer adds a residual */
    uint32_t planes[MAX_TENSORS];
} builder;

static void die(const char *what) {
    fprintf(stderr, "bench_engine: %s\n", what);
    exit(1);
}

static int add_tensor(builder *b, bb_tensor_kind kind, int rank, int64_t channels, uint32_t bits) {
    char name[32];
    const int64_t image[] = {-1, -1, -1, channels}, vector[] = {-1, channels};
    snprintf(name, sizeof(name), "t%zu", b->model->n_tensors);
    const int t = bb_model_add_tensor(b->model, name, kind, rank, rank == 4 ? image : vector);
    if (t < 0)
        die("out of memory");
    b->bits[t] = bits;
    return t;
}

static const bb_planes *random_planes(builder *b, int rows, int taps, int depth, uint32_t planes) {
    const size_t n = (size_t)rows * (size_t)taps * (size_t)depth;
    uint8_t *codes = malloc(n);
    if (!codes)
        die("out of memory");
    for (size_t i = 0; i < n; i++)
        codes[i] = (uint8_t)bb_rng_below(&b->rng, UINT64_C(1) << planes);
    const bb_planes *result = bb_planes_from_codes(b->model->arena, codes, (uint32_t)rows,
                                                   (uint32_t)taps, (uint32_t)depth, planes);
    free(codes);
    return result;
}

typedef struct layer {
    const char *name;
    int in, residual; /**< residual -1 = none */
    int cin, cout, kernel, stride;
    uint32_t planes;
    bool depthwise;
} layer;

/* Codes of `bits` and, where keep is not NULL, a second copy for the shortcut. */
static int add_conv(builder *b, const layer *l, uint32_t bits, int *keep) {
    int out[2] = {add_tensor(b, BB_TENSOR_CODE, 4, l->cout, bits), -1};
    if (keep)
        *keep = out[1] = add_tensor(b, BB_TENSOR_CODE, 4, l->cout, RESIDUAL_BITS);
    const int in[2] = {l->in, l->residual};
    b->planes[b->model->n_nodes] = l->planes;
    bb_model_node *node = bb_model_add_node(b->model, l->name, BB_NODE_CONV,
                                            l->residual < 0 ? 1 : 2, in, keep ? 2 : 1, out);
    if (!node)
        die("out of memory");
    const int pad = l->kernel / 2;
    node->geometry = (bb_geometry){{l->kernel, l->kernel},
                                   {l->stride, l->stride},
                                   {1, 1},
                                   {pad, pad},
                                   {pad, pad},
                                   false,
                                   false};
    const int depth = l->depthwise ? 1 : l->cin;
    node->groups = l->depthwise ? (uint32_t)l->cin : 1;
    node->planes = random_planes(b, l->cout, l->kernel * l->kernel, depth, l->planes);
    for (int i = 0; i < (keep ? 2 : 1); i++) {
        b->depth[out[i]] = (double)(l->kernel * l->kernel * depth) * (double)(1u << l->planes);
        b->second[out[i]] = l->residual >= 0;
    }
    return out[0];
}

static int add_block(builder *b, int x, int *shortcut, int cin, int cout, int stride, uint32_t k,
                     uint32_t m, uint32_t last_bits) {
    char name[3][32];
    snprintf(name[0], 32, "conv%d.%zu.a", cout, b->model->n_nodes);
    snprintf(name[1], 32, "conv%d.%zu.down", cout, b->model->n_nodes);
    snprintf(name[2], 32, "conv%d.%zu.b", cout, b->model->n_nodes);
    int side = *shortcut;
    const int inner =
        add_conv(b, &(layer){name[0], x, -1, cin, cout, 3, stride, k, false}, m, NULL);
    if (stride != 1)
        side = add_conv(b, &(layer){name[1], x, -1, cin, cout, 1, stride, k, false}, RESIDUAL_BITS,
                        NULL);
    return add_conv(b, &(layer){name[2], inner, side, cout, cout, 3, 1, k, false}, last_bits,
                    shortcut);
}

static void linear(builder *b, bb_requant *r, double spread, bool second, uint32_t bits) {
    const uint32_t n = r->channels;
    int32_t *mult = bb_arena_array(b->model->arena, n, sizeof(*mult)),
            *mult2 = bb_arena_array(b->model->arena, n, sizeof(*mult2));
    int64_t *add = bb_arena_array(b->model->arena, n, sizeof(*add));
    uint8_t *shift = bb_arena_array(b->model->arena, n, 1);
    const double factor = (double)(1 << bits) / spread;
    int scale = 0;
    while (factor * (double)(1 << scale) < 1 << 12 && scale < 30)
        scale++;
    for (uint32_t c = 0; c < n; c++) {
        shift[c] = (uint8_t)scale;
        mult[c] = (int32_t)(factor * (double)(1 << scale));
        mult2[c] = 1 << 12;
        add[c] = INT64_C(1) << scale >> 1;
    }
    r->kind = BB_REQUANT_LINEAR;
    r->mult = mult;
    r->mult2 = second ? mult2 : NULL;
    r->add = add;
    r->shift = shift;
}

static void add_profile(builder *b, uint32_t k, uint32_t m) {
    bb_model *model = b->model;
    bb_profile *p = bb_model_add_profile(model, k, m);
    for (size_t t = 0; t < model->n_tensors; t++) {
        bb_tensor_params *params = &p->tensors[t];
        *params = (bb_tensor_params){.bits = b->bits[t], .step = 1, .a0 = -(1 << b->bits[t]) + 1};
    }
    for (size_t i = 0; i < model->n_nodes; i++) {
        const bb_model_node *node = &model->nodes[i];
        p->convs[i].planes = b->planes[i];
        for (int o = 0; o < node->n_out; o++) {
            const int t = node->out[o];
            bb_requant *r = &p->tensors[t].requant;
            r->channels = (uint32_t)model->tensors[t].dims[model->tensors[t].rank - 1];
            if (node->kind == BB_NODE_CONV && model->tensors[t].kind == BB_TENSOR_CODE)
                linear(b, r, sqrt(b->depth[t]) * (double)(1 << b->bits[node->in[0]]) * 30,
                       b->second[t], b->bits[t]);
            else if (node->kind == BB_NODE_AVERAGE_POOL || node->kind == BB_NODE_REQUANT)
                linear(b, r, 500, false, 8);
        }
    }
}

static builder *start(const char *name, int *image) {
    static builder b;
    b.model = bb_model_create();
    if (!b.model)
        die("out of memory");
    bb_rng_seed(&b.rng, 1);
    b.model->name = bb_arena_strdup(b.model->arena, name);
    *image = add_tensor(&b, BB_TENSOR_CODE, 4, 3, 8);
    memcpy(b.model->tensors[*image].dims, (int64_t[]){-1, 224, 224, 3}, 4 * sizeof(int64_t));
    bb_model_add_input(b.model, *image);
    return &b;
}

static void set_float(builder *b, bb_requant *r) {
    float *scale = bb_arena_array(b->model->arena, 2000, sizeof(*scale));
    for (int c = 0; c < 1000; c++)
        scale[c] = 1e-4f;
    *r = (bb_requant){
        .kind = BB_REQUANT_FLOAT, .channels = 1000, .scale = scale, .bias = scale + 1000};
}

/* Mean over the image, then 1000 classes. */
static bb_model *finish(builder *b, int x, int channels, uint32_t k, uint32_t m) {
    const int mean = add_tensor(b, BB_TENSOR_CODE, 4, channels, 8);
    bb_model_add_node(b->model, "mean", BB_NODE_AVERAGE_POOL, 1, &x, 1, &mean);
    const int flat = add_tensor(b, BB_TENSOR_CODE, 2, channels, 8);
    bb_model_add_node(b->model, "flatten", BB_NODE_RESHAPE, 1, &mean, 1, &flat);
    const int logits = add_tensor(b, BB_TENSOR_FLOAT, 2, 1000, 8);
    b->planes[b->model->n_nodes] = 8;
    bb_model_node *fc = bb_model_add_node(b->model, "fc", BB_NODE_CONV, 1, &flat, 1, &logits);
    fc->geometry = (bb_geometry){{1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}, false, false};
    fc->groups = 1;
    fc->planes = random_planes(b, 1000, 1, channels, 8);
    bb_model_add_output(b->model, logits);
    add_profile(b, k, m);
    set_float(b, &b->model->profiles[0].tensors[logits].requant);
    return b->model;
}

static bb_model *resnet18(uint32_t k, uint32_t m) {
    int image;
    builder *b = start("resnet18", &image);
    int x = add_conv(b, &(layer){"conv1", image, -1, 3, 64, 7, 2, 8, false}, RESIDUAL_BITS, NULL);
    const int pooled = add_tensor(b, BB_TENSOR_CODE, 4, 64, RESIDUAL_BITS);
    bb_model_add_node(b->model, "maxpool", BB_NODE_MAX_POOL, 1, &x, 1, &pooled)->geometry =
        (bb_geometry){{3, 3}, {2, 2}, {1, 1}, {1, 1}, {1, 1}, false, false};
    int shortcut = pooled;
    x = add_tensor(b, BB_TENSOR_CODE, 4, 64, m);
    bb_model_add_node(b->model, "codes", BB_NODE_REQUANT, 1, &pooled, 1, &x);
    for (int stage = 0, cin = 64; stage < 4; stage++)
        for (int block = 0; block < 2; block++) {
            const int cout = 64 << stage;
            x = add_block(b, x, &shortcut, cin, cout, stage > 0 && block == 0 ? 2 : 1, k, m,
                          stage == 3 && block == 1 ? 8 : m);
            cin = cout;
        }
    return finish(b, x, 512, k, m);
}

/* One inverted residual; *shortcut is the 8-bit copy of x where one was made, else -1. */
static int add_inverted(builder *b, int x, int *shortcut, int cin, int cout, int expand, int stride,
                        bool keep, uint32_t k, uint32_t m) {
    char name[3][32];
    const int inner = cin * expand;
    snprintf(name[0], 32, "expand%d.%zu", inner, b->model->n_nodes);
    snprintf(name[1], 32, "depthwise%d.%zu", inner, b->model->n_nodes);
    snprintf(name[2], 32, "project%d.%zu", cout, b->model->n_nodes);
    const int side = stride == 1 && cin == cout ? *shortcut : -1;
    if (expand != 1)
        x = add_conv(b, &(layer){name[0], x, -1, cin, inner, 1, 1, k, false}, m, NULL);
    x = add_conv(b, &(layer){name[1], x, -1, inner, inner, 3, stride, k, true}, m, NULL);
    *shortcut = -1;
    return add_conv(b, &(layer){name[2], x, side, inner, cout, 1, 1, k, false}, m,
                    keep ? shortcut : NULL);
}

static bb_model *mobilenetv2(uint32_t k, uint32_t m) {
    static const struct {
        int expand, cout, n, stride;
    } stages[] = {{1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
                  {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};
    int image, shortcut = -1, cin = 32;
    builder *b = start("mobilenetv2", &image);
    int x = add_conv(b, &(layer){"conv1", image, -1, 3, 32, 3, 2, 8, false}, m, NULL);
    for (size_t s = 0; s < BB_COUNT(stages); s++)
        for (int i = 0; i < stages[s].n; i++) {
            x = add_inverted(b, x, &shortcut, cin, stages[s].cout, stages[s].expand,
                             i == 0 ? stages[s].stride : 1, i + 1 < stages[s].n, k, m);
            cin = stages[s].cout;
        }
    x = add_conv(b, &(layer){"last", x, -1, cin, 1280, 1, 1, k, false}, 8, NULL);
    return finish(b, x, 1280, k, m);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void check(bb_status status, const bb_error *err) {
    if (status != BB_STATUS_OK)
        die(err->message);
}

typedef struct settings {
    bb_engine_options options;
    uint32_t weight_bits, activation_bits;
    int runs;
    bool layers, mobile;
} settings;

static void set_option(settings *s, char option, const char *value) {
    switch (option) {
    case 'w':
        s->weight_bits = (uint32_t)atoi(value);
        break;
    case 'a':
        s->activation_bits = (uint32_t)atoi(value);
        break;
    case 't':
        s->options.threads = (size_t)atoi(value);
        break;
    case 'n':
        s->runs = atoi(value) > 0 ? atoi(value) : 1;
        break;
    case 'c':
        s->options.cpu = value;
        break;
    default:
        die("unknown option");
    }
}

static settings parse(int argc, char **argv) {
    settings s = {.weight_bits = 2, .activation_bits = 2, .runs = 20};
    bb_engine_options_init(&s.options);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-l") == 0)
            s.layers = true;
        else if (strcmp(argv[i], "-m") == 0)
            s.mobile = true;
        else if (argv[i][0] == '-' && i + 1 < argc)
            set_option(&s, argv[i][1], argv[i + 1]), i++;
        else
            die("usage: bench_engine [-m] [-w K] [-a M] [-t THREADS] [-n RUNS] [-c CPU] [-l]");
    }
    return s;
}

/* Milliseconds of each run, sorted; least time of each node in `best`. */
static void measure(const settings *s, bb_context *context, size_t nodes, double *ms,
                    uint64_t *best) {
    static uint8_t image[224 * 224 * 3];
    static float logits[1000];
    bb_error err;
    for (size_t i = 0; i < sizeof(image); i++)
        image[i] = (uint8_t)(i * 7 % 251);
    bb_context_enable_timing(context, s->layers);
    for (int i = 0; i < s->runs; i++) {
        const double start = now();
        check(bb_context_run(context, (const void *[]){image}, (void *[]){logits}, &err), &err);
        ms[i] = now() - start;
        for (size_t n = 0; s->layers && n < nodes; n++) {
            const uint64_t ns = bb_context_node_ns(context)[n];
            best[n] = i == 0 || ns < best[n] ? ns : best[n];
        }
    }
    qsort(ms, (size_t)s->runs, sizeof(*ms), by_value);
}

static void print_layers(const bb_engine *engine, size_t nodes, const uint64_t *best) {
    for (size_t n = 0; n < nodes; n++) {
        bb_plan_info info;
        bb_engine_get_plan(engine, n, &info, NULL);
        printf("%-18s %-22s %8.3f ms %8.1f MMAC %8.2f GMAC/s\n", info.name,
               info.kernel ? info.kernel : "", (double)best[n] * 1e-6, (double)info.macs * 1e-6,
               (double)info.macs / (double)best[n]);
    }
}

int main(int argc, char **argv) {
    const settings s = parse(argc, argv);
    bb_error err;
    bb_engine *engine;
    bb_context *context;
    bb_engine_memory memory;
    bb_model *model = s.mobile ? mobilenetv2(s.weight_bits, s.activation_bits)
                               : resnet18(s.weight_bits, s.activation_bits);
    check(bb_model_validate(model, &err), &err);
    check(bb_engine_create(model, &s.options, &engine, &err), &err);
    check(bb_context_create(engine, &context, &err), &err);
    double *ms = malloc((size_t)s.runs * sizeof(*ms));
    uint64_t *best = calloc(model->n_nodes, sizeof(*best));
    if (!ms || !best)
        die("out of memory");
    measure(&s, context, model->n_nodes, ms, best);
    if (s.layers)
        print_layers(engine, model->n_nodes, best);
    bb_engine_get_memory(engine, &memory);
    printf("%s w%ua%u, %zu threads, %s: median %.2f ms, least %.2f ms; engine %.2f MiB, context "
           "%.2f MiB\n",
           model->name, s.weight_bits, s.activation_bits, s.options.threads, bb_engine_cpu(engine),
           ms[s.runs / 2], ms[0], (double)memory.engine_bytes / 1048576,
           (double)memory.context_bytes / 1048576);
    bb_context_destroy(context);
    bb_engine_destroy(engine);
    bb_model_destroy(model);
    free(ms);
    free(best);
    return 0;
}
