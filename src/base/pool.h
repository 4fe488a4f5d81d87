/* SPDX-License-Identifier: Apache-2.0 */
/** @file pool.h  Thread pool: jobs of numbered tasks, no allocation while running. */
#ifndef BB_POOL_H
#define BB_POOL_H

#include "base/base.h"

typedef struct bb_pool bb_pool;

/**
 * How long a worker without a task watches for the next job before it sleeps, in microseconds:
 * between the jobs of one run (from bb_pool_wake on), and after bb_pool_rest. This is all the
 * processor time an idle pool uses.
 */
enum { BB_POOL_WATCH_RUN_US = 500, BB_POOL_WATCH_REST_US = 50 };

/** Work of one task. `worker` in 0..threads-1 names the calling thread's private scratch. */
typedef void (*bb_task_fn)(void *user, size_t task, size_t worker);

/** threads >= 1; the caller of bb_pool_run is worker 0, so threads-1 threads are started. */
bb_status bb_pool_create(size_t threads, bb_pool **pool, bb_error *err);
void bb_pool_destroy(bb_pool *pool);
size_t bb_pool_threads(const bb_pool *pool);
/** Workers sleep whenever they have no task, and run on whichever processor they are put. */
void bb_pool_set_passive(bb_pool *pool);
/** A run of jobs follows: wakes sleeping workers without waiting for them, unless the last run was
 *  too short to be worth it. Optional; ended by bb_pool_rest. */
void bb_pool_wake(bb_pool *pool);
/** No job follows for now. */
void bb_pool_rest(bb_pool *pool);
/**
 * Runs fn for task 0..n-1 and returns when all are done; n < 2^32. Tasks are handed out in
 * increasing order to whoever asks, the caller included, and a worker that is still asleep delays
 * nobody. Results must not depend on which worker runs a task. One caller at a time.
 */
void bb_pool_run(bb_pool *pool, size_t n, bb_task_fn fn, void *user);

#endif
