/* SPDX-License-Identifier: Apache-2.0 */
#include "train/settings.h"
#include "vision/config.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG_BYTES = 1 << 20, MAX_CACHE_MB = 1 << 20 };

/* ---- paths ----------------------------------------------------------------------------------- */

static const char *variable_value(const bb_path_rules *rules, const char *name, size_t length) {
    for (size_t i = 0; i < rules->n_variables; i++) {
        const char *entry = rules->variables[i];
        if (strncmp(entry, name, length) == 0 && entry[length] == '=')
            return entry + length + 1;
    }
    char text[64];
    if (length >= sizeof(text))
        return NULL;
    memcpy(text, name, length);
    text[length] = '\0';
    return getenv(text);
}

static bb_status expand(const bb_settings *settings, const bb_path_rules *rules, const char *text,
                        bb_buffer *out, bb_error *err) {
    while (*text) {
        const char *start = strstr(text, "${");
        const char *end = start ? strchr(start, '}') : NULL;
        if (!end) {
            bb_buffer_append(out, text, strlen(text));
            break;
        }
        const char *value = variable_value(rules, start + 2, (size_t)(end - start) - 2);
        if (!value)
            return bb_fail(err, BB_STATUS_NOT_FOUND,
                           "%s: variable %.*s is not set (--set NAME=VALUE or the environment)",
                           settings->path, (int)(end - start) + 1, start);
        bb_buffer_append(out, text, (size_t)(start - text));
        bb_buffer_append(out, value, strlen(value));
        text = end + 1;
    }
    return BB_STATUS_OK;
}

bb_status bb_settings_path(const bb_settings *settings, const bb_path_rules *rules,
                           const char *text, const char **path, bb_error *err) {
    const char *slash = strrchr(settings->path, '/');
    bool from_config = text[0] != '/' && strncmp(text, "${", 2) != 0;
    bb_buffer full = {0};
    if (slash && from_config)
        bb_buffer_append(&full, settings->path, (size_t)(slash - settings->path) + 1);
    bb_status status = expand(settings, rules, text, &full, err);
    if (status == BB_STATUS_OK) {
        *path = full.failed || !full.data ? NULL : bb_arena_strdup(settings->arena, full.data);
        status = *path ? BB_STATUS_OK : bb_fail_memory(err, settings->path);
    }
    bb_buffer_free(&full);
    return status;
}

/* A string of the config, kept. */
static bb_status read_text(const bb_settings *settings, const bb_json_object *object,
                           const char *key, const char **text) {
    const char *found = NULL;
    BB_TRY(bb_json_string(object, key, &found));
    if (!found)
        return BB_STATUS_OK;
    *text = bb_arena_strdup(settings->arena, found);
    return *text ? BB_STATUS_OK : bb_fail_memory(object->err, settings->path);
}

static bb_status read_path(const bb_settings *settings, const bb_path_rules *rules,
                           const bb_json_object *object, const char *key, const char **path) {
    const char *text = NULL;
    BB_TRY(bb_json_string(object, key, &text));
    return text ? bb_settings_path(settings, rules, text, path, object->err) : BB_STATUS_OK;
}

/* ---- parts ----------------------------------------------------------------------------------- */

/* The task config: an object here, or the name of its file. */
static bb_status read_task(bb_settings *s, const bb_path_rules *rules, const bb_json_object *top) {
    json_t *json = json_object_get(top->json, "task");
    BB_TRY(bb_json_require(top, "task"));
    if (json_is_string(json)) {
        const char *path = NULL;
        BB_TRY(read_path(s, rules, top, "task", &path));
        BB_TRY(bb_config_load(path, &s->task, top->err));
    } else {
        char *text = json_dumps(json, JSON_ENCODE_ANY | JSON_INDENT(2));
        if (!text)
            return bb_fail_memory(top->err, s->path);
        bb_status status = bb_config_parse(text, s->path, &s->task, top->err);
        free(text);
        BB_TRY(bb_error_prefix(top->err, status, "in 'task'"));
    }
    if (bb_config_task(s->task) != BB_TASK_CLASSIFY)
        return bb_fail(top->err, BB_STATUS_UNSUPPORTED,
                       "%s: only networks for the task 'classify' can be trained", s->path);
    BB_TRY(bb_config_read_labels(s->task, &s->labels, top->err));
    for (const char *c = s->labels; c && *c; c++)
        s->n_labels += *c == '\n' || c[1] == '\0';
    return BB_STATUS_OK;
}

