#!/bin/sh
# Draws docs/dashboard-*.png: what each panel of the dashboards asks, answered by the Prometheus of scripts/demo-monitoring.sh in
# the middle of a run; and docs/report-*.png of one of its batches. Its engines are spool's stand-in for vLLM, and its GPUs a
# stand-in for NVIDIA's library; the pictures say so. Needs a C compiler, Chromium and poppler-utils, besides what the demo needs.
set -eu

data=.spool/demo-monitoring
tools=$PWD/bin/pictures

if [ "${1:-}" != inside ]; then
	cd "$(dirname "$0")/.."
	tools=$PWD/bin/pictures
	mkdir -p "$tools"
	CGO_ENABLED=1 CGO_CFLAGS="-O2 -g -Wno-deprecated-declarations" go build -tags nvml -o "$tools/spool" ./cmd/spool
	cc -shared -fPIC -o "$tools/libnvidia-ml.so.1" monitoring/dashboards/picture/testdata/nvml.c -lm
	printf '#!/bin/sh\nexec "%s" vllmsim --load-time 15s -- "$@" --enable-per-request-metrics\n' "$tools/spool" >"$tools/vllm"
	chmod +x "$tools/vllm"
	SPOOL=$tools/spool LD_LIBRARY_PATH=$tools DEMO_COPIES=1 \
		DEMO_ARGS="--model stand-in --vllm $tools/vllm --runners 3 --slots 64 --idle 20s" scripts/demo-monitoring.sh "$PWD/scripts/dashboard-pictures.sh" inside
	exit
fi

printf '\n%s\n' 'Three batches at once, one file that is refused, and some minutes to look at them'
for n in 1 2 3; do
	for copy in $(seq 12); do
		sed "s/\"custom_id\": \"/&$n-$copy-/" examples/gsm8k.jsonl
	done >"$data/part-$n.jsonl"
	# Some lines that no engine takes.
	sed -n "1,${n}0p" examples/gsm8k.jsonl | sed 's/"custom_id": "/&too-long-/; s/"max_tokens": [0-9]*/"max_tokens": 10000000/' >>"$data/part-$n.jsonl"
	spool submit "$data/part-$n.jsonl" "in/evals/part-$n.jsonl"
done
echo 'not JSON' | spool submit --no-check - in/evals/refused.jsonl
sleep 230
go test ./monitoring/dashboards/picture -count 1 -v -run 'TestPictures$' -prometheus "$PROMETHEUS_URL" -pictures "$PWD/docs"
spool wait in/evals/part-1.jsonl in/evals/part-2.jsonl in/evals/part-3.jsonl || [ $? = 3 ] # some lines failed
spool results in/evals/part-3.jsonl -o "$data/part-3" >/dev/null || [ $? = 3 ]
go test ./monitoring/dashboards/picture -count 1 -v -run TestPicturesOfAReport -report "$PWD/$data/part-3/report.html" -pictures "$PWD/docs"
