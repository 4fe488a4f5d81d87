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
    /** NULL: `val`, else `test`; for calibration `train`, else `calib`, else whatever there is (the
     *  caller refuses a split that is for evaluation). */
    const char *split;
    int calibration; /**< choose the split for calibration, shuffle with `seed` */
    uint64_t seed;
    /** 0 = all; else this many: spread evenly over the split, or, for calibration, the first ones
     *  after shuffling. */
    size_t limit;
    /** Newline-separated class names that give folders their class index (whole name or first
     *  word), and whose number class indices must not reach; NULL = folders in sorted order. */
    const char *labels;
} bb_dataset_options;
BB_API void bb_dataset_options_init(bb_dataset_options *options);

/**
 * path: a folder in one of these layouts, or one file of it.
 *  - IDX:   {train,t10k,test}-images-idx3-ubyte[.gz] with -labels-idx1-ubyte[.gz] beside it
 *  - CIFAR: data_batch_*.bin, test_batch.bin (CIFAR-10); train.bin, test.bin (CIFAR-100, fine)
 *  - list:  {train,val,test,...}.txt with "file class" lines; files lie beside it or in a folder
 *           named like the list
 *  - image folder: one folder a class, below folders named after splits or directly
 *  - images: a folder of images without labels, or one image
 * A folder without splits (split "all") is used for anything. An unknown split is NOT_FOUND and
 * lists those present. Images are read when asked for; a .gz file is expanded here. options NULL =
 * the defaults.
 */
BB_API bb_status bb_dataset_open(const char *path, const bb_dataset_options *options,
                                 bb_dataset **dataset, bb_error *err);
BB_API void bb_dataset_destroy(bb_dataset *dataset); /**< NULL is fine */
/** Number of images, at least 1. */
BB_API size_t bb_dataset_size(const bb_dataset *dataset);
/** Kind of layout found ("image folder", "idx", ...), split in use and its file or folder, for
 *  reports and for the leak check. */
BB_API const char *bb_dataset_kind(const bb_dataset *dataset);
BB_API const char *bb_dataset_split(const bb_dataset *dataset);
BB_API const char *bb_dataset_source(const bb_dataset *dataset);
/** Reads image i, to be freed with bb_image_free. Safe from several threads. */
BB_API bb_status bb_dataset_image(const bb_dataset *dataset, size_t i, bb_image *image,
                                  bb_error *err);
/** Class of image i, -1 where it has none. */
BB_API int bb_dataset_label(const bb_dataset *dataset, size_t i);
/** A name for image i, for tables: file name or "source[i]". Lives as long as the dataset. */
BB_API const char *bb_dataset_name(const bb_dataset *dataset, size_t i);

#ifdef __cplusplus
}
#endif
#endif
