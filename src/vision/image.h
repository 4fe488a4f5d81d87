/* SPDX-License-Identifier: Apache-2.0 */
/** @file image.h  Image files in memory to pixels and back; the codecs of bb_image_read/write. */
#ifndef BB_VISION_IMAGE_H
#define BB_VISION_IMAGE_H

#include "base/base.h"
#include "bitbranch/vision.h"

/** No image of more pixels is read: 64 Mi, so that sizes fit an int and memory stays bounded. */
enum { BB_IMAGE_MAX_SIDE = 65535, BB_IMAGE_MAX_PIXELS = 64 << 20 };

/** Uninitialised pixels; checks the limits above. `name` is for the message. */
bb_status bb_image_create(const char *name, size_t width, size_t height, int channels,
                          bb_image *image, bb_error *err);
size_t bb_image_bytes(const bb_image *image);

/** Decoders: *image is untouched on failure. */
bb_status bb_jpeg_decode(const char *name, const bb_file *file, bb_image *image, bb_error *err);
bb_status bb_png_decode(const char *name, const bb_file *file, bb_image *image, bb_error *err);
bb_status bb_pnm_decode(const char *name, const bb_file *file, bb_image *image, bb_error *err);

/** Encoders append to `out`. */
bb_status bb_jpeg_encode(const char *name, const bb_image *image, bb_buffer *out, bb_error *err);
bb_status bb_png_encode(const char *name, const bb_image *image, bb_buffer *out, bb_error *err);
bb_status bb_pnm_encode(const char *name, const bb_image *image, bb_buffer *out, bb_error *err);

#endif
