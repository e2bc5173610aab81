"""NVIDIA GPUs that `cvmae.plan` compiles for: their published numbers, and the description of one that XLA's compiler asks for.

Sources, all per GPU in its SXM form (L4: PCIe):
  A100 80 GB  "NVIDIA A100 Tensor Core GPU Architecture" (white paper) and the data sheet of the A100 80 GB.
  H100, H200  "NVIDIA H100 Tensor Core GPU Architecture" (white paper) and the data sheets of H100 and H200.
  B200        the data sheet of HGX B200 (an eighth of it, without sparsity).
  L4          "NVIDIA Ada GPU Architecture" (white paper) and the data sheet of the L4.
Shared memory, registers and threads: "Technical Specifications per Compute Capability" in the CUDA C++ Programming Guide.
Bytes of memory: what CUDA reports for the card, as in XLA's own descriptions (openxla/xla, xla/backends/gpu/target_config/specs);
of the L4, whose memory has error correction, 22 GiB of 24.
"""

import dataclasses

# Of a GPU's memory that JAX takes, as launch/gpu_environment.sh sets it; JAX's own default is 0.75.
MEMORY_FRACTION = 0.9
# The least version of cuDNN that the extra plan-gpu installs; XLA decides by it which kernels there are.
CUDNN = (9, 8)


@dataclasses.dataclass(frozen=True)
class GPU:
    """The published numbers of a GPU.

    Attributes:
      device: its name, as the driver gives it.
      capability: compute capability, (major, minor).
      memory: bytes of main memory.
      bandwidth: bytes of it per second.
      flops: bfloat16 operations per second of the tensor cores, without sparsity.
      float32: float32 operations per second without tensor cores, which is what a product at `Precision.HIGHEST` takes.
      links: bytes that it sends to the other GPUs of its host per second: half of NVLink's figure, which is of both directions.
      multiprocessors: their number.
      cores: float32 units of each.
      shared: bytes of shared memory of each.
      threads: that each can hold.
      l2: bytes of the cache that they share.
    """

    device: str
    capability: tuple[int, int]
    memory: int
    bandwidth: float
    flops: float
    float32: float
    links: float
    multiprocessors: int
    cores: int
    shared: int
    threads: int
    l2: int

    @property
    def clock(self) -> float:
        """Cycles per second at which the float32 units reach their published rate, two operations a cycle each."""
        return self.float32 / (2 * self.multiprocessors * self.cores)


KIB = 2**10
GPUS = {
    "a100-80": GPU("NVIDIA A100-SXM4-80GB", (8, 0), 85100068864, 2039e9, 312e12, 19.5e12, 300e9, 108, 64, 164 * KIB, 2048, 40960 * KIB),
    "h100": GPU("NVIDIA H100 80GB HBM3", (9, 0), 84942979072, 3352e9, 989e12, 67e12, 450e9, 132, 128, 228 * KIB, 2048, 51200 * KIB),
    "h200": GPU("NVIDIA H200", (9, 0), 151397597184, 4800e9, 989e12, 67e12, 450e9, 132, 128, 228 * KIB, 2048, 51200 * KIB),
    "b200": GPU("NVIDIA B200", (10, 0), 191514411008, 7700e9, 2250e12, 75e12, 900e9, 148, 128, 228 * KIB, 2048, 129536 * KIB),
    "l4": GPU("NVIDIA L4", (8, 9), 22 * 2**30, 300e9, 121e12, 30.3e12, 32e9, 58, 128, 100 * KIB, 1536, 49152 * KIB),
}  # fmt: skip


def target_config(gpu: GPU) -> str:
    """Returns the text form of XLA's `GpuTargetConfigProto` (xla/stream_executor/device_description.proto) for a GPU."""
    major, minor = gpu.capability
    return f"""gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: {48 * KIB}
  shared_memory_per_block_optin: {gpu.shared - KIB}
  shared_memory_per_core: {gpu.shared}
  threads_per_core_limit: {gpu.threads}
  core_count: {gpu.multiprocessors}
  fpus_per_core: {gpu.cores}
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
  memory_bandwidth: {gpu.bandwidth:.0f}
  l2_cache_size: {gpu.l2}
  clock_rate_ghz: {gpu.clock / 1e9:.3f}
  device_memory_size: {gpu.memory}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: {CUDNN[0]} minor: {CUDNN[1]} }}
device_description_str: "{gpu.device}"
"""
