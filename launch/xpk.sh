#!/usr/bin/env bash
# Trains on Cloud TPUs in a GKE cluster that xpk creates; the cluster queues jobs, runs them on one
# or several slices, and restarts them when slices are preempted.
#
# Usage: launch/xpk.sh VERB --cluster=CLUSTER --zone=ZONE --project=PROJECT [OPTIONS]
#
#   create-cluster --type=TYPE [--num-slices=1] --spot|--on-demand|--flex|--reservation=R
#   attach-bucket --bucket=NAME   registers a Cloud Storage bucket with the cluster, for /mnt/runs
#   run --name=JOB --type=TYPE [--num-slices=1] --bucket=NAME|--no-bucket
#       --image=I|--base-image=I [--max-restarts=10] [--env=NAME=VALUE]... -m MODULE ARGUMENTS
#                                 queues a job; the same command runs in every worker's container
#   list                          shows the jobs
#   wait --name=JOB               waits until the job ends; exit code 0 if it succeeded
#   logs --name=JOB               follows the log of its first worker
#   delete --name=JOB             stops and deletes the job
#   delete-cluster                deletes the cluster, which is billed until then
#
# TYPE is such as v5litepod-16 or v6e-256. --image, of launch/Dockerfile, runs as it is;
# --base-image has the dependencies; the checked-out commit is added to it.
# All verbs: --dry-run prints the commands and runs none.
#
#   launch/xpk.sh run --cluster=pods --zone=us-east5-b --project=mine --name=maskgit \
#       --type=v6e-256 --num-slices=2 --bucket=my-runs --image=gcr.io/mine/maskgit:1 \
#       -m maskgit_jax.train --config=configs/maskgit.py:imagenet256 --workdir=/mnt/runs/maskgit
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

root=$(cd "$(dirname "$0")/.." && pwd)
cluster='' zone='' project='' name='' type='' tier='' bucket='' no_bucket='' image='' base_image=''
num_slices=1 max_restarts=10
settings=()

case ${1:-} in
    create-cluster | attach-bucket | run | list | wait | logs | delete | delete-cluster) verb=$1 ;;
    '' | --help) usage ;;
    *) fail "unknown verb '$1'; see launch/xpk.sh --help" ;;
esac
shift
while (($#)); do
    case $1 in
        --help) usage ;;
        --dry-run) dry_run=yes ;;
        --cluster=*) cluster=${1#*=} ;;
        --zone=*) zone=${1#*=} ;;
        --project=*) project=${1#*=} ;;
        --name=*) name=${1#*=} ;;
        --type=*) type=${1#*=} ;;
        --num-slices=*) num_slices=${1#*=} ;;
        --spot | --on-demand | --flex | --reservation=?*)
            [[ -z $tier || $tier == "$1" ]] || fail "$tier and $1 exclude each other"
            tier=$1
            ;;
        --bucket=*) bucket=${1#*=} ;;
        --no-bucket) no_bucket=yes ;;
        --image=*) image=${1#*=} ;;
        --base-image=*) base_image=${1#*=} ;;
        --max-restarts=*) max_restarts=${1#*=} ;;
        --env=[A-Z]*=*) settings+=("$1") ;;
        --env=*) fail "$1: it is written --env=NAME=VALUE, the name in capitals" ;;
        -m) break ;;
        *) fail "unknown argument '$1'; see launch/xpk.sh --help" ;;
    esac
    shift
done

