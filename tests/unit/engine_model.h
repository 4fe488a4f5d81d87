/* SPDX-License-Identifier: Apache-2.0 */
/** @file engine_model.h  Parts of the models that tests of the engine build by hand. */
#ifndef BB_ENGINE_MODEL_H
#define BB_ENGINE_MODEL_H

#include "model/model.h"
#include "unit.h"

enum { HEIGHT = 6, WIDTH = 5, COLOURS = 3, FILTERS = 20, CLASSES = 4, IMAGE_BITS = 5 };

/* Random two-bit weights. */
static inline const bb_planes *planes(bb_model *m, uint32_t rows, uint32_t taps, uint32_t depth) {
    bb_rng rng;
    uint8_t codes[FILTERS * HEIGHT * WIDTH * CLASSES];
    const size_t n = (size_t)rows * taps * depth;
    assert_true(n <= sizeof(codes));
    bb_rng_seed(&rng, rows);
    for (size_t i = 0; i < n; i++)
        codes[i] = (uint8_t)bb_rng_below(&rng, 4);
    const bb_planes *p = bb_planes_from_codes(m->arena, codes, rows, taps, depth, 2);
    assert_non_null(p);
    return p;
}

static inline void set_linear(bb_model *m, bb_requant *r) {
    int32_t *mult = bb_arena_array(m->arena, 1, sizeof(*mult));
    int64_t *add = bb_arena_array(m->arena, 1, sizeof(*add));
    uint8_t *shift = bb_arena_array(m->arena, 1, 1);
    *mult = 3;
    *add = 1 << 7;
    *shift = 8;
    *r = (bb_requant){
        .kind = BB_REQUANT_LINEAR, .channels = 1, .mult = mult, .add = add, .shift = shift};
}

#endif
