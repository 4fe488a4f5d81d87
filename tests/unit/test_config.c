/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "base/base.h"
#include "bitbranch/dataset.h"
#include "bitbranch/vision.h"
#include "data.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bb_config *parse(const char *json) {
    bb_config *config = NULL;
    bb_error err = {0};
    if (bb_config_parse(json, "test.json", &config, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    return config;
}

static void test_errors_name_file_and_key(void **state) {
    static const struct {
        const char *json, *word;
    } cases[] = {
        {"{", "test.json:1"},
        {"[]", "object"},
        {"{\"version\":1,\"version\":1}", "duplicate"},
        {"{\"version\":1,\"task\":\"classify\"}", "'input' is missing"},
        {"{\"task\":\"classify\",\"input\":{\"height\":1,\"width\":1}}", "'version' is missing"},
        {"{\"version\":2,\"task\":\"classify\",\"input\":{\"height\":1,\"width\":1}}", "'version'"},
        {"{\"version\":1,\"task\":\"sing\",\"input\":{}}", "'task' is not one of: classify"},
        {"{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":1,\"width\":1},\"foo\":1}",
         "unknown key 'foo'"},
        {"{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":1,\"widht\":1}}",
         "unknown key 'input.widht'"},
        {"{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":1}}",
         "'input.width' is missing"},
        {"{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":0,\"width\":1}}",
         "'input.height' is not an integer in 1.."},
        {"{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":1.5,\"width\":1}}",
         "'input.height'"},
        {"{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":1,\"width\":1,"
         "\"mean\":[1,2]}}",
         "'input.mean' is not an array of 3 numbers"},
        {"{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":1,\"width\":1,"
         "\"std\":[1,0,1]}}",
         "'input.std' has a zero"},
        {"{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":1,\"width\":1,\"fill\":3}}",
         "'input.fill' goes with resize letterbox"},
        {"{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":4,\"width\":4,\"resize\":"
         "\"short_side\",\"short_side\":3,\"crop\":\"centre\"}}",
         "smaller than the crop"},
        {"{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":4,\"width\":4,"
         "\"round_levels\":{\"scale\":128,\"min\":1}}}",
         "'input.round_levels.max' is missing"},
        {"{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":4,\"width\":4},\"output\":"
         "{\"nms_iou\":0.5}}",
         "unknown key 'output.nms_iou'"},
        {"{\"version\":1,\"task\":\"detect\",\"input\":{\"height\":4,\"width\":4},\"output\":"
         "{\"decoder\":\"yolo\"}}",
         "'output.tensors' is missing"},
        {"{\"version\":1,\"task\":\"detect\",\"input\":{\"height\":4,\"width\":4},\"output\":"
         "{\"decoder\":\"yolo\",\"tensors\":[{\"grid\":13,\"anchors\":[[1]]}]}}",
         "'output.tensors[].anchors'"},
        {"{\"version\":1,\"task\":\"detect\",\"input\":{\"height\":4,\"width\":4},\"output\":"
         "{\"decoder\":\"fastestdet\",\"score_threshold\":2}}",
         "'output.score_threshold' is not a number in 0..1"},
    };
    for (size_t i = 0; i < BB_COUNT(cases); i++) {
        bb_config *config = NULL;
        bb_error err = {0};
        assert_int_equal(bb_config_parse(cases[i].json, "test.json", &config, &err),
                         BB_STATUS_BAD_FILE);
        assert_null(config);
        if (!strstr(err.message, "test.json") || !strstr(err.message, cases[i].word))
            fail_msg("case %zu: %s", i, err.message);
    }
}

static void test_broken_text_never_crashes(void **state) {
    static const char good[] =
        "{\"version\":1,\"task\":\"detect\",\"input\":{\"height\":4,\"width\":6,\"resize\":"
        "\"letterbox\",\"fill\":127.5,\"mean\":[1,2,3],\"round_levels\":{\"scale\":128,\"min\":"
        "-128,\"max\":127}},\"labels_file\":\"labels.txt\",\"output\":{\"decoder\":\"yolo\","
        "\"tensors\":[{\"grid\":13,\"anchors\":[[1.08,1.19]]}],\"classes\":\"all\"}}";
    bb_config_destroy(parse(good));
    bb_rng rng;
    bb_rng_seed(&rng, 3);
    int parsed = 0, rounds = 20000;
    for (int round = 0; round < rounds; round++) {
        char text[sizeof(good)];
        memcpy(text, good, sizeof(good));
        for (int i = 0; i < 2; i++) /* bytes that occur in such files */
            text[bb_rng_below(&rng, sizeof(good) - 1)] = good[bb_rng_below(&rng, sizeof(good) - 1)];
        bb_config *config;
        bb_error err;
        if (bb_config_parse(text, "x/y.json", &config, &err) == BB_STATUS_OK) {
            bb_config_destroy(config);
            parsed++;
        }
    }
    assert_true(parsed > 0 && parsed < rounds / 2);
}

