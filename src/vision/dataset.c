/* SPDX-License-Identifier: Apache-2.0 */
#include "vision/dataset.h"
#include "vision/image.h"
#include <stdio.h>
#include <string.h>

/* Most specific first: a folder of class folders may also hold lists or record files. */
static const bb_dataset_layout *const layouts[] = {
    &bb_layout_idx, &bb_layout_cifar, &bb_layout_list, &bb_layout_folder, &bb_layout_images,
};

void bb_dataset_options_init(bb_dataset_options *options) {
    *options = (bb_dataset_options){.struct_size = sizeof(*options)};
}

bb_status bb_dataset_add(bb_dataset *dataset, const bb_sample *sample, bb_error *err) {
    if (dataset->n == dataset->capacity) {
        size_t capacity = dataset->capacity ? 2 * dataset->capacity : 256;
        bb_sample *samples =
            bb_realloc_array(dataset->samples, capacity, sizeof(*dataset->samples));
        if (!samples)
            return bb_fail_memory(err, "dataset");
        dataset->samples = samples;
        dataset->capacity = capacity;
    }
    dataset->samples[dataset->n++] = *sample;
    return BB_STATUS_OK;
}

/* ---- choosing a split ------------------------------------------------------------------------ */

static const bb_split *find_split(const bb_split *splits, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(splits[i].name, name) == 0)
            return &splits[i];
    return NULL;
}

static const bb_split *default_split(const bb_split *splits, size_t n, bool calibration) {
    static const char *const wanted[2][5] = {{"val", "test", "all"},
                                             {"train", "calib", "all", "val", "test"}};
    const bb_split *split = NULL;
    for (size_t i = 0; i < 5 && wanted[calibration][i] && !split; i++)
        split = find_split(splits, n, wanted[calibration][i]);
    return split;
}

static void list_splits(const bb_split *splits, size_t n, char *text, size_t size) {
    text[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        size_t used = strlen(text);
        snprintf(text + used, size - used, "%s%s", i ? ", " : "", splits[i].name);
    }
}

static bb_status choose_split(const char *path, const bb_dataset_options *options,
                              const bb_split *splits, size_t n, const bb_split **split,
                              bb_error *err) {
    const char *name = options->split;
    const char *known = name ? bb_split_name(name, strlen(name)) : NULL;
    if (name)
        *split = find_split(splits, n, known ? known : name);
    else
        *split = default_split(splits, n, options->calibration != 0);
    if (*split)
        return BB_STATUS_OK;
    char present[128];
    list_splits(splits, n, present, sizeof(present));
    if (name)
        return bb_fail(err, BB_STATUS_NOT_FOUND, "%s: no split '%s' (present: %s)", path, name,
                       present);
    return bb_fail(err, BB_STATUS_NOT_FOUND, "%s: no split for evaluation (present: %s)", path,
                   present);
}

/* ---- opening --------------------------------------------------------------------------------- */

/* A layout's splits of a folder; *layout is NULL where no layout fits. */
static bb_status find_layout(bb_dataset *dataset, const char *path,
                             const bb_dataset_layout **layout, bb_split *splits, size_t *n,
                             bb_error *err) {
    bb_folder folder;
    BB_TRY(bb_folder_read(dataset->arena, path, &folder, err));
    if (bb_folder_has(&folder, "annotations") || bb_folder_has(&folder, "Annotations") ||
        bb_folder_has(&folder, "VOC2012") || bb_folder_has(&folder, "VOC2007"))
        return bb_fail(err, BB_STATUS_UNSUPPORTED,
                       "%s: detection and segmentation data sets are not read yet", path);
    *n = 0;
    for (size_t i = 0; i < BB_COUNT(layouts) && *n == 0; i++) {
        *layout = layouts[i];
        BB_TRY(layouts[i]->find(dataset->arena, &folder, splits, n, err));
    }
    if (*n == 0)
        return bb_fail(err, BB_STATUS_BAD_FILE,
                       "%s: no data set layout recognised (image folder, \"file class\" list, IDX, "
                       "CIFAR .bin, or images)",
                       path);
    return BB_STATUS_OK;
}

static bb_status match_file(const char *path, const bb_dataset_layout **layout, bb_split *splits,
                            bb_error *err) {
    const char *slash = strrchr(path, '/');
    bb_file file;
    BB_TRY(bb_file_open(path, &file, err)); /* says what is wrong with a path that leads nowhere */
    bb_file_close(&file);
    for (size_t i = 0; i < BB_COUNT(layouts); i++) {
        const char *split =
            layouts[i]->match_file ? layouts[i]->match_file(slash ? slash + 1 : path) : NULL;
        if (!split)
            continue;
        *layout = layouts[i];
        splits[0] = (bb_split){split, path};
        return BB_STATUS_OK;
    }
    return bb_fail(err, BB_STATUS_BAD_FILE,
                   "%s: neither an image, a \"file class\" list, nor an IDX or CIFAR file", path);
}

/* A file named on the command line is what the user wants, whatever its split is called; only a
 * split asked for by name, or calibration on a test file, can contradict it. */
