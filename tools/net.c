/* SPDX-License-Identifier: Apache-2.0 */
#include "net.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

bool net_is_onnx(const char *path) {
    return ends_with(path, ".onnx") || ends_with(path, ".onnx.gz");
}

/* NAME.onnx or NAME.onnx.gz -> NAME.json */
static bb_status sibling_config(const char *model_path, char *path, size_t size, bb_error *err) {
    size_t stem = strlen(model_path) - strlen(ends_with(model_path, ".gz") ? ".onnx.gz" : ".onnx");
    if (stem + sizeof(".json") > size)
        return cli_error(err, BB_STATUS_INVALID_ARGUMENT, "%s: path too long", model_path);
    memcpy(path, model_path, stem);
    strcpy(path + stem, ".json");
    return BB_STATUS_OK;
}

bb_status net_load_config(const char *model_path, const char *config_path, bb_config **config,
                          bb_error *err) {
    char path[4096];
    if (!config_path) {
        bb_status status = sibling_config(model_path, path, sizeof(path), err);
        if (status != BB_STATUS_OK)
            return status;
        config_path = path;
    }
    return bb_config_load(config_path, config, err);
}

static char *copy_text(const char *text) {
    char *copy = text ? malloc(strlen(text) + 1) : NULL;
    return copy ? strcpy(copy, text) : NULL;
}

bb_status net_read_labels(const bb_config *config, char **text, bb_error *err) {
    char *labels;
    bb_status status = bb_config_read_labels(config, &labels, err);
    *text = NULL;
    if (status != BB_STATUS_OK || !labels)
        return status;
    *text = copy_text(labels);
    bb_text_free(labels);
    return *text ? BB_STATUS_OK
                 : cli_error(err, BB_STATUS_OUT_OF_MEMORY, "out of memory for labels");
}

/* Splits labels_text at newlines, in place. */
static bb_status split_labels(cli_net *net, bb_error *err) {
    if (!net->labels_text)
        return BB_STATUS_OK;
    size_t n = 1;
    for (const char *p = net->labels_text; *p; p++)
        n += *p == '\n';
    net->labels = malloc(n * sizeof(*net->labels));
    if (!net->labels)
        return cli_error(err, BB_STATUS_OUT_OF_MEMORY, "out of memory for labels");
    for (char *line = net->labels_text; line && *line;) {
        char *next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        size_t length = strlen(line);
        if (length && line[length - 1] == '\r')
            line[length - 1] = '\0';
        net->labels[net->n_labels++] = line;
        line = next;
    }
    return BB_STATUS_OK;
}

static bb_status open_float(const char *path, const net_options *options, cli_net *net,
                            bb_error *err) {
    bb_status status = bb_import_onnx(path, &net->graph, err);
    if (status == BB_STATUS_OK)
        status = net_load_config(path, options->config, &net->config, err);
    if (status == BB_STATUS_OK)
        status = net_read_labels(net->config, &net->labels_text, err);
    if (status != BB_STATUS_OK)
        return status;
    bb_config_input(net->config, &net->channels, &net->height, &net->width);
    int64_t dims[4] = {1, net->channels, net->height, net->width};
    status = bb_float_net_create(net->graph, dims, options->threads, &net->float_net, err);
    if (status != BB_STATUS_OK)
        return status;
    net->n_outputs = bb_float_net_outputs(net->float_net);
    net->outputs = calloc(net->n_outputs, sizeof(*net->outputs));
    return net->outputs ? BB_STATUS_OK : cli_error(err, BB_STATUS_OUT_OF_MEMORY, "out of memory");
}

static bb_status engine_outputs(cli_net *net, bb_error *err) {
    net->n_outputs = bb_engine_outputs(net->engine);
    net->outputs = calloc(net->n_outputs, sizeof(*net->outputs));
    net->raw_outputs = calloc(net->n_outputs, sizeof(*net->raw_outputs));
    if (!net->outputs || !net->raw_outputs)
        return cli_error(err, BB_STATUS_OUT_OF_MEMORY, "out of memory");
    for (size_t i = 0; i < net->n_outputs; i++) {
        bb_tensor_desc desc;
        bb_status status = bb_engine_output(net->engine, i, &desc, err);
        if (status != BB_STATUS_OK)
            return status;
        net_output *out = &net->outputs[i];
        snprintf(out->name, sizeof(out->name), "%s", desc.name);
        out->elements = 1;
        for (size_t d = 0; d < desc.n_dims; d++)
            out->elements *= (size_t)desc.dims[d];
        out->data = malloc(out->elements * sizeof(float));
        net->raw_outputs[i] = malloc(desc.bytes);
        if (!out->data || !net->raw_outputs[i])
            return cli_error(err, BB_STATUS_OUT_OF_MEMORY, "out of memory");
    }
    return BB_STATUS_OK;
}

