/* SPDX-License-Identifier: Apache-2.0 */
#include "bitbranch/quantize.h"
#include "cli.h"
#include "commands.h"
#include "net.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PROFILES = 16, NAME_SIZE = 256 };

typedef struct quantize_arguments {
    const char *calib, *calib_split, *profiles, *first_last, *effort, *config, *budget, *format;
    size_t calib_count, weight_bits, activation_bits, residual_bits, seed, threads;
    cli_list bits, outputs;
    bool dry_run, allow_leak;
} quantize_arguments;

/* What the callback of bb_quantize reads images from. */
typedef struct calibration {
    bb_dataset *dataset;
    const bb_config *config;
    bb_error err;
} calibration;

typedef struct parsed_options {
    bb_quantize_options q;
    bb_bits profiles[MAX_PROFILES];
    bb_layer_bits layers[CLI_LIST_MAX];
    char names[CLI_LIST_MAX][NAME_SIZE];
} parsed_options;

static int read_calibration(void *user, size_t index, float *input) {
    calibration *c = user;
    bb_image image;
    bb_status status = bb_dataset_image(c->dataset, index, &image, &c->err);
    if (status != BB_STATUS_OK)
        return 1;
    status = bb_config_tensor(c->config, &image, input, &c->err);
    bb_image_free(&image);
    return cli_prefix(&c->err, status, bb_dataset_name(c->dataset, index)) != BB_STATUS_OK;
}

static bool parse_profiles(const quantize_arguments *a, parsed_options *p) {
    if (!a->profiles) {
        p->profiles[0] = (bb_bits){a->weight_bits ? (uint32_t)a->weight_bits : 8,
                                   a->activation_bits ? (uint32_t)a->activation_bits : 8};
        p->q.n_profiles = 1;
        return true;
    }
    if (a->weight_bits || a->activation_bits) {
        cli_usage_error("quantize", "--profiles already says the bits; leave out -w and -a");
        return false;
    }
    p->q.n_profiles = 0;
    for (const char *s = a->profiles; *s;) {
        size_t n = strcspn(s, ",");
        char word[8] = "";
        if (n < sizeof(word))
            memcpy(word, s, n);
        bb_bits *bits = &p->profiles[p->q.n_profiles];
        if (p->q.n_profiles == MAX_PROFILES ||
            !cli_parse_bits(word, &bits->weight, &bits->activation)) {
            cli_usage_error("quantize", "--profiles takes up to %d of the form w4a4, not '%s'",
                            MAX_PROFILES, s);
            return false;
        }
        p->q.n_profiles++;
        s += n + (s[n] == ',');
    }
    if (p->q.n_profiles == 0)
        cli_usage_error("quantize", "--profiles is empty");
    return p->q.n_profiles > 0;
}

static bool parse_layer_bits(const quantize_arguments *a, parsed_options *p) {
    for (size_t i = 0; i < a->bits.n; i++) {
        const char *text = a->bits.items[i], *equals = strrchr(text, '=');
        bb_layer_bits *layer = &p->layers[i];
        size_t length = equals ? (size_t)(equals - text) : 0;
        if (!length || length >= NAME_SIZE ||
            !cli_parse_bits(equals + 1, &layer->bits.weight, &layer->bits.activation)) {
            cli_usage_error("quantize", "--bits takes LAYER=wKaM, not '%s'", text);
            return false;
        }
        memcpy(p->names[i], text, length);
        p->names[i][length] = '\0';
        layer->layer = p->names[i];
    }
    p->q.layers = p->layers;
    p->q.n_layers = a->bits.n;
    return true;
}

