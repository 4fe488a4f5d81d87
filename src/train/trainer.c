/* SPDX-License-Identifier: Apache-2.0 */
#include "nn/loss.h"
#include "train/stage.h"
#include "vision/config.h"
#include <math.h>
#include <string.h>

/* ---- calibration ----------------------------------------------------------------------------- */

int bb_trainer_calibration(void *user, size_t index, float *input) {
    bb_trainer *t = user;
    return bb_loader_image(t->run->train, t->run->calibration_order[index], input,
                           &t->callback_error) != BB_STATUS_OK;
}

size_t bb_trainer_calibration_count(const bb_trainer *t) {
    size_t n = bb_loader_images(t->run->train), wanted = (size_t)t->stage->calibration;
    return wanted < n ? wanted : n;
}

static void lowbit_options(const bb_trainer *t, bb_lowbit_options *o) {
    const bb_settings *s = &t->run->settings;
    bb_quantize_options *q = &o->quantize;
    bb_lowbit_options_init(o);
    o->weights = t->stage->weights;
    o->activations = t->stage->activations;
    q->profiles = t->stage->profiles;
    q->n_profiles = t->stage->n_profiles;
    q->first_last = t->stage->first_last;
    q->first_last_float = t->stage->first_last_float;
    q->layers = t->stage->layers;
    q->n_layers = t->stage->n_layers;
    q->residual_bits = (uint32_t)t->stage->residual_bits;
    q->seed = s->seed;
    q->threads = t->run->threads;
    q->config_json = bb_config_json(s->task);
    q->labels = s->labels;
    bb_config_normalization(s->task, &q->pixel_scale, q->mean, q->std, &q->pixels);
    q->round_levels = bb_config_levels(s->task, &q->levels_scale, &q->levels_min, &q->levels_max);
}

static bb_status open_lowbit(bb_trainer *t, bb_error *err) {
    bb_lowbit_options options;
    lowbit_options(t, &options);
    bb_run_say(t->run, "choosing the first steps of the quantizers");
    bb_status status = bb_lowbit_create(t->source, &options, bb_trainer_calibration, t,
                                        bb_trainer_calibration_count(t), &t->lowbit, err);
    if (status == BB_STATUS_CANCELLED && t->callback_error.status != BB_STATUS_OK && err)
        *err = t->callback_error;
    return status;
}

static bb_status create_program(const bb_trainer *t, const bb_graph *graph,
                                const bb_gradient_options *options, bb_gradient **program,
                                bb_error *err) {
    const int64_t *dims[1] = {t->input.dims};
    return bb_gradient_create(graph, dims, options, program, err);
}

/* ---- statistics of BatchNormalization -------------------------------------------------------- */

static int next_batch(void *user, size_t index, bb_array *inputs) {
    bb_trainer *t = user;
    bb_batch batch;
    if (bb_loader_next(t->run->train, &batch, &t->callback_error) != BB_STATUS_OK)
        return 1;
    inputs[0].data = (void *)(uintptr_t)batch.images;
    return 0;
}

bb_status bb_trainer_reestimate(bb_trainer *t, bb_gradient *program, size_t n, bb_error *err) {
    bb_array input = t->input;
    BB_TRY(bb_loader_start(t->run->train, bb_trainer_epoch(t, UINT32_MAX), 0, err));
    bb_status status = bb_lowbit_reestimate(program, next_batch, t, n, &input, err);
    if (status == BB_STATUS_CANCELLED && t->callback_error.status != BB_STATUS_OK && err)
        *err = t->callback_error;
    return status;
}

static bool comes_from_few_bits(const bb_trainer *t) {
    const bb_settings *s = &t->run->settings;
    size_t from = t->stage->from ? bb_settings_find_stage(s, t->stage->from, t->index) : t->index;
    return from < t->index && s->stages[from].n_profiles > 0;
}

/* Latent weights without their quantizers make other activations than those whose statistics came
 * with them, layer by layer further off: steps chosen on these would be of no use (one-bit stages
 * began with activations that were all 0, and stayed there). */
static bb_status renew_source(bb_trainer *t, bb_error *err) {
    const bb_gradient_options options = {
        .threads = t->run->threads, .training = true, .forward_only = true};
    size_t batch = (size_t)t->run->settings.batch;
    size_t n = (bb_trainer_calibration_count(t) + batch - 1) / batch;
    bb_gradient *program;
    if (!comes_from_few_bits(t))
        return BB_STATUS_OK;
    BB_TRY(create_program(t, t->source, &options, &program, err));
    bb_status status = bb_trainer_reestimate(t, program, n < t->batches ? n : t->batches, err);
    if (status == BB_STATUS_OK)
        status = bb_gradient_export(program, t->source, err);
    bb_gradient_destroy(program);
    return status;
}

