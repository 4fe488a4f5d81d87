/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a file at every profile on the input of python/bbm_interpreter.py and prints every tensor
 * that a node makes, in the same words. */
#include "bitbranch/bitbranch.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_value(const bb_tap_event *e, size_t i) {
    uint32_t bits;
    switch (e->type) {
    case BB_TYPE_U8:
        printf(" %u", ((const uint8_t *)e->data)[i]);
        break;
    case BB_TYPE_U16:
        printf(" %u", ((const uint16_t *)e->data)[i]);
        break;
    case BB_TYPE_F32:
        memcpy(&bits, (const float *)e->data + i, sizeof(bits));
        printf(" %08" PRIx32, bits);
        break;
    }
}

static void print_tensor(void *user, const bb_tap_event *e) {
    size_t n = 1;
    (void)user;
    for (int i = 0; i < 4; i++)
        n *= (size_t)e->dims[i];
    printf("%s %d %d %d %d:", e->tensor_name, e->dims[0], e->dims[1], e->dims[2], e->dims[3]);
    for (size_t i = 0; i < n; i++)
        print_value(e, i);
    putchar('\n');
}

static void *make_input(const bb_tensor_desc *desc) {
    uint8_t *data = malloc(desc->bytes);
    size_t n = desc->type == BB_TYPE_F32 ? desc->bytes / sizeof(float) : desc->bytes;
    for (size_t i = 0; data && i < n; i++) {
        unsigned byte = (unsigned)((7 * i * i + 13 * i + 5) % 256);
        if (desc->type == BB_TYPE_F32)
            ((float *)(void *)data)[i] = (float)byte / 64 - 2;
        else
            data[i] = (uint8_t)(byte & ((1u << desc->bits) - 1));
    }
    return data;
}

enum { MAX_IO = 16 };

static bb_status run_context(const bb_engine *engine, bb_context *context, bb_error *err) {
    void *in[MAX_IO] = {0}, *out[MAX_IO] = {0};
    size_t n_in = bb_engine_inputs(engine), n_out = bb_engine_outputs(engine);
    if (n_in > MAX_IO || n_out > MAX_IO)
        return BB_STATUS_LIMIT;
    for (size_t i = 0; i < n_in; i++) {
        bb_tensor_desc desc;
        if (bb_engine_input(engine, i, &desc, err) == BB_STATUS_OK)
            in[i] = make_input(&desc);
    }
    for (size_t i = 0; i < n_out; i++) {
        bb_tensor_desc desc;
        if (bb_engine_output(engine, i, &desc, err) == BB_STATUS_OK)
            out[i] = malloc(desc.bytes);
    }
    bb_status status = bb_context_set_tap(context, print_tensor, NULL, err);
    if (status == BB_STATUS_OK)
        status = bb_context_run(context, (const void *const *)in, out, err);
    for (size_t i = 0; i < MAX_IO; i++) {
        free(in[i]);
        free(out[i]);
    }
    return status;
}

static bb_status run_profile(const bb_model *model, size_t profile, bb_error *err) {
    bb_profile_info info;
    bb_engine_options options;
    bb_engine *engine = NULL;
    bb_context *context = NULL;
    bb_engine_options_init(&options);
    options.profile = profile;
    bb_status status = bb_model_get_profile(model, profile, &info, err);
    if (status == BB_STATUS_OK) {
        printf("profile %s\n", info.name);
        status = bb_engine_create(model, &options, &engine, err);
    }
    if (status == BB_STATUS_OK)
        status = bb_context_create(engine, &context, err);
    if (status == BB_STATUS_OK)
        status = run_context(engine, context, err);
    bb_context_destroy(context);
    bb_engine_destroy(engine);
    return status;
}

int main(int argc, char **argv) {
    bb_error err = {0};
    bb_model *model = NULL;
    bb_model_info info;
    if (argc != 2)
        return 2;
    bb_model_info_init(&info);
    bb_status status = bb_model_load(argv[1], &model, &err);
    if (status == BB_STATUS_OK)
        status = bb_model_get_info(model, &info, &err);
    for (size_t i = 0; status == BB_STATUS_OK && i < info.profiles; i++)
        status = run_profile(model, i, &err);
    if (status != BB_STATUS_OK)
        fprintf(stderr, "%s\n", err.message);
    bb_model_destroy(model);
    return status != BB_STATUS_OK;
}
