/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "commands.h"
#include "net.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct verify_arguments {
    net_options net;
    const char *data, *split;
    size_t limit;
} verify_arguments;

/* One tensor of one run, copied out of a tap. */
typedef struct record {
    char *node, *tensor;
    bb_element_type type;
    int32_t dims[4];
    uint32_t bits;
    float scale;
    int32_t a0;
    void *data;
    int32_t *accumulators;
    double signal, noise; /* summed over images, against the float network */
    size_t compared;      /* elements behind them */
} record;

typedef struct recording {
    record *items;
    size_t n, capacity, next; /* `next`: position during the second and later images */
    bool out_of_memory;
} recording;

static size_t elements(const int32_t dims[4]) {
    return (size_t)dims[0] * (size_t)dims[1] * (size_t)dims[2] * (size_t)dims[3];
}

static size_t element_size(bb_element_type type) {
    return type == BB_TYPE_U8 ? 1 : type == BB_TYPE_U16 ? 2 : 4;
}

static char *copy_string(const char *s) {
    char *copy = malloc(strlen(s) + 1);
    return copy ? strcpy(copy, s) : NULL;
}

static record *add_record(recording *r, const bb_tap_event *event) {
    if (r->n == r->capacity) {
        size_t capacity = r->capacity ? 2 * r->capacity : 256;
        record *items = realloc(r->items, capacity * sizeof(*items));
        if (!items)
            return NULL;
        r->items = items;
        r->capacity = capacity;
    }
    record *item = &r->items[r->n];
    *item = (record){.node = copy_string(event->node_name),
                     .tensor = copy_string(event->tensor_name),
                     .type = event->type,
                     .bits = event->bits,
                     .scale = event->scale,
                     .a0 = event->a0};
    memcpy(item->dims, event->dims, sizeof(item->dims));
    item->data = malloc(elements(event->dims) * element_size(event->type));
    if (event->accumulators)
        item->accumulators = malloc(elements(event->dims) * sizeof(int32_t));
    r->n++;
    if (!item->node || !item->tensor || !item->data || (event->accumulators && !item->accumulators))
        return NULL;
    return item;
}

static void record_event(void *user, const bb_tap_event *event) {
    recording *r = user;
    if (r->out_of_memory)
        return;
    record *item = r->next < r->n ? &r->items[r->next] : add_record(r, event);
    r->next++;
    if (!item) {
        r->out_of_memory = true;
        return;
    }
    size_t n = elements(event->dims);
    memcpy(item->data, event->data, n * element_size(event->type));
    if (event->accumulators)
        memcpy(item->accumulators, event->accumulators, n * sizeof(int32_t));
}

static void recording_free(recording *r) {
    for (size_t i = 0; i < r->n; i++) {
        free(r->items[i].node);
        free(r->items[i].tensor);
        free(r->items[i].data);
        free(r->items[i].accumulators);
    }
    free(r->items);
    *r = (recording){0};
}

static bb_status mismatch(const record *item, const char *what, bb_error *err) {
    return cli_error(err, BB_STATUS_INTERNAL,
                     "layer '%s': %s of tensor '%s' differ between the engine and the reference",
                     item->node, what, item->tensor);
}

/* Bit for bit, codes and accumulators alike. */
static bb_status compare_recordings(const recording *engine, const recording *reference,
                                    bb_error *err) {
    if (engine->out_of_memory || reference->out_of_memory)
        return cli_error(err, BB_STATUS_OUT_OF_MEMORY, "out of memory for recorded tensors");
    if (engine->n != reference->n)
        return cli_error(err, BB_STATUS_INTERNAL, "engine and reference made %zu and %zu tensors",
                         engine->n, reference->n);
    for (size_t i = 0; i < engine->n; i++) {
        const record *a = &engine->items[i], *b = &reference->items[i];
        size_t n = elements(a->dims);
        if (memcmp(a->dims, b->dims, sizeof(a->dims)) != 0 || a->type != b->type ||
            memcmp(a->data, b->data, n * element_size(a->type)) != 0)
            return mismatch(a, "values", err);
        if (a->accumulators && b->accumulators &&
            memcmp(a->accumulators, b->accumulators, n * sizeof(int32_t)) != 0)
            return mismatch(a, "accumulators", err);
    }
    return BB_STATUS_OK;
}

