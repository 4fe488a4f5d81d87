/* SPDX-License-Identifier: Apache-2.0 */
#define _XOPEN_SOURCE 700 /* nftw */
#include "unit.h"

#include "base/base.h"
#include "bitbranch/dataset.h"
#include "data.h"
#include <ftw.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- a folder of its own for every test ------------------------------------------------------ */

static char root[64];

static int make_root(void **state) {
    strcpy(root, "/tmp/bb_dataset_XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    return remove(path);
}

static int remove_root(void **state) {
    return nftw(root, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static const char *at(const char *name) {
    static char paths[4][256];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof(paths[0]), "%s/%s", root, name);
    return path;
}

static void make_dir(const char *name) {
    assert_int_equal(mkdir(at(name), 0777), 0);
}

static void write_bytes(const char *name, const void *data, size_t size) {
    assert_int_equal(bb_file_write(at(name), data, size, NULL), BB_STATUS_OK);
}

/* A 2x1 grey picture whose first pixel tells which one it is. */
static void write_image(const char *name, int value) {
    const uint8_t bytes[] = {'P', '5',  '\n',           '2', ' ', '1', '\n', '2', '5',
                             '5', '\n', (uint8_t)value, 7};
    write_bytes(name, bytes, sizeof(bytes));
}

static int first_pixel(const bb_dataset *dataset, size_t i) {
    bb_image image;
    bb_error err = {0};
    if (bb_dataset_image(dataset, i, &image, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    int value = image.pixels[0];
    bb_image_free(&image);
    return value;
}

static bb_dataset *open_with(const char *path, const bb_dataset_options *options) {
    bb_dataset *dataset;
    bb_error err = {0};
    if (bb_dataset_open(path, options, &dataset, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    return dataset;
}

static void expect_failure(const char *path, const bb_dataset_options *options, bb_status status,
                           const char *word) {
    bb_dataset *dataset = NULL;
    bb_error err = {0};
    assert_int_equal(bb_dataset_open(path, options, &dataset, &err), status);
    assert_null(dataset);
    if (!strstr(err.message, word))
        fail_msg("'%s' lacks '%s'", err.message, word);
}

/* ---- layouts --------------------------------------------------------------------------------- */

static void test_image_folder(void **state) {
    static const char *const dirs[] = {"train",   "train/cat", "train/ant", "val",
                                       "val/ant", "val/cat",   "val/n01",   ".hidden"};
    for (size_t i = 0; i < BB_COUNT(dirs); i++)
        make_dir(dirs[i]);
    write_image("train/cat/b.pgm", 1);
    write_image("train/cat/a.pgm", 2);
    write_image("train/ant/a.pgm", 3);
    write_image("val/ant/x.pgm", 4);
    write_image("val/cat/x.pgm", 5);
    write_image("val/n01/x.PGM", 6);
    write_bytes("val/cat/notes.txt", "hello", 5);

    bb_dataset *dataset = open_with(root, NULL);
    assert_string_equal(bb_dataset_kind(dataset), "image folder");
    assert_string_equal(bb_dataset_split(dataset), "val");
    assert_string_equal(bb_dataset_source(dataset), at("val"));
    assert_int_equal(bb_dataset_size(dataset), 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(bb_dataset_label(dataset, (size_t)i), i);
        assert_int_equal(first_pixel(dataset, (size_t)i), 4 + i);
    }
    assert_string_equal(bb_dataset_name(dataset, 2), "x.PGM");
    bb_dataset_destroy(dataset);

    bb_dataset_options options;
    bb_dataset_options_init(&options);
    options.labels = "n01 some insect\r\ncat\nbee\nant\n"; /* order of the network's classes */
    dataset = open_with(root, &options);
    assert_int_equal(bb_dataset_label(dataset, 0), 3);
    assert_int_equal(bb_dataset_label(dataset, 1), 1);
    assert_int_equal(bb_dataset_label(dataset, 2), 0);
    bb_dataset_destroy(dataset);
    options.labels =
        "caterpillar\nantelope\nn012 beetle\ncat of prey\nn01 bee\nant\n"; /* whole words */
    dataset = open_with(root, &options);
    assert_int_equal(bb_dataset_label(dataset, 0), 5);
    assert_int_equal(bb_dataset_label(dataset, 1), 3);
    assert_int_equal(bb_dataset_label(dataset, 2), 4);
    bb_dataset_destroy(dataset);
    options.labels = "ant\nbee\n";
    expect_failure(root, &options, BB_STATUS_NOT_FOUND, "folder 'cat'");
    options.labels = NULL;
    options.split = "test";
    expect_failure(root, &options, BB_STATUS_NOT_FOUND, "present: train, val");
    options.split = "validation"; /* another name of val */
    bb_dataset_destroy(open_with(root, &options));
    options.split = NULL;
    options.calibration = 1;
    dataset = open_with(root, &options);
    assert_string_equal(bb_dataset_split(dataset), "train");
    assert_int_equal(bb_dataset_size(dataset), 3);
    bb_dataset_destroy(dataset);
    dataset = open_with(at("train"), NULL); /* the folder of one split */
    assert_string_equal(bb_dataset_split(dataset), "all");
    bb_dataset_destroy(dataset);
}

static void test_calibration_falls_back_to_what_there_is(void **state) {
    make_dir("test");
    make_dir("test/a");
    write_image("test/a/1.pgm", 1);
    bb_dataset_options options;
    bb_dataset_options_init(&options);
    options.calibration = 1;
    bb_dataset *dataset = open_with(root, &options);
    assert_string_equal(bb_dataset_split(dataset), "test"); /* for the caller to refuse */
    bb_dataset_destroy(dataset);
    make_dir("train");
    assert_int_equal(rename(at("test/a"), at("train/a")), 0);
    expect_failure(root, NULL, BB_STATUS_NOT_FOUND, "evaluation (present: train)");
}

static void test_lists(void **state) {
    make_dir("val");
    write_image("val/with space.pgm", 1);
    write_image("val/b.pgm", 2);
    write_image("c.pgm", 3);
    static const char list[] = "with space.pgm 12\r\n\nb.pgm\t0";
    write_bytes("val.txt", list, sizeof(list) - 1);
    write_bytes("words.txt", "x y z", 5);
    bb_dataset *dataset = open_with(root, NULL);
    assert_string_equal(bb_dataset_kind(dataset), "list");
    assert_int_equal(bb_dataset_size(dataset), 2);
    assert_int_equal(bb_dataset_label(dataset, 0), 12);
    assert_int_equal(first_pixel(dataset, 0), 1);
    assert_int_equal(first_pixel(dataset, 1), 2);
    bb_dataset_destroy(dataset);
    write_bytes("mine.txt", "c.pgm 5\nmissing.pgm 6\n", 22);
    dataset = open_with(at("mine.txt"), NULL);
    assert_int_equal(bb_dataset_label(dataset, 0), 5);
    assert_int_equal(first_pixel(dataset, 0), 3);
    bb_image image;
    bb_error err = {0};
    assert_int_equal(bb_dataset_image(dataset, 1, &image, &err), BB_STATUS_IO);
    assert_non_null(strstr(err.message, "missing.pgm"));
    assert_int_equal(bb_dataset_image(dataset, 2, &image, &err), BB_STATUS_INVALID_ARGUMENT);
    bb_dataset_destroy(dataset);

    bb_dataset_options options;
    bb_dataset_options_init(&options);
    options.labels = "a\nb\nc\n";
    expect_failure(root, &options, BB_STATUS_BAD_FILE, "class 12, but the network has 3");
    static const char *const bad[] = {
        "a.pgm\n", "a.pgm x\n", "a.pgm -1\n", " 3\n", "a.pgm 99999999999999999999\n", "b3\n"};
    for (size_t i = 0; i < BB_COUNT(bad); i++) {
        write_bytes("val.txt", bad[i], strlen(bad[i]));
        expect_failure(root, NULL, BB_STATUS_BAD_FILE, "val.txt:1: not");
    }
}

static void put_be(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

/* n images of 3x2 pixels, first pixel = index; classes count down. */
static void write_idx(const char *images, const char *labels, uint32_t n) {
    uint8_t data[1024] = {0, 0, 8, 3};
    put_be(data + 4, n);
    put_be(data + 8, 2);
    put_be(data + 12, 3);
    for (uint32_t i = 0; i < n; i++)
        data[16 + 6 * i] = (uint8_t)i;
    write_bytes(images, data, 16 + 6 * n);
    uint8_t classes[128] = {0, 0, 8, 1};
    put_be(classes + 4, n);
    for (uint32_t i = 0; i < n; i++)
        classes[8 + i] = (uint8_t)(n - i);
    write_bytes(labels, classes, 8 + n);
}

static void test_idx(void **state) {
    write_idx("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 20);
    write_idx("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 5);
    bb_dataset *dataset = open_with(root, NULL);
    assert_string_equal(bb_dataset_kind(dataset), "idx");
    assert_string_equal(bb_dataset_split(dataset), "test");
    assert_int_equal(bb_dataset_size(dataset), 5);
    assert_int_equal(bb_dataset_label(dataset, 1), 4);
    assert_int_equal(first_pixel(dataset, 1), 1);
    assert_string_equal(bb_dataset_name(dataset, 1), "t10k-images-idx3-ubyte[1]");
    bb_dataset_destroy(dataset);
    dataset = open_with(at("t10k-images-idx3-ubyte"), NULL);
    assert_int_equal(bb_dataset_label(dataset, 4), 1);
    bb_dataset_destroy(dataset);

    make_dir("dots");
    write_idx("dots/t10k-images.idx3-ubyte", "dots/t10k-labels.idx1-ubyte", 3);
    dataset = open_with(at("dots"), NULL);
    assert_int_equal(bb_dataset_label(dataset, 2), 1);
    bb_dataset_destroy(dataset);

    uint8_t data[16] = {0, 0, 8, 3};
    write_bytes("t10k-images-idx3-ubyte", data, 16); /* no pixels */
    expect_failure(root, NULL, BB_STATUS_BAD_FILE, "images of 0x0");
    put_be(data + 4, 0xffffffff);
    put_be(data + 8, 0xffffffff);
    put_be(data + 12, 0xffffffff);
    write_bytes("t10k-images-idx3-ubyte", data, 16);
    expect_failure(root, NULL, BB_STATUS_LIMIT, "overflow");
    write_bytes("t10k-images-idx3-ubyte", data, 9);
    expect_failure(root, NULL, BB_STATUS_BAD_FILE, "not an IDX file");
    put_be(data + 4, 5);
    put_be(data + 8, 1);
    put_be(data + 12, 1);
    write_bytes("t10k-images-idx3-ubyte", data, 16);
    expect_failure(root, NULL, BB_STATUS_BAD_FILE, "16 bytes, but its IDX header says 21");
    write_idx("t10k-images-idx3-ubyte", "train-labels-idx1-ubyte", 6);
    expect_failure(root, NULL, BB_STATUS_BAD_FILE, "5 labels for 6 images");
}

static void test_cifar(void **state) {
    static uint8_t records[2 * 3073];
    records[0] = 3;
    records[1] = 10;        /* red of the first pixel */
    records[1 + 1024] = 20; /* green */
    records[1 + 2048] = 30;
    records[3073] = 9;
    write_bytes("test_batch.bin", records, sizeof(records));
    write_bytes("data_batch_1.bin", records, sizeof(records));
    write_bytes("data_batch_2.bin", records, 3073);
    bb_dataset *dataset = open_with(root, NULL);
    assert_string_equal(bb_dataset_kind(dataset), "cifar");
    assert_int_equal(bb_dataset_size(dataset), 2);
    assert_int_equal(bb_dataset_label(dataset, 1), 9);
    bb_image image;
    assert_int_equal(bb_dataset_image(dataset, 0, &image, NULL), BB_STATUS_OK);
    assert_memory_equal(image.pixels, ((uint8_t[]){10, 20, 30}), 3);
    bb_image_free(&image);
    bb_dataset_destroy(dataset);
    bb_dataset_options options;
    bb_dataset_options_init(&options);
    options.split = "train";
    dataset = open_with(root, &options);
    assert_int_equal(bb_dataset_size(dataset), 3);
    assert_string_equal(bb_dataset_name(dataset, 2), "data_batch_2.bin[0]");
    bb_dataset_destroy(dataset);
    write_bytes("test_batch.bin", records, sizeof(records) - 1);
    expect_failure(root, NULL, BB_STATUS_BAD_FILE, "3073-byte records");
    records[3073] = 10;
    write_bytes("test_batch.bin", records, sizeof(records));
    expect_failure(root, NULL, BB_STATUS_BAD_FILE, "record 1 has class 10");
}

static void test_images_without_labels(void **state) {
    write_image("b.pgm", 1);
    write_image("a.pgm", 2);
    bb_dataset *dataset = open_with(root, NULL);
    assert_string_equal(bb_dataset_kind(dataset), "images");
    assert_int_equal(bb_dataset_label(dataset, 0), -1);
    assert_int_equal(first_pixel(dataset, 0), 2);
    bb_dataset_destroy(dataset);
    dataset = open_with(at("b.pgm"), NULL);
    assert_int_equal(bb_dataset_size(dataset), 1);
    assert_string_equal(bb_dataset_name(dataset, 0), "b.pgm");
    bb_dataset_destroy(dataset);
    expect_failure(at("none.pgm"), NULL, BB_STATUS_IO, "none.pgm");
    expect_failure(at("nowhere"), NULL, BB_STATUS_IO, "nowhere");
    make_dir("empty");
    expect_failure(at("empty"), NULL, BB_STATUS_BAD_FILE, "no data set layout");
    make_dir("Annotations");
    expect_failure(root, NULL, BB_STATUS_UNSUPPORTED, "detection");
}

/* ---- choice of images ------------------------------------------------------------------------ */

static void test_choice_of_images(void **state) {
    write_idx("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 100);
    bb_dataset_options options;
    bb_dataset_options_init(&options);
    options.split = "train";
    options.limit = 10;
    bb_dataset *dataset = open_with(root, &options);
    for (size_t i = 0; i < 10; i++)
        assert_int_equal(first_pixel(dataset, i), 10 * i);
    bb_dataset_destroy(dataset);

    options.calibration = 1;
    options.seed = 7;
    options.limit = 50;
    bb_dataset *first = open_with(root, &options), *again = open_with(root, &options);
    options.seed = 8;
    bb_dataset *other = open_with(root, &options);
    int differing = 0, seen[100] = {0};
    assert_int_equal(bb_dataset_size(first), 50);
    for (size_t i = 0; i < 50; i++) {
        int value = first_pixel(first, i);
        assert_int_equal(seen[value]++, 0); /* without repetition */
        assert_int_equal(value, first_pixel(again, i));
        assert_int_equal(bb_dataset_label(first, i), 100 - value);
        differing += value != first_pixel(other, i);
    }
    assert_true(differing > 25);
    bb_dataset_destroy(first);
    bb_dataset_destroy(again);
    bb_dataset_destroy(other);
}

static void *read_all(void *user) {
    const bb_dataset *dataset = user;
    for (int round = 0; round < 20; round++)
        for (size_t i = 0; i < bb_dataset_size(dataset); i++) {
            bb_image image;
            if (bb_dataset_image(dataset, i, &image, NULL) != BB_STATUS_OK ||
                image.pixels[0] != (uint8_t)i)
                return user;
            bb_image_free(&image);
        }
    return NULL;
}

static void test_several_threads_read(void **state) {
    write_idx("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 100);
    bb_dataset *dataset = open_with(root, NULL);
    pthread_t threads[3];
    for (size_t i = 0; i < BB_COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_all, dataset), 0);
    for (size_t i = 0; i < BB_COUNT(threads); i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    bb_dataset_destroy(dataset);
}

/* Every allocation of opening may fail: an error, nothing leaked (run under a sanitizer). */
static void test_out_of_memory(void **state) {
    make_dir("val");
    make_dir("val/a");
    write_image("val/a/1.pgm", 1);
    bb_status status = BB_STATUS_OUT_OF_MEMORY;
    long n = 0;
    for (; status == BB_STATUS_OUT_OF_MEMORY && n < 1000; n++) {
        bb_dataset *dataset = NULL;
        bb_error err = {0};
        bb_alloc_fail_after(n);
        status = bb_dataset_open(root, NULL, &dataset, &err);
        bb_alloc_fail_after(-1);
        bb_dataset_destroy(dataset);
    }
    assert_int_equal(status, BB_STATUS_OK);
    assert_true(n > 3);
}

/* ---- data that is installed or lies beside the source ---------------------------------------- */

static void test_fashion_mnist(void **state) {
    const char *path = "/usr/share/datasets/fashion-mnist";
    if (access(path, R_OK) != 0) {
        print_message("%s is absent: skipped\n", path);
        skip();
    }
    bb_dataset_options options;
    bb_dataset_options_init(&options);
    bb_dataset *dataset = open_with(path, &options);
    assert_int_equal(bb_dataset_size(dataset), 10000);
    size_t count[10] = {0};
    for (size_t i = 0; i < 10000; i++)
        count[bb_dataset_label(dataset, i)]++;
    for (size_t c = 0; c < 10; c++)
        assert_int_equal(count[c], 1000);
    bb_dataset_destroy(dataset);
    options.calibration = 1;
    options.limit = 1000;
    dataset = open_with(path, &options);
    assert_int_equal(bb_dataset_size(dataset), 1000);
    assert_string_equal(bb_dataset_split(dataset), "train");
    bb_image image;
    assert_int_equal(bb_dataset_image(dataset, 999, &image, NULL), BB_STATUS_OK);
    assert_int_equal(image.width * image.height * image.channels, 784);
    bb_image_free(&image);
    bb_dataset_destroy(dataset);
}

static void check_size(const char *name, const char *split, const char *kind, size_t n) {
    bb_dataset_options options;
    bb_dataset_options_init(&options);
    options.split = split;
    bb_dataset *dataset = open_with(data_path(name), &options);
    assert_string_equal(bb_dataset_kind(dataset), kind);
    assert_int_equal(bb_dataset_size(dataset), n);
    bb_image image;
    assert_int_equal(bb_dataset_image(dataset, n - 1, &image, NULL), BB_STATUS_OK);
    bb_image_free(&image);
    bb_dataset_destroy(dataset);
}

static void test_real_layouts(void **state) {
    check_size("datasets/ilsvrc2012_val1300", NULL, "list", 867);
    check_size("datasets/imagenet_train1000", "train", "list", 667);
    check_size("datasets/cifar10_exact", NULL, "cifar", 564);
    check_size("datasets/cifar10_jpeg", NULL, "image folder", 6667);
    check_size("datasets/cifar10_jpeg", "calib", "image folder", 520);
    check_size("datasets/mnist", NULL, "idx", 6667);
    expect_failure(data_path("datasets/VOCdevkit"), NULL, BB_STATUS_UNSUPPORTED, "detection");
    expect_failure(data_path("datasets/coco2017_mini"), NULL, BB_STATUS_UNSUPPORTED, "detection");
    expect_failure(data_path("datasets/BCCD"), NULL, BB_STATUS_UNSUPPORTED, "detection");
    expect_failure(data_path("datasets/camvid"), NULL, BB_STATUS_BAD_FILE, "class-index");
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_root, remove_root)

static void options_of_another_version_are_refused(void **state) {
    bb_dataset_options options = {.struct_size = 8};
    bb_dataset *dataset;
    bb_error err;
    assert_int_equal(bb_dataset_open("/nonexistent", &options, &dataset, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "bb_dataset_options"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_image_folder),
        IN_FOLDER(test_calibration_falls_back_to_what_there_is),
        IN_FOLDER(test_lists),
        IN_FOLDER(test_idx),
        IN_FOLDER(test_cifar),
        IN_FOLDER(test_images_without_labels),
        IN_FOLDER(test_choice_of_images),
        IN_FOLDER(test_several_threads_read),
        IN_FOLDER(test_out_of_memory),
        cmocka_unit_test(test_fashion_mnist),
        cmocka_unit_test(options_of_another_version_are_refused),
        cmocka_unit_test(test_real_layouts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
