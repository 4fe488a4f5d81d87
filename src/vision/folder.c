/* SPDX-License-Identifier: Apache-2.0 */
/* Folders and file names. */
#include "vision/dataset.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bb_status collect(bb_arena *arena, DIR *dir, const char *path, const char ***names,
                         size_t *n, bb_error *err) {
    size_t capacity = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        if (*n == capacity) {
            capacity = capacity ? 2 * capacity : 64;
            const char **grown = bb_realloc_array(*names, capacity, sizeof(**names));
            if (!grown)
                return bb_fail_memory(err, path);
            *names = grown;
        }
        if (!((*names)[*n] = bb_arena_strdup(arena, entry->d_name)))
            return bb_fail_memory(err, path);
        ++*n;
    }
    return BB_STATUS_OK;
}

bb_status bb_folder_read(bb_arena *arena, const char *path, bb_folder *folder, bb_error *err) {
    DIR *dir = opendir(path);
    if (!dir)
        return bb_fail(err, BB_STATUS_IO, "%s: cannot open folder: %s", path, strerror(errno));
    const char **names = NULL;
    size_t n = 0;
    bb_status status = collect(arena, dir, path, &names, &n, err);
    closedir(dir);
    const char **owned = status == BB_STATUS_OK ? bb_arena_array(arena, n, sizeof(*owned)) : NULL;
    if (status == BB_STATUS_OK && !owned)
        status = bb_fail_memory(err, path);
    if (owned && n) {
        qsort(names, n, sizeof(*names), compare_names);
        memcpy(owned, names, n * sizeof(*owned));
    }
    bb_free(names);
    *folder = (bb_folder){path, owned, n};
    return status;
}

bool bb_folder_has(const bb_folder *folder, const char *name) {
    for (size_t i = 0; i < folder->n; i++)
        if (strcmp(folder->names[i], name) == 0)
            return true;
    return false;
}

bool bb_is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool bb_is_image_name(const char *name) {
    static const char *const endings[] = {".jpg", ".jpeg", ".png", ".ppm", ".pgm"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < BB_COUNT(endings); i++)
        if (strcasecmp(dot, endings[i]) == 0)
            return true;
    return false;
}

const char *bb_split_name(const char *name, size_t n) {
    static const struct {
        const char *written, *name;
    } names[] = {
        {"train", "train"},    {"training", "train"},    {"val", "val"},      {"valid", "val"},
        {"validation", "val"}, {"test", "test"},         {"testing", "test"}, {"t10k", "test"},
        {"calib", "calib"},    {"calibration", "calib"},
    };
    for (size_t i = 0; i < BB_COUNT(names); i++)
        if (strlen(names[i].written) == n && strncmp(names[i].written, name, n) == 0)
            return names[i].name;
    return NULL;
}
