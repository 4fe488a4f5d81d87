/* SPDX-License-Identifier: Apache-2.0 */
#include "vision/config.h"
#include <math.h>
#include <string.h>

enum { MAX_SIDE = 8192, MAX_CONFIG_BYTES = 1 << 20 };

static bb_status read_round_levels(const bb_json_object *input, bb_config *config) {
    static const char *const keys[] = {"scale", "min", "max", NULL};
    bb_json_object levels;
    BB_TRY(
        bb_json_member(input, "round_levels", "input.round_levels.", &levels, &config->has_round));
    if (!config->has_round)
        return BB_STATUS_OK;
    BB_TRY(bb_json_check_keys(&levels, keys));
    for (size_t i = 0; keys[i]; i++)
        BB_TRY(bb_json_require(&levels, keys[i]));
    BB_TRY(bb_json_number(&levels, "scale", 1e-6, 1e6, &config->round_scale));
    BB_TRY(bb_json_number(&levels, "min", -1e6, 1e6, &config->round_min));
    BB_TRY(bb_json_number(&levels, "max", -1e6, 1e6, &config->round_max));
    double min = config->round_min, max = config->round_max;
    if (min != floor(min) || max != floor(max) || min >= max)
        return bb_fail(input->err, BB_STATUS_BAD_FILE,
                       "%s: 'input.round_levels' needs integers min < max", input->file);
    return BB_STATUS_OK;
}

static bb_status read_normalization(const bb_json_object *input, bb_config *config) {
    size_t channels = (size_t)config->channels;
    config->scale = 1;
    for (size_t c = 0; c < channels; c++)
        config->std[c] = 1;
    BB_TRY(bb_json_number(input, "scale", -1e6, 1e6, &config->scale));
    BB_TRY(bb_json_numbers(input, "mean", channels, config->mean));
    BB_TRY(bb_json_numbers(input, "std", channels, config->std));
    for (size_t c = 0; c < channels; c++)
        if (!(fabs(config->std[c]) >= 1e-12))
            return bb_fail(input->err, BB_STATUS_BAD_FILE, "%s: 'input.std' has a zero",
                           input->file);
    return read_round_levels(input, config);
}

/* Which keys belong together. */
static bb_status check_geometry(const bb_json_object *input, const bb_config *config) {
    bool has_short = json_object_get(input->json, "short_side") != NULL;
    bool has_fill = json_object_get(input->json, "fill") != NULL;
    int larger = config->width > config->height ? config->width : config->height;
    const char *wrong = NULL;
    if (has_short != (config->resize == BB_RESIZE_SHORT_SIDE))
        wrong = "'input.short_side' goes with resize short_side, and only with it";
    else if (has_short && !config->crop_centre)
        wrong = "'input.resize' short_side needs crop centre";
    else if (has_short && config->short_side < larger)
        wrong = "'input.short_side' is smaller than the crop";
    else if (config->crop_centre && !has_short && config->resize != BB_RESIZE_NONE)
        wrong = "'input.crop' centre needs resize short_side or none";
    else if (has_fill && config->resize != BB_RESIZE_LETTERBOX)
        wrong = "'input.fill' goes with resize letterbox";
    if (wrong)
        return bb_fail(input->err, BB_STATUS_BAD_FILE, "%s: %s", input->file, wrong);
    return BB_STATUS_OK;
}

static bb_status read_geometry(const bb_json_object *input, bb_config *config) {
    static const char *const layouts[] = {"nchw", NULL};
    static const char *const orders[] = {"rgb", "bgr", "grey", NULL};
    static const char *const modes[] = {"stretch", "short_side", "letterbox", "none", NULL};
    static const char *const crops[] = {"none", "centre", NULL};
    static const char *const filters[] = {"bilinear", "antialias", NULL};
    int layout = 0, order = 0, mode = 0, crop = 0, filter = 0;
    BB_TRY(bb_json_require(input, "height"));
    BB_TRY(bb_json_require(input, "width"));
    BB_TRY(bb_json_int(input, "height", 1, MAX_SIDE, &config->height));
    BB_TRY(bb_json_int(input, "width", 1, MAX_SIDE, &config->width));
    BB_TRY(bb_json_choice(input, "layout", layouts, &layout));
    BB_TRY(bb_json_choice(input, "channels", orders, &order));
    BB_TRY(bb_json_choice(input, "resize", modes, &mode));
    BB_TRY(bb_json_int(input, "short_side", 1, MAX_SIDE, &config->short_side));
    BB_TRY(bb_json_choice(input, "crop", crops, &crop));
    BB_TRY(bb_json_choice(input, "filter", filters, &filter));
    BB_TRY(bb_json_number(input, "fill", 0, 255, &config->fill));
    config->order = (bb_channel_order)order;
    config->channels = config->order == BB_CHANNELS_GREY ? 1 : 3;
    config->resize = (bb_resize_mode)mode;
    config->crop_centre = crop == 1;
    config->filter = (bb_filter)filter;
    return check_geometry(input, config);
}

