/* SPDX-License-Identifier: Apache-2.0 */
/** @file bitbranch.h  What ships on a device: loading and running models (libbitbranch). The tools
 *  library adds import.h, quantize.h, train.h, export.h, vision.h and dataset.h. */
#ifndef BITBRANCH_BITBRANCH_H
#define BITBRANCH_BITBRANCH_H

#include "bitbranch/encode.h"
#include "bitbranch/engine.h"
#include "bitbranch/model.h"
#include "bitbranch/status.h"

#endif
