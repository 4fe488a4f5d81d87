/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "commands.h"
#include "net.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { TOP = 5 };

typedef struct eval_arguments {
    net_options net;
    const char *split, *format, *reference, *predictions;
    size_t limit;
} eval_arguments;

typedef struct scores {
    bb_accuracy accuracy;
    bb_paired paired; /* against the reference network */
    double seconds;   /* inside the network, without decoding */
} scores;

static bb_status classify(cli_net *net, const bb_image *image, size_t classes[TOP], size_t *top,
                          double *seconds, bb_error *err) {
    bb_status status = net->pixels ? bb_config_pixels(net->config, image, net->hwc, err)
                                   : bb_config_tensor(net->config, image, net->nchw, err);
    if (status != BB_STATUS_OK)
        return status;
    double start = cli_seconds();
    status = net_run_prepared(net, err);
    *seconds += cli_seconds() - start;
    return status == BB_STATUS_OK ? net_classify(net, TOP, classes, top, err) : status;
}

static bb_status eval_image(cli_net *net, cli_net *reference, const bb_dataset *data, size_t i,
                            FILE *predictions, scores *s, bb_error *err) {
    size_t classes[TOP], reference_classes[TOP], top, reference_top;
    double reference_seconds = 0;
    bb_image image;
    bb_status status = bb_dataset_image(data, i, &image, err);
    if (status != BB_STATUS_OK)
        return status;
    int label = bb_dataset_label(data, i);
    status = classify(net, &image, classes, &top, &s->seconds, err);
    if (status == BB_STATUS_OK && reference)
        status =
            classify(reference, &image, reference_classes, &reference_top, &reference_seconds, err);
    bb_image_free(&image);
    if (status != BB_STATUS_OK)
        return cli_prefix(err, status, bb_dataset_name(data, i));
    bb_accuracy_add(&s->accuracy, classes, top, label);
    if (reference)
        bb_paired_add(&s->paired, classes[0], reference_classes[0], label);
    if (predictions) {
        cli_csv_cell(bb_dataset_name(data, i), predictions);
        fprintf(predictions, ",%d,%zu\n", label, classes[0]);
    }
    return BB_STATUS_OK;
}

static double percent(size_t part, size_t whole) {
    return whole ? 100.0 * (double)part / (double)whole : 0;
}

/* 0 - 0 is 0 where -0 would be printed with its sign. */
static double drop(const bb_paired *p) {
    return 0 - bb_paired_difference(p);
}

static double ms_per_image(const scores *s) {
    return s->accuracy.images ? 1e3 * s->seconds / (double)s->accuracy.images : 0;
}

static void print_scores(const cli_net *net, const bb_dataset *data, bool compared,
                         const scores *s) {
    const bb_accuracy *a = &s->accuracy;
    const bb_paired *p = &s->paired;
    printf("%s, %s split '%s', %zu images\n", cli_text(net_bits(net)), bb_dataset_kind(data),
           bb_dataset_split(data), a->images);
    printf("  top-1      %.2f %% (%zu)\n", percent(a->top1, a->images), a->top1);
    printf("  top-5      %.2f %% (%zu)\n", percent(a->top5, a->images), a->top5);
    printf("  ms/image   %.3f\n", ms_per_image(s));
    if (!net->is_float)
        printf("  integer    %.2f %% of the MACs\n", net_integer_share(net));
    if (compared)
        printf("  reference  top-1 %.2f %%: drop %.2f points, paired standard error %.2f; "
               "%zu decisions changed, %zu gained, %zu lost\n",
               percent(p->reference_top1, p->images), drop(p), bb_paired_error(p), p->changed,
               p->gained, p->lost);
}

static json_t *paired_json(const bb_paired *p) {
    return json_pack("{s:f, s:f, s:f, s:I, s:I, s:I}", "top1",
                     percent(p->reference_top1, p->images), "drop", drop(p), "standard_error",
                     bb_paired_error(p), "changed", (json_int_t)p->changed, "gained",
                     (json_int_t)p->gained, "lost", (json_int_t)p->lost);
}

static bb_status print_json(const cli_net *net, const bb_dataset *data, bool compared,
                            const scores *s, bb_error *err) {
    const bb_accuracy *a = &s->accuracy;
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:I, s:f, s:f, s:f, s:f}", "task", "classify", "bits",
                  net_bits(net), "split", bb_dataset_split(data), "images", (json_int_t)a->images,
                  "ms_per_image", ms_per_image(s), "integer_mac_share", net_integer_share(net),
                  "top1", percent(a->top1, a->images), "top5", percent(a->top5, a->images));
    if (compared)
        json_object_set_new(root, "reference", paired_json(&s->paired));
    return cli_print_json(root, err);
}

