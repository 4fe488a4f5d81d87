/* SPDX-License-Identifier: Apache-2.0 */
/* What keeps activations few gives the same numbers: max pools inside convolutions, large batches
 * in parts. */
#include "engine_model.h"

#include "bitbranch/engine.h"
#include "engine/internal.h"
#include <stdlib.h>
#include <string.h>

/* Odd numbers of bytes in a row of the first tensor, so that the second begins where it may. */
enum { TALL = 41, LONG = 499, HALF_TALL = 21, HALF_LONG = 250, FILTERS_ODD = 19, BATCH = 2 };
enum { POOLED_CODES = BATCH * HALF_TALL * HALF_LONG * FILTERS_ODD };

/* image -conv 3x3-> 4-bit and 12-bit codes, both -max pool 3x3 /2->. Rows of 30 kB: only a few are
 * kept at a time. */
static bb_model *pooled_model(void) {
    bb_model *m = bb_model_create();
    const int64_t image[] = {-1, -1, -1, COLOURS}, maps[] = {-1, -1, -1, FILTERS_ODD};
    const bb_geometry pool = {{3, 3}, {2, 2}, {1, 1}, {1, 1}, {1, 1}, false, false};
    assert_non_null(m);
    bb_model_add_tensor(m, "image", BB_TENSOR_CODE, 4, image);
    for (int i = 0; i < 4; i++)
        bb_model_add_tensor(m, (const char *[]){"few", "many", "few pooled", "many pooled"}[i],
                            BB_TENSOR_CODE, 4, maps);
    bb_model_node *n = bb_model_add_node(m, "conv", BB_NODE_CONV, 1, (int[]){0}, 2, (int[]){1, 2});
    n->geometry = (bb_geometry){{3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, false, false};
    n->groups = 1;
    n->planes = planes(m, FILTERS_ODD, 9, COLOURS);
    bb_model_add_node(m, "p", BB_NODE_MAX_POOL, 1, (int[]){1}, 1, (int[]){3})->geometry = pool;
    bb_model_add_node(m, "q", BB_NODE_MAX_POOL, 1, (int[]){2}, 1, (int[]){4})->geometry = pool;
    bb_model_add_input(m, 0);
    bb_model_add_output(m, 3);
    bb_model_add_output(m, 4);
    bb_profile *p = bb_model_add_profile(m, 2, 4);
    p->tensors[0] = (bb_tensor_params){.bits = IMAGE_BITS, .step = 0.5f, .a0 = -7};
    for (int t = 1; t < 5; t++)
        p->tensors[t] =
            (bb_tensor_params){.bits = t % 2 ? 4 : 12, .step = 0.125f, .a0 = t % 2 ? -15 : 0};
    set_linear(m, &p->tensors[1].requant);
    set_linear(m, &p->tensors[2].requant);
    p->convs[0].planes = 2;
    bb_error err;
    if (bb_model_validate(m, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    return m;
}

static void ignore_tap(void *user, const bb_tap_event *event) {
    (void)user;
    (void)event;
}

/* Both pooled tensors, one behind the other; with a tap the pools have nodes of their own. */
static void run_pooled(const bb_model *m, size_t threads, bool tap, const uint8_t *image,
                       uint16_t *result) {
    bb_engine *engine;
    bb_context *context;
    bb_engine_options options;
    bb_engine_options_init(&options);
    options.threads = threads;
    memcpy(options.input_dims, (int32_t[]){BATCH, TALL, LONG, COLOURS}, 4 * sizeof(int32_t));
    assert_int_equal(bb_engine_create(m, &options, &engine, NULL), BB_STATUS_OK);
    assert_int_equal(bb_context_create(engine, &context, NULL), BB_STATUS_OK);
    assert_true(engine->activation_bytes < (size_t)BATCH * TALL * LONG * FILTERS_ODD * 3);
    if (tap)
        assert_int_equal(bb_context_set_tap(context, ignore_tap, NULL, NULL), BB_STATUS_OK);
    assert_int_equal(bb_context_run(context, (const void *[]){image},
                                    (void *[]){result, result + POOLED_CODES}, NULL),
                     BB_STATUS_OK);
    bb_context_destroy(context);
    bb_engine_destroy(engine);
}

static void pools_in_convolutions_give_the_same(void **state) {
    (void)state;
    bb_model *m = pooled_model();
    const size_t pixels = (size_t)BATCH * TALL * LONG * COLOURS;
    uint8_t *image = calloc(pixels, 1);
    uint16_t *expected = calloc(2 * POOLED_CODES, sizeof(*expected));
    uint16_t *found = calloc(2 * POOLED_CODES, sizeof(*found));
    bb_rng rng;
    bb_rng_seed(&rng, 6);
    for (size_t i = 0; i < pixels; i++)
        image[i] = (uint8_t)bb_rng_below(&rng, 1 << IMAGE_BITS);
    run_pooled(m, 1, true, image, expected);
    for (size_t threads = 1; threads <= 3; threads++) {
        memset(found, 0, 2 * POOLED_CODES * sizeof(*found));
        run_pooled(m, threads, false, image, found);
        assert_memory_equal(found, expected, 2 * POOLED_CODES * sizeof(*found));
    }
    free(image);
    free(expected);
    free(found);
    bb_model_destroy(m);
}

/* The pooled model on `batch` images from the first one on, in codes and in floats. */
static size_t run_batch(const bb_model *m, int32_t batch, size_t threads, const uint8_t *image,
                        uint8_t *few, uint16_t *many, float *floats) {
    enum { ONE = HALF_TALL * HALF_LONG * FILTERS_ODD };
    bb_engine *engine;
    bb_context *context;
    bb_engine_options options;
    bb_tensor_desc d;
    bb_engine_options_init(&options);
    options.threads = threads;
    memcpy(options.input_dims, (int32_t[]){batch, TALL, LONG, COLOURS}, 4 * sizeof(int32_t));
    assert_int_equal(bb_engine_create(m, &options, &engine, NULL), BB_STATUS_OK);
    assert_int_equal(bb_context_create(engine, &context, NULL), BB_STATUS_OK);
    assert_int_equal(bb_engine_output(engine, 1, &d, NULL), BB_STATUS_OK);
    assert_int_equal(d.dims[0], batch);
    assert_int_equal(d.bytes, batch * ONE * 2);
    assert_int_equal(bb_context_run(context, (const void *[]){image}, (void *[]){few, many}, NULL),
                     BB_STATUS_OK);
    float *real = calloc((size_t)batch * TALL * LONG * COLOURS, sizeof(*real));
    for (int32_t i = 0; i < batch * TALL * LONG * COLOURS; i++)
        real[i] = (float)(i % 7) - 3;
    assert_int_equal(bb_context_run_f32(context, (const float *[]){real},
                                        (float *[]){floats, floats + batch * ONE}, NULL),
                     BB_STATUS_OK);
    const size_t parts = engine->parts;
    free(real);
    bb_context_destroy(context);
    bb_engine_destroy(engine);
    return parts;
}

static void large_batches_are_run_in_parts(void **state) {
    (void)state;
    enum { IMAGES = 6, ONE = HALF_TALL * HALF_LONG * FILTERS_ODD, PIXELS = TALL * LONG * COLOURS };
    bb_model *m = pooled_model();
    uint8_t *image = calloc(IMAGES, PIXELS);
    uint8_t *few[2] = {calloc(IMAGES, ONE), calloc(IMAGES, ONE)};
    uint16_t *many[2] = {calloc(IMAGES * 2, ONE), calloc(IMAGES * 2, ONE)};
    float *floats[2] = {calloc((size_t)IMAGES * 8, ONE), calloc((size_t)IMAGES * 8, ONE)};
    bb_rng rng;
    bb_rng_seed(&rng, 8);
    for (size_t i = 0; i < (size_t)IMAGES * PIXELS; i++)
        image[i] = (uint8_t)bb_rng_below(&rng, 1 << IMAGE_BITS);
    assert_int_equal(run_batch(m, IMAGES, 1, image, few[0], many[0], floats[0]), 3);
    assert_int_equal(run_batch(m, IMAGES, 3, image, few[1], many[1], floats[1]), 1);
    assert_memory_equal(few[0], few[1], IMAGES * ONE);
    assert_memory_equal(many[0], many[1], IMAGES * ONE * 2);
    assert_memory_equal(floats[0], floats[1], (size_t)IMAGES * ONE * 8);
    for (int i = 0; i < 2; i++) {
        free(few[i]);
        free(many[i]);
        free(floats[i]);
    }
    free(image);
    bb_model_destroy(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pools_in_convolutions_give_the_same),
        cmocka_unit_test(large_batches_are_run_in_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
