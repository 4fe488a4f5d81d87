/* SPDX-License-Identifier: Apache-2.0 */
/* Batches: what they hold depends on seed, epoch and number alone. */
#define _XOPEN_SOURCE 700 /* nftw */
#include "train/augment.h"
#include "train/loader.h"
#include "train_data.h"

enum { N = 20, BATCH = 6, IMAGE = SIDE * SIDE };

typedef struct data {
    bb_dataset *dataset;
    bb_config *config;
} data;

static data open_data(const char *split) {
    data d;
    bb_error err;
    bb_dataset_options options;
    bb_dataset_options_init(&options);
    options.split = split;
    if (bb_dataset_open(at("data"), &options, &d.dataset, &err) != BB_STATUS_OK ||
        bb_config_parse(TASK, "task", &d.config, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    return d;
}

static void close_data(data *d) {
    bb_dataset_destroy(d->dataset);
    bb_config_destroy(d->config);
}

static bb_loader_options training(void) {
    return (bb_loader_options){.batch = BATCH,
                               .threads = 1,
                               .seed = 3,
                               .training = true,
                               .augment = {.crop_padding = 2, .flip = true},
                               .cache_bytes = 1 << 20};
}

static bb_loader *open_loader(const data *d, const bb_loader_options *options) {
    bb_loader *l = NULL;
    bb_error err;
    if (bb_loader_create(d->dataset, d->config, options, NULL, NULL, &l, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    return l;
}

/* All batches of an epoch from batch `first` on, with labels appended as floats. */
static size_t read_epoch(bb_loader *l, uint64_t epoch, size_t first, float *out) {
    bb_error err;
    size_t n = 0;
    assert_int_equal(bb_loader_start(l, epoch, first, &err), BB_STATUS_OK);
    for (size_t b = first; b < bb_loader_batches(l); b++) {
        bb_batch batch;
        if (bb_loader_next(l, &batch, &err) != BB_STATUS_OK)
            fail_msg("%s", err.message);
        memcpy(out + n, batch.images, BATCH * IMAGE * sizeof(float));
        n += BATCH * IMAGE;
        for (int i = 0; i < BATCH; i++)
            out[n++] = (float)batch.labels[i];
    }
    return n;
}

static float a[16384], b[16384];

static void threads_caches_and_starts_change_nothing(void **state) {
    data d = open_data("train");
    bb_loader_options options = training();
    bb_loader *one = open_loader(&d, &options);
    options.threads = 3;
    options.cache_bytes = 0;
    bb_loader *three = open_loader(&d, &options);
    assert_int_equal(bb_loader_batches(one), 2 * N / BATCH);
    for (uint64_t epoch = 0; epoch < 3; epoch++) {
        size_t n = read_epoch(one, epoch, 0, a);
        assert_int_equal(read_epoch(three, epoch, 0, b), n);
        assert_memory_equal(a, b, n * sizeof(float));
    }
    /* From the middle on, as after an interruption; and again while others are being made. */
    size_t skipped = 2 * (BATCH * IMAGE + BATCH);
    size_t rest = read_epoch(three, 2, 2, b);
    assert_memory_equal(a + skipped, b, rest * sizeof(float));
    bb_error err;
    assert_int_equal(bb_loader_start(three, 0, 0, &err), BB_STATUS_OK);
    rest = read_epoch(three, 2, 2, b);
    assert_memory_equal(a + skipped, b, rest * sizeof(float));
    bb_loader_destroy(one);
    bb_loader_destroy(three);
    close_data(&d);
}

static void epochs_and_seeds_differ(void **state) {
    data d = open_data("train");
    bb_loader_options options = training();
    bb_loader *l = open_loader(&d, &options);
    size_t n = read_epoch(l, 0, 0, a);
    read_epoch(l, 1, 0, b);
    assert_memory_not_equal(a, b, n * sizeof(float));
    bb_loader_destroy(l);
    options.seed++;
    l = open_loader(&d, &options);
    read_epoch(l, 0, 0, b);
    assert_memory_not_equal(a, b, n * sizeof(float));
    bb_loader_destroy(l);
    close_data(&d);
}

/* Without augmentation every image of the data set comes exactly once. */
static void an_epoch_holds_every_image_once(void **state) {
    data d = open_data("train");
    bb_loader_options options = training();
    options.augment = (bb_augment){0};
    options.batch = 4;
    bb_loader *l = open_loader(&d, &options);
    bb_error err;
    int seen[2 * N] = {0};
    float image[IMAGE];
    assert_int_equal(bb_loader_start(l, 5, 0, &err), BB_STATUS_OK);
    for (size_t k = 0; k < bb_loader_batches(l); k++) {
        bb_batch batch;
        assert_int_equal(bb_loader_next(l, &batch, &err), BB_STATUS_OK);
        for (size_t j = 0; j < batch.n; j++)
            for (size_t i = 0; i < 2 * N; i++) {
                assert_int_equal(bb_loader_image(l, i, image, &err), BB_STATUS_OK);
                if (memcmp(image, batch.images + j * IMAGE, sizeof(image)) == 0) {
                    seen[i]++;
                    assert_int_equal(batch.labels[j], bb_dataset_label(d.dataset, i));
                }
            }
    }
    for (int i = 0; i < 2 * N; i++)
        assert_int_equal(seen[i], 1);
    bb_loader_destroy(l);
    close_data(&d);
}

static void the_last_batch_of_a_test_is_filled_up(void **state) {
    data d = open_data("test");
    bb_loader_options options = training();
    options.training = false;
    options.batch = 7;
    bb_loader *l = open_loader(&d, &options);
    bb_error err;
    bb_batch batch;
    assert_int_equal(bb_loader_batches(l), 2); /* 8 images */
    assert_int_equal(bb_loader_start(l, 0, 0, &err), BB_STATUS_OK);
    assert_int_equal(bb_loader_next(l, &batch, &err), BB_STATUS_OK);
    assert_int_equal(batch.n, 7);
    assert_int_equal(bb_loader_next(l, &batch, &err), BB_STATUS_OK);
    assert_int_equal(batch.n, 1);
    assert_int_equal(batch.labels[1], -1);
    for (int i = 0; i < 6 * IMAGE; i++)
        assert_true(batch.images[IMAGE + i] == 0);
    assert_int_equal(bb_loader_next(l, &batch, &err), BB_STATUS_INVALID_ARGUMENT);
    bb_loader_destroy(l);
    close_data(&d);
}

/* ---- augmentation ---------------------------------------------------------------------------- */

static void shifts_and_mirrors_are_the_only_changes(void **state) {
    enum { W = 5, H = 4, C = 3, SIZE = W * H * C };
    const bb_augment augment = {.crop_padding = 1, .flip = true};
    bool met[3][3][2] = {{{false}}};
    uint8_t source[SIZE], got[SIZE], copy[SIZE];
    for (int i = 0; i < SIZE; i++)
        source[i] = (uint8_t)(i + 1);
    for (uint64_t seed = 0; seed < 400; seed++) {
        bb_rng rng;
        int found = 0;
        bb_rng_seed(&rng, seed);
        memcpy(got, source, SIZE);
        bb_augment_pixels(&augment, W, H, C, got, copy, &rng);
        for (int dy = -1; dy <= 1; dy++)
            for (int dx = -1; dx <= 1; dx++)
                for (int flip = 0; flip < 2; flip++) {
                    bool same = true;
                    for (int y = 0; y < H; y++)
                        for (int x = 0; x < W; x++)
                            for (int c = 0; c < C; c++) {
                                int sx = (flip ? W - 1 - x : x) - dx, sy = y - dy;
                                bool in = sx >= 0 && sx < W && sy >= 0 && sy < H;
                                int want = in ? source[(sy * W + sx) * C + c] : 0;
                                same = same && got[(y * W + x) * C + c] == want;
                            }
                    found += same;
                    met[dy + 1][dx + 1][flip] = met[dy + 1][dx + 1][flip] || same;
                }
        assert_int_equal(found, 1);
    }
    for (int i = 0; i < 18; i++)
        assert_true(((bool *)met)[i]);
}

static void parts_keep_to_their_share(void **state) {
    enum { W = 40, H = 30 };
    static uint8_t pixels[W * H];
    const bb_image image = {W, H, 1, pixels};
    const bb_augment augment = {.resize_crop_min = 0.25, .resize_crop_max = 0.5};
    for (int i = 0; i < W * H; i++)
        pixels[i] = (uint8_t)(i % W + 4 * (i / W));
    for (uint64_t seed = 0; seed < 200; seed++) {
        bb_rng rng;
        bb_image part;
        bb_rng_seed(&rng, seed);
        assert_int_equal(bb_augment_part(&augment, &image, &rng, &part, NULL), BB_STATUS_OK);
        double share = (double)part.width * part.height / (W * H);
        double ratio = (double)part.width / part.height;
        assert_true(share > 0.22 && share < 0.54 && ratio > 0.7 && ratio < 1.43);
        assert_int_equal(part.pixels[1] - part.pixels[0], 1); /* a piece, not a resized image */
        assert_int_equal((uint8_t)(part.pixels[part.width] - part.pixels[0]), 4);
        bb_image_free(&part);
    }
}

static void parts_are_stretched_to_the_input(void **state) {
    data d = open_data("train");
    bb_loader_options options = training();
    options.augment = (bb_augment){.resize_crop_min = 0.3, .resize_crop_max = 1};
    bb_loader *l = open_loader(&d, &options);
    size_t n = read_epoch(l, 0, 0, a);
    read_epoch(l, 0, 0, b);
    assert_memory_equal(a, b, n * sizeof(float));
    bb_loader_destroy(l);
    close_data(&d);
}

static void bad_data_is_refused(void **state) {
    data d = open_data("train");
    bb_loader_options options = training();
    bb_loader *l = NULL;
    bb_error err;
    options.batch = 2 * N + 1;
    assert_int_equal(bb_loader_create(d.dataset, d.config, &options, NULL, NULL, &l, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    write_text("data/train/b/999.ppm", "no image");
    close_data(&d);
    d = open_data("train");
    options = training();
    assert_int_equal(bb_loader_create(d.dataset, d.config, &options, NULL, NULL, &l, &err),
                     BB_STATUS_BAD_FILE);
    assert_non_null(strstr(err.message, "999.ppm"));
    options.cache_bytes = 0; /* found later, by a thread */
    l = open_loader(&d, &options);
    bb_status status = bb_loader_start(l, 0, 0, &err);
    for (size_t i = 0; i < bb_loader_batches(l) && status == BB_STATUS_OK; i++) {
        bb_batch batch;
        status = bb_loader_next(l, &batch, &err);
    }
    assert_true(status == BB_STATUS_BAD_FILE || status == BB_STATUS_OK); /* 41 images, 36 taken */
    bb_loader_destroy(l);
    close_data(&d);
    remove(at("data/train/b/999.ppm"));
}

static void failing_allocations_are_reported(void **state) {
    data d = open_data("train");
    const bb_loader_options options = training();
    for (long n = 0;; n += 3) {
        bb_loader *l = NULL;
        bb_error err;
        bb_alloc_fail_after(n);
        bb_status status = bb_loader_create(d.dataset, d.config, &options, NULL, NULL, &l, &err);
        bb_alloc_fail_after(-1);
        if (status == BB_STATUS_OK) {
            bb_loader_destroy(l);
            assert_true(n > 20);
            break;
        }
        assert_int_equal(status, BB_STATUS_OUT_OF_MEMORY);
    }
    close_data(&d);
}

static int setup(void **state) {
    if (make_root(state) != 0)
        return -1;
    write_images(N, 4);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_caches_and_starts_change_nothing),
        cmocka_unit_test(epochs_and_seeds_differ),
        cmocka_unit_test(an_epoch_holds_every_image_once),
        cmocka_unit_test(the_last_batch_of_a_test_is_filled_up),
        cmocka_unit_test(shifts_and_mirrors_are_the_only_changes),
        cmocka_unit_test(parts_keep_to_their_share),
        cmocka_unit_test(parts_are_stretched_to_the_input),
        cmocka_unit_test(bad_data_is_refused),
        cmocka_unit_test(failing_allocations_are_reported),
    };
    return cmocka_run_group_tests(tests, setup, remove_root);
}
