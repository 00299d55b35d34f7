#!/usr/bin/env bash
# A SLURM cluster of two nodes on this machine, from Debian's packages, for `make test-slurm`.
#
#   lab.sh up               install SLURM if necessary, and start the cluster; restarts it if it is running
#   lab.sh down             stop the cluster; the packages stay installed
#   lab.sh node NAME        start the slurmd of a node again
#   lab.sh run COMMAND...   start the cluster, run a command with SLURM_CONF set, and stop the cluster
#
# Everything is written below $SLURM_LAB, except two host names in /etc/hosts. The two nodes share this machine's kernel
# and file system. Memory limits require the controllers of cgroup v1; without them, or with SLURM_LAB_PROCTRACK=linuxproc
# and SLURM_LAB_TASK=none, SLURM finds the processes of a job by their parents and does not limit their memory.
set -euo pipefail

lab=${SLURM_LAB:-/var/tmp/aimnet2mult-slurm}
port=${SLURM_LAB_PORT:-16817}
nodes=(slurm-n1 slurm-n2)
hosts_line="127.0.0.1 ${nodes[*]} # aimnet2mult: make test-slurm"
export SLURM_CONF=$lab/slurm.conf

die() {
    echo "lab.sh: error: $*" >&2
    exit 1
}

check_machine() {
    [ "$(id -u)" -eq 0 ] || die "starting SLURM requires root"
    if ! command -v slurmctld >/dev/null && ! command -v apt-get >/dev/null; then
        die "SLURM is installed from Debian's packages, but there is no apt-get; install slurmctld, slurmd and munge"
    fi
}

install_packages() {
    command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && return
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null
}

has_cgroup_v1() {
    local controller
    for controller in freezer memory cpuset devices; do
        [ -w "/sys/fs/cgroup/$controller/tasks" ] || return 1
        # In a container, the files of the host may be mounted read-only.
        mkdir "/sys/fs/cgroup/$controller/slurm-lab-$$" 2>/dev/null || return 1
        rmdir "/sys/fs/cgroup/$controller/slurm-lab-$$"
    done
}

choose_plugins() {
    proctrack=linuxproc task=none
    if has_cgroup_v1; then proctrack=cgroup task=cgroup; fi
    proctrack=${SLURM_LAB_PROCTRACK:-$proctrack} task=${SLURM_LAB_TASK:-$task}
}

write_cgroup_configuration() {
    rm -f "$lab/cgroup.conf"
    case $proctrack/$task in *cgroup*) ;; *) return ;; esac
    cat >"$lab/cgroup.conf" <<-CONF
	CgroupPlugin=cgroup/v1
	ConstrainRAMSpace=yes
	CONF
}

# cred_expire, in seconds, also delays requeued jobs; sched_interval and bf_interval shorten the wait for a start.
# On a busy machine, SLURM's commands need longer timeouts than the default.
write_configuration() {
    local host
    host=$(hostname -s)
    cat >"$SLURM_CONF" <<-CONF
	ClusterName=lab
	SlurmctldHost=$host(127.0.0.1)
	SlurmctldPort=$port
	SlurmUser=root
	AuthType=auth/munge
	CredType=cred/munge
	AuthInfo=cred_expire=5
	StateSaveLocation=$lab/state
	SlurmdSpoolDir=$lab/spool.%n
	SlurmctldPidFile=$lab/slurmctld.pid
	SlurmdPidFile=$lab/slurmd.%n.pid
	SlurmctldLogFile=$lab/slurmctld.log
	SlurmdLogFile=$lab/%n.log
	ProctrackType=proctrack/$proctrack
	TaskPlugin=task/$task
	MpiDefault=none
	SelectType=select/cons_tres
	SelectTypeParameters=CR_Core_Memory
	DefMemPerNode=3000
	SchedulerParameters=sched_interval=2,batch_sched_delay=1,bf_interval=2
	PreemptType=preempt/partition_prio
	PreemptMode=REQUEUE
	KillWait=10
	SlurmdParameters=config_overrides
	SlurmdTimeout=20
	MessageTimeout=60
	TCPTimeout=30
	$(describe_nodes "$host")
	PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
	PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
	CONF
}

