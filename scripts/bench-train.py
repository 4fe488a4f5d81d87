#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Training steps of bitbranch beside PyTorch: images per second, float and with learned steps.

    scripts/bench-train.py [--build build] [--threads 1] [--rounds 5] [--seconds 3] [--batch 128]

Both train the same networks on made-up data with the same optimiser. They take turns, so that what
else the machine does meets both; the table has the median over the rounds, and ratios of medians.
PyTorch (Debian package python3-torch) runs in both memory formats; the faster one counts.
"""
import argparse
import os
import re
import statistics
import subprocess
import sys
import time

CONFIGURATIONS = [("r8", ""), ("r8", "4x4"), ("small", ""), ("small", "4x4")]


def twin(args):
    """The PyTorch side, in a process of its own: prints images per second."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    activation_bits, weight_bits = map(int, args.bits.split("x")) if args.bits else (0, 0)

    class Odd(torch.autograd.Function):
        """Weights: learned step per output channel, odd levels."""

        @staticmethod
        def forward(ctx, w, step):
            top = 2**weight_bits - 1
            v = w / step
            q = torch.clamp(2 * torch.floor(v / 2) + 1, -top, top)
            ctx.save_for_backward(v, q)
            ctx.factor = (w[0].numel() * top) ** -0.5
            return q * step

        @staticmethod
        def backward(ctx, g):
            v, q = ctx.saved_tensors
            inside = v.abs() <= 2**weight_bits
            slope = torch.where(inside, q - v, q)
            return g * inside, (g * slope).sum((1, 2, 3), keepdim=True) * ctx.factor

    class Unsigned(torch.autograd.Function):
        """Activations after a ReLU: one learned step, codes 0..2^bits-1."""

        @staticmethod
        def forward(ctx, x, step):
            v = x / step
            q = torch.clamp(torch.round(v), 0, 2**activation_bits - 1)
            ctx.save_for_backward(v, q)
            return q * step

        @staticmethod
        def backward(ctx, g):
            v, q = ctx.saved_tensors
            top = 2**activation_bits - 1
            inside = (v >= 0) & (v <= top)
            factor = (v[0].numel() * top) ** -0.5
            return g * inside, (g * torch.where(inside, q - v, q)).sum() * factor

    class Conv(nn.Conv2d):
        def __init__(self, inputs, outputs, kernel, stride=1):
            super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)
            self.step = nn.Parameter(torch.full((outputs, 1, 1, 1), 0.05))

        def forward(self, x):
            w = Odd.apply(self.weight, self.step) if weight_bits else self.weight
            return F.conv2d(x, w, None, self.stride, self.padding)

    class Input(nn.Module):
        """Quantizer of a convolution's input."""

        def __init__(self):
            super().__init__()
            self.step = nn.Parameter(torch.tensor(0.3))

        def forward(self, x):
            return Unsigned.apply(x, self.step) if activation_bits else x

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.input, self.middle = Input(), Input()
            self.conv1, self.norm1 = Conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
            self.conv2, self.norm2 = Conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
            self.shortcut = None
            if inputs != outputs:
                self.shortcut = nn.Sequential(Conv(inputs, outputs, 1, stride),
                                              nn.BatchNorm2d(outputs))

        def forward(self, x):
            q = self.input(x)
            y = F.relu(self.norm1(self.conv1(q)), inplace=True)
            y = self.norm2(self.conv2(self.middle(y)))
            return F.relu_(y + (self.shortcut(q) if self.shortcut else x))

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
            self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
            self.classifier = nn.Linear(64, 10)

        def forward(self, x):
            x = self.blocks(F.relu(self.norm(self.conv(x)), inplace=True))
            return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(1, 32, 3, padding=1, bias=False)
            shapes = [(32, 32), (32, 64), (64, 64), (64, 64)]
            self.convs = nn.ModuleList([Conv(i, o, 3) for i, o in shapes])
            self.inputs = nn.ModuleList([Input() for _ in shapes])
            self.norms = nn.ModuleList([nn.BatchNorm2d(c) for c in (32, 32, 64, 64, 64)])
            self.classifier = nn.Linear(64, 10)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.norms[0](self.first(x)), inplace=True), 2)
            for i, conv in enumerate(self.convs):
                x = F.relu(self.norms[i + 1](conv(self.inputs[i](x))), inplace=True)
                x = F.max_pool2d(x, 2) if i == 1 else x
            return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))

    net = Residual() if args.network == "r8" else Small()
    x = torch.randn(args.batch, 1, 28, 28)
    if args.channels_last:
        net = net.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (args.batch,))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, nesterov=True,
                                weight_decay=1e-4)

    def step():
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()

    for _ in range(3):
        step()
    times, end = [], time.perf_counter() + args.seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    print(f"{args.batch / statistics.median(times):.1f} images/s")


def run(command, threads):
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(re.search(r"([0-9.]+) images/s", out.stdout)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--twin", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--network", help=argparse.SUPPRESS)
    parser.add_argument("--bits", default="", help=argparse.SUPPRESS)
    parser.add_argument("--channels-last", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.twin:
        return twin(args)
    try:
        import torch  # noqa: F401
    except ImportError:
        # Debian's packages belong to Debian's interpreter, which may not be the first one found.
        if sys.executable != "/usr/bin/python3" and os.path.exists("/usr/bin/python3"):
            os.execv("/usr/bin/python3", ["/usr/bin/python3"] + sys.argv)
        sys.exit("bench-train: skipped, python3-torch is not installed")
    results = {}
    for _ in range(args.rounds):
        for network, bits in CONFIGURATIONS:
            options = ["--network", network, "--batch", str(args.batch), "--threads",
                       str(args.threads), "--seconds", str(args.seconds)]
            options += ["--bits", bits] if bits else []
            own = [f"{args.build}/bench/bench_train"] + options
            other = [sys.executable, __file__, "--twin"] + options
            for name, command in (("bitbranch", own), ("torch", other),
                                  ("torch channels last", other + ["--channels-last"])):
                key = (network, bits, name)
                results.setdefault(key, []).append(run(command, args.threads))
    print(f"| network | bits | bitbranch | PyTorch NCHW | PyTorch NHWC | ratio to the faster |")
    print("|---|---|---|---|---|---|")
    for network, bits in CONFIGURATIONS:
        own, nchw, nhwc = (statistics.median(results[network, bits, name])
                           for name in ("bitbranch", "torch", "torch channels last"))
        print(f"| {network} | {bits or 'float'} | {own:.0f} | {nchw:.0f} | {nhwc:.0f} | "
              f"{own / max(nchw, nhwc):.2f} |")
    for network in ("r8", "small"):
        ratios = [q / f for f, q in zip(results[network, "", "bitbranch"],
                                        results[network, "4x4", "bitbranch"])]
        print(f"{network}: quantized step takes {1 / statistics.median(ratios):.3f} of the float one")
    return 0


if __name__ == "__main__":
    sys.exit(main())
