/* SPDX-License-Identifier: Apache-2.0 */
#include "vision/config.h"
#include <math.h>
#include <string.h>

static bb_status fail(const bb_json_object *object, const char *key, const char *reason) {
    return bb_fail(object->err, BB_STATUS_BAD_FILE, "%s: '%s%s' %s", object->file, object->path,
                   key, reason);
}

bb_status bb_json_check_keys(const bb_json_object *object, const char *const *allowed) {
    const char *key;
    json_t *value;
    json_object_foreach(object->json, key, value) {
        size_t i = 0;
        while (allowed[i] && strcmp(allowed[i], key) != 0)
            i++;
        if (!allowed[i])
            return bb_fail(object->err, BB_STATUS_BAD_FILE, "%s: unknown key '%s%.64s'",
                           object->file, object->path, key);
    }
    return BB_STATUS_OK;
}

bb_status bb_json_member(const bb_json_object *object, const char *key, const char *path,
                         bb_json_object *member, bool *found) {
    json_t *json = json_object_get(object->json, key);
    *found = json != NULL;
    if (json && !json_is_object(json))
        return fail(object, key, "is not an object");
    *member = (bb_json_object){object->file, path, json, object->err};
    return BB_STATUS_OK;
}

bb_status bb_json_require(const bb_json_object *object, const char *key) {
    return json_object_get(object->json, key) ? BB_STATUS_OK : fail(object, key, "is missing");
}

bb_status bb_json_int(const bb_json_object *object, const char *key, int min, int max, int *value) {
    json_t *json = json_object_get(object->json, key);
    if (!json)
        return BB_STATUS_OK;
    if (!json_is_integer(json) || json_integer_value(json) < min || json_integer_value(json) > max)
        return bb_fail(object->err, BB_STATUS_BAD_FILE, "%s: '%s%s' is not an integer in %d..%d",
                       object->file, object->path, key, min, max);
    *value = (int)json_integer_value(json);
    return BB_STATUS_OK;
}

bb_status bb_json_number(const bb_json_object *object, const char *key, double min, double max,
                         double *value) {
    json_t *json = json_object_get(object->json, key);
    if (!json)
        return BB_STATUS_OK;
    double number = json_is_number(json) ? json_number_value(json) : NAN;
    if (!(number >= min && number <= max))
        return bb_fail(object->err, BB_STATUS_BAD_FILE, "%s: '%s%s' is not a number in %g..%g",
                       object->file, object->path, key, min, max);
    *value = number;
    return BB_STATUS_OK;
}

bb_status bb_json_bool(const bb_json_object *object, const char *key, bool *value) {
    json_t *json = json_object_get(object->json, key);
    if (!json)
        return BB_STATUS_OK;
    if (!json_is_boolean(json))
        return fail(object, key, "is neither true nor false");
    *value = json_is_true(json);
    return BB_STATUS_OK;
}

bb_status bb_json_choice(const bb_json_object *object, const char *key, const char *const *names,
                         int *value) {
    json_t *json = json_object_get(object->json, key);
    if (!json)
        return BB_STATUS_OK;
    for (int i = 0; names[i] && json_is_string(json); i++) {
        if (strcmp(names[i], json_string_value(json)) == 0) {
            *value = i;
            return BB_STATUS_OK;
        }
    }
    char known[128] = "";
    for (int i = 0; names[i]; i++) {
        strncat(known, i ? ", " : "", sizeof(known) - strlen(known) - 1);
        strncat(known, names[i], sizeof(known) - strlen(known) - 1);
    }
    return bb_fail(object->err, BB_STATUS_BAD_FILE, "%s: '%s%s' is not one of: %s", object->file,
                   object->path, key, known);
}

bb_status bb_json_numbers(const bb_json_object *object, const char *key, size_t n, double *values) {
    json_t *json = json_object_get(object->json, key);
    if (!json)
        return BB_STATUS_OK;
    bool good = json_is_array(json) && json_array_size(json) == n;
    for (size_t i = 0; good && i < n; i++) {
        json_t *entry = json_array_get(json, i);
        good = json_is_number(entry) && isfinite(json_number_value(entry));
        values[i] = json_number_value(entry);
    }
    if (!good)
        return bb_fail(object->err, BB_STATUS_BAD_FILE, "%s: '%s%s' is not an array of %zu numbers",
                       object->file, object->path, key, n);
    return BB_STATUS_OK;
}

bb_status bb_json_string(const bb_json_object *object, const char *key, const char **value) {
    json_t *json = json_object_get(object->json, key);
    if (!json)
        return BB_STATUS_OK;
    if (!json_is_string(json) || json_string_length(json) == 0)
        return fail(object, key, "is not a string");
    *value = json_string_value(json);
    return BB_STATUS_OK;
}