/* ---- programs -------------------------------------------------------------------------------- */

static bool uses_bf16(const bb_trainer *t) {
    return t->run->options.precision == BB_PRECISION_BF16;
}

bb_status bb_trainer_forward_program(const bb_trainer *t, bool training, bb_gradient **program,
                                     bb_error *err) {
    size_t n = bb_gradient_n_parameters(t->train);
    int *values = bb_arena_array(t->source->arena, n, sizeof(*values));
    float **masters = bb_arena_array(t->source->arena, n, sizeof(*masters));
    if (!values || !masters)
        return bb_fail_memory(err, "parameters");
    for (size_t i = 0; i < n; i++) {
        values[i] = bb_gradient_parameter_value(t->train, i);
        masters[i] = bb_gradient_parameter(t->train, i);
    }
    const bb_gradient_options options = {.threads = t->run->threads,
                                         .training = training,
                                         .parameters = values,
                                         .n_parameters = n,
                                         .masters = masters,
                                         .forward_only = true};
    return create_program(t, t->graph, &options, program, err);
}

static bb_status open_programs(bb_trainer *t, const bb_lowbit_parameter *parameters, size_t n,
                               bb_error *err) {
    bb_arena *arena = t->source->arena;
    int *values = bb_arena_array(arena, n, sizeof(*values));
    if (!values)
        return bb_fail_memory(err, "parameters");
    for (size_t i = 0; i < n; i++)
        values[i] = parameters[i].value;
    bb_gradient_options options = {.threads = t->run->threads,
                                   .training = true,
                                   .parameters = values,
                                   .n_parameters = n,
                                   .bf16 = uses_bf16(t)};
    if (t->features.n > 0 &&
        !(options.kept = bb_features_values(&t->features, false, &options.n_kept)))
        return bb_fail_memory(err, "features");
    BB_TRY(create_program(t, t->graph, &options, &t->train, err));
    return bb_trainer_forward_program(t, false, &t->test, err);
}

/* A step of a quantizer is a positive number. */
static bool is_step(const bb_lowbit_parameter *p) {
    return p->min > 0 && p->max > p->min;
}

/* How far SGD's gradient or velocity may change a quantizer's step at once. Behind
 * BatchNormalization the gradient grows as 1/step: a step that fell to almost nothing would next be
 * thrown far beyond every weight, where its row holds one level, has no gradient, and stays. */
#define MOST_STEP_CHANGE 0.02f

/* Adam moves every number by about the learning rate, which would be far too much for a small step
 * of a quantizer: its rate is relative to the steps as they start. (Gradients of steps bring that
 * scale along where the optimiser is SGD.) */
static float step_rate(const bb_trainer *t, const bb_lowbit_parameter *p, const bb_parameter *of) {
    double sum = 0;
    if (!is_step(p) || t->stage->optimizer.kind != BB_OPTIMIZER_ADAM)
        return p->rate;
    for (size_t i = 0; i < of->n; i++)
        sum += (double)of->value[i];
    return (float)(sum / (double)of->n);
}

static bb_status open_optimizer(bb_trainer *t, const bb_lowbit_parameter *from, size_t n,
                                bb_error *err) {
    bb_parameter *p = bb_arena_array(t->source->arena, n, sizeof(*p));
    if (!p)
        return bb_fail_memory(err, "optimiser");
    for (size_t i = 0; i < n; i++) {
        p[i] = (bb_parameter){.value = bb_gradient_parameter(t->train, i),
                              .gradient = bb_gradient_of(t->train, i),
                              .n = bb_gradient_parameter_elements(t->train, i),
                              .decay = from[i].decay,
                              .min = from[i].min,
                              .max = from[i].max,
                              .most_change = is_step(&from[i]) ? MOST_STEP_CHANGE : 0};
        p[i].rate = step_rate(t, &from[i], &p[i]);
    }
    return bb_optimizer_create(&t->stage->optimizer, p, n, &t->optimizer, err);
}

