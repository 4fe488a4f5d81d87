/* SPDX-License-Identifier: Apache-2.0 */
#include "engine_model.h"

#include "bitbranch/engine.h"
#include "engine/internal.h"
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGE, MAPS, FLAT, LOGITS };

static void set_float(bb_model *m, bb_requant *r) {
    float *scale = bb_arena_array(m->arena, 2, sizeof(*scale));
    scale[0] = 0.25f;
    scale[1] = -1.0f;
    *r = (bb_requant){.kind = BB_REQUANT_FLOAT, .channels = 1, .scale = scale, .bias = scale + 1};
}

/* 5-bit image -conv 3x3-> 4-bit maps -flatten-> -fully connected-> float logits. */
static bb_model *small_model(void) {
    bb_model *m = bb_model_create();
    const int64_t image[] = {-1, HEIGHT, WIDTH, COLOURS}, maps[] = {-1, -1, -1, FILTERS},
                  flat[] = {-1, HEIGHT * WIDTH * FILTERS}, classes[] = {-1, CLASSES};
    assert_non_null(m);
    m->name = "small";
    bb_model_add_tensor(m, "image", BB_TENSOR_CODE, 4, image);
    bb_model_add_tensor(m, "maps", BB_TENSOR_CODE, 4, maps);
    bb_model_add_tensor(m, "flat", BB_TENSOR_CODE, 2, flat);
    bb_model_add_tensor(m, "logits", BB_TENSOR_FLOAT, 2, classes);
    bb_model_node *n =
        bb_model_add_node(m, "conv", BB_NODE_CONV, 1, (int[]){IMAGE}, 1, (int[]){MAPS});
    n->geometry = (bb_geometry){{3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, false, false};
    n->groups = 1;
    n->planes = planes(m, FILTERS, 9, COLOURS);
    bb_model_add_node(m, "flatten", BB_NODE_RESHAPE, 1, (int[]){MAPS}, 1, (int[]){FLAT});
    n = bb_model_add_node(m, "fc", BB_NODE_CONV, 1, (int[]){FLAT}, 1, (int[]){LOGITS});
    n->geometry = (bb_geometry){{1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}, false, false};
    n->groups = 1;
    n->planes = planes(m, CLASSES, 1, HEIGHT * WIDTH * FILTERS);
    bb_model_add_input(m, IMAGE);
    bb_model_add_output(m, LOGITS);
    bb_model_add_output(m, MAPS);
    bb_profile *p = bb_model_add_profile(m, 2, 4);
    p->tensors[IMAGE] = (bb_tensor_params){.bits = IMAGE_BITS, .step = 0.5f, .a0 = -7};
    p->tensors[MAPS] = (bb_tensor_params){.bits = 4, .step = 0.125f, .a0 = -15};
    set_linear(m, &p->tensors[MAPS].requant);
    p->tensors[FLAT] = (bb_tensor_params){.bits = 4, .step = 0.125f, .a0 = -15};
    set_float(m, &p->tensors[LOGITS].requant);
    p->convs[0].planes = p->convs[2].planes = 2;
    bb_error err;
    if (bb_model_validate(m, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    return m;
}

typedef struct fixture {
    bb_model *model;
    bb_engine *engine;
    bb_context *context;
    uint8_t image[HEIGHT * WIDTH * COLOURS];
    float logits[CLASSES];
    uint8_t maps[HEIGHT * WIDTH * FILTERS];
} fixture;

static void run(fixture *f) {
    bb_error err;
    if (bb_context_run(f->context, (const void *[]){f->image}, (void *[]){f->logits, f->maps},
                       &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
}

static int set_up(void **state) {
    fixture *f = calloc(1, sizeof(*f));
    bb_error err;
    bb_rng rng;
    f->model = small_model();
    assert_int_equal(bb_engine_create(f->model, NULL, &f->engine, &err), BB_STATUS_OK);
    assert_int_equal(bb_context_create(f->engine, &f->context, &err), BB_STATUS_OK);
    bb_rng_seed(&rng, 5);
    for (size_t i = 0; i < sizeof(f->image); i++)
        f->image[i] = (uint8_t)bb_rng_below(&rng, 1 << IMAGE_BITS);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    bb_context_destroy(f->context);
    bb_engine_destroy(f->engine);
    bb_model_destroy(f->model);
    free(f);
    return 0;
}

/* ---- creation -------------------------------------------------------------------------------- */

static void expect_refusal(const bb_model *model, const bb_engine_options *options,
                           bb_status status, const char *word) {
    bb_engine *engine = NULL;
    bb_error err;
    assert_int_equal(bb_engine_create(model, options, &engine, &err), status);
    assert_null(engine);
    if (!strstr(err.message, word))
        fail_msg("'%s' lacks '%s'", err.message, word);
}

static void bad_options_are_refused(void **state) {
    fixture *f = *state;
    bb_engine_options good, bad;
    bb_engine_options_init(&good);
    bad = good;
    bad.struct_size = 3;
    expect_refusal(f->model, &bad, BB_STATUS_INVALID_ARGUMENT, "version");
    bad = good;
    bad.profile = 1;
    expect_refusal(f->model, &bad, BB_STATUS_NOT_FOUND, "profile 1");
    bad = good;
    bad.threads = 5000;
    expect_refusal(f->model, &bad, BB_STATUS_INVALID_ARGUMENT, "5000");
    bad = good;
    bad.cpu = "z80";
    expect_refusal(f->model, &bad, BB_STATUS_INVALID_ARGUMENT, "avx2");
    bad = good;
    bad.kernel = "conv_magic";
    expect_refusal(f->model, &bad, BB_STATUS_NOT_FOUND, "conv_magic");
    bad = good;
    bad.input_dims[1] = HEIGHT + 1;
    expect_refusal(f->model, &bad, BB_STATUS_INVALID_ARGUMENT, "height");
    expect_refusal(NULL, &good, BB_STATUS_INVALID_ARGUMENT, "model");
}

/* Every allocation of both creations fails once; nothing leaks and the error says so. */
static void expect_creation_to_survive(const fixture *f, const bb_engine_options *options) {
    bb_error err;
    long allowed = 0;
    for (;; allowed++) {
        bb_engine *engine = NULL;
        bb_context *context = NULL;
        bb_alloc_fail_after(allowed);
        bb_status status = bb_engine_create(f->model, options, &engine, &err);
        if (status == BB_STATUS_OK)
            status = bb_context_create(engine, &context, &err);
        bb_alloc_fail_after(-1);
        bb_context_destroy(context);
        bb_engine_destroy(engine);
        if (status == BB_STATUS_OK)
            break;
        assert_int_equal(status, BB_STATUS_OUT_OF_MEMORY);
    }
    assert_true(allowed > 8);
}

static void creation_survives_lack_of_memory(void **state) {
    bb_engine_options options;
    bb_engine_options_init(&options);
    expect_creation_to_survive(*state, NULL);
    options.tune = 1;
    expect_creation_to_survive(*state, &options);
}

static void mask_selects_the_reference(void **state) {
    fixture *f = *state;
    bb_engine_options options;
    bb_engine *engine;
    bb_plan_info info;
    bb_engine_options_init(&options);
    options.cpu = "ref";
    assert_int_equal(bb_engine_create(f->model, &options, &engine, NULL), BB_STATUS_OK);
    assert_int_equal(bb_engine_get_plan(engine, 0, &info, NULL), BB_STATUS_OK);
    assert_non_null(strstr(info.kernel, "ref"));
    assert_int_equal(info.macs, HEIGHT * WIDTH * FILTERS * 9 * COLOURS);
    assert_int_equal(bb_engine_get_plan(engine, 1, &info, NULL), BB_STATUS_OK);
    assert_null(info.kernel);
    assert_int_equal(bb_engine_get_plan(engine, 3, &info, NULL), BB_STATUS_NOT_FOUND);
    bb_engine_destroy(engine);
}

/* What tuning chose is the fastest of what it measured, the chooser's kernel among it; results stay
 * the same; a named kernel is not measured. */
static void tuning_takes_the_fastest(void **state) {
    fixture *f = *state;
    bb_engine_options options;
    bb_engine *engine;
    bb_context *context;
    bb_plan_info chosen, info;
    float logits[CLASSES];
    uint8_t maps[HEIGHT * WIDTH * FILTERS];
    bool chosen_was_tried = false;
    run(f);
    assert_int_equal(bb_engine_get_plan(f->engine, 0, &chosen, NULL), BB_STATUS_OK);
    assert_int_equal(chosen.n_tuned, 0);
    bb_engine_options_init(&options);
    options.tune = 1;
    assert_int_equal(bb_engine_create(f->model, &options, &engine, NULL), BB_STATUS_OK);
    assert_int_equal(bb_engine_get_plan(engine, 0, &info, NULL), BB_STATUS_OK);
    assert_true(info.n_tuned > 0);
    assert_string_equal(info.kernel, info.tuned[0].kernel);
    for (size_t i = 0; i < info.n_tuned; i++) {
        assert_true(info.tuned[i].ns > 0 && info.tuned[i].ns < 1000000000);
        assert_true(i == 0 || info.tuned[i].ns >= info.tuned[i - 1].ns);
        chosen_was_tried = chosen_was_tried || strcmp(info.tuned[i].kernel, chosen.kernel) == 0;
    }
    assert_true(chosen_was_tried);
    assert_int_equal(bb_context_create(engine, &context, NULL), BB_STATUS_OK);
    assert_int_equal(
        bb_context_run(context, (const void *[]){f->image}, (void *[]){logits, maps}, NULL),
        BB_STATUS_OK);
    assert_memory_equal(logits, f->logits, sizeof(logits));
    assert_memory_equal(maps, f->maps, sizeof(maps));
    bb_context_destroy(context);
    bb_engine_destroy(engine);
    options.kernel = "conv_ref";
    assert_int_equal(bb_engine_create(f->model, &options, &engine, NULL), BB_STATUS_OK);
    assert_int_equal(bb_engine_get_plan(engine, 0, &info, NULL), BB_STATUS_OK);
    assert_string_equal(info.kernel, "conv_ref");
    assert_int_equal(info.n_tuned, 0);
    bb_engine_destroy(engine);
}

static size_t packed_bytes_within(const fixture *f, size_t limit, const char *kernel) {
    bb_engine_options options;
    bb_engine *engine;
    bb_engine_options_init(&options);
    options.packed_limit = limit;
    options.kernel = kernel;
    assert_int_equal(bb_engine_create(f->model, &options, &engine, NULL), BB_STATUS_OK);
    size_t sum = 0;
    for (size_t i = 0; i < f->model->n_nodes; i++) {
        const bb_conv_plan *conv = engine->nodes[i].conv;
        for (size_t b = 0; conv && b < conv->n_blocks; b++)
            sum += conv->blocks[b].kernel->packed_size(&conv->blocks[b].desc);
    }
    assert_int_equal(engine->packed_bytes, sum);
    bb_engine_destroy(engine);
    return sum;
}

/* A limit exchanges kernels only as far as it must, and never a kernel that was named. */
static void packed_weights_keep_to_their_limit(void **state) {
    const fixture *f = *state;
    const size_t free = packed_bytes_within(f, SIZE_MAX, NULL);
    const size_t least = packed_bytes_within(f, 1, NULL);
    assert_true(least <= free);
    assert_int_equal(packed_bytes_within(f, free, NULL), free);
    assert_int_equal(packed_bytes_within(f, 0, NULL), free); /* far below 4 MiB */
    for (size_t limit = free; limit >= least; limit -= 64)
        assert_true(packed_bytes_within(f, limit, NULL) <= limit);
    assert_int_equal(packed_bytes_within(f, 1, "conv_ref"),
                     packed_bytes_within(f, SIZE_MAX, "conv_ref"));
}

/* ---- boundary -------------------------------------------------------------------------------- */

static void descriptions_are_complete(void **state) {
    fixture *f = *state;
    bb_tensor_desc d;
    bb_engine_memory memory;
    assert_int_equal(bb_engine_inputs(f->engine), 1);
    assert_int_equal(bb_engine_outputs(f->engine), 2);
    assert_int_equal(bb_engine_input(f->engine, 0, &d, NULL), BB_STATUS_OK);
    assert_string_equal(d.name, "image");
    assert_int_equal(d.type, BB_TYPE_U8);
    assert_int_equal(d.layout, BB_LAYOUT_NHWC);
    assert_int_equal(d.bits, IMAGE_BITS);
    assert_int_equal(d.a0, -7);
    assert_int_equal(d.bytes, HEIGHT * WIDTH * COLOURS);
    assert_int_equal(d.dims[0] * 1000 + d.dims[1] * 100 + d.dims[2] * 10 + d.dims[3], 1653);
    assert_int_equal(bb_engine_output(f->engine, 0, &d, NULL), BB_STATUS_OK);
    assert_int_equal(d.type, BB_TYPE_F32);
    assert_int_equal(d.layout, BB_LAYOUT_NC);
    assert_int_equal(d.n_dims, 2);
    assert_int_equal(d.bytes, CLASSES * sizeof(float));
    assert_int_equal(bb_engine_input(f->engine, 1, &d, NULL), BB_STATUS_NOT_FOUND);
    assert_int_equal(bb_engine_output(f->engine, 2, &d, NULL), BB_STATUS_NOT_FOUND);
    bb_engine_get_memory(f->engine, &memory);
    assert_true(memory.engine_bytes > FILTERS * 9 * COLOURS / 4);
    assert_true(memory.context_bytes > HEIGHT * WIDTH * (FILTERS + COLOURS));
}

static void bad_inputs_are_refused(void **state) {
    fixture *f = *state;
    bb_error err;
    void *outputs[] = {f->logits, f->maps}, *missing[] = {f->logits, NULL};
    f->image[7] = 1 << IMAGE_BITS;
    assert_int_equal(bb_context_run(f->context, (const void *[]){f->image}, outputs, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "code 32"));
    f->image[7] = 0;
    assert_int_equal(bb_context_run(f->context, (const void *[]){NULL}, outputs, &err),
                     BB_STATUS_INVALID_ARGUMENT);
    assert_int_equal(bb_context_run(f->context, (const void *[]){f->image}, missing, &err),
                     BB_STATUS_INVALID_ARGUMENT);
}

static void runs_allocate_nothing(void **state) {
    fixture *f = *state;
    float image[HEIGHT * WIDTH * COLOURS] = {0}, maps[HEIGHT * WIDTH * FILTERS];
    bb_alloc_fail_after(0);
    bb_status first = bb_context_run(f->context, (const void *[]){f->image},
                                     (void *[]){f->logits, f->maps}, NULL);
    bb_status second = bb_context_run_f32(f->context, (const float *[]){image},
                                          (float *[]){f->logits, maps}, NULL);
    bb_alloc_fail_after(-1);
    assert_int_equal(first, BB_STATUS_OK);
    assert_int_equal(second, BB_STATUS_OK);
}

/* Two images at once give what each gives alone. */
static void real_values_of_a_batch(void **state) {
    enum { PICTURE = HEIGHT * WIDTH * COLOURS, MAP = HEIGHT * WIDTH * FILTERS };
    fixture *f = *state;
    float images[2 * PICTURE], logits[2 * CLASSES], maps[2 * MAP], one[CLASSES], its_maps[MAP];
    bb_engine_options options;
    bb_engine *engine;
    bb_context *context;
    bb_engine_options_init(&options);
    options.input_dims[0] = 2;
    for (int i = 0; i < 2 * PICTURE; i++)
        images[i] = 0.5f * (float)(i * i % 61 - 24);
    assert_int_equal(bb_engine_create(f->model, &options, &engine, NULL), BB_STATUS_OK);
    assert_int_equal(bb_context_create(engine, &context, NULL), BB_STATUS_OK);
    assert_int_equal(
        bb_context_run_f32(context, (const float *[]){images}, (float *[]){logits, maps}, NULL),
        BB_STATUS_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(bb_context_run_f32(f->context, (const float *[]){images + i * PICTURE},
                                            (float *[]){one, its_maps}, NULL),
                         BB_STATUS_OK);
        assert_memory_equal(logits + i * CLASSES, one, sizeof(one));
        assert_memory_equal(maps + i * MAP, its_maps, sizeof(its_maps));
    }
    assert_memory_not_equal(maps, maps + MAP, sizeof(its_maps));
    bb_context_destroy(context);
    bb_engine_destroy(engine);
}

/* Real values of the codes, in NCHW, give the same result as the codes in NHWC. */
static void real_values_are_quantized_and_back(void **state) {
    fixture *f = *state;
    float image[HEIGHT * WIDTH * COLOURS], logits[CLASSES], maps[HEIGHT * WIDTH * FILTERS];
    const int pixels = HEIGHT * WIDTH;
    for (int p = 0; p < pixels; p++)
        for (int c = 0; c < COLOURS; c++) /* step*(a - a0), a little off the grid */
            image[c * pixels + p] =
                0.5f * (float)(2 * f->image[p * COLOURS + c] - 31 + 7) + 0.4f * (float)(c - 1);
    run(f);
    assert_int_equal(
        bb_context_run_f32(f->context, (const float *[]){image}, (float *[]){logits, maps}, NULL),
        BB_STATUS_OK);
    assert_memory_equal(logits, f->logits, sizeof(logits));
    for (int p = 0; p < pixels; p++)
        for (int c = 0; c < FILTERS; c++)
            assert_true(maps[c * pixels + p] == 0.25f * (float)f->maps[p * FILTERS + c]);
    int distinct = 0;
    for (int i = 1; i < pixels * FILTERS; i++)
        distinct += f->maps[i] != f->maps[0];
    assert_true(distinct > 10);
}

static void real_values_outside_are_clamped(void **state) {
    (void)state;
    assert_int_equal(bb_quantize_value(-1e30f, 1.0, 3.0, 15), 0);
    assert_int_equal(bb_quantize_value(1e30f, 1.0, 3.0, 15), 15);
    assert_int_equal(bb_quantize_value(NAN, 1.0, 3.0, 15), 0);
    assert_int_equal(bb_quantize_value(INFINITY, 1.0, 3.0, 15), 15);
    assert_int_equal(bb_quantize_value(0.5f, 1.0, 3.0, 15), 4);
    assert_int_equal(bb_quantize_value(0.4999f, 1.0, 3.0, 15), 3);
    assert_int_equal(bb_quantize_value(-3.6f, 1.0, 3.0, 15), 0);
}

/* float image -quantize-> 12-bit codes, as both outputs of a model of floats. */
static bb_model *wide_model(void) {
    bb_model *m = bb_model_create();
    const int64_t image[] = {1, 2, 3, 2};
    assert_non_null(m);
    m->name = "wide";
    bb_model_add_tensor(m, "image", BB_TENSOR_FLOAT, 4, image);
    bb_model_add_tensor(m, "codes", BB_TENSOR_CODE, 4, image);
    bb_model_add_tensor(m, "relu", BB_TENSOR_FLOAT, 4, image);
    bb_model_add_node(m, "quantize", BB_NODE_QUANTIZE, 1, (int[]){0}, 1, (int[]){1});
    bb_model_node *n = bb_model_add_node(m, "relu", BB_NODE_FLOAT, 1, (int[]){0}, 1, (int[]){2});
    n->float_op = BB_FLOAT_RELU;
    n->beta = INFINITY;
    bb_model_add_input(m, 0);
    bb_model_add_output(m, 1);
    bb_model_add_output(m, 2);
    bb_profile *p = bb_model_add_profile(m, 8, 8);
    p->tensors[1] = (bb_tensor_params){.bits = 12, .step = 0.25f, .a0 = 1};
    assert_int_equal(bb_model_validate(m, NULL), BB_STATUS_OK);
    return m;
}

static void wide_codes_and_floats_pass_the_boundary(void **state) {
    (void)state;
    bb_model *m = wide_model();
    bb_engine *engine;
    bb_context *context;
    bb_tensor_desc d;
    float image[12], wide[12], relu[12];
    uint16_t codes[12];
    assert_int_equal(bb_engine_create(m, NULL, &engine, NULL), BB_STATUS_OK);
    assert_int_equal(bb_context_create(engine, &context, NULL), BB_STATUS_OK);
    assert_int_equal(bb_engine_input(engine, 0, &d, NULL), BB_STATUS_OK);
    assert_int_equal(d.type * 10 + d.layout, BB_TYPE_F32 * 10 + BB_LAYOUT_NCHW);
    assert_int_equal(d.dims[1] * 100 + d.dims[2] * 10 + d.dims[3], 223);
    assert_int_equal(bb_engine_output(engine, 0, &d, NULL), BB_STATUS_OK);
    assert_int_equal(d.type * 10 + d.layout, BB_TYPE_U16 * 10 + BB_LAYOUT_NHWC);
    assert_int_equal(d.bytes, 24);
    for (int i = 0; i < 12; i++)
        image[i] = 0.5f * (float)(i - 6); /* every code is 0.5 wide and 0 is one */
    assert_int_equal(
        bb_context_run(context, (const void *[]){image}, (void *[]){codes, relu}, NULL),
        BB_STATUS_OK);
    assert_int_equal(
        bb_context_run_f32(context, (const float *[]){image}, (float *[]){wide, relu}, NULL),
        BB_STATUS_OK);
    for (int c = 0; c < 2; c++)
        for (int p = 0; p < 6; p++) {
            const int i = c * 6 + p;
            assert_int_equal(codes[p * 2 + c], 2048 + i - 6);
            assert_true(wide[i] == image[i]);
            assert_true(relu[i] == (image[i] > 0 ? image[i] : 0));
        }
    bb_context_destroy(context);
    bb_engine_destroy(engine);
    bb_model_destroy(m);
}

/* ---- taps, timing, threads ------------------------------------------------------------------- */

typedef struct tapped {
    size_t events, with_accumulators;
    char names[128];
    uint8_t maps[HEIGHT * WIDTH * FILTERS];
} tapped;

static void note(void *user, const bb_tap_event *event) {
    tapped *t = user;
    t->events++;
    t->with_accumulators += event->accumulators != NULL;
    strcat(t->names, event->tensor_name);
    strcat(t->names, " ");
    if (strcmp(event->tensor_name, "maps") == 0)
        memcpy(t->maps, event->data, sizeof(t->maps));
}

static void taps_see_every_tensor(void **state) {
    fixture *f = *state;
    tapped t = {0};
    assert_int_equal(bb_context_set_tap(f->context, note, &t, NULL), BB_STATUS_OK);
    run(f);
    assert_string_equal(t.names, "maps flat logits ");
    assert_int_equal(t.with_accumulators, 2);
    assert_memory_equal(t.maps, f->maps, sizeof(t.maps));
    assert_int_equal(bb_context_set_tap(f->context, NULL, NULL, NULL), BB_STATUS_OK);
    run(f);
    assert_int_equal(t.events, 3);
}

static void timing_is_off_until_enabled(void **state) {
    fixture *f = *state;
    run(f);
    assert_int_equal(bb_context_node_ns(f->context)[0], 0);
    bb_context_enable_timing(f->context, 1);
    run(f);
    assert_true(bb_context_node_ns(f->context)[0] > 0);
}

typedef struct caller {
    fixture *f;
    float logits[CLASSES];
} caller;

static void *run_own_context(void *arg) {
    caller *c = arg;
    bb_context *context;
    uint8_t maps[HEIGHT * WIDTH * FILTERS];
    if (bb_context_create(c->f->engine, &context, NULL) != BB_STATUS_OK)
        return NULL;
    for (int i = 0; i < 50; i++)
        bb_context_run(context, (const void *[]){c->f->image}, (void *[]){c->logits, maps}, NULL);
    bb_context_destroy(context);
    return c;
}

static void contexts_run_side_by_side(void **state) {
    fixture *f = *state;
    caller callers[2] = {{.f = f}, {.f = f}};
    pthread_t threads[2];
    run(f);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_own_context, &callers[i]), 0);
    for (int i = 0; i < 2; i++) {
        void *done;
        pthread_join(threads[i], &done);
        assert_non_null(done);
        assert_memory_equal(callers[i].logits, f->logits, sizeof(f->logits));
    }
}

static void passive_threads_give_the_same(void **state) {
    fixture *f = *state;
    bb_engine_options options;
    bb_engine *engine;
    bb_context *context;
    float logits[CLASSES];
    uint8_t maps[HEIGHT * WIDTH * FILTERS];
    run(f);
    bb_engine_options_init(&options);
    options.threads = 2;
    options.passive = 1;
    assert_int_equal(bb_engine_create(f->model, &options, &engine, NULL), BB_STATUS_OK);
    assert_true(engine->passive);
    assert_int_equal(bb_context_create(engine, &context, NULL), BB_STATUS_OK);
    assert_int_equal(
        bb_context_run(context, (const void *[]){f->image}, (void *[]){logits, maps}, NULL),
        BB_STATUS_OK);
    assert_memory_equal(logits, f->logits, sizeof(logits));
    assert_memory_equal(maps, f->maps, sizeof(maps));
    bb_context_destroy(context);
    bb_engine_destroy(engine);
}

/* ---- border classes -------------------------------------------------------------------------- */

static void pad_code_is_the_zero_code_where_there_is_one(void **state) {
    (void)state;
    assert_int_equal(bb_border_pad_code(0, 15), 0);   /* a0 = -L */
    assert_int_equal(bb_border_pad_code(14, 15), 7);  /* a0 = -1 */
    assert_int_equal(bb_border_pad_code(15, 15), 0);  /* a0 = 0: between two codes */
    assert_int_equal(bb_border_pad_code(-2, 15), 0);  /* below the first code */
    assert_int_equal(bb_border_pad_code(32, 15), 0);  /* above the last */
    assert_int_equal(bb_border_pad_code(30, 15), 15); /* a0 = L */
}

static void valid_taps_are_a_range(void **state) {
    (void)state;
    for (int32_t dilation = 1; dilation <= 3; dilation++)
        for (int32_t size = 1; size <= 5; size++)
            for (int32_t pad = 0; pad <= 4; pad++)
                for (int32_t out = 0; out < 6; out++) {
                    const bb_tap_range r = bb_valid_taps(out, 2, dilation, pad, 4, size);
                    for (int32_t k = 0; k < 4; k++) {
                        const int32_t at = out * 2 - pad + k * dilation;
                        assert_int_equal(k >= r.first && k < r.last, at >= 0 && at < size);
                    }
                }
}

static void interior_is_one_class(void **state) {
    fixture *f = *state;
    const bb_border *b = &f->engine->nodes[0].conv->border;
    /* zero = 31 - 7 = 24 is a code: padding reads it and all pixels are alike. */
    assert_int_equal(b->n_row_classes * b->n_column_classes, 1);
    f->model->profiles[0].tensors[IMAGE].a0 = -8; /* zero between two codes: 3 x 3 classes */
    bb_engine *engine;
    assert_int_equal(bb_engine_create(f->model, NULL, &engine, NULL), BB_STATUS_OK);
    b = &engine->nodes[0].conv->border;
    assert_int_equal(b->n_row_classes, 3);
    assert_int_equal(b->n_column_classes, 3);
    assert_int_equal(b->run_end[0], 1);
    assert_int_equal(b->run_end[1], WIDTH - 1);
    bb_engine_destroy(engine);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(bad_options_are_refused),
        TEST(creation_survives_lack_of_memory),
        TEST(mask_selects_the_reference),
        TEST(tuning_takes_the_fastest),
        TEST(packed_weights_keep_to_their_limit),
        TEST(descriptions_are_complete),
        TEST(bad_inputs_are_refused),
        TEST(runs_allocate_nothing),
        TEST(real_values_are_quantized_and_back),
        TEST(real_values_of_a_batch),
        TEST(real_values_outside_are_clamped),
        TEST(wide_codes_and_floats_pass_the_boundary),
        TEST(taps_see_every_tensor),
        TEST(timing_is_off_until_enabled),
        TEST(contexts_run_side_by_side),
        TEST(passive_threads_give_the_same),
        TEST(pad_code_is_the_zero_code_where_there_is_one),
        TEST(valid_taps_are_a_range),
        TEST(interior_is_one_class),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