/* Raw pixels are the codes of an 8-bit grid with step 1/2 and a0 = -255: x = u. */
static bool takes_pixels(const bb_tensor_desc *input) {
    return input->type == BB_TYPE_U8 && input->bits == 8 && input->a0 == -255 &&
           input->scale > 0.49999f && input->scale < 0.50001f;
}

bb_status net_load_model(const char *path, size_t weight_bits, size_t activation_bits,
                         bb_model **model, size_t *profile, bb_error *err) {
    *model = NULL;
    bb_status status = bb_model_load(path, model, err);
    if (status != BB_STATUS_OK)
        return status;
    status = bb_model_select_profile(*model, (uint32_t)weight_bits, (uint32_t)activation_bits,
                                     profile, err);
    if (status == BB_STATUS_OK)
        return status;
    bb_model_destroy(*model);
    *model = NULL;
    return cli_prefix(err, status, path);
}

static bb_status open_engine(const char *path, const net_options *options, cli_net *net,
                             bb_error *err) {
    bb_status status = net_load_model(path, options->weight_bits, options->activation_bits,
                                      &net->model, &net->profile, err);
    if (status != BB_STATUS_OK)
        return status;
    bb_model_info info;
    bb_model_info_init(&info);
    status = bb_model_get_info(net->model, &info, err);
    if (status != BB_STATUS_OK)
        return status;
    if (options->config)
        status = bb_config_load(options->config, &net->config, err);
    else if (info.config_json)
        status = bb_config_parse(info.config_json, path, &net->config, err);
    else
        status = cli_error(err, BB_STATUS_NOT_FOUND,
                           "%s: holds no task config; give one with --config FILE.json", path);
    if (status != BB_STATUS_OK)
        return status;
    bb_config_input(net->config, &net->channels, &net->height, &net->width);
    net->labels_text = copy_text(info.labels);
    bb_engine_options engine_options;
    bb_engine_options_init(&engine_options);
    engine_options.threads = options->threads;
    engine_options.cpu = options->cpu;
    engine_options.kernel = options->kernel;
    engine_options.tune = options->tune;
    engine_options.profile = net->profile;
    engine_options.input_dims[1] = net->height;
    engine_options.input_dims[2] = net->width;
    engine_options.input_dims[3] = net->channels;
    status = bb_engine_create(net->model, &engine_options, &net->engine, err);
    if (status == BB_STATUS_OK)
        status = bb_context_create(net->engine, &net->context, err);
    bb_tensor_desc input;
    if (status == BB_STATUS_OK)
        status = bb_engine_input(net->engine, 0, &input, err);
    if (status != BB_STATUS_OK)
        return cli_prefix(err, status, path);
    net->pixels = takes_pixels(&input);
    return engine_outputs(net, err);
}

bb_status net_open(const char *path, const net_options *options, cli_net *net, bb_error *err) {
    memset(net, 0, sizeof(*net));
    net->is_float = net_is_onnx(path);
    if (net->is_float && (options->weight_bits || options->activation_bits || options->cpu ||
                          options->kernel || options->tune))
        return cli_error(err, BB_STATUS_INVALID_ARGUMENT,
                         "%s runs in float; -w, -a, --cpu, --kernel and --tune are for .bbm files",
                         path);
    bb_status status =
        net->is_float ? open_float(path, options, net, err) : open_engine(path, options, net, err);
    if (status == BB_STATUS_OK)
        status = split_labels(net, err);
    if (status != BB_STATUS_OK) {
        net_close(net);
        return status;
    }
    size_t elements = (size_t)net->channels * (size_t)net->height * (size_t)net->width;
    net->hwc = calloc(elements, 1);
    net->nchw = calloc(elements, sizeof(float));
    if (!net->hwc || !net->nchw) {
        net_close(net);
        return cli_error(err, BB_STATUS_OUT_OF_MEMORY, "out of memory for the input");
    }
    return BB_STATUS_OK;
}

void net_close(cli_net *net) {
    for (size_t i = 0; i < net->n_outputs; i++) {
        if (net->outputs && !net->is_float)
            free(net->outputs[i].data);
        if (net->raw_outputs)
            free(net->raw_outputs[i]);
    }
    free(net->outputs);
    free(net->raw_outputs);
    free(net->hwc);
    free(net->nchw);
    free(net->labels);
    free(net->labels_text);
    bb_context_destroy(net->context);
    bb_engine_destroy(net->engine);
    bb_model_destroy(net->model);
    bb_float_net_destroy(net->float_net);
    bb_graph_destroy(net->graph);
    bb_config_destroy(net->config);
    memset(net, 0, sizeof(*net));
}

