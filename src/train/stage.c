/* SPDX-License-Identifier: Apache-2.0 */
#include "train/stage.h"
#include "bitbranch/export.h"
#include "train/run.h"
#include "vision/config.h"
#include <math.h>
#include <string.h>

/* ---- epochs ---------------------------------------------------------------------------------- */

static void fill_event(const bb_trainer *t, bb_train_moment moment, bb_train_event *e) {
    const bb_position *p = &t->run->position;
    *e = (bb_train_event){.moment = moment,
                          .stage = t->stage->name,
                          .bits = t->bits,
                          .stage_index = t->index,
                          .stages = t->run->settings.n_stages,
                          .epoch = p->epoch + 1,
                          .epochs = (size_t)t->stage->epochs,
                          .batch = p->batch,
                          .batches = t->batches,
                          .rate = t->rate,
                          .model_accuracy = -1};
    if (p->batch > 0) {
        e->loss = p->loss_sum / (double)p->batch;
        e->accuracy = 100 * (double)p->right / (double)p->seen;
    }
    if (t->speed_seconds > 0) {
        double images = (double)t->speed_images;
        double per_epoch = (double)t->batches * (double)t->run->settings.batch;
        double left = ((double)e->epochs - (double)p->epoch) * per_epoch -
                      (double)p->batch * (double)t->run->settings.batch;
        e->images_per_second = images / t->speed_seconds;
        e->seconds_left = left / e->images_per_second;
        e->seconds_left_all = e->seconds_left;
        for (size_t i = t->index + 1; i < e->stages; i++)
            e->seconds_left_all +=
                (double)t->run->settings.stages[i].epochs * per_epoch / e->images_per_second;
    }
}

static bb_status save(bb_trainer *t, bb_error *err) {
    bb_run *run = t->run;
    bb_run_tick(run);
    run->position.steps = bb_optimizer_steps(t->optimizer);
    return bb_run_save(run, t->arrays, t->n_arrays, err);
}

/* One batch: loss, gradients, step. */
static bb_status train_batch(bb_trainer *t, bb_error *err) {
    bb_position *p = &t->run->position;
    bb_batch batch;
    double loss;
    size_t right;
    BB_TRY(bb_loader_next(t->run->train, &batch, err));
    BB_TRY(bb_trainer_forward(t, &batch, &loss, &right, err));
    if (!isfinite(loss))
        return bb_fail(err, BB_STATUS_LIMIT,
                       "stage '%s': the loss is no longer a number in epoch %llu, batch %llu: a "
                       "lower rate may help",
                       t->stage->name, (unsigned long long)p->epoch + 1,
                       (unsigned long long)p->batch + 1);
    BB_TRY(bb_trainer_backward(t, err));
    uint64_t steps = (uint64_t)t->stage->epochs * t->batches;
    t->rate = bb_schedule_rate(&t->stage->schedule, p->epoch * t->batches + p->batch, steps);
    bb_optimizer_step(t->optimizer, (float)t->rate);
    p->loss_sum += loss;
    p->right += right;
    p->seen += batch.n;
    p->precisions |= (uint64_t)1 << t->run->options.precision;
    p->batch++;
    return BB_STATUS_OK;
}

static bb_status train_batches(bb_trainer *t, bb_error *err) {
    bb_run *run = t->run;
    bb_position *p = &run->position;
    BB_TRY(bb_loader_start(run->train, bb_trainer_epoch(t, p->epoch), p->batch, err));
    while (p->batch < t->batches) {
        double before = p->total_seconds;
        bb_train_event event;
        BB_TRY(train_batch(t, err));
        bb_run_tick(run);
        t->speed_images += (uint64_t)run->settings.batch;
        t->speed_seconds += p->total_seconds - before;
        fill_event(t, BB_TRAIN_BATCH, &event);
        bb_run_report(run, &event);
        bool due = run->ticked - run->saved >= 60 * run->settings.checkpoint_minutes;
        if (run->stopped || due)
            BB_TRY(save(t, err));
        if (run->stopped)
            return BB_STATUS_OK;
    }
    return BB_STATUS_OK;
}

static void keep_best(bb_trainer *t, double accuracy) {
    bb_position *p = &t->run->position;
    if (p->best_epoch > 0 && accuracy <= p->best_accuracy)
        return;
    p->best_epoch = p->epoch + 1;
    p->best_accuracy = accuracy;
    for (size_t i = 0; i < t->n_kept; i++)
        memcpy(t->kept[i].data, t->arrays[i].data, t->arrays[i].n * sizeof(float));
}

static bb_status end_epoch(bb_trainer *t, bb_error *err) {
    bb_run *run = t->run;
    bb_position *p = &run->position;
    double accuracy[BB_TRAIN_MAX_PROFILES];
    bb_train_event event;
    fill_event(t, BB_TRAIN_EPOCH, &event);
    BB_TRY(bb_trainer_evaluate(t, &event.test_loss, accuracy, err));
    event.test_accuracy = accuracy[0];
    keep_best(t, accuracy[0]);
    bb_run_tick(run);
    bb_epoch_row row = {.stage = (uint32_t)t->index,
                        .epoch = (uint32_t)p->epoch + 1,
                        .rate = t->rate,
                        .loss = event.loss,
                        .accuracy = event.accuracy,
                        .test_loss = event.test_loss,
                        .test_accuracy = accuracy[0],
                        .seconds = p->epoch_seconds,
                        .images_per_second = event.images_per_second};
    BB_TRY(bb_record_add_row(&run->record, &row, err));
    p->epoch++;
    p->batch = p->seen = p->right = 0;
    p->loss_sum = p->epoch_seconds = 0;
    bb_run_report(run, &event);
    BB_TRY(save(t, err));
    return bb_record_write(&run->record, &run->settings, run->out, run->threads, err);
}

