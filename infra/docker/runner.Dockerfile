# The runner, in the image of the engine that it drives.
#
#   docker build -f infra/docker/runner.Dockerfile -t spool-runner .
#   docker run --rm -e AWS_REGION=... spool-runner --bucket my-bucket --engine-url http://127.0.0.1:8000
#
# The same image serves the model: docker run --gpus all --ipc=host --entrypoint vllm spool-runner serve MODEL

ARG GO_VERSION=1.26.8
ARG VLLM_VERSION=v0.32.0

FROM golang:${GO_VERSION}-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# The version comes from .git, which therefore must be in the build context. nvml watches the GPUs: it needs cgo, and functions
# that are looked up when they are called, for the driver's library is not there yet and may lack some. netgo and osusergo: for
# all else the binary is as without cgo.
RUN CGO_ENABLED=1 CGO_CFLAGS="-O2 -g -Wno-deprecated-declarations" \
    go build -buildvcs=auto -trimpath -tags nolocal,nvml,netgo,osusergo -ldflags "-s -w -extldflags=-Wl,-z,lazy" -o /spool ./cmd/spool

FROM vllm/vllm-openai:${VLLM_VERSION}
COPY --from=build /spool /usr/local/bin/spool
# The user that the image has for this; its group, 0, may write what root may.
ENV HOME=/home/vllm
USER 2000:0
ENTRYPOINT ["spool", "run"]
