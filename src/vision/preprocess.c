/* SPDX-License-Identifier: Apache-2.0 */
/* Image -> pixels of the network's input -> tensor. */
#include "vision/config.h"
#include "vision/image.h"
#include <math.h>
#include <string.h>

/* One pixel value; round_levels rounds half up and clamps. */
static float normalize(const bb_config *config, size_t c, double pixel) {
    double value = (pixel * config->scale - config->mean[c]) / config->std[c];
    if (config->has_round) {
        value = floor(value * config->round_scale + 0.5);
        value = fmin(fmax(value, config->round_min), config->round_max) / config->round_scale;
    }
    return (float)value;
}

void bb_config_fill_tables(bb_config *config) {
    for (size_t c = 0; c < (size_t)config->channels; c++) {
        for (size_t p = 0; p < 256; p++)
            config->values[c][p] = normalize(config, c, (double)p);
        config->fill_values[c] = normalize(config, c, config->fill);
    }
}

/* ---- colours --------------------------------------------------------------------------------- */

/* ITU-R BT.601 luma in 16-bit fixed point; the weights sum to 65536. */
static uint8_t luma(const uint8_t *rgb) {
    return (uint8_t)((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 32768u) >> 16);
}

/* `image` in the number of channels the config asks for; *copy owns pixels only if it had to. */
static bb_status set_channels(const bb_config *config, const bb_image *image, bb_image *copy,
                              const bb_image **result, bb_error *err) {
    *result = image;
    if (image->channels == config->channels)
        return BB_STATUS_OK;
    BB_TRY(bb_image_create("image", (size_t)image->width, (size_t)image->height, config->channels,
                           copy, err));
    size_t n = (size_t)image->width * (size_t)image->height;
    for (size_t i = 0; i < n; i++) {
        if (config->channels == 1)
            copy->pixels[i] = luma(image->pixels + 3 * i);
        else
            memset(copy->pixels + 3 * i, image->pixels[i], 3);
    }
    *result = copy;
    return BB_STATUS_OK;
}

static void swap_red_and_blue(uint8_t *pixels, size_t n) {
    for (size_t i = 0; i < n; i++, pixels += 3) {
        uint8_t red = pixels[0];
        pixels[0] = pixels[2];
        pixels[2] = red;
    }
}

/* ---- geometry -------------------------------------------------------------------------------- */

/* Where the resized image lies in the network's input; negative offsets crop. */
typedef struct placement {
    int width, height; /* after resizing */
    int x, y;          /* of its top left corner in the input */
} placement;

/* a*b/c rounded down, at least 1. */
static int scale_side(int a, int b, int c) {
    int64_t side = (int64_t)a * b / c;
    return side < 1 ? 1 : (int)side;
}

static placement place(const bb_config *config, const bb_image *image) {
    int w = image->width, h = image->height;
    placement p = {config->width, config->height, 0, 0};
    switch (config->resize) {
    case BB_RESIZE_STRETCH:
        return p;
    case BB_RESIZE_LETTERBOX:
        if ((int64_t)config->width * h <= (int64_t)config->height * w)
            p.height = scale_side(h, config->width, w);
        else
            p.width = scale_side(w, config->height, h);
        break;
    case BB_RESIZE_SHORT_SIDE:
        p.width = w <= h ? config->short_side : scale_side(w, config->short_side, h);
        p.height = w <= h ? scale_side(h, config->short_side, w) : config->short_side;
        break;
    case BB_RESIZE_NONE:
        p.width = w;
        p.height = h;
        break;
    }
    p.x = (config->width - p.width) / 2; /* towards 0: the odd pixel is on the right */
    p.y = (config->height - p.height) / 2;
    return p;
}

static bb_status check_placement(const bb_config *config, const placement *p, bb_error *err) {
    bool fits = p->width == config->width && p->height == config->height;
    if (config->crop_centre)
        fits = p->width >= config->width && p->height >= config->height;
    if (config->resize == BB_RESIZE_NONE && !fits)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                       "image is %dx%d, the network takes %dx%d and resize is none", p->width,
                       p->height, config->width, config->height);
    return BB_STATUS_OK;
}

