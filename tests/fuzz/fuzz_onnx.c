/* SPDX-License-Identifier: Apache-2.0 */
/* Truncations and byte flips of ONNX files through reader, passes and shape inference: nothing but
 * a clear status may come back. Seeded; `fuzz_onnx [seed [files...]]`. Meant to run under
 * sanitizers; without them the address space is limited, so that memory is bounded too. */
#include "../unit/proto.h"
#include "graph/eval.h"
#include "onnx/onnx.h"
#include "passes/passes.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

enum { TRUNCATIONS = 200, FLIPS = 2000 };

typedef struct counts {
    size_t read, refused;
} counts;

/* One attempt; false where a failure came without a message or with a strange status. */
static bool attempt(const char *data, size_t size, counts *c) {
    bb_graph *graph = NULL;
    bb_error err = {0};
    bb_status status = bb_onnx_read_buffer(data, size, NULL, "fuzz.onnx", &graph, &err);
    if (status == BB_STATUS_OK) {
        c->read++;
        status =
            c->read % 2 ? bb_pass_prepare(graph, &err) : bb_pass_prepare_quantized(graph, &err);
        bb_graph_destroy(graph);
        if (status == BB_STATUS_OK)
            return true;
    } else {
        c->refused++;
    }
    return err.message[0] != '\0' && err.status == status && status != BB_STATUS_INTERNAL &&
           status != BB_STATUS_INVALID_ARGUMENT;
}

static bool report(const char *what, size_t i, const char *name) {
    fprintf(stderr, "%s %zu of %s: wrong status or no message\n", what, i, name);
    return false;
}

static bool fuzz(const char *name, const bb_buffer *model, bb_rng *rng, counts *c) {
    char *copy = malloc(model->size);
    if (!copy)
        return false;
    bool ok = true;
    for (size_t i = 0; i < TRUNCATIONS; i++) {
        /* An exact copy on the heap lets the sanitizer see every byte read beyond it. */
        size_t size = bb_rng_below(rng, model->size);
        char *part = malloc(size + 1);
        memcpy(part, model->data, size);
        part = realloc(part, size ? size : 1);
        ok = (attempt(part, size, c) || report("truncation", i, name)) && ok;
        free(part);
    }
    for (size_t i = 0; i < FLIPS; i++) {
        memcpy(copy, model->data, model->size);
        for (size_t k = 0; k <= i % 3; k++)
            copy[bb_rng_below(rng, model->size)] ^= (char)(1 + bb_rng_below(rng, 255));
        ok = (attempt(copy, model->size, c) || report("flip", i, name)) && ok;
    }
    free(copy);
    return ok;
}

/* Shape arithmetic, movement, quantizers: what onnx_sample has not. */
static bb_buffer busy_model(void) {
    bb_buffer g = {0}, a = {0};
    int64_t two[2] = {0, 1}, target[2] = {0, -1}, perm[4] = {0, 2, 3, 1},
            pads[8] = {0, 0, 1, 1, 0, 0, 1, 1};
    float small[4] = {0.5f, 0, 3, 1}, scales[4] = {1, 1, 2, 2};
    int8_t weights[16] = {1, -1, 1, 1, -1, 1, -1, -1, 1, 1, 1, -1, -1, 1, 1, 1};
    onnx_end(&g, 11, "x", ONNX_F32, (int64_t[]){1, 4, 4, 4}, 4);
    onnx_initializer(&g, "two", ONNX_I64, (int64_t[]){2}, 1, two, sizeof(two));
    onnx_initializer(&g, "target", ONNX_I64, (int64_t[]){2}, 1, target, sizeof(target));
    onnx_initializer(&g, "pads", ONNX_I64, (int64_t[]){8}, 1, pads, sizeof(pads));
    onnx_initializer(&g, "s", ONNX_F32, NULL, 0, &small[0], 4);
    onnx_initializer(&g, "z", ONNX_F32, NULL, 0, &small[1], 4);
    onnx_initializer(&g, "bits", ONNX_F32, NULL, 0, &small[2], 4);
    onnx_initializer(&g, "scales", ONNX_F32, (int64_t[]){4}, 1, scales, sizeof(scales));
    onnx_initializer(&g, "wq", 3, (int64_t[]){4, 4, 1, 1}, 4, weights, sizeof(weights));
    onnx_node(&g, NULL, "DequantizeLinear", "wq s", "w", NULL);
    onnx_node(&g, NULL, "Pad", "x pads", "xp", NULL);
    onnx_node(&g, NULL, "Conv", "xp w", "c", NULL);
    onnx_attr_int(&a, "signed", 0);
    onnx_node(&g, "qonnx.custom_op.general", "Quant", "c s z bits", "q", &a);
    onnx_attr_ints(&a, "perm", perm, 4);
    onnx_node(&g, NULL, "Transpose", "q", "t", &a);
    onnx_node(&g, NULL, "Shape", "t", "shape", NULL);
    onnx_node(&g, NULL, "Gather", "shape two", "part", NULL);
    onnx_node(&g, NULL, "ReduceSum", "part", "sum", NULL);
    onnx_node(&g, NULL, "Expand", "s part", "e", NULL);
    onnx_node(&g, NULL, "Tile", "part sum", "tiled", NULL);
    onnx_node(&g, NULL, "Resize", "q - scales", "r", NULL);
    onnx_attr_ints(&a, "kernel_shape", (int64_t[]){2, 2}, 2);
    onnx_attr_int(&a, "ceil_mode", 1);
    onnx_node(&g, NULL, "AveragePool", "r", "p", &a);
    onnx_node(&g, NULL, "Slice", "p two target", "sl", NULL);
    onnx_node(&g, NULL, "Concat", "part tiled", "cat", &a);
    onnx_node(&g, NULL, "Reshape", "p target", "y", NULL);
    onnx_end(&g, 12, "y", ONNX_F32, NULL, 0);
    onnx_end(&g, 12, "e", ONNX_F32, NULL, 0);
    return onnx_model(&g, 13);
}

static void limit_memory(void) {
#if !defined(__SANITIZE_ADDRESS__)
    struct rlimit limit = {(rlim_t)2 << 30, (rlim_t)2 << 30};
    setrlimit(RLIMIT_AS, &limit);
#endif
}

static bool fuzz_file(const char *path, bb_rng *rng, counts *c) {
    bb_file file;
    bb_error err;
    if (bb_file_open(path, &file, &err) != BB_STATUS_OK) {
        fprintf(stderr, "%s\n", err.message);
        return false;
    }
    bb_buffer model = {(char *)(uintptr_t)file.data, file.size, file.size, false};
    bool ok = fuzz(path, &model, rng, c);
    bb_file_close(&file);
    return ok;
}

int main(int argc, char **argv) {
    bb_rng rng;
    counts c = {0};
    bool ok = true;
    limit_memory();
    bb_rng_seed(&rng, argc > 1 ? strtoull(argv[1], NULL, 10) : 1);
    bb_buffer models[] = {onnx_sample(9), onnx_sample(21), busy_model()};
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        counts whole = {0};
        ok = attempt(models[i].data, models[i].size, &whole) && ok;
        if (whole.read != 1) {
            fprintf(stderr, "model %zu does not read unharmed\n", i);
            ok = false;
        }
        ok = fuzz("a made model", &models[i], &rng, &c) && ok;
        bb_buffer_free(&models[i]);
    }
    for (int i = 2; i < argc; i++)
        ok = fuzz_file(argv[i], &rng, &c) && ok;
    printf("%zu files read, %zu refused\n", c.read, c.refused);
    return ok ? 0 : 1;
}
