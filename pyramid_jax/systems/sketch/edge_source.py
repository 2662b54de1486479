"""Where edges come from: a person, the data or a detector."""

from collections.abc import Collection
from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp

from pyramid_jax.conditioning import edges as edges_lib
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks import pidinet
from pyramid_jax.networks import pretrained
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.sketch import fields


Batch = system_lib.Batch
Params = system_lib.Params

EDGES = 'edges'  # the frozen part that detects edges


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeSource:
  """Where edges come from if a batch has no sketch."""

  # 'true' for those of the data, 'map' for the semantic map, or the name of a
  # detector; see `kind_of`.
  kind: str
  weights: str  # path of the weights of a detector that is a network
  classes: int  # the number of classes of a semantic map

  @property
  def needed(self) -> str:
    """The array of a batch that edges are taken from."""
    return {'true': 'edges', 'map': 'mask'}.get(self.kind, 'image')

  def pretrained_parts(self) -> Mapping[str, pretrained.PretrainedPart]:
    """Returns the detector, where it is a network."""
    if self.kind not in pidinet.SIZES:
      return {}
    image = jnp.zeros((1, 32, 32, 3))
    part = pretrained.PretrainedPart(
      init=lambda key: detector(self.kind).init(key, image)['params'],
      family='pidinet',
      path=self.weights,
      field='sketch.edge_weights',
    )
    return {EDGES: part}

  def target_edges(self, frozen: Params, batch: Batch) -> jax.Array:
    """Returns the sketch of a batch, or its edges, (B, H, W) in [-1, 1].

    `frozen` has the weights of a detector that is a network.

    Raises:
      ValueError: the batch has neither a sketch nor anything with edges.
    """
    self.check(batch)
    if 'sketch' in batch:
      return batch['sketch']
    if self.kind == 'map':
      shade = batch['mask'].astype(jnp.float32) / max(1, self.classes - 1)
      return 2.0 * shade - 1.0
    if self.kind in pidinet.SIZES:
      found = params_lib.apply(
        detector(self.kind), frozen[EDGES], batch['image'], method='edges'
      )
      return jnp.where(found >= edges_lib.THRESHOLD, 1.0, -1.0)
    if self.kind in edges_lib.DETECTORS:
      found = jnp.asarray(edges_lib.detector(self.kind)(batch['image']))
      return 2.0 * found - 1.0
    return 2.0 * batch['edges'] - 1.0

  def check(self, names: Collection[str]) -> None:
    """Raises ValueError if arrays of a batch have neither sketch nor edges."""
    if 'sketch' not in names and self.needed not in names:
      raise ValueError(
        'there is no sketch: give one, data with config.data.maps ='
        f' {self.needed!r}, or a detector by config.sketch.edges'
        if self.needed != 'image'
        else 'there is no sketch: give one, or an image to take edges from'
      )


def kind_of(edges: str, weights: str) -> str:
  """Returns the kind of edges that `config.sketch.edges` stands for.

  Args:
    edges: one of `fields.EDGES`. 'auto' is the detector of arXiv:2211.13752,
      PiDiNet, where it has weights, and Sobel's filter where it has not.
    weights: `config.sketch.edge_weights`, '' for none.
  """
  if edges != fields.AUTO:
    return edges
  return 'pidinet' if weights else 'sobel'


def detector(name: str) -> pidinet.PiDiNet:
  """Returns the network of a detector, one of `pidinet.SIZES`."""
  return pidinet.PiDiNet(*pidinet.SIZES[name])
