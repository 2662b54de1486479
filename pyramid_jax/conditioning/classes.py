"""Classes, as one token each or as ids for the denoiser's own table."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import encoder
from pyramid_jax.networks import conditioners
from pyramid_jax.networks import params as params_lib


CLASS_BY = ('crossattn', 'timestep')  # `config.condition.class_by`


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassEncoder(encoder.Encoder):
  """Classes as one token each, or as ids for the denoiser's own embedding.

  A batch counts classes from 1, with 0 for none; the tables of the published
  models count from 0, and none is the row after the last class.

  Attributes:
    classes: number of classes.
    has_null: whether there is a row for none.
    dim: width of a token; 0 leaves the ids to the denoiser.
    key: the key of the ids in a batch.
  """

  classes: int
  has_null: bool
  dim: int
  key: str = 'class'

  @property
  def rows(self) -> int:
    """Rows of the table."""
    return self.classes + self.has_null

  @property
  def widths(self) -> encoder.Widths:
    if self.dim:
      return encoder.Widths(context=self.dim)
    return encoder.Widths(classes=self.rows)

  @property
  def is_guidable(self) -> bool:
    return self.has_null

  @property
  def family(self) -> str:
    return 'class_embedder' if self.dim else ''

  @property
  def network(self) -> conditioners.ClassEmbedder:
    """The table of tokens."""
    return conditioners.ClassEmbedder(n_classes=self.rows, dim=self.dim)

  @property
  def example(self) -> encoder.Batch:
    return {self.key: jnp.ones((1,), jnp.int32)}

  def init(self, key: jax.Array) -> Any:
    if not self.dim:
      return {}
    return self.network.init(key, *self.example.values())['params']

  def encode(self, params: Any, batch: encoder.Batch) -> encoder.Inputs:
    classes = batch[self.key]
    ids = jnp.where(classes == 0, self.rows - 1, classes - 1)
    if not self.dim:
      return encoder.Inputs(y=ids)
    return encoder.Inputs(context=params_lib.apply(self.network, params, ids))

  def null(self, params: Any, batch: encoder.Batch) -> encoder.Inputs | None:
    if not self.has_null:
      return None
    return self.encode(params, {self.key: jnp.zeros_like(batch[self.key])})


def create(config: ConfigDict, _: encoder.FirstStage) -> ClassEncoder:
  """Builds the encoder of the task 'class'.

  Raises:
    ValueError: an unknown `class_by`, or dropout without a null condition.
  """
  c = config.condition
  if c.class_by not in CLASS_BY:
    raise ValueError(
      f'config.condition.class_by is {c.class_by!r}, must be one of'
      f' {", ".join(CLASS_BY)}'
    )
  if not c.null_class and c.cond_dropout:
    raise ValueError(
      'config.condition.null_class is False, so there is no null condition for'
      f' config.condition.cond_dropout = {c.cond_dropout}, which must be 0'
    )
  return ClassEncoder(
    classes=c.num_classes,
    has_null=c.null_class,
    dim=c.dim if c.class_by == 'crossattn' else 0,
  )
