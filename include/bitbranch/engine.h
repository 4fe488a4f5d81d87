/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file engine.h
 * Running a model. An engine (immutable, shareable between threads) binds a model to one profile,
 * one input shape and one instruction set; a context holds the buffers of one run at a time.
 *
 * Results are the same bits for every instruction set, kernel and thread count.
 */
#ifndef BITBRANCH_ENGINE_H
#define BITBRANCH_ENGINE_H

#include "bitbranch/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bb_engine bb_engine;
typedef struct bb_context bb_context;

typedef struct bb_engine_options {
    size_t struct_size;
    size_t threads;     /**< 0 = one */
    const char *cpu;    /**< "ref", "avx2", ... limits the instruction set; NULL = best */
    const char *kernel; /**< kernel to use wherever it supports the layer; NULL = chooser */
    size_t profile;     /**< index in the model */
    /** N, H, W, C of input 0; 0 = what the file says, N then 1. N also of other inputs whose batch
     *  the file leaves open. */
    int32_t input_dims[4];
    /** 1: worker threads sleep whenever they have nothing to do, and run on whichever processor
     *  the system puts them. Else they watch for work during a run (and 50 microseconds after
     *  it), off the caller's processor. Environment variable BITBRANCH_PASSIVE=1: the same. */
    int passive;
    /** 1: at creation every convolution kernel that may be the fastest is measured on each layer
     *  (milliseconds a layer) and the fastest is used, unless `kernel` says which. */
    int tune;
    /** Bytes that packed weights may take, as far as there are kernels that need so little; 0 =
     *  3 times the bit planes of layers of one or two bits and 4 times those of the others, but at
     *  least 4 MiB. SIZE_MAX = no limit. */
    size_t packed_limit;
} bb_engine_options;
BB_API void bb_engine_options_init(bb_engine_options *options);

/** Plans the run: chooses kernels and packs weights. options NULL = the defaults. The model must
 *  outlive the engine. */
BB_API bb_status bb_engine_create(const bb_model *model, const bb_engine_options *options,
                                  bb_engine **engine, bb_error *err);
BB_API void bb_engine_destroy(bb_engine *engine); /**< NULL is fine */

typedef enum bb_element_type {
    BB_TYPE_U8 = 1,  /**< codes of up to 8 bits, or pixels */
    BB_TYPE_U16 = 2, /**< codes of 9..16 bits */
    BB_TYPE_F32 = 3
} bb_element_type;

typedef enum bb_layout { BB_LAYOUT_NHWC = 1, BB_LAYOUT_NCHW = 2, BB_LAYOUT_NC = 3 } bb_layout;

/** A tensor at the boundary. Real value of code u: scale * ((2u - (2^bits-1)) - a0). */
typedef struct bb_tensor_desc {
    const char *name;
    bb_element_type type;
    bb_layout layout; /**< order of `dims` */
    int32_t dims[4];
    size_t n_dims;
    uint32_t bits; /**< 0 for F32 */
    float scale;
    int32_t a0;
    size_t bytes; /**< of the whole tensor */
} bb_tensor_desc;
/** Numbers of inputs and outputs, and what each must look like; NOT_FOUND beyond them. */
BB_API size_t bb_engine_inputs(const bb_engine *engine);
BB_API size_t bb_engine_outputs(const bb_engine *engine);
BB_API bb_status bb_engine_input(const bb_engine *engine, size_t i, bb_tensor_desc *desc,
                                 bb_error *err);
BB_API bb_status bb_engine_output(const bb_engine *engine, size_t i, bb_tensor_desc *desc,
                                  bb_error *err);

typedef struct bb_engine_memory {
    size_t engine_bytes;  /**< packed weights and constants */
    size_t context_bytes; /**< activations and scratch, per context */
} bb_engine_memory;
BB_API void bb_engine_get_memory(const bb_engine *engine, bb_engine_memory *memory);

/** One kernel measured by bb_engine_options.tune: the least time of one task of the layer. */
typedef struct bb_kernel_time {
    const char *kernel;
    uint64_t ns;
} bb_kernel_time;

/** What the plan chose for one node. */
typedef struct bb_plan_info {
    const char *name;   /**< node */
    const char *kernel; /**< kernel name, or NULL where the node has none */
    uint64_t macs;
    size_t n_tuned;              /**< 0 where nothing was measured */
    const bb_kernel_time *tuned; /**< fastest first; lives as long as the engine */
} bb_plan_info;
/** node: 0..bb_model_info.layers-1, else NOT_FOUND. */
BB_API bb_status bb_engine_get_plan(const bb_engine *engine, size_t node, bb_plan_info *info,
                                    bb_error *err);
/** Flags in use, e.g. "avx2 ssse3". */
BB_API const char *bb_engine_cpu(const bb_engine *engine);

/** One per concurrent caller; owns its worker threads. The engine must outlive it. A context is
 * used by one thread at a time, which need not be the one that created it. */
BB_API bb_status bb_context_create(const bb_engine *engine, bb_context **context, bb_error *err);
BB_API void bb_context_destroy(bb_context *context); /**< NULL is fine */

/**
 * Runs once; allocates nothing. inputs[i] and outputs[i] point to bb_tensor_desc.bytes bytes laid
 * out as bb_engine_input/output say; outputs must not overlap inputs, and after an error what they
 * hold is undefined. An input given as F32 NCHW: see bb_context_run_f32.
 */
BB_API bb_status bb_context_run(bb_context *context, const void *const *inputs,
                                void *const *outputs, bb_error *err);
/** As bb_context_run, with real-valued f32 NCHW (or NC) inputs, quantized on the way in, and f32
 *  NCHW outputs, dequantized on the way out. */
BB_API bb_status bb_context_run_f32(bb_context *context, const float *const *inputs,
                                    float *const *outputs, bb_error *err);

/** What a tap sees: every tensor a node writes. For CONV also the accumulators P. */
typedef struct bb_tap_event {
    size_t node;
    const char *node_name;
    const char *tensor_name;
    bb_element_type type;        /**< of data */
    int32_t dims[4];             /**< N, H, W, C */
    const void *data;            /**< codes or floats, NHWC */
    const int32_t *accumulators; /**< P [N][H][W][C] of a CONV node, else NULL */
    uint32_t bits;
    float scale;
    int32_t a0;
} bb_tap_event;
/** Called in the thread that runs the context, in the order of the nodes. A batch too large for the
 *  caches is run in parts, each with its own events. */
typedef void (*bb_tap_fn)(void *user, const bb_tap_event *event);
/** fn NULL switches it off. With a tap set, runs are slower and use more memory, which is allocated
 *  here. */
BB_API bb_status bb_context_set_tap(bb_context *context, bb_tap_fn fn, void *user, bb_error *err);

/** Nanoseconds spent in each node by the last run, one entry for each of bb_model_info.layers;
 * zeros before the first run and without timing, which costs two clock reads a node and is off
 * until enabled. */
BB_API void bb_context_enable_timing(bb_context *context, int enabled);
BB_API const uint64_t *bb_context_node_ns(const bb_context *context);

#ifdef __cplusplus
}
#endif
#endif
