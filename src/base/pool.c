/* SPDX-License-Identifier: Apache-2.0 */
#include "base/pool.h"
#include "base/affinity.h"
#include <pthread.h>
#include <stdatomic.h>

typedef struct worker {
    bb_pool *pool;
    size_t index;
    pthread_t thread;
} worker;

/*
 * A job is published as `ticket`: its number and how many of its tasks nobody has taken. Taking a
 * task is one compare-and-swap of both, so a thread that was late for a job cannot take a task of
 * another one by mistake, and the caller never waits for a thread that has taken nothing: a
 * sleeping worker that needs a long time to wake costs no more than its absence.
 *
 * Layers of a network follow one another within microseconds, and waking a thread takes longer
 * than many of them. So workers are woken once per run and then watch `ticket` for a bounded time.
 * Whoever goes to sleep says so before it looks a last time, and whoever has news looks for
 * sleepers afterwards; both in sequentially consistent order, so no wake-up is lost.
 */
struct bb_pool {
    size_t threads, started;
    worker *workers; /* entry 0 is the caller and has no thread */
    bool passive;
    int caller_cpu; /* where workers were told not to run; -1 = nowhere yet */
    /* Of the last run, from bb_pool_wake to bb_pool_rest. */
    uint64_t run_began_us, run_ended_us, run_took_us;
    bool let_sleep; /* this run is not worth waking anybody for */
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    _Atomic uint64_t ticket; /* job number << 32 | tasks left to take */
    atomic_ulong bell;       /* counts bb_pool_wake: jobs are about to come */
    atomic_uint watch_us;    /* how long workers watch for a job before they sleep */
    atomic_size_t unfinished;
    atomic_bool sleeping; /* some worker may wait for `wake` */
    atomic_bool caller_sleeps, stop;
    /* The job: written before its ticket, read after one of its tasks was taken, so it cannot
     * change meanwhile. */
    bb_task_fn fn;
    void *user;
    size_t n;
};

enum {
    PAUSES = 32,           /* between two looks at the clock */
    SHORT_RUN_US = 100,    /* waking a worker takes about as long as it would save in such a run */
    FREQUENT_RUN_US = 1000 /* but it pays where the next run follows within this time */
};

static void spin_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static uint64_t now_us(void) {
    return bb_now_ns() / 1000;
}

static bool has_tasks(bb_pool *pool) {
    return (uint32_t)atomic_load(&pool->ticket) != 0;
}

static bool take_task(bb_pool *pool, size_t *task) {
    uint64_t ticket = atomic_load(&pool->ticket);
    while ((uint32_t)ticket != 0)
        if (atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket - 1)) {
            *task = pool->n - (uint32_t)ticket;
            return true;
        }
    return false;
}

static void finish_task(bb_pool *pool) {
    if (atomic_fetch_sub(&pool->unfinished, 1) != 1 || !atomic_load(&pool->caller_sleeps))
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->lock);
}

static void work(bb_pool *pool, size_t index) {
    size_t task;
    while (take_task(pool, &task)) {
        pool->fn(pool->user, task, index);
        finish_task(pool);
    }
}

static bool has_news(bb_pool *pool, unsigned long heard) {
    return has_tasks(pool) || atomic_load(&pool->bell) != heard || atomic_load(&pool->stop);
}

/* True when there was news within the time to watch. */
static bool watch(bb_pool *pool, unsigned long heard) {
    const uint64_t start = now_us();
    while (now_us() - start < atomic_load(&pool->watch_us))
        for (int i = 0; i < PAUSES; i++) {
            if (has_news(pool, heard))
                return true;
            spin_pause();
        }
    return has_news(pool, heard);
}

