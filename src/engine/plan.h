/* SPDX-License-Identifier: Apache-2.0 */
/** @file plan.h  Making the plan, for bb_engine_create. */
#ifndef BB_ENGINE_PLAN_H
#define BB_ENGINE_PLAN_H

#include "engine/internal.h"

/** Tensors and their places in the activation buffer; shapes are bound already. */
bb_status bb_plan_tensors(bb_engine *engine, size_t profile, bb_error *err);
bb_status bb_plan_nodes(bb_engine *engine, bb_error *err);

#endif