static bb_status read_data(bb_settings *s, const bb_path_rules *rules, const bb_json_object *top) {
    static const char *const keys[] = {"train",          "test",        "train_split",
                                       "test_split",     "train_limit", "test_limit",
                                       "loader_threads", "cache_mb",    NULL};
    bb_json_object data;
    bool found;
    BB_TRY(bb_json_require(top, "data"));
    BB_TRY(bb_json_member(top, "data", "data.", &data, &found));
    BB_TRY(bb_json_check_keys(&data, keys));
    BB_TRY(bb_json_require(&data, "train"));
    BB_TRY(bb_json_require(&data, "test"));
    BB_TRY(read_path(s, rules, &data, "train", &s->train));
    BB_TRY(read_path(s, rules, &data, "test", &s->test));
    BB_TRY(read_text(s, &data, "train_split", &s->train_split));
    BB_TRY(read_text(s, &data, "test_split", &s->test_split));
    BB_TRY(bb_json_int(&data, "train_limit", 0, INT32_MAX, &s->train_limit));
    BB_TRY(bb_json_int(&data, "test_limit", 0, INT32_MAX, &s->test_limit));
    BB_TRY(bb_json_int(&data, "loader_threads", 1, 64, &s->loader_threads));
    return bb_json_int(&data, "cache_mb", 0, MAX_CACHE_MB, &s->cache_mb);
}

static bb_status read_augment(bb_settings *s, const bb_json_object *top) {
    static const char *const keys[] = {"crop_padding", "flip", "resize_crop", NULL};
    bb_json_object augment;
    bool found;
    double part[2] = {0, 0};
    BB_TRY(bb_json_member(top, "augment", "augment.", &augment, &found));
    if (!found)
        return BB_STATUS_OK;
    BB_TRY(bb_json_check_keys(&augment, keys));
    BB_TRY(bb_json_int(&augment, "crop_padding", 0, 1024, &s->augment.crop_padding));
    BB_TRY(bb_json_bool(&augment, "flip", &s->augment.flip));
    BB_TRY(bb_json_numbers(&augment, "resize_crop", 2, part));
    bool wanted = json_object_get(augment.json, "resize_crop") != NULL;
    if (wanted && !(part[0] > 0 && part[0] <= part[1] && part[1] <= 1))
        return bb_fail(top->err, BB_STATUS_BAD_FILE,
                       "%s: 'augment.resize_crop' needs 0 < smallest <= largest <= 1", s->path);
    s->augment.resize_crop_min = part[0];
    s->augment.resize_crop_max = part[1];
    return BB_STATUS_OK;
}

/* Up to max positive integers; *n stays 0 where the key is absent. */
static bb_status read_sizes(const bb_json_object *object, const char *key, int max, int *sizes,
                            int *n) {
    json_t *json = json_object_get(object->json, key);
    if (!json)
        return BB_STATUS_OK;
    bool good = json_is_array(json) && json_array_size(json) <= (size_t)max;
    for (size_t i = 0; good && i < json_array_size(json); i++) {
        json_int_t v = json_integer_value(json_array_get(json, i));
        good = v >= 1 && v <= 65536;
        sizes[i] = (int)v;
    }
    *n = good ? (int)json_array_size(json) : 0;
    return good ? BB_STATUS_OK
                : bb_fail(object->err, BB_STATUS_BAD_FILE,
                          "%s: '%s%s' is not an array of at most %d sizes in 1..65536",
                          object->file, object->path, key, max);
}

