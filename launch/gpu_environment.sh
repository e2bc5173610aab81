# shellcheck shell=bash
# To be sourced. Sets `gpu_environment`, NAME=VALUE words for runs on NVIDIA GPUs; what the caller's environment sets has priority.
# None of it was timed here: compare with `python -m cvmae.bench` before and after.
flags=(
  # Moves collectives so that they run beside computation; without effect on one GPU. NVIDIA's JAX images set it:
  # https://docs.nvidia.com/jax-toolbox/environment-variables
  --xla_gpu_enable_latency_hiding_scheduler=true
  # Triton may compile every matrix product that it supports, with what surrounds it; XLA times it against cuBLAS and takes the faster.
  # https://docs.jax.dev/en/latest/gpu_performance_tips.html
  --xla_gpu_triton_gemm_any=true
)
gpu_environment=(
  "XLA_FLAGS=${flags[*]}${XLA_FLAGS:+ $XLA_FLAGS}" # of a flag given twice, XLA takes the last
)
# JAX takes 0.75 of the memory by default, and of 80 GB that leaves 20 unused: https://docs.jax.dev/en/latest/gpu_memory_allocation.html
# NVIDIA sets 0.8 or 0.9, as its libraries need a part: https://docs.nvidia.com/jax-toolbox/performance-profiling/gpu-performance
# JAX refuses the new name beside the old one, XLA_PYTHON_CLIENT_MEM_FRACTION.
if [[ -z ${XLA_PYTHON_CLIENT_MEM_FRACTION:-} ]]; then
  gpu_environment+=("XLA_CLIENT_MEM_FRACTION=${XLA_CLIENT_MEM_FRACTION:-0.9}")
fi
# Compiled programs: config.compilation_cache keeps them in ~/.cache, which outlives a run here. Where the home folder does not,
# tpu_vm.sh and gke.sh set JAX_COMPILATION_CACHE_DIR. https://docs.jax.dev/en/latest/persistent_compilation_cache.html
