/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz_bbm.h"
#include "bitbranch/bitbranch.h"
#include "format/wire.h"
#include <stdlib.h>
#include <string.h>

/* A file may describe more work than a test should do; these are far above the sample's. */
enum { MAX_BYTES = 64 << 20, MAX_MACS = 2 << 20 };

void fuzz_reseal(uint8_t *data, size_t size) {
    bb_crc crc;
    bb_crc_init(&crc);
    if (size < BB_FILE_HEADER)
        return;
    bb_put_u64(data + 16, size);
    bb_put_u32(data + 60, bb_crc_header(&crc, data));
    for (size_t at = BB_FILE_HEADER; size - at >= BB_CHUNK_HEADER;) {
        uint64_t payload = bb_get_u64(data + at + 16);
        if (payload > size - at - BB_CHUNK_HEADER)
            return;
        uint8_t *head = data + at;
        bb_put_u32(head + 12, bb_crc_chunk(&crc, head, head + BB_CHUNK_HEADER, (size_t)payload));
        at += bb_align_chunk(BB_CHUNK_HEADER + (size_t)payload);
        if (at > size)
            return;
    }
}

static size_t total_bytes(const bb_engine *engine, bool outputs) {
    size_t total = 0;
    bb_tensor_desc desc;
    size_t n = outputs ? bb_engine_outputs(engine) : bb_engine_inputs(engine);
    for (size_t i = 0; i < n; i++) {
        bb_status status = outputs ? bb_engine_output(engine, i, &desc, NULL)
                                   : bb_engine_input(engine, i, &desc, NULL);
        if (status != BB_STATUS_OK || desc.bytes > MAX_BYTES)
            return SIZE_MAX;
        total += desc.bytes;
    }
    return total;
}

/* One run with inputs and outputs that share a block each: their contents do not matter. */
static bool run_once(const bb_engine *engine, bb_context *context) {
    size_t n_in = bb_engine_inputs(engine), n_out = bb_engine_outputs(engine);
    size_t in_bytes = total_bytes(engine, false), out_bytes = total_bytes(engine, true);
    if (in_bytes > MAX_BYTES || out_bytes > MAX_BYTES)
        return false;
    uint8_t *in = calloc(1, in_bytes + 1), *out = calloc(1, out_bytes + 1);
    const void **inputs = calloc(n_in, sizeof(*inputs));
    void **outputs = calloc(n_out, sizeof(*outputs));
    bool ok = in && out && inputs && outputs;
    for (size_t i = 0; ok && i < n_in; i++)
        inputs[i] = in;
    for (size_t i = 0, at = 0; ok && i < n_out; i++) {
        bb_tensor_desc desc;
        ok = bb_engine_output(engine, i, &desc, NULL) == BB_STATUS_OK;
        outputs[i] = out + at;
        at += desc.bytes;
    }
    ok = ok && bb_context_run(context, inputs, outputs, NULL) == BB_STATUS_OK;
    free(in);
    free(out);
    free((void *)(uintptr_t)inputs);
    free(outputs);
    return ok;
}

static bool run_model(const bb_model *model, size_t profile) {
    bb_engine_options options;
    bb_engine *engine = NULL;
    bb_context *context = NULL;
    bb_engine_memory memory;
    bb_engine_options_init(&options);
    options.profile = profile;
    options.cpu = "ref";
    if (bb_engine_create(model, &options, &engine, NULL) != BB_STATUS_OK)
        return false;
    bb_engine_get_memory(engine, &memory);
    bool ok = memory.engine_bytes < MAX_BYTES && memory.context_bytes < MAX_BYTES &&
              bb_context_create(engine, &context, NULL) == BB_STATUS_OK &&
              run_once(engine, context);
    bb_context_destroy(context);
    bb_engine_destroy(engine);
    return ok;
}

fuzz_result fuzz_bbm(const uint8_t *data, size_t size, bool execute) {
    bb_model *model = NULL;
    bb_error err = {0};
    if (bb_model_load_buffer(data, size, &model, &err) != BB_STATUS_OK)
        return err.message[0] ? FUZZ_REFUSED : FUZZ_SILENT;
    bb_model_info info;
    bb_model_info_init(&info);
    fuzz_result result = FUZZ_LOADED;
    if (bb_model_get_info(model, &info, &err) == BB_STATUS_OK && execute && info.macs < MAX_MACS &&
        info.plane_bytes < MAX_BYTES) {
        for (size_t i = 0; i < info.profiles; i++)
            if (run_model(model, i))
                result = FUZZ_RAN;
    }
    bb_model_destroy(model);
    return result;
}

#ifdef FUZZ_LIBFUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size + 1);
    if (!copy)
        return 0;
    memcpy(copy, data, size);
    fuzz_reseal(copy, size);
    fuzz_bbm(copy, size, true);
    free(copy);
    return 0;
}
#endif
