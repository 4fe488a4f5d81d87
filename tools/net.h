/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file net.h
 * One harness for both sides of every comparison: an .onnx network in float, or a .bbm model on the
 * engine, with its task config and labels, from an image to f32 outputs.
 */
#ifndef BB_TOOLS_NET_H
#define BB_TOOLS_NET_H

#include "bitbranch/dataset.h"
#include "bitbranch/engine.h"
#include "bitbranch/import.h"
#include "bitbranch/vision.h"
#include "cli.h"
#include <stdbool.h>

typedef struct net_options {
    const char *config; /**< path, or NULL: the one in the .bbm, or NAME.json beside NAME.onnx */
    size_t weight_bits, activation_bits; /**< 0 = the default profile */
    size_t threads;
    const char *cpu, *kernel; /**< limits for the engine, or NULL */
    bool tune;                /**< measure kernels first */
} net_options;

/* clang-format off */
/** The options of every verb that runs networks; `net` is a net_options. */
#define NET_OPTIONS(net) \
    {"config", 0, CLI_STRING, &(net).config, "FILE.json", "task config", 0, 0}, \
    CLI_PROFILE_OPTIONS(&(net).weight_bits, &(net).activation_bits), \
    {"threads", 't', CLI_UINT, &(net).threads, "N", "threads (1)", 1, 1024}, \
    {"cpu", 0, CLI_STRING, &(net).cpu, "NAME", \
     "instruction set: ref, ssse3, avx2, ... (.bbm)", 0, 0}, \
    {"kernel", 0, CLI_STRING, &(net).kernel, "NAME", \
     "convolution kernel, wherever it can do the layer (.bbm)", 0, 0}, \
    {"tune", 0, CLI_FLAG, &(net).tune, NULL, "measure each layer's kernels first (.bbm)", 0, 0}
/* clang-format on */

typedef struct net_output {
    char name[128];
    float *data; /**< NCHW or NC */
    size_t elements;
} net_output;

typedef struct cli_net {
    bool is_float;
    bb_config *config;
    bb_graph *graph;
    bb_float_net *float_net;
    bb_model *model;
    bb_engine *engine;
    bb_context *context;
    size_t profile;
    bool pixels; /**< the engine takes raw pixels */
    int channels, height, width;
    uint8_t *hwc;
    float *nchw;
    size_t n_outputs;
    net_output *outputs;
    void **raw_outputs; /**< engine outputs as bb_context_run writes them */
    char *labels_text;
    size_t n_labels;
    const char **labels;
} cli_net;

/** True where the name ends in .onnx or .onnx.gz. */
bool net_is_onnx(const char *path);
/** Loads config and labels for a model path (.onnx: beside it) into text; see net.c. */
bb_status net_load_config(const char *model_path, const char *config_path, bb_config **config,
                          bb_error *err);
/** Reads the config's class names; *text stays NULL where there are none. Release with free(). */
bb_status net_read_labels(const bb_config *config, char **text, bb_error *err);

/** Loads a .bbm and finds the profile with these bits (0 = any). *model is NULL on failure. */
bb_status net_load_model(const char *path, size_t weight_bits, size_t activation_bits,
                         bb_model **model, size_t *profile, bb_error *err);

bb_status net_open(const char *path, const net_options *options, cli_net *net, bb_error *err);
void net_close(cli_net *net);
/** UNSUPPORTED, naming `path`, where the task is not classification. */
bb_status net_check_classifier(const cli_net *net, const char *path, bb_error *err);
/** The best classes by the last run's scores, best first: *n of them, at most `most`, at least 1.
 */
bb_status net_classify(const cli_net *net, size_t most, size_t *classes, size_t *n, bb_error *err);
/** Runs one image; results in net->outputs. */
bb_status net_run(cli_net *net, const bb_image *image, bb_error *err);
/** Runs on whatever net->nchw (or net->hwc) holds now: what `bench` times. */
bb_status net_run_prepared(cli_net *net, bb_error *err);
/** Made-up pixels as the input, the same for the same seed. */
void net_fill_random(cli_net *net, uint32_t seed);
/** The class names, newline-separated, or NULL where there are none. Release with free(). */
bb_status net_labels_text(const cli_net *net, char **text, bb_error *err);
/** "w4a4" or "float". */
const char *net_bits(const cli_net *net);
/** Share of the MACs in integer layers, in percent. */
double net_integer_share(const cli_net *net);

#endif
