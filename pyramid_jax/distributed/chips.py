"""What accelerators can do: a table by the name that jax gives a device.

Rates are those of dense products, as the makers publish them: NVIDIA prints
twice as much for sparse ones. A TPU of the generations 2, 3 and 7 is two
devices of jax, each with half of the chip.

Sources: docs.cloud.google.com/tpu/docs (v2 to v6e, tpu7x) and
jax: _src/pallas/mosaic/tpu_info.py for TPUs; the data sheets of NVIDIA for
GPUs. Links of TPUs: jax-ml/scaling-book: tpus.md, which has nine tenths of what
the documentation says (v5e 400, v5p 1,200, v6e 800 GB/s for all links of a chip
in both directions); tpu7x, which is not there, has the links of v5p by its
documentation. The network between slices: the same file, and for tpu7x its
documentation (100 Gbit/s a chip). GPUs of a node: one direction of NVLink, or
of PCIe for cards without it; between nodes: one adapter for each GPU, as in
NVIDIA's DGX A100 (200 Gbit/s), H100, H200 and B200 (400 Gbit/s).
"""

from collections.abc import Mapping
import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Links:
  """What one device of jax can send to others, in bytes/s."""

  # To the neighbors along one axis of a torus, both directions together; or
  # through the switch of a node.
  near: float
  far: float  # to other slices of TPUs or other nodes: its share of the network
  # An axis of a torus whose length this divides is closed to a ring; 0 stands
  # for a switch.
  wraps: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """What one device of jax can do."""

  bfloat16: float  # FLOP/s of products in bfloat16, the sum in float32
  # FLOP/s of products of float32 arrays at jax's default precision: TF32 on a
  # GPU that has it, one pass in bfloat16 on a TPU.
  float32: float
  memory_bytes: float  # of its HBM
  bandwidth: float  # bytes/s of its HBM
  links: Links | None  # None where they were not looked up

  def peak(self, dtype: str) -> float:
    """Returns the FLOP/s of products in the element type of activations."""
    is_half = jnp.dtype(dtype).itemsize == 2
    return self.bfloat16 if is_half else self.float32


def _tpu(
  teraflops: float,
  gibibytes: float,
  gigabytes_per_sec: float,
  links: Links | None = None,
) -> Chip:
  return Chip(
    bfloat16=teraflops * 1e12,
    float32=teraflops * 1e12,
    memory_bytes=gibibytes * 2**30,
    bandwidth=gigabytes_per_sec * 1e9,
    links=links,
  )


def _gpu(
  teraflops: float,
  tf32: float,
  gigabytes: float,
  gigabytes_per_sec: float,
  links: Links,
) -> Chip:
  return Chip(
    bfloat16=teraflops * 1e12,
    float32=tf32 * 1e12,
    memory_bytes=gigabytes * 1e9,
    bandwidth=gigabytes_per_sec * 1e9,
    links=links,
  )


# Pods of v5e and v6e are 16 x 16 chips: only the whole length is a ring.
_V4 = Links(near=90e9, far=6.25e9, wraps=4)
_V5E = Links(near=90e9, far=3.125e9, wraps=16)
_V5P = Links(near=180e9, far=6.25e9, wraps=4)
_V6E = Links(near=180e9, far=12.5e9, wraps=16)
_TPU7X = Links(near=90e9, far=6.25e9, wraps=4)  # of half a chip
_NVLINK3 = Links(near=300e9, far=25e9, wraps=0)
_NVLINK4 = Links(near=450e9, far=50e9, wraps=0)
_NVLINK5 = Links(near=900e9, far=50e9, wraps=0)
_PCIE4 = Links(near=32e9, far=25e9, wraps=0)
_PCIE5 = Links(near=64e9, far=50e9, wraps=0)

# By `jax.Device.device_kind`.
CHIPS: Mapping[str, Chip] = {
  'TPU v2': _tpu(23, 8, 350),
  'TPU v3': _tpu(61.5, 16, 450),
  'TPU v4': _tpu(275, 32, 1200, _V4),
  'TPU v5 lite': _tpu(197, 16, 819, _V5E),
  'TPU v5e': _tpu(197, 16, 819, _V5E),
  'TPU v5': _tpu(459, 95, 2765, _V5P),
  'TPU v5p': _tpu(459, 95, 2765, _V5P),
  'TPU v6 lite': _tpu(918, 32, 1638, _V6E),
  'TPU v6e': _tpu(918, 32, 1638, _V6E),
  'TPU7x': _tpu(1153.5, 96, 3690, _TPU7X),
  'NVIDIA A100-SXM4-40GB': _gpu(312, 156, 40, 1555, _NVLINK3),
  'NVIDIA A100-SXM4-80GB': _gpu(312, 156, 80, 2039, _NVLINK3),
  'NVIDIA A100-PCIE-40GB': _gpu(312, 156, 40, 1555, _PCIE4),
  'NVIDIA A100 80GB PCIe': _gpu(312, 156, 80, 1935, _PCIE4),
  'NVIDIA H100 80GB HBM3': _gpu(989, 494.5, 80, 3350, _NVLINK4),
  'NVIDIA H100 PCIe': _gpu(756, 378, 80, 2000, _PCIE5),
  'NVIDIA H200': _gpu(989, 494.5, 141, 4800, _NVLINK4),
  'NVIDIA B200': _gpu(2250, 1125, 180, 8000, _NVLINK5),
}


def of_kind(kind: str) -> Chip | None:
  """Returns what a device of a kind can do; None of an unknown one or a CPU."""
  return CHIPS.get(kind)
