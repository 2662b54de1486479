"""One DiffiT on latents for all resolutions of a pyramid: our own design.

The blocks are those of DiffiT (arXiv:2312.02139), shared by the stages of LaDM
(arXiv:2411.07126).
"""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks import diffit_trunk
from pyramid_jax.networks.layers import embeddings
from pyramid_jax.networks.layers import features as features_lib
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import resampling
from pyramid_jax.networks.layers import transformer


# Side of every map for the codes of places, the same in all stages.
EXTENT = 64.0
GATE_PART = 4  # width of the tokens over the hidden channels of a gate


class StagedDiffiT(diffit_trunk.Trunk):
  """A DiffiT whose stages share all but their ends.

  Every stage has its own patches, last layer and learned vector, which is
  added to the embedding of the noise level; each grid has its own biases by
  relative position, and one window is the whole map. The class acts inside of
  the attention; tokens are attended to and, pooled, act as the class does.
  """

  num_classes: int = 0
  # Of each stage, coarse first: sides and channels of x, and result channels.
  stage_sides: Sequence[int] = ()
  stage_in: Sequence[int] = ()
  stage_out: Sequence[int] = ()
  context_dim: int | None = None  # width of the context, None without
  pool_context: bool = True  # whether the context's tokens are pooled, too
  # Whether an estimate of the clean result gates the tokens of the stages after
  # the first.
  self_context: bool = False

  @property
  def grids(self) -> tuple[int, ...]:
    """Tokens of a side, of each stage."""
    return tuple(side // self.patch_size for side in self.stage_sides)

  def check_sides(self) -> None:
    counts = [len(self.stage_sides), len(self.stage_in), len(self.stage_out)]
    if len(set(counts)) > 1 or not self.stage_sides:
      raise ValueError(
        'stage_sides, stage_in and stage_out must be of as many stages, got'
        f' {counts}.'
      )
    patch = self.patch_size
    if patch < 1 or any(side % patch for side in self.stage_sides):
      raise ValueError(
        f'patch_size = {patch} must divide stage_sides = '
        f'{tuple(self.stage_sides)}.'
      )

  def _check_inputs(
    self,
    x: jax.Array,
    context: transformer.Context | None,
    y: jax.Array | None,
    stage: int,
    coarse: jax.Array | None,
  ) -> None:
    count = len(self.stage_sides)
    if not isinstance(stage, int) or not 0 <= stage < count:
      raise ValueError(
        f'stage must be a Python int in [0, {count}), got {stage!r}.'
      )
    side = self.stage_sides[stage]
    grid = (len(x), side, side)
    gate = (*grid, self.stage_out[stage])
    for name, array, need in (
      ('x', x, (*grid, self.stage_in[stage])),
      ('y', y, x.shape[:1] if self.num_classes else None),
      ('coarse', coarse, gate if self.self_context and stage > 0 else None),
    ):
      got = None if array is None else array.shape
      if got != need:
        raise ValueError(f'{name} of stage {stage} must be {need}, got {got}.')
    width, got = self.context_dim, None if context is None else context.shape
    if (got and got[2:]) != (width and (width,)):
      raise ValueError(
        f'context must be (B, S, {width}), or None without context_dim; got'
        f' {got}.'
      )

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    context: transformer.Context | None = None,
    y: jax.Array | None = None,
    *,
    stage: int = 0,
    train: bool = False,
    features: Sequence[str] = (),
    coarse: jax.Array | None = None,
    concat_noise: jax.Array | None = None,
  ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the prediction of a stage.

    Gates, and keys and values of the context, go through `caching.cached`.

    Args:
      x: (B, side, side, stage_in[stage]).
      context: (B, S, context_dim) tokens, optionally with boxes, or None.
      y: (B,) class ids below `num_classes`, None for a network without.
      train: not read: nothing is dropped here.
      features: `block0` is the input of the first block, `block1` its result,
        and so on up to `depth`, each (B, grid, grid, hidden_size).
      coarse: (B, side, side, stage_out[stage]) estimate of the clean result,
        for stages after the first with `self_context`; else None.

    Returns:
      (B, side, side, stage_out[stage]) float32.
    """
    del train
    self.check_options()
    self._check_inputs(x, context, y, stage, coarse)
    if self.is_initializing():
      self._make_other_stages(stage)
    h = self._embed_stage(x, stage, coarse)
    cond = self._embed_known(t, context, y, stage, concat_noise)
    context, outside = transformer.parted(context, *h.shape[1:3])
    found = {'block0': h}
    h = self.walk(
      h,
      cond,
      tuple(sorted(set(self.grids))),
      context=context,
      outside=outside,
      found=found if features else None,
    )
    out = self.head(h, self.stage_out[stage], f'final_layer_{stage}')
    return features_lib.with_features(out, found, features)

  def _embed_stage(
    self, x: jax.Array, stage: int, coarse: jax.Array | None
  ) -> jax.Array:
    h = self.embed_patches(x, f'x_embedder_{stage}')
    table = embeddings.sincos_table(self.hidden_size, self.grids[stage], EXTENT)
    h = h + table.astype(self.dtype)
    if coarse is None:
      return h
    return norms.GatedNorm(
      eps=1e-6,
      num_groups=self.num_heads,
      hidden=max(1, self.hidden_size // GATE_PART),
      dtype=self.dtype,
      name=f'gate_{stage}',
    )(h, resampling.space_to_depth(coarse, self.patch_size))

  def _embed_known(
    self,
    t: jax.Array,
    context: transformer.Context | None,
    y: jax.Array | None,
    stage: int,
    concat_noise: jax.Array | None,
  ) -> jax.Array:
    """Returns the token of noise level, stage, class and pooled context."""
    cond = self.embed_level(t)
    # One row for the batch: its gradient is a sum, not scattered.
    stages = jnp.full((1,), stage)
    cond += self.embed_id(stages, len(self.stage_sides), 'stage_embedder')
    if y is not None:
      cond += self.embed_id(y, self.num_classes, 'y_embedder')
    if concat_noise is not None:
      cond += self.embed_level(250.0 * concat_noise, 'concat_noise_embedder')
    if context is not None and self.pool_context:
      cond += transformer.pooled(context, self.hidden_size)
    return cond

  def _make_other_stages(self, stage: int) -> None:
    """Makes the parameters of the stages that a call does not reach."""
    for other, side in enumerate(self.stage_sides):
      if other == stage:
        continue
      x = jnp.zeros((1, side, side, self.stage_in[other]))
      channels = self.stage_out[other]
      coarse = None
      if self.self_context and other > 0:
        coarse = jnp.zeros((1, side, side, channels))
      h = self._embed_stage(x, other, coarse)
      self.head(h, channels, f'final_layer_{other}')
