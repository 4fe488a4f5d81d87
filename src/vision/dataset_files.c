/* SPDX-License-Identifier: Apache-2.0 */
/* Layouts of one file an image: class folders, lists, and images without labels. */
#include "vision/dataset.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LIST_BYTES = 1 << 30 };

static bb_status add_file(bb_dataset *dataset, const char *folder, const char *name, int label,
                          bb_error *err) {
    bb_sample sample = {.label = label};
    sample.path = bb_arena_printf(dataset->arena, "%s/%s", folder, name);
    if (!sample.path)
        return bb_fail_memory(err, "dataset");
    sample.name = sample.path + strlen(folder) + 1;
    return bb_dataset_add(dataset, &sample, err);
}

static bool has_images(const bb_folder *folder) {
    for (size_t i = 0; i < folder->n; i++)
        if (bb_is_image_name(folder->names[i]))
            return true;
    return false;
}

/* ---- image folder: one folder a class -------------------------------------------------------- */

/* Whether some folder in `path` directly holds images. */
static bb_status has_class_folders(bb_arena *arena, const char *path, bool *result, bb_error *err) {
    bb_folder folder, inner;
    BB_TRY(bb_folder_read(arena, path, &folder, err));
    *result = false;
    for (size_t i = 0; i < folder.n && !*result; i++) {
        const char *sub = bb_arena_printf(arena, "%s/%s", path, folder.names[i]);
        if (!sub)
            return bb_fail_memory(err, path);
        if (!bb_is_folder(sub))
            continue;
        BB_TRY(bb_folder_read(arena, sub, &inner, err));
        *result = has_images(&inner);
    }
    return BB_STATUS_OK;
}

static bb_status find_folder(bb_arena *arena, const bb_folder *folder, bb_split *splits, size_t *n,
                             bb_error *err) {
    bool found = false;
    for (size_t i = 0; i < folder->n && *n < BB_MAX_SPLITS; i++) {
        const char *name = bb_split_name(folder->names[i], strlen(folder->names[i]));
        const char *path = bb_arena_printf(arena, "%s/%s", folder->path, folder->names[i]);
        if (!path)
            return bb_fail_memory(err, folder->path);
        if (!name || !bb_is_folder(path))
            continue;
        BB_TRY(has_class_folders(arena, path, &found, err));
        if (found)
            splits[(*n)++] = (bb_split){name, path};
    }
    if (*n)
        return BB_STATUS_OK;
    BB_TRY(has_class_folders(arena, folder->path, &found, err));
    if (found)
        splits[(*n)++] = (bb_split){"all", folder->path};
    return BB_STATUS_OK;
}

static bb_status load_class(bb_dataset *dataset, const bb_folder *images, int label,
                            bb_error *err) {
    for (size_t i = 0; i < images->n; i++)
        if (bb_is_image_name(images->names[i]))
            BB_TRY(add_file(dataset, images->path, images->names[i], label, err));
    return BB_STATUS_OK;
}

static bb_status load_folder(bb_dataset *dataset, const bb_split *split,
                             const bb_class_names *classes, bb_error *err) {
    bb_folder folders, images;
    BB_TRY(bb_folder_read(dataset->arena, split->path, &folders, err));
    int next = 0;
    for (size_t i = 0; i < folders.n; i++) {
        const char *name = folders.names[i];
        const char *path = bb_arena_printf(dataset->arena, "%s/%s", split->path, name);
        if (!path)
            return bb_fail_memory(err, split->path);
        if (!bb_is_folder(path))
            continue;
        int label = classes ? bb_class_names_find(classes, name) : next++;
        if (label < 0)
            return bb_fail(
                err, BB_STATUS_NOT_FOUND,
                "%s: folder '%.100s' is none of the network's %zu classes ('%.40s', ...)",
                split->path, name, classes->n, classes->names[0]);
        BB_TRY(bb_folder_read(dataset->arena, path, &images, err));
        BB_TRY(load_class(dataset, &images, label, err));
    }
    return BB_STATUS_OK;
}

const bb_dataset_layout bb_layout_folder = {"image folder", find_folder, NULL, load_folder};

/* ---- images without labels ------------------------------------------------------------------- */

static bb_status find_images(bb_arena *arena, const bb_folder *folder, bb_split *splits, size_t *n,
                             bb_error *err) {
    if (has_images(folder))
        splits[(*n)++] = (bb_split){"all", folder->path};
    return BB_STATUS_OK;
}

static const char *match_image(const char *name) {
    return bb_is_image_name(name) ? "all" : NULL;
}

static bb_status load_images(bb_dataset *dataset, const bb_split *split,
                             const bb_class_names *classes, bb_error *err) {
    if (bb_is_folder(split->path)) {
        bb_folder images;
        BB_TRY(bb_folder_read(dataset->arena, split->path, &images, err));
        return load_class(dataset, &images, -1, err);
    }
    const char *slash = strrchr(split->path, '/');
    bb_sample sample = {.name = slash ? slash + 1 : split->path, .path = split->path, .label = -1};
    return bb_dataset_add(dataset, &sample, err);
}

const bb_dataset_layout bb_layout_images = {"images", find_images, match_image, load_images};

/* ---- list: "file class" lines ---------------------------------------------------------------- */

