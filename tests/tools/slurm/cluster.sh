#!/usr/bin/env bash
# A Slurm of two nodes on loopback, all of it below one folder.
#   cluster.sh start FOLDER     ends when the nodes are idle; their configuration is FOLDER/slurm.conf
#   cluster.sh kill FOLDER NODE   all processes of a node
#   cluster.sh stop FOLDER      by process id
# Needs the programs of Debian's slurmctld, slurmd, slurm-client and munge. Where devices can be made the nodes also
# have two GPUs each, in name only. AGE: seconds for which ended jobs are known.
set -eu
here=$(dirname "$(readlink -f "$0")")
export PATH=/usr/sbin:/sbin:$PATH
stop() {
    for file in slurmd.n1.pid slurmd.n2.pid ctld.pid munge/pid; do
        pid=$(cat "$1/$file" 2>/dev/null) || continue
        kill -CONT "$pid" 2>/dev/null || true
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
    done
    # What job steps left: they have the folder of their node open.
    for pid in $(pgrep -x slurmstepd || true); do
        if ls -l "/proc/$pid/fd" 2>/dev/null | grep -q " $1/"; then kill -9 "$pid" 2>/dev/null || true; fi
    done
}
[ $# -ge 2 ] || { sed -n 2,8p "$0"; exit 2; }
dir=$(mkdir -p "$2" && readlink -f "$2")
case $1 in
stop) stop "$dir" ;;
kill)
    # First those that could still tell the controller of an end, then what they had started.
    kill -9 "$(cat "$dir/slurmd.$3.pid")"
    for pid in $(pgrep -x slurmstepd || true); do
        if ls -l "/proc/$pid/fd" 2>/dev/null | grep -q " $dir/slurmd.$3.log"; then kill -9 "$pid"; fi
    done
    for environment in /proc/[0-9]*/environ; do
        pid=${environment#/proc/}
        if tr '\0' '\n' < "$environment" 2>/dev/null | grep -qx "SLURMD_NODENAME=$3" &&
            tr '\0' '\n' < "$environment" 2>/dev/null | grep -qx "SLURM_CONF=$dir/slurm.conf"; then
            kill -9 "${pid%/environ}" 2>/dev/null || true
        fi
    done
    ;;
start)
    mkdir -p "$dir"/{state,spool.n1,spool.n2,tmp.n1,tmp.n2,munge}
    chmod 755 "$dir" "$dir/munge"
    # Free ports, asked of the kernel, so that several clusters live side by side.
    read -r p0 p1 p2 < <(python3 -c '
import socket
s = [socket.socket() for _ in range(3)]
[x.bind(("127.0.0.1", 0)) for x in s]
print(*[x.getsockname()[1] for x in s])')
    sed -e "s#@DIR@#$dir#g" -e "s#@PORT@#$p0#" -e "s#@PORT1@#$p1#" -e "s#@PORT2@#$p2#" -e "s#@AGE@#${AGE:-300}#" \
        -e "s#@USER@#$(id -un)#" "$here/slurm.conf" > "$dir/slurm.conf"
    # Root may make devices in most places, but not in every container.
    if mknod "$dir/gpu0" c 1 3 2>/dev/null && mknod "$dir/gpu1" c 1 3 2>/dev/null; then
        sed "s#@DIR@#$dir#g" "$here/gres.conf" > "$dir/gres.conf"
    else
        sed -i -e '/^GresTypes/d' -e 's/ Gres=[^ ]*//' "$dir/slurm.conf"
    fi
    export SLURM_CONF="$dir/slurm.conf"
    [ -s "$dir/munge/key" ] || (umask 077; head -c 1024 /dev/urandom > "$dir/munge/key")
    munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
        --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" >/dev/null
    slurmctld -f "$SLURM_CONF"
    slurmd -N n1 -f "$SLURM_CONF"
    slurmd -N n2 -f "$SLURM_CONF"
    for _ in $(seq 150); do
        [ "$(sinfo -h -N -p main -o %T 2>/dev/null | grep -c '^idle$')" = 2 ] && exit 0
        sleep 0.2
    done
    echo "the nodes are not idle after 30 s" >&2
    tail -n 5 "$dir"/ctld.log "$dir"/slurmd.n?.log >&2
    stop "$dir"
    exit 1
    ;;
esac
