/* SPDX-License-Identifier: Apache-2.0 */
/** @file vision.h  Images, the task config, decoders, metrics, drawing (libbitbranch-tools). */
#ifndef BITBRANCH_VISION_H
#define BITBRANCH_VISION_H

#include "bitbranch/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** 8-bit image, rows top to bottom, channels interleaved: 1 = grey, 3 = RGB. */
typedef struct bb_image {
    int width, height, channels;
    uint8_t *pixels; /**< owned; bb_image_free */
} bb_image;

/** JPEG (accurate IDCT, smooth upsampling), PNG, PPM/PGM, by content. Grey stays 1 channel. */
BB_API bb_status bb_image_read(const char *path, bb_image *image, bb_error *err);
/** By the name's ending: .png, .ppm or .jpg. */
BB_API bb_status bb_image_write(const char *path, const bb_image *image, bb_error *err);
BB_API void bb_image_free(bb_image *image);

typedef enum bb_task { BB_TASK_CLASSIFY, BB_TASK_DETECT, BB_TASK_SEGMENT, BB_TASK_TENSOR } bb_task;

/** Task config of one model (docs/config.md), parsed and checked; immutable, shareable between
 *  threads. */
typedef struct bb_config bb_config;
/** json: the text; name: of its file, for messages and for what lies beside it. */
BB_API bb_status bb_config_parse(const char *json, const char *name, bb_config **config,
                                 bb_error *err);
BB_API bb_status bb_config_load(const char *path, bb_config **config, bb_error *err);
BB_API void bb_config_destroy(bb_config *config); /**< NULL is fine */
BB_API bb_task bb_config_task(const bb_config *config);
/** The JSON text it came from, for storing in a model. */
BB_API const char *bb_config_json(const bb_config *config);
/** Path of labels_file beside the config, or NULL. */
BB_API const char *bb_config_labels_file(const bb_config *config);
/** Reads labels_file: class names, one a line, without the first drop_first lines, so that line k
 *  is class k. NULL where the config names no file. Release with bb_text_free. */
BB_API bb_status bb_config_read_labels(const bb_config *config, char **labels, bb_error *err);
BB_API void bb_text_free(char *text); /**< NULL is fine */
/** channels, height, width of the tensor the network takes. */
BB_API void bb_config_input(const bb_config *config, int *channels, int *height, int *width);
/** value = (pixel*scale - mean[c]) / std[c]; *exact_pixels is 1 where that is all there is (no
 *  round_levels, no fractional fill), so a model may take the pixels themselves. */
BB_API void bb_config_normalization(const bb_config *config, float *scale, float mean[4],
                                    float std[4], int *exact_pixels);
/** 1 where round_levels is given: value = clip(round(value*scale), min, max)/scale; else 0. */
BB_API int bb_config_levels(const bb_config *config, float *scale, float *min, float *max);
/** Resizes, crops or letterboxes to the input size and orders channels: height x width x channels
 *  8-bit pixels (bb_config_input). */
BB_API bb_status bb_config_pixels(const bb_config *config, const bb_image *image, uint8_t *hwc,
                                  bb_error *err);
/** As above, then normalised to the f32 NCHW tensor. */
BB_API bb_status bb_config_tensor(const bb_config *config, const bb_image *image, float *nchw,
                                  bb_error *err);
/** Pixels (as bb_config_pixels gives them) to the f32 NCHW tensor. */
BB_API void bb_config_normalize(const bb_config *config, const uint8_t *hwc, float *nchw);

/** The k best classes of n scores, best first, ties to the lower index, after drop_first; k is at
 *  most bb_classify_count. */
BB_API void bb_classify_top(const bb_config *config, const float *scores, size_t n, size_t k,
                            size_t *classes);

/** Number of classes among n scores (drop_first leaves some out), and the score of a class. */
BB_API size_t bb_classify_count(const bb_config *config, size_t n);
BB_API float bb_classify_score(const bb_config *config, const float *scores, size_t class_index);

/** Decisions counted image by image; zero-initialise. Unlabelled images (label < 0) count as wrong.
 */
typedef struct bb_accuracy {
    size_t images, top1, top5;
} bb_accuracy;
/** classes: the n best classes, best first (bb_classify_top). */
BB_API void bb_accuracy_add(bb_accuracy *counts, const size_t *classes, size_t n, int label);

/** A network beside a reference network on the same images; zero-initialise. */
typedef struct bb_paired {
    size_t images, reference_top1;
    size_t changed; /**< another decision than the reference, right or wrong */
    size_t gained;  /**< right where the reference is wrong */
    size_t lost;    /**< wrong where the reference is right */
} bb_paired;
BB_API void bb_paired_add(bb_paired *counts, size_t decision, size_t reference, int label);
/** Accuracy minus the reference's, in points (percent). */
BB_API double bb_paired_difference(const bb_paired *counts);
/** Standard error of that difference, in points. Much smaller than that of two separate sets of
 *  images, since most decisions agree. */
BB_API double bb_paired_error(const bb_paired *counts);

/** Draws n classified images with captions as one picture; good[i]: 1 right, 0 wrong, -1 unknown.
 */
BB_API bb_status bb_draw_sheet(const bb_image *images, const char *const *captions, const int *good,
                               size_t n, bb_image *sheet, bb_error *err);

#ifdef __cplusplus
}
#endif
#endif