/* The teacher's graph, and which values learn from it. */
static bb_status import_teacher(bb_trainer *t, bb_error *err) {
    if (!t->stage->teacher)
        return BB_STATUS_OK;
    const char *path = t->stage->teacher_is_file ? t->stage->teacher
                                                 : bb_run_path(t->run, t->stage->teacher, ".onnx");
    if (!path)
        return bb_fail_memory(err, "teacher");
    BB_TRY(bb_run_import(t->run, path, &t->teacher_graph, err));
    return bb_features_find(&t->features, t->stage, t->graph, t->teacher_graph,
                            (size_t)t->run->settings.batch, err);
}

static bb_status open_teacher(bb_trainer *t, bb_error *err) {
    bb_gradient_options options = {
        .threads = t->run->threads, .forward_only = true, .bf16 = uses_bf16(t)};
    if (!t->teacher_graph)
        return BB_STATUS_OK;
    if (t->features.n > 0 &&
        !(options.kept = bb_features_values(&t->features, true, &options.n_kept)))
        return bb_fail_memory(err, "features");
    return create_program(t, t->teacher_graph, &options, &t->teacher, err);
}

/* ---- arrays ---------------------------------------------------------------------------------- */

static bb_status allocate_kept(bb_trainer *t, bb_error *err) {
    bb_arena *arena = t->source->arena;
    t->kept = bb_arena_array(arena, t->n_kept, sizeof(*t->kept));
    for (size_t i = 0; t->kept && i < t->n_kept; i++) {
        t->kept[i].n = t->arrays[i].n;
        t->kept[i].data = bb_arena_array(arena, t->kept[i].n, sizeof(float));
        if (!t->kept[i].data)
            return bb_fail_memory(err, "best network");
        t->arrays[t->n_arrays++] = t->kept[i];
    }
    return t->kept ? BB_STATUS_OK : bb_fail_memory(err, "best network");
}

static bb_status list_arrays(bb_trainer *t, bb_error *err) {
    size_t parameters = bb_gradient_n_parameters(t->train);
    size_t statistics = bb_gradient_n_statistics(t->train), both = parameters + statistics;
    t->arrays = bb_arena_array(t->source->arena, 2 * both + 1, sizeof(*t->arrays));
    if (!t->arrays)
        return bb_fail_memory(err, "checkpoint");
    for (size_t i = 0; i < parameters; i++)
        t->arrays[t->n_arrays++] = (bb_checkpoint_array){
            bb_gradient_parameter(t->train, i), bb_gradient_parameter_elements(t->train, i)};
    for (size_t i = 0; i < statistics; i++) {
        bb_checkpoint_array *a = &t->arrays[t->n_arrays++];
        a->data = bb_gradient_statistic(t->train, i, NULL, &a->n);
    }
    bb_checkpoint_array *state = &t->arrays[t->n_arrays++];
    state->data = bb_optimizer_state(t->optimizer, &state->n);
    t->n_kept = t->stage->keep_best ? both : 0;
    return allocate_kept(t, err);
}

/* ---- outputs --------------------------------------------------------------------------------- */

/* Scores of output i after a forward run. */
static bb_status scores_of(bb_gradient *program, const bb_graph *graph, size_t i,
                           const float **scores, size_t *elements, bb_error *err) {
    bb_array array;
    BB_TRY(bb_gradient_value(program, graph->outputs[i], &array, err));
    *scores = array.data;
    return bb_dims_product(array.dims, (size_t)array.rank, elements)
               ? BB_STATUS_OK
               : bb_fail(err, BB_STATUS_INTERNAL, "an output of no size");
}

/* Scores [N,classes], maybe with further dims of 1. */
static bb_status find_classes(const bb_graph *graph, size_t *classes, bb_error *err) {
    const bb_value *v = &graph->values[graph->outputs[0]];
    int64_t n = v->rank >= 2 ? v->dims[1] : -1;
    for (int d = 2; d < v->rank; d++)
        n = v->dims[d] == 1 ? n : -1;
    if (n < 2)
        return bb_fail(err, BB_STATUS_UNSUPPORTED,
                       "%s: output '%s' is not [N,classes], which training needs", graph->name,
                       v->name);
    *classes = (size_t)n;
    return BB_STATUS_OK;
}

