#!/usr/bin/env bash
# Trains on a Cloud TPU slice with one or many workers, from its creation to the end of training.
#
# Usage: launch/tpu_pod.sh VERB --name=NAME --zone=ZONE --project=PROJECT [OPTIONS]
#
#   run ... -m MODULE ARGUMENTS   creates the slice, or reuses the one of this name; installs the
#                                 checked-out commit on all workers; starts the same command on
#                                 all, detached; follows the log of worker 0. If the slice is
#                                 preempted, starts again with a new one, and the trainer resumes
#                                 from its checkpoint. Ends with the exit code of the command. After
#                                 Ctrl-C the training continues; the same call follows it again.
#   logs [--worker=0]             follows a worker's log
#   status                        shows the request, the slice and the command on every worker
#   stop                          asks the trainer to save and end
#   delete                        deletes the slice, which is billed until then
#
# Options of run:
#   --type=v5litepod-16     slice: v2 v3 v4 v5litepod v5p v6e, a dash, and the number in its name
#   --spot | --reserved     cheap and preemptible | from your reservation
#   --bucket=NAME           mounts the Cloud Storage bucket at /mnt/runs on all workers, for
#                           --workdir=/mnt/runs/...; it should have a hierarchical namespace
#   --no-bucket             no bucket; a slice of many workers then needs other shared storage
#   --max-restarts=10       number of restarts
#   --delete-at-end         deletes the slice when the command has ended, successfully or not
#   --env=NAME=VALUE        environment of the command; may be given more than once
#   --runtime-version=V     image of the workers; default by --type
#   --create-flag=FLAG      more for `queued-resources create`; may be given more than once
#   --poll=30               seconds between queries of the state
# All verbs: --dry-run prints the commands, assuming that none fails, and runs none.
#
#   launch/tpu_pod.sh run --name=maskgit --zone=us-central2-b --project=mine --type=v4-32 --spot \
#       --bucket=my-runs -m maskgit_jax.train --config=configs/maskgit.py:imagenet256 \
#       --workdir=/mnt/runs/maskgit
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

root=$(cd "$(dirname "$0")/.." && pwd)
verb='' name='' zone='' project='' type='' runtime='' tier='' bucket='' no_bucket='' delete_at_end=''
worker=0 max_restarts=10 poll=30
settings=() create_flags=() command=()
created='' restarts=0

parse() {
    case ${1:-} in
        run | logs | status | stop | delete) verb=$1 ;;
        '' | --help) usage ;;
        *) fail "unknown verb '$1'; see launch/tpu_pod.sh --help" ;;
    esac
    shift
    while (($#)); do
        case $1 in
            --help) usage ;;
            --dry-run) dry_run=yes ;;
            --name=*) name=${1#*=} ;;
            --zone=*) zone=${1#*=} ;;
            --project=*) project=${1#*=} ;;
            --type=*) type=${1#*=} ;;
            --runtime-version=*) runtime=${1#*=} ;;
            --spot | --reserved)
                [[ -z $tier || $tier == "$1" ]] || fail "--spot and --reserved exclude each other"
                tier=$1
                ;;
            --bucket=*) bucket=${1#*=} ;;
            --no-bucket) no_bucket=yes ;;
            --max-restarts=*) max_restarts=${1#*=} ;;
            --delete-at-end) delete_at_end=yes ;;
            --env=[A-Z]*=*) settings+=("${1#*=}") ;;
            --env=*) fail "$1: it is written --env=NAME=VALUE, the name in capitals" ;;
            --create-flag=*) create_flags+=("${1#*=}") ;;
            --worker=*) worker=${1#*=} ;;
            --poll=*) poll=${1#*=} ;;
            -m) break ;;
            *) fail "unknown argument '$1'; see launch/tpu_pod.sh --help" ;;
        esac
        shift
    done
    command=("$@")
}

