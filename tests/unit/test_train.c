/* SPDX-License-Identifier: Apache-2.0 */
/* Whole training runs on small images: they learn, and one that is killed or stopped at any moment
 * ends with the same networks, bit for bit. */
#define _XOPEN_SOURCE 700 /* nftw, kill */
#include "bitbranch/export.h"
#include "bitbranch/train.h"
#include "nn/executor.h"
#include "nn/gradient.h"
#include "passes/passes.h"
#include "train/network.h"
#include "train_data.h"
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TEST_IMAGES = 24 };

/* Every epoch has 4 batches. */
#define CONFIG                                                                                     \
    "{\"version\": 1, \"task\": " TASK ", \"seed\": 5, \"batch\": 8, \"out\": \"unused\",\n"       \
    " \"checkpoint_minutes\": 0, \"data\": {\"train\": \"${DATA}/train\", \"test\": "              \
    "\"${DATA}/test\"},\n"                                                                         \
    " \"augment\": {\"crop_padding\": 1},\n"                                                       \
    " \"network\": {\"kind\": \"resnet20\", \"blocks\": 1, \"widths\": [8, 8, 16], \"classes\": "  \
    "2},\n"                                                                                        \
    " \"defaults\": {\"epochs\": 4, \"rate\": 0.05, \"weight_decay\": 0.0001},\n"                  \
    " \"stages\": [{\"name\": \"float\"},\n"                                                       \
    "  {\"name\": \"adam\", \"optimizer\": \"adam\", \"rate\": 0.002, \"teacher\": \"float\", "    \
    "\"epochs\": 2},\n"                                                                            \
    "  {\"name\": \"w2a2\", \"bits\": [\"w8a8\", \"w2a2\"], \"from\": \"float\", \"epochs\": 3, "  \
    "\"rate\": 0.02, \"teacher\": \"float\", \"bn_batches\": 3, \"calibration\": 16},\n"           \
    "  {\"name\": \"kept\", \"from\": \"float\", \"epochs\": 2, \"keep\": \"best\"}]}"

/* The same task from a network in a file. */
#define TUNING                                                                                     \
    "{\"version\": 1, \"task\": " TASK ", \"batch\": 8, \"data\": {\"train\": "                    \
    "\"${DATA}/train\", \"test\": \"${DATA}/test\"},\n"                                            \
    " \"network\": {\"file\": \"folded.onnx\"}, \"stages\": [{\"name\": \"same\", \"epochs\": 0, " \
    "\"rate\": 0}, {\"name\": \"tuned\", \"epochs\": 3, \"rate\": 0.02}]}"

/* Learns from a network's features more than from anything else. */
#define FEATURES(stage)                                                                            \
    "{\"version\": 1, \"task\": " TASK ", \"batch\": 8, \"data\": {\"train\": "                    \
    "\"${DATA}/train\", \"test\": \"${DATA}/test\"},\n"                                            \
    " \"network\": {\"kind\": \"resnet20\", \"blocks\": 1, \"widths\": [8, 8, 16], \"classes\": "  \
    "2},\n"                                                                                        \
    " \"stages\": [{\"name\": \"float\", \"epochs\": 2, \"rate\": 0.05},\n"                        \
    "  {\"name\": \"student\", \"teacher\": \"float\", \"epochs\": 15, \"rate\": 0.05, " stage     \
    "}]}"

static const char *const networks[] = {"float.onnx", "adam.onnx", "w2a2.onnx", "w2a2.bbm",
                                       "kept.onnx"};

typedef struct watch {
    bb_precision precision;
    int batches;          /* seen so far */
    int stop_at, kill_at; /* after that many; 0: never */
    int epochs, stages, messages, times;
    size_t from_stage; /* whose losses are noted, and those after it */
    double loss_first, loss_last, accuracy, model_accuracy;
} watch;

static int look(void *user, const bb_train_event *e) {
    watch *w = user;
    if (e->moment == BB_TRAIN_EPOCH)
        w->epochs++;
    if (e->moment == BB_TRAIN_MESSAGE)
        w->messages++;
    if (e->moment == BB_TRAIN_STAGE) {
        w->stages++;
        w->accuracy = e->test_accuracy;
        if (e->model_accuracy >= 0)
            w->model_accuracy = e->model_accuracy;
    }
    if (e->moment == BB_TRAIN_EPOCH) { /* what is left shrinks to nothing, stage by stage */
        bool last_epoch = e->epoch == e->epochs, last_stage = e->stage_index + 1 == e->stages;
        w->times += (e->seconds_left == 0) == last_epoch &&
                    e->seconds_left_all >= e->seconds_left &&
                    (e->seconds_left_all > e->seconds_left) == !last_stage;
    }
    if (e->moment != BB_TRAIN_BATCH)
        return 0;
    w->loss_last = e->loss;
    if (e->stage_index == w->from_stage && e->epoch == 1 && e->batch == 1)
        w->loss_first = e->loss;
    w->batches++;
    if (w->kill_at && w->batches == w->kill_at)
        kill(getpid(), SIGKILL);
    return w->stop_at && w->batches == w->stop_at;
}

