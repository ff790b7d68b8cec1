# The watcher: one static binary and the certificates of public authorities, nothing else.
#
#   docker build -f infra/docker/watcher.Dockerfile -t spool-watcher .
#   docker run --rm --read-only --tmpfs /tmp:mode=1777 -e AWS_REGION=... spool-watcher --bucket my-bucket
#
# Pieces in the making lie under /tmp, up to 3 for each file that is validated.

ARG GO_VERSION=1.26.8

FROM golang:${GO_VERSION}-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# The version comes from .git, which therefore must be in the build context.
RUN mkdir -p /rootfs/etc/ssl/certs \
 && mkdir -m 1777 /rootfs/tmp \
 && cp /etc/ssl/certs/ca-certificates.crt /rootfs/etc/ssl/certs/ \
 && CGO_ENABLED=0 go build -buildvcs=auto -trimpath -tags nolocal -ldflags "-s -w" -o /rootfs/spool ./cmd/spool

FROM scratch
COPY --from=build /rootfs/ /
USER 65532:65532
ENTRYPOINT ["/spool", "watch"]
