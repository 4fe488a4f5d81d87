/* SPDX-License-Identifier: Apache-2.0 */
#include "train/schedule.h"
#include <math.h>

static const double pi = 3.14159265358979323846;

static double step_down(const bb_schedule *s, double share) {
    double rate = s->rate;
    for (size_t i = 0; i < s->n_at && share >= s->at[i]; i++)
        rate *= s->factor;
    return rate;
}

double bb_schedule_rate(const bb_schedule *s, uint64_t step, uint64_t steps) {
    double warm = s->warmup * (double)steps;
    if ((double)step + 1 < warm) /* the first step moves as well */
        return s->rate * ((double)step + 1) / warm;
    double left = (double)steps - warm;
    double share = left > 0 ? ((double)step - warm) / left : 0; /* of what comes after warm-up */
    share = share < 0 ? 0 : share;
    switch (s->kind) {
    case BB_SCHEDULE_COSINE:
        return s->end_rate + (s->rate - s->end_rate) * 0.5 * (1 + cos(pi * share));
    case BB_SCHEDULE_LINEAR:
        return s->rate + (s->end_rate - s->rate) * share;
    case BB_SCHEDULE_STEP:
        return step_down(s, (double)step / (double)steps);
    case BB_SCHEDULE_CONSTANT:
        break;
    }
    return s->rate;
}
