#!/usr/bin/env bash
# Starts a SLURM cluster of two simulated nodes on this machine: nothing outside DIR is written, no systemd, any user.
#   up.sh DIR PORT        (PORT and the two after it must be free)        then: . DIR/env.sh
set -euo pipefail
dir=$(realpath -m "${1:?usage: up.sh DIR PORT}") port=${2:?usage: up.sh DIR PORT}
user=$(id -un) host=$(hostname -s)
mkdir -p "$dir"/{etc,log,pid,state,gpu,munge,bin,spool/c1,spool/c2}
chmod 755 "$dir" "$dir/munge"
# a GPU is a device file; the processes only see its number
for gpu in 0 1 2 3 4 5 6 7; do ln -s /dev/null "$dir/gpu/nvidia$gpu"; done
(umask 077 && head -c 1024 /dev/urandom >"$dir/etc/munge.key")

# cred_expire: how long a requeued job waits. config_overrides: nodes may say that they have more CPUs than there are.
# pgid: no cgroups, and orphans are killed as by cgroups. OverMemoryKill: memory limits hold without cgroups.
# MinJobAge: squeue still shows jobs that have ended. EnforcePartLimits: what can never run is refused at once.
cat >"$dir/etc/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$dir/munge/munge.socket,cred_expire=5
CryptoType=crypto/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort=$port
SlurmctldPidFile=$dir/pid/slurmctld.pid
SlurmdPidFile=$dir/pid/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
ReturnToService=2
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=100000,sched_interval=2,bf_interval=2,batch_sched_delay=0
MinJobAge=600
KillWait=10
EnforcePartLimits=ALL
InactiveLimit=0
SlurmctldTimeout=60
SlurmdTimeout=60
GresTypes=gpu
NodeName=c1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=8 Boards=1 SocketsPerBoard=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=512000 Gres=gpu:h100:8 State=UNKNOWN
NodeName=c2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=8 Boards=1 SocketsPerBoard=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=512000 Gres=gpu:h100:8 State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES DefaultTime=10 MaxTime=1-0 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=spot Nodes=ALL DefaultTime=10 MaxTime=1-0 PriorityTier=1 PreemptMode=REQUEUE GraceTime=0 State=UP
CONF
cat >"$dir/etc/gres.conf" <<CONF
AutoDetect=off
NodeName=c[1-2] Name=gpu Type=h100 File=$dir/gpu/nvidia[0-7]
CONF
# The executor's job step drops every variable of SLURM before it calls srun, and with them where the cluster is.
for command in salloc sbatch scancel scontrol sinfo squeue srun; do
    printf '#!/bin/sh\nexport SLURM_CONF="${SLURM_CONF:-%s}"\nexec %s "$@"\n' "$dir/etc/slurm.conf" "$(command -v "$command")" >"$dir/bin/$command"
    chmod 755 "$dir/bin/$command"
done
printf 'export SLURM_CONF=%s PATH=%s:$PATH\n' "$dir/etc/slurm.conf" "$dir/bin" >"$dir/env.sh"

. "$dir/env.sh"
PATH=$PATH:/usr/sbin
munged --force --key-file="$dir/etc/munge.key" --socket="$dir/munge/munge.socket" --pid-file="$dir/pid/munged.pid" \
    --log-file="$dir/log/munged.log" --seed-file="$dir/munge/seed" --num-threads=2
slurmctld -i
slurmd -N c1
slurmd -N c2
for _ in $(seq 300); do
    [[ $(sinfo --noheader --Node --partition=gpu --states=idle | wc -l) == 2 ]] && exit 0
    sleep 0.1
done
tail -n 20 "$dir"/log/*.log >&2
exit 1
