/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "commands.h"
#include "net.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_TOP = 10, SHEET_TILES = 24, CAPTION_SIZE = 64 };

typedef struct run_arguments {
    net_options net;
    const char *split, *out;
    size_t top, limit;
} run_arguments;

/* Tiles of the contact sheet that --out writes. */
typedef struct sheet {
    size_t n;
    bb_image images[SHEET_TILES];
    char captions[SHEET_TILES][CAPTION_SIZE];
    int good[SHEET_TILES]; /* 1 right, 0 wrong, -1 no label known */
} sheet;

static const char *class_name(const cli_net *net, size_t class) {
    static char number[24];
    if (class < net->n_labels)
        return net->labels[class];
    snprintf(number, sizeof(number), "class %zu", class);
    return number;
}

static void print_classes(const cli_net *net, const char *name, const size_t *classes, size_t top) {
    printf("%s\n", cli_text(name));
    for (size_t k = 0; k < top; k++)
        printf("  %2zu. %-32s %.4f\n", k + 1, cli_text(class_name(net, classes[k])),
               (double)bb_classify_score(net->config, net->outputs[0].data, classes[k]));
}

/* Takes over the image. */
static void add_tile(const cli_net *net, bb_image *image, size_t class, int label, sheet *s) {
    if (s->n == SHEET_TILES) {
        bb_image_free(image);
        return;
    }
    snprintf(s->captions[s->n], CAPTION_SIZE, "%s", class_name(net, class));
    s->good[s->n] = label < 0 ? -1 : (size_t)label == class;
    s->images[s->n++] = *image;
}

static bb_status run_image(cli_net *net, const run_arguments *a, const bb_dataset *data, size_t i,
                           sheet *s, bb_error *err) {
    bb_image image;
    bb_status status = bb_dataset_image(data, i, &image, err);
    if (status != BB_STATUS_OK)
        return status;
    size_t classes[MAX_TOP], top;
    status = net_run(net, &image, err);
    if (status == BB_STATUS_OK)
        status = net_classify(net, a->top, classes, &top, err);
    if (status != BB_STATUS_OK) {
        bb_image_free(&image);
        return cli_prefix(err, status, bb_dataset_name(data, i));
    }
    print_classes(net, bb_dataset_name(data, i), classes, top);
    add_tile(net, &image, classes[0], bb_dataset_label(data, i), s);
    return BB_STATUS_OK;
}

static bb_status run_input(cli_net *net, const run_arguments *a, const char *path, sheet *s,
                           bb_error *err) {
    bb_dataset_options options;
    bb_dataset *data;
    bb_dataset_options_init(&options);
    options.split = a->split;
    options.limit = a->limit;
    bb_status status = bb_dataset_open(path, &options, &data, err);
    if (status != BB_STATUS_OK)
        return status;
    for (size_t i = 0; i < bb_dataset_size(data) && status == BB_STATUS_OK; i++)
        status = run_image(net, a, data, i, s, err);
    bb_dataset_destroy(data);
    return status;
}

static bb_status write_sheet(const run_arguments *a, const sheet *s, bb_error *err) {
    const char *captions[SHEET_TILES];
    char path[4096];
    bb_image picture;
    for (size_t i = 0; i < s->n; i++)
        captions[i] = s->captions[i];
    if ((size_t)snprintf(path, sizeof(path), "%s/classes.png", a->out) >= sizeof(path))
        return cli_error(err, BB_STATUS_INVALID_ARGUMENT, "%s: path too long", a->out);
    bb_status status = cli_make_folder(a->out, err);
    if (status == BB_STATUS_OK)
        status = bb_draw_sheet(s->images, captions, s->good, s->n, &picture, err);
    if (status != BB_STATUS_OK)
        return status;
    status = bb_image_write(path, &picture, err);
    bb_image_free(&picture);
    if (status == BB_STATUS_OK)
        printf("%s\n", path);
    return status;
}

int cmd_run(int argc, char **argv) {
    static sheet s;
    run_arguments a = {.net.threads = 1, .top = 3};
    const cli_spec spec = {
        "run",
        "MODEL INPUT... [OPTIONS]",
        "Classifies images. INPUT is an image file, a folder of images, or a dataset.",
        (cli_option[]){
            {"out", 0, CLI_STRING, &a.out, "DIR", "write a picture of the classified images", 0, 0},
            {"top", 'k', CLI_UINT, &a.top, "N", "classes to print (3)", 1, MAX_TOP},
            {"split", 0, CLI_STRING, &a.split, "NAME", "split of a dataset", 0, 0},
            {"limit", 0, CLI_UINT, &a.limit, "N", "at most N images of each INPUT", 1, SIZE_MAX},
            NET_OPTIONS(a.net),
            {0}},
        2,
        SIZE_MAX};
    cli_args args;
    if (!cli_parse(&spec, argc, argv, &args))
        return EXIT_USAGE;
    if (args.help)
        return EXIT_DONE;
    bb_error err = {0};
    cli_net net;
    bb_status status = net_open(args.positional[0], &a.net, &net, &err);
    if (status != BB_STATUS_OK)
        return cli_failed("run", &err);
    status = net_check_classifier(&net, args.positional[0], &err);
    for (size_t i = 1; i < args.n && status == BB_STATUS_OK; i++)
        status = run_input(&net, &a, args.positional[i], &s, &err);
    if (status == BB_STATUS_OK && a.out)
        status = write_sheet(&a, &s, &err);
    for (size_t i = 0; i < s.n; i++)
        bb_image_free(&s.images[i]);
    net_close(&net);
    return status == BB_STATUS_OK ? EXIT_DONE : cli_failed("run", &err);
}
