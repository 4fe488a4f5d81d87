/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file internal.h
 * Plan and context of the engine (docs/engine.md tells the whole).
 *
 * The plan is made once per engine and never changes: shapes, a kernel per convolution with its
 * packed weights, border vectors, requantizer tables. A context owns the buffers of one run.
 */
#ifndef BB_ENGINE_INTERNAL_H
#define BB_ENGINE_INTERNAL_H

#include "base/pool.h"
#include "bitbranch/engine.h"
#include "kernels/kernels.h"
#include "kernels/requant.h"
#include "kernels/window.h"
#include "model/model.h"

/** Dimensions in bb_shapes order. */
enum { DIM_N, DIM_H, DIM_W, DIM_C };

/** Bytes around the activation buffer that kernels may read. */
enum { BB_BUFFER_MARGIN = 64 };

typedef struct bb_plan_tensor {
    bb_element type;
    int32_t n, h, w, c;
    size_t row;      /**< elements of one image row, w*c */
    size_t step;     /**< elements from pixel to pixel: c, unless inside a CONCAT's output */
    bool inside;     /**< written by its producer where the CONCAT that reads it wants it */
    bool passes;     /**< from a convolution to max pools, a few rows at a time */
    int32_t top;     /**< L of its codes */
    int32_t zero;    /**< L + a0: a - a0 = 2u - zero */
    uint32_t bits;   /**< 0 for floats */
    size_t offset;   /**< in the context's activation buffer */
    size_t elements; /**< n*h*w*c */
} bb_plan_tensor;

/** One output of a node: its requantizer, chosen and prepared. fn NULL = plain copy. */
typedef struct bb_plan_output {
    int tensor;
    bb_requant_fn fn;
    bb_requant_tables tables;
} bb_plan_output;

/**
 * Border vectors: P = 2*acc + vector of the pixel's class. A class is a set of valid taps, i.e. a
 * range of valid rows crossed with a range of valid columns.
 */
typedef struct bb_border {
    size_t n_row_classes, n_column_classes;
    const uint16_t *row_class;    /**< [out_height] */
    const uint16_t *column_class; /**< [out_width] */
    const int32_t *run_end;       /**< [out_width]: first column from x on of another class */
    const int32_t *vectors;       /**< [row class][column class][padded] */
    bool all_zero;                /**< the vectors hold nothing but zeros */
    size_t padded;
} bb_border;

/** A range of output channels with its own kernel run; several share a small image. */
typedef struct bb_conv_block {
    bb_conv_desc desc;
    const bb_conv_kernel *kernel;
    void *packed; /**< from bb_alloc_aligned */
    int32_t c0;
    size_t n_tuned; /**< kernels that were measured; 0 without tuning */
    bb_kernel_time *tuned;
} bb_conv_block;

/** Max pools that read all outputs of a convolution: a task makes rows of theirs. */
typedef struct bb_conv_pool {
    const bb_geometry *geometry;
    int32_t out_height;
    int32_t strip;                   /**< pooled rows of one task */
    int32_t rows;                    /**< convolved rows kept at a time */
    size_t bytes;                    /**< of scratch, in front of the kernel's */
    size_t line_bytes;               /**< of it, in front, for bb_pool_rows */
    int tensor[BB_MAX_NODE_OUTPUTS]; /**< pooled output i */
} bb_conv_pool;

/** Scratch for the convolved rows of one output. Whole cache lines: the next output's elements may
 *  be wider than this one's. */
static inline size_t bb_pool_rows_bytes(const bb_conv_pool *pool, size_t row_bytes) {
    return ((size_t)pool->rows * row_bytes + 63) / 64 * 64;
}

typedef struct bb_conv_plan {
    size_t n_blocks;
    bb_conv_block *blocks;
    bb_border border;
    int32_t strip;      /**< output rows of one task */
    int32_t images;     /**< convolved one by one; a pointwise layer takes a batch as one image */
    bb_conv_pool *pool; /**< NULL: outputs are tensors */
} bb_conv_plan;

typedef struct bb_plan_node bb_plan_node;
typedef void (*bb_node_fn)(bb_context *context, const bb_plan_node *plan);

struct bb_plan_node {
    const bb_model_node *node;
    bb_node_fn run;
    uint64_t macs;
    int n_out;
    bb_plan_output out[BB_MAX_NODE_OUTPUTS];
    bb_conv_plan *conv;
    const int32_t *border;    /**< codes in: -zero of input 0 for every channel; MUL: zeros */
    const float *float_table; /**< FLOAT conv weights [tap][input channel][padded output channel] */
    size_t float_padded;      /**< output channels of one group, padded */
};