static bb_status check_classes(const bb_trainer *t, bb_error *err) {
    size_t first = t->run->settings.task->drop_first, teacher = t->classes;
    if (t->teacher_graph)
        BB_TRY(find_classes(t->teacher_graph, &teacher, err));
    if (teacher != t->classes)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                       "stage '%s': the teacher has %zu classes, the network %zu", t->stage->name,
                       teacher, t->classes);
    for (size_t i = 0; i < bb_loader_images(t->run->train); i++) {
        int label = bb_dataset_label(t->run->train_set, i);
        if (label < 0 || (size_t)label + first >= t->classes)
            return bb_fail(err, BB_STATUS_BAD_FILE, "%s: class %d, but the network has %zu outputs",
                           bb_dataset_name(t->run->train_set, i), label, t->classes);
    }
    return BB_STATUS_OK;
}

static bb_status open_outputs(bb_trainer *t, bb_error *err) {
    bb_arena *arena = t->source->arena;
    size_t batch = (size_t)t->run->settings.batch, elements;
    BB_TRY(find_classes(t->graph, &t->classes, err));
    BB_TRY(check_classes(t, err));
    t->n_outputs = t->graph->n_outputs;
    if (t->n_outputs > BB_TRAIN_MAX_PROFILES || !bb_size_mul(batch, t->classes, &elements))
        return bb_fail(err, BB_STATUS_LIMIT, "too many outputs");
    t->targets = bb_arena_array(arena, batch, sizeof(*t->targets));
    t->n_seeds = t->n_outputs * (1 + t->features.n);
    t->seeds = bb_arena_array(arena, t->n_seeds, sizeof(*t->seeds));
    t->seed_data = bb_arena_array(arena, t->n_outputs, sizeof(*t->seed_data));
    if (!t->targets || !t->seeds || !t->seed_data)
        return bb_fail_memory(err, "scores");
    for (size_t i = 0; i < t->n_outputs; i++) {
        t->seed_data[i] = bb_arena_array(arena, elements, sizeof(float));
        if (!t->seed_data[i])
            return bb_fail_memory(err, "scores");
        t->seeds[i] = (bb_gradient_seed){t->graph->outputs[i], t->seed_data[i]};
    }
    return BB_STATUS_OK;
}

bb_status bb_trainer_open(bb_trainer *t, bb_error *err) {
    const bb_settings *s = &t->run->settings;
    const bb_lowbit_parameter *parameters;
    size_t n;
    int channels, height, width;
    bb_config_input(s->task, &channels, &height, &width);
    t->batches = bb_loader_batches(t->run->train);
    t->input =
        (bb_array){.dtype = BB_DTYPE_F32, .rank = 4, .dims = {s->batch, channels, height, width}};
    BB_TRY(bb_run_source(t->run, t->stage, &t->source, err));
    BB_TRY(renew_source(t, err));
    if (t->stage->n_profiles > 0)
        BB_TRY(open_lowbit(t, err));
    t->graph = t->lowbit ? bb_lowbit_graph(t->lowbit) : t->source;
    parameters =
        t->lowbit ? bb_lowbit_parameters(t->lowbit, &n) : bb_float_parameters(t->source, &n);
    if (!parameters)
        return bb_fail_memory(err, "parameters");
    BB_TRY(import_teacher(t, err));
    BB_TRY(open_programs(t, parameters, n, err));
    BB_TRY(open_optimizer(t, parameters, n, err));
    BB_TRY(open_teacher(t, err));
    BB_TRY(open_outputs(t, err));
    return list_arrays(t, err);
}

void bb_trainer_close(bb_trainer *t) {
    bb_gradient_destroy(t->train);
    bb_gradient_destroy(t->test);
    bb_gradient_destroy(t->teacher);
    bb_optimizer_destroy(t->optimizer);
    bb_graph_destroy(t->teacher_graph);
    bb_lowbit_destroy(t->lowbit);
    bb_graph_destroy(t->source); /* everything else lies in its arena */
}

/* ---- steps ----------------------------------------------------------------------------------- */

static bb_array batch_input(const bb_trainer *t, const bb_batch *batch) {
    bb_array input = t->input;
    input.data = (void *)(uintptr_t)batch->images;
    return input;
}

static void set_targets(bb_trainer *t, const bb_batch *batch) {
    int first = (int)t->run->settings.task->drop_first;
    for (size_t i = 0; i < batch->n; i++)
        t->targets[i] = batch->labels[i] < 0 ? -1 : batch->labels[i] + first;
}

/* Best class among those that count; ties to the lower one. */
static size_t count_right(const bb_trainer *t, const float *scores, size_t n) {
    size_t right = 0, first = t->run->settings.task->drop_first;
    for (size_t i = 0; i < n; i++, scores += t->classes) {
        size_t best = first;
        for (size_t c = first + 1; c < t->classes; c++)
            if (scores[c] > scores[best])
                best = c;
        right += (int)best == t->targets[i];
    }
    return right;
}

