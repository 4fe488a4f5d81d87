/* SPDX-License-Identifier: Apache-2.0 */
/* gzip expansion, kept apart so that libbitbranch itself does not need zlib. */
#include "base/base.h"
#include <string.h>
#include <zlib.h>

static bool is_gzip(const bb_file *file) {
    return file->size >= 2 && file->data[0] == 0x1f && file->data[1] == 0x8b;
}

/* Inflates all members of `in` into `out`, never past max_bytes. */
static bb_status inflate_all(const char *path, const bb_file *in, size_t max_bytes, bb_buffer *out,
                             bb_error *err) {
    z_stream z = {0};
    if (in->size > UINT32_MAX)
        return bb_fail(err, BB_STATUS_LIMIT, "%s: gzip file above 4 GiB", path);
    if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
        return bb_fail_memory(err, path);
    z.next_in = (Bytef *)(uintptr_t)in->data;
    z.avail_in = (uInt)in->size;
    int rc = Z_OK;
    bb_status status = BB_STATUS_OK;
    while (status == BB_STATUS_OK && (rc != Z_STREAM_END || z.avail_in > 0)) {
        unsigned char chunk[64 * 1024];
        if (rc == Z_STREAM_END)
            inflateReset(&z);
        z.next_out = chunk;
        z.avail_out = sizeof(chunk);
        rc = inflate(&z, Z_NO_FLUSH);
        size_t got = sizeof(chunk) - z.avail_out;
        if (rc != Z_OK && rc != Z_STREAM_END)
            status = bb_fail(err, BB_STATUS_BAD_FILE, "%s: truncated or corrupt gzip data", path);
        else if (got > max_bytes - out->size)
            status = bb_fail(err, BB_STATUS_LIMIT, "%s: expands beyond %zu bytes", path, max_bytes);
        else
            bb_buffer_append(out, chunk, got);
    }
    inflateEnd(&z);
    if (status == BB_STATUS_OK && out->failed)
        status = bb_fail_memory(err, path);
    return status;
}

bb_status bb_file_open_gz(const char *path, size_t max_bytes, bb_file *file, bb_error *err) {
    BB_TRY(bb_file_open(path, file, err));
    if (!is_gzip(file))
        return BB_STATUS_OK;
    bb_buffer out = {0};
    bb_status status = inflate_all(path, file, max_bytes, &out, err);
    bb_file_close(file);
    if (status != BB_STATUS_OK) {
        bb_buffer_free(&out);
        return status;
    }
    *file = (bb_file){(const uint8_t *)out.data, out.size, false};
    return BB_STATUS_OK;
}
