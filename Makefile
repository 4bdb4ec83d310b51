GO ?= go
# A count instead of a time: with a time go test sometimes fails at the deadline with
# "context deadline exceeded". On two cores it takes about 20 s per target.
FUZZTIME ?= 300000x
KERNEL ?= all
BIN ?= ./ftpctd
# Where to install, below DESTDIR.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
# Pinned here: as tools in go.mod they would add hundreds of modules to it.
BENCHSTAT ?= $(GO) run golang.org/x/perf/cmd/benchstat@v0.0.0-20250813145418-2f7363a06fe1
GOLANGCI_LINT ?= $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.6.2

# Under sudo, PATH often lacks the directory of go.dev's archive.
export PATH := $(PATH):/usr/local/go/bin
ifeq ($(shell PATH="$(PATH)" command -v $(GO)),)
$(error $(GO) is not in PATH: install Go from https://go.dev/dl, or keep your PATH under sudo: sudo env "PATH=$$PATH" make $(MAKECMDGOALS))
endif

# Empty outside a git repository, such as in a source archive, and where git refuses
# another user's repository: a build takes its version from here alone, so that it is
# the same with and without .git.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
# Static, and byte for byte the same in every directory.
BUILD = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-X ftpctd/cmd/ftpctd/internal/cli.release=$(VERSION)'

.PHONY: help build demo test test-vm fuzz reproducible lint bench bench-baseline bench-compare bench-e2e bench-vm deps install uninstall clean root

help: ## print this help
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | \
		while IFS="$$(printf '\t')" read -r target text; do printf '  make %-14s %s\n' "$$target" "$$text"; done

build: ## build ./ftpctd
	$(BUILD) -o $(BIN) ./cmd/ftpctd

reproducible: ## check that two builds, from two directories and two caches, are the same
	@$(WITH_DIR); mkdir $$dir/copy; \
	git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C $$dir/copy; \
	$(MAKE) -s build VERSION='$(VERSION)' BIN=$$dir/here; \
	GOCACHE=$$dir/cache $(MAKE) -s -C $$dir/copy build VERSION='$(VERSION)' BIN=$$dir/there; \
	cmp $$dir/here $$dir/there && sha256sum $$dir/here | cut -d ' ' -f 1

demo: root build ## transfer files through a DROP firewall without and with the daemon (as root)
	$(BIN) demo

test: root deps ## run every test with the race detector, in network namespaces and with real servers (as root)
	$(GO) vet ./...
	$(GO) test -race -count=1 ./...

# Prelude for recipes that need a temporary directory, $$dir. It is removed when the
# recipe's shell exits.
WITH_DIR = set -e; dir=$$(mktemp -d); trap 'rm -r "$$dir"' EXIT; trap 'exit 1' HUP INT TERM

# The tests whose result depends on the kernel and that need no more of it than the
# daemon does.
VM_TESTS ?= ^Test(ForwardInputOutput|PassiveRange|OlderConnection|TLSPorts(BehindNAT)?|StaleExpectation(InZone)?|HelperName|Shutdown|RulesRemoved|NAT|ActiveBehindNAT|Zone|Loopback|AntiSpoof(NAT)?|ForgedSource|FastOpen|ListedAtStart|AlmostSANE|ControlPortAnnounced|Attack.*)$$

test-vm: root deps build ## run the demo and the tests that depend on the kernel on Debian's kernels, in virtual machines (as root, KERNEL=all)
	sh bench/vm/install-deps.sh $(KERNEL)
	@$(WITH_DIR); vmrun="$$dir/vmrun -kernel $(KERNEL)"; \
	$(GO) build -o $$dir/ ./bench/vm/vmrun; \
	$(GO) test -c -o $$dir/ ./cmd/ftpctd ./cmd/ftpctd/internal/doctor ./conntrack/ctnetlink ./nfq; \
	FTPCTD_VM=$(KERNEL) $(GO) test -v -count=1 -timeout 1h -run '^Test(InstallDeps|Boot)' ./bench/vm; \
	$$vmrun -- $(BIN) demo; \
	(cd conntrack/ctnetlink && $$vmrun -- $$dir/ctnetlink.test -test.v -test.timeout 10m); \
	(cd nfq && $$vmrun -- $$dir/nfq.test -test.v -test.timeout 10m); \
	(cd cmd/ftpctd/internal/doctor && $$vmrun -- $$dir/doctor.test -test.v -test.timeout 10m); \
	cd cmd/ftpctd; $$vmrun -- sh -c 'modprobe br_netfilter; exec "$$@"' sh \
		$$dir/ftpctd.test -test.v -test.timeout 25m -test.parallel 1 -test.run '$(VM_TESTS)'; \
	FTPCTD_SYSTEMD_PROGRAM='$(abspath $(BIN))' \
		$$vmrun -systemd -- $$dir/ftpctd.test -test.v -test.timeout 10m -test.run '^TestSystemd$$'

fuzz: ## run each fuzz target for FUZZTIME (300000x, about 20 s)
	@set -e; pkgs=$$($(GO) list ./...); for pkg in $$pkgs; do \
		targets=$$($(GO) test -list '^Fuzz' $$pkg); \
		for target in $$(printf '%s\n' "$$targets" | sed -n '/^Fuzz/p'); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$pkg; \
		done; \
	done

lint: ## run golangci-lint with .golangci.yml
	$(GOLANGCI_LINT) run ./...

# The stages one by one, and all of them together.
BENCHMARKS = ./bench ./cmd/ftpctd/internal/engine

bench: ## the Go benchmarks: each stage of a packet's way through user space
	$(GO) test -run '^$$' -bench . $(BENCHMARKS)

bench-baseline: ## re-record the baseline of bench-compare
	$(GO) test -run '^$$' -bench . -count 6 $(BENCHMARKS) > bench/baseline.txt

bench-compare: ## the Go benchmarks against bench/baseline.txt, with benchstat
	$(GO) test -run '^$$' -bench . -count 6 $(BENCHMARKS) > bench/new.txt
	$(BENCHSTAT) bench/baseline.txt bench/new.txt
	rm bench/new.txt

bench-e2e: root ## compare with nf_conntrack_ftp end to end, into README.md and bench/README.md: 8 minutes on an idle machine (as root)
	$(GO) run ./bench/e2e -summary README.md -report bench/README.md -chart bench/e2e.svg

# The guest has this machine's files but not the caches of its toolchain, so it gets
# built programs.
bench-vm: root ## compare with conntrackd's helper on Debian's kernels, in a virtual machine (as root, KERNEL=all)
	sh bench/vm/install-deps.sh $(KERNEL)
	@$(WITH_DIR); \
	$(BUILD) -o $$dir/ ./bench/vm/vmrun ./bench/e2e ./cmd/ftpctd; \
	conntrackd=$$(sh bench/e2e/install-conntrackd.sh); \
	$$dir/vmrun -kernel $(KERNEL) -- sh bench/e2e/vm.sh "$$conntrackd" \
		$$dir/e2e -variants none,conntrackd,expect,entry -against conntrackd,none \
		-program expect=$$dir/ftpctd -program entry=$$dir/ftpctd \
		-loads pasv -conns 1,16 -rounds 7 -time 3s -warmup 500ms -idle 0

deps: root ## install the FTP servers and clients that the tests need (as root, with apt)
	sh bench/lab/install-deps.sh

PROGRAM = $(DESTDIR)$(PREFIX)/sbin/ftpctd
UNIT = $(DESTDIR)$(PREFIX)/lib/systemd/system/ftpctd.service
MODULES = $(DESTDIR)$(PREFIX)/lib/modules-load.d/ftpctd.conf
CONFIG = $(DESTDIR)$(SYSCONFDIR)/ftpctd/ftpctd.toml
# True when installing onto the running system, not into DESTDIR.
SYSTEMD = [ -z '$(DESTDIR)' ] && [ -d /run/systemd/system ]

install: build ## install the program, its unit and, if there is none, a configuration (PREFIX=/usr/local DESTDIR=)
	install -D -m 755 $(BIN) $(PROGRAM)
	install -D -m 644 cmd/ftpctd/dist/ftpctd.service $(UNIT)
	sed -i 's|/usr/sbin/ftpctd|$(PREFIX)/sbin/ftpctd|' $(UNIT)
	install -D -m 644 cmd/ftpctd/dist/modules-load.conf $(MODULES)
	[ -e $(CONFIG) ] || install -D -m 644 cmd/ftpctd/dist/ftpctd.toml $(CONFIG)
	if $(SYSTEMD); then systemctl daemon-reload; fi

uninstall: ## stop and remove the installation; keep a modified configuration
	if $(SYSTEMD); then systemctl disable --now ftpctd.service; fi
	rm -f $(PROGRAM) $(UNIT) $(MODULES)
	if cmp -s cmd/ftpctd/dist/ftpctd.toml $(CONFIG); then rm $(CONFIG); rmdir --ignore-fail-on-non-empty $(dir $(CONFIG)); fi
	if $(SYSTEMD); then systemctl daemon-reload; fi

clean: ## remove the built program
	rm -f $(BIN)

root:
	@test "$$(id -u)" -eq 0 || { \
		echo 'make $(MAKECMDGOALS): network namespaces and netfilter need root: sudo make $(MAKECMDGOALS)' >&2; exit 1; }