struct bb_engine {
    const bb_model *model;
    const bb_profile *profile;
    uint32_t cpu;
    char cpu_text[96];
    const char *wanted_kernel;
    size_t threads;
    size_t parts; /**< a batch is run in so many; shapes and tensors are those of one */
    bool tune;
    bool passive; /**< workers sleep between layers */
    bb_shapes shapes;
    size_t activation_bytes; /**< margins excluded */
    size_t passing_bytes;    /**< of tensors that pass, where a tap wants them whole */
    bb_arena *arena;         /**< everything of the plan but packed weights */
    size_t constant_bytes, packed_bytes;
    bb_plan_tensor *tensors;
    bb_plan_node *nodes;
    size_t scratch_bytes;     /**< of one worker, a multiple of 64 */
    size_t accumulator_count; /**< int32 of the largest convolution output */
    size_t tap_copy_bytes;    /**< of the largest tensor inside another */
    const bb_requant_kernels *requant;
    const bb_window_kernels *window;
};

struct bb_context {
    const bb_engine *engine;
    bb_pool *pool;
    uint8_t *buffer; /**< margin, activations, margin */
    uint8_t *activations;
    uint8_t *scratch; /**< threads x engine->scratch_bytes */
    uint64_t *node_ns;
    bool timing;
    bb_tap_fn tap;
    void *tap_user;
    int32_t *accumulators; /**< P of the running convolution; NULL without a tap */
    uint8_t *passing;      /**< tensors that pass, whole, for a tap */
    uint8_t *tap_copy;     /**< tensors inside others, pixel by pixel, for a tap */
};

/* ---- plan.c ---------------------------------------------------------------------------------- */

/** Zeroed memory that lives as long as the engine and counts as its constants. */
void *bb_engine_array(bb_engine *engine, size_t n, size_t size);
/** Makes sure that every worker has this much scratch. */
void bb_engine_need_scratch(bb_engine *engine, size_t bytes);
/** Entries of a channel array that vector kernels may read. */
size_t bb_padded_channels(size_t channels);

/* ---- plan_conv.c, border.c, plan_requant.c --------------------------------------------------- */

bb_status bb_plan_conv(bb_engine *engine, bb_plan_node *plan, bb_error *err);
void bb_conv_plan_release(bb_conv_plan *conv);
/** Packs the blocks that have no packed weights, for their kernels. */
bb_status bb_conv_repack(bb_engine *engine, bb_plan_node *plan, bb_error *err);

/** What border vectors are made of, per output channel. */
typedef struct bb_border_input {
    const bb_conv_desc *desc;
    const int16_t *weights; /**< b + o, [out_channels][taps][depth] */
    const int32_t *tap_add; /**< e[taps][out_channels] or NULL */
    int32_t zero;           /**< L + a0 */
} bb_border_input;
/** The code of padded taps that needs fewest classes. */
uint32_t bb_border_pad_code(int32_t zero, int32_t top);
bb_status bb_border_build(bb_engine *engine, const bb_border_input *in, bb_border *border,
                          bb_error *err);
/** An upper bound of |P|, saturated at 2^31. */
int64_t bb_border_max_p(const bb_border_input *in);

/** How a node feeds its requantizers. */
typedef struct bb_requant_use {
    uint32_t channels;
    int z2_tensor;         /**< -1 = none */
    int64_t max_z1;        /**< bound of |Z1|; 2^31 where not known to be smaller */
    bool averages;         /**< n may differ from 1 */
    const int32_t *border; /**< the same for all elements of a channel, or NULL */
} bb_requant_use;
/** Prepares output `o` of a node from its tensor's requantizer. */
bb_status bb_plan_requant(bb_engine *engine, const bb_requant_use *use, bb_plan_output *out,
                          bb_error *err);

/* ---- tune.c ---------------------------------------------------------------------------------- */

/** Measures every kernel that may be the fastest for tasks of `strip` output rows; the fastest
 *  becomes the block's kernel. weights: b + o of the block's channels. */
bb_status bb_tune_block(bb_engine *engine, const int16_t *weights, int32_t strip,
                        bb_conv_block *block, bb_error *err);

/* ---- budget.c -------------------------------------------------------------------------------- */

