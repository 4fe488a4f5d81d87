/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "bitbranch/train.h"
#include "train/run.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

void bb_train_options_init(bb_train_options *options) {
    *options = (bb_train_options){.struct_size = sizeof(*options)};
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void bb_run_tick(bb_run *run) {
    double now = seconds(), passed = now - run->ticked;
    run->ticked = now;
    run->position.epoch_seconds += passed;
    run->position.stage_seconds += passed;
    run->position.total_seconds += passed;
}

const char *bb_run_path(const bb_run *run, const char *name, const char *ending) {
    return bb_arena_printf(run->settings.arena, "%s/%s%s", run->out, name, ending);
}

void bb_run_report(bb_run *run, const bb_train_event *event) {
    if (run->options.progress && run->options.progress(run->options.progress_user, event) != 0)
        run->stopped = true;
    if (run->max_seconds > 0 && seconds() - run->started >= run->max_seconds)
        run->stopped = true;
}

void bb_run_say(bb_run *run, const char *text) {
    const bb_train_event event = {.moment = BB_TRAIN_MESSAGE, .text = text};
    bb_run_report(run, &event);
}

bb_status bb_run_save(bb_run *run, const bb_checkpoint_array *arrays, size_t n_arrays,
                      bb_error *err) {
    const char *path = bb_run_path(run, "checkpoint", ".bin");
    if (!path)
        return bb_fail_memory(err, "checkpoint");
    run->saved = run->ticked;
    return bb_checkpoint_write(path, &run->position, &run->record, arrays, n_arrays, err);
}

/* ---- data ------------------------------------------------------------------------------------ */

static bb_status open_dataset(const bb_settings *s, const char *path, const char *split, int limit,
                              bool training, bb_dataset **dataset, bb_error *err) {
    bb_dataset_options options;
    bb_dataset_options_init(&options);
    options.split = split;
    options.calibration = training; /* prefers the training images */
    options.seed = s->seed;
    options.limit = (size_t)limit;
    options.labels = s->labels;
    return bb_dataset_open(path, &options, dataset, err);
}

static int report_reading(void *user, const char *stage, size_t done, size_t total) {
    bb_run *run = user;
    const bb_train_event event = {
        .moment = BB_TRAIN_READING, .text = stage, .done = done, .total = total};
    bb_run_report(run, &event);
    return run->stopped;
}

static bb_status open_loader(bb_run *run, const bb_dataset *dataset, bool training,
                             bb_loader **loader, bb_error *err) {
    const bb_settings *s = &run->settings;
    const bb_loader_options options = {.batch = (size_t)s->batch,
                                       .threads = (size_t)s->loader_threads,
                                       .seed = s->seed,
                                       .training = training,
                                       .augment = s->augment,
                                       .cache_bytes = (size_t)s->cache_mb << 20};
    return bb_loader_create(dataset, s->task, &options, report_reading, run, loader, err);
}

/* A permutation by the seed: calibration takes its first images. */
static bb_status order_calibration(bb_run *run, bb_error *err) {
    size_t n = bb_dataset_size(run->train_set);
    bb_rng rng;
    run->calibration_order = bb_arena_array(run->settings.arena, n, sizeof(size_t));
    if (!run->calibration_order)
        return bb_fail_memory(err, "calibration images");
    bb_rng_seed(&rng, run->settings.seed);
    for (size_t i = 0; i < n; i++) { /* inside-out Fisher-Yates */
        size_t j = (size_t)bb_rng_below(&rng, i + 1);
        run->calibration_order[i] = run->calibration_order[j];
        run->calibration_order[j] = i;
    }
    return BB_STATUS_OK;
}

/* Training images that are test images as well would make every figure a lie. */
static bb_status check_leak(const bb_run *run, bb_error *err) {
    const char *a = bb_dataset_source(run->train_set), *b = bb_dataset_source(run->test_set);
    if (strcmp(a, b) != 0)
        return BB_STATUS_OK;
    return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                   "%s: training and test images are the same ones (%s)", run->settings.path, a);
}

static bb_status open_data(bb_run *run, bb_error *err) {
    const bb_settings *s = &run->settings;
    BB_TRY(open_dataset(s, s->train, s->train_split, s->train_limit, true, &run->train_set, err));
    BB_TRY(open_dataset(s, s->test, s->test_split, s->test_limit, false, &run->test_set, err));
    BB_TRY(check_leak(run, err));
    BB_TRY(order_calibration(run, err));
    BB_TRY(open_loader(run, run->train_set, true, &run->train, err));
    return open_loader(run, run->test_set, false, &run->test, err);
}