static void test_out_of_memory(void **state) {
    static const char json[] = "{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":4,"
                               "\"width\":4},\"labels_file\":\"l.txt\"}";
    bb_status status = BB_STATUS_OUT_OF_MEMORY;
    long n = 0;
    for (; status == BB_STATUS_OUT_OF_MEMORY && n < 100; n++) {
        bb_config *config = NULL;
        bb_error err = {0};
        bb_alloc_fail_after(n);
        status = bb_config_parse(json, "a/b.json", &config, &err);
        bb_alloc_fail_after(-1);
        bb_config_destroy(config);
    }
    assert_int_equal(status, BB_STATUS_OK);
    assert_true(n > 2);
}

static const uint8_t six_pixels[] = {10, 20, 30, 40, 50, 60, 70, 80, 90,
                                     11, 21, 31, 41, 51, 61, 71, 81, 91};

static void test_channel_orders(void **state) {
    bb_image rgb = {3, 2, 3, (uint8_t *)(uintptr_t)six_pixels};
    bb_image grey = {3, 2, 1, (uint8_t *)(uintptr_t)six_pixels};
    uint8_t hwc[18];
    bb_config *config = parse("{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":2,"
                              "\"width\":3,\"channels\":\"bgr\",\"resize\":\"none\"}}");
    assert_int_equal(bb_config_pixels(config, &rgb, hwc, NULL), BB_STATUS_OK);
    assert_memory_equal(hwc, ((uint8_t[]){30, 20, 10, 60, 50, 40}), 6);
    assert_int_equal(bb_config_pixels(config, &grey, hwc, NULL), BB_STATUS_OK);
    assert_memory_equal(hwc, ((uint8_t[]){10, 10, 10, 20, 20, 20}), 6);
    bb_config_destroy(config);
    config = parse("{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":2,\"width\":3,"
                   "\"channels\":\"grey\",\"resize\":\"none\"}}");
    assert_int_equal(bb_config_pixels(config, &rgb, hwc, NULL), BB_STATUS_OK);
    assert_int_equal(hwc[0], 18); /* 0.299*10 + 0.587*20 + 0.114*30 = 18.15 */
    bb_error err = {0};
    rgb.width = 2;
    assert_int_equal(bb_config_pixels(config, &rgb, hwc, &err), BB_STATUS_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "2x2"));
    bb_config_destroy(config);
}

static void test_values_and_levels(void **state) {
    bb_config *config = parse(
        "{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":1,\"width\":2,\"channels\":"
        "\"grey\",\"resize\":\"none\",\"scale\":0.5,\"mean\":[3],\"std\":[2],"
        "\"round_levels\":{\"scale\":2,\"min\":-2,\"max\":5}}}");
    bb_image image = {2, 1, 1, (uint8_t[]){9, 200}};
    float values[2], scale, min, max, mean[4], std[4];
    int exact;
    assert_int_equal(bb_config_tensor(config, &image, values, NULL), BB_STATUS_OK);
    assert_true(values[0] == 1.0f); /* (4.5-3)/2 = 0.75, 1.5 -> 2 of 2 */
    assert_true(values[1] == 2.5f); /* clamped to 5 of 2 */
    assert_int_equal(bb_config_levels(config, &scale, &min, &max), 1);
    assert_true(scale == 2 && min == -2 && max == 5);
    bb_config_normalization(config, &scale, mean, std, &exact);
    assert_true(scale == 0.5f && mean[0] == 3 && std[0] == 2 && !exact);
    bb_config_destroy(config);
}

