/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "base/base.h"
#include "bitbranch/vision.h"
#include "vision/image.h"
#include "vision/resize.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/bb_vision_XXXXXX";

static int make_folder(void **state) {
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    return rmdir(folder);
}

static const char *in_folder(const char *name) {
    static char path[256];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

/* A smooth picture with some texture, the same everywhere. */
static bb_image make_image(int width, int height, int channels) {
    bb_image image;
    assert_int_equal(bb_image_create("made", (size_t)width, (size_t)height, channels, &image, NULL),
                     BB_STATUS_OK);
    uint8_t *p = image.pixels;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < channels; c++)
                *p++ = (uint8_t)((x * 7 + y * 11 + c * 50 + (x * y) % 23) & 255);
    return image;
}

static void round_trip(const char *name, int channels, int tolerance) {
    bb_image image = make_image(37, 21, channels), back;
    if (tolerance) /* nothing that JPEG could not keep */
        for (size_t i = 0; i < bb_image_bytes(&image); i++)
            image.pixels[i] = (uint8_t)(100 + i % 37 / (size_t)channels);
    bb_error err = {0};
    const char *path = in_folder(name);
    assert_int_equal(bb_image_write(path, &image, &err), BB_STATUS_OK);
    assert_int_equal(bb_image_read(path, &back, &err), BB_STATUS_OK);
    assert_int_equal(back.width, 37);
    assert_int_equal(back.height, 21);
    assert_int_equal(back.channels, channels);
    for (size_t i = 0; i < bb_image_bytes(&image); i++)
        assert_true(abs(image.pixels[i] - back.pixels[i]) <= tolerance);
    bb_image_free(&image);
    bb_image_free(&back);
    assert_int_equal(unlink(path), 0);
}

static void test_images_survive_writing_and_reading(void **state) {
    round_trip("a.png", 1, 0);
    round_trip("a.png", 3, 0);
    round_trip("a.pgm", 1, 0);
    round_trip("a.PPM", 3, 0);
    round_trip("a.jpg", 1, 12);
    round_trip("a.jpeg", 3, 12);
    bb_image image = make_image(2, 2, 3);
    bb_error err = {0};
    assert_int_equal(bb_image_write(in_folder("a.gif"), &image, &err), BB_STATUS_UNSUPPORTED);
    bb_image_free(&image);
}

/* Written by hand: 2-bit palette with transparency, 16-bit grey, interlaced RGBA. */
/* clang-format off */
static const uint8_t palette_png[] = {0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44, 0x52, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x01, 0x02, 0x03, 0x00, 0x00, 0x00, 0x66, 0x8e, 0xfc, 0x27, 0x00, 0x00, 0x00, 0x09, 0x50, 0x4c, 0x54, 0x45, 0x01, 0x02, 0x03, 0x28, 0x32, 0x3c, 0xc8, 0xd2, 0xdc, 0xce, 0xe1, 0x35, 0x5d, 0x00, 0x00, 0x00, 0x03, 0x74, 0x52, 0x4e, 0x53, 0xff, 0x00, 0x80, 0xa9, 0x56, 0x73, 0x13, 0x00, 0x00, 0x00, 0x0a, 0x49, 0x44, 0x41, 0x54, 0x78, 0xda, 0x63, 0x90, 0x00, 0x00, 0x00, 0x1a, 0x00, 0x19, 0x80, 0x00, 0x8e, 0xbb, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82};
static const uint8_t deep_png[] = {0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44, 0x52, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x01, 0x10, 0x00, 0x00, 0x00, 0x00, 0x81, 0xd9, 0xfc, 0x15, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x44, 0x41, 0x54, 0x78, 0xda, 0x63, 0x68, 0xa8, 0xff, 0x3f, 0x01, 0x00, 0x06, 0x10, 0x02, 0x8f, 0x85, 0xb1, 0xa8, 0xb0, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82};
static const uint8_t interlaced_png[] = {0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44, 0x52, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x02, 0x08, 0x06, 0x00, 0x00, 0x01, 0x05, 0xb1, 0x3d, 0xb2, 0x00, 0x00, 0x00, 0x1b, 0x49, 0x44, 0x41, 0x54, 0x78, 0xda, 0x63, 0x60, 0x64, 0x62, 0x66, 0x60, 0x60, 0x61, 0x65, 0x6b, 0x60, 0x60, 0xe7, 0xe0, 0xfc, 0xcf, 0xc5, 0xcd, 0xc3, 0x0e, 0x00, 0x0c, 0x32, 0x01, 0xd5, 0xd4, 0xfc, 0xe1, 0x14, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82};
/* clang-format on */

