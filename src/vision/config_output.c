/* SPDX-License-Identifier: Apache-2.0 */
/* The `output` object: which decoder, and its options. */
#include "vision/config.h"
#include <math.h>

enum { MAX_SIDE = 4096, MAX_CLASSES = 1 << 20, MAX_ANCHORS = 64 };

static bb_status read_classify(const bb_json_object *output, bb_config *config) {
    static const char *const keys[] = {"decoder", "drop_first", NULL};
    static const char *const decoders[] = {"argmax", NULL};
    int decoder = 0, drop = 0;
    BB_TRY(bb_json_check_keys(output, keys));
    BB_TRY(bb_json_choice(output, "decoder", decoders, &decoder));
    BB_TRY(bb_json_int(output, "drop_first", 0, MAX_CLASSES, &drop));
    config->drop_first = (size_t)drop;
    return BB_STATUS_OK;
}

static bb_status read_segment(const bb_json_object *output) {
    static const char *const keys[] = {"decoder", "classes", "ignore", "resize_logits_to_image",
                                       NULL};
    static const char *const decoders[] = {"argmax", NULL};
    int decoder = 0, classes = 0, ignore = 0;
    bool resize = false;
    BB_TRY(bb_json_check_keys(output, keys));
    BB_TRY(bb_json_choice(output, "decoder", decoders, &decoder));
    BB_TRY(bb_json_int(output, "classes", 1, 255, &classes));
    BB_TRY(bb_json_int(output, "ignore", 0, 255, &ignore));
    return bb_json_bool(output, "resize_logits_to_image", &resize);
}

static bool is_anchor(const json_t *pair) {
    if (!json_is_array(pair) || json_array_size(pair) != 2)
        return false;
    double width = json_number_value(json_array_get(pair, 0));
    double height = json_number_value(json_array_get(pair, 1));
    return width > 0 && height > 0 && isfinite(width) && isfinite(height);
}

/* One head: {"grid": 13, "anchors": [[w, h], ...]}. */
static bb_status check_head(const bb_json_object *head) {
    static const char *const keys[] = {"grid", "anchors", NULL};
    int grid = 0;
    BB_TRY(bb_json_check_keys(head, keys));
    BB_TRY(bb_json_require(head, "grid"));
    BB_TRY(bb_json_int(head, "grid", 1, MAX_SIDE, &grid));
    BB_TRY(bb_json_require(head, "anchors"));
    const json_t *anchors = json_object_get(head->json, "anchors");
    size_t n = json_array_size(anchors);
    bool good = n > 0 && n <= MAX_ANCHORS;
    for (size_t i = 0; good && i < n; i++)
        good = is_anchor(json_array_get(anchors, i));
    if (!good)
        return bb_fail(head->err, BB_STATUS_BAD_FILE,
                       "%s: '%sanchors' is not an array of 1..%d [width, height] pairs", head->file,
                       head->path, MAX_ANCHORS);
    return BB_STATUS_OK;
}

static bb_status check_heads(const bb_json_object *output) {
    BB_TRY(bb_json_require(output, "tensors"));
    const json_t *heads = json_object_get(output->json, "tensors");
    if (json_array_size(heads) == 0)
        return bb_fail(output->err, BB_STATUS_BAD_FILE, "%s: '%stensors' is not an array of heads",
                       output->file, output->path);
    for (size_t i = 0; i < json_array_size(heads); i++) {
        bb_json_object head = {output->file, "output.tensors[].", json_array_get(heads, i),
                               output->err};
        if (!json_is_object(head.json))
            return bb_fail(output->err, BB_STATUS_BAD_FILE, "%s: '%stensors' has a non-object",
                           output->file, output->path);
        BB_TRY(check_head(&head));
    }
    return BB_STATUS_OK;
}

static bb_status read_yolo(const bb_json_object *output) {
    static const char *const units[] = {"cell", "pixel", NULL};
    static const char *const scores[] = {"softmax", "sigmoid", NULL};
    int unit = 0, score = 0;
    BB_TRY(check_heads(output));
    BB_TRY(bb_json_choice(output, "anchor_unit", units, &unit));
    return bb_json_choice(output, "class_score", scores, &score);
}

static bb_status read_detect(const bb_json_object *output) {
    static const char *const yolo_keys[] = {
        "decoder",         "tensors", "anchor_unit", "class_score",
        "score_threshold", "nms_iou", "classes",     NULL};
    static const char *const free_keys[] = {"decoder", "score_threshold", "nms_iou", "classes",
                                            NULL};
    static const char *const decoders[] = {"yolo", "fastestdet", NULL};
    static const char *const classes[] = {"all", "best", NULL};
    int decoder = 0, boxes = 0;
    double threshold = 0, iou = 0;
    BB_TRY(bb_json_require(output, "decoder"));
    BB_TRY(bb_json_choice(output, "decoder", decoders, &decoder));
    BB_TRY(bb_json_check_keys(output, decoder == 0 ? yolo_keys : free_keys));
    BB_TRY(bb_json_number(output, "score_threshold", 0, 1, &threshold));
    BB_TRY(bb_json_number(output, "nms_iou", 0, 1, &iou));
    BB_TRY(bb_json_choice(output, "classes", classes, &boxes));
    return decoder == 0 ? read_yolo(output) : BB_STATUS_OK;
}

static bb_status read_tensor(const bb_json_object *output) {
    static const char *const keys[] = {NULL};
    return bb_json_check_keys(output, keys);
}

bb_status bb_config_read_output(const bb_json_object *output, bb_config *config) {
    switch (config->task) {
    case BB_TASK_CLASSIFY:
        return read_classify(output, config);
    case BB_TASK_DETECT:
        return read_detect(output);
    case BB_TASK_SEGMENT:
        return read_segment(output);
    case BB_TASK_TENSOR:
        return read_tensor(output);
    }
    return BB_STATUS_OK;
}
