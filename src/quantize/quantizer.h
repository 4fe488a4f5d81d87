/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file quantizer.h
 * The state of one bb_quantize call and the stages that fill it, in this order: assign (bits and
 * grids wanted), calibrate (one float pass), then block by block in topological order: solve the
 * weights against what the blocks before really produce, and simulate the block.
 */
#ifndef BB_QUANTIZE_QUANTIZER_H
#define BB_QUANTIZE_QUANTIZER_H

#include "base/pool.h"
#include "bitbranch/quantize.h"
#include "lower/lower.h"
#include "nn/executor.h"
#include "quantize/histogram.h"
#include "quantize/solve.h"

enum { BB_QUANTIZE_MAX_PROFILES = BB_SOLVE_MAX_PROFILES };

/** Values joined by code-preserving blocks: they share bits, steps and zero points. */
typedef struct bb_value_class {
    int n;                       /**< grids wanted by the readers */
    uint8_t *bits[BB_MAX_GRIDS]; /**< [n_profiles] each */
    float lo, hi;                /**< what the activations that make these values clamp to */
    bool fixed;                  /**< the graph's input on a grid that is given */
    bb_histogram *seen;          /**< of all values that readers read */
} bb_value_class;

/** What calibration keeps of one CONV block. */
typedef struct bb_target {
    bb_conv_shape shape;
    size_t pixels;  /**< output positions of one image */
    size_t samples; /**< of these, per image */
    float *y;       /**< [images][samples][rows*groups]: float results before the activation */
} bb_target;

/** Activations of one value in one profile, for all simulated images. */
typedef struct bb_stored {
    int n;                     /**< grids; 0 with `real` NULL: not stored */
    void *codes[BB_MAX_GRIDS]; /**< [images][elements], 1 byte up to 8 bits, else 2 */
    float *real;               /**< where the value is float */
} bb_stored;

typedef struct bb_quantization {
    const bb_quantize_options *options;
    bb_graph *graph; /**< prepared private copy */
    bb_block_plan plan;
    bb_arena *arena;
    bb_pool *pool;
    size_t threads;
    bb_calibration_fn calibration;
    void *user;
    size_t count;  /**< calibration images */
    size_t held;   /**< images behind these that only judge what training does */
    size_t images; /**< of these, simulated */
    size_t n_profiles;

    bb_bits *bits;  /**< [plan.n][n_profiles]; 0/0 where not CONV */
    int *class_of;  /**< [n_values], -1: a constant or a value within a block */
    bool *observed; /**< [n_values]: goes into its class's histogram */
    bb_value_class *classes;
    size_t n_classes;
    int *block_of;              /**< [n_values]: block that makes it, or -1 */
    int *last_reader;           /**< [n_values]: last block that reads it, or -1 */
    bool *simulated;            /**< [plan.n]: some CONV block depends on it */
    bb_target *targets;         /**< [plan.n]; used where CONV */
    bb_block_codes *codes;      /**< [plan.n] */
    bb_profile_quant *profiles; /**< [n_profiles] */
    bb_stored *stored;          /**< [n_profiles][n_values] */
    uint16_t **reference;       /**< [n_values]: [images][elements] bfloat16 of the float network */
    float *sqnr;                /**< [plan.n], first profile */
    float *rms;                 /**< [plan.n]: of the float results before the activation */
    size_t steps, steps_done;   /**< for progress */
    double divergence[BB_TUNE_STAGES]; /**< for the report */
} bb_quantization;

/* ---- quantize.c: begin and end --------------------------------------------------------------- */

/** Prepares a private copy of the graph and decides all that needs no data. Close it in any case.
 */
bb_status bb_quantize_open(bb_quantization *q, const bb_graph *graph,
                           const bb_quantize_options *options, bb_error *err);
void bb_quantize_close(bb_quantization *q);
/** Solves and simulates all blocks, in order. */
bb_status bb_quantize_blocks(bb_quantization *q, bb_error *err);

/* ---- assign.c: decisions that need no data --------------------------------------------------- */

/** '*' in the pattern stands for any characters; everything else for itself. */
bool bb_name_matches(const char *pattern, const char *name);
bb_status bb_quantize_assign(bb_quantization *q, bb_error *err);
static inline bb_bits bb_quantize_bits(const bb_quantization *q, size_t block, size_t profile) {
    return q->bits[block * q->n_profiles + profile];
}
/** True where the block's output holds codes of its inputs, so all share one grid. */
bool bb_quantize_passes_codes(const bb_block *block);
/** Elements of a value for one image. */
size_t bb_quantize_elements(const bb_quantization *q, int value);
/** True for the input of raw pixels, whose mean and std go into the first layer. */
bool bb_quantize_is_pixels(const bb_quantization *q, int value);

/* ---- equalize.c: the same network with channels of more equal range -------------------------- */

/** Rewrites weights of pairs of layers. `changed`: values were added, so assign anew. */
bb_status bb_quantize_equalize(bb_quantization *q, bool *changed, bb_error *err);

/* ---- images.c -------------------------------------------------------------------------------- */

/** Another image out of one, as many floats: a random part stretched to its size (sides below 96:
 *  moved by up to 1/16 of them), every other time mirrored. Vectors stay as they are. */
void bb_quantize_move_image(const bb_quantization *q, const float *from, bb_rng *rng, float *to);

/* ---- calibrate.c: the float pass ------------------------------------------------------------- */

