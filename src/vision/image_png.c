/* SPDX-License-Identifier: Apache-2.0 */
#include "vision/image.h"
#include <png.h>
#include <string.h>

/* What the library's callbacks need, and what must survive a longjmp. */
typedef struct png_state {
    const char *name;
    bb_error *err;
    bb_status status;
    const bb_file *file;
    size_t position;
    bb_buffer *out;
    bb_image image;
    png_bytep *rows;
} png_state;

static void on_error(png_structp png, png_const_charp text) {
    png_state *state = png_get_error_ptr(png);
    if (state->status == BB_STATUS_OK)
        state->status = bb_fail(state->err, BB_STATUS_BAD_FILE, "%s: %s", state->name, text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text) {}

static void on_read(png_structp png, png_bytep data, size_t n) {
    png_state *state = png_get_io_ptr(png);
    if (n > state->file->size - state->position)
        png_error(png, "PNG data end early");
    memcpy(data, state->file->data + state->position, n);
    state->position += n;
}

static void on_write(png_structp png, png_bytep data, size_t n) {
    png_state *state = png_get_io_ptr(png);
    bb_buffer_append(state->out, data, n);
}

static void on_flush(png_structp png) {}

/* Everything becomes 8 bits; palettes become RGB; alpha is dropped. */
static void set_transforms(png_structp png, png_infop info) {
    png_set_expand(png);
    png_set_scale_16(png);
    png_set_strip_alpha(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
}

/* One pointer a row, as png_read_image and png_write_image want them. */
static bool set_rows(png_state *state, const bb_image *image) {
    state->rows = bb_alloc_array((size_t)image->height, sizeof(*state->rows));
    if (!state->rows) {
        state->status = bb_fail_memory(state->err, state->name);
        return false;
    }
    for (int y = 0; y < image->height; y++)
        state->rows[y] = image->pixels + (size_t)y * (size_t)image->width * (size_t)image->channels;
    return true;
}

static void read_png(png_structp png, png_infop info, png_state *state) {
    if (setjmp(png_jmpbuf(png)))
        return;
    png_set_user_limits(png, BB_IMAGE_MAX_SIDE, BB_IMAGE_MAX_SIDE);
    png_set_read_fn(png, state, on_read);
    png_read_info(png, info);
    set_transforms(png, info);
    state->status = bb_image_create(state->name, png_get_image_width(png, info),
                                    png_get_image_height(png, info), png_get_channels(png, info),
                                    &state->image, state->err);
    if (state->status != BB_STATUS_OK || !set_rows(state, &state->image))
        return;
    png_read_image(png, state->rows);
    png_read_end(png, NULL);
}

bb_status bb_png_decode(const char *name, const bb_file *file, bb_image *image, bb_error *err) {
    png_state state = {.name = name, .err = err, .status = BB_STATUS_OK, .file = file};
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &state, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (info)
        read_png(png, info, &state);
    else
        state.status = bb_fail_memory(err, name);
    png_destroy_read_struct(&png, &info, NULL);
    bb_free(state.rows);
    if (state.status == BB_STATUS_OK)
        *image = state.image;
    else
        bb_image_free(&state.image);
    return state.status;
}

static void write_png(png_structp png, png_infop info, png_state *state, const bb_image *image) {
    if (setjmp(png_jmpbuf(png)))
        return;
    png_set_write_fn(png, state, on_write, on_flush);
    png_set_IHDR(png, info, (png_uint_32)image->width, (png_uint_32)image->height, 8,
                 image->channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (!set_rows(state, image))
        return;
    png_write_info(png, info);
    png_write_image(png, state->rows);
    png_write_end(png, NULL);
}

bb_status bb_png_encode(const char *name, const bb_image *image, bb_buffer *out, bb_error *err) {
    png_state state = {.name = name, .err = err, .status = BB_STATUS_OK, .out = out};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &state, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (info)
        write_png(png, info, &state, image);
    else
        state.status = bb_fail_memory(err, name);
    png_destroy_write_struct(&png, &info);
    bb_free(state.rows);
    return state.status;
}
