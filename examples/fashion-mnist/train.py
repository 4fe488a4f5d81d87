#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the demo's small Fashion-MNIST network in float and writes fashion.onnx.

Needs the Debian packages python3-torch, python3-numpy and dataset-fashion-mnist; one CPU core takes
about twenty minutes. The result is committed, so building and running the demo needs none of them.

The network stays an ordinary float32 one. Half of the training steps round the weights and
activations of each middle layer to randomly drawn bit widths (quantization noise, Fan et al. 2020,
arXiv 2004.07320), so that its weights tolerate what post-training quantization does to them later.
Test images are used only to report accuracy at the end, never to choose anything.
"""
import argparse
import gzip
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

MEAN, STD = 0.2860, 0.3530  # of the training pixels in 0..1; fashion.json has the same
BITS = (1, 2, 4, 32)
# Step sizes with the least squared error: weights in units of a Gaussian's standard deviation
# (levels -L, -L+2, .. L), activations in units of the RMS of a rectified Gaussian (codes 0 .. L).
WEIGHT_STEP = {1: 0.798, 2: 0.498, 4: 0.167}
ACTIVATION_STEP = {1: 1.72, 2: 0.928, 4: 0.276}


def read_idx(path):
    with gzip.open(path, "rb") as file:
        data = file.read()
    rank = data[3]
    shape = np.frombuffer(data, ">u4", rank, 4).astype(int)
    return torch.from_numpy(np.frombuffer(data, np.uint8, -1, 4 + 4 * rank).reshape(shape).copy())


def load(folder, prefix):
    images = read_idx(f"{folder}/{prefix}-images-idx3-ubyte.gz")[:, None].float()
    labels = read_idx(f"{folder}/{prefix}-labels-idx1-ubyte.gz").long()
    return (images / 255 - MEAN) / STD, labels


def round_weight(w, bits):
    """Nearest odd level times a step per output channel; the gradient passes unchanged."""
    if bits == 32:
        return w
    top = 2**bits - 1
    step = WEIGHT_STEP[bits] * w.detach().std(dim=(1, 2, 3), keepdim=True)
    code = torch.clamp(torch.floor((w.detach() / step + top) / 2 + 0.5), 0, top)
    return w + ((2 * code - top) * step - w).detach()


def round_activation(x, bits):
    """Nearest code 0..L times a step per tensor; no gradient where the code saturates."""
    if bits == 32:
        return x
    top = 2**bits - 1
    step = ACTIVATION_STEP[bits] * x.detach().square().mean().sqrt()
    x = torch.minimum(x, step * top)
    return x + (torch.floor(x / step + 0.5) * step - x).detach()


class Block(nn.Module):
    """Convolution, batch normalization, ReLU, optional 2x2 max pooling."""

    def __init__(self, inputs, outputs, pool, low_bit_weights):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.pool = pool
        self.low_bit_weights = low_bit_weights
        self.weight_bits = self.output_bits = 32

    def forward(self, x):
        if self.weight_bits == 32:
            x = self.conv(x)
        else:
            x = F.conv2d(x, round_weight(self.conv.weight, self.weight_bits), padding=1)
        x = round_activation(F.relu(self.norm(x)), self.output_bits)
        return F.max_pool2d(x, 2) if self.pool else x


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(
            Block(1, 32, True, False),  # 28x28 -> 14x14; first layer: eight bits
            Block(32, 32, False, True),
            Block(32, 64, True, True),  # -> 7x7
            Block(64, 64, False, True),
            Block(64, 64, False, True),
        )
        self.classifier = nn.Linear(64, 10)  # last layer: eight bits

    def forward(self, x):
        return self.classifier(F.adaptive_avg_pool2d(self.blocks(x), 1).flatten(1))

    def set_bits(self, weight_bits, activation_bits):
        """The last block's output feeds the eight-bit classifier and stays as it is."""
        for i, block in enumerate(self.blocks):
            block.weight_bits = weight_bits() if block.low_bit_weights else 32
            block.output_bits = activation_bits() if i + 1 < len(self.blocks) else 32


def augment(x):
    """Random mirror and shift by up to one pixel; the border is the background colour."""
    n = x.shape[0]
    padded = F.pad(x, (1, 1, 1, 1), value=float(x.min()))
    shifted = torch.empty_like(x)
    for i, (dy, dx, mirror) in enumerate(zip(*torch.randint(0, 3, (2, n)), torch.rand(n) < 0.5)):
        tile = padded[i, :, dy : dy + 28, dx : dx + 28]
        shifted[i] = tile.flip(2) if mirror else tile
    return shifted


def accuracy(net, images, labels):
    net.eval()
    with torch.no_grad():
        right = sum(
            int((net(x).argmax(1) == y).sum())
            for x, y in zip(images.split(500), labels.split(500))
        )
    return 100 * right / len(labels)


def fit_norms(net, images):
    """Batch normalization statistics of the network as it is now, over training images."""
    for block in net.blocks:
        block.norm.reset_running_stats()
        block.norm.momentum = None  # plain average
    net.train()
    with torch.no_grad():
        for x in images.split(500):
            net(x)


def train(net, images, labels, epochs, batch, rate):
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.15)
    draw = np.random.default_rng(1)
    started = time.time()
    for epoch in range(epochs):
        net.train()
        order, total = torch.randperm(len(images)), 0.0
        for i in range(len(images) // batch):
            chosen = order[i * batch : (i + 1) * batch]
            noisy = draw.random() < 0.5
            choose = (lambda: int(draw.choice(BITS))) if noisy else (lambda: 32)
            net.set_bits(choose, choose)
            loss = F.cross_entropy(net(augment(images[chosen])), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs} loss {total / (i + 1):.4f} {time.time() - started:.0f} s",
              flush=True)


def report(net, train_images, test_images, test_labels):
    """Accuracy when simply rounded, with the norms fitted again: a preview, not the quantizer."""
    for weight_bits, activation_bits in ((1, 1), (1, 2), (2, 2), (4, 4), (32, 32)):
        net.set_bits(lambda: weight_bits, lambda: activation_bits)
        fit_norms(net, train_images)
        print(f"w{weight_bits}a{activation_bits}: {accuracy(net, test_images, test_labels):.2f} %",
              flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--out", default="fashion.onnx")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    images, labels = load(args.data, "train")
    test_images, test_labels = load(args.data, "t10k")
    net = Network()
    train(net, images, labels, args.epochs, batch=128, rate=0.1)
    report(net, images[:10000], test_images, test_labels)  # ends with the float network
    net.eval()
    torch.onnx.export(net, torch.zeros(1, 1, 28, 28), args.out, input_names=["image"],
                      output_names=["scores"], opset_version=13)


if __name__ == "__main__":
    main()
