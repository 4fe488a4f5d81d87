/* SPDX-License-Identifier: Apache-2.0 */
/* The functions of bitbranch/encode.h. */
#include "base/base.h"
#include "encode/encode.h"

static bb_status check_bits(uint32_t bits, bb_error *err) {
    if (bits < 1 || bits > BB_MAX_BITS)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "bits must be 1..8, not %u", bits);
    return BB_STATUS_OK;
}

bb_status bb_encode_code(uint32_t code, uint32_t bits, bb_encoding *encoding, bb_error *err) {
    BB_TRY(check_bits(bits, err));
    if (code > (uint32_t)bb_last_code(bits))
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "code %u does not exist with %u bits", code,
                       bits);
    int32_t level = bb_level_from_code(code, bits);
    *encoding = (bb_encoding){bits, code, level, (double)level / bb_last_code(bits), {0}};
    for (uint32_t p = 0; p < bits && p < BB_MAX_BITS; p++)
        encoding->planes[p] = (int8_t)bb_encoder_plane(code, bits - p);
    return BB_STATUS_OK;
}

bb_status bb_encode_number(double x, uint32_t bits, bb_encoding *encoding, bb_error *err) {
    BB_TRY(check_bits(bits, err));
    return bb_encode_code(bb_code_from_value(x, bits), bits, encoding, err);
}

bb_status bb_encode_branch(uint32_t activation_bits, uint32_t m, uint32_t weight_bits, uint32_t k,
                           bb_branch *branch, bb_error *err) {
    BB_TRY(check_bits(activation_bits, err));
    BB_TRY(check_bits(weight_bits, err));
    if (m < 1 || m > activation_bits || k < 1 || k > weight_bits)
        return bb_fail(err, BB_STATUS_INVALID_ARGUMENT, "there is no branch %u,%u of w%ua%u", m, k,
                       weight_bits, activation_bits);
    uint32_t weight = UINT32_C(1) << (m - 1 + k - 1);
    *branch = (bb_branch){weight, weight * bb_product_scale(activation_bits, weight_bits)};
    return BB_STATUS_OK;
}
