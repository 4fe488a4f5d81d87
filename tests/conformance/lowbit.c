/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Real low-bit networks, imported and run: the scores of the engine are those of the float run of
 * the same file, number by number. Needs the models and images of BITBRANCH_DATA (or
 * ../shared/data beside the sources); exits 77 where they are absent. --all: every image.
 */
#include "bitbranch/dataset.h"
#include "bitbranch/engine.h"
#include "bitbranch/vision.h"
#include "lower/lower.h"
#include "onnx/onnx.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SKIP = 77 };

static char root_folder[1024];
static int failures;

static const char *data_path(const char *name) {
    static char paths[4][1200];
    static int next;
    next = (next + 1) % 4;
    snprintf(paths[next], sizeof(paths[next]), "%s/%s", root_folder, name);
    return paths[next];
}

static void require(bb_status status, const bb_error *err, const char *what) {
    if (status == BB_STATUS_OK)
        return;
    fprintf(stderr, "%s: %s\n", what, err->message);
    exit(1);
}

static void report(bool good, const char *name, const char *fmt, size_t a, size_t b) {
    printf("%s %s: ", good ? "ok  " : "FAIL", name);
    printf(fmt, a, b);
    printf("\n");
    failures += !good;
}

/* ---- one network with its engine ------------------------------------------------------------ */

typedef struct network {
    bb_config *config;
    bb_graph *graph; /* for the float run */
    bb_model *model;
    bb_engine *engine;
    bb_context *context;
    bb_float_net *float_net;
    size_t input, output; /* elements */
} network;

static bb_model *import(const char *path, const bb_quantize_options *options) {
    bb_error err;
    bb_graph *graph;
    bb_model *model;
    require(bb_onnx_read(path, &graph, &err), &err, path);
    require(bb_lower_quantized(graph, options, &model, &err), &err, path);
    bb_graph_destroy(graph);
    return model;
}

static void start_engine(network *n) {
    bb_error err;
    bb_engine_options options;
    bb_tensor_desc in, out;
    bb_engine_options_init(&options);
    require(bb_engine_create(n->model, &options, &n->engine, &err), &err, "engine");
    require(bb_context_create(n->engine, &n->context, &err), &err, "context");
    require(bb_engine_input(n->engine, 0, &in, &err), &err, "input");
    require(bb_engine_output(n->engine, 0, &out, &err), &err, "output");
    n->input = n->output = 1;
    for (size_t i = 0; i < in.n_dims; i++)
        n->input *= (size_t)in.dims[i];
    for (size_t i = 0; i < out.n_dims; i++)
        n->output *= (size_t)out.dims[i];
}

static network open_network(const char *onnx, const char *json) {
    network n = {0};
    bb_error err;
    bb_quantize_options options = {.struct_size = sizeof(options)};
    int exact;
    require(bb_config_load(data_path(json), &n.config, &err), &err, json);
    bb_config_normalization(n.config, &options.pixel_scale, options.mean, options.std, &exact);
    options.pixels = exact;
    options.round_levels =
        bb_config_levels(n.config, &options.levels_scale, &options.levels_min, &options.levels_max);
    n.model = import(data_path(onnx), &options);
    start_engine(&n);
    require(bb_import_onnx(data_path(onnx), &n.graph, &err), &err, onnx);
    require(bb_float_net_create(n.graph, (const int64_t[4]){0}, 1, &n.float_net, &err), &err, onnx);
    return n;
}

static void close_network(network *n) {
    bb_float_net_destroy(n->float_net);
    bb_graph_destroy(n->graph);
    bb_context_destroy(n->context);
    bb_engine_destroy(n->engine);
    bb_model_destroy(n->model);
    bb_config_destroy(n->config);
}

/* ---- images --------------------------------------------------------------------------------- */

typedef struct tally {
    size_t images, different, good;
} tally;

static void run_image(network *n, const bb_image *image, float *tensor, uint8_t *pixels,
                      float *scores) {
    bb_error err;
    require(bb_config_tensor(n->config, image, tensor, &err), &err, "image");
    bb_tensor_desc in;
    require(bb_engine_input(n->engine, 0, &in, &err), &err, "input");
    if (in.bits == 8 && in.a0 == -255 && in.scale == 0.5f) {
        require(bb_config_pixels(n->config, image, pixels, &err), &err, "image");
        require(bb_context_run(n->context, (const void *[]){pixels}, (void *[]){scores}, &err),
                &err, "run");
    } else {
        require(
            bb_context_run_f32(n->context, (const float *[]){tensor}, (float *[]){scores}, &err),
            &err, "run");
    }
}

