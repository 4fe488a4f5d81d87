/* SPDX-License-Identifier: Apache-2.0 */
#include "bitbranch/export.h"
#include "cli.h"
#include "commands.h"
#include "net.h"
#include <string.h>

/* OUTDIR/NAME.onnx, where NAME is the model file's name without its ending. */
static bb_status output_path(const char *model, const char *folder, char *path, size_t size,
                             bb_error *err) {
    const char *slash = strrchr(model, '/'), *name = slash ? slash + 1 : model;
    size_t stem = strlen(name);
    if (stem > 4 && strcmp(name + stem - 4, ".bbm") == 0)
        stem -= 4;
    if ((size_t)snprintf(path, size, "%s/%.*s.onnx", folder, (int)stem, name) >= size)
        return cli_error(err, BB_STATUS_INVALID_ARGUMENT, "%s: path too long", folder);
    return cli_make_folder(folder, err);
}

int cmd_export(int argc, char **argv) {
    size_t weight_bits = 0, activation_bits = 0;
    const cli_spec spec = {
        "export",
        "qonnx MODEL.bbm OUTDIR [OPTIONS]",
        "Writes one profile of a model as a QONNX network; imported again it gives the same codes.",
        (cli_option[]){CLI_PROFILE_OPTIONS(&weight_bits, &activation_bits), {0}},
        3,
        3};
    cli_args args;
    int target;
    if (!cli_parse(&spec, argc, argv, &args))
        return EXIT_USAGE;
    if (args.help)
        return EXIT_DONE;
    if (!cli_choice("export", "the target", args.positional[0], (const char *[]){"qonnx", NULL},
                    &target))
        return EXIT_USAGE;
    bb_error err = {0};
    bb_model *model = NULL;
    size_t profile;
    char path[4096];
    bb_status status =
        net_load_model(args.positional[1], weight_bits, activation_bits, &model, &profile, &err);
    if (status == BB_STATUS_OK)
        status = output_path(args.positional[1], args.positional[2], path, sizeof(path), &err);
    if (status == BB_STATUS_OK)
        status = bb_export_qonnx(model, profile, path, &err);
    if (status == BB_STATUS_OK)
        printf("%s\n", path);
    bb_model_destroy(model);
    return status == BB_STATUS_OK ? EXIT_DONE : cli_failed("export", &err);
}
