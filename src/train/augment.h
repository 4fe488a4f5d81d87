/* SPDX-License-Identifier: Apache-2.0 */
/** @file augment.h  Random variants of one image. */
#ifndef BB_TRAIN_AUGMENT_H
#define BB_TRAIN_AUGMENT_H

#include "train/loader.h"

/** Cuts a random part out of a decoded image; the result is owned by the caller. */
bb_status bb_augment_part(const bb_augment *augment, const bb_image *image, bb_rng *rng,
                          bb_image *part, bb_error *err);

/** Shifts and mirrors pixels of an image in place; `copy` has room for as many bytes. */
void bb_augment_pixels(const bb_augment *augment, int width, int height, int channels,
                       uint8_t *pixels, uint8_t *copy, bb_rng *rng);

#endif
