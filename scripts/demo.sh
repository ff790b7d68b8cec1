#!/bin/sh
# Starts everything on this machine, drops a real file into the bucket, and shows what comes out of it. It needs
# bin/spool and nothing else. What it writes is under .spool/demo, and stays there until the next demo.
set -eu

spool=${SPOOL:-bin/spool}
data=.spool/demo
file=examples/gsm8k.jsonl
key=in/math/gsm8k.jsonl

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { # runs a command as the reader would type it
	printf '\033[2m$ %s\033[0m\n' "$*"
	"$@"
}

if [ "${1:-}" != inside ]; then
	cd "$(dirname "$0")/.."
	case $spool in /*) ;; *) spool=$PWD/$spool ;; esac
	rm -rf "$data"
	mkdir -p "$data"
	say "spool local: a store, queues, a watcher and runners, for as long as this demo runs"
	# Ports chosen by the kernel, so that a spool local that runs already is not in the way.
	SPOOL=$spool PATH=$(dirname "$spool"):$PATH exec "$spool" local --data "$data" --port-base 0 -- "$PWD/scripts/demo.sh" inside
fi

say "1. A user drops $(wc -l <"$file" | tr -d ' ') questions into the bucket, and waits"
show spool submit "$file" "$key" --wait

say "2. What became of it"
show spool status "$key"

say "3. The results"
show spool results "$key" -o "$data/results"
ls -l "$data/results"

say "4. The first answer, in the order of the input (made up by a stand-in for vLLM: give spool local --engine-url for real ones)"
head -n 1 "$data/results/output.jsonl"

questions=$(grep -c custom_id "$file")
answers=$(grep -c custom_id "$data/results/output.jsonl")
if [ "$questions" != "$answers" ]; then
	echo "$questions questions, but $answers answers" >&2
	exit 1
fi
say "$questions questions, $answers answers. They are in $data/results; logs are in $data/logs."
