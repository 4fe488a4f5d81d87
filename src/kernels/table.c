/* SPDX-License-Identifier: Apache-2.0 */
/** @file table.c  The table of kernels and the chooser. */
#include "kernels/registry.h"

#include <string.h>

static const bb_conv_kernel *const table[] = {
#define BB_CONV_KERNEL(symbol) &symbol,
#include "kernels/kernels.inc"
#undef BB_CONV_KERNEL
};

const bb_conv_kernel *const *bb_conv_kernels(size_t *n) {
    *n = BB_COUNT(table);
    return table;
}

const bb_conv_kernel *bb_conv_choose(const bb_conv_desc *desc, uint32_t cpu, const char *wanted) {
    const bb_conv_kernel *best = &bb_conv_ref;
    double best_cost = best->cost(desc);

    for (size_t i = 0; i < BB_COUNT(table); i++) {
        const bb_conv_kernel *kernel = table[i];
        double cost;

        if ((kernel->cpu & ~cpu) != 0 || !kernel->supports(desc))
            continue;
        if (wanted && strcmp(wanted, kernel->name) == 0)
            return kernel;
        cost = kernel->cost(desc);
        if (cost < best_cost) {
            best = kernel;
            best_cost = cost;
        }
    }
    return best;
}

double bb_conv_macs(const bb_conv_desc *desc) {
    return (double)desc->out_height * desc->out_width * desc->out_channels * desc->kernel[0] *
           desc->kernel[1] * (desc->in_channels / desc->groups);
}
