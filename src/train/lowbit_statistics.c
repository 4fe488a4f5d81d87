/* SPDX-License-Identifier: Apache-2.0 */
/* Running statistics of BatchNormalization, estimated anew. */
#include "train/lowbit.h"

bb_status bb_lowbit_reestimate(bb_gradient *program, bb_batch_fn batch, void *user, size_t n,
                               bb_array *inputs, bb_error *err) {
    bb_status status = BB_STATUS_OK;
    for (size_t i = 0; i < n && status == BB_STATUS_OK; i++) {
        /* i/(i+1) of what i batches gave and 1/(i+1) of this one: the plain mean. */
        bb_gradient_set_momentum(program, (float)i / (float)(i + 1));
        status = batch(user, i, inputs) == 0
                     ? bb_gradient_forward(program, inputs, err)
                     : bb_fail(err, BB_STATUS_CANCELLED, "batch %zu was not given", i);
    }
    bb_gradient_set_momentum(program, -1.0f);
    return status;
}