/* ---- the finished network -------------------------------------------------------------------- */

/* Statistics of BatchNormalization as the finished weights give them, in f32. */
static bb_status reestimate(bb_trainer *t, bb_error *err) {
    size_t n =
        (size_t)t->stage->bn_batches < t->batches ? (size_t)t->stage->bn_batches : t->batches;
    bb_gradient *program;
    if (n == 0)
        return BB_STATUS_OK;
    BB_TRY(bb_trainer_forward_program(t, true, &program, err));
    bb_status status = bb_trainer_reestimate(t, program, n, err);
    if (status == BB_STATUS_OK)
        bb_trainer_copy_statistics(program, t->train);
    bb_gradient_destroy(program);
    return status;
}

static bb_status write_model(bb_trainer *t, const bb_graph *trained, bb_stage_result *result,
                             bb_error *err) {
    bb_model *model = NULL;
    bb_model_info info;
    const char *path = bb_run_path(t->run, t->stage->name, ".bbm");
    if (!path)
        return bb_fail_memory(err, "model");
    BB_TRY(bb_lowbit_export(t->lowbit, trained, bb_trainer_calibration, t,
                            bb_trainer_calibration_count(t), &model, NULL, err));
    bb_status status = bb_model_save(model, path, err);
    for (size_t i = 0; i < t->stage->n_profiles && status == BB_STATUS_OK; i++)
        status = bb_run_measure(t->run, model, i, &result->model_accuracy[i], err);
    bb_model_info_init(&info);
    if (status == BB_STATUS_OK)
        status = bb_model_get_info(model, &info, err);
    result->model_bytes = info.file_bytes;
    bb_model_destroy(model);
    return status;
}

static bb_status write_networks(bb_trainer *t, const bb_graph *trained, bb_stage_result *result,
                                bb_error *err) {
    const char *path = bb_run_path(t->run, t->stage->name, ".onnx");
    if (!path)
        return bb_fail_memory(err, "network");
    if (!t->lowbit)
        return bb_export_onnx(trained, path, err);
    bb_graph *latent = NULL;
    BB_TRY(bb_lowbit_latent(t->lowbit, trained, 0, &latent, err));
    bb_status status = bb_export_onnx(latent, path, err);
    bb_graph_destroy(latent);
    return status == BB_STATUS_OK ? write_model(t, trained, result, err) : status;
}

static bb_status finish(bb_trainer *t, bb_error *err) {
    bb_run *run = t->run;
    bb_position *p = &run->position;
    bb_stage_result result = {.stage = (uint32_t)t->index,
                              .best_epoch = (uint32_t)p->best_epoch,
                              .best_accuracy = p->best_accuracy,
                              .precisions = p->precisions,
                              .until = run->settings.until[t->index]};
    for (size_t i = 0; t->stage->keep_best && p->best_epoch > 0 && i < t->n_kept; i++)
        memcpy(t->arrays[i].data, t->kept[i].data, t->arrays[i].n * sizeof(float));
    BB_TRY(reestimate(t, err));
    BB_TRY(bb_trainer_evaluate(t, &result.test_loss, result.test_accuracy, err));
    bb_graph *trained = bb_graph_clone(t->graph);
    if (!trained)
        return bb_fail_memory(err, "network");
    bb_status status = bb_gradient_export(t->train, trained, err);
    if (status == BB_STATUS_OK)
        status = write_networks(t, trained, &result, err);
    bb_graph_destroy(trained);
    BB_TRY(status);
    bb_run_tick(run);
    result.seconds = p->stage_seconds;
    run->record.results[run->record.n_results++] = result;
    bb_train_event event;
    fill_event(t, BB_TRAIN_STAGE, &event);
    event.test_loss = result.test_loss;
    event.test_accuracy = result.test_accuracy[0];
    event.model_accuracy = t->lowbit ? result.model_accuracy[0] : -1;
    bb_run_report(run, &event);
    return BB_STATUS_OK;
}

/* ---- a stage --------------------------------------------------------------------------------- */

static bb_status resume(bb_trainer *t, bb_error *err) {
    bb_run *run = t->run;
    if (!run->resuming)
        return BB_STATUS_OK;
    run->resuming = false;
    bb_status status = BB_STATUS_OK;
    if (run->resume.n_arrays > 0) {
        status = bb_checkpoint_read(&run->resume, t->arrays, t->n_arrays, err);
        bb_optimizer_set_steps(t->optimizer, run->position.steps);
    }
    bb_checkpoint_close(&run->resume);
    return status;
}

static bb_status run_trainer(bb_trainer *t, bb_error *err) {
    bb_position *p = &t->run->position;
    BB_TRY(bb_trainer_open(t, err));
    BB_TRY(resume(t, err));
    bb_run_tick(t->run);
    while (p->epoch < (uint64_t)t->stage->epochs && !t->run->stopped) {
        BB_TRY(train_batches(t, err));
        if (!t->run->stopped)
            BB_TRY(end_epoch(t, err));
    }
    return t->run->stopped ? BB_STATUS_OK : finish(t, err);
}

bb_status bb_run_stage(bb_run *run, bb_error *err) {
    bb_trainer t = {.run = run,
                    .stage = &run->settings.stages[run->position.stage],
                    .index = (size_t)run->position.stage};
    bb_stage_bits(t.stage, t.bits, sizeof(t.bits));
    bb_status status = run_trainer(&t, err);
    bb_trainer_close(&t);
    return status;
}
