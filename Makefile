# Thin lines over go commands; `make` alone lists them.
GOLANGCI := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
# Run from outside the workspace, which has no part in the tools' versions.
TOOL := GOWORK=off go tool -modfile=internal/tools/go.mod
# Every module of the workspace, by directory.
MODULES = $(shell go list -m -f '{{.Dir}}')

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.PHONY: test
test: ## Start the real services, run all tests with the race detector, then the allocation tests
	go run ./internal/services/run -- sh -c 'go test -race -shuffle=on work && go test -count=1 -run "^TestAllocs" ./...'

.PHONY: chaos
chaos: ## Break real servers, processes and networks in the long forms of the fault tests
	PARLEY_SERVICES=rabbitmq,redis,postgres,kafka,elasticmq PARLEY_REQUIRE=rabbitmq,redis,postgres,kafka,elasticmq PARLEY_CHAOS=long go run ./internal/services/run -- \
		go test -race -count=1 -v -timeout 60m ./internal/integration/faults ./internal/integration/idempotency

.PHONY: services
services: ## Start the services that tests use, print their addresses, stay until interrupted
	go run ./internal/services/run

.PHONY: lint
lint: ## Check format, vet, staticcheck and golangci-lint in every module
	@files=$$($(TOOL) gofumpt -l .); test -z "$$files" || { echo "gofumpt would change:"; echo "$$files"; exit 1; }
	go vet work
	"$$(GOWORK=off go -C internal/tools tool -n staticcheck)" work
	cd internal/bench && export GOWORK=off && go vet . && "$$(go -C ../tools tool -n staticcheck)" .
	$(GOLANGCI) run $(addsuffix /...,$(MODULES))

.PHONY: fmt
fmt: ## Format everything
	$(TOOL) gofumpt -w .
	$(GOLANGCI) fmt

.PHONY: tidy
tidy: ## Tidy every module
	@for dir in $(MODULES) internal/bench internal/tools; do (cd $$dir && GOWORK=off go mod tidy) || exit 1; done

.PHONY: alone
alone: ## Check that every module is tidy, builds and passes its tests outside the workspace
	@for dir in $(MODULES); do \
		echo "$$dir"; (cd $$dir && export GOWORK=off && go mod tidy -diff && go build ./... && go test ./...) || exit 1; \
	done
	GOWORK=off go -C internal/tools mod tidy -diff
	cd internal/bench && export GOWORK=off && go mod tidy -diff && go build -o /dev/null .

.PHONY: bench
bench: ## Compare with other libraries side by side; ONLY=breaker runs one package's rows
	PARLEY_SERVICES=$${PARLEY_SERVICES:-$(if $(ONLY),$(or $(filter rabbitmq kafka,$(ONLY)),$(if $(filter idempotency,$(ONLY)),redis),none),rabbitmq,redis,kafka)} \
		go run ./internal/services/run -- sh -c 'cd internal/bench && GOWORK=off go run .'
