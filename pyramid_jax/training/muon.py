"""Muon, whose matrices are shared among the devices of a mesh.

Muon (arXiv:2502.16982) orthogonalises the momentum of whole matrices. Momentum
is split over all devices as other moments are, for which each device gets the
gradients of its part. To orthogonalise, devices exchange parts for whole
matrices: those of equal shapes are stacked, each device works on its share of
the stack, and gets the updates of its own parts back. So a device sends and
receives about its part of the weights twice, and no matrix is orthogonalised
twice.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import optax
import optax.contrib


# Of an update, as large as one of Adam (arXiv:2502.16982).
RMS = 0.2
DECAY = 0.95  # of the momentum
# Of the quintic iteration (Jordan, modded-nanogpt), and how often it runs.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5

# Updates -> their shardings, trees of equal structure.
Shardings = Callable[[Any], Any]


def create(
  rate: optax.Schedule,
  *,
  eps: float,
  weight_decay: float,
  adam: optax.GradientTransformation,
  shardings: Shardings | None = None,
) -> optax.GradientTransformation:
  """Returns Muon for kernels, and `adam` for all else.

  Args:
    rate: number of finished updates -> learning rate.
    eps: is added to the norms of matrices.
    weight_decay: of kernels, times the rate.
    adam: moves biases, norms, embeddings and codebooks.
    shardings: of updates over all devices; None for one device.
  """
  kernels = optax.chain(
    _momentum(),
    optax.stateless(
      lambda updates, _: _orthogonal(updates, eps, shardings or _nowhere)
    ),
    optax.add_decayed_weights(weight_decay),
    optax.scale_by_learning_rate(rate),
  )
  return optax.partition({'muon': kernels, 'adam': adam}, _labels)


def _labels(params: Any) -> Any:
  """Names what moves each weight.

  A convolution's kernel is a matrix from its window to the output channels;
  the first of three axes counts layers that are scanned.
  """

  def label(path, leaf):
    is_matrix = path[-1].key == 'kernel' and leaf.ndim in (2, 3, 4)
    return 'muon' if is_matrix else 'adam'

  return jax.tree_util.tree_map_with_path(label, params)


def _nowhere(tree: Any) -> Any:
  return jax.tree.map(lambda x: None, tree)


def _momentum() -> optax.GradientTransformation:
  """Averages gradients and looks ahead (Nesterov), as `optax.contrib.muon`."""

  def init(params):
    return optax.contrib.MuonState(
      count=jnp.zeros((), jnp.int32),
      mu=jax.tree.map(jnp.zeros_like, params),
      ns_coeffs=jnp.asarray(COEFFICIENTS),
    )

  def update(grads, state, params=None):
    del params
    count = optax.safe_increment(state.count)
    mu = optax.tree.update_moment(grads, state.mu, DECAY, 1)
    after = optax.tree.bias_correction(mu, DECAY, optax.safe_increment(count))
    now = optax.tree.bias_correction(grads, DECAY, count)
    ahead = lambda m, g: DECAY * m + (1 - DECAY) * g
    updates = jax.tree.map(ahead, after, now)
    return updates, state._replace(count=count, mu=mu)

  return optax.GradientTransformation(init, update)


def _orthogonal(updates: Any, eps: float, shardings: Shardings) -> Any:
  """Returns orthogonal updates of kernels (..., C, D), of one size (`RMS`)."""
  leaves, structure = jax.tree.flatten(updates)
  places = jax.tree.leaves(shardings(updates), is_leaf=lambda x: x is None)
  groups: dict[Any, list[int]] = {}
  for number, (leaf, place) in enumerate(zip(leaves, places, strict=True)):
    key = number if place is None else (leaf.shape, place)
    groups.setdefault(key, []).append(number)
  found = [None] * len(leaves)
  for numbers in groups.values():
    stack = jnp.stack([leaves[number] for number in numbers])
    stack = _of_stack(stack, eps, places[numbers[0]])
    for number, update in zip(numbers, stack, strict=True):
      found[number] = update
  return jax.tree.unflatten(structure, found)


def _of_stack(
  stack: jax.Array, eps: float, place: NamedSharding | None
) -> jax.Array:
  """Does so for a stack (N, ...) of kernels in the same place."""
  shape = stack.shape
  matrices = lambda x: x.reshape(len(x), -1, shape[-1])
  if len(shape) == 4:  # The axis of scanned layers is one of the stack.
    stack = stack.reshape(-1, *shape[2:])
  if place is None:
    return _iterated(matrices(stack), eps).reshape(shape)
  count, spec = len(stack), place.spec[len(shape) == 4 :]
  filled = [(0, -count % place.mesh.size)] + [(0, 0)] * (stack.ndim - 1)
  steps = [NamedSharding(place.mesh, s) for s in _steps(spec, place.mesh)]
  stack = jnp.pad(_through(stack, steps[:1]), filled)
  updates = _iterated(matrices(_through(stack, steps)), eps)
  updates = updates.reshape(stack.shape)
  return _through(updates, steps[::-1])[:count].reshape(shape)


def _steps(
  spec: PartitionSpec, mesh: Mesh | AbstractMesh
) -> Iterator[PartitionSpec]:
  """Yields how a stack of kernels is split, until each device has its share.

  One axis of the mesh after the other goes from a dimension of the kernels to
  that of the stack, so that each step is an exchange along that axis.

  Args:
    spec: of a kernel.
    mesh: the devices; axes that do not split the kernel come last.
  """
  named = [(axes,) if isinstance(axes, str) else axes or () for axes in spec]
  split: list[tuple[str, ...]] = [(), *named]
  yield PartitionSpec(*split)
  moved = [axis for axes in reversed(named) for axis in reversed(axes)]
  others = [a for a in mesh.axis_names if mesh.shape[a] > 1 and a not in moved]
  for axis in (*moved, *others):
    rest = (tuple(a for a in axes if a != axis) for axes in split[1:])
    split = [(*split[0], axis), *rest]
    yield PartitionSpec(*split)


def _through(x: jax.Array, steps: Iterable[NamedSharding]) -> jax.Array:
  for step in steps:
    x = jax.lax.with_sharding_constraint(x, step)
  return x


def _iterated(x: jax.Array, eps: float) -> jax.Array:
  """Orthogonalises each of (N, C, D) by the Newton-Schulz iteration."""
  *_, rows, columns = x.shape
  size = RMS * max(rows, columns) ** 0.5
  x = x.swapaxes(1, 2) if rows > columns else x
  x /= jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + eps
  a, b, c = COEFFICIENTS
  for _ in range(ITERATIONS):
    square = jnp.einsum('nij,nkj->nik', x, x)
    x = a * x + (b * square + c * square @ square) @ x
  return size * (x.swapaxes(1, 2) if rows > columns else x)
