/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file loader.h
 * Batches of training images: shuffled, augmented, prepared by threads ahead of their use.
 *
 * What a batch holds depends on the seed, the epoch and its number alone: the order is a
 * permutation seeded by the epoch, and the augmentation of an image is seeded by epoch and image.
 * So neither the number of threads nor an interruption changes it.
 */
#ifndef BB_TRAIN_LOADER_H
#define BB_TRAIN_LOADER_H

#include "base/base.h"
#include "bitbranch/dataset.h"

typedef struct bb_augment {
    int crop_padding; /**< black border on each side out of which the input is cut at random */
    bool flip;        /**< mirrors left and right, every second time */
    /** Before that, a random part of the image is stretched to the input: its share of the area
     * lies between these, its sides are in 3:4 to 4:3. max 0 = none. */
    double resize_crop_min, resize_crop_max;
} bb_augment;

typedef struct bb_loader_options {
    size_t batch;
    size_t threads; /**< 0: one */
    uint64_t seed;
    bool training; /**< shuffle and augment; drop the last images that fill no batch */
    bb_augment augment;
    size_t cache_bytes; /**< decoded images are kept up to this */
} bb_loader_options;

typedef struct bb_loader bb_loader;

/** Reads images into the cache (progress: may be NULL). Dataset and config must outlive it. In
 *  training every image needs a class, and a batch may not be larger than the data set. */
bb_status bb_loader_create(const bb_dataset *dataset, const bb_config *config,
                           const bb_loader_options *options, bb_progress_fn progress, void *user,
                           bb_loader **loader, bb_error *err);
void bb_loader_destroy(bb_loader *loader); /**< NULL is fine */
/** Batches of one epoch. */
size_t bb_loader_batches(const bb_loader *loader);

/** Begins an epoch at one of its batches. */
bb_status bb_loader_start(bb_loader *loader, uint64_t epoch, size_t batch, bb_error *err);

typedef struct bb_batch {
    const float *images; /**< [batch][C][H][W], zeros beyond n */
    const int *labels;   /**< [batch], -1 beyond n */
    size_t n;            /**< images in it */
} bb_batch;

/** The next batch of the epoch, valid until the next call of next or start. */
bb_status bb_loader_next(bb_loader *loader, bb_batch *batch, bb_error *err);

/** Image i of the data set as it is, without augmentation. */
bb_status bb_loader_image(const bb_loader *loader, size_t i, float *nchw, bb_error *err);
size_t bb_loader_images(const bb_loader *loader);

#endif
