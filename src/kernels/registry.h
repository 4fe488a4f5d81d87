/* SPDX-License-Identifier: Apache-2.0 */
/** @file registry.h  Prototypes of everything in kernels.inc. */
#ifndef BB_KERNELS_REGISTRY_H
#define BB_KERNELS_REGISTRY_H

#include "kernels/kernels.h"

#define BB_CONV_KERNEL(symbol) extern const bb_conv_kernel symbol;
#include "kernels/kernels.inc"
#undef BB_CONV_KERNEL

#endif
