#!/bin/sh
# Watches a batch as production would, on this machine and without containers: Prometheus with spool's configuration, alerts
# and Alertmanager's example, a Pushgateway, and spool local that pushes to it. It shows that what Prometheus counted is what
# summary.json says, and stays up at a terminal. What it writes is under .spool/demo-monitoring, until the next time.
#
#   scripts/demo-monitoring.sh [CMD ARGS...]    runs CMD in the end, with PROMETHEUS_URL set, in place of staying up
#
#   DEMO_PORT     the Pushgateway's port; Alertmanager is on the next, Prometheus on the one after. Default: any that are free.
#                 Without prometheus-pushgateway, spool local has S3, SQS and a Pushgateway on the next three, by default on
#                 9793 to 9795; it has any that are free otherwise
#   DEMO_COPIES   how often the 200 questions are asked; default: 6
#   DEMO_ARGS     further arguments of spool local; default: those for half a minute
set -eu

spool=${SPOOL:-bin/spool}
data=.spool/demo-monitoring
key=in/math/questions.jsonl

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { # runs a command as the reader would type it
	printf '\033[2m$ %s\033[0m\n' "$*"
	"$@"
}
fail() {
	printf '%s\n' "$*" >&2
	exit 1
}
until_so() { # asks for up to five minutes, of which an idle machine needs seconds: until_so WHAT COMMAND
	what=$1
	shift
	for _ in $(seq 1200); do
		! "$@" >/dev/null 2>&1 || return 0
		sleep 0.25
	done
	fail "waited in vain until $what; logs are in $data"
}

# The last value of a query, or nothing.
query() { promtool query instant "$PROMETHEUS_URL" "$1" 2>/dev/null | sed -n 's/.*=> \([^ ]*\) @.*/\1/p'; }
is() { [ "$(query "$1")" = "$2" ]; }
# The first number of that name in summary.json.
summary() { sed -n "s/^ *\"$1\": \([0-9]*\),*\$/\1/p" "$data/results/summary.json" | head -n 1; }

row() { printf '  %-18s %12s %12s   %s\n' "$@"; }
compare() { # compare WHAT NAME QUERY: a row of the table
	counted=$(query "$3")
	row "$1" "$(summary "$2")" "${counted:--}" "$3"
	[ "$counted" = "$(summary "$2")" ] || unequal="${unequal:-} $1,"
}

# Inside of spool local: all servers are up.
inside() {
	until_so 'Prometheus finds the Pushgateway' is 'up{job="pushgateway"}' 1
	questions=$(wc -l <"$data/questions.jsonl" | tr -d ' ')
	say "1. $questions questions, one of which no engine would take, are a batch for up to 3 runners"
	code=0
	show spool submit "$data/questions.jsonl" "$key" --wait || code=$?
	[ "$code" = 3 ] || fail "exit code $code, want 3: done, some lines failed"
	spool results "$key" -o "$data/results" >/dev/null || [ "$?" = 3 ]
	until_so 'Prometheus has seen the last push of every runner' is 'sum(spool_runner_up)' 0

	say '2. The sums of summary.json, and those of Prometheus after all runners have gone'
	row '' summary.json Prometheus 'expression'
	compare 'lines ok' ok 'sum(max_over_time(spool_lines_total{status="ok"}[1h]))'
	compare 'lines failed' failed 'sum(max_over_time(spool_lines_total{status="error"}[1h]))'
	compare 'input tokens' input_tokens 'sum(max_over_time(spool_tokens_total{type="input"}[1h]))'
	compare 'output tokens' output_tokens 'sum(max_over_time(spool_tokens_total{type="output"}[1h]))'
	[ -z "${unequal:-}" ] || fail "not equal:$unequal and should be"
	echo "  of $(query 'count(spool_runner_up)') runners, each of which was a group of its own at the Pushgateway"

	say '3. Alerts'
	until_so 'an alert has come to Alertmanager' has_watchdog
	echo "  $(grep -c 'alert: Spool' monitoring/alerts.yml) of spool are watched; Watchdog is the demo's, always fires, and shows that the way is free"
	show amtool alert query --alertmanager.url "$ALERTMANAGER_URL"

	say 'Look around'
	cat <<-END
		  Prometheus     $PROMETHEUS_URL/graph?g0.range_input=10m&g0.tab=0&g0.expr=sum%20by%20(status)%20(rate(spool_requests_total%5B1m%5D))
		  alerts         $PROMETHEUS_URL/alerts
		  Alertmanager   $ALERTMANAGER_URL/
		  Pushgateway    $PUSHGATEWAY_URL/
		  report         $PWD/$data/results/report.html
		  logs           $PWD/$data/logs/
		  Grafana        is no package of Debian: monitoring/dashboards/*.json can be imported; docs/MONITORING.md has pictures
	END
	if [ $# -gt 0 ]; then
		exec "$@"
	elif [ -n "${DEMO_STAY:-}" ]; then
		env | grep -E '^(AWS_|SPOOL_BUCKET=)' | sed 's/^/export /' >"$data/env"
		say "All of it stays up, and takes what you submit (\`. $data/env\` in another terminal). End it with Ctrl-C."
		exec sleep infinity
	fi
}

has_watchdog() { amtool alert query --alertmanager.url "$ALERTMANAGER_URL" alertname=Watchdog | grep -q Watchdog; }

if [ "${1:-}" = inside ]; then
	shift
	inside "$@"
	exit
fi

cd "$(dirname "$0")/.."
case $spool in /*) ;; *) spool=$PWD/$spool ;; esac

for program in prometheus promtool prometheus-alertmanager amtool; do
	command -v $program >/dev/null || fail "$program is not installed: apt install prometheus prometheus-alertmanager prometheus-pushgateway"
done

# One at a time, since the data is in one folder. The lock is this script's alone, and ends with it however that ends.
mkdir -p "$data"
exec 9<"${data%/*}"
flock -n 9 || fail "another demo runs here, process $(cat "$data/pid" 2>/dev/null): end it first"

pids=
stop() { # ends what was started here, and nothing else
	trap - EXIT
	trap '' INT TERM HUP # until all have ended: what is asked twice is done once
	for pid in $pids; do # the last one first: spool local pushes its last metrics
		kill -TERM "-$pid" 2>/dev/null || kill "$pid" 2>/dev/null || : # with CMD, and what that runs
		wait "$pid" || :
	done
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# start NAME PORT PROGRAM ARGS... sets address to that where the program listens; port 0 is any.
start() {
	name=$1 port=$2
	shift 2
	# In a session of its own, which Ctrl-C does not end.
	setsid "$@" --web.listen-address="127.0.0.1:$port" >"$data/$name.log" 2>&1 9<&- &
	pid=$!
	pids="$pid $pids"
	for _ in $(seq 600); do
		address=$(sed -n 's/.*Listening on.*address=\([0-9.:]*\).*/\1/p' "$data/$name.log" | tail -n 1)
		[ -z "$address" ] || return 0
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	tail -n 3 "$data/$name.log" >&2
	fail "$name does not listen on 127.0.0.1:$port; DEMO_PORT chooses another"
}
port() { if [ -n "${DEMO_PORT:-}" ]; then echo $((DEMO_PORT + $1)); else echo 0; fi; }

