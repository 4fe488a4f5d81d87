/* SPDX-License-Identifier: Apache-2.0 */
/* Contact sheets. */
#include "vision/font.h"
#include "vision/image.h"
#include "vision/resize.h"
#include <math.h>
#include <string.h>

/* A tile: a coloured frame around a square for the picture, and two lines of caption below. */
enum {
    PICTURE = 140,
    FRAME = 4,
    LETTER_SCALE = 2,
    ADVANCE = (BB_FONT_WIDTH + 1) * LETTER_SCALE,
    LINE = (BB_FONT_HEIGHT + 3) * LETTER_SCALE,
    LINES = 2,
    GAP = 10,
    TILE_WIDTH = PICTURE + 2 * FRAME + GAP,
    TILE_HEIGHT = PICTURE + 2 * FRAME + LINES * LINE + GAP,
    LETTERS_A_LINE = (PICTURE + 2 * FRAME) / ADVANCE
};

typedef uint8_t colour[3];
static const colour background = {250, 250, 250}, ink = {30, 30, 30}, right = {40, 160, 70},
                    wrong = {210, 50, 50}, unknown = {130, 130, 130};

static void fill(bb_image *sheet, int x, int y, int width, int height, const colour c) {
    for (int i = 0; i < height; i++)
        for (int j = 0; j < width; j++)
            memcpy(sheet->pixels + ((size_t)(y + i) * (size_t)sheet->width + (size_t)(x + j)) * 3,
                   c, 3);
}

/* Copies `image`, made RGB, to (x, y). */
static void paste(bb_image *sheet, const bb_image *image, int x, int y) {
    for (int i = 0; i < image->height; i++)
        for (int j = 0; j < image->width; j++) {
            const uint8_t *p = image->pixels + ((size_t)i * (size_t)image->width + (size_t)j) *
                                                   (size_t)image->channels;
            colour c = {p[0], p[image->channels == 3], p[image->channels == 3 ? 2 : 0]};
            fill(sheet, x + j, y + i, 1, 1, c);
        }
}

/* Enlarges small images by whole pixels, so that what the network saw stays visible. */
static bb_status enlarge(const bb_image *image, int factor, bb_image *out, bb_error *err) {
    BB_TRY(bb_image_create("tile", (size_t)image->width * (size_t)factor,
                           (size_t)image->height * (size_t)factor, image->channels, out, err));
    size_t channels = (size_t)image->channels;
    uint8_t *to = out->pixels;
    for (int y = 0; y < out->height; y++)
        for (int x = 0; x < out->width; x++, to += channels)
            memcpy(to,
                   image->pixels +
                       ((size_t)(y / factor) * (size_t)image->width + (size_t)(x / factor)) *
                           channels,
                   channels);
    return BB_STATUS_OK;
}

/* The image so that its longer side fills the square, or nearly so when enlarged. */
static bb_status fit(const bb_image *image, bb_image *out, bb_error *err) {
    int side = image->width > image->height ? image->width : image->height;
    if (side <= PICTURE)
        return enlarge(image, PICTURE / side, out, err);
    int width = (int)((int64_t)image->width * PICTURE / side);
    int height = (int)((int64_t)image->height * PICTURE / side);
    return bb_image_resize(image, (size_t)(width ? width : 1), (size_t)(height ? height : 1),
                           BB_FILTER_ANTIALIAS, out, err);
}

static void draw_letter(bb_image *sheet, char letter, int x, int y) {
    int index = (unsigned char)letter - BB_FONT_FIRST;
    if (index < 0 || index >= BB_FONT_LETTERS)
        index = '?' - BB_FONT_FIRST;
    for (int row = 0; row < BB_FONT_HEIGHT; row++)
        for (int column = 0; column < BB_FONT_WIDTH; column++)
            if (bb_font[index][row] >> (BB_FONT_WIDTH - 1 - column) & 1)
                fill(sheet, x + column * LETTER_SCALE, y + row * LETTER_SCALE, LETTER_SCALE,
                     LETTER_SCALE, ink);
}

/* Length of the first line of `text`: up to a newline, else broken at a space where one fits. */
static size_t line_length(const char *text) {
    size_t n = strcspn(text, "\n");
    if (n <= LETTERS_A_LINE)
        return n;
    for (n = LETTERS_A_LINE; n > 0; n--)
        if (text[n] == ' ')
            return n;
    return LETTERS_A_LINE;
}

static void draw_caption(bb_image *sheet, const char *text, int x, int y) {
    for (int line = 0; line < LINES && *text; line++, y += LINE) {
        size_t n = line_length(text);
        for (size_t i = 0; i < n; i++)
            draw_letter(sheet, text[i], x + (int)i * ADVANCE, y);
        text += n;
        text += *text == ' ' || *text == '\n';
    }
}

static bb_status draw_tile(bb_image *sheet, const bb_image *image, const char *caption, int good,
                           int x, int y, bb_error *err) {
    bb_image picture;
    BB_TRY(fit(image, &picture, err));
    fill(sheet, x, y, PICTURE + 2 * FRAME, PICTURE + 2 * FRAME,
         good < 0 ? unknown
         : good   ? right
                  : wrong);
    fill(sheet, x + FRAME, y + FRAME, PICTURE, PICTURE, background);
    paste(sheet, &picture, x + FRAME + (PICTURE - picture.width) / 2,
          y + FRAME + (PICTURE - picture.height) / 2);
    bb_image_free(&picture);
    draw_caption(sheet, caption, x, y + PICTURE + 2 * FRAME + 2 * LETTER_SCALE);
    return BB_STATUS_OK;
}

bb_status bb_draw_sheet(const bb_image *images, const char *const *captions, const int *good,
                        size_t n, bb_image *sheet, bb_error *err) {
    if (n == 0 || n > 10000)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "a sheet has 1 to 10000 images, not %zu",
                       n);
    size_t columns = (size_t)ceil(sqrt((double)n * 4 / 3)), rows = (n + columns - 1) / columns;
    BB_TRY(bb_image_create("sheet", columns * TILE_WIDTH + GAP, rows * TILE_HEIGHT + GAP, 3, sheet,
                           err));
    fill(sheet, 0, 0, sheet->width, sheet->height, background);
    bb_status status = BB_STATUS_OK;
    for (size_t i = 0; i < n && status == BB_STATUS_OK; i++)
        status = draw_tile(sheet, &images[i], captions[i], good[i],
                           GAP + (int)(i % columns) * TILE_WIDTH,
                           GAP + (int)(i / columns) * TILE_HEIGHT, err);
    if (status != BB_STATUS_OK)
        bb_image_free(sheet);
    return status;
}
