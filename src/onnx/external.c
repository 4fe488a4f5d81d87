/* SPDX-License-Identifier: Apache-2.0 */
/* Files beside a model: opened component by component, so that no name and no symbolic link leads
 * out of the model's folder. */
#include "onnx/reader.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bb_status refuse(bb_error *err, const char *location) {
    return bb_fail(err, BB_STATUS_BAD_FILE,
                   "external file '%s' is not a plain path inside the model's folder", location);
}

/* Length of the first path component, or -1 if it may lead elsewhere. */
static int component(const char *path) {
    size_t n = strcspn(path, "/");
    if (n == 0 || n > 255 || strchr(path, '\\') || (n == 2 && path[0] == '.' && path[1] == '.'))
        return -1;
    return (int)n;
}

static bb_status walk(int *fd, const char *location, bb_error *err) {
    const char *rest = location;
    if (!*rest)
        return refuse(err, location);
    while (*rest) {
        char name[256];
        int n = component(rest);
        if (n < 0)
            return refuse(err, location);
        memcpy(name, rest, (size_t)n);
        name[n] = '\0';
        bool last = rest[n] == '\0';
        int next = openat(
            *fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (last ? 0 : O_DIRECTORY));
        if (next < 0)
            return errno == ELOOP ? refuse(err, location)
                                  : bb_fail(err, BB_STATUS_IO, "cannot open external file '%s': %s",
                                            location, strerror(errno));
        close(*fd);
        *fd = next;
        rest += n + !last;
    }
    return BB_STATUS_OK;
}

bb_status bb_onnx_open_external(const char *folder, const char *location, bb_file *file,
                                bb_error *err) {
    if (!folder || !location)
        return bb_fail(err, BB_STATUS_BAD_FILE, "there is no folder for external data");
    int fd = open(folder, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (fd < 0)
        return bb_fail(err, BB_STATUS_IO, "cannot open folder '%s': %s", folder, strerror(errno));
    bb_status status = walk(&fd, location, err);
    if (status == BB_STATUS_OK)
        status = bb_file_from_descriptor(fd, location, file, err);
    close(fd);
    return status;
}