/* Copies the part of `image` that lies in the input. */
static void paste(const bb_config *config, const bb_image *image, const placement *p,
                  uint8_t *hwc) {
    size_t channels = (size_t)config->channels;
    int x0 = p->x > 0 ? p->x : 0, from_x = x0 - p->x;
    int columns = p->x > 0 ? image->width : config->width;
    for (int y = 0; y < config->height; y++) {
        int from_y = y - p->y;
        if (from_y < 0 || from_y >= image->height)
            continue;
        size_t to = ((size_t)y * (size_t)config->width + (size_t)x0) * channels;
        size_t from = ((size_t)from_y * (size_t)image->width + (size_t)from_x) * channels;
        memcpy(hwc + to, image->pixels + from, (size_t)columns * channels);
    }
}

static bb_status resize_and_paste(const bb_config *config, const bb_image *image,
                                  const placement *p, uint8_t *hwc, bb_error *err) {
    if (p->width == image->width && p->height == image->height) {
        paste(config, image, p, hwc);
        return BB_STATUS_OK;
    }
    bb_image resized;
    BB_TRY(
        bb_image_resize(image, (size_t)p->width, (size_t)p->height, config->filter, &resized, err));
    paste(config, &resized, p, hwc);
    bb_image_free(&resized);
    return BB_STATUS_OK;
}

static bb_status make_pixels(const bb_config *config, const bb_image *image, uint8_t *hwc,
                             placement *p, bb_error *err) {
    if (!config->has_input)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "the task config describes no image input");
    *p = place(config, image);
    BB_TRY(check_placement(config, p, err));
    size_t n = (size_t)config->width * (size_t)config->height;
    memset(hwc, (int)floor(config->fill + 0.5), n * (size_t)config->channels);
    bb_image copy = {0};
    const bb_image *source;
    BB_TRY(set_channels(config, image, &copy, &source, err));
    bb_status status = resize_and_paste(config, source, p, hwc, err);
    bb_image_free(&copy);
    if (status == BB_STATUS_OK && config->order == BB_CHANNELS_BGR)
        swap_red_and_blue(hwc, n);
    return status;
}

bb_status bb_config_pixels(const bb_config *config, const bb_image *image, uint8_t *hwc,
                           bb_error *err) {
    placement p;
    return make_pixels(config, image, hwc, &p, err);
}

void bb_config_normalize(const bb_config *config, const uint8_t *hwc, float *nchw) {
    size_t n = (size_t)config->width * (size_t)config->height;
    size_t channels = (size_t)config->channels;
    for (size_t c = 0; c < channels; c++)
        for (size_t i = 0; i < n; i++)
            nchw[c * n + i] = config->values[c][hwc[i * channels + c]];
}

/* The border gets the value of the exact, maybe fractional, fill. */
static void fill_border(const bb_config *config, const placement *p, float *nchw) {
    for (int c = 0; c < config->channels; c++)
        for (int y = 0; y < config->height; y++)
            for (int x = 0; x < config->width; x++, nchw++)
                if (x < p->x || x >= p->x + p->width || y < p->y || y >= p->y + p->height)
                    *nchw = config->fill_values[c];
}

bb_status bb_config_tensor(const bb_config *config, const bb_image *image, float *nchw,
                           bb_error *err) {
    uint8_t *hwc =
        bb_alloc_array((size_t)config->width * (size_t)config->height, (size_t)config->channels);
    if (!hwc)
        return bb_fail_memory(err, "input pixels");
    placement p;
    bb_status status = make_pixels(config, image, hwc, &p, err);
    if (status == BB_STATUS_OK) {
        bb_config_normalize(config, hwc, nchw);
        if (config->resize == BB_RESIZE_LETTERBOX)
            fill_border(config, &p, nchw);
    }
    bb_free(hwc);
    return status;
}
