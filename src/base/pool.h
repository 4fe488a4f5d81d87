/* SPDX-License-Identifier: Apache-2.0 */
/** @file pool.h  Thread pool: static partition, no allocation while running. */
#ifndef BB_POOL_H
#define BB_POOL_H

#include "base/base.h"

typedef struct bb_pool bb_pool;

/** Work of one task. `worker` in 0..threads-1 names the calling thread's private scratch. */
typedef void (*bb_task_fn)(void *user, size_t task, size_t worker);

/** threads >= 1; the caller of bb_pool_run is worker 0, so threads-1 threads are started. */
bb_status bb_pool_create(size_t threads, bb_pool **pool, bb_error *err);
void bb_pool_destroy(bb_pool *pool);
size_t bb_pool_threads(const bb_pool *pool);
/**
 * Runs fn for task 0..n-1 and returns when all are done. Tasks are handed out in increasing
 * order; results must not depend on which worker runs a task. One caller at a time.
 */
void bb_pool_run(bb_pool *pool, size_t n, bb_task_fn fn, void *user);

#endif