/* Adds the loss of one output and its gradient. */
static void add_loss(bb_trainer *t, const float *scores, const float *teacher, size_t n,
                     float *gradient, double *loss) {
    const bb_stage *s = t->stage;
    double share = 1 / (double)t->n_outputs; /* of each profile */
    double taught = teacher ? share * s->teacher_weight : 0, own = share - taught;
    memset(gradient, 0, n * t->classes * sizeof(*gradient));
    *loss += s->loss == BB_LOSS_SQUARED_HINGE
                 ? bb_loss_squared_hinge(scores, t->targets, n, t->classes, own, gradient)
                 : bb_loss_cross_entropy(scores, t->targets, n, t->classes, s->label_smoothing, own,
                                         gradient);
    if (teacher)
        *loss +=
            bb_loss_distillation(scores, teacher, n, t->classes, s->temperature, taught, gradient);
}

bb_status bb_trainer_forward(bb_trainer *t, const bb_batch *batch, double *loss, size_t *right,
                             bb_error *err) {
    const float *teacher = NULL, *scores;
    size_t elements;
    bb_array input = batch_input(t, batch);
    set_targets(t, batch);
    *loss = 0;
    *right = 0;
    if (t->teacher) {
        BB_TRY(bb_gradient_forward(t->teacher, &input, err));
        BB_TRY(scores_of(t->teacher, t->teacher_graph, 0, &teacher, &elements, err));
    }
    BB_TRY(bb_gradient_forward(t->train, &input, err));
    for (size_t i = 0; i < t->n_outputs; i++) {
        BB_TRY(scores_of(t->train, t->graph, i, &scores, &elements, err));
        if (elements != (size_t)t->run->settings.batch * t->classes)
            return bb_fail(err, BB_STATUS_INTERNAL, "output %zu has %zu elements", i, elements);
        add_loss(t, scores, teacher, batch->n, t->seed_data[i], loss);
        if (i == 0)
            *right = count_right(t, scores, batch->n);
    }
    return bb_features_loss(&t->features, t->train, t->teacher, batch->n, t->seeds + t->n_outputs,
                            loss, err);
}

bb_status bb_trainer_backward(bb_trainer *t, bb_error *err) {
    return bb_gradient_backward(t->train, t->seeds, t->n_seeds, err);
}

/* ---- evaluation ------------------------------------------------------------------------------ */

void bb_trainer_copy_statistics(bb_gradient *from, bb_gradient *to) {
    for (size_t i = 0; i < bb_gradient_n_statistics(from); i++) {
        size_t n;
        const float *data = bb_gradient_statistic(from, i, NULL, &n);
        memcpy(bb_gradient_statistic(to, i, NULL, NULL), data, n * sizeof(*data));
    }
}

bb_status bb_trainer_evaluate(bb_trainer *t, double *loss, double accuracy[BB_TRAIN_MAX_PROFILES],
                              bb_error *err) {
    size_t right[BB_TRAIN_MAX_PROFILES] = {0}, images = bb_loader_images(t->run->test);
    size_t batches = bb_loader_batches(t->run->test), elements;
    double sum = 0;
    bb_trainer_copy_statistics(t->train, t->test);
    BB_TRY(bb_loader_start(t->run->test, 0, 0, err));
    for (size_t b = 0; b < batches; b++) {
        bb_batch batch;
        const float *scores;
        BB_TRY(bb_loader_next(t->run->test, &batch, err));
        bb_array input = batch_input(t, &batch);
        set_targets(t, &batch);
        BB_TRY(bb_gradient_forward(t->test, &input, err));
        for (size_t i = 0; i < t->n_outputs; i++) {
            BB_TRY(scores_of(t->test, t->graph, i, &scores, &elements, err));
            right[i] += count_right(t, scores, batch.n);
            if (i == 0) /* seeds are free between steps */
                sum += bb_loss_cross_entropy(scores, t->targets, batch.n, t->classes, 0,
                                             (double)batch.n, t->seed_data[0]);
        }
    }
    *loss = sum / (double)images;
    for (size_t i = 0; i < t->n_outputs; i++)
        accuracy[i] = 100 * (double)right[i] / (double)images;
    return BB_STATUS_OK;
}
