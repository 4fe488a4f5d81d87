/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Real low-bit networks, imported and run: the scores of the engine are those of the float run of
 * the same file, number by number. Needs the models and images of BITBRANCH_DATA (or
 * ../shared/data beside the sources); exits 77 where they are absent. --all: every image.
 */
#include "bitbranch/dataset.h"
#include "bitbranch/engine.h"
#include "bitbranch/export.h"
#include "bitbranch/vision.h"
#include "lower/lower.h"
#include "onnx/onnx.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
    bb_quantize_options options;
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
    n.options = options;
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

/* ---- export and import again ----------------------------------------------------------------- */

typedef struct code_log {
    uint64_t hash; /* of the codes of all tensors */
    size_t tensors;
} code_log;

/* FNV-1a. */
static void log_codes(void *user, const bb_tap_event *event) {
    code_log *log = user;
    if (event->type != BB_TYPE_U8)
        return;
    size_t n = 1;
    for (int i = 0; i < 4; i++)
        n *= (size_t)event->dims[i];
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ ((const uint8_t *)event->data)[i]) * 0x100000001b3u;
    log->hash += hash; /* order does not matter */
    log->tensors++;
}

static void random_levels(const bb_tensor_desc *in, bb_rng *rng, float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!in->bits) {
            x[i] = (float)bb_rng_uniform(rng);
            continue;
        }
        int last = (1 << in->bits) - 1, u = (int)bb_rng_below(rng, (uint64_t)last + 1);
        x[i] = in->scale * (float)(2 * u - last - in->a0);
    }
}

static void run_logged(network *n, const float *x, float *y, code_log *log) {
    bb_error err;
    *log = (code_log){0};
    require(bb_context_set_tap(n->context, log_codes, log, &err), &err, "tap");
    require(bb_context_run_f32(n->context, (const float *[]){x}, (float *[]){y}, &err), &err,
            "run");
    require(bb_context_set_tap(n->context, NULL, NULL, &err), &err, "tap");
}

/* The exported file gives the same codes in every tensor and the same results. */
static void check_export(network *n, const char *name, const bb_quantize_options *options) {
    char path[] = "/tmp/bb_export_XXXXXX";
    bb_error err;
    int fd = mkstemp(path);
    if (fd >= 0)
        close(fd);
    require(bb_export_qonnx(n->model, 0, path, &err), &err, name);
    bb_quantize_options own = *options;
    if (own.pixels) { /* the exported network takes the pixels themselves */
        own.pixel_scale = 1;
        for (int i = 0; i < 4; i++) {
            own.mean[i] = 0;
            own.std[i] = 1;
        }
    }
    network again = {.model = import(path, &own)};
    unlink(path);
    start_engine(&again);
    bb_tensor_desc in;
    require(bb_engine_input(n->engine, 0, &in, &err), &err, "input");
    float *x = malloc(n->input * 4), *y = malloc(n->output * 4), *z = malloc(n->output * 4);
    bb_rng rng;
    bb_rng_seed(&rng, 1);
    size_t different = 0, tensors = 0;
    for (int i = 0; i < 4; i++) {
        code_log first, second;
        random_levels(&in, &rng, x, n->input);
        run_logged(n, x, y, &first);
        run_logged(&again, x, z, &second);
        different += first.hash != second.hash || memcmp(y, z, n->output * sizeof(*y)) != 0;
        tensors = first.tensors;
    }
    report(different == 0, name, "exported: %zu of 4 inputs with other codes in %zu tensors",
           different, tensors);
    free(x);
    free(y);
    free(z);
    close_network(&again);
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
        check_export(&n, onnx, &n.options);
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
        check_export(&n, onnx, &n.options);
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
    check_export(&n, onnx, &options);
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
    network n = {.model = model};
    start_engine(&n);
    check_export(&n, onnx, &options);
    close_network(&n);
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