static double real_value(const record *item, size_t i) {
    if (item->type == BB_TYPE_F32)
        return (double)((const float *)item->data)[i];
    int code = item->type == BB_TYPE_U8 ? ((const uint8_t *)item->data)[i]
                                        : ((const uint16_t *)item->data)[i];
    return (double)item->scale * (2.0 * code - ((1 << item->bits) - 1) - item->a0);
}

/* Tensors carry the name of the float network's tensor; further copies have ":..." after it. */
static bool same_tensor(const char *tensor, const char *name) {
    size_t n = strlen(name);
    return strncmp(tensor, name, n) == 0 && (tensor[n] == '\0' || tensor[n] == ':');
}

static void add_error(record *item, const float *data) {
    int32_t h = item->dims[1], w = item->dims[2], c = item->dims[3];
    for (int32_t n = 0; n < item->dims[0]; n++)
        for (int32_t y = 0; y < h; y++)
            for (int32_t x = 0; x < w; x++)
                for (int32_t k = 0; k < c; k++) {
                    size_t nhwc = (((size_t)n * h + y) * w + x) * c + k;
                    size_t nchw = (((size_t)n * c + k) * h + y) * w + x;
                    double f = (double)data[nchw], d = f - real_value(item, nhwc);
                    item->signal += f * f;
                    item->noise += d * d;
                }
    item->compared += elements(item->dims);
}

static void compare_float(void *user, const char *name, const float *data, const int64_t *dims,
                          int rank) {
    recording *r = user;
    size_t n = 1;
    for (int d = 0; d < rank; d++)
        n *= (size_t)dims[d];
    for (size_t i = 0; i < r->n; i++)
        if (elements(r->items[i].dims) == n && same_tensor(r->items[i].tensor, name))
            add_error(&r->items[i], data);
}

static void print_sqnr(const recording *r) {
    cli_table table;
    cli_table_init(&table, (const char *[]){"layer", "tensor", ">bits", ">SQNR dB", NULL});
    for (size_t i = 0; i < r->n; i++) {
        const record *item = &r->items[i];
        if (!item->compared)
            continue;
        cli_table_cell(&table, "%s", item->node);
        cli_table_cell(&table, "%s", item->tensor);
        cli_table_cell(&table, item->bits ? "%u" : "float", item->bits);
        if (item->noise > 0)
            cli_table_cell(&table, "%.2f", 10 * log10(item->signal / item->noise));
        else
            cli_table_cell(&table, "%s", "exact");
    }
    cli_table_print(&table, CLI_TABLE, stdout);
    cli_table_free(&table);
}

/* ---- images ---------------------------------------------------------------------------------- */

static bb_status load_input(cli_net *net, const bb_dataset *data, size_t i, bb_error *err) {
    bb_image image;
    if (!data) {
        net_fill_random(net, (uint32_t)i * 2654435761u + 1);
        return BB_STATUS_OK;
    }
    bb_status status = bb_dataset_image(data, i, &image, err);
    if (status != BB_STATUS_OK)
        return status;
    status = bb_config_pixels(net->config, &image, net->hwc, err);
    if (status == BB_STATUS_OK)
        bb_config_normalize(net->config, net->hwc, net->nchw);
    bb_image_free(&image);
    return cli_prefix(err, status, bb_dataset_name(data, i));
}

static void copy_input(const cli_net *from, cli_net *to) {
    size_t n = (size_t)to->channels * (size_t)to->height * (size_t)to->width;
    memcpy(to->hwc, from->hwc, n);
    memcpy(to->nchw, from->nchw, n * sizeof(float));
}

static bb_status verify_images(cli_net *net, cli_net *reference, bb_float_net *float_net,
                               const bb_dataset *data, size_t n, recording *engine_tensors,
                               bb_error *err) {
    recording reference_tensors = {0};
    bb_status status = bb_context_set_tap(net->context, record_event, engine_tensors, err);
    if (status == BB_STATUS_OK)
        status = bb_context_set_tap(reference->context, record_event, &reference_tensors, err);
    for (size_t i = 0; i < n && status == BB_STATUS_OK; i++) {
        engine_tensors->next = reference_tensors.next = 0;
        status = load_input(net, data, i, err);
        if (status != BB_STATUS_OK)
            break;
        copy_input(net, reference);
        status = net_run_prepared(net, err);
        if (status == BB_STATUS_OK)
            status = net_run_prepared(reference, err);
        if (status == BB_STATUS_OK)
            status = compare_recordings(engine_tensors, &reference_tensors, err);
        if (status == BB_STATUS_OK && float_net)
            status = bb_float_net_run(float_net, net->nchw, err);
        cli_progress(NULL, "verifying", i + 1, n);
    }
    recording_free(&reference_tensors);
    return status;
}

