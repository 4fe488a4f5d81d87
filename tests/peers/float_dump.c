/* SPDX-License-Identifier: Apache-2.0 */
/* float_dump MODEL.onnx INPUT.f32 OUTDIR N,C,H,W [THREADS [REPETITIONS]]
 * Runs a network in float on raw f32 data and writes OUTDIR/<i>.f32 for every output; prints one
 * line "index name dims..." each, and the shortest time of one run to stderr. */
#include "bitbranch/import.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int fail(const bb_error *err) {
    fprintf(stderr, "%s\n", err->message);
    return 1;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static float *read_floats(const char *path, size_t n) {
    FILE *file = fopen(path, "rb");
    float *data = malloc(n * sizeof(*data) + 1);
    if (!file || !data || fread(data, sizeof(*data), n, file) != n) {
        fprintf(stderr, "%s: not %zu floats\n", path, n);
        exit(1);
    }
    fclose(file);
    return data;
}

static int write_output(const char *folder, size_t i, const char *name, const float *data,
                        const int64_t *dims, int rank) {
    char path[1024];
    snprintf(path, sizeof(path), "%s/%zu.f32", folder, i);
    FILE *file = fopen(path, "wb");
    size_t n = 1;
    printf("%zu %s", i, name);
    for (int d = 0; d < rank; d++) {
        n *= (size_t)dims[d];
        printf(" %lld", (long long)dims[d]);
    }
    printf("\n");
    return !file || fwrite(data, sizeof(*data), n, file) != n || fclose(file) != 0;
}

static int write_outputs(bb_float_net *net, const char *folder) {
    bb_error err;
    for (size_t i = 0; i < bb_float_net_outputs(net); i++) {
        const char *name;
        const float *data;
        int64_t dims[8];
        int rank;
        if (bb_float_net_output(net, i, &name, &data, dims, &rank, &err) != BB_STATUS_OK)
            return fail(&err);
        if (write_output(folder, i, name, data, dims, rank) != 0) {
            fprintf(stderr, "cannot write to %s\n", folder);
            return 1;
        }
    }
    return 0;
}

static int run(bb_float_net *net, const float *input, int repetitions, const char *folder) {
    bb_error err;
    double best = 1e300;
    for (int i = 0; i < repetitions; i++) {
        double start = now();
        if (bb_float_net_run(net, input, &err) != BB_STATUS_OK)
            return fail(&err);
        double time = now() - start;
        best = time < best ? time : best;
    }
    fprintf(stderr, "%.3f ms\n", best);
    return write_outputs(net, folder);
}

int main(int argc, char **argv) {
    long long n[4] = {1, 1, 1, 1};
    if (argc < 5 || sscanf(argv[4], "%lld,%lld,%lld,%lld", &n[0], &n[1], &n[2], &n[3]) < 1) {
        fprintf(stderr,
                "usage: float_dump MODEL.onnx INPUT.f32 OUTDIR N,C,H,W [THREADS [REPETITIONS]]\n");
        return 2;
    }
    int64_t dims[4] = {n[0], n[1], n[2], n[3]};
    size_t threads = argc > 5 ? (size_t)atoi(argv[5]) : 1;
    bb_graph *graph = NULL;
    bb_float_net *net = NULL;
    bb_error err;
    if (bb_import_onnx(argv[1], &graph, &err) != BB_STATUS_OK)
        return fail(&err);
    double start = now();
    if (bb_float_net_create(graph, dims, threads, &net, &err) != BB_STATUS_OK)
        return fail(&err);
    fprintf(stderr, "created in %.1f ms\n", now() - start);
    size_t count = 1; /* 0 stands for an axis that the input does not have */
    for (int i = 0; i < 4; i++)
        count *= n[i] > 0 ? (size_t)n[i] : 1;
    float *input = read_floats(argv[2], count);
    int status = run(net, input, argc > 6 ? atoi(argv[6]) : 1, argv[3]);
    free(input);
    bb_float_net_destroy(net);
    bb_graph_destroy(graph);
    return status;
}
