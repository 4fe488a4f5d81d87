/* SPDX-License-Identifier: Apache-2.0 */
#include "base/pool.h"
#include <pthread.h>
#include <stdatomic.h>

typedef struct worker {
    bb_pool *pool;
    size_t index;
    pthread_t thread;
} worker;

/*
 * A job is published by `generation`, its end by `running`. Both sides first watch the other's
 * counter for a short while, because layers of a network follow one another within microseconds
 * and waking a sleeping thread takes longer than many of them. Whoever goes to sleep says so
 * before it looks at the counter a last time, and whoever changes the counter looks for sleepers
 * afterwards; both in sequentially consistent order, so no wake-up is lost.
 */
struct bb_pool {
    size_t threads, started;
    worker *workers; /* entry 0 is the caller and has no thread */
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    atomic_ulong generation; /* of the current job */
    atomic_size_t running;   /* started threads still inside the job */
    atomic_size_t sleepers;  /* started threads that wait for `wake` */
    atomic_bool caller_sleeps;
    atomic_bool stop;
    /* The job: written before generation grows, read after that was seen. */
    bb_task_fn fn;
    void *user;
    size_t n;
    atomic_size_t next; /* first task nobody has taken */
};

enum { SPINS = 2000 }; /* some ten microseconds */

static void spin_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work(bb_pool *pool, size_t index) {
    size_t task;
    while ((task = atomic_fetch_add(&pool->next, 1)) < pool->n)
        pool->fn(pool->user, task, index);
}

static bool has_news(bb_pool *pool, unsigned long seen) {
    return atomic_load(&pool->generation) != seen || atomic_load(&pool->stop);
}

static void wait_for_job(bb_pool *pool, unsigned long seen) {
    for (int i = 0; i < SPINS; i++) {
        if (has_news(pool, seen))
            return;
        spin_pause();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!has_news(pool, seen))
        pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void wake_workers(bb_pool *pool) {
    if (atomic_load(&pool->sleepers) == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

static void wait_for_workers(bb_pool *pool) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(&pool->running) == 0)
            return;
        spin_pause();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&pool->running) > 0)
        pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->lock);
}

static void finish_job(bb_pool *pool) {
    if (atomic_fetch_sub(&pool->running, 1) != 1 || !atomic_load(&pool->caller_sleeps))
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->lock);
}

static void *thread_main(void *arg) {
    worker *self = arg;
    bb_pool *pool = self->pool;
    for (unsigned long seen = 0;; seen++) {
        wait_for_job(pool, seen);
        if (atomic_load(&pool->stop))
            return NULL;
        work(pool, self->index);
        finish_job(pool);
    }
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
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
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
    wake_workers(pool);
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

void bb_pool_run(bb_pool *pool, size_t n, bb_task_fn fn, void *user) {
    if (pool->threads == 1 || n <= 1) {
        for (size_t task = 0; task < n; task++)
            fn(user, task, 0);
        return;
    }
    pool->fn = fn;
    pool->user = user;
    pool->n = n;
    atomic_store(&pool->next, 0);
    atomic_store(&pool->running, pool->threads - 1);
    atomic_fetch_add(&pool->generation, 1);
    wake_workers(pool);
    work(pool, 0);
    wait_for_workers(pool);
}
