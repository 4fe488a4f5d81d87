/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "commands.h"
#include "net.h"
#include <stdlib.h>
#include <string.h>

enum { WARM_UP = 3, BIG_MACS = 1000000 };

typedef struct bench_arguments {
    net_options net;
    bool layers;
    const char *format;
    size_t reps, pause_ms;
} bench_arguments;

typedef struct layer_time {
    bb_plan_info plan;
    double median_ms;
} layer_time;

typedef struct bench_result {
    double min_ms, median_ms, clock_ghz;
    size_t n_layers;
    layer_time *layers;
} bench_result;

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n) {
    qsort(values, n, sizeof(*values), by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* Core clock in GHz: a chain of dependent additions takes one cycle each. The shortest of some
 * windows is the one nobody else disturbed. */
static double clock_ghz(void) {
    enum { WINDOWS = 20, CHAIN = 1000000 };
    double best = 1e9;
    for (int w = 0; w < WINDOWS; w++) {
        unsigned long x = 1;
        double start = cli_seconds();
        for (int i = 0; i < CHAIN; i++) {
            x += 3;
#if defined(__GNUC__)
            __asm__ volatile("" : "+r"(x)); /* keeps the additions one by one */
#endif
        }
        double t = cli_seconds() - start;
        best = t < best ? t : best;
    }
    return CHAIN / best * 1e-9;
}

/* times[reps] of whole runs; node_ns[layers][reps] where the engine keeps them. */
static bb_status time_runs(cli_net *net, const bench_arguments *a, size_t n_layers, double *times,
                           double *node_ns, bb_error *err) {
    const size_t reps = a->reps;
    for (size_t r = 0; r < WARM_UP + reps; r++) {
        cli_sleep(1e-3 * (double)a->pause_ms);
        double start = cli_seconds();
        bb_status status = net_run_prepared(net, err);
        if (status != BB_STATUS_OK)
            return status;
        if (r < WARM_UP)
            continue;
        times[r - WARM_UP] = 1e3 * (cli_seconds() - start);
        const uint64_t *ns = node_ns ? bb_context_node_ns(net->context) : NULL;
        for (size_t i = 0; i < n_layers && ns; i++)
            node_ns[i * reps + r - WARM_UP] = 1e-6 * (double)ns[i];
    }
    return BB_STATUS_OK;
}

static bb_status measure(cli_net *net, const bench_arguments *a, bench_result *result,
                         bb_error *err) {
    const size_t reps = a->reps;
    bb_status status = BB_STATUS_OK;
    if (!net->is_float) {
        bb_model_info info;
        bb_model_info_init(&info);
        status = bb_model_get_info(net->model, &info, err);
        result->n_layers = info.layers;
        bb_context_enable_timing(net->context, 1);
    }
    size_t n = result->n_layers;
    double *times = calloc(reps, sizeof(*times));
    double *node_ns = calloc(n * reps + 1, sizeof(*node_ns));
    result->layers = calloc(n + 1, sizeof(*result->layers));
    if (!times || !node_ns || !result->layers)
        status = cli_error(err, BB_STATUS_OUT_OF_MEMORY, "out of memory for timings");
    if (status == BB_STATUS_OK)
        status = time_runs(net, a, n, times, net->is_float ? NULL : node_ns, err);
    for (size_t i = 0; i < n && status == BB_STATUS_OK; i++) {
        status = bb_engine_get_plan(net->engine, i, &result->layers[i].plan, err);
        result->layers[i].median_ms = median(node_ns + i * reps, reps);
    }
    if (status == BB_STATUS_OK) {
        result->median_ms = median(times, reps);
        result->min_ms = times[0];
        result->clock_ghz = clock_ghz();
    }
    free(times);
    free(node_ns);
    return status;
}

static double mac_per_cycle(const bench_result *r, const layer_time *layer, size_t threads) {
    double cycles = layer->median_ms * 1e6 * r->clock_ghz * (double)threads;
    return cycles > 0 ? (double)layer->plan.macs / cycles : 0;
}

/* "conv_a 0.1234, conv_b 0.2345": ms of one task with the fastest kernels that were measured. */
static void print_tuned(const bb_plan_info *plan, cli_table *table) {
    enum { FASTEST = 4 };
    char text[CLI_CELL_SIZE] = "";
    size_t used = 0;
    for (size_t i = 0; i < plan->n_tuned && i < FASTEST && used < sizeof(text); i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s %.4f", i ? ", " : "",
                                 plan->tuned[i].kernel, 1e-6 * (double)plan->tuned[i].ns);
    cli_table_cell(table, "%s", text);
}

static void print_layers(const bench_result *r, const bench_arguments *a, cli_format format) {
    cli_table table;
    const size_t threads = a->net.threads;
    cli_table_init(&table, (const char *[]){"layer", "kernel", ">MACs", ">ms", ">%", ">MAC/cycle",
                                            a->net.tune ? "measured" : NULL, NULL});
    for (size_t i = 0; i < r->n_layers; i++) {
        const layer_time *layer = &r->layers[i];
        cli_table_cell(&table, "%s", layer->plan.name);
        cli_table_cell(&table, "%s", layer->plan.kernel ? layer->plan.kernel : "");
        cli_table_cell(&table, "%s", layer->plan.macs ? cli_count(layer->plan.macs) : "");
        cli_table_cell(&table, "%.4f", layer->median_ms);
        cli_table_cell(&table, "%.1f", 100 * layer->median_ms / r->median_ms);
        if (layer->plan.macs)
            cli_table_cell(&table, "%.1f", mac_per_cycle(r, layer, threads));
        else
            cli_table_cell(&table, "%s", "");
        if (a->net.tune)
            print_tuned(&layer->plan, &table);
    }
    cli_table_print(&table, format, stdout);
    cli_table_free(&table);
}

static json_t *tuned_json(const bb_plan_info *plan) {
    json_t *times = json_object();
    for (size_t i = 0; i < plan->n_tuned; i++)
        json_object_set_new(times, plan->tuned[i].kernel,
                            json_real(1e-6 * (double)plan->tuned[i].ns));
    return times;
}

static bb_status print_json(const cli_net *net, const bench_arguments *a, const bench_result *r,
                            bb_error *err) {
    json_t *layers = json_array();
    for (size_t i = 0; i < r->n_layers; i++) {
        const layer_time *layer = &r->layers[i];
        json_t *row = json_pack("{s:s, s:s, s:I, s:f, s:f}", "name", layer->plan.name, "kernel",
                                layer->plan.kernel ? layer->plan.kernel : "", "macs",
                                (json_int_t)layer->plan.macs, "median_ms", layer->median_ms,
                                "mac_per_cycle", mac_per_cycle(r, layer, a->net.threads));
        if (layer->plan.n_tuned)
            json_object_set_new(row, "measured_ms", tuned_json(&layer->plan));
        json_array_append_new(layers, row);
    }
    json_t *root =
        json_pack("{s:s, s:f, s:f, s:I, s:I, s:f, s:s, s:o}", "bits", net_bits(net), "median_ms",
                  r->median_ms, "min_ms", r->min_ms, "threads", (json_int_t)a->net.threads, "reps",
                  (json_int_t)a->reps, "clock_ghz", r->clock_ghz, "cpu",
                  net->is_float ? "" : bb_engine_cpu(net->engine), "layers", layers);
    return cli_print_json(root, err);
}

static bb_status print_result(const cli_net *net, const bench_arguments *a, const bench_result *r,
                              cli_format format, bb_error *err) {
    if (format == CLI_JSON)
        return print_json(net, a, r, err);
    if (a->layers) {
        print_layers(r, a, format);
        if (format == CLI_CSV) /* one table a file */
            return BB_STATUS_OK;
        putchar('\n');
    }
    cli_table table;
    cli_table_init(&table, (const char *[]){"bits", ">median ms", ">min ms", ">threads", ">reps",
                                            ">GHz", "cpu", NULL});
    cli_table_cell(&table, "%s", net_bits(net));
    cli_table_cell(&table, "%.3f", r->median_ms);
    cli_table_cell(&table, "%.3f", r->min_ms);
    cli_table_cell(&table, "%zu", a->net.threads);
    cli_table_cell(&table, "%zu", a->reps);
    cli_table_cell(&table, "%.2f", r->clock_ghz);
    cli_table_cell(&table, "%s", net->is_float ? "float" : bb_engine_cpu(net->engine));
    cli_table_print(&table, format, stdout);
    cli_table_free(&table);
    return BB_STATUS_OK;
}

/* A large convolution left to the reference kernel on a machine with vector instructions is a
 * defect, unless this very command asked for a kernel. (BITBRANCH_KERNEL may have been forgotten.)
 */
static bb_status check_kernels(const cli_net *net, const bench_arguments *a, const bench_result *r,
                               bb_error *err) {
    if (net->is_float || a->net.kernel || *bb_engine_cpu(net->engine) == '\0' ||
        strcmp(bb_engine_cpu(net->engine), "ref") == 0)
        return BB_STATUS_OK;
    for (size_t i = 0; i < r->n_layers; i++) {
        const bb_plan_info *plan = &r->layers[i].plan;
        if (plan->macs <= BIG_MACS || !plan->kernel || !strstr(plan->kernel, "_ref"))
            continue;
        return cli_error(err, BB_STATUS_INTERNAL,
                         "layer '%s' (%llu MACs) ran on the reference kernel %s although this "
                         "machine has %s",
                         plan->name, (unsigned long long)plan->macs, plan->kernel,
                         bb_engine_cpu(net->engine));
    }
    return BB_STATUS_OK;
}

int cmd_bench(int argc, char **argv) {
    bench_arguments a = {.net.threads = 1, .format = "table", .reps = 30};
    const cli_spec spec = {
        "bench",
        "MODEL [OPTIONS]",
        "Times a network: median and minimum over the repetitions, one image at a time; with\n"
        "--layers also each layer, its kernel and its MAC/cycle, and with --tune what the kernels\n"
        "that were tried took for one task of the layer.",
        (cli_option[]){
            {"layers", 'l', CLI_FLAG, &a.layers, NULL, "one line per layer (.bbm)", 0, 0},
            {"reps", 'r', CLI_UINT, &a.reps, "N", "repetitions (30)", 1, 1000000},
            {"pause", 0, CLI_UINT, &a.pause_ms, "MS",
             "sleep before each repetition: single runs instead of a loop (0)", 0, 10000},
            NET_OPTIONS(a.net),
            {"format", 'o', CLI_STRING, &a.format, "table|md|csv|json", "output format", 0, 0},
            {0}},
        1,
        1};
    static const char *const formats[] = {"table", "md", "csv", "json", NULL};
    cli_args args;
    int format;
    if (!cli_parse(&spec, argc, argv, &args))
        return EXIT_USAGE;
    if (args.help)
        return EXIT_DONE;
    if (!cli_choice("bench", "--format", a.format, formats, &format))
        return EXIT_USAGE;
    if (a.layers && net_is_onnx(args.positional[0]))
        return cli_usage_error("bench", "--layers is for .bbm models, not '%s'",
                               args.positional[0]);
    bb_error err = {0};
    cli_net net;
    bench_result result = {0};
    bb_status status = net_open(args.positional[0], &a.net, &net, &err);
    if (status != BB_STATUS_OK)
        return cli_failed("bench", &err);
    net_fill_random(&net, 1); /* neither engine's time depends on the values */
    status = measure(&net, &a, &result, &err);
    if (status == BB_STATUS_OK)
        status = print_result(&net, &a, &result, (cli_format)format, &err);
    if (status == BB_STATUS_OK)
        status = check_kernels(&net, &a, &result, &err);
    free(result.layers);
    net_close(&net);
    return status == BB_STATUS_OK ? EXIT_DONE : cli_failed("bench", &err);
}
