#!/usr/bin/env bash
# Runs on each worker of a TPU slice: launch/tpu_pod.sh copies it there and calls it over ssh.
#
# Usage: launch/tpu_worker.sh VERB
#
#   install [BUCKET]                    installs Python and the package; mounts BUCKET at /mnt/runs
#   start [NAME=VALUE...] -m MODULE...  starts the command in the background; kills a running one
#   status                              prints "training: running", "exit CODE" or "gone"
#   logs LINES                          follows the log to the end; LINES as for tail, +1 is all
#   stop                                makes the command save and end
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

root=$(cd "$(dirname "$0")/.." && pwd)
venv=$HOME/maskgit_jax_venv
state=$HOME/maskgit_jax_run # log, exit code, process ids, and a lock that a running command holds
mount=/mnt/runs

install_package() {
    # TPU VM images are Ubuntu 22.04 with Python 3.10; uv installs a newer one without root.
    export PATH=$HOME/.local/bin:$PATH
    command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
    uv venv --allow-existing --python=3.12 "$venv"
    uv pip install --python="$venv" --editable "${root}[tpu]"
    [[ -z ${1:-} ]] || mount_bucket "$1"
}

mount_bucket() {
    if mountpoint --quiet "$mount"; then
        [[ $(findmnt --noheadings --output=SOURCE "$mount") == "$1" ]] ||
            die "another bucket than $1 is mounted at $mount; delete the slice first"
        return
    fi
    command -v gcsfuse >/dev/null || install_gcsfuse
    sudo install --directory --owner="$(id -un)" "$mount"
    # Orbax finishes a checkpoint by renaming its directory: one operation in a bucket with a
    # hierarchical namespace; in others gcsfuse refuses, or copies file by file up to the limit. On
    # TPU machines gcsfuse caches metadata forever, but other workers write to the bucket too.
    gcsfuse --implicit-dirs --rename-dir-limit=200000 \
        --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 "$1" "$mount"
}

install_gcsfuse() {
    local key=/usr/share/keyrings/cloud.google.asc packages=https://packages.cloud.google.com/apt
    local apt=(sudo apt-get --quiet --option=DPkg::Lock::Timeout=300) # Ubuntu updates after boot
    curl -fsSL "$packages/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] $packages gcsfuse-$(lsb_release -cs) main" |
        sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    "${apt[@]}" update
    "${apt[@]}" --yes install gcsfuse
}

start() {
    # TPU first: without a TPU the command must fail instead of running on the CPU.
    local settings=(PYTHONUNBUFFERED=1 "JAX_PLATFORMS=tpu,cpu")
    if mountpoint --quiet "$mount"; then # so that the next slice need not compile
        settings+=("JAX_COMPILATION_CACHE_DIR=$mount/.compiled")
    fi
    while [[ ${1:-} == [A-Z]*=* ]]; do
        settings+=("$1")
        shift
    done
    require_command "$@"
    mkdir -p "$state"
    exec 9>>"$state/lock"
    if ! flock --nonblock 9; then
        kill -KILL -- "-$(<"$state/group")" || true
        flock --timeout 60 9 || die "the running command cannot be killed"
    fi
    rm -f "$state/exit_code"
    [[ ! -e $state/log ]] || mv "$state/log" "$state/log.before"
    # A new session outlives the ssh connection; it holds the lock (9) until it ends.
    setsid nohup bash "$0" supervise "${settings[@]}" "$venv/bin/python" "$@" \
        >"$state/log" 2>&1 </dev/null &
    echo $! >"$state/group"
}

# supervise NAME=VALUE... COMMAND...: runs the command and keeps its exit code.
supervise() {
    # A preempted worker sends SIGTERM to all its processes. The trainer then saves and ends with 0,
    # as if it had finished; only this shell can tell the difference.
    local code=0 stopped=''
    trap 'stopped=yes' TERM
    cd "$root"
    env "$@" &
    echo $! >"$state/process"
    wait $! || code=$?
    while kill -0 $! 2>/dev/null; do # a signal ended the wait, not the command
        code=0
        wait $! || code=$?
    done
    [[ -z $stopped ]] || code=143
    echo "$code" >"$state/exit_code.new"
    mv "$state/exit_code.new" "$state/exit_code"
}

status() {
    if [[ -e $state/exit_code ]]; then
        echo "training: exit $(<"$state/exit_code")"
    elif [[ -e $state/lock ]] && ! flock --nonblock "$state/lock" true; then
        echo "training: running"
    else
        echo "training: gone"
    fi
}

verb=${1:---help}
shift || true
case $verb in
    install) install_package "$@" ;;
    start | supervise | status) "$verb" "$@" ;;
    logs) tail --sleep-interval=0.2 --lines="$1" --follow --pid="$(<"$state/group")" "$state/log" ;;
    stop) kill -TERM "$(<"$state/process")" ;;
    --help) usage ;;
    *) fail "unknown verb '$verb'; see launch/tpu_worker.sh --help" ;;
esac
