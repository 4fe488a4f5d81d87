/* SPDX-License-Identifier: Apache-2.0 */
#include "base/pool.h"
#include <pthread.h>
#include <stdatomic.h>

typedef struct worker {
    bb_pool *pool;
    size_t index;
    pthread_t thread;
} worker;

struct bb_pool {
    size_t threads, started;
    worker *workers; /* entry 0 is the caller and has no thread */
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    unsigned long generation; /* of the current job; guarded by lock, as are the next four */
    size_t running;           /* started threads still inside the job */
    bool stop;
    bb_task_fn fn;
    void *user;
    size_t n;
    atomic_size_t next; /* first task nobody has taken */
};

static void work(bb_pool *pool, size_t index) {
    size_t task;
    while ((task = atomic_fetch_add(&pool->next, 1)) < pool->n)
        pool->fn(pool->user, task, index);
}

static void *thread_main(void *arg) {
    worker *self = arg;
    bb_pool *pool = self->pool;
    unsigned long seen = 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->stop && pool->generation == seen)
            pthread_cond_wait(&pool->wake, &pool->lock);
        if (pool->stop)
            break;
        seen = pool->generation;
        pthread_mutex_unlock(&pool->lock);
        work(pool, self->index);
        pthread_mutex_lock(&pool->lock);
        if (--pool->running == 0)
            pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
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
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
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
    pthread_mutex_lock(&pool->lock);
    pool->fn = fn;
    pool->user = user;
    pool->n = n;
    atomic_store(&pool->next, 0);
    pool->running = pool->threads - 1;
    pool->generation++;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    work(pool, 0);
    pthread_mutex_lock(&pool->lock);
    while (pool->running > 0)
        pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}
