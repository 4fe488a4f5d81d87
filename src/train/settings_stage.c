/* SPDX-License-Identifier: Apache-2.0 */
#include "train/settings.h"
#include "vision/config.h"
#include <stdio.h>
#include <string.h>

typedef struct stage_reader {
    bb_settings *settings;
    bb_stage *stage;
    bb_json_object json;
} stage_reader;

static bb_status keep_string(const stage_reader *r, const char *key, const char **text) {
    const char *found = NULL;
    BB_TRY(bb_json_string(&r->json, key, &found));
    if (!found)
        return BB_STATUS_OK;
    *text = bb_arena_strdup(r->settings->arena, found);
    return *text ? BB_STATUS_OK : bb_fail_memory(r->json.err, r->json.file);
}

static bb_status read_float(const stage_reader *r, const char *key, double min, double max,
                            float *value) {
    double v = (double)*value;
    BB_TRY(bb_json_number(&r->json, key, min, max, &v));
    *value = (float)v;
    return BB_STATUS_OK;
}

/* ---- bits ------------------------------------------------------------------------------------ */

/* "w4a4" */
static bool parse_bits(const char *text, bb_bits *bits) {
    if (!text || strlen(text) != 4 || text[0] != 'w' || text[2] != 'a' || text[1] < '1' ||
        text[1] > '8' || text[3] < '1' || text[3] > '8')
        return false;
    bits->weight = (uint32_t)(text[1] - '0');
    bits->activation = (uint32_t)(text[3] - '0');
    return true;
}

static bb_status bad_bits(const stage_reader *r, const char *key, const char *also) {
    return bb_fail(r->json.err, BB_STATUS_BAD_FILE, "%s: '%s%s' is not bits such as \"w4a4\"%s",
                   r->json.file, r->json.path, key, also);
}

/* One string or an array of them; "float" is no profile. */
static bb_status read_profiles(const stage_reader *r) {
    bb_stage *s = r->stage;
    json_t *json = json_object_get(r->json.json, "bits");
    if (!json || (json_is_string(json) && strcmp(json_string_value(json), "float") == 0))
        return BB_STATUS_OK;
    size_t n = json_is_array(json) ? json_array_size(json) : 1;
    if (n == 0 || n > BB_TRAIN_MAX_PROFILES)
        return bad_bits(r, "bits", ", \"float\", or a list of at most 8");
    for (size_t i = 0; i < n; i++) {
        json_t *entry = json_is_array(json) ? json_array_get(json, i) : json;
        if (!parse_bits(json_string_value(entry), &s->profiles[i]))
            return bad_bits(r, "bits", ", \"float\", or a list of at most 8");
    }
    s->n_profiles = n;
    return BB_STATUS_OK;
}

static bb_status read_layers(const stage_reader *r) {
    bb_json_object layers;
    bool found;
    const char *name;
    json_t *value;
    BB_TRY(bb_json_member(&r->json, "layers", "", &layers, &found));
    if (!found)
        return BB_STATUS_OK;
    bb_arena *arena = r->settings->arena;
    r->stage->layers =
        bb_arena_array(arena, json_object_size(layers.json), sizeof(*r->stage->layers));
    json_object_foreach(layers.json, name, value) {
        bb_layer_bits *layer = r->stage->layers ? &r->stage->layers[r->stage->n_layers++] : NULL;
        if (!layer || !(layer->layer = bb_arena_strdup(arena, name)))
            return bb_fail_memory(r->json.err, r->json.file);
        if (!parse_bits(json_string_value(value), &layer->bits))
            return bad_bits(r, "layers", "");
    }
    return BB_STATUS_OK;
}

static bb_status read_first_last(const stage_reader *r) {
    const char *text = NULL;
    BB_TRY(bb_json_string(&r->json, "first_last", &text));
    r->stage->first_last = (bb_bits){8, 8};
    if (!text)
        return BB_STATUS_OK;
    r->stage->first_last_float = strcmp(text, "float") == 0;
    if (r->stage->first_last_float || parse_bits(text, &r->stage->first_last))
        return BB_STATUS_OK;
    return bad_bits(r, "first_last", " or \"float\"");
}

