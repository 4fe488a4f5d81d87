/* SPDX-License-Identifier: Apache-2.0 */
#include "vision/image.h"
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <jerror.h>
#include <jpeglib.h>

enum { MAX_SCANS = 200, QUALITY = 95 };

/* What the library's callbacks need. `manager` comes first: they get a pointer to it. */
typedef struct jpeg_state {
    struct jpeg_error_mgr manager;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    const char *name;
    bb_error *err;
    bb_status status;
} jpeg_state;

static void on_error(j_common_ptr cinfo) {
    jpeg_state *state = (jpeg_state *)cinfo->err;
    char text[JMSG_LENGTH_MAX];
    cinfo->err->format_message(cinfo, text);
    bb_status status =
        cinfo->err->msg_code == JERR_OUT_OF_MEMORY ? BB_STATUS_OUT_OF_MEMORY : BB_STATUS_BAD_FILE;
    state->status = bb_fail(state->err, status, "%s: %s", state->name, text);
    longjmp(state->jump, 1);
}

/* libjpeg only warns where entropy-coded data end or break, and fills the rest with grey. */
static void on_message(j_common_ptr cinfo, int level) {
    if (level >= 0)
        return;
    switch (cinfo->err->msg_code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_MUST_RESYNC:
        on_error(cinfo);
        break;
    default: /* harmless oddities of real files, such as bytes between segments */
        break;
    }
}

/* A small progressive file can ask for thousands of passes over a huge image. */
static void on_progress(j_common_ptr cinfo) {
    jpeg_state *state = (jpeg_state *)cinfo->err;
    if (cinfo->is_decompressor && ((j_decompress_ptr)cinfo)->input_scan_number > MAX_SCANS) {
        state->status = bb_fail(state->err, BB_STATUS_LIMIT, "%s: more than %d JPEG scans",
                                state->name, MAX_SCANS);
        longjmp(state->jump, 1);
    }
}

static void state_init(jpeg_state *state, const char *name, bb_error *err) {
    *state = (jpeg_state){.name = name, .err = err, .status = BB_STATUS_OK};
    jpeg_std_error(&state->manager);
    state->manager.error_exit = on_error;
    state->manager.emit_message = on_message;
    state->progress.progress_monitor = on_progress;
}

/* Inverted CMYK, as Adobe writes it: each ink value is already 255 - ink. */
static void cmyk_to_rgb(const uint8_t *cmyk, size_t n, uint8_t *rgb) {
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < 3; c++)
            rgb[3 * i + c] = (uint8_t)((cmyk[4 * i + c] * cmyk[4 * i + 3] + 127) / 255);
}

/* Chooses the output colours and allocates. Everything after it may longjmp. */
static bb_status begin(struct jpeg_decompress_struct *cinfo, const char *name, bb_image *image,
                       bb_error *err) {
    bool grey = cinfo->jpeg_color_space == JCS_GRAYSCALE;
    if (cinfo->jpeg_color_space == JCS_CMYK || cinfo->jpeg_color_space == JCS_YCCK)
        cinfo->out_color_space = JCS_CMYK;
    else
        cinfo->out_color_space = grey ? JCS_GRAYSCALE : JCS_RGB;
    cinfo->dct_method = JDCT_ISLOW;
    cinfo->do_fancy_upsampling = TRUE;
    return bb_image_create(name, cinfo->image_width, cinfo->image_height, grey ? 1 : 3, image, err);
}

static void read_rows(struct jpeg_decompress_struct *cinfo, bb_image *image) {
    size_t stride = (size_t)image->width * (size_t)image->channels;
    bool cmyk = cinfo->out_color_space == JCS_CMYK;
    JSAMPARRAY line = NULL;
    if (cmyk) /* the library owns it and frees it with the decompressor */
        line =
            cinfo->mem->alloc_sarray((j_common_ptr)cinfo, JPOOL_IMAGE, cinfo->image_width * 4, 1);
    while (cinfo->output_scanline < cinfo->output_height) {
        uint8_t *row = image->pixels + cinfo->output_scanline * stride;
        jpeg_read_scanlines(cinfo, cmyk ? line : &row, 1);
        if (cmyk)
            cmyk_to_rgb(line[0], (size_t)image->width, row);
    }
}

/* Returns through longjmp too: `image` is the caller's, so no local is lost. */
static bb_status decode(struct jpeg_decompress_struct *cinfo, jpeg_state *state,
                        const bb_file *file, bb_image *image) {
    if (setjmp(state->jump))
        return state->status;
    jpeg_create_decompress(cinfo);
    cinfo->progress = &state->progress;
    jpeg_mem_src(cinfo, file->data, (unsigned long)file->size);
    jpeg_read_header(cinfo, TRUE);
    BB_TRY(begin(cinfo, state->name, image, state->err));
    jpeg_start_decompress(cinfo);
    read_rows(cinfo, image);
    jpeg_finish_decompress(cinfo);
    return BB_STATUS_OK;
}

bb_status bb_jpeg_decode(const char *name, const bb_file *file, bb_image *image, bb_error *err) {
    struct jpeg_decompress_struct cinfo = {0};
    jpeg_state state;
    state_init(&state, name, err);
    cinfo.err = &state.manager;
    bb_image result = {0};
    bb_status status = decode(&cinfo, &state, file, &result);
    jpeg_destroy_decompress(&cinfo);
    if (status == BB_STATUS_OK)
        *image = result;
    else
        bb_image_free(&result);
    return status;
}

typedef struct jpeg_target {
    unsigned char *data; /* malloc'ed by the library */
    unsigned long size;
} jpeg_target;

static bb_status encode(struct jpeg_compress_struct *cinfo, jpeg_state *state,
                        const bb_image *image, jpeg_target *target) {
    if (setjmp(state->jump))
        return state->status;
    jpeg_create_compress(cinfo);
    jpeg_mem_dest(cinfo, &target->data, &target->size);
    cinfo->image_width = (JDIMENSION)image->width;
    cinfo->image_height = (JDIMENSION)image->height;
    cinfo->input_components = image->channels;
    cinfo->in_color_space = image->channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(cinfo);
    jpeg_set_quality(cinfo, QUALITY, TRUE);
    jpeg_start_compress(cinfo, TRUE);
    size_t stride = (size_t)image->width * (size_t)image->channels;
    while (cinfo->next_scanline < cinfo->image_height) {
        uint8_t *row = image->pixels + cinfo->next_scanline * stride;
        jpeg_write_scanlines(cinfo, &row, 1);
    }
    jpeg_finish_compress(cinfo);
    return BB_STATUS_OK;
}

bb_status bb_jpeg_encode(const char *name, const bb_image *image, bb_buffer *out, bb_error *err) {
    struct jpeg_compress_struct cinfo = {0};
    jpeg_state state;
    state_init(&state, name, err);
    cinfo.err = &state.manager;
    jpeg_target target = {0};
    bb_status status = encode(&cinfo, &state, image, &target);
    jpeg_destroy_compress(&cinfo);
    if (status == BB_STATUS_OK)
        bb_buffer_append(out, target.data, target.size);
    free(target.data);
    return status;
}