/* ---- the run --------------------------------------------------------------------------------- */

static bb_status make_folder(const char *path, bb_error *err) {
    char *copy = bb_strdup(path);
    if (!copy)
        return bb_fail_memory(err, path);
    bb_status status = BB_STATUS_OK;
    for (char *c = copy + 1; status == BB_STATUS_OK; c++) {
        if (*c != '/' && *c != '\0')
            continue;
        char end = *c;
        *c = '\0';
        if (mkdir(copy, 0777) != 0 && errno != EEXIST)
            status = bb_fail(err, BB_STATUS_IO, "%s: cannot create: %s", copy, strerror(errno));
        *c = end;
        if (end == '\0')
            break;
    }
    bb_free(copy);
    return status;
}

static void remove_leftovers(const bb_run *run) {
    DIR *folder = opendir(run->out);
    for (struct dirent *e; folder && (e = readdir(folder));)
        if (bb_output_is_temporary(e->d_name)) {
            const char *path = bb_run_path(run, e->d_name, "");
            if (path)
                unlink(path);
        }
    if (folder)
        closedir(folder);
}

/* Two runs in one folder would overwrite each other's checkpoints. The system takes the lock back
 * from a process that dies. */
static bb_status lock_folder(bb_run *run, bb_error *err) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    const char *path = bb_run_path(run, "lock", "");
    if (!path)
        return bb_fail_memory(err, "lock");
    run->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (run->lock < 0)
        return bb_fail(err, BB_STATUS_IO, "%s: cannot create: %s", path, strerror(errno));
    if (fcntl(run->lock, F_SETLK, &lock) != 0)
        return bb_fail(err, BB_STATUS_IO, "%s: another training is at work in this folder",
                       run->out);
    remove_leftovers(run);
    return BB_STATUS_OK;
}

/* Back to the beginning of a stage: what it and later ones measured goes. */
static bb_status go_back(bb_run *run, const char *stage, bb_error *err) {
    bb_position *p = &run->position;
    size_t index = bb_settings_find_stage(&run->settings, stage, run->settings.n_stages);
    if (index == run->settings.n_stages)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "%s: no stage is named '%s'",
                       run->settings.path, stage);
    if (index > run->record.n_results)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                       "%s: stages before '%s' are still to be trained", run->out, stage);
    for (size_t i = 0; run->other_config && i < index; i++)
        if (run->record.results[i].until != run->settings.until[i])
            return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                           "%s: stage '%s' or what it depends on has changed since it was trained",
                           run->settings.path, run->settings.stages[i].name);
    bb_record_truncate(&run->record, index);
    *p = (bb_position){
        .fingerprint = run->settings.fingerprint, .threads = p->threads, .stage = index};
    for (size_t i = 0; i < index; i++)
        p->total_seconds += run->record.results[i].seconds;
    bb_checkpoint_close(&run->resume);
    run->resuming = false;
    run->resumed = index > 0;
    return BB_STATUS_OK;
}

/* Goes on where a checkpoint of the same config stands. */
static bb_status read_checkpoint(bb_run *run, const char *path, bb_error *err) {
    bb_status status = bb_checkpoint_open(path, &run->resume, &run->record, err);
    if (status == BB_STATUS_NOT_FOUND)
        return BB_STATUS_OK;
    BB_TRY(status);
    const bb_position *p = &run->resume.position;
    run->resuming = run->resumed = true;
    run->other_config =
        p->fingerprint != run->settings.fingerprint || p->stage > run->settings.n_stages;
    if (run->other_config && !run->options.restart_at)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                       "%s: written with another config; --restart-at STAGE keeps the stages "
                       "before, where they are the same, --restart begins anew",
                       path);
    for (size_t i = 0; i < run->record.n_rows; i++)
        if (run->record.rows[i].stage > p->stage)
            return bb_fail(err, BB_STATUS_BAD_FILE, "%s: rows of stages that are still to come",
                           path);
    if (run->record.n_results != p->stage)
        return bb_fail(err, BB_STATUS_BAD_FILE, "%s: results of %zu stages, not of %llu", path,
                       run->record.n_results, (unsigned long long)p->stage);
    if (p->threads != run->threads)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT,
                       "%s: written with %llu threads, whose roundings differ; use as many, or "
                       "--restart",
                       path, (unsigned long long)p->threads);
    run->position = *p;
    if (p->steps > 0 && p->precisions == 0)
        run->position.precisions = 1u << BB_PRECISION_F32; /* written before there was a choice */
    return BB_STATUS_OK;
}

