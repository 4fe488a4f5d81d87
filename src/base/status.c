/* SPDX-License-Identifier: Apache-2.0 */
#include "base/base.h"
#include <stdio.h>
#include <string.h>

#define VERSION_STRING_(a, b, c) #a "." #b "." #c
#define VERSION_STRING(a, b, c) VERSION_STRING_(a, b, c)

const char *bb_version(void) {
    return VERSION_STRING(BB_VERSION_MAJOR, BB_VERSION_MINOR, BB_VERSION_PATCH);
}

const char *bb_status_string(bb_status status) {
    switch (status) {
    case BB_STATUS_OK:
        return "ok";
    case BB_STATUS_INVALID_ARGUMENT:
        return "invalid argument";
    case BB_STATUS_OUT_OF_MEMORY:
        return "out of memory";
    case BB_STATUS_IO:
        return "input/output error";
    case BB_STATUS_BAD_FILE:
        return "malformed file";
    case BB_STATUS_UNSUPPORTED:
        return "not supported";
    case BB_STATUS_LIMIT:
        return "limit exceeded";
    case BB_STATUS_NOT_FOUND:
        return "not found";
    case BB_STATUS_CANCELLED:
        return "cancelled";
    case BB_STATUS_INTERNAL:
        return "internal error";
    }
    return "unknown status";
}

/* One line of UTF-8 on a terminal: names come from untrusted files and may have been cut at the
 * message's end, so control characters (those of U+0080 to U+009F too) and what is no UTF-8 become
 * '?'. */
static void make_printable(char *text) {
    for (char *c = text; *c; c++)
        if ((unsigned char)c[0] == 0xc2 && ((unsigned char)c[1] & 0xe0) == 0x80)
            c[0] = c[1] = '?';
        else if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    for (text += bb_utf8_prefix(text); *text; text += bb_utf8_prefix(text))
        *text++ = '?';
}

bb_status bb_fail(bb_error *err, bb_status status, const char *fmt, ...) {
    if (err) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(err->message, sizeof(err->message), fmt, args);
        va_end(args);
        make_printable(err->message);
        err->status = status;
    }
    return status;
}

bb_status bb_fail_memory(bb_error *err, const char *what) {
    return bb_fail(err, BB_STATUS_OUT_OF_MEMORY, "out of memory for %s", what);
}

bb_status bb_check_options(size_t struct_size, size_t own_size, const char *what, bb_error *err) {
    if (struct_size == own_size)
        return BB_STATUS_OK;
    return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                   "%s of another library version, or not initialised by %s_init", what, what);
}

bb_status bb_error_prefix(bb_error *err, bb_status status, const char *fmt, ...) {
    if (status == BB_STATUS_OK || !err)
        return status;
    char text[2 * BB_ERROR_MESSAGE_SIZE];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, BB_ERROR_MESSAGE_SIZE, fmt, args);
    va_end(args);
    if (n < 0)
        return status;
    size_t used = strlen(text);
    snprintf(text + used, sizeof(text) - used, ": %s", err->message);
    text[BB_ERROR_MESSAGE_SIZE - 1] = '\0';
    memcpy(err->message, text, strlen(text) + 1);
    make_printable(err->message);
    return status;
}
