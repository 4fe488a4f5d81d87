/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "base/base.h"
#include "base/pool.h"
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void test_sizes_are_checked(void **state) {
    size_t r;
    assert_true(bb_size_add(1, 2, &r));
    assert_int_equal(r, 3);
    assert_false(bb_size_add(SIZE_MAX, 1, &r));
    assert_true(bb_size_mul(SIZE_MAX / 2, 2, &r));
    assert_false(bb_size_mul(SIZE_MAX / 2 + 1, 2, &r));
    assert_false(bb_dims_product((const int64_t[]){2, -1}, 2, &r));
    assert_false(bb_dims_product((const int64_t[]){INT64_MAX, 4}, 2, &r));
    assert_true(bb_dims_product((const int64_t[]){3, 4, 5}, 3, &r));
    assert_int_equal(r, 60);
}

static void test_errors_are_one_printable_line(void **state) {
    bb_error err = {0};
    assert_int_equal(bb_fail(&err, BB_STATUS_BAD_FILE, "node '%s'", "a\nb\x1b"),
                     BB_STATUS_BAD_FILE);
    assert_string_equal(err.message, "node 'a?b?'");
    assert_int_equal(bb_error_prefix(&err, BB_STATUS_BAD_FILE, "%s", "file.onnx"),
                     BB_STATUS_BAD_FILE);
    assert_string_equal(err.message, "file.onnx: node 'a?b?'");
    char longtext[2 * BB_ERROR_MESSAGE_SIZE];
    memset(longtext, 'x', sizeof(longtext) - 1);
    longtext[sizeof(longtext) - 1] = '\0';
    bb_error_prefix(&err, BB_STATUS_BAD_FILE, "%s", longtext);
    assert_int_equal(strlen(err.message), BB_ERROR_MESSAGE_SIZE - 1);
    assert_int_equal(bb_fail(NULL, BB_STATUS_IO, "x"), BB_STATUS_IO);
}

static void test_arena_gives_zeroed_aligned_memory(void **state) {
    bb_arena *arena = bb_arena_create();
    for (size_t n = 1; n < 100000; n = n * 3 + 1) {
        unsigned char *p = bb_arena_alloc(arena, n);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xff, n);
    }
    assert_string_equal(bb_arena_printf(arena, "%d-%s", 7, "x"), "7-x");
    assert_null(bb_arena_array(arena, SIZE_MAX / 2, 3));
    bb_arena_destroy(arena);
}

static void test_allocation_failure_is_injected(void **state) {
    bb_alloc_fail_after(1);
    void *first = bb_alloc(8), *second = bb_alloc(8);
    bb_alloc_fail_after(-1);
    assert_non_null(first);
    assert_null(second);
    bb_free(first);
}

static void test_output_is_atomic(void **state) {
    char dir[] = "/tmp/bb_base_XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/out", dir);
    bb_error err;
    assert_int_equal(bb_file_write(path, "old", 3, &err), BB_STATUS_OK);
    bb_output *out;
    assert_int_equal(bb_output_open(path, &out, &err), BB_STATUS_OK);
    assert_int_equal(bb_output_write(out, "newer", 5, &err), BB_STATUS_OK);
    bb_output_abort(out);
    bb_file file;
    assert_int_equal(bb_file_open(path, &file, &err), BB_STATUS_OK);
    assert_int_equal(file.size, 3);
    assert_memory_equal(file.data, "old", 3);
    bb_file_close(&file);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(dir), 0); /* so the temporary file is gone too */
    assert_int_equal(bb_file_open(path, &file, &err), BB_STATUS_IO);
    assert_int_equal(bb_file_write("/nonexistent/x", "a", 1, &err), BB_STATUS_IO);
}

static void test_random_numbers_are_pinned(void **state) {
    bb_rng rng;
    bb_rng_seed(&rng, 0);
    assert_int_equal(bb_rng_next(&rng), 0xe220a8397b1dcdafu); /* splitmix64's published value */
    double sum = 0, square = 0;
    for (int i = 0; i < 10000; i++) {
        double x = bb_rng_normal(&rng);
        sum += x;
        square += x * x;
        assert_true(bb_rng_below(&rng, 7) < 7);
    }
    assert_true(fabs(sum / 10000) < 0.05 && fabs(square / 10000 - 1) < 0.05);
}

static void count_task(void *user, size_t task, size_t worker) {
    atomic_int *hits = user;
    atomic_fetch_add(&hits[task], 1);
}

static void test_pool_runs_every_task_once(void **state) {
    static atomic_int hits[1000];
    for (size_t threads = 1; threads <= 4; threads++) {
        bb_pool *pool;
        bb_error err;
        assert_int_equal(bb_pool_create(threads, &pool, &err), BB_STATUS_OK);
        for (int round = 1; round <= 20; round++) {
            bb_pool_run(pool, BB_COUNT(hits), count_task, hits);
            for (size_t i = 0; i < BB_COUNT(hits); i++)
                assert_int_equal(hits[i], round);
        }
        for (size_t i = 0; i < BB_COUNT(hits); i++)
            hits[i] = 0;
        bb_pool_destroy(pool);
    }
    bb_pool *pool;
    bb_error err;
    assert_int_equal(bb_pool_create(0, &pool, &err), BB_STATUS_INVALID_ARGUMENT);
}

static void count_plain(void *user, size_t task, size_t worker) {
    ((long *)user)[task]++; /* nobody else touches it during this job */
}

/* Short jobs follow one another at once, or after workers went to sleep. */
static void test_pool_loses_no_wake_up(void **state) {
    long counts[7] = {0}, sum = 0;
    bb_pool *pool;
    assert_int_equal(bb_pool_create(3, &pool, NULL), BB_STATUS_OK);
    for (int job = 0; job < 3000; job++) {
        const struct timespec pause = {0, 300000};
        bb_pool_run(pool, (size_t)(1 + job % 7), count_plain, counts);
        if (job % 60 == 0)
            nanosleep(&pause, NULL);
    }
    bb_pool_destroy(pool);
    for (size_t i = 0; i < BB_COUNT(counts); i++)
        sum += counts[i];
    assert_int_equal(sum, 3000 / 7 * 28 + 1 + 2 + 3 + 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_are_checked),
        cmocka_unit_test(test_errors_are_one_printable_line),
        cmocka_unit_test(test_arena_gives_zeroed_aligned_memory),
        cmocka_unit_test(test_allocation_failure_is_injected),
        cmocka_unit_test(test_output_is_atomic),
        cmocka_unit_test(test_random_numbers_are_pinned),
        cmocka_unit_test(test_pool_runs_every_task_once),
        cmocka_unit_test(test_pool_loses_no_wake_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