/** Exchanges kernels, where packed weights take more than `limit` bytes (0 = a multiple of the bit
 *  planes), for slower ones that need less, those first that lose least for a byte saved. */
bb_status bb_plan_budget(bb_engine *engine, size_t limit, bb_error *err);

/* ---- plan_float.c ---------------------------------------------------------------------------- */

bb_status bb_plan_float(bb_engine *engine, bb_plan_node *plan, bb_error *err);

/* ---- running --------------------------------------------------------------------------------- */

/** Tensors that pass have a place only while a tap is set. */
static inline uint8_t *bb_tensor_data(const bb_context *context, int tensor) {
    const bb_plan_tensor *t = &context->engine->tensors[tensor];
    return (t->passes ? context->passing : context->activations) + t->offset;
}

static inline uint8_t *bb_worker_scratch(const bb_context *context, size_t worker) {
    return context->scratch + worker * context->engine->scratch_bytes;
}

/** Work on rows row0..row1-1 (all images counted through) of one node. */
typedef void (*bb_rows_fn)(const bb_context *context, const bb_plan_node *plan, int32_t row0,
                           int32_t row1, size_t worker);
/** Splits `rows` rows of `row_work` elements each over the workers, with fn on each piece. */
void bb_run_rows(bb_context *context, const bb_plan_node *plan, int32_t rows, size_t row_work,
                 bb_rows_fn fn);

void bb_run_conv(bb_context *context, const bb_plan_node *plan);
void bb_run_elementwise(bb_context *context, const bb_plan_node *plan); /**< ADD, REQUANT */
void bb_run_multiply(bb_context *context, const bb_plan_node *plan);
void bb_run_concat(bb_context *context, const bb_plan_node *plan);
void bb_run_max_pool(bb_context *context, const bb_plan_node *plan);
void bb_run_average_pool(bb_context *context, const bb_plan_node *plan);
void bb_run_gather(bb_context *context, const bb_plan_node *plan);
void bb_run_nothing(bb_context *context, const bb_plan_node *plan); /**< reshapes share memory */
void bb_run_resize(bb_context *context, const bb_plan_node *plan);
void bb_run_quantize(bb_context *context, const bb_plan_node *plan);
void bb_run_float_conv(bb_context *context, const bb_plan_node *plan);
void bb_run_float_pool(bb_context *context, const bb_plan_node *plan);
void bb_run_float_pointwise(bb_context *context, const bb_plan_node *plan);
void bb_run_float_softmax(bb_context *context, const bb_plan_node *plan);

/** The valid taps of one output position along one axis: [first, last) of the kernel's. */
typedef struct bb_tap_range {
    int32_t first, last;
} bb_tap_range;
bb_tap_range bb_valid_taps(int32_t out, int32_t stride, int32_t dilation, int32_t pad,
                           int32_t kernel, int32_t size);
/** A pooling window at one output position along one axis. */
typedef struct bb_pool_span {
    int32_t start;   /**< first valid input position */
    int32_t count;   /**< valid positions, `dilation` apart */
    int32_t divisor; /**< positions an average divides by along this axis */
} bb_pool_span;
bb_pool_span bb_pool_span_at(const bb_geometry *geometry, int axis, int32_t out, int32_t size);

/** Max pooling of rows of `width` pixels, `channels` codes each, side by side. */
typedef struct bb_pool_rows {
    const bb_window_kernels *kernels;
    const bb_geometry *geometry;
    int32_t width, channels, out_width;
    size_t out_step; /**< elements from pixel to pixel */
    bb_element type;
    void *line; /**< scratch for one row */
} bb_pool_rows;
/** One pooled row from n rows of codes, the first at `first` and the others `step` bytes apart. */
void bb_pool_max_row(const bb_pool_rows *pool, const uint8_t *first, size_t step, size_t n,
                     uint8_t *out);

/** u = clamp(floor(x*inv_step + zero + 0.5)) to 0..top in double; not-a-number gives 0. Truncation
 *  is the floor of what is not negative. Without branches, so that loops become vector code. */
static inline uint16_t bb_quantize_value(float x, double inv_step, double zero, int32_t top) {
    double u = (double)x * inv_step + zero + 0.5;
    u = u >= 0.0 ? u : 0.0;
    u = u < (double)top ? u : (double)top;
    return (uint16_t)(int32_t)u;
}
/** The constants of bb_quantize_value for one tensor: u = x / (2 step) + (L + a0) / 2. */
void bb_quantize_constants(float step, int32_t zero, double *inv_step, double *offset);

#endif
