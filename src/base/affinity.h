/* SPDX-License-Identifier: Apache-2.0 */
/** @file affinity.h  Which processor a thread runs on; does nothing where the system cannot say. */
#ifndef BB_AFFINITY_H
#define BB_AFFINITY_H

#include <pthread.h>
#include <stddef.h>

/** The processor the calling thread runs on, -1 where unknown. */
int bb_current_cpu(void);
/** Processors the calling thread may run on, 0 where unknown. */
size_t bb_allowed_cpus(void);
/** Lets `thread` run wherever the calling thread may, but not on `cpu`. Nothing changes where that
 *  leaves no processor. */
void bb_thread_avoid_cpu(pthread_t thread, int cpu);

#endif
