/* SPDX-License-Identifier: Apache-2.0 */
#include "cpu/cpu.h"
#include "kernels/registry.h"
#include "unit.h"

#include <stdlib.h>
#include <string.h>

static void levels_contain_lower_ones(void **state) {
    uint32_t ref = 1, ssse3, avx2, avx512;

    (void)state;
    assert_int_equal(bb_cpu_parse("ref", &ref, NULL), BB_STATUS_OK);
    assert_int_equal(ref, 0);
    assert_int_equal(bb_cpu_parse("ssse3", &ssse3, NULL), BB_STATUS_OK);
    assert_int_equal(bb_cpu_parse("avx2", &avx2, NULL), BB_STATUS_OK);
    assert_int_equal(bb_cpu_parse("avx512", &avx512, NULL), BB_STATUS_OK);
    assert_int_equal(ssse3 & avx2, ssse3);
    assert_int_equal(avx2 & avx512, avx2);
}

static void unknown_level_lists_names(void **state) {
    bb_error err;
    uint32_t flags;

    (void)state;
    assert_int_equal(bb_cpu_parse("avx3", &flags, &err), BB_STATUS_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "avx3"));
    assert_non_null(strstr(err.message, "avx512"));
}

static void environment_limits_flags(void **state) {
    bb_error err;

    (void)state;
    setenv("BITBRANCH_CPU", "ref", 1);
    assert_int_equal(bb_cpu_flags(), 0);
    assert_int_equal(bb_cpu_check_environment(NULL), BB_STATUS_OK);
    setenv("BITBRANCH_CPU", "nonsense", 1);
    assert_int_equal(bb_cpu_flags(), bb_cpu_detect());
    assert_int_equal(bb_cpu_check_environment(&err), BB_STATUS_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "BITBRANCH_CPU: unknown instruction set 'nonsense'"));
    setenv("BITBRANCH_CPU", "", 1); /* as if not set */
    assert_int_equal(bb_cpu_check_environment(&err), BB_STATUS_OK);
    assert_int_equal(bb_cpu_flags(), bb_cpu_detect());
    unsetenv("BITBRANCH_CPU");
    assert_int_equal(bb_cpu_flags(), bb_cpu_detect());
}

static void description_fits_its_buffer(void **state) {
    char text[64], tiny[5];

    (void)state;
    bb_cpu_describe(BB_CPU_AVX2 | BB_CPU_SSSE3, text, sizeof(text));
    assert_string_equal(text, "avx2 ssse3");
    bb_cpu_describe(0, text, sizeof(text));
    assert_string_equal(text, "ref");
    bb_cpu_describe(BB_CPU_AVX2 | BB_CPU_SSSE3, tiny, sizeof(tiny));
    assert_string_equal(tiny, "avx2");
}

static void chooser_obeys_flags_and_wish(void **state) {
    const bb_conv_desc desc = {.in_height = 8,
                               .in_width = 8,
                               .in_channels = 64,
                               .out_height = 8,
                               .out_width = 8,
                               .out_channels = 64,
                               .kernel = {3, 3},
                               .stride = {1, 1},
                               .dilation = {1, 1},
                               .pad_begin = {1, 1},
                               .groups = 1,
                               .activation_bits = 4,
                               .weight_bits = 4,
                               .native = true,
                               .max_weight = 15};
    uint32_t avx2;

    (void)state;
    assert_ptr_equal(bb_conv_choose(&desc, 0, NULL), &bb_conv_ref);
    assert_ptr_equal(bb_conv_choose(&desc, bb_cpu_detect(), "conv_ref"), &bb_conv_ref);
    assert_int_equal(bb_cpu_parse("avx2", &avx2, NULL), BB_STATUS_OK);
    assert_int_equal(bb_conv_choose(&desc, avx2, "no such kernel")->cpu & ~avx2, 0);
}

static void working_kernels_are_trusted(void **state) {
    const uint32_t cpu = bb_cpu_detect();

    (void)state;
    assert_int_equal(bb_conv_trusted(cpu), cpu);
    assert_int_equal(bb_conv_trusted(0), 0);
}

static void new_sets_are_dropped_when_unchecked(void **state) {
    uint32_t avx2;

    (void)state;
    if (!(bb_cpu_detect() & BB_CPU_AVX512))
        skip();
    assert_int_equal(bb_cpu_parse("avx2", &avx2, NULL), BB_STATUS_OK);
    bb_alloc_fail_after(0); /* the check cannot run */
    assert_int_equal(bb_conv_trusted(bb_cpu_detect()), avx2);
    bb_alloc_fail_after(-1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_contain_lower_ones),
        cmocka_unit_test(unknown_level_lists_names),
        cmocka_unit_test(environment_limits_flags),
        cmocka_unit_test(description_fits_its_buffer),
        cmocka_unit_test(chooser_obeys_flags_and_wish),
        /* in this order: what has agreed once is not checked again */
        cmocka_unit_test(new_sets_are_dropped_when_unchecked),
        cmocka_unit_test(working_kernels_are_trusted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
