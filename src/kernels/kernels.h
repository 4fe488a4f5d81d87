/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file kernels.h
 * Convolution kernels and the one registry of them (kernels.inc).
 *
 * A kernel computes whole output rows of one convolution and hands finished int32 tiles to an
 * epilogue, so that accumulators never travel through memory. In kernel terms
 *     acc[c] = sum over ALL taps, padded ones included, of  u * (b[c] + o[c])
 * where a padded tap reads the code pad_code. The engine derives P from it:
 *     P[c] = 2*acc[c] + border[class][c]
 * with one border vector per distinct set of valid taps (see engine/border.c).
 * acc is exact in int32: the model bounds L_M * sum |b + o| below 2^31. All weights b + o of one
 * output channel have the same parity, because b is a sum of fixed integers times {-1,+1}.
 *
 * Every kernel gives the same acc for the same input; the reference is the definition.
 */
#ifndef BB_KERNELS_H
#define BB_KERNELS_H

#include "base/base.h"
#include "cpu/cpu.h"

/** One convolution, bound to its shape. Depthwise: groups == in_channels == out_channels. */
typedef struct bb_conv_desc {
    int32_t in_height, in_width, in_channels;
    int32_t out_height, out_width, out_channels;
    int32_t kernel[2], stride[2], dilation[2], pad_begin[2];
    int32_t groups;
    uint32_t activation_bits; /**< M, 1..8 */
    uint32_t weight_bits;     /**< K planes, 1..8 */
    uint32_t pad_code;        /**< code of a padded tap */
    bool native;              /**< plane weights are powers of two and o is 0 everywhere */
    int32_t max_weight;       /**< max |b + o| over all weights (int32 semantics for any grid) */
} bb_conv_desc;

/**
 * Receives a finished tile: n_pixels consecutive output pixels from row y, column x on, row after
 * row, channels c0..c0+n_channels-1; acc[p*stride + c]. Tiles may arrive in any order, each element
 * once.
 */
typedef void (*bb_tile_fn)(void *user, int32_t y, int32_t x, int32_t n_pixels, int32_t c0,
                           int32_t n_channels, const int32_t *acc, size_t stride);

typedef struct bb_conv_kernel {
    const char *name; /**< e.g. "conv_lut_avx2" */
    uint32_t cpu;     /**< BB_CPU_* flags it needs */
    bool (*supports)(const bb_conv_desc *desc);
    /** Estimated cycles for the layer, for the chooser; lower wins. */
    double (*cost)(const bb_conv_desc *desc);
    size_t (*packed_size)(const bb_conv_desc *desc);
    /** weights: b + o as int16 [out_channels][kh*kw][in_channels/groups]. dst: 64-byte aligned. */
    void (*pack)(const bb_conv_desc *desc, const int16_t *weights, void *dst);
    size_t (*scratch_size)(const bb_conv_desc *desc); /**< per worker, 64-byte aligned */
    /**
     * Computes output rows y0..y1-1 of one image. in: codes [in_height][in_width][in_channels],
     * one byte each, readable from in-64 to the end + 64 bytes (contents there do not matter).
     */
    void (*run)(const bb_conv_desc *desc, const void *packed, const uint8_t *in, int32_t y0,
                int32_t y1, void *scratch, bb_tile_fn tile, void *user);
} bb_conv_kernel;

/** All kernels compiled in, best guesses first within an instruction set; reference last. */
const bb_conv_kernel *const *bb_conv_kernels(size_t *n);
/**
 * The cheapest kernel that supports desc on a CPU with these flags. BITBRANCH_KERNEL=name (read by
 * the engine and passed as `wanted`, may be NULL) is honoured where that kernel supports desc.
 * Never NULL: the reference supports everything.
 */
const bb_conv_kernel *bb_conv_choose(const bb_conv_desc *desc, uint32_t cpu, const char *wanted);
/**
 * cpu, or cpu without AVX-512 and AVX-VNNI if one of their kernels differs from the reference here:
 * few test machines have these sets, so the first engine of a process that may use them checks them
 * (some milliseconds). What agreed or differed is remembered; a check that found no memory drops
 * the sets too, but is tried again. Any thread.
 */
uint32_t bb_conv_trusted(uint32_t cpu);
/** Multiply-accumulates of the layer, padded taps included. */
double bb_conv_macs(const bb_conv_desc *desc);

#endif
