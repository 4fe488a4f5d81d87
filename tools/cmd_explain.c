/* SPDX-License-Identifier: Apache-2.0 */
#include "bitbranch/encode.h"
#include "cli.h"
#include "commands.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void add_encoding(cli_table *table, const char *number, const bb_encoding *e) {
    char planes[4 * 8] = "";
    for (uint32_t p = 0; p < e->bits; p++)
        strcat(planes, e->planes[p] > 0 ? (p ? " +1" : "+1") : (p ? " -1" : "-1"));
    cli_table_cell(table, "%s", number);
    cli_table_cell(table, "%u", e->code);
    cli_table_cell(table, "%d", e->level);
    cli_table_cell(table, "%d/%d = %.6f", e->level, (1 << e->bits) - 1, e->value);
    cli_table_cell(table, "%s", planes);
}

static void start_table(cli_table *table, const char *first) {
    cli_table_init(table, (const char *[]){first, ">code", ">level", "value",
                                           "planes, most significant first", NULL});
}

/* All codes of `bits` bits: for 2 bits the paper's Table 2. */
static bb_status print_codes(const char *what, uint32_t bits, bb_error *err) {
    cli_table table;
    printf("%s, %u-bit: level = sum of 2^(m-1) * plane m, value = level / %d\n", what, bits,
           (1 << bits) - 1);
    start_table(&table, "");
    bb_status status = BB_STATUS_OK;
    for (uint32_t code = 0; code < 1u << bits && status == BB_STATUS_OK; code++) {
        bb_encoding e;
        status = bb_encode_code(code, bits, &e, err);
        if (status == BB_STATUS_OK)
            add_encoding(&table, "", &e);
    }
    if (status == BB_STATUS_OK)
        cli_table_print(&table, CLI_TABLE, stdout);
    cli_table_free(&table);
    return status;
}

static bb_status print_numbers(const char *what, uint32_t bits, const cli_args *args,
                               bb_error *err) {
    cli_table table;
    printf("%s, %u-bit\n", what, bits);
    start_table(&table, "number");
    bb_status status = BB_STATUS_OK;
    for (size_t i = 0; i < args->n && status == BB_STATUS_OK; i++) {
        bb_encoding e;
        status = bb_encode_number(strtod(args->positional[i], NULL), bits, &e, err);
        if (status == BB_STATUS_OK)
            add_encoding(&table, args->positional[i], &e);
    }
    if (status == BB_STATUS_OK)
        cli_table_print(&table, CLI_TABLE, stdout);
    cli_table_free(&table);
    return status;
}

static bb_status print_branches(uint32_t m_bits, uint32_t k_bits, bb_error *err) {
    uint32_t divisor = ((1u << m_bits) - 1) * ((1u << k_bits) - 1);
    printf("branches: %u x %u binary products, weighted and summed, times 1/%u\n", m_bits, k_bits,
           divisor);
    for (uint32_t m = m_bits; m >= 1; m--) {
        for (uint32_t k = k_bits; k >= 1; k--) {
            bb_branch branch;
            bb_status status = bb_encode_branch(m_bits, m, k_bits, k, &branch, err);
            if (status != BB_STATUS_OK)
                return status;
            printf("%s%u*A%u.W%u", m == m_bits && k == k_bits ? "  x.w = ( " : " + ", branch.weight,
                   m, k);
        }
    }
    printf(" ) / %u\n", divisor);
    return BB_STATUS_OK;
}

static bool check_numbers(const cli_args *args) {
    for (size_t i = 0; i < args->n; i++) {
        char *end;
        errno = 0;
        double x = strtod(args->positional[i], &end);
        if (*end || end == args->positional[i] || !isfinite(x)) {
            cli_usage_error("explain", "'%s' is not a number", args->positional[i]);
            return false;
        }
    }
    return true;
}

int cmd_explain(int argc, char **argv) {
    size_t k = 0, m = 0;
    const cli_spec spec = {
        "explain",
        "-w K -a M [NUMBER...]",
        "Shows how numbers in [-1,1] become codes, odd levels and {-1,+1} planes at M activation "
        "and\n"
        "K weight bits, and the branches of their product. Without numbers: every code.",
        (cli_option[]){{"weights", 'w', CLI_UINT, &k, "K", "weight bits", 1, 8},
                       {"activations", 'a', CLI_UINT, &m, "M", "activation bits", 1, 8},
                       {0}},
        0,
        SIZE_MAX};
    cli_args args;
    if (!cli_parse(&spec, argc, argv, &args))
        return EXIT_USAGE;
    if (args.help)
        return EXIT_DONE;
    if (!k || !m)
        return cli_usage_error("explain", "-w K and -a M are needed");
    if (!check_numbers(&args))
        return EXIT_USAGE;
    bb_error err = {0};
    uint32_t m_bits = (uint32_t)m, k_bits = (uint32_t)k;
    bb_status status = args.n ? print_numbers("activations", m_bits, &args, &err)
                              : print_codes("activations", m_bits, &err);
    if (status == BB_STATUS_OK && k_bits != m_bits) {
        putchar('\n');
        status = args.n ? print_numbers("weights", k_bits, &args, &err)
                        : print_codes("weights", k_bits, &err);
    }
    if (status == BB_STATUS_OK) {
        putchar('\n');
        status = print_branches(m_bits, k_bits, &err);
    }
    return status == BB_STATUS_OK ? EXIT_DONE : cli_failed("explain", &err);
}
