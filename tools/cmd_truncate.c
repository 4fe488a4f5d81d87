/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"
#include "commands.h"
#include "net.h"

int cmd_truncate(int argc, char **argv) {
    size_t weight_bits = 0, activation_bits = 0;
    const cli_spec spec = {
        "truncate",
        "IN.bbm OUT.bbm -w K -a M",
        "Keeps one profile of a model file and only the weight planes its layers use.",
        (cli_option[]){CLI_PROFILE_OPTIONS(&weight_bits, &activation_bits), {0}},
        2,
        2};
    cli_args args;
    if (!cli_parse(&spec, argc, argv, &args))
        return EXIT_USAGE;
    if (args.help)
        return EXIT_DONE;
    if (!weight_bits && !activation_bits)
        return cli_usage_error("truncate", "say which profile to keep with -w and -a");
    bb_error err = {0};
    bb_model *model = NULL, *result = NULL;
    size_t profile;
    bb_status status =
        net_load_model(args.positional[0], weight_bits, activation_bits, &model, &profile, &err);
    if (status == BB_STATUS_OK)
        status = bb_model_truncate(model, profile, &result, &err);
    if (status == BB_STATUS_OK)
        status = bb_model_save(result, args.positional[1], &err);
    bb_model_destroy(result);
    bb_model_destroy(model);
    return status == BB_STATUS_OK ? EXIT_DONE : cli_failed("truncate", &err);
}
