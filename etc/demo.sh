#!/bin/sh
# What `make run` shows, on one machine: an aggregator with the embedded store, an agent that delivers to it and
# prints to the terminal, and a question to the store.
#
#     demo.sh BPFLEET CONFIG [DURATION]
set -eu
bpfleet=$1 config=$2 duration=${3:-}
here=$(dirname "$0")
aggregator=$here/demo-aggregator.toml

# A terminal's Ctrl-C reaches all of us; the aggregator is to end last, when the agent has delivered.
setsid "$bpfleet" aggregate --config "$aggregator" &
central=$!
end() {
	kill -TERM "$central" 2>/dev/null || true
	wait "$central" 2>/dev/null || true
}
trap end EXIT
trap : INT TERM

status=0
"$bpfleet" run --config "$config" ${duration:+--duration "$duration"} || status=$?

question="SELECT host, comm, sum(count) AS started FROM execve_counts_rate
GROUP BY host, comm ORDER BY started DESC, comm LIMIT 5"
echo
echo "bpfleet query \"$question\""
"$bpfleet" query --config "$aggregator" "$question" || status=$?
exit "$status"
