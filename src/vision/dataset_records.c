/* SPDX-License-Identifier: Apache-2.0 */
/* Layouts of many images a file: IDX and CIFAR binary. */
#include "vision/dataset.h"
#include "vision/image.h"
#include <string.h>

enum { MAX_EXPANDED_BYTES = 1 << 30 };

/* Adds the records of the file last opened, with labels from `label_of` (NULL: none). */
static bb_status add_records(bb_dataset *dataset, const char *path, size_t n, const uint8_t *labels,
                             size_t label_stride, bb_error *err) {
    if (n > UINT32_MAX)
        return bb_fail(err, BB_STATUS_LIMIT, "%s: too many images", path);
    const char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;
    for (size_t i = 0; i < n; i++) {
        bb_sample sample = {.source = (uint32_t)dataset->n_records - 1,
                            .record = (uint32_t)i,
                            .label = labels ? labels[i * label_stride] : -1};
        sample.name = bb_arena_printf(dataset->arena, "%s[%zu]", file, i);
        if (!sample.name)
            return bb_fail_memory(err, path);
        BB_TRY(bb_dataset_add(dataset, &sample, err));
    }
    return BB_STATUS_OK;
}

/* ---- IDX ------------------------------------------------------------------------------------- */

/* PREFIX-images-idx3-ubyte or PREFIX-images.idx3-ubyte, maybe .gz: length of PREFIX, else 0. */
static size_t idx_prefix(const char *name) {
    const char *word = strstr(name, "-images");
    if (!word || (word[7] != '-' && word[7] != '.') || strncmp(word + 8, "idx3-ubyte", 10) != 0 ||
        (word[18] && strcmp(word + 18, ".gz") != 0))
        return 0;
    return (size_t)(word - name);
}

static const char *match_idx(const char *name) {
    size_t prefix = idx_prefix(name);
    if (prefix == 0)
        return NULL;
    const char *split = bb_split_name(name, prefix);
    return split ? split : "all";
}

static bb_status find_idx(bb_arena *arena, const bb_folder *folder, bb_split *splits, size_t *n,
                          bb_error *err) {
    for (size_t i = 0; i < folder->n && *n < BB_MAX_SPLITS; i++) {
        const char *name = match_idx(folder->names[i]);
        if (!name || (*n && strcmp(splits[*n - 1].name, name) == 0)) /* both x and x.gz */
            continue;
        const char *path = bb_arena_printf(arena, "%s/%s", folder->path, folder->names[i]);
        if (!path)
            return bb_fail_memory(err, folder->path);
        splits[(*n)++] = (bb_split){name, path};
    }
    return BB_STATUS_OK;
}

static size_t big_endian(const uint8_t *p) {
    return ((size_t)p[0] << 24) | ((size_t)p[1] << 16) | ((size_t)p[2] << 8) | p[3];
}

/* Checks an IDX header of unsigned bytes with `rank` dimensions and the file's size. */
static bb_status check_idx(const char *path, const bb_file *file, size_t rank, size_t *dims,
                           bb_error *err) {
    size_t header = 4 + 4 * rank, bytes = header, elements = 1;
    if (file->size < header || memcmp(file->data, "\0\0\x08", 3) != 0 || file->data[3] != rank)
        return bb_fail(err, BB_STATUS_BAD_FILE, "%s: not an IDX file of %zu-dimensional bytes",
                       path, rank);
    for (size_t i = 0; i < rank; i++) {
        dims[i] = big_endian(file->data + 4 + 4 * i);
        if (!bb_size_mul(elements, dims[i], &elements))
            return bb_fail(err, BB_STATUS_LIMIT, "%s: IDX sizes overflow", path);
    }
    if (!bb_size_add(header, elements, &bytes) || file->size != bytes)
        return bb_fail(err, BB_STATUS_BAD_FILE, "%s: %zu bytes, but its IDX header says %zu", path,
                       file->size, bytes);
    return BB_STATUS_OK;
}

static bb_status open_idx_images(bb_dataset *dataset, const char *path, size_t *n, bb_error *err) {
    bb_records *records = &dataset->records[0];
    BB_TRY(bb_file_open_gz(path, MAX_EXPANDED_BYTES, &records->file, err));
    dataset->n_records = 1;
    size_t dims[3];
    BB_TRY(check_idx(path, &records->file, 3, dims, err));
    if (dims[1] == 0 || dims[2] == 0 || dims[1] > BB_IMAGE_MAX_SIDE || dims[2] > BB_IMAGE_MAX_SIDE)
        return bb_fail(err, BB_STATUS_BAD_FILE, "%s: images of %zux%zu pixels", path, dims[2],
                       dims[1]);
    *n = dims[0];
    records->header = 16;
    records->stride = dims[1] * dims[2];
    records->height = (int)dims[1];
    records->width = (int)dims[2];
    records->channels = 1;
    return BB_STATUS_OK;
}

/* The labels file beside an images file, with .gz or without; NULL where there is none. */
static bb_status find_labels(bb_arena *arena, const char *images, const char **path,
                             bb_error *err) {
    const char *slash = strrchr(images, '/');
    const char *folder_path = slash ? bb_arena_strndup(arena, images, (size_t)(slash - images))
                                    : bb_arena_strdup(arena, ".");
    const char *name = slash ? slash + 1 : images;
    int prefix = (int)idx_prefix(name);
    char separator = name[prefix + 7];
    bb_folder folder;
    if (!folder_path)
        return bb_fail_memory(err, images);
    BB_TRY(bb_folder_read(arena, folder_path, &folder, err));
    for (int gz = 0; gz < 2; gz++) {
        const char *labels = bb_arena_printf(arena, "%.*s-labels%cidx1-ubyte%s", prefix, name,
                                             separator, gz ? ".gz" : "");
        if (!labels || !(*path = bb_arena_printf(arena, "%s/%s", folder_path, labels)))
            return bb_fail_memory(err, images);
        if (bb_folder_has(&folder, labels))
            return BB_STATUS_OK;
    }
    *path = NULL;
    return BB_STATUS_OK;
}