static bb_status read_quantizer(const stage_reader *r) {
    static const char *const quantizers[] = {"learned", "paper", "multi-branch", "dorefa", "bwn",
                                             "xnor",    "twn",   "abc",          NULL};
    static const char *const activations[] = {"learned", "htanh", "hrelu",
                                              "encoder", "float", NULL};
    /* What each was published with. */
    static const bb_lowbit_activations usual[] = {
        [BB_LOWBIT_WEIGHTS_LEARNED] = BB_LOWBIT_ACTIVATIONS_LEARNED,
        [BB_LOWBIT_WEIGHTS_PAPER] = BB_LOWBIT_ACTIVATIONS_HRELU,
        [BB_LOWBIT_WEIGHTS_MULTI_BRANCH] = BB_LOWBIT_ACTIVATIONS_ENCODER,
        [BB_LOWBIT_WEIGHTS_DOREFA] = BB_LOWBIT_ACTIVATIONS_HRELU,
        [BB_LOWBIT_WEIGHTS_BWN] = BB_LOWBIT_ACTIVATIONS_FLOAT,
        [BB_LOWBIT_WEIGHTS_XNOR] = BB_LOWBIT_ACTIVATIONS_HTANH,
        [BB_LOWBIT_WEIGHTS_TWN] = BB_LOWBIT_ACTIVATIONS_FLOAT,
        [BB_LOWBIT_WEIGHTS_ABC] = BB_LOWBIT_ACTIVATIONS_HTANH};
    int weights = 0;
    BB_TRY(bb_json_choice(&r->json, "quantizer", quantizers, &weights));
    int chosen = (int)usual[weights];
    BB_TRY(bb_json_choice(&r->json, "activations", activations, &chosen));
    r->stage->weights = (bb_lowbit_weights)weights;
    r->stage->activations = (bb_lowbit_activations)chosen;
    r->stage->residual_bits = 8;
    r->stage->calibration = 256;
    BB_TRY(bb_json_int(&r->json, "residual_bits", 8, 16, &r->stage->residual_bits));
    return bb_json_int(&r->json, "calibration", 1, 65536, &r->stage->calibration);
}

/* ---- optimisation ---------------------------------------------------------------------------- */

static bb_status read_optimizer(const stage_reader *r) {
    static const char *const kinds[] = {"sgd", "adam", NULL};
    bb_optimizer_options *o = &r->stage->optimizer;
    int kind = 0;
    bb_optimizer_options_init(o);
    BB_TRY(bb_json_choice(&r->json, "optimizer", kinds, &kind));
    o->kind = (bb_optimizer_kind)kind;
    BB_TRY(read_float(r, "momentum", 0, 0.99999, &o->momentum));
    BB_TRY(bb_json_bool(&r->json, "nesterov", &o->nesterov));
    BB_TRY(read_float(r, "beta1", 0, 0.99999, &o->beta1));
    BB_TRY(read_float(r, "beta2", 0, 0.99999999, &o->beta2));
    BB_TRY(read_float(r, "epsilon", 1e-30, 1, &o->epsilon));
    BB_TRY(read_float(r, "weight_decay", 0, 10, &o->weight_decay));
    return bb_json_bool(&r->json, "decoupled", &o->decoupled);
}

/* Epochs at which the rate steps down, as shares of the stage. */
static bb_status read_steps(const stage_reader *r) {
    bb_schedule *s = &r->stage->schedule;
    json_t *json = json_object_get(r->json.json, "at");
    if (!json)
        return BB_STATUS_OK;
    bool good = json_is_array(json) && json_array_size(json) <= BB_SCHEDULE_MAX_STEPS;
    double before = 0;
    for (size_t i = 0; good && i < json_array_size(json); i++) {
        json_t *entry = json_array_get(json, i);
        double epoch = json_number_value(entry);
        good = json_is_number(entry) && epoch >= before && epoch <= r->stage->epochs;
        s->at[i] = epoch / (r->stage->epochs > 0 ? r->stage->epochs : 1);
        before = epoch;
    }
    s->n_at = good ? json_array_size(json) : 0;
    return good ? BB_STATUS_OK
                : bb_fail(r->json.err, BB_STATUS_BAD_FILE,
                          "%s: '%sat' is not a list of rising epochs of the stage", r->json.file,
                          r->json.path);
}