static bool parse_options(const quantize_arguments *a, parsed_options *p) {
    static const char *const efforts[] = {"fast", "default", "best", NULL};
    int effort;
    bb_quantize_options_init(&p->q);
    if (a->budget) {
        cli_usage_error("quantize", "--budget is not there yet; choose bits with -w, -a, --bits");
        return false;
    }
    if (!cli_choice("quantize", "--effort", a->effort, efforts, &effort) || !parse_profiles(a, p) ||
        !parse_layer_bits(a, p))
        return false;
    p->q.profiles = p->profiles;
    p->q.effort = (bb_effort)effort;
    p->q.residual_bits = (uint32_t)a->residual_bits;
    p->q.seed = a->seed;
    p->q.threads = a->threads;
    p->q.progress = cli_progress;
    if (a->first_last && strcmp(a->first_last, "float") == 0) {
        p->q.first_last_float = 1;
    } else if (a->first_last && !cli_parse_bits(a->first_last, &p->q.first_last.weight,
                                                &p->q.first_last.activation)) {
        cli_usage_error("quantize", "--first-last takes wKaM or float, not '%s'", a->first_last);
        return false;
    }
    return true;
}

static void use_config(const bb_config *config, char *labels, bb_quantize_options *q) {
    int channels, height, width;
    bb_config_input(config, &channels, &height, &width);
    const int64_t dims[4] = {1, channels, height, width};
    memcpy(q->input_dims, dims, sizeof(q->input_dims));
    q->config_json = bb_config_json(config);
    q->labels = labels;
    bb_config_normalization(config, &q->pixel_scale, q->mean, q->std, &q->pixels);
    q->round_levels = bb_config_levels(config, &q->levels_scale, &q->levels_min, &q->levels_max);
}

/* Measuring accuracy on images that set the scales flatters the result. */
static bb_status refuse_leak(const bb_dataset *dataset, const char *path, bb_error *err) {
    const char *split = bb_dataset_split(dataset);
    if (!split || (strcmp(split, "val") != 0 && strcmp(split, "test") != 0))
        return BB_STATUS_OK;
    return cli_error(err, BB_STATUS_INVALID_ARGUMENT,
                     "%s: split '%s' is for evaluation; calibrate on training images, or pass "
                     "--allow-leak",
                     path, split);
}

static bb_status open_calibration(const quantize_arguments *a, const char *labels, calibration *c,
                                  bb_error *err) {
    bb_dataset_options options;
    bb_dataset_options_init(&options);
    options.split = a->calib_split;
    options.calibration = 1;
    options.seed = a->seed;
    options.limit = a->calib_count;
    options.labels = labels;
    bb_status status = bb_dataset_open(a->calib, &options, &c->dataset, err);
    if (status == BB_STATUS_OK && !a->allow_leak)
        status = refuse_leak(c->dataset, a->calib, err);
    return status;
}

static const char *const TUNE_STAGES[BB_TUNE_STAGES] = {"solved", "reconstructed", "distilled"};

/** The stage whose result was kept: of least divergence, the first where several are. */
static int kept_stage(const bb_quantize_report *report) {
    int kept = BB_TUNE_SOLVED;
    for (int i = kept + 1; i < BB_TUNE_STAGES; i++)
        if (report->divergence[i] < report->divergence[kept])
            kept = i;
    return kept;
}

static void print_tuning(const bb_quantize_report *report) {
    printf("divergence from the float network on %zu images held back:", report->judged_images);
    for (int i = 0; i < BB_TUNE_STAGES; i++)
        printf("%s %.4f %s%s", i ? "," : "", report->divergence[i], TUNE_STAGES[i],
               i == kept_stage(report) ? " (kept)" : "");
    printf("\n");
}

