/* SPDX-License-Identifier: Apache-2.0 */
/* Whole training runs on small images: they learn, and one that is killed or stopped at any moment
 * ends with the same networks, bit for bit. */
#define _XOPEN_SOURCE 700 /* nftw, kill */
#include "bitbranch/import.h"
#include "bitbranch/train.h"
#include "train_data.h"
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* Every epoch has 4 batches. */
#define CONFIG                                                                                     \
    "{\"version\": 1, \"task\": " TASK ", \"seed\": 5, \"batch\": 8, \"out\": \"unused\",\n"       \
    " \"checkpoint_minutes\": 0, \"data\": {\"train\": \"${DATA}/train\", \"test\": "              \
    "\"${DATA}/test\"},\n"                                                                         \
    " \"augment\": {\"crop_padding\": 1},\n"                                                       \
    " \"network\": {\"kind\": \"resnet20\", \"blocks\": 1, \"widths\": [8, 8, 16], \"classes\": "  \
    "2},\n"                                                                                        \
    " \"defaults\": {\"epochs\": 4, \"rate\": 0.05, \"weight_decay\": 0.0001, \"keep\": "          \
    "\"best\"},\n"                                                                                 \
    " \"stages\": [{\"name\": \"float\"},\n"                                                       \
    "  {\"name\": \"adam\", \"optimizer\": \"adam\", \"rate\": 0.002, \"teacher\": \"float\", "    \
    "\"epochs\": 2},\n"                                                                            \
    "  {\"name\": \"w2a2\", \"bits\": \"w2a2\", \"from\": \"float\", \"epochs\": 3, \"rate\": "    \
    "0.01, \"teacher\": \"float\", \"bn_batches\": 3, \"calibration\": 16}]}"

static const char *const networks[] = {"float.onnx", "adam.onnx", "w2a2.onnx", "w2a2.bbm"};

typedef struct watch {
    int batches;          /* seen so far */
    int stop_at, kill_at; /* after that many; 0: never */
    int epochs, stages, messages;
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
        w->model_accuracy = e->model_accuracy;
    }
    if (e->moment != BB_TRAIN_BATCH)
        return 0;
    w->loss_last = e->loss;
    if (w->batches++ == 0)
        w->loss_first = e->loss;
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

static void assert_same_file(const char *a, const char *b) {
    bb_file x, y;
    bb_error err;
    if (bb_file_open(a, &x, &err) != BB_STATUS_OK || bb_file_open(b, &y, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    if (x.size != y.size || memcmp(x.data, y.data, x.size) != 0)
        fail_msg("%s and %s differ", a, b);
    bb_file_close(&x);
    bb_file_close(&y);
}

static void assert_same_networks(const char *a, const char *b) {
    for (size_t i = 0; i < BB_COUNT(networks); i++) {
        char x[64], y[64];
        snprintf(x, sizeof(x), "%s/%s", a, networks[i]);
        snprintf(y, sizeof(y), "%s/%s", b, networks[i]);
        assert_same_file(at(x), at(y));
    }
}

/* Forks only, so first. */
static void killed_training_ends_with_the_same_bits(void **state) {
    static const int kills[] = {1, 4, 5, 14, 17, 23, 27, 35, 36};
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
    for (int i = 0; i < 7; i++)
        assert_int_equal(run_apart("stopped", (watch){.stop_at = 5}, 0), 0);
    assert_int_equal(run_apart("stopped", (watch){.stop_at = 5}, 1), 0); /* 36 = 7 * 5 + 1 */
    assert_same_networks("whole", "stopped");
}

static void networks_learn(void **state) {
    watch w = {0};
    bb_train_outcome outcome = {0};
    bb_error err = {0};
    if (run("learned", &w, &outcome, &err) != BB_STATUS_OK)
        fail_msg("%s", err.message);
    assert_int_equal(outcome.finished, 1);
    assert_int_equal(outcome.resumed, 0);
    assert_int_equal(outcome.stages_done, 3);
    assert_int_equal(w.stages, 3);
    assert_int_equal(w.epochs, 9);
    assert_int_equal(w.batches, 36);
    if (!(w.loss_last < 0.5 * w.loss_first && w.accuracy > 90))
        fail_msg("loss %g after %g, %g %%", w.loss_last, w.loss_first, w.accuracy);
    assert_true(w.model_accuracy > 90);
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
        {"learned/log.csv", {"stage,bits,epoch", "float,\"float\",4,", "w2a2,\"w2a2\",3,", ""}},
        {"learned/results.json", {"\"finished\": true", "\"model_top1\"", "\"w2a2\"", "\"adam\""}},
        {"learned/curve.svg", {"<svg", "polyline", "w2a2", "</svg>"}},
    };
    for (size_t i = 0; i < BB_COUNT(reports); i++) {
        bb_file file;
        bb_buffer text = {0};
        assert_int_equal(bb_file_open(at(reports[i].file), &file, NULL), BB_STATUS_OK);
        bb_buffer_append(&text, file.data, file.size);
        bb_file_close(&file);
        for (int k = 0; k < 4; k++)
            if (!strstr(text.data, reports[i].words[k]))
                fail_msg("%s lacks '%s'", reports[i].file, reports[i].words[k]);
        bb_buffer_free(&text);
    }
}

static void expect_refusal(bb_status status, const char *word) {
    watch w = {0};
    bb_error err = {0};
    bb_status got = run("learned", &w, NULL, &err);
    if (got != status || !strstr(err.message, word))
        fail_msg("status %d, '%s'", (int)got, err.message);
}

static void foreign_checkpoints_are_refused(void **state) {
    write_text("config.json", CONFIG " ");
    expect_refusal(BB_STATUS_INVALID_ARGUMENT, "another config");
    write_text("config.json", CONFIG);
    write_text("learned/checkpoint.bin", "BBCKPT");
    expect_refusal(BB_STATUS_BAD_FILE, "checkpoint.bin");
}

/* Scores out of all bounds: an error, not a network of NaNs. */
static void diverging_training_is_an_error(void **state) {
    bb_buffer text = {0};
    watch w = {0};
    bb_error err = {0};
    bb_buffer_printf(&text, "%s", CONFIG);
    char *rate = strstr(text.data, "0.05");
    memcpy(rate, "1e38", 4);
    write_text("config.json", text.data);
    bb_buffer_free(&text);
    bb_status status = run("diverged", &w, NULL, &err);
    /* 1e38 is out of the range of "rate" already */
    assert_int_equal(status, BB_STATUS_BAD_FILE);
    assert_non_null(strstr(err.message, "rate"));
    write_text("config.json", CONFIG);
}

static int setup(void **state) {
    if (make_root(state) != 0)
        return -1;
    write_images(16, 12);
    write_text("config.json", CONFIG);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_training_ends_with_the_same_bits),
        cmocka_unit_test(stopped_training_ends_with_the_same_bits),
        cmocka_unit_test(networks_learn),
        cmocka_unit_test(reports_are_written),
        cmocka_unit_test(foreign_checkpoints_are_refused),
        cmocka_unit_test(diverging_training_is_an_error),
    };
    return cmocka_run_group_tests(tests, setup, remove_root);
}
