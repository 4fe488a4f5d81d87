/* SPDX-License-Identifier: Apache-2.0 */
/** @file dataset.h  What the readers of the dataset layouts share. */
#ifndef BB_VISION_DATASET_H
#define BB_VISION_DATASET_H

#include "base/base.h"
#include "bitbranch/dataset.h"

/** One image: a file, or record `record` of records file `source`. */
typedef struct bb_sample {
    const char *name;
    const char *path; /* NULL for a record */
    uint32_t source, record;
    int label;
} bb_sample;

/** Images of one size, one after the other. Channels may be stored one plane after another. */
typedef struct bb_records {
    bb_file file;
    size_t header, stride; /* bytes before the first record, and from record to record */
    size_t skip;           /* bytes of a record before its pixels */
    int width, height, channels;
} bb_records;

enum { BB_MAX_RECORD_FILES = 16 };

struct bb_dataset {
    bb_arena *arena;
    const char *kind, *split, *source;
    bb_sample *samples; /* bb_realloc_array */
    size_t n, capacity;
    bb_records records[BB_MAX_RECORD_FILES];
    size_t n_records;
};

/** Appends; strings are not copied. */
bb_status bb_dataset_add(bb_dataset *dataset, const bb_sample *sample, bb_error *err);

/** A split a layout found. Strings live in the dataset's arena. */
typedef struct bb_split {
    const char *name; /* "train", "val", "test", "calib", or "all" where there are no splits */
    const char *path; /* file or folder */
} bb_split;

enum { BB_MAX_SPLITS = 8 };

/** Class names in class order. */
typedef struct bb_class_names {
    const char **names;
    size_t n;
} bb_class_names;

/** Splits newline-separated text; names live in the arena. */
bb_status bb_class_names_parse(bb_arena *arena, const char *text, bb_class_names *classes,
                               bb_error *err);
/** Class called `name`, or whose first word is `name` (as in "n01440764 tench"); -1 = none. */
int bb_class_names_find(const bb_class_names *classes, const char *name);

/** The files of a folder: name and full path each, sorted by name, hidden ones left out. */
typedef struct bb_folder {
    const char *path;
    const char **names;
    size_t n;
} bb_folder;

bb_status bb_folder_read(bb_arena *arena, const char *path, bb_folder *folder, bb_error *err);
bool bb_folder_has(const bb_folder *folder, const char *name);
bool bb_is_folder(const char *path);
bool bb_is_image_name(const char *name);
/** "val" of "val.txt", "validation", "valid", ...; NULL where `name` (of length n) names no split.
 */
const char *bb_split_name(const char *name, size_t n);

/**
 * A layout. `find` fills splits with those `folder` holds in this layout (0 = another layout);
 * `load` adds the samples of one of them. `match_file` says whether a single file is of this
 * layout and which split it is. `classes` may be NULL.
 */
typedef struct bb_dataset_layout {
    const char *kind;
    bb_status (*find)(bb_arena *arena, const bb_folder *folder, bb_split splits[BB_MAX_SPLITS],
                      size_t *n, bb_error *err);
    const char *(*match_file)(const char *name);
    bb_status (*load)(bb_dataset *dataset, const bb_split *split, const bb_class_names *classes,
                      bb_error *err);
} bb_dataset_layout;

extern const bb_dataset_layout bb_layout_idx, bb_layout_cifar, bb_layout_list, bb_layout_folder,
    bb_layout_images;

#endif
