/* SPDX-License-Identifier: Apache-2.0 */
/* Quantizer (eq. 15) and encoder functions (eqs. 11-13). */
#include "encode/encode.h"
#include <math.h>

static const double pi = 3.14159265358979323846;

/* (t + L)/2 + 1/2 = t/2 + 2^(bits-1): written so, no addition rounds away what lies just below a
 * threshold. */
uint32_t bb_code_from_scaled(double t, uint32_t bits) {
    double last = bb_last_code(bits);
    double clipped = t > -last ? (t < last ? t : last) : -last;
    return (uint32_t)((int32_t)floor(clipped / 2) + (1 << (bits - 1)));
}

uint32_t bb_code_from_value(double x, uint32_t bits) {
    return bb_code_from_scaled(bb_last_code(bits) * bb_range_apply(BB_RANGE_HTANH, x), bits);
}

double bb_quantize_real(double x, uint32_t bits) {
    return (double)bb_level_from_code(bb_code_from_value(x, bits), bits) / bb_last_code(bits);
}

uint32_t bb_code_from_unsigned(double x, uint32_t bits) {
    return (uint32_t)floor(bb_last_code(bits) * bb_range_apply(BB_RANGE_HRELU, x) + 0.5);
}

/* Half periods of the wave of plane m that lie left of x. Exact where L*x is: only a division by a
 * power of two follows. */
static double half_periods(double x, uint32_t bits, uint32_t m) {
    return ldexp(bb_last_code(bits) * x, -(int)m);
}

double bb_encoder_wave(double x, uint32_t bits, uint32_t m) {
    double wave = sin(pi * half_periods(x, bits, m));
    return m == bits ? wave : -wave;
}

int32_t bb_encoder_sign(double x, uint32_t bits, uint32_t m) {
    double clipped = bb_range_apply(BB_RANGE_HTANH, x), r = half_periods(clipped, bits, m);
    if (r != floor(r))
        return bb_encoder_wave(clipped, bits, m) >= 0 ? 1 : -1;
    /* At a zero the wave takes the sign it has just right of it, which its slope tells. */
    return bb_encoder_slope(clipped, bits, m) > 0 ? 1 : -1;
}

double bb_encoder_slope(double x, uint32_t bits, uint32_t m) {
    if (!(x >= -1 && x <= 1))
        return 0;
    double slope = ldexp(bb_last_code(bits), -(int)m) * pi * cos(pi * half_periods(x, bits, m));
    return m == bits ? slope : -slope;
}
