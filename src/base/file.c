/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "base/base.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bb_status fail_errno(bb_error *err, const char *path, const char *what) {
    return bb_fail(err, BB_STATUS_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

bb_status bb_file_from_descriptor(int fd, const char *path, bb_file *file, bb_error *err) {
    *file = (bb_file){0};
    struct stat st;
    if (fstat(fd, &st) != 0)
        return fail_errno(err, path, "stat");
    if (!S_ISREG(st.st_mode))
        return bb_fail(err, BB_STATUS_IO, "%s: not a regular file", path);
    if (st.st_size == 0)
        return BB_STATUS_OK;
    void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return fail_errno(err, path, "map");
    *file = (bb_file){data, (size_t)st.st_size, true};
    return BB_STATUS_OK;
}

bb_status bb_file_open(const char *path, bb_file *file, bb_error *err) {
    *file = (bb_file){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(err, path, "open");
    bb_status status = bb_file_from_descriptor(fd, path, file, err);
    close(fd);
    return status;
}

void bb_file_close(bb_file *file) {
    if (file->mapped)
        munmap((void *)(uintptr_t)file->data, file->size);
    else
        bb_free((void *)(uintptr_t)file->data);
    *file = (bb_file){0};
}

struct bb_output {
    FILE *stream;
    char *path, *temporary;
};

static void output_free(bb_output *out) {
    bb_free(out->path);
    bb_free(out->temporary);
    bb_free(out);
}

#define TEMPORARY_MARK ".tmp-" /* then PROCESS-NUMBER */

bool bb_output_is_temporary(const char *name) {
    static const char digits[] = "0123456789";
    const char *mark = strstr(name, TEMPORARY_MARK);
    if (!mark)
        return false;
    mark += strlen(TEMPORARY_MARK);
    const size_t process = strspn(mark, digits);
    const size_t number = mark[process] == '-' ? strspn(mark + process + 1, digits) : 0;
    return process && number && mark[process + 1 + number] == '\0';
}

/* A new file beside `path`, open for writing with the permissions that the process gives new files
 * (mkstemp would need the umask, which cannot be read without changing it for every thread). */
static int create_beside(const char *path, char **temporary) {
    static atomic_uint counter;
    for (int tries = 0; tries < 100; tries++) {
        bb_buffer name = {0};
        bb_buffer_printf(&name, "%s" TEMPORARY_MARK "%ld-%u", path, (long)getpid(),
                         atomic_fetch_add(&counter, 1));
        if (name.failed) {
            bb_buffer_free(&name);
            errno = ENOMEM;
            return -1;
        }
        int fd = open(name.data, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0) {
            *temporary = name.data;
            return fd;
        }
        int reason = errno; /* free may change it */
        bb_buffer_free(&name);
        errno = reason;
        if (reason != EEXIST)
            return -1;
    }
    return -1;
}

bb_status bb_output_open(const char *path, bb_output **result, bb_error *err) {
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) /* rename would replace it, if it could */
        return bb_fail(err, BB_STATUS_IO, "%s: not a regular file", path);
    bb_output *out = bb_calloc_array(1, sizeof(*out));
    if (!out)
        return bb_fail_memory(err, path);
    out->path = bb_strdup(path);
    if (!out->path) {
        output_free(out);
        return bb_fail_memory(err, path);
    }
    int fd = create_beside(path, &out->temporary);
    if (fd < 0) {
        bb_status status =
            errno == ENOMEM ? bb_fail_memory(err, path) : fail_errno(err, path, "create");
        output_free(out);
        return status;
    }
    out->stream = fdopen(fd, "wb");
    if (!out->stream) {
        bb_status status = fail_errno(err, path, "open");
        close(fd);
        unlink(out->temporary);
        output_free(out);
        return status;
    }
    *result = out;
    return BB_STATUS_OK;
}

bb_status bb_output_write(bb_output *out, const void *data, size_t size, bb_error *err) {
    if (size && fwrite(data, 1, size, out->stream) != size)
        return fail_errno(err, out->path, "write");
    return BB_STATUS_OK;
}

bb_status bb_output_commit(bb_output *out, bb_error *err) {
    bb_status status = BB_STATUS_OK;
    bool flushed = fflush(out->stream) == 0 && fsync(fileno(out->stream)) == 0;
    if (fclose(out->stream) != 0 || !flushed)
        status = fail_errno(err, out->path, "write");
    else if (rename(out->temporary, out->path) != 0)
        status = fail_errno(err, out->path, "rename to");
    if (status != BB_STATUS_OK)
        unlink(out->temporary);
    output_free(out);
    return status;
}

void bb_output_abort(bb_output *out) {
    if (!out)
        return;
    fclose(out->stream);
    unlink(out->temporary);
    output_free(out);
}

bb_status bb_file_write(const char *path, const void *data, size_t size, bb_error *err) {
    bb_output *out;
    BB_TRY(bb_output_open(path, &out, err));
    bb_status status = bb_output_write(out, data, size, err);
    if (status != BB_STATUS_OK) {
        bb_output_abort(out);
        return status;
    }
    return bb_output_commit(out, err);
}