static bb_status read_schedule(const stage_reader *r) {
    static const char *const kinds[] = {"cosine", "linear", "step", "constant", NULL};
    bb_schedule *s = &r->stage->schedule;
    int kind = 0;
    double warmup = 0;
    s->factor = 0.1;
    BB_TRY(bb_json_choice(&r->json, "schedule", kinds, &kind));
    s->kind = (bb_schedule_kind)kind;
    BB_TRY(bb_json_require(&r->json, "rate"));
    BB_TRY(bb_json_number(&r->json, "rate", 0, 100, &s->rate));
    BB_TRY(bb_json_number(&r->json, "end_rate", 0, 100, &s->end_rate));
    BB_TRY(bb_json_number(&r->json, "factor", 0, 1, &s->factor));
    BB_TRY(bb_json_number(&r->json, "warmup_epochs", 0, r->stage->epochs, &warmup));
    s->warmup = r->stage->epochs > 0 ? warmup / r->stage->epochs : 0;
    return read_steps(r);
}

static bb_status read_features(const stage_reader *r) {
    bb_stage *s = r->stage;
    json_t *json = json_object_get(r->json.json, "features");
    BB_TRY(bb_json_number(&r->json, "feature_weight", 0, 1e6, &s->feature_weight));
    if (!json)
        return BB_STATUS_OK;
    size_t n = json_is_array(json) ? json_array_size(json) : 0;
    s->features = bb_arena_array(r->settings->arena, n, sizeof(*s->features));
    for (size_t i = 0; s->features && i < n; i++) {
        const char *name = json_string_value(json_array_get(json, i));
        if (!name)
            n = 0;
        else if ((s->features[i] = bb_arena_strdup(r->settings->arena, name)))
            s->n_features++;
    }
    if (n == 0)
        return bb_fail(r->json.err, BB_STATUS_BAD_FILE, "%s: '%sfeatures' is not a list of names",
                       r->json.file, r->json.path);
    return s->n_features == n ? BB_STATUS_OK : bb_fail_memory(r->json.err, r->json.file);
}

static bb_status read_loss(const stage_reader *r) {
    static const char *const kinds[] = {"cross-entropy", "squared-hinge", NULL};
    bb_stage *s = r->stage;
    int kind = 0;
    s->teacher_weight = 0.5;
    s->temperature = 2;
    BB_TRY(bb_json_choice(&r->json, "loss", kinds, &kind));
    s->loss = (bb_train_loss)kind;
    BB_TRY(bb_json_number(&r->json, "label_smoothing", 0, 0.99, &s->label_smoothing));
    BB_TRY(keep_string(r, "teacher", &s->teacher));
    BB_TRY(bb_json_number(&r->json, "teacher_weight", 0, 1, &s->teacher_weight));
    BB_TRY(bb_json_number(&r->json, "temperature", 0.01, 1000, &s->temperature));
    return read_features(r);
}

/* ---- a stage --------------------------------------------------------------------------------- */

static const char *const stage_keys[] = {"name",         "bits",
                                         "from",         "layers",
                                         "first_last",   "quantizer",
                                         "activations",  "residual_bits",
                                         "calibration",  "epochs",
                                         "optimizer",    "momentum",
                                         "nesterov",     "beta1",
                                         "beta2",        "epsilon",
                                         "weight_decay", "decoupled",
                                         "schedule",     "rate",
                                         "end_rate",     "factor",
                                         "at",           "warmup_epochs",
                                         "loss",         "label_smoothing",
                                         "teacher",      "teacher_weight",
                                         "temperature",  "feature_weight",
                                         "features",     "bn_batches",
                                         "keep",         NULL};

/* Names become file names. */
static bool good_name(const char *name) {
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    return strspn(name, allowed) == strlen(name) && strlen(name) <= 64;
}

