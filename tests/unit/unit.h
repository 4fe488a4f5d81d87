/* SPDX-License-Identifier: Apache-2.0 */
/** @file unit.h  cmocka with what it needs before it, in the order it needs. */
#ifndef BB_UNIT_H
#define BB_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
