GO ?= go
FUZZTIME ?= 20s
# Not a tool of go.mod: it would bring hundreds of modules with it.
GOLANGCI_LINT ?= $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.6.2

# Under sudo, PATH often lacks the directory that go.dev's archive installs to.
export PATH := $(PATH):/usr/local/go/bin
ifeq ($(shell PATH="$(PATH)" command -v $(GO)),)
$(error $(GO) is not in PATH: install Go from https://go.dev/dl, or keep your PATH under sudo: sudo env "PATH=$$PATH" make $(MAKECMDGOALS))
endif

# git refuses the repository of another user (a container, a bind mount), and go
# build then fails: such a build goes without a version.
BUILDVCS := $(if $(shell git rev-parse --verify -q HEAD 2>/dev/null),auto,false)

.PHONY: help build demo test fuzz lint bench deps clean root

help: ## print this help
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | \
		while IFS="$$(printf '\t')" read -r target text; do printf '  make %-8s %s\n' "$$target" "$$text"; done

build: ## build ./ftpctd
	$(GO) build -trimpath -buildvcs=$(BUILDVCS) -o ftpctd ./cmd/ftpctd

demo: root build ## real FTP sessions through a DROP firewall, without and with the daemon (as root)
	./ftpctd demo

test: root deps ## every test with the race detector, network namespaces and real servers included (as root)
	$(GO) vet ./...
	$(GO) test -race -count=1 ./...

fuzz: ## each fuzz target for FUZZTIME (20s)
	@set -e; pkgs=$$($(GO) list ./...); for pkg in $$pkgs; do \
		targets=$$($(GO) test -list '^Fuzz' $$pkg); \
		for target in $$(printf '%s\n' "$$targets" | sed -n '/^Fuzz/p'); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$pkg; \
		done; \
	done

lint: ## golangci-lint with the rules of .golangci.yml
	$(GOLANGCI_LINT) run ./...

bench: ## every benchmark
	$(GO) test -run '^$$' -bench . ./...

deps: root ## install what the tests need: FTP servers and clients (as root, with apt)
	sh bench/lab/install-deps.sh

clean: ## remove what was built
	rm -f ftpctd

root:
	@test "$$(id -u)" -eq 0 || { \
		echo 'make $(MAKECMDGOALS): network namespaces and netfilter need root: sudo make $(MAKECMDGOALS)' >&2; exit 1; }