/* A list called after no split (files.txt) holds "all". */
static const char *match_list(const char *name) {
    size_t n = strlen(name);
    if (n <= 4 || strcmp(name + n - 4, ".txt") != 0)
        return NULL;
    const char *split = bb_split_name(name, n - 4);
    return split ? split : "all";
}

static bb_status find_list(bb_arena *arena, const bb_folder *folder, bb_split *splits, size_t *n,
                           bb_error *err) {
    for (size_t i = 0; i < folder->n && *n < BB_MAX_SPLITS; i++) {
        const char *name = match_list(folder->names[i]);
        if (!name || strcmp(name, "all") == 0) /* words.txt and the like */
            continue;
        const char *path = bb_arena_printf(arena, "%s/%s", folder->path, folder->names[i]);
        if (!path)
            return bb_fail_memory(err, folder->path);
        splits[(*n)++] = (bb_split){name, path};
    }
    return BB_STATUS_OK;
}

static bool is_file(const char *folder, const char *name, size_t n) {
    bb_buffer path = {0};
    bb_buffer_printf(&path, "%s/", folder);
    bb_buffer_append(&path, name, n);
    FILE *file = path.failed ? NULL : fopen(path.data, "rb");
    bb_buffer_free(&path);
    if (file)
        fclose(file);
    return file != NULL;
}

/* Where the files of a list lie, judged by its first one: beside the list, or in the folder named
 * like it (val.txt, val/). */
static bb_status list_folder(bb_arena *arena, const char *path, const char *first, size_t n,
                             const char **folder, bb_error *err) {
    const char *slash = strrchr(path, '/');
    const char *beside =
        slash ? bb_arena_strndup(arena, path, (size_t)(slash - path)) : bb_arena_strdup(arena, ".");
    const char *inside = bb_arena_strndup(arena, path, strlen(path) - 4);
    if (!beside || !inside)
        return bb_fail_memory(err, path);
    *folder = is_file(beside, first, n) ? beside : inside;
    return BB_STATUS_OK;
}

/* One line: a file name, which may hold spaces, then white space and a class index. */
typedef struct list_line {
    const char *name;
    size_t name_size;
    int label;
} list_line;

static bool parse_line(const char *text, size_t size, list_line *line) {
    while (size && strchr(" \t\r", text[size - 1]))
        size--;
    size_t digits = 0;
    long label = 0;
    while (digits < size && text[size - 1 - digits] >= '0' && text[size - 1 - digits] <= '9')
        digits++;
    for (size_t i = size - digits; i < size && label <= INT_MAX; i++)
        label = label * 10 + (text[i] - '0');
    size_t name_size = size - digits;
    if (digits == 0 || label > INT_MAX || name_size == 0 || !strchr(" \t", text[name_size - 1]))
        return false;
    while (name_size && strchr(" \t", text[name_size - 1]))
        name_size--;
    *line = (list_line){text, name_size, (int)label};
    return name_size > 0;
}

static bb_status add_line(bb_dataset *dataset, const char *path, const list_line *line,
                          const char **folder, bb_error *err) {
    if (!*folder)
        BB_TRY(list_folder(dataset->arena, path, line->name, line->name_size, folder, err));
    const char *name = bb_arena_strndup(dataset->arena, line->name, line->name_size);
    if (!name)
        return bb_fail_memory(err, path);
    return add_file(dataset, *folder, name, line->label, err);
}

static bb_status load_lines(bb_dataset *dataset, const char *path, const bb_file *file,
                            bb_error *err) {
    const char *text = (const char *)file->data, *end = text + file->size, *folder = NULL;
    for (size_t number = 1; text < end; number++) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        size_t size = (size_t)((newline ? newline : end) - text);
        list_line line;
        if (memchr(text, 0, size))
            return bb_fail(err, BB_STATUS_BAD_FILE, "%s:%zu: not text", path, number);
        bool blank = strspn(text, " \t\r") >= size;
        if (!blank && !parse_line(text, size, &line))
            return bb_fail(err, BB_STATUS_BAD_FILE, "%s:%zu: not \"file class-index\"", path,
                           number);
        if (!blank)
            BB_TRY(add_line(dataset, path, &line, &folder, err));
        text += size + (newline != NULL);
    }
    return BB_STATUS_OK;
}

static bb_status load_list(bb_dataset *dataset, const bb_split *split,
                           const bb_class_names *classes, bb_error *err) {
    bb_file file;
    BB_TRY(bb_file_open(split->path, &file, err));
    bb_buffer text = {0}; /* NUL-terminated, as strspn needs it */
    if (file.size <= MAX_LIST_BYTES)
        bb_buffer_append(&text, file.data, file.size);
    bb_status status;
    if (file.size > MAX_LIST_BYTES)
        status = bb_fail(err, BB_STATUS_LIMIT, "%s: list above 1 GiB", split->path);
    else if (text.failed)
        status = bb_fail_memory(err, split->path);
    else
        status = load_lines(dataset, split->path,
                            &(bb_file){(const uint8_t *)text.data, text.size, false}, err);
    bb_buffer_free(&text);
    bb_file_close(&file);
    return status;
}

const bb_dataset_layout bb_layout_list = {"list", find_list, match_list, load_list};