describe_nodes() {
    local name number=0
    for name in "${nodes[@]}"; do
        number=$((number + 1))
        echo "NodeName=$name NodeHostname=$1 NodeAddr=127.0.0.1 Port=$((port + number)) CPUs=8 RealMemory=9000"
    done
}

# Ranks meet at the name of the first node. In a container, /etc/hosts can be rewritten but not replaced.
name_hosts() {
    grep -qF "$hosts_line" /etc/hosts || echo "$hosts_line" >>/etc/hosts
}

forget_hosts() {
    local others
    others=$(grep -vF "$hosts_line" /etc/hosts) && echo "$others" >/etc/hosts
}

# start NAME COMMAND...: start a daemon in its own session, and note its process.
start() {
    local name=$1
    shift
    setsid "$@" >>"$lab/$name.out" 2>&1 </dev/null &
    echo $! >"$lab/$name.started"
}

start_munge() {
    pidof munged >/dev/null && return
    mkdir -p /run/munge
    chown munge /run/munge
    start munged setpriv --reuid=munge --regid=munge --clear-groups munged --foreground
    for _ in $(seq 100); do [ -S /run/munge/munge.socket.2 ] && return; sleep 0.1; done
    die "munged did not start; see $lab/munged.out"
}

start_node() {
    start "$1" slurmd -D -f "$SLURM_CONF" -N "$1"
}

count_idle() {
    sinfo --noheader --partition=main --states=idle --Node --format=%N 2>/dev/null | wc -l
}

wait_until_idle() {
    local name
    for _ in $(seq 60); do
        [ "$(count_idle)" -eq ${#nodes[@]} ] && return
        is_running slurmctld || break
        for name in "${nodes[@]}"; do scontrol update nodename="$name" state=resume 2>/dev/null || true; done
        sleep 1
    done
    tail -n 5 "$lab"/*.out >&2
    die "the nodes are not idle; see the logs in $lab"
}

up() {
    check_machine
    install_packages
    down
    mkdir -p "$lab/state"
    for name in "${nodes[@]}"; do mkdir -p "$lab/spool.$name"; done
    name_hosts
    start_munge
    choose_plugins
    write_cgroup_configuration
    write_configuration
    start slurmctld slurmctld -D -c -f "$SLURM_CONF"
    for name in "${nodes[@]}"; do start_node "$name"; done
    wait_until_idle
    echo "SLURM is running; export SLURM_CONF=$SLURM_CONF"
}

# is_running NAME: whether a daemon of the cluster is running; its process number may have been reused.
is_running() {
    [ -e "$lab/$1.started" ] && grep -qE '^(slurm|munge)' "/proc/$(cat "$lab/$1.started")/comm" 2>/dev/null
}

# The processes of a job would outlive the daemons.
cancel_jobs() {
    is_running slurmctld && timeout 20 scancel --user="$(id -un)" || return 0
    for _ in $(seq 60); do
        [ -n "$(timeout 20 squeue --noheader)" ] || return 0
        sleep 0.5
    done
}

down() {
    local file name
    cancel_jobs
    for file in "$lab"/slurm*.started "$lab"/munged.started; do
        name=$(basename "$file" .started)
        if is_running "$name"; then
            kill "$(cat "$file")"
            tail --pid="$(cat "$file")" -f /dev/null
        fi
        rm -f "$file"
    done
    forget_hosts || true
}

case ${1:-} in
    up | down) "$1" ;;
    node) start_node "$2" ;;
    run)
        shift
        check_machine
        trap down EXIT
        up
        "$@"
        ;;
    *) die "usage: lab.sh up | down | node NAME | run COMMAND..." ;;
esac