static void sleep_until_news(bb_pool *pool, unsigned long heard) {
    pthread_mutex_lock(&pool->lock);
    while (!has_news(pool, heard)) {
        atomic_store(&pool->sleeping, true);
        if (has_news(pool, heard))
            break;
        pthread_cond_wait(&pool->wake, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}

static void *thread_main(void *arg) {
    worker *self = arg;
    bb_pool *pool = self->pool;
    while (!atomic_load(&pool->stop)) {
        const unsigned long heard = atomic_load(&pool->bell);
        work(pool, self->index);
        if (!watch(pool, heard))
            sleep_until_news(pool, heard);
    }
    return NULL;
}

/*
 * Some schedulers, above all of virtual machines, put a woken thread on the processor of the
 * thread that woke it even if others are idle, where it waits until the next tick (milliseconds).
 */
static void keep_off_caller(bb_pool *pool) {
    const int cpu = bb_current_cpu();
    if (cpu < 0 || cpu == pool->caller_cpu)
        return;
    for (size_t i = 1; i <= pool->started; i++)
        bb_thread_avoid_cpu(pool->workers[i].thread, cpu);
    pool->caller_cpu = cpu;
}

static void wake_sleepers(bb_pool *pool) {
    if (pool->let_sleep || !atomic_exchange(&pool->sleeping, false))
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

static bool all_finished(bb_pool *pool) {
    return atomic_load(&pool->unfinished) == 0;
}

static void wait_for_workers(bb_pool *pool) {
    const uint64_t start = now_us();
    while (now_us() - start < BB_POOL_WATCH_RUN_US && !pool->passive)
        for (int i = 0; i < PAUSES; i++) {
            if (all_finished(pool))
                return;
            spin_pause();
        }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_sleeps, true);
    while (!all_finished(pool))
        pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->lock);
}

static bb_status start_threads(bb_pool *pool, bb_error *err) {
    for (size_t i = 1; i < pool->threads; i++) {
        pool->workers[i] = (worker){.pool = pool, .index = i};
        if (pthread_create(&pool->workers[i].thread, NULL, thread_main, &pool->workers[i]) != 0)
            return bb_fail(err, BB_STATUS_OUT_OF_MEMORY, "cannot start thread %zu of %zu", i + 1,
                           pool->threads);
        pool->started = i;
    }
    return BB_STATUS_OK;
}

bb_status bb_pool_create(size_t threads, bb_pool **result, bb_error *err) {
    if (threads < 1 || threads > 1024)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "threads must be 1..1024, not %zu",
                       threads);
    bb_pool *pool = bb_calloc_array(1, sizeof(*pool));
    worker *workers = bb_calloc_array(threads, sizeof(*workers));
    if (!pool || !workers) {
        bb_free(pool);
        bb_free(workers);
        return bb_fail_memory(err, "the thread pool");
    }
    pool->threads = threads;
    pool->workers = workers;
    pool->caller_cpu = -1;
    pool->run_took_us = SHORT_RUN_US;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    atomic_store(&pool->watch_us, BB_POOL_WATCH_REST_US);
    /* Watching threads would only keep the working ones from their processor. */
    const size_t cpus = bb_allowed_cpus();
    if (cpus && cpus < threads)
        bb_pool_set_passive(pool);
    bb_status status = start_threads(pool, err);
    if (status != BB_STATUS_OK) {
        bb_pool_destroy(pool);
        return status;
    }
    *result = pool;
    return BB_STATUS_OK;
}

void bb_pool_destroy(bb_pool *pool) {
    if (!pool)
        return;
    atomic_store(&pool->stop, true);
    pool->let_sleep = false;
    wake_sleepers(pool);
    for (size_t i = 1; i <= pool->started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->done);
    bb_free(pool->workers);
    bb_free(pool);
}

size_t bb_pool_threads(const bb_pool *pool) {
    return pool->threads;
}

void bb_pool_set_passive(bb_pool *pool) {
    pool->passive = true;
    atomic_store(&pool->watch_us, 0);
}

void bb_pool_wake(bb_pool *pool) {
    if (pool->threads == 1 || pool->passive)
        return;
    pool->run_began_us = now_us();
    pool->let_sleep = pool->run_took_us < SHORT_RUN_US &&
                      pool->run_began_us - pool->run_ended_us > FREQUENT_RUN_US;
    keep_off_caller(pool);
    atomic_store(&pool->watch_us, BB_POOL_WATCH_RUN_US);
    atomic_fetch_add(&pool->bell, 1);
    wake_sleepers(pool);
}

void bb_pool_rest(bb_pool *pool) {
    if (pool->threads == 1 || pool->passive)
        return;
    atomic_store(&pool->watch_us, BB_POOL_WATCH_REST_US);
    pool->run_ended_us = now_us();
    pool->run_took_us = pool->run_ended_us - pool->run_began_us;
    pool->let_sleep = false;
}

void bb_pool_run(bb_pool *pool, size_t n, bb_task_fn fn, void *user) {
    if (pool->threads == 1 || n <= 1) {
        for (size_t task = 0; task < n; task++)
            fn(user, task, 0);
        return;
    }
    const uint64_t job = (atomic_load(&pool->ticket) >> 32) + 1;
    pool->fn = fn;
    pool->user = user;
    pool->n = n;
    atomic_store(&pool->unfinished, n);
    atomic_store(&pool->ticket, job << 32 | n);
    wake_sleepers(pool);
    work(pool, 0);
    wait_for_workers(pool);
}
