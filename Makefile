# SPDX-License-Identifier: Apache-2.0
# Thin front end: Meson does the building. `make help` lists the targets.
BUILD ?= build
MESON_FLAGS ?=

.PHONY: all help deps demo check check-all check-peers check-sanitize check-arm check-format \
	bench bench-gemm bench-networks bench-train bench-report train-cifar results-best install clean format
all: $(BUILD)/build.ninja ## build the libraries and the command
	ninja -C $(BUILD)

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

deps: ## install what is missing (Debian packages)
	@scripts/deps.sh

$(BUILD)/build.ninja: | deps
	meson setup $(BUILD) $(if $(PREFIX),--prefix $(PREFIX)) $(MESON_FLAGS)

demo: all ## quantize, evaluate and time the example network at five bit widths
	scripts/demo.sh $(BUILD)

check: all ## build and run all tests
	scripts/check.sh $(BUILD)

check-all: all ## the whole sweeps instead of their seeded samples (long)
	$(BUILD)/tests/kernel/kcheck --shapes 400
	$(BUILD)/tests/conformance/conformance --all
	$(BUILD)/tests/conformance/engine_conformance --all
	$(BUILD)/tests/conformance/lowbit_conformance --all

check-peers: all ## compare with ONNX Runtime (needs PyPI)
	scripts/check-peers.sh $(BUILD)

check-arm: ## the NEON kernels, 64-bit and 32-bit, under qemu-user (needs cross compilers)
	scripts/check-arm.sh

# ISA=avx2 limits both sides to AVX2 and writes to files of their own.
ISA ?=
TAG = $(if $(ISA),-$(ISA))
LIMIT_avx2 = BITBRANCH_CPU=avx2 DNNL_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Haswell
BENCH = env -u OPENBLAS_CORETYPE OMP_NUM_THREADS=1 $(LIMIT_$(ISA)) $(BUILD)/bench

bench: all ## every (M,K) on real layer shapes against oneDNN and OpenBLAS (build/bench.json)
	$(BENCH)/bench_layers --json $(BUILD)/bench$(TAG).json

bench-gemm: all ## square products against naive float, OpenBLAS, oneDNN (build/bench-gemm.json)
	$(BENCH)/bench_gemm --json $(BUILD)/bench-gemm$(TAG).json

bench-networks: all ## whole networks against ONNX Runtime (build/bench-networks.json; needs PyPI)
	scripts/with-peers.sh $(BUILD) scripts/bench-networks.py --build $(BUILD) \
		$(if $(ISA),--isa $(ISA))

bench-train: all ## training steps beside PyTorch (python3-torch)
	scripts/bench-train.py --build $(BUILD)

bench-report: ## tables and plots of docs/benchmarks.md from the measured files
	scripts/bench-report.py --build $(BUILD)

train-cifar: all ## the CIFAR-10 training table, in the background, resumable (CIFAR10_TRAIN, CIFAR10_TEST, MINUTES)
	$(if $(and $(CIFAR10_TRAIN),$(CIFAR10_TEST)),,$(error CIFAR10_TRAIN=FOLDER and CIFAR10_TEST=FOLDER are needed))
	@mkdir -p build/train
	nohup scripts/train-cifar.sh $(BUILD) $(MINUTES) >>build/train/cifar.log 2>&1 & \
		echo "training in the background: build/train/cifar.log"

THREADS ?= 1
results-best: all ## the --effort best rows of docs/results.md, in the background, resumable (DATA, THREADS)
	$(if $(DATA),,$(error DATA=FOLDER is needed))
	@mkdir -p build/results
	nohup nice -n 19 scripts/results.py --data $(DATA) --effort-best --threads $(THREADS) \
		--bitbranch $(BUILD)/tools/bitbranch >>build/results/best.log 2>&1 & \
		echo "quantizing in the background: build/results/best.log"

check-sanitize: | deps ## the tests under AddressSanitizer and UBSan, in $(BUILD)-asan
	[ -e $(BUILD)-asan/build.ninja ] || meson setup $(BUILD)-asan --buildtype debugoptimized \
		-Db_sanitize=address,undefined -Db_lundef=false $(MESON_FLAGS)
	ninja -C $(BUILD)-asan
	scripts/check.sh $(BUILD)-asan --timeout-multiplier 5

check-format: ## clang-format would change nothing
	git ls-files '*.c' '*.h' | xargs clang-format --dry-run --Werror

install: all ## install libraries, headers, command and man page (PREFIX, /usr/local; DESTDIR)
	$(if $(PREFIX),meson configure $(BUILD) --prefix $(PREFIX))
	meson install -C $(BUILD)

format: ## clang-format every source file in place
	git ls-files '*.c' '*.h' | xargs clang-format -i

clean: ## remove the build folders
	rm -rf $(BUILD) $(BUILD)-asan
