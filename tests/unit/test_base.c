/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include "base/affinity.h"
#include "base/base.h"
#include "base/pool.h"
#include <dirent.h>
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
    bb_fail(&err, BB_STATUS_IO, "%s", "b\xc3\xa4r \xe9 \xf0\x9f\x98");
    assert_string_equal(err.message, "b\xc3\xa4r ? ???");
    assert_true(bb_utf8_valid(err.message));
    for (size_t i = 0; i + 2 < sizeof(longtext); i += 2)
        memcpy(longtext + i, "\xc3\xa4", 2); /* the message ends in the middle of one */
    bb_fail(&err, BB_STATUS_IO, "%s", longtext);
    assert_true(bb_utf8_valid(err.message));
}

static void test_utf8(void **state) {
    static const char *const good[] = {"", "a", "\xc3\xa4", "\xe3\x83\x8d", "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {"\x80",
                                      "\xc0\x80",
                                      "\xc3",
                                      "\xe0\x80\x80",
                                      "\xed\xa0\x80",
                                      "\xf4\x90\x80\x80",
                                      "\xf8\x88\x80\x80\x80"};
    for (size_t i = 0; i < BB_COUNT(good); i++)
        assert_int_equal(bb_utf8_prefix(good[i]), strlen(good[i]));
    for (size_t i = 0; i < BB_COUNT(bad); i++)
        assert_false(bb_utf8_valid(bad[i]));
    assert_int_equal(bb_utf8_prefix("ab\xc3\xa4\xff"), 4);
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

static int temporaries(const char *folder) {
    int n = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        n += bb_output_is_temporary(e->d_name);
    closedir(dir);
    return n;
}

static void test_names_of_temporaries(void **state) {
    assert_true(bb_output_is_temporary("net.bbm.tmp-12-0"));
    assert_false(bb_output_is_temporary("net.bbm"));
    assert_false(bb_output_is_temporary("net.tmp-12"));
    assert_false(bb_output_is_temporary("net.tmp-12-"));
    assert_false(bb_output_is_temporary("net.tmp-12-0.bbm"));
    assert_false(bb_output_is_temporary("net.tmp-mine-0"));
}

static void test_output_replaces_regular_files_only(void **state) {
    bb_error err;
    assert_int_equal(bb_file_write("/dev/null", "a", 1, &err), BB_STATUS_IO);
    assert_string_equal(err.message, "/dev/null: not a regular file");
    assert_int_equal(bb_file_write("/tmp", "a", 1, &err), BB_STATUS_IO);
}

/* Permissions are those of any new file of this process. */
static void test_output_follows_umask(void **state) {
    char dir[] = "/tmp/bb_base_XXXXXX", path[64];
    struct stat st;
    bb_error err;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/out", dir);
    mode_t old = umask(027);
    assert_int_equal(bb_file_write(path, "a", 1, &err), BB_STATUS_OK);
    umask(old);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    unlink(path);
    rmdir(dir);
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
    assert_int_equal(temporaries(dir), 1); /* what a killed process would leave */
    bb_output_abort(out);
    assert_int_equal(temporaries(dir), 0);
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
    /* 2^64 is no multiple of 3*2^62: without rejection the first third would come half the time. */
    int first = 0;
    for (int i = 0; i < 3000; i++)
        first += bb_rng_below(&rng, UINT64_C(3) << 62) < UINT64_C(1) << 62;
    assert_true(first > 850 && first < 1150);
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

static void sleep_us(long us) {
    nanosleep(&(struct timespec){0, us * 1000}, NULL);
}

/* Short jobs follow one another at once, or after workers went to sleep; as runs or alone. */
static void expect_every_wake_up(bool passive, bool runs) {
    long counts[7] = {0}, sum = 0;
    bb_pool *pool;
    assert_int_equal(bb_pool_create(3, &pool, NULL), BB_STATUS_OK);
    if (passive)
        bb_pool_set_passive(pool);
    for (int job = 0; job < 3000; job++) {
        if (runs && job % 10 == 0)
            bb_pool_wake(pool);
        bb_pool_run(pool, (size_t)(1 + job % 7), count_plain, counts);
        if (runs && job % 10 == 9)
            bb_pool_rest(pool);
        if (job % 60 == 0)
            sleep_us(300);
    }
    bb_pool_destroy(pool);
    for (size_t i = 0; i < BB_COUNT(counts); i++)
        sum += counts[i];
    assert_int_equal(sum, 3000 / 7 * 28 + 1 + 2 + 3 + 4);
}

static void test_pool_loses_no_wake_up(void **state) {
    expect_every_wake_up(false, false);
    expect_every_wake_up(false, true);
    expect_every_wake_up(true, true);
}

typedef struct meeting {
    atomic_int arrived;
    int cpu[2]; /* of each task */
} meeting;

/* Two of these run at the same time if a worker comes within some milliseconds. */
static void meet(void *user, size_t task, size_t worker) {
    meeting *m = user;
    m->cpu[task] = bb_current_cpu();
    atomic_fetch_add(&m->arrived, 1);
    for (int i = 0; i < 20 && atomic_load(&m->arrived) < 2; i++)
        sleep_us(500); /* also makes this a run worth waking somebody for */
}

/* Woken after a pause, where some schedulers put the worker on the caller's processor. */
static void test_pool_uses_two_processors(void **state) {
    enum { ROUNDS = 20 };
    bb_pool *pool;
    int apart = 0;
    if (bb_allowed_cpus() < 2)
        skip();
    assert_int_equal(bb_pool_create(2, &pool, NULL), BB_STATUS_OK);
    for (int i = 0; i < ROUNDS; i++) {
        meeting m = {0};
        sleep_us(5000);
        bb_pool_wake(pool);
        bb_pool_run(pool, 2, meet, &m);
        bb_pool_rest(pool);
        apart += m.cpu[0] != m.cpu[1];
    }
    bb_pool_destroy(pool);
    assert_true(apart > ROUNDS / 2); /* the caller may be moved meanwhile */
}

static void nap(void *user, size_t task, size_t worker) {
    if (worker != 0)
        atomic_fetch_add((atomic_int *)user, 1);
    sleep_us(1000);
}

/* A run is not held up by a worker that takes nothing: the tasks that others finished are all. */
static void test_pool_shares_tasks_among_those_awake(void **state) {
    atomic_int by_others = 0;
    bb_pool *pool;
    assert_int_equal(bb_pool_create(4, &pool, NULL), BB_STATUS_OK);
    bb_pool_wake(pool);
    for (int i = 0; i < 5; i++)
        bb_pool_run(pool, 8, nap, &by_others);
    bb_pool_rest(pool);
    bb_pool_destroy(pool);
    assert_true(by_others > 0 && by_others < 40);
}

static double processor_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void test_idle_pool_uses_no_processor_time(void **state) {
    enum { PAUSES = 10, PAUSE_US = 20000 };
    atomic_int by_others = 0;
    bb_pool *pool;
    assert_int_equal(bb_pool_create(2, &pool, NULL), BB_STATUS_OK);
    const double start = processor_seconds();
    for (int i = 0; i < PAUSES; i++) {
        bb_pool_wake(pool);
        bb_pool_run(pool, 2, nap, &by_others);
        if (i % 2)
            bb_pool_rest(pool); /* without it, workers watch a little longer */
        sleep_us(PAUSE_US);
    }
    const double used = processor_seconds() - start;
    bb_pool_destroy(pool);
    assert_true(used < 0.25 * 1e-6 * PAUSES * PAUSE_US);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_are_checked),
        cmocka_unit_test(test_errors_are_one_printable_line),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_arena_gives_zeroed_aligned_memory),
        cmocka_unit_test(test_allocation_failure_is_injected),
        cmocka_unit_test(test_output_is_atomic),
        cmocka_unit_test(test_names_of_temporaries),
        cmocka_unit_test(test_output_replaces_regular_files_only),
        cmocka_unit_test(test_output_follows_umask),
        cmocka_unit_test(test_random_numbers_are_pinned),
        cmocka_unit_test(test_pool_runs_every_task_once),
        cmocka_unit_test(test_pool_loses_no_wake_up),
        cmocka_unit_test(test_pool_uses_two_processors),
        cmocka_unit_test(test_pool_shares_tasks_among_those_awake),
        cmocka_unit_test(test_idle_pool_uses_no_processor_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
