/* SPDX-License-Identifier: Apache-2.0 */
#include "bitbranch/engine.h"
#include "train/run.h"
#include "vision/config.h"
#include <string.h>

typedef struct measuring {
    const bb_run *run;
    bb_engine *engine;
    bb_context *context;
    bool pixels;   /* the model takes raw pixels */
    void *input;   /* pixels or floats */
    void *output;  /* as the engine writes it */
    float *scores; /* [elements] */
    size_t elements;
    bb_tensor_desc in, out;
} measuring;

static bb_status open_engine(measuring *m, const bb_model *model, size_t profile, bb_error *err) {
    bb_engine_options options;
    int channels, height, width;
    bb_config_input(m->run->settings.task, &channels, &height, &width);
    bb_engine_options_init(&options);
    options.threads = m->run->threads;
    options.profile = profile;
    options.input_dims[0] = 1;
    options.input_dims[1] = height;
    options.input_dims[2] = width;
    options.input_dims[3] = channels;
    BB_TRY(bb_engine_create(model, &options, &m->engine, err));
    BB_TRY(bb_context_create(m->engine, &m->context, err));
    BB_TRY(bb_engine_input(m->engine, 0, &m->in, err));
    BB_TRY(bb_engine_output(m->engine, 0, &m->out, err));
    m->elements = 1;
    for (size_t d = 0; d < m->out.n_dims; d++)
        m->elements *= (size_t)m->out.dims[d];
    size_t pixels = (size_t)channels * (size_t)height * (size_t)width;
    m->pixels = m->in.type == BB_TYPE_U8;
    m->input = bb_alloc_array(pixels, m->pixels ? 1 : sizeof(float));
    m->output = bb_alloc(m->out.bytes);
    m->scores = bb_alloc_array(m->elements, sizeof(float));
    return m->input && m->output && m->scores ? BB_STATUS_OK : bb_fail_memory(err, "scores");
}

/* The order of codes is the order of what they mean: scales are positive. */
static void widen_codes(const measuring *m) {
    for (size_t i = 0; i < m->elements; i++)
        m->scores[i] = m->out.type == BB_TYPE_F32  ? ((const float *)m->output)[i]
                       : m->out.type == BB_TYPE_U8 ? (float)((const uint8_t *)m->output)[i]
                                                   : (float)((const uint16_t *)m->output)[i];
}

static bb_status run_image(measuring *m, size_t i, bb_error *err) {
    if (!m->pixels) {
        BB_TRY(bb_loader_image(m->run->test, i, m->input, err));
        const float *in[1] = {m->input};
        float *out[1] = {m->scores};
        return bb_context_run_f32(m->context, in, out, err);
    }
    bb_image image;
    BB_TRY(bb_dataset_image(m->run->test_set, i, &image, err));
    bb_status status = bb_config_pixels(m->run->settings.task, &image, m->input, err);
    bb_image_free(&image);
    BB_TRY(status);
    const void *in[1] = {m->input};
    void *out[1] = {m->output};
    BB_TRY(bb_context_run(m->context, in, out, err));
    widen_codes(m);
    return BB_STATUS_OK;
}

static bb_status count_right(measuring *m, double *accuracy, bb_error *err) {
    size_t n = bb_dataset_size(m->run->test_set), right = 0;
    for (size_t i = 0; i < n; i++) {
        size_t best;
        BB_TRY(run_image(m, i, err));
        bb_classify_top(m->run->settings.task, m->scores, m->elements, 1, &best);
        right += (int)best == bb_dataset_label(m->run->test_set, i);
    }
    *accuracy = 100 * (double)right / (double)n;
    return BB_STATUS_OK;
}

bb_status bb_run_measure(bb_run *run, const bb_model *model, size_t profile, double *accuracy,
                         bb_error *err) {
    measuring m = {.run = run};
    bb_status status = open_engine(&m, model, profile, err);
    if (status == BB_STATUS_OK)
        status = count_right(&m, accuracy, err);
    bb_context_destroy(m.context);
    bb_engine_destroy(m.engine);
    bb_free(m.input);
    bb_free(m.output);
    bb_free(m.scores);
    return status;
}
