#!/usr/bin/env bash
# All settings of XLA, JAX and the driver for NVIDIA GPUs.
#
# Usage: launch/gpu_flags.sh [--dry-run | --help]
#
# Prints the settings as `export` lines, for a command of your own: eval "$(launch/gpu_flags.sh)".
# launch/multi_gpu.sh and launch/slurm.sbatch source it, which fills the array gpu_environment.
# Your own settings win: your XLA_FLAGS follow these, and XLA takes the last of repeated flags;
# other variables are set only if they are unset.

# XLA aborts on unknown flags, so these are flags that jaxlib 0.10, 0.11 and 0.12 accept
# (tests/launch checks the installed version).
# Sources: docs.jax.dev "GPU performance tips", NVIDIA's JAX-Toolbox docs/GPU_performance.md.
xla_flags=(
    # Schedules collectives to overlap with computation that does not need their results. The other
    # flags about overlap have no effect without it.
    --xla_gpu_enable_latency_hiding_scheduler=true

    # Layers are one loop (lax.scan). Across its iterations: fsdp gathers the next layer's
    # parameters while this one computes, and gradients of the layer before are summed meanwhile.
    --xla_gpu_enable_pipelined_all_gather=true
    --xla_gpu_enable_pipelined_reduce_scatter=true
    --xla_gpu_enable_pipelined_all_reduce=true

    # Unrolls that loop by two, so that parameters gathered ahead need not be copied.
    --xla_gpu_enable_while_loop_double_buffering=true

    # Small collectives waste bandwidth and one huge one cannot overlap. For gather and scatter
    # a whole layer should fit: 7.1 million parameters, 28 MB in float32, of the largest MaskGIT.
    # The all-reduce of data parallelism sums 690 MB then in eleven parts behind the backward pass.
    --xla_gpu_all_gather_combine_threshold_bytes=67108864
    --xla_gpu_reduce_scatter_combine_threshold_bytes=67108864
    --xla_gpu_all_reduce_combine_threshold_bytes=67108864

    # Tries Triton besides cuBLAS for each matrix product, and keeps the faster one.
    --xla_gpu_triton_gemm_any=true
)

# Omitted on purpose: CUDA_DEVICE_MAX_CONNECTIONS=1 (helps Hopper, slows Blackwell down),
# NCCL_NVLS_ENABLE (NCCL chooses well by itself), async_all_reduce and its like, and
# enable_highest_priority_async_stream (on by default now).
gpu_environment=(
    "XLA_FLAGS=${xla_flags[*]}${XLA_FLAGS:+ $XLA_FLAGS}"
    # JAX takes three quarters by default; a tenth is enough for NCCL and cuDNN.
    "XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}"
    # Restarts and later jobs of the same shape need not compile again.
    "JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/maskgit_jax/compiled}"
    # Without it, JAX would silently train on the CPU if the driver is broken.
    "JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}"
)

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    set -euo pipefail
    # shellcheck source=launch/common.sh
    source "$(dirname "$0")/common.sh"
    case ${1:-} in
        --help) usage ;;
        '' | --dry-run) for setting in "${gpu_environment[@]}"; do quoted export "$setting"; done ;;
        *) fail "unknown argument '$1'; see launch/gpu_flags.sh --help" ;;
    esac
fi