/* What lies where after letterboxing and cropping a picture whose pixels are their column. */
static void test_geometry(void **state) {
    bb_image wide = {8, 4, 1, malloc(32)};
    for (int i = 0; i < 32; i++)
        wide.pixels[i] = (uint8_t)(i % 8 * 10);
    uint8_t out[64];
    float values[64];
    bb_config *config = parse("{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":8,"
                              "\"width\":8,\"channels\":\"grey\",\"resize\":\"letterbox\",\"fill\":"
                              "127.5}}");
    assert_int_equal(bb_config_pixels(config, &wide, out, NULL), BB_STATUS_OK);
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 8; x++)
            assert_int_equal(out[y * 8 + x], y < 2 || y >= 6 ? 128 : x * 10);
    assert_int_equal(bb_config_tensor(config, &wide, values, NULL), BB_STATUS_OK);
    assert_true(values[0] == 127.5f && values[16] == 0 && values[63] == 127.5f);
    bb_config_destroy(config);
    config = parse("{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":4,\"width\":4,"
                   "\"channels\":\"grey\",\"resize\":\"short_side\",\"short_side\":4,\"crop\":"
                   "\"centre\"}}");
    assert_int_equal(bb_config_pixels(config, &wide, out, NULL), BB_STATUS_OK);
    for (int i = 0; i < 16; i++)
        assert_int_equal(out[i], (2 + i % 4) * 10);
    bb_config_destroy(config);
    config = parse("{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":1,\"width\":5,"
                   "\"channels\":\"grey\",\"resize\":\"none\",\"crop\":\"centre\"}}");
    assert_int_equal(bb_config_pixels(config, &wide, out, NULL), BB_STATUS_OK);
    for (int i = 0; i < 5; i++) /* 8 - 5 = 1 + 2: the odd column goes on the right */
        assert_int_equal(out[i], (1 + i) * 10);
    bb_config_destroy(config);
    free(wide.pixels);
}

static void test_top_classes(void **state) {
    bb_config *config = parse("{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":4,"
                              "\"width\":4},\"output\":{\"drop_first\":1}}");
    const float scores[] = {9, 1, 3, 3, 2, -1};
    size_t top[5];
    assert_int_equal(bb_classify_count(config, 6), 5);
    bb_classify_top(config, scores, 6, 5, top);
    assert_memory_equal(top, ((size_t[]){1, 2, 3, 0, 4}), sizeof(top));
    bb_classify_top(config, scores, 6, 1, top);
    assert_int_equal(top[0], 1);
    assert_true(bb_classify_score(config, scores, 1) == 3);
    bb_config_destroy(config);
}

static void test_labels_skip_what_the_scores_skip(void **state) {
    char dir[] = "/tmp/bb_config_XXXXXX", path[64], *labels;
    bb_error err = {0};
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/c.json", dir);
    const char json[] = "{\"version\":1,\"task\":\"classify\",\"input\":{\"height\":4,\"width\":4},"
                        "\"labels_file\":\"l.txt\",\"output\":{\"drop_first\":1}}";
    assert_int_equal(bb_file_write(path, json, sizeof(json) - 1, &err), BB_STATUS_OK);
    bb_config *config;
    assert_int_equal(bb_config_load(path, &config, &err), BB_STATUS_OK);
    assert_int_equal(bb_config_read_labels(config, &labels, &err), BB_STATUS_IO);
    assert_non_null(strstr(err.message, "l.txt"));
    assert_int_equal(bb_file_write(bb_config_labels_file(config), "none\ncaf\xe9\n", 10, &err),
                     BB_STATUS_OK);
    assert_int_equal(bb_config_read_labels(config, &labels, &err), BB_STATUS_BAD_FILE);
    assert_non_null(strstr(err.message, "l.txt: class names are UTF-8; byte 9 is not"));
    assert_int_equal(bb_file_write(bb_config_labels_file(config), "none\na\nb\n", 9, &err),
                     BB_STATUS_OK);
    assert_int_equal(bb_config_read_labels(config, &labels, &err), BB_STATUS_OK);
    assert_string_equal(labels, "a\nb\n");
    bb_text_free(labels);
    assert_int_equal(unlink(bb_config_labels_file(config)), 0);
    bb_config_destroy(config);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0);
}

/* ---- real models: the mean and the first pixel of the input tensor, measured with other tools  */

