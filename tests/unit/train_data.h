/* SPDX-License-Identifier: Apache-2.0 */
/** @file train_data.h  A folder of its own for a test, with small images of two classes. */
#ifndef BB_TRAIN_DATA_H
#define BB_TRAIN_DATA_H

#include "base/base.h"
#include "bitbranch/dataset.h"
#include "unit.h"
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char root[64];

static inline int make_root(void **state) {
    strcpy(root, "/tmp/bb_train_XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static inline int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    return remove(path);
}

static inline int remove_root(void **state) {
    return nftw(root, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

/* Path below the folder, in one of eight buffers. */
static inline const char *at(const char *name) {
    static char paths[8][256];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof(paths[0]), "%s/%s", root, name);
    return path;
}

static inline void write_text(const char *name, const char *text) {
    assert_int_equal(bb_file_write(at(name), text, strlen(text), NULL), BB_STATUS_OK);
}

enum { SIDE = 8 };

/* Class 0: a bright left half, class 1: a bright upper half, under noise. */
static inline void write_sample(const char *split, int label, int index, bb_rng *rng) {
    char name[64];
    uint8_t pixels[SIDE * SIDE];
    bb_image image = {SIDE, SIDE, 1, pixels};
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++)
            pixels[y * SIDE + x] =
                (uint8_t)(((label ? y : x) < SIDE / 2 ? 120 : 40) + (int)bb_rng_below(rng, 100));
    snprintf(name, sizeof(name), "%s/%s/%03d.ppm", split, label ? "b" : "a", index);
    assert_int_equal(bb_image_write(at(name), &image, NULL), BB_STATUS_OK);
}

/* data/train and data/test with n images of each class. */
static inline void write_images(int n_train, int n_test) {
    static const char *const folders[] = {"data",         "data/train", "data/train/a",
                                          "data/train/b", "data/test",  "data/test/a",
                                          "data/test/b"};
    bb_rng rng;
    bb_rng_seed(&rng, 1);
    for (size_t i = 0; i < BB_COUNT(folders); i++)
        assert_int_equal(mkdir(at(folders[i]), 0777), 0);
    for (int i = 0; i < 2 * n_train; i++)
        write_sample("data/train", i % 2, i, &rng);
    for (int i = 0; i < 2 * n_test; i++)
        write_sample("data/test", i % 2, i, &rng);
}

#define TASK                                                                                       \
    "{\"version\": 1, \"task\": \"classify\", \"input\": {\"height\": 8, \"width\": 8, "           \
    "\"channels\": \"grey\", \"resize\": \"none\", \"scale\": 0.00392156862745098, "               \
    "\"mean\": [0.5], \"std\": [0.25]}}"

#endif
