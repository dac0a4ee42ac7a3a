#!/usr/bin/env bash
# Runs a command in one process on all or some GPUs of this host.
#
# Usage: launch/multi_gpu.sh [--gpus=0,1,...] [--dry-run] -m MODULE ARGUMENTS
#
#   launch/multi_gpu.sh -m maskgit_jax.train --config=configs/maskgit.py:imagenet256
#   launch/multi_gpu.sh --gpus=0,1 -m maskgit_jax.train --config=configs/vqgan.py:cifar10
#
# Everything from -m on goes to python ($PYTHON, default python). Settings: launch/gpu_flags.sh.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
# shellcheck source=launch/gpu_flags.sh
source "$(dirname "$0")/gpu_flags.sh"

settings=("${gpu_environment[@]}")
while (($#)); do
    case $1 in
        --help) usage ;;
        --dry-run) dry_run=yes ;;
        --gpus=*)
            gpus=${1#*=}
            [[ $gpus =~ ^[0-9]+(,[0-9]+)*$ ]] || fail "--gpus is '$gpus'; use numbers, as in 0,1"
            settings+=("CUDA_VISIBLE_DEVICES=$gpus")
            ;;
        -m) break ;;
        *) fail "unknown argument '$1'; see launch/multi_gpu.sh --help" ;;
    esac
    shift
done
require_command "$@"

command=(env "${settings[@]}" "${PYTHON:-python}" "$@")
if [[ -n $dry_run ]]; then
    run "${command[@]}"
else
    exec "${command[@]}" # so that signals reach the trainer, which saves on SIGTERM and Ctrl-C
fi
