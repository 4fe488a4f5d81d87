/* SPDX-License-Identifier: Apache-2.0 */
/* Creation of engines and what can be asked of them. */
#include "engine/plan.h"
#include <stdlib.h>
#include <string.h>

void bb_engine_options_init(bb_engine_options *options) {
    *options = (bb_engine_options){.struct_size = sizeof(*options), .threads = 1};
}

static bb_status choose_cpu(bb_engine *engine, const char *name, bb_error *err) {
    BB_TRY(bb_cpu_check_environment(err));
    engine->cpu = bb_cpu_flags();
    if (name) {
        uint32_t wanted;
        BB_TRY(bb_cpu_parse(name, &wanted, err));
        engine->cpu &= wanted;
    }
    engine->cpu = bb_conv_trusted(engine->cpu);
    bb_cpu_describe(engine->cpu, engine->cpu_text, sizeof(engine->cpu_text));
    engine->requant = bb_requant_choose(engine->cpu);
    engine->window = bb_window_choose(engine->cpu);
    return BB_STATUS_OK;
}

static bool is_kernel(const char *name) {
    size_t n;
    const bb_conv_kernel *const *kernels = bb_conv_kernels(&n);
    for (size_t i = 0; i < n; i++)
        if (strcmp(kernels[i]->name, name) == 0)
            return true;
    return false;
}

static bb_status choose_kernel(bb_engine *engine, const char *name, bb_error *err) {
    if (!name)
        name = getenv("BITBRANCH_KERNEL");
    if (!name || !*name)
        return BB_STATUS_OK;
    if (!is_kernel(name))
        return bb_fail(err, BB_STATUS_NOT_FOUND, "there is no kernel '%s'", name);
    engine->wanted_kernel = bb_arena_strdup(engine->arena, name);
    return engine->wanted_kernel ? BB_STATUS_OK : bb_fail_memory(err, "the engine");
}

static bool is_passive(const bb_engine_options *options) {
    const char *wish = getenv("BITBRANCH_PASSIVE");
    return options->passive || (wish && *wish && strcmp(wish, "0") != 0);
}

static bb_status bind_shapes(const bb_engine *engine, const int32_t dims[4], bb_shapes *shapes,
                             bb_error *err) {
    int32_t(*inputs)[4] = bb_calloc_array(engine->model->n_inputs, sizeof(*inputs));
    if (!inputs)
        return bb_fail_memory(err, "the input dimensions");
    memcpy(inputs[0], dims, sizeof(inputs[0]));
    for (size_t i = 1; i < engine->model->n_inputs; i++)
        if (engine->model->tensors[engine->model->inputs[i]].dims[DIM_N] < 0)
            inputs[i][DIM_N] = dims[DIM_N];
    const bb_status status = bb_model_bind(engine->model, (const int32_t(*)[4])inputs, shapes, err);
    bb_free(inputs);
    return status;
}

/* ---- batches --------------------------------------------------------------------------------- */

/* Activations of the images that are run together, for each thread: the second-level cache, which
 * all layers after the first would miss if more went through each layer. */
enum { PART_BYTES = 1 << 20 };

/* Images run together: as many as fit, and divide the batch. */
static bb_status part_images(const bb_engine *engine, size_t profile, int32_t *images,
                             bb_error *err) {
    bb_memory_plan memory;
    const int32_t all = *images;
    BB_TRY(bb_model_plan_memory(engine->model, profile, &engine->shapes, &memory, err));
    const size_t one = memory.total / (size_t)all;
    bb_memory_plan_free(&memory);
    while (*images > 1 &&
           (all % *images != 0 || (size_t)*images * one > PART_BYTES * engine->threads))
        --*images;
    return BB_STATUS_OK;
}

/* True where every tensor of a part is that of the whole batch but for the number of images. */
static bool is_part(const bb_model *model, const bb_shapes *whole, const bb_shapes *part,
                    int32_t all, int32_t images) {
    for (size_t t = 0; t < model->n_tensors; t++)
        if (whole->dims[t][DIM_N] != all || part->dims[t][DIM_N] != images ||
            memcmp(whole->dims[t] + 1, part->dims[t] + 1, 3 * sizeof(int32_t)) != 0)
            return false;
    return true;
}

