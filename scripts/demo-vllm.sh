#!/bin/sh
# Has a real model answer a real file on this machine, without a GPU: vLLM's CPU build and SmolLM2-135M, started by spool
# itself. It needs bin/spool and scripts/vllm/setup.sh. What it writes is under .spool/demo-vllm, until the next demo.
set -eu

spool=${SPOOL:-bin/spool}
data=.spool/demo-vllm
file=examples/questions.jsonl
key=in/demo/questions.jsonl

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { # runs a command as the reader would type it
	printf '\033[2m$ %s\033[0m\n' "$*"
	"$@"
}

if [ "${1:-}" != inside ]; then
	cd "$(dirname "$0")/.."
	case $spool in /*) ;; *) spool=$PWD/$spool ;; esac
	say "vLLM's CPU build, and a model of 135 million parameters"
	scripts/vllm/setup.sh setup
	vllm=$(scripts/vllm/setup.sh where)
	rm -rf "$data"
	mkdir -p "$data"
	say "spool local: a store, queues, a watcher, and a runner that starts vLLM"
	printf '\033[2m$ %s\033[0m\n' "spool local --config scripts/vllm/smollm2.yaml --model $vllm/smollm2 --vllm $vllm/venv/bin/vllm"
	SPOOL=$spool VLLM=$vllm PATH=$(dirname "$spool"):$PATH exec "$spool" local --data "$data" --port-base 0 --slots 16 \
		--config scripts/vllm/smollm2.yaml --model "$vllm/smollm2" --vllm "$vllm/venv/bin/vllm" -- "$PWD/scripts/demo-vllm.sh" inside
fi

say "1. A user drops $(wc -l <"$file" | tr -d ' ') questions into the bucket, and waits; vLLM loads for a minute or three"
show spool submit "$file" "$key" --wait

say "2. What became of it"
show spool status "$key"

say "3. The results"
show spool results "$key" -o "$data/results"
ls -l "$data/results"

say "4. Questions and answers"
"$VLLM/venv/bin/python" - "$file" "$data/results/output.jsonl" <<'PYTHON'
import json, sys, textwrap

questions, answers = ([json.loads(line) for line in open(name)] for name in sys.argv[1:])
if [q["custom_id"] for q in questions] != [a["custom_id"] for a in answers]:
    sys.exit(f"{len(questions)} questions, but {len(answers)} answers")
for q, a in zip(questions, answers):
    said = a["response"]["body"]["choices"][0]["message"]["content"]
    print(q["body"]["messages"][-1]["content"])
    print(textwrap.indent(textwrap.shorten(said, 240, placeholder=" ..."), "    "))
PYTHON
say "$(wc -l <"$file" | tr -d ' ') questions, as many answers. They are in $data/results, with report.html; logs are in $data/logs."