static bb_status read_built_network(bb_settings *s, const bb_json_object *network) {
    static const char *const kinds[] = {"resnet20",      "resnet18", "vgg-small",
                                        "fashion-small", "bireal20", NULL};
    static const char *const activations[] = {"relu", "htanh", "hrelu", NULL};
    bb_network_options *o = &s->network;
    int kind = 0, activation = 0, n = 0;
    BB_TRY(bb_json_require(network, "kind"));
    BB_TRY(bb_json_choice(network, "kind", kinds, &kind));
    BB_TRY(bb_json_choice(network, "activation", activations, &activation));
    o->kind = (bb_network_kind)kind;
    o->activation = (bb_network_activation)activation;
    o->classes = (int)s->n_labels;
    BB_TRY(bb_json_int(network, "classes", 2, 65536, &o->classes));
    if (o->classes < 2)
        return bb_json_require(network, "classes");
    BB_TRY(bb_json_int(network, "blocks", 1, 100, &o->blocks));
    BB_TRY(read_sizes(network, "widths", BB_NETWORK_MAX_WIDTHS, o->widths, &n));
    if (n != 0 && n != bb_network_widths(o->kind))
        return bb_fail(network->err, BB_STATUS_BAD_FILE, "%s: 'network.widths' of %s are %d",
                       s->path, kinds[kind], bb_network_widths(o->kind));
    BB_TRY(read_sizes(network, "hidden", BB_NETWORK_MAX_HIDDEN, o->hidden, &o->n_hidden));
    if (o->n_hidden > 0 && o->kind != BB_NETWORK_VGG_SMALL)
        return bb_fail(network->err, BB_STATUS_BAD_FILE,
                       "%s: 'network.hidden' goes with kind vgg-small", s->path);
    o->seed = s->seed;
    bb_config_input(s->task, &o->channels, &o->height, &o->width);
    return BB_STATUS_OK;
}

static bb_status read_network(bb_settings *s, const bb_path_rules *rules,
                              const bb_json_object *top) {
    static const char *const keys[] = {"kind",   "classes",    "blocks", "widths",
                                       "hidden", "activation", NULL};
    static const char *const file_keys[] = {"file", "batch_norm", NULL};
    bb_json_object network;
    bool found;
    BB_TRY(bb_json_require(top, "network"));
    BB_TRY(bb_json_member(top, "network", "network.", &network, &found));
    if (json_object_get(network.json, "file")) {
        BB_TRY(bb_json_check_keys(&network, file_keys));
        s->network_norm = true;
        BB_TRY(bb_json_bool(&network, "batch_norm", &s->network_norm));
        return read_path(s, rules, &network, "file", &s->network_file);
    }
    BB_TRY(bb_json_check_keys(&network, keys));
    return read_built_network(s, &network);
}

