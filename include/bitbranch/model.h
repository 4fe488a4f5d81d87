/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file model.h
 * The integer network as a file (.bbm) and what can be asked of it.
 *
 * A bb_model is immutable after loading and may be shared by threads.
 */
#ifndef BITBRANCH_MODEL_H
#define BITBRANCH_MODEL_H

#include "bitbranch/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bb_model bb_model;

/** Maps and checks a .bbm file. Release with bb_model_destroy. */
BB_API bb_status bb_model_load(const char *path, bb_model **model, bb_error *err);
/** The same from memory, which is copied. */
BB_API bb_status bb_model_load_buffer(const void *data, size_t size, bb_model **model,
                                      bb_error *err);
/** Writes the file under a temporary name and renames it. */
BB_API bb_status bb_model_save(const bb_model *model, const char *path, bb_error *err);
BB_API void bb_model_destroy(bb_model *model); /**< NULL is fine */

/** Sizes and counts. `struct_size` is set by bb_model_info_init. */
typedef struct bb_model_info {
    size_t struct_size;
    const char *name;
    size_t layers; /**< nodes */
    size_t profiles, inputs, outputs;
    uint64_t file_bytes;     /**< serialised size */
    uint64_t plane_bytes;    /**< weight bit planes */
    uint64_t constant_bytes; /**< requantizers, offsets, float tables */
    uint64_t other_bytes;    /**< structure, names, labels, config, alignment */
    uint64_t float32_bytes;  /**< parameters of the source network at float32 */
    uint64_t macs;           /**< multiply-accumulates per image at the file's input size; 0
                                  where the file leaves the size open */
    uint64_t integer_macs;   /**< of these, in integer layers */
    const char *config_json; /**< task config or NULL; lives as long as the model */
    const char *labels;      /**< newline-separated class names or NULL */
} bb_model_info;
BB_API void bb_model_info_init(bb_model_info *info);
/** Strings live as long as the model. */
BB_API bb_status bb_model_get_info(const bb_model *model, bb_model_info *info, bb_error *err);

/** One choice of bits that the file can run at. */
typedef struct bb_profile_info {
    const char *name; /**< "w4a4" */
    uint32_t weight_bits, activation_bits;
} bb_profile_info;
/** NOT_FOUND where index is not below bb_model_info.profiles. Profile 0 is the default. */
BB_API bb_status bb_model_get_profile(const bb_model *model, size_t index, bb_profile_info *info,
                                      bb_error *err);
/** Index of the profile with these bits (0 = any); NOT_FOUND lists those present. */
BB_API bb_status bb_model_select_profile(const bb_model *model, uint32_t weight_bits,
                                         uint32_t activation_bits, size_t *index, bb_error *err);

/** One node at one profile, for reports. Strings live as long as the model. */
typedef struct bb_layer_info {
    const char *name;
    const char *kind; /**< "conv", "depthwise", "fully_connected", "add", "float softmax", ... */
    uint32_t weight_bits; /**< K, 0 for nodes without weights */
    uint32_t input_bits;  /**< M of input 0, 32 for float */
    uint32_t output_bits; /**< of output 0, 32 for float */
    int32_t out_dims[4];  /**< N, H, W, C at the file's input size; 0 where it is open */
    int32_t kernel[2];
    uint64_t macs, bops;      /**< BOPs = macs * M * K */
    uint64_t weight_bytes;    /**< planes used by this profile */
    const char *float_reason; /**< why it stayed float, or NULL */
} bb_layer_info;
/** profile, layer: counted from 0; NOT_FOUND beyond bb_model_info.profiles and .layers. */
BB_API bb_status bb_model_get_layer(const bb_model *model, size_t profile, size_t layer,
                                    bb_layer_info *info, bb_error *err);

/** A new model with one profile and only the planes its layers use. */
BB_API bb_status bb_model_truncate(const bb_model *model, size_t profile, bb_model **result,
                                   bb_error *err);

#ifdef __cplusplus
}
#endif
#endif
