"""What blocks keep of their activations for the backward pass.

The rest is computed again there (rematerialised). A policy names the values
that are kept: layers name their results (`product`, `attended`), and one table
says which names a policy keeps.
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import TypeVar

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name


M = TypeVar('M', bound=nn.Module)

_PRODUCT, _ATTENDED, _FUSED = 'product', 'attended', 'fused'
# cuDNN's attention names nothing; its primitive gives the result and what its
# gradient needs of the softmax.
_CUDNN = 'dot_product_attention_fwd_wrapper'

_policies = jax.checkpoint_policies


def _keeps_attended(primitive: Any, *args: Any, **params: Any) -> Any:
  named = _policies.save_only_these_names(_ATTENDED, _FUSED)
  return primitive.name == _CUDNN or named(primitive, *args, **params)


# By the value of `config.remat`, from the most memory to the least. What is
# kept besides the input of each block:
POLICIES: Mapping[str, Callable[..., Any] | None] = {
  # All that the backward pass reads; nothing is computed again.
  'none': None,
  # The results of layers with weights and of the flash kernel; norms,
  # activations and other attention are computed again, which is little
  # arithmetic.
  'products': _policies.save_only_these_names(_PRODUCT, _FUSED),
  # The same, in the memory of the host: copies to it and back run beside the
  # arithmetic.
  'offload': _policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[_PRODUCT, _FUSED],
    offload_src='device',
    offload_dst='pinned_host',
  ),
  # The results of attention. Layers are computed again, and of XLA's attention
  # what its gradient needs of the softmax.
  'attention': _keeps_attended,
  # Nothing: another forward pass.
  'full': _policies.nothing_saveable,
}
NONE, OFFLOAD, FULL = 'none', 'offload', 'full'


def product(y: jax.Array) -> jax.Array:
  """Names the result of a layer with weights."""
  return checkpoint_name(y, _PRODUCT)


def attended(y: jax.Array) -> jax.Array:
  """Names a result of attention."""
  return checkpoint_name(y, _ATTENDED)


def fused(y: jax.Array) -> jax.Array:
  """Names what a kernel of attention keeps for its gradient, its result too."""
  return checkpoint_name(y, _FUSED)


def check(policy: str, platform: str) -> None:
  """Raises ValueError if a platform cannot do what `config.remat` says."""
  if policy == OFFLOAD and platform == 'cpu':
    raise ValueError(
      f'config.remat is {OFFLOAD!r}, which needs devices with a memory apart'
      f' from that of their host; this is a CPU: take {FULL!r}'
    )


def wrapped(
  module: type[M],
  policy: str,
  static: tuple[int, ...] = (),
  in_loop: bool = False,
) -> type[M]:
  """Returns a class of modules that computes activations again.

  Args:
    module: the class of a block.
    policy: a key of `POLICIES`.
    static: places of the arguments of `__call__` that are not arrays, `self`
      counted.
    in_loop: whether it is called within a `lax.scan`, where nothing has to
      keep the compiler from reusing the first computation for the second.
  """
  if policy not in POLICIES:
    raise ValueError(f'remat is {policy!r}, allowed: {", ".join(POLICIES)}.')
  if policy == NONE:
    return module
  return nn.remat(
    module,
    prevent_cse=not in_loop,
    static_argnums=static,
    policy=POLICIES[policy],
  )
