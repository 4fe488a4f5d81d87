/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

bool bench_json_open(const char *path, FILE **file) {
    *file = path ? fopen(path, "w") : NULL;
    if (path && !*file)
        fprintf(stderr, "%s: cannot create\n", path);
    else if (*file)
        fputs("[", *file);
    return !path || *file;
}

bool bench_json_close(FILE *file) {
    if (!file)
        return true;
    fputs("]\n", file);
    return fclose(file) == 0;
}