static void check_tensor(const char *config_name, const char *data, const char *split, double mean,
                         const float *first, size_t n_first) {
    const char *config_path = data_path(config_name), *path = data_path(data);
    bb_config *config;
    bb_dataset *dataset;
    bb_dataset_options options;
    bb_image image;
    bb_error err = {0};
    int channels, height, width;
    bb_dataset_options_init(&options);
    options.split = split;
    if (bb_config_load(config_path, &config, &err) != BB_STATUS_OK ||
        bb_dataset_open(path, &options, &dataset, &err) != BB_STATUS_OK ||
        bb_dataset_image(dataset, 0, &image, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    bb_config_input(config, &channels, &height, &width);
    size_t n = (size_t)channels * (size_t)height * (size_t)width, plane = n / (size_t)channels;
    float *tensor = malloc(n * sizeof(*tensor));
    if (bb_config_tensor(config, &image, tensor, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += tensor[i];
    if (fabs(sum / (double)n - mean) > 1e-5 * fmax(1, fabs(mean)))
        fail_msg("%s: mean %.7f is not %.7f", config_name, sum / (double)n, mean);
    for (size_t c = 0; c < n_first; c++)
        assert_true(fabsf(tensor[c * plane] - first[c]) < 2e-5f);
    free(tensor);
    bb_image_free(&image);
    bb_dataset_destroy(dataset);
    bb_config_destroy(config);
}

#define FIRST(...) (const float[]){__VA_ARGS__}, 3

static void test_imagenet_inputs(void **state) {
    const char *data = "datasets/ilsvrc2012_val1300";
    check_tensor("models/resnet18_imagenet/resnet18_pqf.json", data, "val", 0.612084,
                 FIRST(1.64954f, 1.90336f, 2.16941f));
    check_tensor("models/mobilenetv2_imagenet/mobilenetv2.json", data, NULL, 0.169648,
                 FIRST(.71875f, .7578125f, .78125f));
    check_tensor("models/squeezenet_imagenet/squeezenet1.0_dc.json", data, NULL, 35.04607,
                 FIRST(124, 108, 97));
    check_tensor("models/mobilenetv1_025_128_imagenet/mobilenetv1_025_128.json", data, NULL,
                 0.169412, FIRST(.7265625f, .765625f, .7890625f));
}

static void test_cifar_inputs(void **state) {
    const char *data = "datasets/cifar10_exact";
    check_tensor("models/resnet20_cifar10/resnet20_cifar10.json", data, NULL, -0.105231,
                 FIRST(.58781f, -.07493f, -.95041f));
    check_tensor("models/resnet8_cifar10/resnet8_cifar10.json", data, NULL, 108.38607,
                 FIRST(158, 112, 49));
    check_tensor("models/cnv_lowbit_cifar10/cnv_w1a1.json", data, NULL, -0.150678,
                 FIRST(.2421875f, -.125f, -.6171875f));
}

static void test_detection_inputs(void **state) {
    check_tensor("models/fastestdet_coco/FastestDet.json",
                 "datasets/coco2017_mini/images/val2017/000000000139.jpg", NULL, 0.407188, NULL, 0);
    check_tensor("models/yolofastest_xl_coco/yolo-fastest-1.1-xl.json",
                 "datasets/coco2017_mini/images/val2017/000000000139.jpg", NULL, 0.407225, NULL, 0);
    check_tensor("models/tinieryolo_w1a3_voc/tinieryolo_w1a3.json",
                 "datasets/VOCdevkit/VOC2012/JPEGImages/2008_000009.jpg", NULL, 0.513111, NULL, 0);
}

static void test_segmentation_inputs(void **state) {
    check_tensor("models/espnet_camvid/espnet_camvid.json",
                 "datasets/camvid/test/0001TP_008550.jpg", NULL, -0.0026590, NULL, 0);
    check_tensor("models/deeplabv3_mnv2_dm05_voc/deeplabv3_mnv2_dm05_voc.json",
                 "datasets/VOCdevkit/VOC2012/JPEGImages/2007_000175.jpg", NULL, -0.201762, NULL, 0);
}

static void test_mnist_config(void **state) {
    bb_config *config;
    bb_error err = {0};
    assert_int_equal(bb_config_load(data_path("models/qonnx_small/TFC_1W1A.json"), &config, &err),
                     BB_STATUS_OK);
    int channels, height, width;
    bb_config_input(config, &channels, &height, &width);
    assert_int_equal(channels, 1);
    assert_int_equal(height * width, 784);
    assert_null(bb_config_labels_file(config));
    bb_config_destroy(config);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors_name_file_and_key),
        cmocka_unit_test(test_broken_text_never_crashes),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_channel_orders),
        cmocka_unit_test(test_values_and_levels),
        cmocka_unit_test(test_geometry),
        cmocka_unit_test(test_top_classes),
        cmocka_unit_test(test_labels_skip_what_the_scores_skip),
        cmocka_unit_test(test_imagenet_inputs),
        cmocka_unit_test(test_cifar_inputs),
        cmocka_unit_test(test_detection_inputs),
        cmocka_unit_test(test_segmentation_inputs),
        cmocka_unit_test(test_mnist_config),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