check() {
    [[ $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] ||
        fail "--name is '$name'; use lowercase letters, digits and dashes"
    [[ -n $zone ]] || fail "--zone is missing, such as --zone=us-central2-b"
    [[ -n $project ]] || fail "--project is missing; gcloud projects list shows yours"
    require_number --worker "$worker"
    if [[ $verb != run ]]; then
        ((${#command[@]} == 0)) || fail "$verb takes no command"
        return
    fi
    [[ $type =~ ^(v[234]|v5litepod|v5p|v6e)-[0-9]+$ ]] ||
        fail "--type is '$type'; it must be such as v4-32, v5litepod-16, v5p-64, v6e-256 (for" \
            "later TPUs use launch/xpk.sh)"
    require_number --max-restarts "$max_restarts"
    [[ $poll =~ ^[0-9.]+$ ]] || fail "--poll is '$poll'; it must be a number of seconds"
    require_command "${command[@]}"
    [[ -z $bucket || -z $no_bucket ]] || fail "--bucket and --no-bucket exclude each other"
    [[ $bucket != *[!a-z0-9._-]* ]] || fail "--bucket is '$bucket'; give its name, without gs://"
    if [[ -z $bucket ]]; then
        # Slices of up to 8 cores or chips are one machine, of all types.
        ((${type##*-} <= 8)) || [[ -n $no_bucket ]] ||
            fail "the workers of $type must share run directories: give --bucket=NAME, or" \
                "--no-bucket if they do otherwise"
        note "no bucket: files on the disk of the slice are lost with the slice"
    elif [[ ${command[*]} != *--workdir=/mnt/runs/* ]]; then
        note "the command has no --workdir=/mnt/runs/...; only files there outlive the slice"
    fi
    [[ -n $runtime ]] || case $type in # cloud.google.com/tpu/docs/runtimes
        v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
        v5p-*) runtime=v2-alpha-tpuv5 ;;
        v6e-*) runtime=v2-alpha-tpuv6e ;;
        *) runtime=tpu-ubuntu2204-base ;;
    esac
}

# --- Google Cloud ------------------------------------------------------------------------------
# States are queried with `list`: for a missing slice it prints nothing, whereas `describe` fails.

request_state() {
    ask "${created:+ACTIVE}" gcloud compute tpus queued-resources list --zone="$zone" \
        --project="$project" --filter="name~/$name\$" --format='value(state.state)'
}

node_state() {
    ask READY gcloud compute tpus tpu-vm list --zone="$zone" \
        --project="$project" --filter="name~/$name\$" --format='value(state)'
}

create_slice() {
    run gcloud compute tpus queued-resources create "$name" --node-id="$name" \
        --zone="$zone" --project="$project" --accelerator-type="$type" \
        --runtime-version="$runtime" ${tier:+"$tier"} "${create_flags[@]}"
}

delete_slice() { # --force: together with its machines
    run gcloud compute tpus queued-resources delete "$name" --zone="$zone" --project="$project" \
        --force --quiet
}

on_workers() { # WORKER ASSUMED COMMAND; a dead connection ends in 2 minutes
    ask "$2" gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --project="$project" \
        --worker="$1" --ssh-flag='-o ServerAliveInterval=30 -o ServerAliveCountMax=4' --command="$3"
}

worker_script() { # WORKER ASSUMED ARGUMENTS...
    on_workers "$1" "$2" "bash maskgit_jax/launch/tpu_worker.sh $(quoted "${@:3}")"
}

# --- the slice ---------------------------------------------------------------------------------

# Prints ready, absent, "waiting ...", unknown if gcloud fails, or one of the states that lead to
# absent: failed, taken (preempted), leaving.
slice_state() {
    local request node
    if ! request=$(request_state); then
        echo unknown
        return
    fi
    case $request in
        ACTIVE) ;;
        '') echo absent && return ;;
        FAILED) echo failed && return ;;
        SUSPENDED) echo taken && return ;;
        SUSPENDING | DELETING) echo leaving && return ;;
        *) echo "waiting ($request)" && return ;;
    esac
    node=$(node_state) || node=unknown
    case $node in
        READY) echo ready ;;
        PREEMPTED | TERMINATED | STOPP*) echo taken ;;
        *) echo "waiting (machines: ${node:-none})" ;;
    esac
}

count_restart() { # REASON
    ((restarts < max_restarts)) || die "$1, and --max-restarts=$max_restarts is reached; the same" \
        "call resumes from the last checkpoint"
    restarts=$((restarts + 1))
    note "$1: restart $restarts of at most $max_restarts"
}

# Returns when the slice is ready; sets `created` if it is new.
obtain_slice() {
    local state before=''
    created=''
    while :; do
        state=$(slice_state)
        [[ $state == "$before" ]] || note "slice $name: $state"
        case $state in
            ready) return ;;
            absent)
                [[ -z $created ]] || die "the request was deleted"
                create_slice
                created=yes
                continue
                ;;
            failed | taken) # such a request keeps its name in use
                if [[ -n $created && $state == failed ]]; then
                    gcloud compute tpus queued-resources describe "$name" --zone="$zone" \
                        --project="$project" --format='yaml(state)' >&2 || true
                    die "the request for $type failed, see above"
                fi
                [[ -z $created ]] || count_restart "the slice was preempted before it was ready"
                delete_slice || note "deleting failed, see above"
                created=''
                ;;
            unknown) [[ -n $before ]] || die "gcloud failed, see above" ;;
        esac
        before=$state
        sleep "$poll"
    done
}

# --- the training ------------------------------------------------------------------------------

# Once per call, so that a restart installs the same commit.
pack() {
    archive=${XDG_CACHE_HOME:-$HOME/.cache}/maskgit_jax/$name.tar.gz
    [[ -z $(ask '' git -C "$root" status --porcelain) ]] ||
        note "uncommitted changes are not copied to the workers"
    run mkdir -p "${archive%/*}"
    run git -C "$root" archive --format=tar.gz --output="$archive" HEAD
}

install_and_start() {
    run gcloud compute tpus tpu-vm scp "$archive" "$name:maskgit_jax.tar.gz" --zone="$zone" \
        --project="$project" --worker=all &&
        on_workers all '' "mkdir -p maskgit_jax &&$(
        ) tar -xzf maskgit_jax.tar.gz -C maskgit_jax &&$(
        ) bash maskgit_jax/launch/tpu_worker.sh install $bucket" &&
        worker_script all '' start "${settings[@]}" "${command[@]}"
}

# Prints the state of the command on all workers together: finished, running, gone (a worker was
# rebooted), "failed CODE", or unreachable.
training_state() {
    local answers code
    answers=$(worker_script all 'training: exit 0' status) || answers=''
    code=$(sed -n 's/^training: exit \([1-9][0-9]*\)$/\1/p' <<<"$answers" | head -n1)
    case $answers in
        *'training: '*) ;;
        *) echo unreachable && return ;;
    esac
    if [[ -n $code && $code != 143 ]]; then
        echo "failed $code"
    elif [[ $code == 143 || $answers == *'training: gone'* ]]; then
        echo gone
    elif [[ $answers == *'training: running'* ]]; then
        echo running
    else
        echo finished
    fi
}

# Follows the log and returns when the training has ended, with `outcome` finished, gone, lost or
# "failed CODE".
follow() { # LINES
    local lines=$1 slice before=running
    while :; do
        if [[ $before == running || $before == unreachable ]]; then
            worker_script 0 '' logs "$lines" || true # a broken connection does not end the training
            lines=20
        fi
        outcome=$(training_state)
        [[ $outcome == "$before" ]] || note "the training is $outcome"
        case $outcome in
            finished) return ;;
            running) ;;
            *)
                slice=$(slice_state)
                case $slice in
                    absent | failed | taken | leaving)
                        outcome=lost
                        return
                        ;;
                esac
                # Processes die some seconds before the slice counts as preempted, so a second query
                # must confirm the outcome.
                if [[ $slice == ready && $outcome == "$before" && $outcome != unreachable ]]; then
                    return
                fi
                ;;
        esac
        before=$outcome
        sleep "$poll"
    done
}

train() {
    local attach=''
    trap 'note "the training continues; the same call follows it again"; exit 130' INT
    pack
    obtain_slice
    [[ -n $created || $(training_state) != running ]] || attach=yes
    while :; do
        if [[ -n $attach ]]; then
            note "following a command that already runs"
            attach=''
            follow 20
        elif install_and_start; then
            follow +1
        else
            ((restarts > 0)) || [[ $(slice_state) != ready ]] || die "the start failed, see above"
            outcome='not started'
        fi
        case $outcome in
            finished | failed*) break ;;
            lost) count_restart "the slice was preempted" ;;
            gone) count_restart "the training was interrupted" ;;
            *) count_restart "the start failed" ;;
        esac
        obtain_slice
    done
    if [[ -n $delete_at_end ]]; then
        delete_slice
    else
        note "billed until it is deleted: $(quoted "$0" delete --name="$name" --zone="$zone" \
            --project="$project")"
    fi
    if [[ $outcome != finished ]]; then
        printf 'error: the command failed with exit code %s\n' "${outcome#failed }" >&2
        exit "${outcome#failed }"
    fi
}

show_status() {
    local request node
    request=$(request_state)
    node=$(node_state)
    [[ -n $dry_run ]] || printf 'request: %s\nslice: %s\n' "${request:-none}" "${node:-none}"
    if [[ -n $dry_run || $node == READY ]]; then
        worker_script all '' status
    fi
}

parse "$@"
check
case $verb in
    run) train ;;
    logs) worker_script "$worker" '' logs +1 ;;
    status) show_status ;;
    stop) worker_script 0 '' stop ;; # the trainer stops the other processes
    delete) delete_slice ;;
esac
