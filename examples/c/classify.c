/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Classifies one picture with a quantized network, using libbitbranch alone.
 *
 *   classify MODEL.bbm PICTURE.ppm|.pgm
 *
 * The picture is a binary PGM or PPM of exactly the network's input size. The network must take raw
 * 8-bit pixels, as `bitbranch quantize` makes it.
 */
#include <bitbranch/bitbranch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Reads the pixels of a binary PGM (channels 1) or PPM (3); NULL where size or kind differ. */
static unsigned char *read_picture(const char *path, int width, int height, int channels) {
    size_t size = (size_t)width * (size_t)height * (size_t)channels;
    unsigned char *pixels = malloc(size);
    FILE *file = fopen(path, "rb");
    int kind = 0, w = 0, h = 0, top = 0;
    int good = file && pixels && fscanf(file, "P%1d %5d %5d %3d", &kind, &w, &h, &top) == 4 &&
               kind == (channels == 3 ? 6 : 5) && w == width && h == height && top == 255 &&
               fgetc(file) != EOF && fread(pixels, 1, size, file) == size;
    if (file)
        fclose(file);
    if (good)
        return pixels;
    fprintf(stderr, "%s: not a binary %s of %dx%d pixels\n", path, channels == 3 ? "PPM" : "PGM",
            width, height);
    free(pixels);
    return NULL;
}

/* Real value of output i: codes carry a scale and an offset (see bb_tensor_desc). */
static double value_at(const bb_tensor_desc *desc, const void *data, size_t i) {
    if (desc->type == BB_TYPE_F32)
        return ((const float *)data)[i];
    long code = desc->type == BB_TYPE_U8 ? ((const uint8_t *)data)[i] : ((const uint16_t *)data)[i];
    return desc->scale * (double)(2 * code - ((1L << desc->bits) - 1) - desc->a0);
}

static void print_best(const bb_tensor_desc *desc, const void *data, const char *labels) {
    size_t n = 1, best = 0;
    for (size_t d = 0; d < desc->n_dims; d++)
        n *= (size_t)desc->dims[d];
    for (size_t i = 1; i < n; i++)
        if (value_at(desc, data, i) > value_at(desc, data, best))
            best = i;
    for (size_t line = 0; labels && line < best; line++) {
        labels = strchr(labels, '\n');
        labels += labels != NULL;
    }
    printf("class %zu, score %.4f", best, value_at(desc, data, best));
    if (labels)
        printf(": %.*s", (int)strcspn(labels, "\r\n"), labels);
    printf("\n");
}

static bb_status run(const bb_engine *engine, const char *picture, const char *labels,
                     bb_error *err) {
    bb_tensor_desc in, out;
    bb_context *context = NULL;
    bb_status status = bb_engine_input(engine, 0, &in, err);
    if (status == BB_STATUS_OK)
        status = bb_engine_output(engine, 0, &out, err);
    if (status == BB_STATUS_OK)
        status = bb_context_create(engine, &context, err);
    if (status != BB_STATUS_OK)
        return status;
    if (in.type != BB_TYPE_U8 || in.layout != BB_LAYOUT_NHWC) {
        snprintf(err->message, sizeof(err->message), "the network does not take 8-bit pixels");
        bb_context_destroy(context);
        return BB_STATUS_UNSUPPORTED;
    }
    unsigned char *pixels = read_picture(picture, in.dims[2], in.dims[1], in.dims[3]);
    void *scores = malloc(out.bytes);
    if (pixels && scores) {
        const void *inputs[] = {pixels};
        void *outputs[] = {scores};
        status = bb_context_run(context, inputs, outputs, err);
        if (status == BB_STATUS_OK)
            print_best(&out, scores, labels);
    } else {
        snprintf(err->message, sizeof(err->message), "no picture to classify");
        status = BB_STATUS_BAD_FILE;
    }
    free(scores);
    free(pixels);
    bb_context_destroy(context);
    return status;
}

int main(int argc, char **argv) {
    bb_error err = {BB_STATUS_OK, ""};
    bb_model *model = NULL;
    bb_engine *engine = NULL;
    bb_engine_options options;
    bb_model_info info;
    if (argc != 3) {
        fprintf(stderr, "usage: classify MODEL.bbm PICTURE.ppm|.pgm\n");
        return 2;
    }
    bb_engine_options_init(&options);
    bb_model_info_init(&info);
    bb_status status = bb_model_load(argv[1], &model, &err);
    if (status == BB_STATUS_OK)
        status = bb_model_get_info(model, &info, &err);
    if (status == BB_STATUS_OK)
        status = bb_engine_create(model, &options, &engine, &err);
    if (status == BB_STATUS_OK)
        status = run(engine, argv[2], info.labels, &err);
    if (status != BB_STATUS_OK)
        fprintf(stderr, "classify: %s\n", err.message);
    bb_engine_destroy(engine);
    bb_model_destroy(model);
    return status == BB_STATUS_OK ? 0 : 1;
}