/* Without "from" the stage before; "new" is a network from nothing (or the imported one). */
static bb_status read_from(const stage_reader *r, size_t index) {
    bb_stage *s = r->stage;
    s->from = index > 0 ? r->settings->stages[index - 1].name : NULL;
    BB_TRY(keep_string(r, "from", &s->from));
    if (s->from && strcmp(s->from, "new") == 0)
        s->from = NULL;
    if (s->from && bb_settings_find_stage(r->settings, s->from, index) == index)
        return bb_fail(r->json.err, BB_STATUS_NOT_FOUND,
                       "%s: '%sfrom' is neither \"new\" nor an earlier stage", r->json.file,
                       r->json.path);
    return BB_STATUS_OK;
}

static bb_status read_stage(const stage_reader *r, size_t index) {
    static const char *const keeps[] = {"last", "best", NULL};
    bb_stage *s = r->stage;
    int keep = 0;
    BB_TRY(bb_json_require(&r->json, "name"));
    BB_TRY(keep_string(r, "name", &s->name));
    if (!good_name(s->name) || bb_settings_find_stage(r->settings, s->name, index) < index)
        return bb_fail(r->json.err, BB_STATUS_BAD_FILE,
                       "%s: '%sname' is used already or not made of letters, digits, - and _",
                       r->json.file, r->json.path);
    BB_TRY(read_from(r, index));
    BB_TRY(bb_json_require(&r->json, "epochs"));
    BB_TRY(bb_json_int(&r->json, "epochs", 0, 100000, &s->epochs));
    BB_TRY(bb_json_int(&r->json, "bn_batches", 0, 65536, &s->bn_batches));
    BB_TRY(bb_json_choice(&r->json, "keep", keeps, &keep));
    s->keep_best = keep == 1;
    BB_TRY(read_profiles(r));
    BB_TRY(read_layers(r));
    BB_TRY(read_first_last(r));
    BB_TRY(read_quantizer(r));
    BB_TRY(read_schedule(r));
    BB_TRY(read_optimizer(r));
    return read_loss(r);
}

static bb_status read_entry(bb_settings *settings, const char *file, json_t *defaults,
                            json_t *entry, size_t index, bb_error *err) {
    char path[32];
    snprintf(path, sizeof(path), "stages[%zu].", index);
    if (!json_is_object(entry))
        return bb_fail(err, BB_STATUS_BAD_FILE, "%s: 'stages[%zu]' is not an object", file, index);
    bb_json_object own = {file, path, entry, err};
    BB_TRY(bb_json_check_keys(&own, stage_keys));
    json_t *merged = defaults ? json_copy(defaults) : json_object();
    if (!merged || json_object_update(merged, entry) != 0) {
        json_decref(merged);
        return bb_fail_memory(err, file);
    }
    stage_reader r = {settings, &settings->stages[index], {file, path, merged, err}};
    bb_status status = read_stage(&r, index);
    json_decref(merged);
    return status;
}

bb_status bb_settings_read_stages(bb_settings *settings, const char *file, void *defaults_json,
                                  void *stages_json, bb_error *err) {
    json_t *stages = stages_json, *defaults = defaults_json;
    size_t n = json_array_size(stages); /* 0 of what is no array */
    if (n == 0 || n > BB_TRAIN_MAX_STAGES)
        return bb_fail(err, BB_STATUS_BAD_FILE, "%s: 'stages' is not a list of 1 to %d stages",
                       file, BB_TRAIN_MAX_STAGES);
    if (defaults) {
        bb_json_object own = {file, "defaults.", defaults, err};
        BB_TRY(bb_json_check_keys(&own, stage_keys));
    }
    settings->stages = bb_arena_array(settings->arena, n, sizeof(*settings->stages));
    if (!settings->stages)
        return bb_fail_memory(err, file);
    for (size_t i = 0; i < n; i++) {
        BB_TRY(read_entry(settings, file, defaults, json_array_get(stages, i), i, err));
        settings->n_stages = i + 1;
    }
    return BB_STATUS_OK;
}