rm -rf "$data"
mkdir -p "$data"
echo $$ >"$data/pid"
cp monitoring/alerts.yml "$data/"
printf 'groups: [{name: demo, rules: [{alert: Watchdog, expr: vector(1), labels: {severity: ticket}}]}]\n' >"$data/demo.yml"
say 'Pushgateway, Alertmanager and Prometheus, with the files of monitoring/; then spool local'

set -- "$PWD/scripts/demo-monitoring.sh" inside "$@"
if command -v prometheus-pushgateway >/dev/null; then
	start pushgateway "$(port 0)" prometheus-pushgateway --persistence.file="$data/groups"
	set -- --port-base 0 -- "$@"
else
	echo 'prometheus-pushgateway is not installed (apt install it): the one of spool local takes its place'
	address=127.0.0.1:$((${DEMO_PORT:-9790} + 5))
	set -- --port-base $((${DEMO_PORT:-9790} + 3)) -- "$@"
fi
gateway=$address
# A second in place of 30 and 15, so that nobody waits. Where the others are is all that differs besides.
sed 's/group_wait: 30s/group_wait: 1s/' monitoring/alertmanager.yml >"$data/alertmanager.yml"
start alertmanager "$(port 1)" prometheus-alertmanager --config.file="$data/alertmanager.yml" --storage.path="$data/alertmanager" \
	--cluster.listen-address=
alertmanager=$address
sed -e "s/pushgateway:9091/$gateway/; s/alertmanager:9093/$alertmanager/; s/_interval: 15s/_interval: 1s/" \
	-e 's/rule_files: \[alerts.yml\]/rule_files: [alerts.yml, demo.yml]/' monitoring/prometheus.yml >"$data/prometheus.yml"
start prometheus "$(port 2)" prometheus --config.file="$data/prometheus.yml" --storage.tsdb.path="$data/prometheus" \
	--rules.alert.resend-delay=5s # an alert that fires before Alertmanager is known is not sent

# Six times 200 questions, each with an id of its own, and one that asks for more tokens than there can be.
for n in $(seq "${DEMO_COPIES:-6}"); do
	sed "s/\"custom_id\": \"/&$n-/" examples/gsm8k.jsonl
done >"$data/questions.jsonl"
head -n 1 examples/gsm8k.jsonl | sed 's/"custom_id": "[^"]*"/"custom_id": "too-long"/; s/"max_tokens": [0-9]*/"max_tokens": 10000000/' >>"$data/questions.jsonl"

export PUSHGATEWAY_URL="http://$gateway" ALERTMANAGER_URL="http://$alertmanager" PROMETHEUS_URL="http://$address" SPOOL="$spool"
export PATH="${spool%/*}:$PATH"
[ ! -t 0 ] || [ ! -t 1 ] || export DEMO_STAY=1
# In the background, so that signals are heard at once.
# shellcheck disable=SC2086 # arguments
setsid "$spool" local --data "$data" ${DEMO_ARGS:---runners 3 --idle 3s --sim-time-scale 0.1} "$@" 9<&- &
pids="$! $pids"
wait $!
