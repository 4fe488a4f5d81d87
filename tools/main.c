/* SPDX-License-Identifier: Apache-2.0 */
/* bitbranch: one command, one verb a file (cmd_VERB.c), public API only. */
#include "cli.h"
#include "commands.h"
#include <errno.h>
#include <string.h>

static const struct {
    const char *verb;
    int (*run)(int argc, char **argv);
    const char *summary;
} verbs[] = {
    {"info", cmd_info, "what a model holds: size, MACs, bits, kernels, memory"},
    {"quantize", cmd_quantize, "ONNX network -> low-bit model file"},
    {"run", cmd_run, "classify images"},
    {"eval", cmd_eval, "accuracy on a labelled dataset"},
    {"bench", cmd_bench, "time per image and per layer"},
    {"train", cmd_train, "train or fine-tune networks, in float and at low bits"},
    {"truncate", cmd_truncate, "keep one profile of a model and the planes it needs"},
    {"export", cmd_export, "write a model for other tools: QONNX"},
    {"verify", cmd_verify, "engine == reference bit for bit; error per layer against float"},
    {"explain", cmd_explain, "codes, levels, planes and branch scales of numbers"},
};

static void print_usage(FILE *out) {
    fputs("Usage: bitbranch VERB [ARGUMENTS]\n\n"
          "Low-bit neural networks on {-1,+1} bit planes, M activation and K weight bits each 1 to "
          "8.\n"
          "MODEL is an .onnx file, which runs in float, or a .bbm file made by 'quantize'.\n\n"
          "Verbs:\n",
          out);
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
        fprintf(out, "  %-10s %s\n", verbs[i].verb, verbs[i].summary);
    fputs("\n'bitbranch VERB --help' explains a verb. Exit codes: 0 done, 1 the work failed,\n"
          "2 wrong usage.\n",
          out);
}

/* Output that did not arrive (full disk, closed pipe) is failed work. */
static int finish(int code) {
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    fprintf(stderr, "bitbranch: cannot write the output%s%s\n", errno ? ": " : "",
            errno ? strerror(errno) : ""); /* an earlier write failed: its reason is lost */
    return code == EXIT_DONE ? EXIT_FAILED : code;
}

int main(int argc, char **argv) {
    static char help[] = "--help";
    char *as_option[] = {argv[0], argc > 2 ? argv[2] : NULL, help, NULL};
    if (argc == 3 && strcmp(argv[1], "help") == 0) /* help VERB: VERB --help */
        argv = as_option;
    const char *verb = argc > 1 ? argv[1] : "";
    if (strcmp(verb, "--version") == 0) {
        printf("bitbranch %s\n", bb_version());
        return finish(EXIT_DONE);
    }
    if (strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0 || strcmp(verb, "help") == 0) {
        print_usage(stdout);
        return finish(EXIT_DONE);
    }
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
        if (strcmp(verb, verbs[i].verb) == 0)
            return finish(verbs[i].run(argc, argv));
    if (argc < 2) {
        print_usage(stderr);
        return EXIT_USAGE;
    }
    return cli_usage_error("", "unknown verb '%s'", verb);
}
