# bpfleet: two commands. `make run` shows the agent at work, `make test` proves it; both do all of their own set-up,
# on Debian 12, as root.

PYTHON    := /usr/bin/python3
VENV      := .venv
BIN       := $(VENV)/bin
CONFIG    ?= etc/demo.toml
DURATION  ?=
TESTS     ?= tests

# What runs the agent: an interpreter, bcc, libbpf, and a compiler for the .bpf.c files of the checkout.
PACKAGES  := python3 python3-venv python3-bpfcc libbpf1 libbpf-dev linux-libc-dev clang make
# What the tests and benchmarks compare with, and make work for.
TEST_PACKAGES := gcc libc6-dev bpftool llvm binutils iproute2 libbpf-tools bpfcc-tools procps util-linux mount e2fsprogs kmod systemd \
	clickhouse-server clickhouse-client libzookeeper-java default-jre-headless openssl golang-go

# What boots Debian's stock kernels in virtual machines.
KERNEL_PACKAGES := qemu-system-x86 linux-image-amd64 linux-image-6.12-amd64 busybox-static

SETUP     := $(VENV)/.ready
TEST_SETUP := $(VENV)/.ready-for-tests

.PHONY: run test test-kernels kernels-table lint bench clean setup

run: $(SETUP)
	@exec sh etc/demo.sh $(BIN)/bpfleet $(CONFIG) $(DURATION)

test: $(TEST_SETUP) lint
	$(BIN)/python -m pytest $(TESTS)

# The same objects on Debian's kernels 6.1 and 6.12; see docs/kernels.md.
test-kernels: $(TEST_SETUP)
	@sh etc/apt-install.sh $(KERNEL_PACKAGES)
	$(BIN)/python tests/kernels/virtual_machines.py

# After test-kernels: the tables of docs/kernels.md, from what was found.
kernels-table: $(TEST_SETUP)
	$(BIN)/python tests/kernels/table.py

lint: $(TEST_SETUP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy bench

bench: $(TEST_SETUP)
	$(BIN)/python -m bench

setup: $(SETUP)

# A virtual environment that sees Debian's bcc, which PyPI does not have.
$(SETUP): pyproject.toml Makefile
	@sh etc/apt-install.sh $(PACKAGES)
	@test -x $(BIN)/python || $(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[aggregator]"
	@touch $@

$(TEST_SETUP): $(SETUP)
	@sh etc/apt-install.sh $(TEST_PACKAGES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,aggregator]'
	@touch $@

clean:
	rm -rf $(VENV) build dist
	find . -name '*.bpf.o' -delete -o -name '*.bpf.o.inputs' -delete
