/* SPDX-License-Identifier: Apache-2.0 */
/** @file network.h  Networks to train from nothing. */
#ifndef BB_TRAIN_NETWORK_H
#define BB_TRAIN_NETWORK_H

#include "graph/graph.h"

typedef enum bb_network_kind {
    BB_NETWORK_RESNET20,  /**< CIFAR body of He et al. 2016: three stages of basic blocks */
    BB_NETWORK_RESNET18,  /**< four stages of two basic blocks; the ImageNet stem from 64 pixels up
                           */
    BB_NETWORK_VGG_SMALL, /**< of the binary-network papers: three pairs of convolutions */
    BB_NETWORK_FASHION_SMALL, /**< five convolutions for 28x28 grey images */
    BB_NETWORK_BIREAL20       /**< as resnet20, a shortcut around every convolution (Liu 2018) */
} bb_network_kind;

typedef enum bb_network_activation {
    BB_NETWORK_RELU,
    BB_NETWORK_HTANH, /**< clip to -1..1, the paper's */
    BB_NETWORK_HRELU  /**< clip to 0..1, the paper's */
} bb_network_activation;

enum { BB_NETWORK_MAX_WIDTHS = 4, BB_NETWORK_MAX_HIDDEN = 4 };

typedef struct bb_network_options {
    bb_network_kind kind;
    int channels, height, width; /**< of the input */
    int classes;
    int widths[BB_NETWORK_MAX_WIDTHS]; /**< output channels of each stage; 0 = the usual ones */
    int blocks;                        /**< per stage, resnet20 and bireal20; 0 = 3 */
    int hidden[BB_NETWORK_MAX_HIDDEN]; /**< vgg-small: fully connected layers before the last */
    int n_hidden;
    bb_network_activation activation;
    uint64_t seed;
} bb_network_options;

/** Number of widths a kind has. */
int bb_network_widths(bb_network_kind kind);

/**
 * Convolution, BatchNormalization, activation; input "image" [N,C,H,W] with any N, output "scores"
 * [N,classes]. Weights are normal with variance 2/fan-in (He et al. 2015), biases 0,
 * BatchNormalization starts as the identity. Release with bb_graph_destroy.
 */
bb_status bb_network_build(const bb_network_options *options, bb_graph **graph, bb_error *err);

#endif