static void check_png(const uint8_t *data, size_t size, int channels, const uint8_t *pixels,
                      size_t n) {
    const bb_file file = {data, size, false};
    bb_image image;
    bb_error err = {0};
    if (bb_png_decode("made.png", &file, &image, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    assert_int_equal(image.channels, channels);
    assert_int_equal(bb_image_bytes(&image), n);
    assert_memory_equal(image.pixels, pixels, n);
    bb_image_free(&image);
}

static void test_png_kinds(void **state) {
    static const uint8_t palette[] = {1, 2, 3, 40, 50, 60, 200, 210, 220}, deep[] = {128, 255},
                         interlaced[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    check_png(palette_png, sizeof(palette_png), 3, palette, sizeof(palette));
    check_png(deep_png, sizeof(deep_png), 1, deep, sizeof(deep));
    check_png(interlaced_png, sizeof(interlaced_png), 3, interlaced, sizeof(interlaced));
}

/* Every prefix of a file is an error, and so is a header that promises too much. */
static void check_truncated(const char *name, int channels) {
    bb_image image = make_image(40, 30, channels), back;
    bb_error err = {0};
    const char *path = in_folder(name);
    assert_int_equal(bb_image_write(path, &image, &err), BB_STATUS_OK);
    bb_image_free(&image);
    bb_file file;
    assert_int_equal(bb_file_open(path, &file, &err), BB_STATUS_OK);
    uint8_t *data = malloc(file.size);
    size_t size = file.size;
    memcpy(data, file.data, size);
    bb_file_close(&file);
    for (size_t n = 0; n + 8 < size; n += 1 + size / 300) {
        assert_int_equal(bb_file_write(path, data, n, &err), BB_STATUS_OK);
        assert_int_not_equal(bb_image_read(path, &back, &err), BB_STATUS_OK);
        assert_non_null(strstr(err.message, name));
        assert_null(back.pixels);
    }
    free(data);
    assert_int_equal(unlink(path), 0);
}

static void test_truncated_files_are_errors(void **state) {
    check_truncated("t.png", 3);
    check_truncated("t.png", 1);
    check_truncated("t.jpg", 3);
    check_truncated("t.jpg", 1);
    check_truncated("t.ppm", 3);
}

static void test_flipped_bytes_never_crash(void **state) {
    static const char *const names[] = {"f.png", "f.jpg", "f.ppm"};
    bb_rng rng;
    bb_rng_seed(&rng, 5);
    for (size_t k = 0; k < BB_COUNT(names); k++) {
        bb_image image = make_image(24, 16, 3), back;
        bb_error err = {0};
        const char *path = in_folder(names[k]);
        assert_int_equal(bb_image_write(path, &image, &err), BB_STATUS_OK);
        bb_image_free(&image);
        bb_file file;
        assert_int_equal(bb_file_open(path, &file, &err), BB_STATUS_OK);
        size_t size = file.size;
        uint8_t *data = malloc(size), *broken = malloc(size);
        memcpy(data, file.data, size);
        bb_file_close(&file);
        for (int round = 0; round < 300; round++) {
            memcpy(broken, data, size);
            for (int i = 0; i < 3; i++)
                broken[bb_rng_below(&rng, size)] = (uint8_t)bb_rng_next(&rng);
            bb_file memory = {broken, size, false};
            bb_status (*const decode[])(const char *, const bb_file *, bb_image *, bb_error *) = {
                bb_png_decode, bb_jpeg_decode, bb_pnm_decode};
            if (decode[k]("broken", &memory, &back, &err) == BB_STATUS_OK)
                bb_image_free(&back);
        }
        free(data);
        free(broken);
        assert_int_equal(unlink(path), 0);
    }
}

/* Each allocation of writing and reading may fail: an error, nothing leaked. */
static void test_out_of_memory(void **state) {
    static const char *const names[] = {"m.png", "m.jpg", "m.ppm"};
    bb_image image = make_image(20, 10, 3), back;
    bb_error err = {0};
    for (size_t k = 0; k < BB_COUNT(names); k++) {
        const char *path = in_folder(names[k]);
        bb_status status = BB_STATUS_OUT_OF_MEMORY;
        long n = 0;
        for (; status == BB_STATUS_OUT_OF_MEMORY && n < 100; n++) {
            bb_alloc_fail_after(n);
            status = bb_image_write(path, &image, &err);
            bb_alloc_fail_after(-1);
        }
        assert_int_equal(status, BB_STATUS_OK);
        assert_true(n > 2);
        bb_alloc_fail_after(0);
        status = bb_image_read(path, &back, &err);
        bb_alloc_fail_after(-1);
        assert_int_equal(status, BB_STATUS_OUT_OF_MEMORY);
        assert_int_equal(unlink(path), 0);
    }
    bb_image_free(&image);
}

static void test_limits_hold(void **state) {
    static const char huge[] = "P6\n60000 60000\n255\nxxx";
    bb_image image = {0};
    bb_error err = {0};
    const bb_file file = {(const uint8_t *)huge, sizeof(huge) - 1, false};
    assert_int_equal(bb_pnm_decode("huge.ppm", &file, &image, &err), BB_STATUS_LIMIT);
    assert_non_null(strstr(err.message, "huge.ppm"));
}

/* (dst+0.5)*in/out - 0.5 by the definition, in floating point. */
static double bilinear_at(const bb_image *in, int x, int y, int c, int width, int height) {
    double sx = (x + 0.5) * in->width / width - 0.5, sy = (y + 0.5) * in->height / height - 0.5;
    sx = fmin(fmax(sx, 0), in->width - 1);
    sy = fmin(fmax(sy, 0), in->height - 1);
    int x0 = (int)sx, y0 = (int)sy;
    int x1 = x0 + 1 < in->width ? x0 + 1 : x0, y1 = y0 + 1 < in->height ? y0 + 1 : y0;
    double fx = sx - x0, fy = sy - y0;
#define AT(X, Y) in->pixels[((Y)*in->width + (X)) * in->channels + c]
    return (AT(x0, y0) * (1 - fx) + AT(x1, y0) * fx) * (1 - fy) +
           (AT(x0, y1) * (1 - fx) + AT(x1, y1) * fx) * fy;
#undef AT
}

static void test_bilinear_follows_its_formula(void **state) {
    static const int sizes[][2] = {{64, 48}, {17, 9}, {50, 50}, {1, 1}, {113, 7}};
    bb_image in = make_image(50, 31, 3), out;
    for (size_t s = 0; s < BB_COUNT(sizes); s++) {
        int width = sizes[s][0], height = sizes[s][1];
        assert_int_equal(
            bb_image_resize(&in, (size_t)width, (size_t)height, BB_FILTER_BILINEAR, &out, NULL),
            BB_STATUS_OK);
        const uint8_t *p = out.pixels;
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                for (int c = 0; c < 3; c++)
                    assert_true(fabs(*p++ - bilinear_at(&in, x, y, c, width, height)) <= 0.5001);
        bb_image_free(&out);
    }
    bb_image_free(&in);
}

static uint32_t checksum(const bb_image *image) {
    uint32_t sum = 0;
    for (size_t i = 0; i < bb_image_bytes(image); i++)
        sum = sum * 31 + image->pixels[i];
    return sum;
}

/* The checksums are those of Pillow 13, Image.resize(size, BILINEAR), for make_image(). */
static void test_antialias_gives_pillows_pixels(void **state) {
    static const struct {
        size_t width, height;
        uint32_t rgb, grey;
    } cases[] = {
        {32, 20, 1555091554u, 3933584646u},
        {97, 10, 3357221858u, 2915140953u},
        {11, 61, 2886402666u, 3888894358u},
        {48, 30, 309620322u, 1013024677u},
        {200, 150, 4288072789u, 3465072281u},
        {3, 90, 4001586237u, 2903263023u},
        {1, 1, 126142u, 127u},
    };
    for (int channels = 1; channels <= 3; channels += 2) {
        bb_image in = make_image(97, 61, channels), out;
        for (size_t i = 0; i < BB_COUNT(cases); i++) {
            assert_int_equal(bb_image_resize(&in, cases[i].width, cases[i].height,
                                             BB_FILTER_ANTIALIAS, &out, NULL),
                             BB_STATUS_OK);
            assert_int_equal(checksum(&out), channels == 3 ? cases[i].rgb : cases[i].grey);
            bb_image_free(&out);
        }
        bb_image_free(&in);
    }
}

static void test_accuracy(void **state) {
    static const size_t classes[] = {4, 1, 0, 2, 3, 7};
    static const int labels[] = {4, 3, 7, -1}; /* first, fifth, sixth, unknown */
    bb_accuracy counts = {0};
    for (size_t i = 0; i < BB_COUNT(labels); i++)
        bb_accuracy_add(&counts, classes, 6, labels[i]);
    assert_int_equal(counts.images, 4);
    assert_int_equal(counts.top1, 1);
    assert_int_equal(counts.top5, 2);
}

static void test_paired_comparison(void **state) {
    static const int labels[] = {0, 1, 2, 3};
    static const size_t reference[] = {0, 1, 0, 2}, now[] = {0, 2, 2, 1};
    bb_paired counts = {0};
    for (size_t i = 0; i < BB_COUNT(labels); i++)
        bb_paired_add(&counts, now[i], reference[i], labels[i]);
    assert_int_equal(counts.images, 4);
    assert_int_equal(counts.reference_top1, 2);
    assert_int_equal(counts.changed, 3);
    assert_int_equal(counts.gained, 1);
    assert_int_equal(counts.lost, 1);
    assert_true(bb_paired_difference(&counts) == 0);
    /* per image 0, -1, +1, 0: variance 2/3, so the mean's error is sqrt(2/3/4) */
    assert_true(fabs(bb_paired_error(&counts) - 100 * sqrt(2.0 / 3 / 4)) < 1e-9);
    bb_paired_add(&counts, 5, 4, 5);
    assert_true(fabs(bb_paired_difference(&counts) - 20) < 1e-9);
    /* 0, -1, +1, 0, +1: mean 1/5, variance (3 - 1/5)/4 */
    assert_true(fabs(bb_paired_error(&counts) - 100 * sqrt((3 - 0.2) / 4 / 5)) < 1e-9);
}

/* Share of dark pixels in a rectangle, in percent. */
static int darkness(const bb_image *sheet, int x, int y, int width, int height) {
    int dark = 0;
    for (int i = y; i < y + height; i++)
        for (int j = x; j < x + width; j++)
            dark += sheet->pixels[((size_t)i * (size_t)sheet->width + (size_t)j) * 3] < 100;
    return 100 * dark / (width * height);
}

static void test_sheet(void **state) {
    bb_image images[5], sheet;
    const char *const captions[] = {"Coat", "Ankle boot\n93 %", "", "\xff\x01 a very long name",
                                    "no_spaces_in_this_long_name"};
    const int good[] = {1, 0, -1, 1, 0};
    bb_error err = {0};
    for (int i = 0; i < 5; i++) {
        images[i] = make_image(28 + 200 * (i % 2), 28 + 7 * i, i % 2 ? 3 : 1);
        memset(images[i].pixels, 200, bb_image_bytes(&images[i]));
    }
    assert_int_equal(bb_draw_sheet(images, captions, good, 5, &sheet, &err), BB_STATUS_OK);
    assert_true(sheet.width > 400 && sheet.height > 300 && sheet.channels == 3);
    const uint8_t *frame = sheet.pixels + (11 * sheet.width + 11) * 3;
    assert_true(frame[1] > frame[0] && frame[1] > frame[2]); /* right: green */
    int tile = (sheet.width - 10) / 3;
    frame += tile * 3;
    assert_true(frame[0] > frame[1] && frame[0] > frame[2]); /* wrong: red */
    /* captions lie below the 148 pixels of frame and picture; the third has none */
    assert_true(darkness(&sheet, 10, 160, 40, 18) > 10);
    assert_true(darkness(&sheet, 10 + tile, 180, 40, 18) > 10);
    assert_int_equal(darkness(&sheet, 10 + 2 * tile, 160, 140, 38), 0);
    bb_image_free(&sheet);
    assert_int_equal(bb_draw_sheet(images, captions, good, 0, &sheet, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    for (int i = 0; i < 5; i++)
        bb_image_free(&images[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_images_survive_writing_and_reading),
        cmocka_unit_test(test_png_kinds),
        cmocka_unit_test(test_truncated_files_are_errors),
        cmocka_unit_test(test_flipped_bytes_never_crash),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_limits_hold),
        cmocka_unit_test(test_bilinear_follows_its_formula),
        cmocka_unit_test(test_antialias_gives_pillows_pixels),
        cmocka_unit_test(test_accuracy),
        cmocka_unit_test(test_paired_comparison),
        cmocka_unit_test(test_sheet),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