static void print_report(const bb_quantize_report *report, bool dry_run) {
    cli_table table;
    cli_table_init(&table, (const char *[]){"layer", "kind", "bits", ">MACs", ">parameters",
                                            ">bytes", ">SQNR dB", "note", NULL});
    for (size_t i = 0; i < report->n_rows; i++) {
        const bb_quantize_row *row = &report->rows[i];
        cli_table_cell(&table, "%s", row->layer);
        cli_table_cell(&table, "%s", row->kind);
        if (row->bits.weight)
            cli_table_cell(&table, "w%ua%u", row->bits.weight, row->bits.activation);
        else
            cli_table_cell(&table,
                           row->note              ? "float"
                           : row->bits.activation ? "a%u"
                                                  : "",
                           row->bits.activation);
        cli_table_cell(&table, "%s", row->macs ? cli_count(row->macs) : "");
        cli_table_cell(&table, "%s", row->parameters ? cli_count(row->parameters) : "");
        cli_table_cell(&table, "%s", row->bytes ? cli_bytes(row->bytes) : "");
        if (isnan(row->sqnr_db))
            cli_table_cell(&table, "%s", "");
        else
            cli_table_cell(&table, "%.1f", (double)row->sqnr_db);
        cli_table_cell(&table, "%s", row->note ? row->note : "");
    }
    cli_table_print(&table, CLI_TABLE, stdout);
    cli_table_free(&table);
    printf("float32 %s -> %s%s, %.2f times smaller; %.2f %% of %s MACs integer\n",
           cli_bytes(report->float32_bytes), dry_run ? "about " : "",
           cli_bytes(report->estimated_bytes),
           report->estimated_bytes ? (double)report->float32_bytes / (double)report->estimated_bytes
                                   : 0.0,
           report->macs ? 100.0 * (double)report->integer_macs / (double)report->macs : 0.0,
           cli_count(report->macs));
    if (report->judged_images)
        print_tuning(report);
}

static json_t *tuning_json(const bb_quantize_report *report) {
    json_t *o = json_pack("{s:I, s:s}", "images", (json_int_t)report->judged_images, "kept",
                          TUNE_STAGES[kept_stage(report)]);
    for (int i = 0; i < BB_TUNE_STAGES; i++)
        json_object_set_new(o, TUNE_STAGES[i], json_real(report->divergence[i]));
    return o;
}

static bb_status print_report_json(const bb_quantize_report *report, bb_error *err) {
    json_t *rows = json_array();
    for (size_t i = 0; i < report->n_rows; i++) {
        const bb_quantize_row *row = &report->rows[i];
        json_t *o =
            json_pack("{s:s, s:s, s:i, s:i, s:I, s:I, s:I}", "layer", row->layer, "kind", row->kind,
                      "weight_bits", (int)row->bits.weight, "activation_bits",
                      (int)row->bits.activation, "macs", (json_int_t)row->macs, "parameters",
                      (json_int_t)row->parameters, "bytes", (json_int_t)row->bytes);
        if (!isnan(row->sqnr_db))
            json_object_set_new(o, "sqnr_db", json_real((double)row->sqnr_db));
        if (row->note)
            json_object_set_new(o, "note", json_string(row->note));
        json_array_append_new(rows, o);
    }
    json_t *root = json_pack("{s:I, s:I, s:I, s:I, s:o}", "float32_bytes",
                             (json_int_t)report->float32_bytes, "file_bytes",
                             (json_int_t)report->estimated_bytes, "macs", (json_int_t)report->macs,
                             "integer_macs", (json_int_t)report->integer_macs, "layers", rows);
    if (report->judged_images)
        json_object_set_new(root, "divergence", tuning_json(report));
    return cli_print_json(root, err);
}

static bb_status make_model(const bb_graph *graph, const quantize_arguments *a,
                            const parsed_options *p, const bb_config *config, bb_model **model,
                            bb_quantize_report *report, bb_error *err) {
    calibration c = {.config = config};
    bb_status status = open_calibration(a, p->q.labels, &c, err);
    if (status == BB_STATUS_OK) {
        status = bb_quantize(graph, &p->q, read_calibration, &c, bb_dataset_size(c.dataset), model,
                             report, err);
        if (status == BB_STATUS_CANCELLED && c.err.status != BB_STATUS_OK)
            *err = c.err;
    }
    bb_dataset_destroy(c.dataset);
    return status;
}

