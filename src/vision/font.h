/* SPDX-License-Identifier: Apache-2.0 */
/** @file font.h  A small bitmap font for captions. */
#ifndef BB_VISION_FONT_H
#define BB_VISION_FONT_H

#include <stdint.h>

enum { BB_FONT_FIRST = 32, BB_FONT_LETTERS = 95, BB_FONT_WIDTH = 5, BB_FONT_HEIGHT = 7 };

/** Rows of each letter from BB_FONT_FIRST on; bit BB_FONT_WIDTH-1 is the leftmost column. */
extern const uint8_t bb_font[BB_FONT_LETTERS][BB_FONT_HEIGHT];

#endif