static bb_status open_float(const char *path, const cli_net *net, recording *tensors,
                            bb_graph **graph, bb_float_net **float_net, bb_error *err) {
    int64_t dims[4] = {1, net->channels, net->height, net->width};
    bb_status status = bb_import_onnx(path, graph, err);
    if (status == BB_STATUS_OK)
        status =
            bb_float_net_create_tapped(*graph, dims, 1, compare_float, tensors, float_net, err);
    return status;
}

static bb_status open_data(const verify_arguments *a, bb_dataset **data, bb_error *err) {
    bb_dataset_options options;
    bb_dataset_options_init(&options);
    options.split = a->split;
    options.limit = a->limit;
    return bb_dataset_open(a->data, &options, data, err);
}

static bb_status verify(const cli_args *args, const verify_arguments *a, bb_error *err) {
    cli_net net = {0}, reference = {0};
    bb_graph *graph = NULL;
    bb_float_net *float_net = NULL;
    bb_dataset *data = NULL;
    recording tensors = {0};
    net_options reference_options = a->net;
    reference_options.cpu = "ref";
    reference_options.kernel = NULL;
    reference_options.tune = false;
    reference_options.threads = 1;
    bb_status status = net_open(args->positional[0], &a->net, &net, err);
    if (status == BB_STATUS_OK)
        status = net_open(args->positional[0], &reference_options, &reference, err);
    if (status == BB_STATUS_OK && args->n > 1)
        status = open_float(args->positional[1], &net, &tensors, &graph, &float_net, err);
    if (status == BB_STATUS_OK && a->data)
        status = open_data(a, &data, err);
    size_t n = data ? bb_dataset_size(data) : a->limit;
    if (status == BB_STATUS_OK)
        status = verify_images(&net, &reference, float_net, data, n, &tensors, err);
    if (status == BB_STATUS_OK) {
        if (float_net)
            print_sqnr(&tensors);
        printf("%s: engine (%s, %zu threads) == reference, %zu tensors on %zu %s, bit for bit\n",
               cli_text(net_bits(&net)), bb_engine_cpu(net.engine), a->net.threads, tensors.n, n,
               data ? "images" : "random images");
    }
    recording_free(&tensors);
    bb_dataset_destroy(data);
    bb_float_net_destroy(float_net);
    bb_graph_destroy(graph);
    net_close(&reference);
    net_close(&net);
    return status;
}

int cmd_verify(int argc, char **argv) {
    verify_arguments a = {.net.threads = 1, .limit = 4};
    const cli_spec spec = {
        "verify",
        "MODEL.bbm [IN.onnx] [OPTIONS]",
        "Checks that the engine gives the reference's codes and accumulators bit for bit in every\n"
        "layer; with the float network also prints the signal-to-noise ratio of every layer.",
        (cli_option[]){
            {"data", 0, CLI_STRING, &a.data, "DATA", "images (default: random pixels)", 0, 0},
            {"split", 0, CLI_STRING, &a.split, "NAME", "split of DATA", 0, 0},
            {"limit", 0, CLI_UINT, &a.limit, "N", "images (4)", 1, SIZE_MAX},
            NET_OPTIONS(a.net),
            {0}},
        1,
        2};
    cli_args args;
    if (!cli_parse(&spec, argc, argv, &args))
        return EXIT_USAGE;
    if (args.help)
        return EXIT_DONE;
    if (net_is_onnx(args.positional[0]))
        return cli_usage_error("verify", "the first argument is a .bbm model");
    bb_error err = {0};
    bb_status status = verify(&args, &a, &err);
    return status == BB_STATUS_OK ? EXIT_DONE : cli_failed("verify", &err);
}