/* Cuts a batch into parts where that is wanted and the model has an open batch. */
static bb_status cut_batch(bb_engine *engine, const bb_engine_options *options, bb_error *err) {
    const int32_t all = engine->shapes.dims[engine->model->inputs[0]][DIM_N];
    int32_t images = all;
    if (all == 1)
        return BB_STATUS_OK;
    BB_TRY(part_images(engine, options->profile, &images, err));
    int32_t dims[4];
    memcpy(dims, options->input_dims, sizeof(dims));
    dims[DIM_N] = images;
    bb_shapes part;
    if (images == all || bind_shapes(engine, dims, &part, NULL) != BB_STATUS_OK)
        return BB_STATUS_OK;
    if (!is_part(engine->model, &engine->shapes, &part, all, images)) {
        bb_shapes_free(&part);
        return BB_STATUS_OK;
    }
    bb_shapes_free(&engine->shapes);
    engine->shapes = part;
    engine->parts = (size_t)(all / images);
    return BB_STATUS_OK;
}

static bb_status build(bb_engine *engine, const bb_engine_options *options, bb_error *err) {
    BB_TRY(choose_cpu(engine, options->cpu, err));
    BB_TRY(choose_kernel(engine, options->kernel, err));
    BB_TRY(bind_shapes(engine, options->input_dims, &engine->shapes, err));
    BB_TRY(cut_batch(engine, options, err));
    BB_TRY(bb_plan_tensors(engine, options->profile, err));
    BB_TRY(bb_plan_nodes(engine, err));
    return engine->wanted_kernel ? BB_STATUS_OK
                                 : bb_plan_budget(engine, options->packed_limit, err);
}

static bb_status check_options(const bb_model *model, const bb_engine_options *options,
                               bb_error *err) {
    BB_TRY(bb_check_options(options->struct_size, sizeof(*options), "bb_engine_options", err));
    if (options->threads > 1024)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "threads must be 1..1024, not %zu",
                       options->threads);
    if (options->profile >= model->n_profiles)
        return bb_fail(err, BB_STATUS_NOT_FOUND, "profile %zu of a model that has %zu",
                       options->profile, model->n_profiles);
    return BB_STATUS_OK;
}

bb_status bb_engine_create(const bb_model *model, const bb_engine_options *options,
                           bb_engine **result, bb_error *err) {
    bb_engine_options defaults;
    bb_engine_options_init(&defaults);
    options = options ? options : &defaults;
    if (!model || !result)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                       "bb_engine_create needs a model and a "
                       "place for the engine");
    BB_TRY(check_options(model, options, err));
    bb_engine *engine = bb_calloc_array(1, sizeof(*engine));
    bb_arena *arena = bb_arena_create();
    if (!engine || !arena) {
        bb_free(engine);
        bb_arena_destroy(arena);
        return bb_fail_memory(err, "the engine");
    }
    engine->arena = arena;
    engine->model = model;
    engine->profile = &model->profiles[options->profile];
    engine->threads = options->threads ? options->threads : 1;
    engine->parts = 1;
    engine->passive = is_passive(options);
    engine->tune = options->tune != 0;
    const bb_status status = build(engine, options, err);
    if (status != BB_STATUS_OK) {
        bb_engine_destroy(engine);
        return status;
    }
    *result = engine;
    return BB_STATUS_OK;
}

void bb_engine_destroy(bb_engine *engine) {
    if (!engine)
        return;
    for (size_t i = 0; engine->nodes && i < engine->model->n_nodes; i++)
        bb_conv_plan_release(engine->nodes[i].conv);
    bb_shapes_free(&engine->shapes);
    bb_arena_destroy(engine->arena);
    bb_free(engine);
}

size_t bb_engine_inputs(const bb_engine *engine) {
    return engine->model->n_inputs;
}

size_t bb_engine_outputs(const bb_engine *engine) {
    return engine->model->n_outputs;
}