/* exact: scores must equal the float run's bits; else only the decision must. */
static tally compare(network *n, const char *folder, size_t limit, bool exact) {
    bb_error err;
    bb_dataset_options options;
    bb_dataset *dataset;
    bb_dataset_options_init(&options);
    options.split = "test";
    options.limit = limit;
    require(bb_dataset_open(data_path(folder), &options, &dataset, &err), &err, folder);
    float *tensor = malloc(n->input * sizeof(*tensor)), *scores = malloc(n->output * 4);
    uint8_t *pixels = malloc(n->input);
    tally t = {.images = bb_dataset_size(dataset)};
    for (size_t i = 0; i < t.images; i++) {
        bb_image image;
        require(bb_dataset_image(dataset, i, &image, &err), &err, folder);
        run_image(n, &image, tensor, pixels, scores);
        const char *name;
        const float *wanted;
        int64_t dims[8];
        int rank;
        require(bb_float_net_run(n->float_net, tensor, &err), &err, "float run");
        require(bb_float_net_output(n->float_net, 0, &name, &wanted, dims, &rank, &err), &err,
                "float run");
        size_t got_class, wanted_class;
        bb_classify_top(n->config, scores, n->output, 1, &got_class);
        bb_classify_top(n->config, wanted, n->output, 1, &wanted_class);
        bool same = exact ? memcmp(scores, wanted, n->output * sizeof(*scores)) == 0
                          : got_class == wanted_class;
        t.different += !same;
        t.good += (int)got_class == bb_dataset_label(dataset, i);
        bb_image_free(&image);
    }
    free(tensor);
    free(scores);
    free(pixels);
    bb_dataset_destroy(dataset);
    return t;
}

static void check_cnv(bool all) {
    static const struct {
        const char *name;
        size_t good;
    } nets[] = {{"w1a1", 454}, {"w1a2", 482}, {"w2a2", 482}};
    for (size_t i = 0; i < 2 * BB_COUNT(nets); i++) {
        char onnx[100], json[100];
        bool qonnx = i % 2;
        snprintf(onnx, sizeof(onnx), "models/cnv_lowbit_cifar10/cnv_%s%s.onnx%s", nets[i / 2].name,
                 qonnx ? "_qonnx" : "", qonnx ? ".gz" : "");
        snprintf(json, sizeof(json), "models/cnv_lowbit_cifar10/cnv_%s%s.json", nets[i / 2].name,
                 qonnx ? "_qonnx" : "");
        network n = open_network(onnx, json);
        tally t = compare(&n, "datasets/cifar10_exact", all ? 0 : 564 / (1 + 3 * qonnx), true);
        report(t.different == 0, onnx, "%zu of %zu exact images with other scores", t.different,
               t.images);
        if (t.images == 564)
            report(t.good == nets[i / 2].good, onnx, "%zu images right, %zu wanted", t.good,
                   nets[i / 2].good);
        t = compare(&n, "datasets/cifar10_jpeg", all ? 0 : 200, true);
        report(t.different == 0, onnx, "%zu of %zu jpeg images with other scores", t.different,
               t.images);
        close_network(&n);
    }
}

static void check_tfc(void) {
    static const struct {
        const char *name;
        size_t good;
    } nets[] = {{"TFC_1W1A", 6192}, {"TFC_1W2A", 6313}, {"TFC_2W2A", 6446}};
    for (size_t i = 0; i < BB_COUNT(nets); i++) {
        char onnx[100], json[100];
        snprintf(onnx, sizeof(onnx), "models/qonnx_small/%s.onnx", nets[i].name);
        snprintf(json, sizeof(json), "models/qonnx_small/%s.json", nets[i].name);
        network n = open_network(onnx, json);
        tally t = compare(&n, "datasets/mnist", 0, false);
        report(t.different == 0, onnx, "%zu of %zu images with another class", t.different,
               t.images);
        report(t.good == nets[i].good, onnx, "%zu images right, %zu wanted", t.good, nets[i].good);
        close_network(&n);
    }
}

/* ---- tinieryolo: from one golden tensor to another ------------------------------------------- */

