#!/usr/bin/env bash
# Ends the jobs and the daemons of the cluster in DIR, and no other process: down.sh DIR
dir=$(realpath -m "${1:?usage: down.sh DIR}")
. "$dir/env.sh"

running() { [[ -d /proc/$1 ]] && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null; }

scancel --me
for _ in $(seq 150); do
    [[ -z $(squeue --noheader --me) ]] && break
    sleep 0.1
done
for file in "$dir"/pid/slurmd-c1.pid "$dir"/pid/slurmd-c2.pid "$dir"/pid/slurmctld.pid "$dir"/pid/munged.pid; do
    pid=$(cat "$file") || continue
    case $(cat "/proc/$pid/comm") in slurmd | slurmctld | munged) ;; *) continue ;; esac
    kill -TERM "$pid"
    for _ in $(seq 150); do
        running "$pid" || break
        sleep 0.1
    done
done
