/* SPDX-License-Identifier: Apache-2.0 */
#include "train/augment.h"
#include <math.h>
#include <string.h>

static double between(bb_rng *rng, double low, double high) {
    return low + (high - low) * bb_rng_uniform(rng);
}

static int rounded_side(double side, int limit) {
    int n = (int)floor(side + 0.5);
    return n < 1 ? 1 : n > limit ? limit : n;
}

bb_status bb_augment_part(const bb_augment *augment, const bb_image *image, bb_rng *rng,
                          bb_image *part, bb_error *err) {
    double area = between(rng, augment->resize_crop_min, augment->resize_crop_max) *
                  (double)image->width * (double)image->height;
    double ratio = exp(between(rng, log(3.0 / 4), log(4.0 / 3)));
    *part = (bb_image){.width = rounded_side(sqrt(area * ratio), image->width),
                       .height = rounded_side(sqrt(area / ratio), image->height),
                       .channels = image->channels};
    size_t x = (size_t)bb_rng_below(rng, (uint64_t)(image->width - part->width + 1));
    size_t y = (size_t)bb_rng_below(rng, (uint64_t)(image->height - part->height + 1));
    size_t pixel = (size_t)image->channels, row = (size_t)part->width * pixel;
    part->pixels = bb_alloc_array((size_t)part->height, row);
    if (!part->pixels)
        return bb_fail_memory(err, "image");
    for (size_t i = 0; i < (size_t)part->height; i++)
        memcpy(part->pixels + i * row, image->pixels + ((y + i) * (size_t)image->width + x) * pixel,
               row);
    return BB_STATUS_OK;
}

/* Moves the content by dx, dy pixels; what comes in is black. */
static void shift(int width, int height, size_t pixel, int dx, int dy, const uint8_t *from,
                  uint8_t *to) {
    size_t row = (size_t)width * pixel;
    int x0 = dx > 0 ? dx : 0, columns = width - (dx > 0 ? dx : -dx);
    memset(to, 0, row * (size_t)height);
    for (int y = 0; y < height && columns > 0; y++)
        if (y - dy >= 0 && y - dy < height)
            memcpy(to + (size_t)y * row + (size_t)x0 * pixel,
                   from + (size_t)(y - dy) * row + (size_t)(x0 - dx) * pixel,
                   (size_t)columns * pixel);
}

static void mirror(int width, int height, size_t pixel, uint8_t *pixels) {
    for (int y = 0; y < height; y++) {
        uint8_t *left = pixels + (size_t)y * (size_t)width * pixel;
        uint8_t *right = left + (size_t)(width - 1) * pixel;
        for (; left < right; left += pixel, right -= pixel)
            for (size_t c = 0; c < pixel; c++) {
                uint8_t swap = left[c];
                left[c] = right[c];
                right[c] = swap;
            }
    }
}

void bb_augment_pixels(const bb_augment *augment, int width, int height, int channels,
                       uint8_t *pixels, uint8_t *copy, bb_rng *rng) {
    size_t pixel = (size_t)channels;
    if (augment->crop_padding > 0) {
        uint64_t places = 2 * (uint64_t)augment->crop_padding + 1;
        int dx = (int)bb_rng_below(rng, places) - augment->crop_padding;
        int dy = (int)bb_rng_below(rng, places) - augment->crop_padding;
        memcpy(copy, pixels, (size_t)width * (size_t)height * pixel);
        shift(width, height, pixel, dx, dy, copy, pixels);
    }
    if (augment->flip && (bb_rng_next(rng) >> 63))
        mirror(width, height, pixel, pixels);
}