static bb_status open_data(const char *path, const eval_arguments *a, const cli_net *net,
                           bb_dataset **data, bb_error *err) {
    bb_dataset_options options;
    char *labels = NULL;
    bb_dataset_options_init(&options);
    options.split = a->split;
    options.limit = a->limit;
    bb_status status = net_labels_text(net, &labels, err);
    if (status != BB_STATUS_OK)
        return status;
    options.labels = labels;
    status = bb_dataset_open(path, &options, data, err);
    free(labels);
    bool useful = a->reference || a->predictions;
    if (status == BB_STATUS_OK && !useful && bb_dataset_label(*data, 0) < 0)
        return cli_error(err, BB_STATUS_INVALID_ARGUMENT,
                         "%s: images without classes have no accuracy; 'bitbranch run' classifies "
                         "them, --reference compares two networks on them",
                         path);
    return status;
}

static bb_status evaluate(cli_net *net, cli_net *reference, const bb_dataset *data,
                          const char *predictions_path, scores *s, bb_error *err) {
    size_t n = bb_dataset_size(data);
    FILE *predictions = NULL;
    if (predictions_path && !(predictions = fopen(predictions_path, "w")))
        return cli_error(err, BB_STATUS_IO, "%s: cannot create: %s", predictions_path,
                         strerror(errno));
    bb_status status = BB_STATUS_OK;
    for (size_t i = 0; i < n && status == BB_STATUS_OK; i++) {
        status = eval_image(net, reference, data, i, predictions, s, err);
        if (status == BB_STATUS_OK)
            cli_progress(NULL, "evaluating", i + 1, n);
    }
    bool written = !predictions || !ferror(predictions);
    if (predictions && fclose(predictions) != 0)
        written = false;
    if (status == BB_STATUS_OK && !written)
        return cli_error(err, BB_STATUS_IO, "%s: cannot write", predictions_path);
    return status;
}

static bb_status run_eval(const cli_args *args, const eval_arguments *a, bool json, bb_error *err) {
    cli_net net = {0}, reference = {0};
    bb_dataset *data = NULL;
    scores s = {0};
    bb_status status = net_open(args->positional[0], &a->net, &net, err);
    if (status == BB_STATUS_OK)
        status = net_check_classifier(&net, args->positional[0], err);
    if (status == BB_STATUS_OK && a->reference)
        status = net_open(a->reference, &(net_options){.threads = a->net.threads}, &reference, err);
    if (status == BB_STATUS_OK && a->reference)
        status = net_check_classifier(&reference, a->reference, err);
    if (status == BB_STATUS_OK)
        status = open_data(args->positional[1], a, &net, &data, err);
    if (status == BB_STATUS_OK)
        status = evaluate(&net, a->reference ? &reference : NULL, data, a->predictions, &s, err);
    if (status == BB_STATUS_OK && json)
        status = print_json(&net, data, a->reference != NULL, &s, err);
    if (status == BB_STATUS_OK && !json)
        print_scores(&net, data, a->reference != NULL, &s);
    bb_dataset_destroy(data);
    net_close(&reference);
    net_close(&net);
    return status;
}

int cmd_eval(int argc, char **argv) {
    eval_arguments a = {.net.threads = 1, .format = "table"};
    const cli_spec spec = {
        "eval",
        "MODEL DATA [OPTIONS]",
        "Measures accuracy on a labelled dataset: top-1 and top-5 for classifiers.",
        (cli_option[]){
            {"split", 0, CLI_STRING, &a.split, "NAME", "split of DATA (val, else test)", 0, 0},
            {"limit", 0, CLI_UINT, &a.limit, "N", "N images, spread evenly over the split", 1,
             SIZE_MAX},
            {"reference", 'r', CLI_STRING, &a.reference, "MODEL",
             "also run this network on the same images and compare decisions", 0, 0},
            {"predictions", 0, CLI_STRING, &a.predictions, "FILE.csv",
             "write image, label, class of every image", 0, 0},
            NET_OPTIONS(a.net),
            {"format", 'o', CLI_STRING, &a.format, "table|json", "output format", 0, 0},
            {0}},
        2,
        2};
    cli_args args;
    int format;
    if (!cli_parse(&spec, argc, argv, &args))
        return EXIT_USAGE;
    if (args.help)
        return EXIT_DONE;
    if (!cli_choice("eval", "--format", a.format, (const char *[]){"table", "json", NULL}, &format))
        return EXIT_USAGE;
    bb_error err = {0};
    bb_status status = run_eval(&args, &a, format == 1, &err);
    return status == BB_STATUS_OK ? EXIT_DONE : cli_failed("eval", &err);
}
