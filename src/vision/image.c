/* SPDX-License-Identifier: Apache-2.0 */
#include "vision/image.h"
#include <string.h>
#include <strings.h>

bb_status bb_image_create(const char *name, size_t width, size_t height, int channels,
                          bb_image *image, bb_error *err) {
    if (width == 0 || height == 0)
        return bb_fail(err, BB_STATUS_BAD_FILE, "%s: image without pixels", name);
    if (width > BB_IMAGE_MAX_SIDE || height > BB_IMAGE_MAX_SIDE ||
        width * height > BB_IMAGE_MAX_PIXELS)
        return bb_fail(err, BB_STATUS_LIMIT, "%s: %zux%zu pixels are more than %d", name, width,
                       height, BB_IMAGE_MAX_PIXELS);
    uint8_t *pixels = bb_alloc(width * height * (size_t)channels);
    if (!pixels)
        return bb_fail_memory(err, name);
    *image = (bb_image){(int)width, (int)height, channels, pixels};
    return BB_STATUS_OK;
}

size_t bb_image_bytes(const bb_image *image) {
    return (size_t)image->width * (size_t)image->height * (size_t)image->channels;
}

void bb_image_free(bb_image *image) {
    if (!image)
        return;
    bb_free(image->pixels);
    *image = (bb_image){0};
}

static bb_status decode(const char *path, const bb_file *file, bb_image *image, bb_error *err) {
    static const uint8_t jpeg[] = {0xff, 0xd8, 0xff}, png[] = {0x89, 'P', 'N', 'G'};
    if (file->size >= sizeof(jpeg) && memcmp(file->data, jpeg, sizeof(jpeg)) == 0)
        return bb_jpeg_decode(path, file, image, err);
    if (file->size >= sizeof(png) && memcmp(file->data, png, sizeof(png)) == 0)
        return bb_png_decode(path, file, image, err);
    if (file->size >= 2 && file->data[0] == 'P' && (file->data[1] == '5' || file->data[1] == '6'))
        return bb_pnm_decode(path, file, image, err);
    return bb_fail(err, BB_STATUS_BAD_FILE, "%s: not a JPEG, PNG, or binary PPM/PGM image", path);
}

bb_status bb_image_read(const char *path, bb_image *image, bb_error *err) {
    *image = (bb_image){0};
    bb_file file;
    BB_TRY(bb_file_open(path, &file, err));
    bb_status status = decode(path, &file, image, err);
    bb_file_close(&file);
    return status;
}

static bb_status encode(const char *path, const bb_image *image, bb_buffer *out, bb_error *err) {
    const char *dot = strrchr(path, '.');
    const char *ending = dot ? dot : "";
    if (strcasecmp(ending, ".png") == 0)
        return bb_png_encode(path, image, out, err);
    if (strcasecmp(ending, ".jpg") == 0 || strcasecmp(ending, ".jpeg") == 0)
        return bb_jpeg_encode(path, image, out, err);
    if (strcasecmp(ending, ".ppm") == 0 || strcasecmp(ending, ".pgm") == 0)
        return bb_pnm_encode(path, image, out, err);
    return bb_fail(err, BB_STATUS_UNSUPPORTED, "%s: images are written as .png, .jpg, .ppm or .pgm",
                   path);
}

bb_status bb_image_write(const char *path, const bb_image *image, bb_error *err) {
    if (image->width < 1 || image->height < 1 || !image->pixels ||
        (image->channels != 1 && image->channels != 3))
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "%s: no image to write", path);
    bb_buffer out = {0};
    bb_status status = encode(path, image, &out, err);
    if (status == BB_STATUS_OK && out.failed)
        status = bb_fail_memory(err, path);
    if (status == BB_STATUS_OK)
        status = bb_file_write(path, out.data, out.size, err);
    bb_buffer_free(&out);
    return status;
}