/* Calibration images are made to the config's measure. */
static bb_status check_input(const bb_graph_info *info, const bb_config *config, const char *path,
                             bb_error *err) {
    int channels, height, width;
    bb_config_input(config, &channels, &height, &width);
    const int64_t have[] = {channels, height, width}, *want = info->input_dims + 1;
    for (int i = 0; i < 3; i++) {
        if (want[i] == have[i] || want[i] < 0)
            continue;
        return cli_error(err, BB_STATUS_INVALID_ARGUMENT,
                         "%s: its input has %lldx%lldx%lld (CxHxW), its config says %dx%dx%d", path,
                         (long long)want[0], (long long)want[1], (long long)want[2], channels,
                         height, width);
    }
    return BB_STATUS_OK;
}

/* What can be said before the network is read. */
static bool check_paths(const quantize_arguments *a, const cli_args *args) {
    if (!a->dry_run && args->n < 2)
        cli_usage_error("quantize", "missing OUT.bbm (only --dry-run needs none)");
    else if (args->n > 1 && net_is_onnx(args->positional[1]))
        cli_usage_error("quantize", "OUT.bbm is a model file, not '%s'", args->positional[1]);
    else
        return true;
    return false;
}

static bool check_bits(const quantize_arguments *a, const cli_args *args, bool low_bit) {
    if (low_bit && (a->weight_bits || a->activation_bits || a->profiles || a->bits.n))
        cli_usage_error("quantize",
                        "%s carries its own quantizers and is imported as it is; -w, "
                        "-a, --profiles and --bits do not apply",
                        args->positional[0]);
    else if (!low_bit && !a->dry_run && !a->calib)
        cli_usage_error("quantize", "--calib DATA is needed: training images to set the scales");
    else
        return true;
    return false;
}

/* All that quantizing one network makes. */
typedef struct job {
    bb_graph *graph;
    bb_graph_info info;
    bb_config *config;
    char *labels;
    bb_model *model;
    bb_quantize_report report;
} job;

static bb_status read_network(const quantize_arguments *a, const cli_args *args, job *j,
                              bb_error *err) {
    bb_status status = a->dry_run ? BB_STATUS_OK : cli_check_output(args->positional[1], err);
    if (status == BB_STATUS_OK)
        status = bb_import_onnx(args->positional[0], &j->graph, err);
    if (status == BB_STATUS_OK && a->outputs.n)
        status = bb_graph_extract(j->graph, NULL, 0, a->outputs.items, a->outputs.n, err);
    bb_graph_info_init(&j->info);
    if (status == BB_STATUS_OK)
        status = bb_graph_get_info(j->graph, &j->info, err);
    return status;
}

static bb_status read_config(const quantize_arguments *a, const cli_args *args, job *j,
                             parsed_options *p, bb_error *err) {
    bb_status status = net_load_config(args->positional[0], a->config, &j->config, err);
    if (status == BB_STATUS_OK)
        status = check_input(&j->info, j->config, args->positional[0], err);
    if (status == BB_STATUS_OK)
        status = net_read_labels(j->config, &j->labels, err);
    if (status == BB_STATUS_OK)
        use_config(j->config, j->labels, &p->q);
    return status;
}

static bb_status do_work(const quantize_arguments *a, const parsed_options *p, const cli_args *args,
                         job *j, bool json, bb_error *err) {
    bb_status status;
    if (j->info.quantized)
        status = bb_import_quantized(j->graph, &p->q, &j->model, err);
    else if (a->dry_run)
        status = bb_quantize_plan(j->graph, &p->q, &j->report, err);
    else
        status = make_model(j->graph, a, p, j->config, &j->model, &j->report, err);
    if (status == BB_STATUS_OK && !a->dry_run)
        status = bb_model_save(j->model, args->positional[1], err);
    if (status != BB_STATUS_OK)
        return status;
    if (j->info.quantized)
        fprintf(stderr, "imported the network's own codes without loss\n");
    if (!j->report.n_rows)
        return BB_STATUS_OK;
    if (json)
        return print_report_json(&j->report, err);
    print_report(&j->report, a->dry_run);
    return BB_STATUS_OK;
}