static bb_status load_idx(bb_dataset *dataset, const bb_split *split, const bb_class_names *classes,
                          bb_error *err) {
    size_t images = 0, n_labels = 0;
    const char *labels_path = NULL;
    BB_TRY(open_idx_images(dataset, split->path, &images, err));
    BB_TRY(find_labels(dataset->arena, split->path, &labels_path, err));
    if (!labels_path)
        return add_records(dataset, split->path, images, NULL, 0, err);
    bb_file file;
    BB_TRY(bb_file_open_gz(labels_path, MAX_EXPANDED_BYTES, &file, err));
    bb_status status = check_idx(labels_path, &file, 1, &n_labels, err);
    if (status == BB_STATUS_OK && n_labels != images)
        status = bb_fail(err, BB_STATUS_BAD_FILE, "%s: %zu labels for %zu images", labels_path,
                         n_labels, images);
    if (status == BB_STATUS_OK)
        status = add_records(dataset, split->path, images, file.data + 8, 1, err);
    bb_file_close(&file);
    return status;
}

const bb_dataset_layout bb_layout_idx = {"idx", find_idx, match_idx, load_idx};

/* ---- CIFAR binary: records of one label (CIFAR-100: two) and 3 planes of 32x32 --------------- */

enum { CIFAR_SIDE = 32, CIFAR_PIXELS = 3 * CIFAR_SIDE * CIFAR_SIDE };

/* data_batch_N.bin, N one digit. */
static bool is_batch(const char *name) {
    return strlen(name) == 16 && strncmp(name, "data_batch_", 11) == 0 &&
           strcmp(name + 12, ".bin") == 0;
}

static const char *match_cifar(const char *name) {
    if (strcmp(name, "test_batch.bin") == 0 || strcmp(name, "test.bin") == 0)
        return "test";
    if (is_batch(name))
        return "train";
    return strcmp(name, "train.bin") == 0 ? "train" : NULL;
}

static bb_status find_cifar(bb_arena *arena, const bb_folder *folder, bb_split *splits, size_t *n,
                            bb_error *err) {
    for (size_t i = 0; i < folder->n && *n < BB_MAX_SPLITS; i++) {
        const char *name = match_cifar(folder->names[i]);
        if (!name)
            continue;
        bool batch = is_batch(folder->names[i]);
        if (batch && *n && strcmp(splits[*n - 1].name, name) == 0)
            continue; /* data_batch_1..5 are one split, whose source is their folder */
        const char *path =
            batch ? folder->path : bb_arena_printf(arena, "%s/%s", folder->path, folder->names[i]);
        if (!path)
            return bb_fail_memory(err, folder->path);
        splits[(*n)++] = (bb_split){name, path};
    }
    return BB_STATUS_OK;
}

static bb_status load_cifar_file(bb_dataset *dataset, const char *path, bb_error *err) {
    if (dataset->n_records == BB_MAX_RECORD_FILES)
        return bb_fail(err, BB_STATUS_LIMIT, "%s: too many CIFAR files", path);
    bb_records *records = &dataset->records[dataset->n_records];
    BB_TRY(bb_file_open(path, &records->file, err));
    dataset->n_records++;
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    bool hundred = strcmp(name, "test.bin") == 0 || strcmp(name, "train.bin") == 0;
    records->skip = hundred ? 2 : 1; /* CIFAR-100: coarse label, then the fine one we take */
    records->stride = records->skip + CIFAR_PIXELS;
    records->width = records->height = CIFAR_SIDE;
    records->channels = 3;
    size_t n = records->file.size / records->stride;
    if (n == 0 || records->file.size % records->stride)
        return bb_fail(err, BB_STATUS_BAD_FILE,
                       "%s: %zu bytes are not a number of %zu-byte records", path,
                       records->file.size, records->stride);
    const uint8_t *labels = records->file.data + records->skip - 1;
    for (size_t i = 0; i < n; i++)
        if (labels[i * records->stride] > (hundred ? 99 : 9))
            return bb_fail(err, BB_STATUS_BAD_FILE, "%s: record %zu has class %d", path, i,
                           labels[i * records->stride]);
    return add_records(dataset, path, n, labels, records->stride, err);
}

static bb_status load_cifar(bb_dataset *dataset, const bb_split *split,
                            const bb_class_names *classes, bb_error *err) {
    if (!bb_is_folder(split->path))
        return load_cifar_file(dataset, split->path, err);
    bb_folder folder;
    BB_TRY(bb_folder_read(dataset->arena, split->path, &folder, err));
    for (size_t i = 0; i < folder.n; i++) {
        if (!is_batch(folder.names[i]))
            continue;
        const char *path = bb_arena_printf(dataset->arena, "%s/%s", folder.path, folder.names[i]);
        if (!path)
            return bb_fail_memory(err, folder.path);
        BB_TRY(load_cifar_file(dataset, path, err));
    }
    return BB_STATUS_OK;
}

const bb_dataset_layout bb_layout_cifar = {"cifar", find_cifar, match_cifar, load_cifar};
