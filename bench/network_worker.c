/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One side of the whole-network benchmark: loads a .bbm and, for every number on standard input,
 * runs it that many times on made-up pixels and prints the mean seconds of a run.
 *
 *   bench_network_worker MODEL.bbm THREADS [BATCH]
 */
#include "bench.h"
#include "bitbranch/engine.h"
#include <stdio.h>
#include <stdlib.h>

static int fail(const bb_error *err) {
    fprintf(stderr, "bench_network_worker: %s\n", err->message);
    return 1;
}

static void *buffer(size_t bytes) {
    unsigned char *data = calloc(bytes, 1);
    unsigned state = 1;
    for (size_t i = 0; data && i < bytes; i++) {
        state = state * 1664525u + 1013904223u;
        data[i] = (unsigned char)(state >> 24);
    }
    return data;
}

static int serve(bb_context *context, const void *const *inputs, void *const *outputs,
                 bb_error *err) {
    int runs;
    puts("ready");
    fflush(stdout);
    while (scanf("%d", &runs) == 1 && runs > 0) {
        double start = bench_seconds();
        for (int i = 0; i < runs; i++)
            if (bb_context_run(context, inputs, outputs, err))
                return fail(err);
        printf("%.9f\n", (bench_seconds() - start) / runs);
        fflush(stdout);
    }
    return 0;
}

int main(int argc, char **argv) {
    enum { MAX_OUTPUTS = 16 };
    bb_error err = {0};
    bb_model *model;
    bb_engine *engine;
    bb_context *context;
    bb_engine_options options;
    bb_tensor_desc desc;
    void *outputs[MAX_OUTPUTS];
    if (argc != 3 && argc != 4) {
        fputs("usage: bench_network_worker MODEL.bbm THREADS [BATCH]\n", stderr);
        return 2;
    }
    bb_engine_options_init(&options);
    options.threads = (size_t)atoi(argv[2]);
    options.input_dims[0] = argc == 4 ? atoi(argv[3]) : 1;
    if (bb_model_load(argv[1], &model, &err) || bb_engine_create(model, &options, &engine, &err) ||
        bb_context_create(engine, &context, &err) || bb_engine_input(engine, 0, &desc, &err))
        return fail(&err);
    const void *inputs[1] = {buffer(desc.bytes)};
    for (size_t i = 0; i < bb_engine_outputs(engine) && i < MAX_OUTPUTS; i++) {
        if (bb_engine_output(engine, i, &desc, &err))
            return fail(&err);
        outputs[i] = buffer(desc.bytes);
    }
    return serve(context, inputs, outputs, &err);
}
