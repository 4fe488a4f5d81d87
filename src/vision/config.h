/* SPDX-License-Identifier: Apache-2.0 */
/** @file config.h  The task config after checking, and the reader of its JSON. */
#ifndef BB_VISION_CONFIG_H
#define BB_VISION_CONFIG_H

#include "base/base.h"
#include "bitbranch/vision.h"
#include "vision/resize.h"
#include <jansson.h>

typedef enum bb_channel_order {
    BB_CHANNELS_RGB,
    BB_CHANNELS_BGR,
    BB_CHANNELS_GREY
} bb_channel_order;

typedef enum bb_resize_mode {
    BB_RESIZE_STRETCH,
    BB_RESIZE_SHORT_SIDE,
    BB_RESIZE_LETTERBOX,
    BB_RESIZE_NONE
} bb_resize_mode;

struct bb_config {
    bb_task task;
    bool has_input; /* false only for task tensor */
    int height, width, channels;
    bb_channel_order order;
    bb_resize_mode resize;
    int short_side;
    bool crop_centre;
    bb_filter filter;
    double fill; /* letterbox border, in pixel units */
    double scale, mean[3], std[3];
    bool has_round;
    double round_scale, round_min, round_max;
    float values[3][256]; /* the tensor value of each pixel value, per channel */
    float fill_values[3];
    size_t drop_first;
    char *json;
    char *labels_file;
};

/** Fills values and fill_values from the normalisation. */
void bb_config_fill_tables(bb_config *config);

/* ---- JSON: every getter names file and key in its message ----------------------------------- */

/** An object of the file. `path` is "" at the top, else "input." and the like. */
typedef struct bb_json_object {
    const char *file;
    const char *path;
    json_t *json;
    bb_error *err;
} bb_json_object;

/** Fails unless every key is one of `allowed`, which ends with NULL. */
bb_status bb_json_check_keys(const bb_json_object *object, const char *const *allowed);
/** Member that is an object; *found is false where it is absent. */
bb_status bb_json_member(const bb_json_object *object, const char *key, const char *path,
                         bb_json_object *member, bool *found);

/* Absent keys leave *value as it is. */
bb_status bb_json_int(const bb_json_object *object, const char *key, int min, int max, int *value);
bb_status bb_json_number(const bb_json_object *object, const char *key, double min, double max,
                         double *value);
bb_status bb_json_bool(const bb_json_object *object, const char *key, bool *value);
/** *value becomes the index in `names`, which ends with NULL. */
bb_status bb_json_choice(const bb_json_object *object, const char *key, const char *const *names,
                         int *value);
/** An array of exactly n finite numbers. */
bb_status bb_json_numbers(const bb_json_object *object, const char *key, size_t n, double *values);
/** The string lives as long as the object. */
bb_status bb_json_string(const bb_json_object *object, const char *key, const char **value);
/** Fails where the key is absent. */
bb_status bb_json_require(const bb_json_object *object, const char *key);

/** Checks the `output` object for the config's task and takes what classification needs. */
bb_status bb_config_read_output(const bb_json_object *output, bb_config *config);

#endif