static int quantize(const quantize_arguments *a, parsed_options *p, const cli_args *args,
                    bool json) {
    job j = {0};
    bb_error err = {0};
    int code = EXIT_DONE;
    bb_status status = read_network(a, args, &j, &err);
    if (status == BB_STATUS_OK && !check_bits(a, args, j.info.quantized)) {
        code = EXIT_USAGE;
    } else {
        if (status == BB_STATUS_OK)
            status = read_config(a, args, &j, p, &err);
        if (status == BB_STATUS_OK)
            status = do_work(a, p, args, &j, json, &err);
        if (status != BB_STATUS_OK)
            code = cli_failed("quantize", &err);
    }
    bb_quantize_report_free(&j.report);
    bb_model_destroy(j.model);
    bb_config_destroy(j.config);
    bb_graph_destroy(j.graph);
    free(j.labels);
    return code;
}

int cmd_quantize(int argc, char **argv) {
    static quantize_arguments a = {.calib_count = 512,
                                   .residual_bits = 8,
                                   .effort = "default",
                                   .format = "table",
                                   .threads = 1};
    const cli_spec spec = {
        "quantize",
        "IN.onnx OUT.bbm --calib DATA [OPTIONS]",
        "Quantizes a float network to K weight and M activation bits, or imports a network that\n"
        "carries its own quantizers (QDQ, QLinear, QONNX) without loss.",
        (cli_option[]){
            {"calib", 'c', CLI_STRING, &a.calib, "DATA", "training images to set scales with", 0,
             0},
            {"calib-count", 'n', CLI_UINT, &a.calib_count, "N", "images to use (512)", 1, 1000000},
            {"calib-split", 0, CLI_STRING, &a.calib_split, "NAME", "split of DATA (train)", 0, 0},
            {"weights", 'w', CLI_UINT, &a.weight_bits, "K", "weight bits (8)", 1, 8},
            {"activations", 'a', CLI_UINT, &a.activation_bits, "M", "activation bits (8)", 1, 8},
            {"profiles", 'p', CLI_STRING, &a.profiles, "LIST",
             "several choices in one file, e.g. w8a8,w4a4", 0, 0},
            {"bits", 0, CLI_LIST, &a.bits, "LAYER=wKaM", "bits of one layer ('*' matches); repeat",
             0, 0},
            {"first-last", 0, CLI_STRING, &a.first_last, "wKaM|float",
             "bits of the first and last layer (w8a8)", 0, 0},
            {"residual-bits", 0, CLI_UINT, &a.residual_bits, "B",
             "bits of values kept for residual adds (8)", 8, 16},
            {"outputs", 0, CLI_LIST, &a.outputs, "TENSOR",
             "end the network at this tensor and drop what follows; repeat", 0, 0},
            {"effort", 'e', CLI_STRING, &a.effort, "fast|default|best",
             "time spent on finding good codes", 0, 0},
            {"config", 0, CLI_STRING, &a.config, "FILE.json",
             "task config (default: beside IN.onnx)", 0, 0},
            {"seed", 0, CLI_UINT, &a.seed, "N", "seed of every random choice (0)", 0, SIZE_MAX},
            {"threads", 't', CLI_UINT, &a.threads, "N",
             "threads; the result is the same but for effort best (1)", 1, 1024},
            {"dry-run", 0, CLI_FLAG, &a.dry_run, NULL, "print the table, write nothing", 0, 0},
            {"allow-leak", 0, CLI_FLAG, &a.allow_leak, NULL,
             "allow calibrating on a split meant for evaluation", 0, 0},
            {"budget", 0, CLI_STRING, &a.budget, "SPEC", "not there yet", 0, 0},
            {"format", 'o', CLI_STRING, &a.format, "table|json", "output format", 0, 0},
            {0}},
        1,
        2};
    cli_args args;
    static parsed_options p;
    int format;
    if (!cli_parse(&spec, argc, argv, &args))
        return EXIT_USAGE;
    if (args.help)
        return EXIT_DONE;
    if (!cli_choice("quantize", "--format", a.format, (const char *[]){"table", "json", NULL},
                    &format) ||
        !parse_options(&a, &p) || !check_paths(&a, &args))
        return EXIT_USAGE;
    return quantize(&a, &p, &args, format == 1);
}