require_name() { # OPTION VALUE: names that xpk accepts
    [[ $2 =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ && ${#2} -le 40 ]] ||
        fail "$1 is '$2'; it must be up to 40 lowercase letters, digits and dashes"
}
require_name --cluster "$cluster"
[[ -n $zone ]] || fail "--zone is missing, such as --zone=us-east5-b"
[[ -n $project ]] || fail "--project is missing; gcloud projects list shows yours"
[[ $verb == run || $# -eq 0 ]] || fail "$verb takes no command"
case $verb in run | wait | logs | delete) require_name --name "$name" ;; esac
case $verb in
    run | create-cluster)
        [[ $type =~ ^[a-z0-9]+-[0-9x]+$ ]] || fail "--type is '$type'; use one such as v5litepod-16"
        [[ $num_slices =~ ^[1-9][0-9]*$ ]] || fail "--num-slices is '$num_slices'; it must be positive"
        ;;
esac

where=(--cluster="$cluster" --zone="$zone" --project="$project")
what=(--tpu-type="$type" --num-slices="$num_slices")

create_cluster() {
    [[ -n $tier ]] || fail "choose: --spot, --on-demand, --flex or --reservation=NAME"
    run xpk cluster create "${where[@]}" "${what[@]}" "$tier" --enable-gcsfuse-csi-driver
}

attach_bucket() {
    [[ $bucket =~ ^[a-z0-9][a-z0-9.-]*$ ]] || fail "--bucket is '$bucket'; it must be the" \
        "name of a bucket, without gs:// and, for Kubernetes, without _"
    # launch/tpu_worker.sh explains the mount options. xpk requires a size, which limits nothing;
    # --auto-mount=false because jobs name their storage.
    run xpk storage attach "$bucket" "${where[@]}" --type=gcsfuse --bucket="$bucket" --size=1 \
        --mount-point=/mnt/runs --readonly=false --auto-mount=false --no-prefetch-metadata \
        --mount-options="implicit-dirs,rename-dir-limit=200000,metadata-cache:ttl-secs:0,$(
        )metadata-cache:negative-ttl-secs:0"
}

run_job() {
    require_number --max-restarts "$max_restarts"
    require_command "$@"
    [[ -n $bucket || -n $no_bucket ]] || fail "the disk of a container is not persistent: give" \
        "--bucket=NAME, or --no-bucket if the command writes elsewhere"
    [[ -z $bucket || -z $no_bucket ]] || fail "--bucket and --no-bucket exclude each other"
    [[ -n $image || -n $base_image ]] || fail "--image or --base-image is missing"
    [[ -z $image || -z $base_image ]] || fail "--image and --base-image exclude each other"
    local container=(--docker-image="$image")
    if [[ -n $base_image ]]; then
        # xpk copies a whole directory: give it the commit, not environments, runs and secrets.
        local copy=${XDG_CACHE_HOME:-$HOME/.cache}/maskgit_jax/xpk-$name
        run rm -rf "$copy"
        run mkdir -p "$copy"
        run git -C "$root" archive --format=tar --output="$copy.tar" HEAD
        run tar -xf "$copy.tar" -C "$copy"
        container=(--base-docker-image="$base_image" --script-dir="$copy")
    fi
    # 120 seconds to save when a pod is evicted; spot machines allow less.
    run xpk workload create --workload="$name" "${where[@]}" "${what[@]}" \
        --max-restarts="$max_restarts" --termination-grace-period-seconds=120 \
        ${bucket:+--storage="$bucket"} --env=PYTHONUNBUFFERED=1 --env=JAX_PLATFORMS=tpu,cpu \
        "${settings[@]}" "${container[@]}" \
        --command="bash launch/container_main.sh $(quoted "$@")"
}

case $verb in
    create-cluster) create_cluster ;;
    attach-bucket) attach_bucket ;;
    run) run_job "$@" ;;
    list) run xpk workload list "${where[@]}" ;;
    wait) run xpk workload list "${where[@]}" --wait-for-job-completion="$name" ;;
    logs)
        labels=jobset.sigs.k8s.io/jobset-name=$name,jobset.sigs.k8s.io/job-index=0
        run kubectl logs --follow --all-containers --tail=-1 \
            --selector="$labels,batch.kubernetes.io/job-completion-index=0"
        ;;
    delete) run xpk workload delete "${where[@]}" --workload="$name" --force ;;
    delete-cluster) run xpk cluster delete "${where[@]}" --force ;;
esac
