# SPDX-License-Identifier: Apache-2.0
# Thin front end: Meson does the building. `make help` lists the targets.
BUILD ?= build
PREFIX ?= /usr/local
MESON_FLAGS ?=

.PHONY: all help deps check install clean format
all: $(BUILD)/build.ninja ## build the libraries and the command
	ninja -C $(BUILD)

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

deps: ## install what is missing (Debian packages)
	@scripts/deps.sh

$(BUILD)/build.ninja: | deps
	meson setup $(BUILD) --prefix $(PREFIX) $(MESON_FLAGS)

check: all ## build and run all tests
	meson test -C $(BUILD) --print-errorlogs

install: all ## install libraries, headers, command and man page under PREFIX
	meson install -C $(BUILD)

format: ## clang-format every source file in place
	git ls-files '*.c' '*.h' | xargs clang-format -i

clean: ## remove the build folder
	rm -rf $(BUILD)
