/* SPDX-License-Identifier: Apache-2.0 */
/** @file dataset.h  Labelled images in public layouts, recognised by what lies in the folder
 *  (libbitbranch-tools). */
#ifndef BITBRANCH_DATASET_H
#define BITBRANCH_DATASET_H

#include "bitbranch/vision.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct bb_dataset bb_dataset;

typedef struct bb_dataset_options {
    size_t struct_size;
    const char *split; /**< NULL: `val`, else `test`; for calibration `train` */
    int calibration;   /**< choose the split for calibration, shuffle with `seed` */
    uint64_t seed;
    size_t limit; /**< 0 = all */
    /** Newline-separated class names that give folders their class index (whole name or first
     *  word); NULL = folders in sorted order. */
    const char *labels;
} bb_dataset_options;
BB_API void bb_dataset_options_init(bb_dataset_options *options);

/** path: ImageFolder, "file label" list, IDX (.gz or not), CIFAR .bin, or one image. An unknown
 *  split is NOT_FOUND and lists those present. */
BB_API bb_status bb_dataset_open(const char *path, const bb_dataset_options *options,
                                 bb_dataset **dataset, bb_error *err);
BB_API void bb_dataset_destroy(bb_dataset *dataset);
BB_API size_t bb_dataset_size(const bb_dataset *dataset);
/** Kind of layout found ("image folder", "idx", ...), split in use and its file or folder, for
 *  reports and for the leak check. */
BB_API const char *bb_dataset_kind(const bb_dataset *dataset);
BB_API const char *bb_dataset_split(const bb_dataset *dataset);
BB_API const char *bb_dataset_source(const bb_dataset *dataset);
/** Reads image i and its class (-1 = unlabelled). Safe from several threads. */
BB_API bb_status bb_dataset_image(const bb_dataset *dataset, size_t i, bb_image *image,
                                  bb_error *err);
BB_API int bb_dataset_label(const bb_dataset *dataset, size_t i);
/** A name for image i, for tables: file name or "source[i]". Lives as long as the dataset. */
BB_API const char *bb_dataset_name(const bb_dataset *dataset, size_t i);

#ifdef __cplusplus
}
#endif
#endif
