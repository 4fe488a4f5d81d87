/* SPDX-License-Identifier: Apache-2.0 */
#include "base/base.h"
#include <stdio.h>
#include <string.h>

static bool reserve(bb_buffer *buf, size_t extra) {
    size_t need;
    if (!bb_size_add(buf->size, extra, &need) || !bb_size_add(need, 1, &need))
        return false;
    if (need <= buf->capacity)
        return true;
    size_t capacity = buf->capacity ? buf->capacity : 256;
    while (capacity < need)
        if (!bb_size_mul(capacity, 2, &capacity))
            return false;
    char *data = bb_realloc_array(buf->data, capacity, 1);
    if (!data)
        return false;
    buf->data = data;
    buf->capacity = capacity;
    return true;
}

void bb_buffer_append(bb_buffer *buf, const void *data, size_t size) {
    if (buf->failed || !reserve(buf, size)) {
        buf->failed = true;
        return;
    }
    if (size)
        memcpy(buf->data + buf->size, data, size);
    buf->size += size;
    buf->data[buf->size] = '\0';
}

void bb_buffer_printf(bb_buffer *buf, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0 || buf->failed || !reserve(buf, (size_t)n)) {
        buf->failed = true;
        return;
    }
    va_start(args, fmt);
    vsnprintf(buf->data + buf->size, (size_t)n + 1, fmt, args);
    va_end(args);
    buf->size += (size_t)n;
}

void bb_buffer_free(bb_buffer *buf) {
    bb_free(buf->data);
    *buf = (bb_buffer){0};
}
