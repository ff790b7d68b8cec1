#!/usr/bin/env bash
# Runs LocalStack 4.12 (S3, SQS, STS) on this machine, without Docker and without an account: an independent server to
# test against. It is a test tool only; `spool local` has servers of its own.
#
#   localstack.sh setup        installs it (345 MB, 1 min) below ${SPOOL_CACHE:-${XDG_CACHE_HOME:-~/.cache}/spool}
#   localstack.sh installed    exits 0 if that was done
#   localstack.sh run [PORT]   installs it if need be and runs it on 127.0.0.1:PORT, 4566 by default; in the foreground;
#                              prints "Ready." after about 20 s. Everything it writes is gone when it ends.
#
# Needs Python 3.11 (PYTHON, default python3) and a Python package index.
set -euo pipefail

version=4.12.0
home=${SPOOL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/spool}/localstack-$version
python=${PYTHON:-python3}

# Each pin was needed: with newer ones it fails at import or at start.
packages=("localstack-core[runtime]==$version" service-identity 'pyopenssl<25' 'cryptography<45' 'cbor2<5.8')

setup() {
	[[ -e $home/complete ]] && return
	echo "installing LocalStack $version in $home" >&2
	mkdir -p "$home"
	exec 9>"$home/lock"
	flock 9
	[[ -e $home/complete ]] && return
	"$python" -m venv --clear "$home/venv"
	"$home/venv/bin/python" -m pip install -q uv
	"$home/venv/bin/uv" pip install -q --python "$home/venv/bin/python" "${packages[@]}"
	touch "$home/complete"
	exec 9>&-
}

run() {
	local port=${1:-4566}
	setup
	state=$(mktemp -d)
	trap 'rm -rf "$state"' EXIT
	trap 'kill "$child" 2>/dev/null' TERM INT
	# A home of its own, since a first start that failed would leave a stale cache of entry points in the user's.
	HOME=$state XDG_CACHE_HOME=$state/cache TMPDIR=$state FILESYSTEM_ROOT=$state \
		GATEWAY_LISTEN=127.0.0.1:$port LOCALSTACK_HOST=127.0.0.1:$port SQS_ENDPOINT_STRATEGY=path USE_SSL=0 DNS_ADDRESS=0 SERVICES=s3,sqs,sts \
		DISABLE_EVENTS=1 SKIP_SSL_CERT_DOWNLOAD=1 \
		"$home/venv/bin/python" -m localstack.runtime.main &
	child=$!
	wait "$child" || { status=$?; wait "$child" 2>/dev/null || true; return "$status"; }
}

case ${1:-} in
setup) setup ;;
installed) [[ -e $home/complete ]] ;;
run) shift; run "$@" ;;
*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