static bb_status open_checkpoint(bb_run *run, bb_error *err) {
    const char *path = bb_run_path(run, "checkpoint", ".bin");
    if (!path)
        return bb_fail_memory(err, "checkpoint");
    run->position.fingerprint = run->settings.fingerprint;
    run->position.threads = run->threads;
    if (!run->options.restart)
        BB_TRY(read_checkpoint(run, path, err));
    if (run->options.restart_at)
        return go_back(run, run->options.restart_at, err);
    if (run->resuming)
        bb_run_say(run, "going on from the checkpoint");
    return BB_STATUS_OK;
}

static bb_status prepare(bb_run *run, const char *config, bb_error *err) {
    const bb_train_options *o = &run->options;
    if (o->precision != BB_PRECISION_F32 && o->precision != BB_PRECISION_BF16)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "precision %d is unknown",
                       (int)o->precision);
    if (o->precision == BB_PRECISION_BF16)
        BB_TRY(bb_gradient_check_bf16(err));
    BB_TRY(bb_settings_load(config, o->variables, o->n_variables, &run->settings, err));
    run->out = o->out ? o->out : run->settings.out;
    if (!run->out)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "%s: no 'out', and no output folder given",
                       config);
    double minutes = o->max_minutes > 0 ? o->max_minutes : run->settings.max_minutes;
    run->max_seconds = 60 * minutes;
    BB_TRY(make_folder(run->out, err));
    BB_TRY(lock_folder(run, err));
    return open_checkpoint(run, err);
}

static bb_status run_stages(bb_run *run, bb_error *err) {
    bb_position *p = &run->position;
    while (p->stage < run->settings.n_stages && !run->stopped) {
        BB_TRY(bb_run_stage(run, err));
        if (run->record.n_results <= p->stage)
            break; /* stopped within it */
        p->stage++;
        p->epoch = p->batch = p->steps = p->seen = p->right = p->best_epoch = 0;
        p->precisions = 0;
        p->loss_sum = p->epoch_seconds = p->stage_seconds = p->best_accuracy = 0;
        BB_TRY(bb_run_save(run, NULL, 0, err));
        BB_TRY(bb_record_write(&run->record, &run->settings, run->out, run->threads, err));
    }
    return BB_STATUS_OK;
}

static bb_status run_all(bb_run *run, const char *config, bb_error *err) {
    BB_TRY(prepare(run, config, err));
    if (run->position.stage >= run->settings.n_stages)
        return BB_STATUS_OK;
    BB_TRY(open_data(run, err));
    run->ticked = run->saved = seconds();
    return run_stages(run, err);
}

static void close_run(bb_run *run) {
    bb_loader_destroy(run->train);
    bb_loader_destroy(run->test);
    bb_dataset_destroy(run->train_set);
    bb_dataset_destroy(run->test_set);
    bb_checkpoint_close(&run->resume);
    bb_record_free(&run->record);
    bb_settings_free(&run->settings);
    if (run->lock >= 0)
        close(run->lock);
}

bb_status bb_train(const char *config, const bb_train_options *options, bb_train_outcome *outcome,
                   bb_error *err) {
    bb_run run = {.started = seconds(), .lock = -1};
    bb_train_options_init(&run.options);
    if (options) {
        BB_TRY(bb_check_options(options->struct_size, sizeof(*options), "bb_train_options", err));
        run.options = *options;
    }
    run.threads = run.options.threads > 0 ? run.options.threads : 1;
    bb_status status = run_all(&run, config, err);
    if (status == BB_STATUS_CANCELLED && run.stopped)
        status = BB_STATUS_OK; /* while reading images: nothing to save */
    if (status == BB_STATUS_OK && outcome)
        *outcome = (bb_train_outcome){.finished = run.position.stage >= run.settings.n_stages,
                                      .resumed = run.resumed,
                                      .stages_done = run.record.n_results,
                                      .seconds = run.position.total_seconds};
    close_run(&run);
    return status;
}
