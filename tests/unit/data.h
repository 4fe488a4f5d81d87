/* SPDX-License-Identifier: Apache-2.0 */
/** @file data.h  Where the optional real models and data sets lie: BITBRANCH_DATA, or shared/data
 *  beside the source tree. Tests skip without them. */
#ifndef BB_TEST_DATA_H
#define BB_TEST_DATA_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef BB_SOURCE_ROOT
#error "BB_SOURCE_ROOT: the build defines it"
#endif

static inline const char *data_root(void) {
    const char *root = getenv("BITBRANCH_DATA");
    return root ? root : BB_SOURCE_ROOT "/../shared/data";
}

/** Path below the data root in a buffer of its own, good for 8 calls; skips the running test where
 *  it is absent. */
static inline const char *data_path(const char *name) {
    static char paths[8][4096];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof(paths[0]), "%s/%s", data_root(), name);
    if (access(path, R_OK) != 0) {
        print_message("%s is absent: skipped\n", path);
        skip();
    }
    return path;
}

#endif