/** Fills histograms, grids, targets, and the stored codes of the graph's input. */
bb_status bb_quantize_calibrate(bb_quantization *q, bb_error *err);
/** Adds to seen[n_classes] what the calibration images show when they run through `graph`, which
 *  computes q->graph's values under the same numbers. */
bb_status bb_quantize_observe(bb_quantization *q, const bb_graph *graph, bb_histogram *seen,
                              bb_error *err);
/** Output position of sample k of an image in a block; seeded, spread over the image. */
size_t bb_quantize_position(const bb_quantization *q, size_t block, size_t image, size_t k);

/* ---- store.c: activations of the simulated network ------------------------------------------- */

static inline bb_stored *bb_quantize_stored(const bb_quantization *q, size_t profile, int value) {
    return &q->stored[profile * q->graph->n_values + (size_t)value];
}
bb_status bb_store_create(bb_quantization *q, size_t profile, int value, bb_error *err);
void bb_store_free(bb_quantization *q, size_t profile, int value);
/** Real values of one image, as float layers take them: normalised where the value is pixels. */
void bb_store_read(const bb_quantization *q, size_t profile, int value, int grid, size_t image,
                   float *x);
/** Rounds one image to all grids of the value, or keeps it where it is float. */
void bb_store_write(const bb_quantization *q, size_t profile, int value, size_t image,
                    const float *x);
/** Codes of one grid as floats, and back. */
void bb_store_read_codes(const bb_quantization *q, size_t profile, int value, int grid,
                         size_t image, float *u);
void bb_store_write_codes(const bb_quantization *q, size_t profile, int value, int grid,
                          size_t image, const float *u);

/* ---- subgraph.c: one block as a graph of its own --------------------------------------------- */

/** The block's nodes with its inputs (n_in of them) as graph inputs. */
bb_status bb_subgraph_of_block(const bb_quantization *q, const bb_block *block, bb_graph **graph,
                               bb_error *err);
/** The block's Conv or Gemm alone, without bias, with other weights (in model order; copied). */
bb_status bb_subgraph_of_conv(const bb_quantization *q, size_t block, const float *weights,
                              bb_graph **graph, bb_error *err);
/** columns[j] = position, in the data a Gemm reads, of column j in model order; NULL where both
 *  orders are the same. Release with bb_free. */
bb_status bb_subgraph_columns(const bb_quantization *q, const bb_block *block, uint32_t **columns,
                              bb_error *err);

/** Weights of a CONV block from model order to that of the graph's operator, and back. */
bb_status bb_subgraph_to_operator(const bb_quantization *q, size_t block, const float *from,
                                  float *to, bb_error *err);
bb_status bb_subgraph_to_model(const bb_quantization *q, size_t block, const float *from, float *to,
                               bb_error *err);

/** The block's first n_in inputs, which lie one after the other in `data`, as the subgraph takes
 *  them: without repetition. Returns their number. */
size_t bb_subgraph_list_inputs(const bb_quantization *q, const bb_block *block, int n_in,
                               float *data, bb_array *arrays);

/** One executor per worker for the same graph. */
typedef struct bb_runners {
    size_t n;
    bb_executor **executors;
} bb_runners;
bb_status bb_runners_create(bb_runners *runners, const bb_graph *graph, const int *tapped,
                            size_t n_tapped, size_t n, bb_error *err);
void bb_runners_destroy(bb_runners *runners);

/* ---- layer.c, simulate.c: one block ---------------------------------------------------------- */

/** Solves a CONV block in all profiles. */
bb_status bb_quantize_layer(bb_quantization *q, size_t block, bb_error *err);
/** Weights of a block that reads raw pixels: w*scale/std, so that w.((p*scale-mean)/std) =
 *  w'.(p - mean/scale). Nothing to do for other blocks. */
void bb_quantize_weights_for_pixels(const bb_quantization *q, size_t block, float *weights);
/** tap_bias of such a block from its codes and scales. */
bb_status bb_quantize_fold_mean(bb_quantization *q, size_t block, size_t profile, bb_error *err);
/** Computes a block's stored output from its stored inputs in one profile. */
bb_status bb_quantize_simulate(bb_quantization *q, size_t block, size_t profile, bb_error *err);

/** weights[row][tap][depth] = scale * level of a solved block, in the units of the float network's
 *  input; bb_free. NULL when out of memory. */
float *bb_quantize_real_weights(const bb_quantization *q, size_t block, size_t profile);

/* ---- reference.c: activations of the float network beside the simulated ones ----------------- */

/** True where a layer is solved for mixed inputs: best effort, few activation bits. */
bool bb_reference_mixes(const bb_quantization *q, size_t block);
/** True where some layer is. */
bool bb_reference_wanted(const bb_quantization *q);
/** Keeps the block's float output of all images, where a later block reads it. */
bb_status bb_reference_run(bb_quantization *q, size_t block, bb_error *err);
void bb_reference_read(const bb_quantization *q, int value, size_t image, float *x);
void bb_reference_free(bb_quantization *q, int value);
/** Elementwise half from either; x may be one of them. */
void bb_reference_mix(bb_rng *rng, const float *a, const float *b, float *x, size_t n);

/* ---- report.c -------------------------------------------------------------------------------- */

bb_status bb_quantize_fill_report(const bb_quantization *q, bb_quantize_report *report,
                                  bb_error *err);

/** Tells the caller how far the work is; CANCELLED where it wants no more. */
bb_status bb_quantize_progress(bb_quantization *q, const char *stage, size_t done, size_t total,
                               bb_error *err);

#endif