static bb_status open_path(bb_dataset *dataset, const char *path, const bb_dataset_options *options,
                           const bb_class_names *classes, bb_error *err) {
    const bb_dataset_layout *layout = NULL;
    bb_split splits[BB_MAX_SPLITS];
    const bb_split *split = splits;
    size_t n = 1;
    bool folder = bb_is_folder(path);
    if (folder)
        BB_TRY(find_layout(dataset, path, &layout, splits, &n, err));
    else
        BB_TRY(match_file(path, &layout, splits, err));
    if (folder || options->split || options->calibration)
        BB_TRY(choose_split(path, options, splits, n, &split, err));
    dataset->kind = layout->kind;
    dataset->split = bb_arena_strdup(dataset->arena, split->name);
    dataset->source = bb_arena_strdup(dataset->arena, split->path);
    if (!dataset->split || !dataset->source)
        return bb_fail_memory(err, path);
    bb_split owned = {dataset->split, dataset->source};
    BB_TRY(layout->load(dataset, &owned, classes, err));
    if (dataset->n == 0)
        return bb_fail(err, BB_STATUS_BAD_FILE, "%s: no images", dataset->source);
    return BB_STATUS_OK;
}

/* Fisher-Yates: every order is equally likely, and the same for the same seed. */
static void shuffle(bb_sample *samples, size_t n, uint64_t seed) {
    bb_rng rng;
    bb_rng_seed(&rng, seed);
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)bb_rng_below(&rng, i);
        bb_sample swap = samples[i - 1];
        samples[i - 1] = samples[j];
        samples[j] = swap;
    }
}

static void apply_limit(bb_dataset *dataset, const bb_dataset_options *options) {
    size_t n = dataset->n, limit = options->limit;
    if (options->calibration)
        shuffle(dataset->samples, n, options->seed);
    if (limit == 0 || limit >= n)
        return;
    for (size_t i = 0; i < limit && !options->calibration; i++) /* i*n/limit >= i: moves down */
        dataset->samples[i] = dataset->samples[(size_t)((double)i * (double)n / (double)limit)];
    dataset->n = limit;
}

static bb_status check_labels(const bb_dataset *dataset, const bb_class_names *classes,
                              bb_error *err) {
    for (size_t i = 0; i < dataset->n; i++)
        if (dataset->samples[i].label >= 0 && (size_t)dataset->samples[i].label >= classes->n)
            return bb_fail(err, BB_STATUS_BAD_FILE, "%s: class %d, but the network has %zu classes",
                           dataset->samples[i].name, dataset->samples[i].label, classes->n);
    return BB_STATUS_OK;
}

static bb_status open_labelled(bb_dataset *dataset, const char *path,
                               const bb_dataset_options *options, bb_error *err) {
    if (!options->labels)
        return open_path(dataset, path, options, NULL, err);
    bb_class_names classes;
    BB_TRY(bb_class_names_parse(dataset->arena, options->labels, &classes, err));
    BB_TRY(open_path(dataset, path, options, &classes, err));
    return check_labels(dataset, &classes, err);
}

bb_status bb_dataset_open(const char *path, const bb_dataset_options *options, bb_dataset **result,
                          bb_error *err) {
    bb_dataset_options defaults;
    bb_dataset_options_init(&defaults);
    if (!options)
        options = &defaults;
    BB_TRY(bb_check_options(options->struct_size, sizeof(*options), "bb_dataset_options", err));
    bb_dataset *dataset = bb_calloc_array(1, sizeof(*dataset));
    if (!dataset || !(dataset->arena = bb_arena_create())) {
        bb_free(dataset);
        return bb_fail_memory(err, path);
    }
    bb_status status = open_labelled(dataset, path, options, err);
    if (status != BB_STATUS_OK) {
        bb_dataset_destroy(dataset);
        return status;
    }
    apply_limit(dataset, options);
    *result = dataset;
    return BB_STATUS_OK;
}

void bb_dataset_destroy(bb_dataset *dataset) {
    if (!dataset)
        return;
    for (size_t i = 0; i < dataset->n_records; i++)
        bb_file_close(&dataset->records[i].file);
    bb_free(dataset->samples);
    bb_arena_destroy(dataset->arena);
    bb_free(dataset);
}

/* ---- reading --------------------------------------------------------------------------------- */

static bb_status read_record(const bb_records *records, const bb_sample *sample, bb_image *image,
                             bb_error *err) {
    BB_TRY(bb_image_create(sample->name, (size_t)records->width, (size_t)records->height,
                           records->channels, image, err));
    const uint8_t *from =
        records->file.data + records->header + sample->record * records->stride + records->skip;
    size_t plane = (size_t)records->width * (size_t)records->height;
    size_t channels = (size_t)records->channels;
    for (size_t i = 0; i < plane; i++)
        for (size_t c = 0; c < channels; c++)
            image->pixels[i * channels + c] = from[c * plane + i];
    return BB_STATUS_OK;
}

bb_status bb_dataset_image(const bb_dataset *dataset, size_t i, bb_image *image, bb_error *err) {
    *image = (bb_image){0};
    if (i >= dataset->n)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "image %zu of %zu", i, dataset->n);
    const bb_sample *sample = &dataset->samples[i];
    if (sample->path)
        return bb_image_read(sample->path, image, err);
    return read_record(&dataset->records[sample->source], sample, image, err);
}

size_t bb_dataset_size(const bb_dataset *dataset) {
    return dataset->n;
}

const char *bb_dataset_kind(const bb_dataset *dataset) {
    return dataset->kind;
}

const char *bb_dataset_split(const bb_dataset *dataset) {
    return dataset->split;
}

const char *bb_dataset_source(const bb_dataset *dataset) {
    return dataset->source;
}

int bb_dataset_label(const bb_dataset *dataset, size_t i) {
    return i < dataset->n ? dataset->samples[i].label : -1;
}

const char *bb_dataset_name(const bb_dataset *dataset, size_t i) {
    return i < dataset->n ? dataset->samples[i].name : "";
}
