/* SPDX-License-Identifier: Apache-2.0 */
/** @file names.c  Names of instruction-set levels and the BITBRANCH_CPU mask. */
#include "cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/** flag: what the name adds; level: that and all it contains. Newest last. */
static const struct {
    const char *name;
    uint32_t flag, level;
} levels[] = {
    {"ref", 0, 0},
    {"ssse3", BB_CPU_SSSE3, BB_CPU_SSSE3},
    {"sse4", 0, BB_CPU_SSSE3},
    {"avx2", BB_CPU_AVX2, BB_CPU_SSSE3 | BB_CPU_AVX2},
    {"avxvnni", BB_CPU_AVX_VNNI, BB_CPU_SSSE3 | BB_CPU_AVX2 | BB_CPU_AVX_VNNI},
    {"avx512", BB_CPU_AVX512, BB_CPU_SSSE3 | BB_CPU_AVX2 | BB_CPU_AVX512},
    {"avx512vnni", BB_CPU_AVX512_VNNI,
     BB_CPU_SSSE3 | BB_CPU_AVX2 | BB_CPU_AVX512 | BB_CPU_AVX512_VNNI},
    {"avx512popcnt", BB_CPU_AVX512_POPCNT,
     BB_CPU_SSSE3 | BB_CPU_AVX2 | BB_CPU_AVX512 | BB_CPU_AVX512_VNNI | BB_CPU_AVX512_POPCNT},
    {"avx512vbmi", BB_CPU_AVX512_VBMI,
     BB_CPU_SSSE3 | BB_CPU_AVX2 | BB_CPU_AVX512 | BB_CPU_AVX512_VNNI | BB_CPU_AVX512_POPCNT |
         BB_CPU_AVX512_VBMI},
    {"neon", BB_CPU_NEON, BB_CPU_NEON},
    {"dotprod", BB_CPU_DOTPROD, BB_CPU_NEON | BB_CPU_DOTPROD},
};

bb_status bb_cpu_parse(const char *text, uint32_t *flags, bb_error *err) {
    char names[160] = "";
    size_t used = 0;

    for (size_t i = 0; i < BB_COUNT(levels); i++) {
        if (strcmp(text, levels[i].name) == 0) {
            *flags = levels[i].level;
            return BB_STATUS_OK;
        }
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i ? ", " : "",
                                 levels[i].name);
    }
    return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "unknown instruction set '%s'; known are %s",
                   text, names);
}

/** NULL where there is no limit. */
static const char *environment_limit(void) {
    const char *name = getenv("BITBRANCH_CPU");

    return name && *name ? name : NULL;
}

bb_status bb_cpu_check_environment(bb_error *err) {
    const char *name = environment_limit();
    uint32_t flags;

    if (!name)
        return BB_STATUS_OK;
    return bb_error_prefix(err, bb_cpu_parse(name, &flags, err), "BITBRANCH_CPU");
}

uint32_t bb_cpu_flags(void) {
    const char *mask = environment_limit();
    uint32_t flags = bb_cpu_detect(), limit;

    if (mask && bb_cpu_parse(mask, &limit, NULL) == BB_STATUS_OK)
        flags &= limit;
    return flags;
}

void bb_cpu_describe(uint32_t flags, char *text, size_t size) {
    size_t used = 0;

    if (size == 0)
        return;
    text[0] = '\0';
    for (size_t i = BB_COUNT(levels); i-- > 0;) {
        if (!(flags & levels[i].flag) || used >= size)
            continue;
        used += (size_t)snprintf(text + used, size - used, "%s%s", used ? " " : "", levels[i].name);
    }
    if (used == 0)
        snprintf(text, size, "ref");
}