/* A .npy file of bytes; the header's length stands at offset 8. */
static uint8_t *load_npy(const char *path, size_t n) {
    bb_file file;
    bb_error err;
    require(bb_file_open(data_path(path), &file, &err), &err, path);
    size_t header = file.size > 10 ? 10 + file.data[8] + 256u * file.data[9] : file.size;
    if (header + n != file.size) {
        fprintf(stderr, "%s: not %zu bytes of data\n", path, n);
        exit(1);
    }
    uint8_t *data = malloc(n);
    memcpy(data, file.data + header, n);
    bb_file_close(&file);
    return data;
}

/* The golden tensors are stored channel, column, row. */
static void swap_image_axes(const uint8_t *from, size_t channels, size_t side, float *to) {
    for (size_t c = 0; c < channels; c++)
        for (size_t y = 0; y < side; y++)
            for (size_t x = 0; x < side; x++)
                *to++ = from[(c * side + x) * side + y];
}

static void check_tinieryolo(const char *onnx) {
    enum { Q0 = 16 * 208 * 208, Q7 = 512 * 13 * 13 };
    bb_error err;
    bb_graph *graph;
    network n = {0};
    bb_quantize_options options = {.struct_size = sizeof(options),
                                   .round_levels = 1,
                                   .levels_scale = 1,
                                   .levels_min = 0,
                                   .levels_max = 7};
    require(bb_onnx_read(data_path(onnx), &graph, &err), &err, onnx);
    require(bb_graph_extract(graph, (const char *[]){"q0"}, 1, (const char *[]){"q7"}, 1, &err),
            &err, onnx);
    require(bb_lower_quantized(graph, &options, &n.model, &err), &err, onnx);
    bb_graph_destroy(graph);
    start_engine(&n);
    uint8_t *q0 = load_npy("models/tinieryolo_w1a3_voc/golden_q0.npy", Q0);
    uint8_t *q7 = load_npy("models/tinieryolo_w1a3_voc/golden_q7.npy", Q7);
    float *in = malloc(Q0 * sizeof(*in)), *out = malloc(Q7 * sizeof(*out)),
          *wanted = malloc(Q7 * sizeof(*wanted));
    swap_image_axes(q0, 16, 208, in);
    swap_image_axes(q7, 512, 13, wanted);
    require(bb_context_run_f32(n.context, (const float *[]){in}, (float *[]){out}, &err), &err,
            onnx);
    size_t different = 0;
    for (size_t i = 0; i < Q7; i++)
        different += out[i] != wanted[i];
    report(different == 0 && n.output == Q7, onnx, "%zu of %zu codes differ from golden_q7",
           different, Q7);
    free(q0);
    free(q7);
    free(in);
    free(out);
    free(wanted);
    close_network(&n);
}

/* ---- whole networks that keep float layers, and those without images ------------------------- */

static void check_imports(const char *onnx, size_t float_layers) {
    bb_quantize_options options = {.struct_size = sizeof(options)};
    bb_model *model = import(data_path(onnx), &options);
    size_t found = 0;
    for (size_t i = 0; i < model->n_nodes; i++)
        found += model->nodes[i].kind == BB_NODE_FLOAT && model->nodes[i].float_op == BB_FLOAT_CONV;
    report(found == float_layers, onnx, "%zu float convolutions, %zu wanted", found, float_layers);
    bb_model_destroy(model);
}

int main(int argc, char **argv) {
    const char *folder = getenv("BITBRANCH_DATA");
    bool all = argc > 1 && strcmp(argv[1], "--all") == 0;
    snprintf(root_folder, sizeof(root_folder), "%s",
             folder ? folder : SOURCE_ROOT "/../shared/data");
    FILE *f = fopen(data_path("models/cnv_lowbit_cifar10/cnv_w1a1.onnx"), "rb");
    if (!f) {
        printf("skipped: no low-bit networks under %s (set BITBRANCH_DATA)\n", root_folder);
        return SKIP;
    }
    fclose(f);
    check_cnv(all);
    check_tfc();
    check_tinieryolo("models/tinieryolo_w1a3_voc/tinieryolo_w1a3.onnx");
    check_tinieryolo("models/tinieryolo_w1a3_voc/tinieryolo_w1a3_qonnx.onnx.gz");
    check_imports("models/tinieryolo_w1a3_voc/tinieryolo_w1a3.onnx", 2);
    check_imports("models/tinieryolo_w1a3_voc/tinieryolo_w1a3_qonnx.onnx.gz", 2);
    check_imports("models/qonnx_small/kwsmlp_w3a3.onnx", 0);
    return failures != 0;
}
