/* SPDX-License-Identifier: Apache-2.0 */
/** @file quantize.h  Graph -> model: post-training quantization, or lossless import of low-bit
 *  graphs (libbitbranch-tools). */
#ifndef BITBRANCH_QUANTIZE_H
#define BITBRANCH_QUANTIZE_H

#include "bitbranch/import.h"
#include "bitbranch/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/** K and M of one layer or profile, 1..8. */
typedef struct bb_bits {
    uint32_t weight, activation;
} bb_bits;

typedef struct bb_layer_bits {
    const char *layer; /**< node name, or a glob with '*' */
    bb_bits bits;
} bb_layer_bits;

typedef enum bb_effort { BB_EFFORT_FAST, BB_EFFORT_DEFAULT, BB_EFFORT_BEST } bb_effort;

typedef struct bb_quantize_options {
    size_t struct_size;
    const bb_bits *profiles; /**< at least one; the first is the default profile */
    size_t n_profiles;
    bb_bits first_last;          /**< default w8a8 */
    int first_last_float;        /**< keep them float instead */
    const bb_layer_bits *layers; /**< overrides, later ones win */
    size_t n_layers;
    uint32_t residual_bits; /**< 8..16, default 8 */
    /** Sizes of the input, in its own order, for those that the graph leaves open; below 1: none
     *  given. The first is not read: images are taken one at a time. Nor does bb_import_quantized
     *  read any. */
    int64_t input_dims[4];
    bb_effort effort;
    uint64_t seed;
    size_t threads;                   /**< results do not depend on it, but for BB_EFFORT_BEST */
    const char *config_json, *labels; /**< travel inside the file; NULL = none */
    /** Input meaning: value = (pixel*scale - mean[c])/std[c]; with `pixels` set the model takes raw
     *  8-bit pixels and mean/std are folded into the first layer. */
    int pixels;
    float pixel_scale, mean[4], std[4];
    /** Otherwise, with `round_levels` set, the input holds only the values k/levels_scale, k
     * integer in levels_min..levels_max (at most 256 of them), and becomes 8-bit codes exactly. */
    int round_levels;
    float levels_scale, levels_min, levels_max;
    bb_progress_fn progress;
    void *progress_user;
} bb_quantize_options;
BB_API void bb_quantize_options_init(bb_quantize_options *options);

/**
 * Calibration images: fills `input` with the f32 NCHW tensor of image `index` (0..count-1),
 * batch 1. Must give the same data for the same index. Return 0, or non-zero to cancel.
 */
typedef int (*bb_calibration_fn)(void *user, size_t index, float *input);

/** Per-layer outcome of quantization, also what --dry-run prints. */
typedef struct bb_quantize_row {
    const char *layer, *kind; /**< kind: as in bb_layer_info; of float nodes the operator */
    bb_bits bits;             /**< 0/0 for float nodes */
    uint64_t macs, parameters, bytes;
    float sqnr_db;    /**< of the layer's output on calibration data; NAN in a dry run */
    const char *note; /**< why float, or NULL */
} bb_quantize_row;

/** Stages of BB_EFFORT_BEST. */
enum { BB_TUNE_SOLVED, BB_TUNE_RECONSTRUCTED, BB_TUNE_DISTILLED, BB_TUNE_STAGES };

typedef struct bb_quantize_report {
    size_t n_rows;
    bb_quantize_row *rows; /**< of the first profile */
    uint64_t float32_bytes, estimated_bytes, macs, integer_macs;
    /** BB_EFFORT_BEST: calibration images held back to judge the training (0: none, nothing was
     *  judged), and the divergence of the outputs from the float network's on them after each
     *  stage. A stage that did not lower it was undone. */
    size_t judged_images;
    double divergence[BB_TUNE_STAGES];
    void *storage;
} bb_quantize_report;
/** Also of a zero-initialised report. */
BB_API void bb_quantize_report_free(bb_quantize_report *report);

/** Quantizes at options->profiles. One call at a time in a process: it sets how many threads
 *  OpenBLAS uses while it runs. The same input gives the same bytes at any thread count
 *  (BB_EFFORT_BEST: at the same thread count, on processors that both have or lack
 *  AVX512-BF16). report may be NULL. */
BB_API bb_status bb_quantize(const bb_graph *graph, const bb_quantize_options *options,
                             bb_calibration_fn calibration, void *user, size_t count,
                             bb_model **model, bb_quantize_report *report, bb_error *err);
/** What bb_quantize would do, without calibration data. */
BB_API bb_status bb_quantize_plan(const bb_graph *graph, const bb_quantize_options *options,
                                  bb_quantize_report *report, bb_error *err);

/** Lossless: a graph that carries its own quantizers (QDQ, QLinear, QONNX) becomes a model with
 *  the same codes. Uses config, labels, pixels, seed and progress of the options. */
BB_API bb_status bb_import_quantized(const bb_graph *graph, const bb_quantize_options *options,
                                     bb_model **model, bb_error *err);

#ifdef __cplusplus
}
#endif
#endif
