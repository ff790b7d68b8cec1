# The runner, in the image of the engine that it drives.
#
#   docker build -f infra/docker/runner.Dockerfile -t spool-runner .
#   docker run --rm --gpus all --ipc=host --stop-timeout 60 -e AWS_REGION=... spool-runner --bucket my-bucket --model MODEL
#
# The runner starts vLLM itself, in this container: docs/ENGINE.md. The model's files are kept between containers by
# -v DIR:/home/vllm/.cache/huggingface, where DIR may be written by user 2000. An engine that runs elsewhere is given by
# --engine-url; 127.0.0.1 is this container, not the machine.
#
# SPOOL_IMAGE goes into the record of what answers were made with; it names the engine's image, unless
# --build-arg SPOOL_IMAGE=..., or -e SPOOL_IMAGE=... of docker run, says better: a digest, say.

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
ARG VLLM_VERSION
ARG SPOOL_IMAGE=vllm/vllm-openai:${VLLM_VERSION}
ENV SPOOL_IMAGE=${SPOOL_IMAGE}
COPY --from=build /spool /usr/local/bin/spool
# The user that the image has for this; its group, 0, may write what root may.
ENV HOME=/home/vllm
USER 2000:0
ENTRYPOINT ["spool", "run"]
