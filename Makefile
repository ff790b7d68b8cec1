# Needs Go and make. Everything that is made is under bin/ and .spool/demo*; tools are installed under bin/tools.

GO       ?= go
FUZZTIME ?= 30s
SOAK     ?= 10
BENCH    ?= .
PKG      ?= ./...

GOLANGCI_LINT := 2.15.0
GOVULNCHECK   := 1.9.0

TOOLS := $(CURDIR)/bin/tools

# The tag nvml needs cgo and a C compiler. NVIDIA's header calls its older functions deprecated, and go-nvml wraps them all.
NVML := CGO_ENABLED=1 CGO_CFLAGS="-O2 -g -Wno-deprecated-declarations" $(GO)

# Packages with tests in bubbles (testing/synctest), and those without. Before Go 1.27 the timers of a bubble share one context of
# the race detector, whatever processor they fire on: two at once crash it (golang/go#78156). So bubbles get one processor there.
BUBBLES  = $(shell $(GO) list -f '{{.ImportPath}} {{.TestImports}} {{.XTestImports}}' $(PKG) | awk '/testing.synctest/ { print $$1 }')
STRAIGHT = $(filter-out $(BUBBLES),$(shell $(GO) list $(PKG)))
RACE     = $(GO) list $(PKG) >/dev/null $(if $(STRAIGHT),&& $(GO) test -race $(1) $(STRAIGHT)) $(if $(BUBBLES),&& $(GO) test -race -cpu 1 $(1) $(BUBBLES))

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z][a-z0-9-]*:.*## / { printf "  \033[1m%-18s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PKG=./runner/... limits test, race, cover and microbench to some packages; BENCH=Slots limits bench to one row;"
	@echo "  FUZZTIME, SOAK: see their targets"

.PHONY: build
build: ## Build bin/spool; its version comes from git
	$(GO) build -buildvcs=auto -trimpath -o bin/spool ./cmd/spool

.PHONY: demo
demo: build ## Run a real file through everything on this machine, and show the results
	@scripts/demo.sh

.PHONY: demo-monitoring
demo-monitoring: build ## Watch a batch with Prometheus and Alertmanager (Debian's packages, no containers)
	@scripts/demo-monitoring.sh

.PHONY: dashboard-pictures
dashboard-pictures: ## Draw docs/dashboard-*.png and report-*.png from a run of ten minutes (needs Chromium, poppler-utils, a C compiler)
	@scripts/dashboard-pictures.sh

.PHONY: demo-vllm
demo-vllm: build ## The same with real answers: vLLM's CPU build (7 GB, Python) and a small model
	@scripts/demo-vllm.sh

.PHONY: test
test: ## Run all tests; SPOOL_REQUIRE_ALL=1 fails where a tool for one is missing
	$(GO) test -timeout 20m $(PKG)

.PHONY: race
race: ## Run the tests under the race detector, long ones shortened
	$(call RACE,-short -timeout 30m)

.PHONY: cover
cover: ## Measure coverage across packages: bin/cover.html, and the total
	@mkdir -p bin
	$(GO) test -timeout 30m -coverpkg=./... -coverprofile=bin/cover.out $(PKG)
	$(GO) tool cover -html=bin/cover.out -o bin/cover.html
	@$(GO) tool cover -func=bin/cover.out | tail -n 1

.PHONY: fuzz
fuzz: ## Fuzz every target for FUZZTIME (30s)
	@for pkg in $$($(GO) list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' $(PKG)); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

.PHONY: bench
bench: ## Print what spool costs against what it could, and write bin/bench.json; 45 min (BENCH, SPOOL_VLLM_DIR)
	SPOOL_BENCH=$(CURDIR)/bin $(GO) test -timeout 0 -count 1 -run '^TestBench$$/($(BENCH))' -v ./localstack/e2e

.PHONY: microbench
microbench: ## Run Go's benchmarks that match BENCH (all)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 60m $(PKG)

.PHONY: profile
profile: ## Profile the runner with 4,097 requests in flight and the watcher: bin/profile/*.pprof, and the top of each
	@mkdir -p bin/profile
	SPOOL_BENCH_PROFILE=$(CURDIR)/bin/profile $(GO) test -timeout 0 -count 1 -run '^TestProfile$$' -v ./localstack/e2e
	@for name in run watch; do \
		$(GO) tool pprof -top -nodecount 15 bin/profile/$$name.cpu.pprof && \
		$(GO) tool pprof -top -nodecount 15 -sample_index alloc_space bin/profile/$$name.allocs.pprof || exit 1; \
	done

.PHONY: soak
soak: ## Repeat the tests of crashes, kills and races SOAK times (10) under the race detector
	$(call RACE,-count $(SOAK) -timeout 0 -run '(?i)crash|kill|race|zombie|dies|lost')

.PHONY: test-localstack
test-localstack: ## Run the end-to-end tests against LocalStack 4.12 (installs it: 345 MB, Python 3.11)
	localstack/localstack.sh setup
	SPOOL_REQUIRE_ALL=1 $(GO) test -timeout 30m -run LocalStack -v ./localstack/...

.PHONY: test-vllm
test-vllm: ## Run the tests with the real vLLM (installs its CPU build: 7 GB, Python); SHORT=-short leaves out some minutes
	scripts/vllm/setup.sh setup
	export SPOOL_VLLM_DIR=$$(scripts/vllm/setup.sh where) SPOOL_REQUIRE_VLLM=1; \
		$(GO) test -timeout 0 -count 1 -run RealVLLM -v ./localstack/e2e && \
		$(GO) test -timeout 0 -count 1 -run RealVLLM -v $(SHORT) ./runner/vllm

.PHONY: test-nolocal
test-nolocal: ## Vet and test the command without the local stack, as images have it
	$(GO) vet -tags nolocal ./cmd/spool
	$(GO) test -tags nolocal ./cmd/spool

.PHONY: test-gpu
test-gpu: ## Vet and test what the build tag nvml adds (needs a C compiler, no GPU)
	$(NVML) vet -tags nvml ./runner/gpu
	$(NVML) test -tags nvml ./runner/gpu

.PHONY: test-docker
test-docker: ## Build the watcher's image from scratch and run it (needs a Docker daemon, or root and dockerd)
	SPOOL_TEST_DOCKER=1 $(GO) test -timeout 10m -run Container -v ./infra

.PHONY: lint
lint: $(TOOLS)/golangci-lint-$(GOLANGCI_LINT) ## Run golangci-lint (installed on first use)
	$< run

.PHONY: vuln
vuln: $(TOOLS)/govulncheck-$(GOVULNCHECK) ## Look for known vulnerabilities in what is called
	$< ./...

.PHONY: vet
vet: ## Run go vet
	$(GO) vet ./...

.PHONY: check-fmt
check-fmt: ## Fail if a file is not formatted
	@files=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$files" ] || { echo "not formatted (gofmt -w them):"; echo "$$files"; exit 1; }

.PHONY: check-tidy
check-tidy: ## Fail if go mod tidy would change go.mod or go.sum
	$(GO) mod tidy -diff

.PHONY: clean
clean: ## Remove what these targets have made
	rm -rf bin .spool/demo .spool/demo-monitoring .spool/demo-vllm

$(TOOLS)/golangci-lint-$(GOLANGCI_LINT):
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$(GOLANGCI_LINT)
	mv $(TOOLS)/golangci-lint $@

$(TOOLS)/govulncheck-$(GOVULNCHECK):
	GOBIN=$(TOOLS) $(GO) install golang.org/x/vuln/cmd/govulncheck@v$(GOVULNCHECK)
	mv $(TOOLS)/govulncheck $@
