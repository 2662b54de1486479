"""What accelerators can do: a table by the name that jax gives a device.

Rates are those of dense products, as the makers publish them: NVIDIA prints
twice as much for sparse ones. A TPU of the generations 2, 3 and 7 is two
devices of jax, each with half of the chip.

Sources: docs.cloud.google.com/tpu/docs (v2 to v6e, tpu7x) and
jax: _src/pallas/mosaic/tpu_info.py for TPUs; the data sheets of NVIDIA for
GPUs.
"""

from collections.abc import Mapping
import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """What one device of jax can do."""

  bfloat16: float  # FLOP/s of products in bfloat16, the sum in float32
  # FLOP/s of products of float32 arrays at jax's default precision: TF32 on a
  # GPU that has it, one pass in bfloat16 on a TPU.
  float32: float
  memory_bytes: float  # of its HBM
  bandwidth: float  # bytes/s of its HBM

  def peak(self, dtype: str) -> float:
    """Returns the FLOP/s of products in the element type of activations."""
    is_half = jnp.dtype(dtype).itemsize == 2
    return self.bfloat16 if is_half else self.float32


def _tpu(teraflops: float, gibibytes: float, gigabytes_per_sec: float) -> Chip:
  return Chip(
    bfloat16=teraflops * 1e12,
    float32=teraflops * 1e12,
    memory_bytes=gibibytes * 2**30,
    bandwidth=gigabytes_per_sec * 1e9,
  )


def _gpu(
  teraflops: float, tf32: float, gigabytes: float, gigabytes_per_sec: float
) -> Chip:
  return Chip(
    bfloat16=teraflops * 1e12,
    float32=tf32 * 1e12,
    memory_bytes=gigabytes * 1e9,
    bandwidth=gigabytes_per_sec * 1e9,
  )


# By `jax.Device.device_kind`.
CHIPS: Mapping[str, Chip] = {
  'TPU v2': _tpu(23, 8, 350),
  'TPU v3': _tpu(61.5, 16, 450),
  'TPU v4': _tpu(275, 32, 1200),
  'TPU v5 lite': _tpu(197, 16, 819),
  'TPU v5e': _tpu(197, 16, 819),
  'TPU v5': _tpu(459, 95, 2765),
  'TPU v5p': _tpu(459, 95, 2765),
  'TPU v6 lite': _tpu(918, 32, 1638),
  'TPU v6e': _tpu(918, 32, 1638),
  'TPU7x': _tpu(1153.5, 96, 3690),
  'NVIDIA A100-SXM4-40GB': _gpu(312, 156, 40, 1555),
  'NVIDIA A100-SXM4-80GB': _gpu(312, 156, 80, 2039),
  'NVIDIA A100-PCIE-40GB': _gpu(312, 156, 40, 1555),
  'NVIDIA A100 80GB PCIe': _gpu(312, 156, 80, 1935),
  'NVIDIA H100 80GB HBM3': _gpu(989, 494.5, 80, 3350),
  'NVIDIA H100 PCIe': _gpu(756, 378, 80, 2000),
  'NVIDIA H200': _gpu(989, 494.5, 141, 4800),
  'NVIDIA B200': _gpu(2250, 1125, 180, 8000),
}


def of_kind(kind: str) -> Chip | None:
  """Returns what a device of a kind can do; None of an unknown one or a CPU."""
  return CHIPS.get(kind)