static void describe_dims(const bb_plan_tensor *t, int32_t n, int rank, bb_tensor_desc *desc) {
    const int32_t vector[4] = {n, t->c, 1, 1}, nhwc[4] = {n, t->h, t->w, t->c},
                  nchw[4] = {n, t->c, t->h, t->w};
    const bool floats = t->type == BB_ELEMENT_F32;
    desc->n_dims = (size_t)rank;
    desc->layout = rank == 2 ? BB_LAYOUT_NC : floats ? BB_LAYOUT_NCHW : BB_LAYOUT_NHWC;
    memcpy(desc->dims, rank == 2 ? vector : floats ? nchw : nhwc, sizeof(desc->dims));
}

static void describe(const bb_engine *engine, int tensor, bb_tensor_desc *desc) {
    static const bb_element_type types[] = {[BB_ELEMENT_U8] = BB_TYPE_U8,
                                            [BB_ELEMENT_U16] = BB_TYPE_U16,
                                            [BB_ELEMENT_F32] = BB_TYPE_F32};
    const bb_plan_tensor *t = &engine->tensors[tensor];
    *desc = (bb_tensor_desc){.name = engine->model->tensors[tensor].name,
                             .type = types[t->type],
                             .bits = t->bits,
                             .bytes = engine->parts * t->elements * bb_element_size(t->type)};
    if (t->bits) {
        desc->scale = engine->profile->tensors[tensor].step;
        desc->a0 = engine->profile->tensors[tensor].a0;
    }
    describe_dims(t, (int32_t)engine->parts * t->n, engine->model->tensors[tensor].rank, desc);
}

bb_status bb_engine_input(const bb_engine *engine, size_t i, bb_tensor_desc *desc, bb_error *err) {
    if (i >= engine->model->n_inputs)
        return bb_fail(err, BB_STATUS_NOT_FOUND, "input %zu of a model that has %zu", i,
                       engine->model->n_inputs);
    describe(engine, engine->model->inputs[i], desc);
    return BB_STATUS_OK;
}

bb_status bb_engine_output(const bb_engine *engine, size_t i, bb_tensor_desc *desc, bb_error *err) {
    if (i >= engine->model->n_outputs)
        return bb_fail(err, BB_STATUS_NOT_FOUND, "output %zu of a model that has %zu", i,
                       engine->model->n_outputs);
    describe(engine, engine->model->outputs[i], desc);
    return BB_STATUS_OK;
}

void bb_engine_get_memory(const bb_engine *engine, bb_engine_memory *memory) {
    memory->engine_bytes = sizeof(*engine) + engine->packed_bytes + engine->constant_bytes;
    memory->context_bytes = sizeof(bb_context) + engine->activation_bytes + 2 * BB_BUFFER_MARGIN +
                            engine->threads * engine->scratch_bytes +
                            engine->model->n_nodes * sizeof(uint64_t);
}

static const char *kernel_of(const bb_engine *engine, const bb_plan_node *plan) {
    if (plan->conv)
        return plan->conv->blocks[0].kernel->name;
    if (plan->node->kind == BB_NODE_MAX_POOL || plan->node->kind == BB_NODE_AVERAGE_POOL)
        return engine->window->name;
    return plan->n_out > 0 && plan->out[0].fn ? engine->requant->name : NULL;
}

bb_status bb_engine_get_plan(const bb_engine *engine, size_t node, bb_plan_info *info,
                             bb_error *err) {
    if (node >= engine->model->n_nodes)
        return bb_fail(err, BB_STATUS_NOT_FOUND, "node %zu of a model that has %zu", node,
                       engine->model->n_nodes);
    const bb_plan_node *plan = &engine->nodes[node];
    *info = (bb_plan_info){
        .name = plan->node->name, .kernel = kernel_of(engine, plan), .macs = plan->macs};
    if (plan->conv) {
        info->n_tuned = plan->conv->blocks[0].n_tuned;
        info->tuned = plan->conv->blocks[0].tuned;
    }
    return BB_STATUS_OK;
}

const char *bb_engine_cpu(const bb_engine *engine) {
    return engine->cpu_text;
}