static bb_status read_input(const bb_json_object *input, bb_config *config) {
    static const char *const keys[] = {"height", "width",      "layout",       "channels", "resize",
                                       "crop",   "short_side", "filter",       "fill",     "scale",
                                       "mean",   "std",        "round_levels", NULL};
    BB_TRY(bb_json_check_keys(input, keys));
    BB_TRY(read_geometry(input, config));
    BB_TRY(read_normalization(input, config));
    bb_config_fill_tables(config);
    return BB_STATUS_OK;
}

/* labels_file is relative to the folder of the config. */
static bb_status read_labels_file(const bb_json_object *top, bb_config *config) {
    const char *name = NULL;
    BB_TRY(bb_json_string(top, "labels_file", &name));
    if (!name)
        return BB_STATUS_OK;
    const char *slash = strrchr(top->file, '/');
    size_t folder = slash && name[0] != '/' ? (size_t)(slash - top->file) + 1 : 0;
    bb_buffer path = {0};
    bb_buffer_append(&path, top->file, folder);
    bb_buffer_append(&path, name, strlen(name));
    config->labels_file = path.data;
    return path.failed ? bb_fail_memory(top->err, top->file) : BB_STATUS_OK;
}

static bb_status read_top(const bb_json_object *top, bb_config *config) {
    static const char *const keys[] = {"version", "task", "input", "labels_file", "output", NULL};
    static const char *const tasks[] = {"classify", "detect", "segment", "tensor", NULL};
    int version = 1, task = 0;
    bb_json_object input, output;
    bool has_output;
    BB_TRY(bb_json_check_keys(top, keys));
    BB_TRY(bb_json_require(top, "version"));
    BB_TRY(bb_json_int(top, "version", 1, 1, &version));
    BB_TRY(bb_json_require(top, "task"));
    BB_TRY(bb_json_choice(top, "task", tasks, &task));
    config->task = (bb_task)task;
    BB_TRY(bb_json_member(top, "input", "input.", &input, &config->has_input));
    if (config->has_input)
        BB_TRY(read_input(&input, config));
    else if (config->task != BB_TASK_TENSOR)
        return bb_json_require(top, "input");
    BB_TRY(read_labels_file(top, config));
    BB_TRY(bb_json_member(top, "output", "output.", &output, &has_output));
    if (has_output)
        return bb_config_read_output(&output, config);
    return config->task == BB_TASK_DETECT ? bb_json_require(top, "output") : BB_STATUS_OK;
}

bb_status bb_config_parse(const char *json, const char *name, bb_config **result, bb_error *err) {
    json_error_t where;
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, &where);
    if (!root)
        return bb_fail(err, BB_STATUS_BAD_FILE, "%s:%d:%d: %s", name, where.line, where.column,
                       where.text);
    bb_json_object top = {name, "", root, err};
    bb_config *config = bb_calloc_array(1, sizeof(*config));
    bb_status status;
    if (!json_is_object(root))
        status = bb_fail(err, BB_STATUS_BAD_FILE, "%s: not a JSON object", name);
    else if (!config || !(config->json = bb_strdup(json)))
        status = bb_fail_memory(err, name);
    else
        status = read_top(&top, config);
    json_decref(root);
    if (status == BB_STATUS_OK)
        *result = config;
    else
        bb_config_destroy(config);
    return status;
}

bb_status bb_config_load(const char *path, bb_config **config, bb_error *err) {
    bb_file file;
    BB_TRY(bb_file_open(path, &file, err));
    if (file.size > MAX_CONFIG_BYTES ||
        memchr(file.data ? file.data : (const uint8_t *)"", 0, file.size)) {
        bb_file_close(&file);
        return bb_fail(err, BB_STATUS_BAD_FILE, "%s: not a task config", path);
    }
    bb_buffer text = {0};
    bb_buffer_append(&text, file.data, file.size);
    bb_file_close(&file);
    bb_status status =
        text.failed ? bb_fail_memory(err, path) : bb_config_parse(text.data, path, config, err);
    bb_buffer_free(&text);
    return status;
}

void bb_config_destroy(bb_config *config) {
    if (!config)
        return;
    bb_free(config->json);
    bb_free(config->labels_file);
    bb_free(config);
}

bb_task bb_config_task(const bb_config *config) {
    return config->task;
}

const char *bb_config_json(const bb_config *config) {
    return config->json;
}

const char *bb_config_labels_file(const bb_config *config) {
    return config->labels_file;
}

void bb_config_input(const bb_config *config, int *channels, int *height, int *width) {
    *channels = config->channels;
    *height = config->height;
    *width = config->width;
}

void bb_config_normalization(const bb_config *config, float *scale, float mean[4], float std[4],
                             int *exact_pixels) {
    *scale = (float)config->scale;
    for (int c = 0; c < 4; c++) {
        mean[c] = c < config->channels ? (float)config->mean[c] : 0;
        std[c] = c < config->channels ? (float)config->std[c] : 1;
    }
    bool whole_fill = config->resize != BB_RESIZE_LETTERBOX || config->fill == floor(config->fill);
    *exact_pixels = config->has_input && !config->has_round && whole_fill;
}

int bb_config_levels(const bb_config *config, float *scale, float *min, float *max) {
    *scale = (float)config->round_scale;
    *min = (float)config->round_min;
    *max = (float)config->round_max;
    return config->has_round;
}
