/* SPDX-License-Identifier: Apache-2.0 */
#include "encode/encode.h"
#include <math.h>

/* Written so that NaN takes the lower end. */
static double clip(double x, double low, double high) {
    return x > low ? (x < high ? x : high) : low;
}

double bb_range_apply(bb_range range, double x) {
    switch (range) {
    case BB_RANGE_HTANH:
        return clip(x, -1, 1);
    case BB_RANGE_HRELU:
        return clip(x, 0, 1);
    case BB_RANGE_TANH:
        return isnan(x) ? -1 : tanh(x);
    case BB_RANGE_SIGMOID:
        return isnan(x) ? 0 : 1 / (1 + exp(-x));
    }
    return 0;
}

double bb_range_slope(bb_range range, double x) {
    double y = bb_range_apply(range, x);
    switch (range) {
    case BB_RANGE_HTANH:
        return x >= -1 && x <= 1;
    case BB_RANGE_HRELU:
        return x >= 0 && x <= 1;
    case BB_RANGE_TANH:
        return 1 - y * y;
    case BB_RANGE_SIGMOID:
        return y * (1 - y);
    }
    return 0;
}