static bb_status run(const char *out, watch *w, bb_train_outcome *outcome, bb_error *err) {
    char data[256], folder[256];
    bb_train_options options;
    snprintf(data, sizeof(data), "DATA=%s", at("data"));
    snprintf(folder, sizeof(folder), "%s", at(out));
    bb_train_options_init(&options);
    options.out = folder;
    options.variables = (const char *[]){data};
    options.n_variables = 1;
    options.precision = w->precision;
    options.progress = look;
    options.progress_user = w;
    return bb_train(at("config.json"), &options, outcome, err);
}

/* In a process of its own: one that is killed cannot take the test with it, and OpenMP's threads do
 * not survive a fork. Returns the exit code, or -1 where it was killed. */
static int run_apart(const char *out, watch w, int finished) {
    fflush(stdout);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bb_train_outcome outcome = {0};
        bb_error err = {0};
        bb_status status = run(out, &w, &outcome, &err);
        if (status != BB_STATUS_OK)
            fprintf(stderr, "%s\n", err.message);
        _exit(status != BB_STATUS_OK || outcome.finished != finished);
    }
    int code;
    assert_int_equal(waitpid(child, &code, 0), child);
    return WIFEXITED(code) ? WEXITSTATUS(code) : -1;
}

static bool same_file(const char *a, const char *b) {
    bb_file x, y;
    bb_error err;
    if (bb_file_open(a, &x, &err) != BB_STATUS_OK || bb_file_open(b, &y, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    bool same = x.size == y.size && memcmp(x.data, y.data, x.size) == 0;
    bb_file_close(&x);
    bb_file_close(&y);
    return same;
}

static bool holds(const char *path, const char *word) {
    bb_file file;
    bb_buffer text = {0};
    assert_int_equal(bb_file_open(path, &file, NULL), BB_STATUS_OK);
    bb_buffer_append(&text, file.data, file.size);
    bb_buffer_append(&text, "", 1);
    bb_file_close(&file);
    bool found = strstr(text.data, word) != NULL;
    bb_buffer_free(&text);
    return found;
}

static void assert_same_networks(const char *a, const char *b) {
    for (size_t i = 0; i < BB_COUNT(networks); i++) {
        char x[64], y[64];
        snprintf(x, sizeof(x), "%s/%s", a, networks[i]);
        snprintf(y, sizeof(y), "%s/%s", b, networks[i]);
        if (!same_file(at(x), at(y)))
            fail_msg("%s and %s differ", x, y);
    }
}

/* Forks only, so first. */
static void killed_training_ends_with_the_same_bits(void **state) {
    static const int kills[] = {1, 4, 5, 14, 17, 23, 27, 36, 39, 44};
    assert_int_equal(run_apart("whole", (watch){0}, 1), 0);
    for (size_t i = 0; i < BB_COUNT(kills); i++) {
        char out[32];
        snprintf(out, sizeof(out), "killed%d", kills[i]);
        assert_int_equal(run_apart(out, (watch){.kill_at = kills[i]}, 1), -1);
        assert_int_equal(run_apart(out, (watch){0}, 1), 0);
        assert_same_networks("whole", out);
    }
}

/* Again and again after a few batches, by the callback. */
static void stopped_training_ends_with_the_same_bits(void **state) {
    for (int i = 0; i < 8; i++)
        assert_int_equal(run_apart("stopped", (watch){.stop_at = 5}, 0), 0);
    assert_int_equal(run_apart("stopped", (watch){.stop_at = 5}, 1), 0); /* 44 = 8 * 5 + 4 */
    assert_same_networks("whole", "stopped");
}

/* The same bits for the same precision; other bits than f32 gives; what went on in the other
 * precision says so. */
static void training_in_bf16(void **state) {
    const watch bf16 = {.precision = BB_PRECISION_BF16};
    watch killed = bf16;
    bb_error err;
    if (bb_gradient_check_bf16(&err) != BB_STATUS_OK) {
        print_message("%s\n", err.message);
        skip();
    }
    killed.kill_at = 17;
    assert_int_equal(run_apart("bf16", bf16, 1), 0);
    assert_true(holds(at("bf16/results.json"), "\"precision\": \"bf16\""));
    assert_false(holds(at("bf16/results.json"), "f32"));
    assert_false(same_file(at("bf16/float.onnx"), at("whole/float.onnx")));
    assert_int_equal(run_apart("bf16-killed", killed, 1), -1);
    assert_int_equal(run_apart("bf16-killed", bf16, 1), 0);
    assert_same_networks("bf16", "bf16-killed");
    assert_int_equal(run_apart("mixed", (watch){.stop_at = 5}, 0), 0);
    assert_int_equal(run_apart("mixed", bf16, 1), 0);
    assert_true(holds(at("mixed/results.json"), "\"f32, bf16\""));
    assert_true(holds(at("mixed/results.json"), "\"bf16\""));
}

/* A folder in use is refused; what a killed run left half written goes. */
static void a_folder_has_one_run_at_a_time(void **state) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(at("stopped/lock"), O_RDWR);
    assert_true(fd >= 0 && fcntl(fd, F_SETLK, &lock) == 0);
    write_text("stopped/float.onnx.tmp-123-4", "half");
    assert_int_equal(run_apart("stopped", (watch){0}, 1), 1);
    assert_int_equal(access(at("stopped/float.onnx.tmp-123-4"), F_OK), 0);
    close(fd);
    assert_int_equal(run_apart("stopped", (watch){0}, 1), 0);
    assert_int_equal(access(at("stopped/float.onnx.tmp-123-4"), F_OK), -1);
}

static void networks_learn(void **state) {
    watch w = {0};
    bb_train_outcome outcome = {0};
    bb_error err = {0};
    if (run("learned", &w, &outcome, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    assert_int_equal(outcome.finished, 1);
    assert_int_equal(outcome.resumed, 0);
    assert_int_equal(outcome.stages_done, 4);
    assert_int_equal(w.stages, 4);
    assert_int_equal(w.epochs, 11);
    assert_int_equal(w.times, 11);
    assert_int_equal(w.batches, 44);
    if (!(w.loss_last < 0.5 * w.loss_first && w.accuracy > 90))
        fail_msg("loss %g after %g, %g %%", w.loss_last, w.loss_first, w.accuracy);
    assert_true(w.model_accuracy > 90);
    double right = w.model_accuracy * TEST_IMAGES / 100; /* a share of all test images */
    assert_true(fabs(right - floor(right + 0.5)) < 1e-6);
    /* A finished run has nothing left to do. */
    w = (watch){0};
    assert_int_equal(run("learned", &w, &outcome, &err), BB_STATUS_OK);
    assert_true(outcome.finished && outcome.resumed && w.batches == 0);
    bb_graph *graph = NULL;
    assert_int_equal(bb_import_onnx(at("learned/float.onnx"), &graph, &err), BB_STATUS_OK);
    bb_graph_destroy(graph);
}

static void reports_are_written(void **state) {
    static const struct {
        const char *file, *words[4];
    } reports[] = {
        {"learned/log.csv",
         {"stage,bits,epoch", "float,\"float\",4,", "w2a2,\"w8a8,w2a2\",3,", ""}},
        {"learned/results.json", {"\"finished\": true", "\"model_top1\"", "\"w2a2\"", "\"adam\""}},
        {"learned/curve.svg", {"<svg", "polyline", "w2a2", "</svg>"}},
    };
    for (size_t i = 0; i < BB_COUNT(reports); i++) {
        for (int k = 0; k < 4; k++)
            if (!holds(at(reports[i].file), reports[i].words[k]))
                fail_msg("%s lacks '%s'", reports[i].file, reports[i].words[k]);
    }
}

static void expect_refusal_in(const char *out, bb_status status, const char *word) {
    watch w = {0};
    bb_error err = {0};
    bb_status got = run(out, &w, NULL, &err);
    if (got != status || !strstr(err.message, word))
        fail_msg("status %d, '%s'", (int)got, err.message);
}

static void options_of_another_version_are_refused(void **state) {
    const bb_train_options options = {.struct_size = 8};
    bb_error err;
    assert_int_equal(bb_train("/nonexistent", &options, NULL, &err), BB_STATUS_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "bb_train_options"));
}

static void expect_refusal(bb_status status, const char *word) {
    expect_refusal_in("learned", status, word);
}

static void foreign_checkpoints_are_refused(void **state) {
    write_text("config.json", CONFIG " ");
    expect_refusal(BB_STATUS_INVALID_ARGUMENT, "another config");
    write_text("config.json", CONFIG);
    write_text("learned/checkpoint.bin", "BBCKPT");
    expect_refusal(BB_STATUS_BAD_FILE, "checkpoint.bin");
}

/* ---- imported networks ----------------------------------------------------------------------- */

/* A network whose BatchNormalization is not the identity, folded as exporters do. */
static void write_folded(void) {
    const bb_network_options o = {.kind = BB_NETWORK_RESNET20,
                                  .channels = 1,
                                  .height = SIDE,
                                  .width = SIDE,
                                  .classes = 2,
                                  .widths = {4, 8, 8},
                                  .blocks = 1,
                                  .seed = 3};
    bb_graph *graph = NULL;
    bb_error err;
    bb_rng rng;
    bb_rng_seed(&rng, 4);
    assert_int_equal(bb_network_build(&o, &graph, &err), BB_STATUS_OK);
    for (size_t i = 0; i < graph->n_nodes; i++)
        for (int k = 1; k < 5 && graph->nodes[i].op == BB_OP_BATCH_NORMALIZATION; k++) {
            const bb_value *v = bb_node_input(graph, &graph->nodes[i], k);
            for (int64_t c = 0; c < v->dims[0]; c++)
                ((float *)(uintptr_t)v->data)[c] = (float)(0.1 + bb_rng_uniform(&rng));
        }
    assert_int_equal(bb_pass_fold_batch_norm(graph, &err), BB_STATUS_OK);
    assert_int_equal(bb_export_onnx(graph, at("folded.onnx"), &err), BB_STATUS_OK);
    bb_graph_destroy(graph);
}

static size_t count_norms(const bb_graph *graph) {
    size_t n = 0;
    for (size_t i = 0; i < graph->n_nodes; i++)
        n += graph->nodes[i].op == BB_OP_BATCH_NORMALIZATION;
    return n;
}

/* Scores of one image; *norms: nodes of BatchNormalization. */
static void scores_of(const char *file, const float *image, float scores[2], size_t *norms) {
    bb_graph *graph = NULL;
    bb_executor *ex = NULL;
    bb_error err;
    const int64_t dims[4] = {1, 1, SIDE, SIDE}, *all[1] = {dims};
    bb_array in = {BB_DTYPE_F32, 4, {1, 1, SIDE, SIDE}, (void *)(uintptr_t)image}, out;
    if (bb_import_onnx(at(file), &graph, &err) != BB_STATUS_OK ||
        bb_executor_create(graph, all, NULL, &ex, &err) != BB_STATUS_OK ||
        bb_executor_run(ex, &in, NULL, NULL, &err) != BB_STATUS_OK ||
        bb_executor_output(ex, 0, &out, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    memcpy(scores, out.data, 2 * sizeof(float));
    *norms = count_norms(graph);
    bb_executor_destroy(ex);
    bb_graph_destroy(graph);
}

static void imported_networks_get_batch_norm_and_learn(void **state) {
    watch w = {0};
    bb_error err = {0};
    float image[SIDE * SIDE], before[2], after[2];
    size_t norms;
    write_folded();
    write_text("config.json", TUNING);
    if (run("tuned", &w, NULL, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    for (int i = 0; i < SIDE * SIDE; i++)
        image[i] = (float)(i % 7) / 4 - 1;
    scores_of("folded.onnx", image, before, &norms);
    assert_int_equal(norms, 0);
    scores_of("tuned/same.onnx", image, after, &norms);
    assert_int_equal(norms, 9);
    for (int i = 0; i < 2; i++)
        if (!(fabsf(before[i] - after[i]) <= 1e-4f * (1 + fabsf(before[i]))))
            fail_msg("%g instead of %g", (double)after[i], (double)before[i]);
    if (!(w.accuracy > 90))
        fail_msg("%g %%", w.accuracy);
    write_text("config.json", CONFIG);
}

/* Without BatchNormalization a rate that is far too high lets the weights grow without bound. */
static void loss_that_is_no_number_stops_training(void **state) {
    write_folded();
    write_text("config.json",
               "{\"version\": 1, \"task\": " TASK ", \"batch\": 8, \"data\": {\"train\": "
               "\"${DATA}/train\", \"test\": \"${DATA}/test\"}, \"network\": {\"file\": "
               "\"folded.onnx\", \"batch_norm\": false}, \"stages\": [{\"name\": \"wild\", "
               "\"epochs\": 9, \"rate\": 100}]}");
    expect_refusal_in("wild", BB_STATUS_LIMIT, "stage 'wild': the loss is no longer a number");
    assert_int_equal(access(at("wild/wild.onnx"), F_OK), -1);
    write_text("config.json", CONFIG);
}

/* ---- features -------------------------------------------------------------------------------- */

/* Loss of the second stage, first and last. */
static void learn_features(const char *out, const char *config, double *first, double *last) {
    watch w = {.from_stage = 1};
    bb_error err = {0};
    write_text("config.json", config);
    if (run(out, &w, NULL, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    *first = w.loss_first;
    *last = w.loss_last;
}

static void students_learn_features(void **state) {
    double first, last, quantized_first, quantized_last;
    /* A new network knows nothing of the teacher's features: an error of about their size. */
    learn_features("features-new",
                   FEATURES("\"from\": \"new\", \"feature_weight\": 100, \"features\": "
                            "[\"stage*.add\", \"features\"]"),
                   &first, &last);
    if (!(first > 50 && last < 0.75 * first))
        fail_msg("new: loss %g after %g", last, first);
    /* The default; each profile learns. */
    learn_features("features-bits",
                   FEATURES("\"bits\": [\"w4a4\", \"w2a2\"], \"feature_weight\": 10"),
                   &quantized_first, &quantized_last);
    if (!(quantized_first > 1 && quantized_last < 0.75 * quantized_first))
        fail_msg("loss %g after %g", quantized_last, quantized_first);
    write_text("config.json", FEATURES("\"feature_weight\": 1, \"features\": [\"none*\"]"));
    expect_refusal_in("features-none", BB_STATUS_INVALID_ARGUMENT, "names no node");
    write_text("config.json",
               FEATURES("\"feature_weight\": 1, \"features\": [\"features\", \"none*\"]"));
    expect_refusal_in("features-one", BB_STATUS_INVALID_ARGUMENT, "'none*'");
    write_text("config.json", CONFIG);
}

/* ---- ladders --------------------------------------------------------------------------------- */

/* A network of one-bit weights is a nearly as good one-bit network again: its latent weights come
 * with steps that fit them, though without quantizers they compute something else. */
static void ladders_begin_where_they_were(void **state) {
    watch w = {.from_stage = 2};
    bb_error err = {0};
    write_text("config.json",
               "{\"version\": 1, \"task\": " TASK ", \"batch\": 8, \"data\": {\"train\": "
               "\"${DATA}/train\", \"test\": \"${DATA}/test\"},\n"
               " \"network\": {\"kind\": \"resnet20\", \"blocks\": 3, \"widths\": [8, 8, 16], "
               "\"classes\": 2},\n"
               " \"defaults\": {\"optimizer\": \"adam\", \"rate\": 0.01, \"bn_batches\": 4, "
               "\"calibration\": 32},\n"
               " \"stages\": [{\"name\": \"float\", \"epochs\": 4},\n"
               "  {\"name\": \"few\", \"bits\": \"w1a2\", \"epochs\": 16},\n"
               "  {\"name\": \"fewer\", \"bits\": \"w1a1\", \"epochs\": 1}]}");
    if (run("ladder", &w, NULL, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    if (w.loss_first > 0.5)
        fail_msg("the second rung began with a loss of %g", w.loss_first);
    write_text("config.json", CONFIG);
}

static int setup(void **state) {
    if (make_root(state) != 0)
        return -1;
    write_images(16, TEST_IMAGES / 2);
    write_text("config.json", CONFIG);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_training_ends_with_the_same_bits),
        cmocka_unit_test(stopped_training_ends_with_the_same_bits),
        cmocka_unit_test(training_in_bf16),
        cmocka_unit_test(a_folder_has_one_run_at_a_time),
        cmocka_unit_test(networks_learn),
        cmocka_unit_test(reports_are_written),
        cmocka_unit_test(foreign_checkpoints_are_refused),
        cmocka_unit_test(options_of_another_version_are_refused),
        cmocka_unit_test(loss_that_is_no_number_stops_training),
        cmocka_unit_test(students_learn_features),
        cmocka_unit_test(ladders_begin_where_they_were),
        cmocka_unit_test(imported_networks_get_batch_norm_and_learn),
    };
    return cmocka_run_group_tests(tests, setup, remove_root);
}