static bb_status run_float(cli_net *net, bb_error *err) {
    bb_status status = bb_float_net_run(net->float_net, net->nchw, err);
    for (size_t i = 0; i < net->n_outputs && status == BB_STATUS_OK; i++) {
        const char *name;
        const float *data;
        int64_t dims[8];
        int rank;
        status = bb_float_net_output(net->float_net, i, &name, &data, dims, &rank, err);
        if (status != BB_STATUS_OK)
            break;
        net_output *out = &net->outputs[i];
        snprintf(out->name, sizeof(out->name), "%s", name);
        out->data = (float *)(uintptr_t)data;
        out->elements = 1;
        for (int d = 0; d < rank; d++)
            out->elements *= (size_t)dims[d];
    }
    return status;
}

/* Codes or f32 as the engine wrote them -> f32 in the same order. */
static void to_real(const bb_tensor_desc *desc, const void *raw, net_output *out) {
    int top = (1 << desc->bits) - 1;
    for (size_t i = 0; i < out->elements; i++) {
        if (desc->type == BB_TYPE_F32) {
            out->data[i] = ((const float *)raw)[i];
            continue;
        }
        int code =
            desc->type == BB_TYPE_U8 ? ((const uint8_t *)raw)[i] : ((const uint16_t *)raw)[i];
        out->data[i] = desc->scale * (float)(2 * code - top - desc->a0);
    }
}

static bb_status run_engine(cli_net *net, bb_error *err) {
    if (!net->pixels) {
        const float *inputs[1] = {net->nchw};
        float *outputs[64];
        if (net->n_outputs > 64)
            return cli_error(err, BB_STATUS_UNSUPPORTED, "more than 64 outputs");
        for (size_t i = 0; i < net->n_outputs; i++)
            outputs[i] = net->outputs[i].data;
        return bb_context_run_f32(net->context, inputs, outputs, err);
    }
    const void *inputs[1] = {net->hwc};
    bb_status status = bb_context_run(net->context, inputs, net->raw_outputs, err);
    for (size_t i = 0; i < net->n_outputs && status == BB_STATUS_OK; i++) {
        bb_tensor_desc desc;
        status = bb_engine_output(net->engine, i, &desc, err);
        if (status == BB_STATUS_OK)
            to_real(&desc, net->raw_outputs[i], &net->outputs[i]);
    }
    return status;
}

bb_status net_run_prepared(cli_net *net, bb_error *err) {
    return net->is_float ? run_float(net, err) : run_engine(net, err);
}

bb_status net_run(cli_net *net, const bb_image *image, bb_error *err) {
    bb_status status = net->pixels ? bb_config_pixels(net->config, image, net->hwc, err)
                                   : bb_config_tensor(net->config, image, net->nchw, err);
    return status == BB_STATUS_OK ? net_run_prepared(net, err) : status;
}

bb_status net_check_classifier(const cli_net *net, const char *path, bb_error *err) {
    if (bb_config_task(net->config) == BB_TASK_CLASSIFY)
        return BB_STATUS_OK;
    return cli_error(err, BB_STATUS_UNSUPPORTED,
                     "%s: only networks that classify can be run and evaluated so far", path);
}

bb_status net_classify(const cli_net *net, size_t most, size_t *classes, size_t *n, bb_error *err) {
    const net_output *scores = &net->outputs[0];
    size_t count = bb_classify_count(net->config, scores->elements);
    if (count == 0)
        return cli_error(err, BB_STATUS_INVALID_ARGUMENT,
                         "output '%s' has %zu values; drop_first of the config leaves no class",
                         scores->name, scores->elements);
    *n = count < most ? count : most;
    bb_classify_top(net->config, scores->data, scores->elements, *n, classes);
    return BB_STATUS_OK;
}

void net_fill_random(cli_net *net, uint32_t seed) {
    size_t n = (size_t)net->channels * (size_t)net->height * (size_t)net->width;
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        net->hwc[i] = (uint8_t)(seed >> 24);
    }
    bb_config_normalize(net->config, net->hwc, net->nchw);
}

bb_status net_labels_text(const cli_net *net, char **text, bb_error *err) {
    size_t size = 1;
    *text = NULL;
    for (size_t i = 0; i < net->n_labels; i++)
        size += strlen(net->labels[i]) + 1;
    if (net->n_labels == 0)
        return BB_STATUS_OK;
    if (!(*text = malloc(size)))
        return cli_error(err, BB_STATUS_OUT_OF_MEMORY, "out of memory for labels");
    char *end = *text;
    for (size_t i = 0; i < net->n_labels; i++)
        end += sprintf(end, "%s\n", net->labels[i]);
    return BB_STATUS_OK;
}

const char *net_bits(const cli_net *net) {
    bb_profile_info profile;
    if (net->is_float ||
        bb_model_get_profile(net->model, net->profile, &profile, NULL) != BB_STATUS_OK)
        return "float";
    return profile.name;
}

double net_integer_share(const cli_net *net) {
    bb_model_info info;
    bb_model_info_init(&info);
    if (net->is_float || bb_model_get_info(net->model, &info, NULL) != BB_STATUS_OK ||
        info.macs == 0)
        return 0;
    return 100.0 * (double)info.integer_macs / (double)info.macs;
}