/* A file for a teacher is known by its name. */
static bb_status find_teachers(bb_settings *s, const bb_path_rules *rules, bb_error *err) {
    for (size_t i = 0; i < s->n_stages; i++) {
        bb_stage *stage = &s->stages[i];
        if (stage->teacher && strcmp(stage->teacher, "none") == 0)
            stage->teacher = NULL; /* where the defaults name one */
        if (!stage->teacher)
            stage->feature_weight = 0;
        if (!stage->teacher || bb_settings_find_stage(s, stage->teacher, i) < i)
            continue;
        if (!strstr(stage->teacher, ".onnx"))
            return bb_fail(err, BB_STATUS_NOT_FOUND,
                           "%s: teacher '%s' of stage '%s' is neither an earlier stage nor an "
                           ".onnx file",
                           s->path, stage->teacher, stage->name);
        stage->teacher_is_file = true;
        BB_TRY(bb_settings_path(s, rules, stage->teacher, &stage->teacher, err));
    }
    return BB_STATUS_OK;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static bb_status read_top(bb_settings *s, const bb_path_rules *rules, const bb_json_object *top) {
    static const char *const keys[] = {
        "version",     "out",    "seed", "batch",   "checkpoint_minutes",
        "max_minutes", "task",   "data", "augment", "network",
        "defaults",    "stages", NULL};
    int version = 1, seed = 1;
    bb_json_object defaults;
    bool found;
    BB_TRY(bb_json_check_keys(top, keys));
    BB_TRY(bb_json_require(top, "version"));
    BB_TRY(bb_json_int(top, "version", 1, 1, &version));
    BB_TRY(bb_json_int(top, "seed", 0, INT32_MAX, &seed));
    s->seed = (uint64_t)seed;
    BB_TRY(bb_json_int(top, "batch", 1, 65536, &s->batch));
    const char *out = NULL;
    BB_TRY(read_text(s, top, "out", &out));
    if (out) { /* where the user works, not beside the config */
        bb_settings here = {.path = "", .arena = s->arena};
        BB_TRY(bb_settings_path(&here, rules, out, &s->out, top->err));
    }
    BB_TRY(bb_json_number(top, "checkpoint_minutes", 0, 1e6, &s->checkpoint_minutes));
    BB_TRY(bb_json_number(top, "max_minutes", 0, 1e6, &s->max_minutes));
    BB_TRY(read_task(s, rules, top));
    BB_TRY(read_data(s, rules, top));
    BB_TRY(read_augment(s, top));
    BB_TRY(read_network(s, rules, top));
    BB_TRY(bb_json_member(top, "defaults", "defaults.", &defaults, &found));
    BB_TRY(bb_settings_read_stages(s, top->file, defaults.json,
                                   json_object_get(top->json, "stages"), top->err));
    return find_teachers(s, rules, top->err);
}

/* FNV-1a. */
static const uint64_t HASH_OF_NOTHING = 14695981039346656037u;
static uint64_t hash_text(uint64_t h, const char *text) {
    for (; *text; text++)
        h = (h ^ (uint8_t)*text) * 1099511628211u;
    return h;
}

static bool hash_json(uint64_t *h, const json_t *json) {
    char *text = json_dumps(json, JSON_SORT_KEYS | JSON_COMPACT);
    if (!text)
        return false;
    *h = hash_text(*h, text);
    free(text);
    return true;
}

/* All around the stages that results depend on, then one stage after the other. */
static bb_status hash_stages(bb_settings *s, json_t *root, bb_error *err) {
    static const char *const apart[] = {"stages", "out", "checkpoint_minutes", "max_minutes"};
    json_t *stages = json_incref(json_object_get(root, "stages"));
    uint64_t h = HASH_OF_NOTHING;
    for (size_t i = 0; i < BB_COUNT(apart); i++)
        json_object_del(root, apart[i]);
    s->until = bb_arena_array(s->arena, s->n_stages + 1, sizeof *s->until);
    bool ok = s->until && hash_json(&h, root);
    for (size_t i = 0; ok && i < s->n_stages; i++) {
        ok = hash_json(&h, json_array_get(stages, i));
        s->until[i] = h;
    }
    json_decref(stages);
    return ok ? BB_STATUS_OK : bb_fail_memory(err, s->path);
}

static bb_status parse(bb_settings *s, const bb_path_rules *rules, const char *text,
                       bb_error *err) {
    json_error_t where;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &where);
    if (!root)
        return bb_fail(err, BB_STATUS_BAD_FILE, "%s:%d:%d: %s", s->path, where.line, where.column,
                       where.text);
    bb_json_object top = {s->path, "", root, err};
    bb_status status = json_is_object(root)
                           ? read_top(s, rules, &top)
                           : bb_fail(err, BB_STATUS_BAD_FILE, "%s: not a JSON object", s->path);
    if (status == BB_STATUS_OK)
        status = hash_stages(s, root, err);
    json_decref(root);
    s->fingerprint = hash_text(HASH_OF_NOTHING, text);
    return status;
}

static bb_status read_file(bb_settings *s, const char *path, const bb_path_rules *rules,
                           bb_error *err) {
    bb_file file;
    bb_buffer text = {0};
    BB_TRY(bb_file_open(path, &file, err));
    bb_status status = BB_STATUS_OK;
    if (file.size == 0 || file.size > MAX_CONFIG_BYTES || memchr(file.data, 0, file.size))
        status = bb_fail(err, BB_STATUS_BAD_FILE, "%s: not a training config", path);
    else
        bb_buffer_append(&text, file.data, file.size);
    bb_file_close(&file);
    if (status == BB_STATUS_OK)
        status = text.failed ? bb_fail_memory(err, path) : parse(s, rules, text.data, err);
    bb_buffer_free(&text);
    return status;
}

bb_status bb_settings_load(const char *path, const char *const *variables, size_t n_variables,
                           bb_settings *s, bb_error *err) {
    const bb_path_rules rules = {variables, n_variables};
    *s =
        (bb_settings){.batch = 128, .checkpoint_minutes = 5, .loader_threads = 1, .cache_mb = 2048};
    s->arena = bb_arena_create();
    s->path = s->arena ? bb_arena_strdup(s->arena, path) : NULL;
    bb_status status = s->path ? read_file(s, path, &rules, err) : bb_fail_memory(err, path);
    if (status != BB_STATUS_OK)
        bb_settings_free(s);
    return status;
}

void bb_settings_free(bb_settings *s) {
    bb_config_destroy(s->task);
    bb_text_free(s->labels);
    bb_arena_destroy(s->arena);
    *s = (bb_settings){0};
}

size_t bb_settings_find_stage(const bb_settings *s, const char *name, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(s->stages[i].name, name) == 0)
            return i;
    return n;
}
