/* SPDX-License-Identifier: Apache-2.0 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* processor sets */
#endif
#include "base/affinity.h"

#if defined(__linux__) && defined(__GLIBC__)
#include <sched.h>

int bb_current_cpu(void) {
    return sched_getcpu();
}

size_t bb_allowed_cpus(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof(set), &set) == 0 ? (size_t)CPU_COUNT(&set) : 0;
}

void bb_thread_avoid_cpu(pthread_t thread, int cpu) {
    cpu_set_t set;
    if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof(set), &set) != 0)
        return;
    CPU_CLR((size_t)cpu, &set);
    if (CPU_COUNT(&set) > 0)
        pthread_setaffinity_np(thread, sizeof(set), &set);
}
#else
int bb_current_cpu(void) {
    return -1;
}

size_t bb_allowed_cpus(void) {
    return 0;
}

void bb_thread_avoid_cpu(pthread_t thread, int cpu) {
    (void)thread;
    (void)cpu;
}
#endif
