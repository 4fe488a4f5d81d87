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
#include <stdbool.h>

typedef struct net_options {
    const char *config; /**< path, or NULL: the one in the .bbm, or NAME.json beside NAME.onnx */
    size_t weight_bits, activation_bits; /**< 0 = the default profile */
    size_t threads;
    const char *cpu, *kernel; /**< limits for the engine, or NULL */
    bool tune;                /**< measure kernels first */
} net_options;

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

bb_status net_open(const char *path, const net_options *options, cli_net *net, bb_error *err);
void net_close(cli_net *net);
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
