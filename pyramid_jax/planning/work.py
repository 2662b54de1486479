"""The floating-point operations of an instruction of a compiled program.

Counted are products and convolutions, two operations for each multiplication,
as `distributed/flops.py` counts them before the compiler has seen them.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import math
import re

from pyramid_jax.planning import hlo


# Kernels of Pallas and Triton, whose work their text does not say.
_KERNELS = frozenset(
  {
    '__gpu$xla.gpu.triton',
    'mosaic_gpu',
    'mosaic_gpu_v2',
    'tpu_custom_call',
    'triton_kernel_call',
  }
)
# Products that attention makes of its queries and keys, by a part of the name
# of the kernel: the forward pass two; the gradient of the queries repeats one
# and adds two; those of keys and values repeat one and add three.
_ATTENTION = (('bwd_dq', 3), ('dkv', 4), ('bwd', 5), ('flash', 2), ('atten', 2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
  """What an instruction computes."""

  flops: int
  dtype: str  # of the factors, as XLA names it


def of(place: hlo.Computation, instruction: hlo.Instruction) -> Work | None:
  """Returns the products of an instruction, None if it makes none.

  What it calls (the computation of a fusion) is not included.
  """
  if instruction.opcode == 'custom-call':
    target = instruction.attribute('custom_call_target').strip('"')
    rule = next((r for name, r in _CALLS.items() if name in target), None)
  else:
    rule = _RULES.get(instruction.opcode)
  count = rule(place, instruction) if rule else 0
  if not count:
    return None
  dtype = place.operands(instruction)[0].arrays[0].dtype
  return Work(flops=2 * count, dtype=dtype)


def is_opaque(instruction: hlo.Instruction) -> bool:
  """Whether an instruction is a kernel of one's own."""
  target = instruction.attribute('custom_call_target').strip('"')
  return instruction.opcode == 'custom-call' and target in _KERNELS


def _numbers(text: str) -> list[int]:
  return [int(n) for n in re.findall(r'\d+', text)]


def _factors(
  place: hlo.Computation, instruction: hlo.Instruction
) -> list[hlo.Array]:
  return [i.arrays[0] for i in place.operands(instruction)]


def _product(place: hlo.Computation, instruction: hlo.Instruction) -> int:
  left = _factors(place, instruction)[0]
  axes = _numbers(instruction.attribute('lhs_contracting_dims'))
  contracted = math.prod(left.dims[axis] for axis in axes)
  return instruction.arrays[0].size * contracted


def _matrices(place: hlo.Computation, instruction: hlo.Instruction) -> int:
  """A product of cuBLAS, which has its dimensions in its configuration."""
  found = re.search(
    r'"lhs_contracting_dimensions":\[([^\]]*)\]', instruction.attributes
  )
  left = _factors(place, instruction)[0]
  axes = _numbers(found[1]) if found else []
  contracted = math.prod(left.dims[axis] for axis in axes)
  return instruction.arrays[0].size * contracted


@dataclasses.dataclass(frozen=True)
class Window:
  """One spatial dimension of a convolution.

  XLA on TPUs also writes products as convolutions, whose further dimensions
  are spatial ones.
  """

  inputs: int
  kernel: int
  outputs: int
  dilation: int  # of the inputs

  @property
  def products(self) -> int:
    """Pairs of an input and a value of the kernel, those in the padding too.

    No pair occurs twice for an input and a value of the kernel, for an output
    and a value of the kernel, or for an input and an output.
    """
    return min(
      self.inputs * self.kernel,
      -(-self.outputs * self.kernel // self.dilation),
      self.inputs * self.outputs,
    )


def windows(
  labels: str, sizes: tuple[hlo.Array, hlo.Array, hlo.Array], window: str
) -> list[Window]:
  """Returns the spatial dimensions of a convolution.

  Args:
    labels: of the dimensions, 'b01f_01io->b01f': inputs, kernel, outputs.
    sizes: the arrays in that order.
    window: the attribute of its name, '{size=3x3 lhs_dilate=2x2}'.
  """
  parts = re.split(r'_|->', labels)
  found = re.search(r'lhs_dilate=([\dx]+)', window)
  dilations = _numbers(found[1]) if found else []
  result = []
  for axis in sorted(set(parts[0]) - {'b', 'f'}):
    inputs, kernel, outputs = (
      array.dims[part.index(axis)]
      for part, array in zip(parts, sizes, strict=True)
    )
    dilation = dilations[int(axis)] if dilations else 1
    result.append(Window(inputs, kernel, outputs, dilation))
  return result


def _convolved(
  labels: str, sizes: tuple[hlo.Array, hlo.Array, hlo.Array], window: str
) -> int:
  _, kernel, outputs = re.split(r'_|->', labels)
  channels = sizes[1].dims[kernel.index('i')]
  rest = math.prod(sizes[2].dims[outputs.index(axis)] for axis in 'bf')
  spatial = (w.products for w in windows(labels, sizes, window))
  return rest * channels * math.prod(spatial)


def _convolution(place: hlo.Computation, instruction: hlo.Instruction) -> int:
  left, right = _factors(place, instruction)[:2]
  return _convolved(
    instruction.attribute('dim_labels'),
    (left, right, instruction.arrays[0]),
    instruction.attribute('window'),
  )


def _cudnn(place: hlo.Computation, instruction: hlo.Instruction) -> int:
  """A convolution of cuDNN; gradients keep the labels of the forward one."""
  result = instruction.arrays[0]
  left, right = _factors(place, instruction)[:2]
  target = instruction.attribute('custom_call_target')
  if 'BackwardInput' in target:
    sizes = (result, right, left)
  elif 'BackwardFilter' in target:
    sizes = (left, result, right)
  else:
    sizes = (left, right, result)
  labels = instruction.attribute('dim_labels')
  return _convolved(labels, sizes, instruction.attribute('window'))


def _fused(place: hlo.Computation, instruction: hlo.Instruction) -> int:
  """Attention of cuDNN: q (B, T, N, D), k (B, S, N, D)."""
  query, key = _factors(place, instruction)[:2]
  is_gradient = 'Backward' in instruction.attribute('custom_call_target')
  return (5 if is_gradient else 2) * query.size * key.dims[1]


def _kernel(place: hlo.Computation, instruction: hlo.Instruction) -> int:
  """What a kernel says, or attention: q (.., T, D), k (.., S, D)."""
  said = re.search(r'"cost_estimate":\{"flops":"?(\d+)', instruction.attributes)
  if said:
    return int(said[1]) // 2
  name = instruction.op_name.rpartition('/pallas_call')[0].rpartition('/')[2]
  count = next((n for part, n in _ATTENTION if part in name), 0)
  factors = _factors(place, instruction)
  if not count or len(factors) < 3 or len(factors[1].dims) < 2:
    return 0
  return count * factors[0].size * factors[1].dims[-2]


_Rule = Callable[[hlo.Computation, hlo.Instruction], int]
_RULES: Mapping[str, _Rule] = {'convolution': _convolution, 'dot': _product}
# By a part of the target; the first that fits.
_CALLS: Mapping[str, _Rule] = {
  '__cublas$': _matrices,
  '__cudnn$conv': _cudnn,
  '__cudnn$fmha': _fused,
  'tpu_custom_call': _kernel,
  'triton': _kernel,
  'mosaic_gpu': _kernel,
}
