/* SPDX-License-Identifier: Apache-2.0 */
/* lowbit_dump MODEL.onnx SCALE,MIN,MAX INPUT.f32 OUTPUT.f32 [EXPORT.onnx]
 * Imports a low-bit network whose input holds k/SCALE, k = MIN..MAX, runs the engine on raw NCHW
 * f32 data, and writes the first output; with EXPORT.onnx, also the network as QONNX. */
#include "bitbranch/engine.h"
#include "bitbranch/export.h"
#include "bitbranch/quantize.h"
#include <stdio.h>
#include <stdlib.h>

static void require(bb_status status, const bb_error *err) {
    if (status == BB_STATUS_OK)
        return;
    fprintf(stderr, "%s\n", err->message);
    exit(1);
}

static size_t elements(const bb_tensor_desc *desc) {
    size_t n = 1;
    for (size_t i = 0; i < desc->n_dims; i++)
        n *= (size_t)desc->dims[i];
    return n;
}

static void transfer(const char *path, const char *mode, float *data, size_t n) {
    FILE *file = fopen(path, mode);
    size_t done = !file ? 0 : *mode == 'r' ? fread(data, 4, n, file) : fwrite(data, 4, n, file);
    if (done != n || fclose(file) != 0) {
        fprintf(stderr, "%s: not %zu floats\n", path, n);
        exit(1);
    }
}

int main(int argc, char **argv) {
    bb_error err;
    bb_graph *graph;
    bb_model *model;
    bb_engine *engine;
    bb_context *context;
    bb_tensor_desc in, out;
    bb_quantize_options options;
    bb_engine_options engine_options;
    bb_quantize_options_init(&options);
    bb_engine_options_init(&engine_options);
    options.round_levels = 1;
    if (argc < 5 || sscanf(argv[2], "%f,%f,%f", &options.levels_scale, &options.levels_min,
                           &options.levels_max) != 3) {
        fprintf(stderr, "usage: %s MODEL.onnx SCALE,MIN,MAX INPUT.f32 OUTPUT.f32 [EXPORT.onnx]\n",
                argv[0]);
        return 2;
    }
    require(bb_import_onnx(argv[1], &graph, &err), &err);
    require(bb_import_quantized(graph, &options, &model, &err), &err);
    require(bb_engine_create(model, &engine_options, &engine, &err), &err);
    require(bb_context_create(engine, &context, &err), &err);
    require(bb_engine_input(engine, 0, &in, &err), &err);
    require(bb_engine_output(engine, 0, &out, &err), &err);
    float *x = malloc(elements(&in) * 4), *y = malloc(elements(&out) * 4);
    transfer(argv[3], "rb", x, elements(&in));
    require(bb_context_run_f32(context, (const float *[]){x}, (float *[]){y}, &err), &err);
    transfer(argv[4], "wb", y, elements(&out));
    if (argc > 5)
        require(bb_export_qonnx(model, 0, argv[5], &err), &err);
    free(x);
    free(y);
    bb_context_destroy(context);
    bb_engine_destroy(engine);
    bb_model_destroy(model);
    bb_graph_destroy(graph);
    return 0;
}
