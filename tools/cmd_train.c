/* SPDX-License-Identifier: Apache-2.0 */
#include "bitbranch/train.h"
#include "cli.h"
#include "commands.h"
#include <signal.h>
#include <string.h>
#include <unistd.h>

typedef struct train_arguments {
    const char *out, *precision_name, *restart_at;
    bb_precision precision;
    cli_list variables;
    size_t threads, max_minutes;
    bool restart, quiet;
} train_arguments;

static volatile sig_atomic_t interrupted;

/* The second signal ends the program at once. */
static void on_signal(int number) {
    interrupted = 1;
    signal(number, SIG_DFL);
}

/* ---- progress ------------------------------------------------------------------------------- */

typedef struct display {
    bool terminal, quiet, open_line;
    double shown; /* when the last line was written */
} display;

static void end_line(display *d) {
    if (d->open_line)
        fputc('\n', stderr);
    d->open_line = false;
}

static void print_time(double seconds) {
    unsigned long s = seconds > 0 ? (unsigned long)(seconds + 0.5) : 0;
    if (s >= 3600)
        fprintf(stderr, "%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
    else
        fprintf(stderr, "%lu:%02lu", s / 60, s % 60);
}

static void print_time_left(const bb_train_event *e) {
    print_time(e->seconds_left);
    fprintf(stderr, " left");
    if (e->stage_index + 1 < e->stages) {
        fprintf(stderr, ", ");
        print_time(e->seconds_left_all);
        fprintf(stderr, " with all stages");
    }
}

/* A bar on a terminal, a line a minute otherwise. */
static void show_batch(display *d, const bb_train_event *e) {
    enum { WIDTH = 20 };
    double now = cli_seconds();
    if (now - d->shown < (d->terminal ? 0.2 : 60))
        return;
    d->shown = now;
    fprintf(stderr, "%s%s %zu/%zu ", d->terminal ? "\r\x1b[K" : "", e->stage, e->epoch, e->epochs);
    if (d->terminal) {
        char bar[WIDTH + 1];
        size_t filled = e->batches ? e->batch * WIDTH / e->batches : 0;
        for (size_t i = 0; i < WIDTH; i++)
            bar[i] = i < filled ? '#' : '.';
        bar[WIDTH] = '\0';
        fprintf(stderr, "[%s] ", bar);
    } else {
        fprintf(stderr, "batch %zu/%zu ", e->batch, e->batches);
    }
    fprintf(stderr, "loss %.4f, %.2f %%, %.0f images/s, ", e->loss, e->accuracy,
            e->images_per_second);
    print_time_left(e);
    fprintf(stderr, "%s", d->terminal ? "" : "\n");
    d->open_line = d->terminal;
}

static void show_reading(display *d, const bb_train_event *e) {
    if (!d->terminal)
        return;
    fprintf(stderr, "\r\x1b[K%s %zu/%zu", e->text, e->done, e->total);
    d->open_line = true;
    if (e->done == e->total)
        end_line(d);
}

static void show_epoch(display *d, const bb_train_event *e) {
    if (d->terminal)
        fprintf(stderr, "\r\x1b[K");
    d->open_line = false;
    fprintf(stderr,
            "%s %zu/%zu: loss %.4f, training %.2f %%; test loss %.4f, %.2f %%; %.0f images/s, ",
            e->stage, e->epoch, e->epochs, e->loss, e->accuracy, e->test_loss, e->test_accuracy,
            e->images_per_second);
    print_time_left(e);
    fputc('\n', stderr);
    d->shown = cli_seconds();
}

static void show_stage(display *d, const bb_train_event *e) {
    end_line(d);
    if (e->model_accuracy >= 0)
        printf("%s (%s): %.2f %% of the test images, %.2f %% as the model on the engine\n",
               e->stage, e->bits, e->test_accuracy, e->model_accuracy);
    else
        printf("%s (%s): %.2f %% of the test images\n", e->stage, e->bits, e->test_accuracy);
    fflush(stdout);
}

static int show(void *user, const bb_train_event *e) {
    display *d = user;
    if (e->moment == BB_TRAIN_STAGE)
        show_stage(d, e);
    else if (d->quiet)
        return interrupted;
    else if (e->moment == BB_TRAIN_BATCH)
        show_batch(d, e);
    else if (e->moment == BB_TRAIN_READING)
        show_reading(d, e);
    else if (e->moment == BB_TRAIN_EPOCH)
        show_epoch(d, e);
    else
        fprintf(stderr, "%s\n", e->text);
    return interrupted;
}

/* ---- the verb ------------------------------------------------------------------------------- */

static int train(const train_arguments *a, const char *config) {
    bb_train_options options;
    bb_train_outcome outcome = {0};
    bb_error err = {0};
    display d = {.terminal = isatty(STDERR_FILENO) != 0, .quiet = a->quiet};
    bb_train_options_init(&options);
    options.out = a->out;
    options.variables = a->variables.items;
    options.n_variables = a->variables.n;
    options.threads = a->threads;
    options.max_minutes = (double)a->max_minutes;
    options.restart = a->restart;
    options.restart_at = a->restart_at;
    options.precision = a->precision;
    options.progress = show;
    options.progress_user = &d;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    bb_status status = bb_train(config, &options, &outcome, &err);
    end_line(&d);
    if (status != BB_STATUS_OK)
        return cli_failed("train", &err);
    if (!outcome.finished) {
        fprintf(stderr, "bitbranch train: stopped; the same command goes on from the checkpoint\n");
        return EXIT_FAILED;
    }
    return EXIT_DONE;
}

int cmd_train(int argc, char **argv) {
    static train_arguments a = {.precision_name = "f32", .threads = 1};
    static const char *const precisions[] = {"f32", "bf16", NULL}; /* as in bb_precision */
    int precision;
    const cli_spec spec = {
        "train",
        "CONFIG.json [OPTIONS]",
        "Trains or fine-tunes networks, in float and at low bits, as the config says. Results are\n"
        "NAME.onnx and NAME.bbm of every stage, results.json, log.csv and curve.svg. What was\n"
        "stopped or killed goes on from its checkpoint.",
        (cli_option[]){
            {"out", 0, CLI_STRING, &a.out, "DIR", "folder for results (the config's 'out')", 0, 0},
            {"set", 's', CLI_LIST, &a.variables, "NAME=VALUE",
             "value of ${NAME} in the config's paths; repeat", 0, 0},
            {"threads", 't', CLI_UINT, &a.threads, "N", "threads (1)", 1, 1024},
            {"precision", 0, CLI_STRING, &a.precision_name, "f32|bf16",
             "convolutions' operands; bf16 is faster with AVX512-BF16 (f32)", 0, 0},
            {"max-minutes", 0, CLI_UINT, &a.max_minutes, "N",
             "stop with a checkpoint after this time", 1, 1000000},
            {"restart", 0, CLI_FLAG, &a.restart, NULL, "begin anew, ignore the checkpoint", 0, 0},
            {"restart-at", 0, CLI_STRING, &a.restart_at, "STAGE",
             "train again from this stage on, keep those before it", 0, 0},
            {"quiet", 'q', CLI_FLAG, &a.quiet, NULL, "results only, no progress", 0, 0},
            {0}},
        1,
        1};
    cli_args args;
    if (!cli_parse(&spec, argc, argv, &args))
        return EXIT_USAGE;
    if (args.help)
        return EXIT_DONE;
    for (size_t i = 0; i < a.variables.n; i++)
        if (!strchr(a.variables.items[i], '='))
            return cli_usage_error("train", "--set takes NAME=VALUE, not '%s'",
                                   a.variables.items[i]);
    if (!cli_choice("train", "--precision", a.precision_name, precisions, &precision))
        return EXIT_USAGE;
    a.precision = (bb_precision)precision;
    return train(&a, args.positional[0]);
}
