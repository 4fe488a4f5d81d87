/* SPDX-License-Identifier: Apache-2.0 */
/* Class names: text of one name a line. */
#include "vision/config.h"
#include "vision/dataset.h"
#include <string.h>

enum { MAX_LABELS_BYTES = 16 << 20 };

/* Start of the line after `text`, which may be the terminating NUL. */
static const char *next_line(const char *text) {
    const char *end = text + strcspn(text, "\n");
    return *end ? end + 1 : end;
}

bb_status bb_class_names_parse(bb_arena *arena, const char *text, bb_class_names *classes,
                               bb_error *err) {
    size_t lines = 0;
    for (const char *p = text; *p; p = next_line(p))
        lines++;
    if (lines == 0)
        return bb_fail(err, BB_STATUS_BAD_FILE, "no class names");
    *classes = (bb_class_names){bb_arena_array(arena, lines, sizeof(*classes->names)), 0};
    if (!classes->names)
        return bb_fail_memory(err, "class names");
    for (const char *p = text; *p; p = next_line(p)) {
        const char *name = bb_arena_strndup(arena, p, strcspn(p, "\r\n"));
        if (!name)
            return bb_fail_memory(err, "class names");
        classes->names[classes->n++] = name;
    }
    return BB_STATUS_OK;
}

int bb_class_names_find(const bb_class_names *classes, const char *name) {
    size_t size = strlen(name);
    for (size_t i = 0; i < classes->n; i++)
        if (strcmp(classes->names[i], name) == 0)
            return (int)i;
    for (size_t i = 0; i < classes->n; i++)
        if (strncmp(classes->names[i], name, size) == 0 && classes->names[i][size] == ' ')
            return (int)i;
    return -1;
}

bb_status bb_config_read_labels(const bb_config *config, char **labels, bb_error *err) {
    *labels = NULL;
    const char *path = config->labels_file;
    if (!path)
        return BB_STATUS_OK;
    bb_file file;
    BB_TRY(bb_file_open(path, &file, err));
    bb_buffer text = {0};
    bb_status status = BB_STATUS_OK;
    if (file.size == 0 || file.size > MAX_LABELS_BYTES || memchr(file.data, 0, file.size))
        status = bb_fail(err, BB_STATUS_BAD_FILE, "%s: not a list of class names", path);
    else
        bb_buffer_append(&text, file.data, file.size);
    bb_file_close(&file);
    if (text.failed)
        status = bb_fail_memory(err, path);
    if (status == BB_STATUS_OK && !bb_utf8_valid(text.data))
        status = bb_fail(err, BB_STATUS_BAD_FILE, "%s: class names are UTF-8; byte %zu is not",
                         path, bb_utf8_prefix(text.data) + 1);
    if (status == BB_STATUS_OK) {
        const char *first = text.data;
        for (size_t i = 0; i < config->drop_first && *first; i++)
            first = next_line(first);
        if (!(*labels = bb_strdup(first)))
            status = bb_fail_memory(err, path);
    }
    bb_buffer_free(&text);
    return status;
}

void bb_text_free(char *text) {
    bb_free(text);
}
