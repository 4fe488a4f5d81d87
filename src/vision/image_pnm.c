/* SPDX-License-Identifier: Apache-2.0 */
/* Binary PGM (P5) and PPM (P6) with values up to 255. */
#include "vision/image.h"
#include <ctype.h>

typedef struct pnm_reader {
    const uint8_t *data;
    size_t size, position;
} pnm_reader;

/* Next unsigned number of the header, after white space and # comments; 0 where there is none or
 * it has more than six digits. */
static size_t read_number(pnm_reader *in) {
    while (in->position < in->size &&
           (isspace(in->data[in->position]) || in->data[in->position] == '#')) {
        if (in->data[in->position] == '#')
            while (in->position < in->size && in->data[in->position] != '\n')
                in->position++;
        else
            in->position++;
    }
    size_t value = 0, digits = 0;
    while (in->position < in->size && isdigit(in->data[in->position]) && digits++ < 6)
        value = value * 10 + (size_t)(in->data[in->position++] - '0');
    return digits > 6 ? 0 : value;
}

bb_status bb_pnm_decode(const char *name, const bb_file *file, bb_image *image, bb_error *err) {
    pnm_reader in = {file->data, file->size, 2};
    size_t width = read_number(&in), height = read_number(&in), top = read_number(&in);
    int channels = file->data[1] == '6' ? 3 : 1;
    if (width == 0 || height == 0)
        return bb_fail(err, BB_STATUS_BAD_FILE, "%s: PPM/PGM size is not 1..999999", name);
    if (top == 0 || top > 255)
        return bb_fail(err, BB_STATUS_UNSUPPORTED, "%s: PPM/PGM maximum value is not 1..255", name);
    if (in.position >= in.size || !isspace(in.data[in.position]))
        return bb_fail(err, BB_STATUS_BAD_FILE, "%s: bad PPM/PGM header", name);
    in.position++;
    bb_image result;
    BB_TRY(bb_image_create(name, width, height, channels, &result, err));
    size_t bytes = bb_image_bytes(&result);
    if (in.size - in.position < bytes) {
        bb_image_free(&result);
        return bb_fail(err, BB_STATUS_BAD_FILE, "%s: PPM/PGM data end early", name);
    }
    for (size_t i = 0; i < bytes; i++) {
        size_t value = in.data[in.position + i];
        result.pixels[i] = (uint8_t)(value >= top ? 255 : (value * 255 + top / 2) / top);
    }
    *image = result;
    return BB_STATUS_OK;
}

bb_status bb_pnm_encode(const char *name, const bb_image *image, bb_buffer *out, bb_error *err) {
    bb_buffer_printf(out, "P%d\n%d %d\n255\n", image->channels == 3 ? 6 : 5, image->width,
                     image->height);
    bb_buffer_append(out, image->pixels, bb_image_bytes(image));
    return BB_STATUS_OK;
}
