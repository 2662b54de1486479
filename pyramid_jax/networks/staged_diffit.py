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
  # Sides of x of each stage, coarse first, multiples of `patch_size`.
  stage_sides: Sequence[int] = ()
  stage_in: Sequence[int] = ()  # channels of x of each stage, coarse first
  # Channels of the result of each stage, coarse first.
  stage_out: Sequence[int] = ()
  # Width of the context, None for a network without.
  context_dim: int | None = None
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
    shape = (len(x), side, side, self.stage_in[stage])
    labels = x.shape[:1] if self.num_classes else None
    gates = self.self_context and stage > 0
    gate = (len(x), side, side, self.stage_out[stage]) if gates else None
    for name, array, need in (
      ('x', x, shape),
      ('y', y, labels),
      ('coarse', coarse, gate),
    ):
      got = None if array is None else array.shape
      if got != need:
        raise ValueError(f'{name} of stage {stage} must be {need}, got {got}.')
    width = None if context is None else context.shape[-1]
    if width != self.context_dim or (context is not None and context.ndim != 3):
      raise ValueError(
        f'context must be (B, S, {self.context_dim}), or None without'
        f' context_dim; got {None if context is None else context.shape}.'
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
      t: (B,), or (1,) if the whole batch shares it; the noise level.
      context: (B, S, context_dim) tokens, perhaps with places, or None.
      y: (B,) class ids below `num_classes`, None for a network without.
      stage: which resolution, 0 = coarsest.
      train: not read: nothing is dropped here.
      features: names of activations to return: `block0` is the input of the
        first block, `block1` its result, and so on up to `depth`.
      coarse: (B, side, side, stage_out[stage]) estimate of the clean result,
        for stages after the first with `self_context`; else None.
      concat_noise: (B,), logarithm of the standard deviation of the noise on
        an image among the channels of x, or None.

    Returns:
      (B, side, side, stage_out[stage]) float32, with `features` in a pair
      with {name: (B, grid, grid, hidden_size)}.

    Raises:
      ValueError: options or arguments that do not fit together.
    """
    del train
    self.check_options()
    self._check_inputs(x, context, y, stage, coarse)
    if self.is_initializing():
      self._touch_other_stages(stage)
    h = self._embed_stage(x, stage, coarse)
    cond = self._embed_known(t, context, y, stage, concat_noise)
    outside = None
    if isinstance(context, transformer.PlacedTokens):
      outside = transformer.distance_outside(context.places, *h.shape[1:3])
      context = context.values
    found = {'block0': h}
    h = self.walk(
      h,
      cond,
      tuple(sorted(set(self.grids))),
      context=context,
      outside=outside,
      found=found if features else None,
    )
    out = self._stage_head(h, stage)
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

  def _stage_head(self, h: jax.Array, stage: int) -> jax.Array:
    return self.head(h, self.stage_out[stage], f'final_layer_{stage}')

  def _touch_other_stages(self, stage: int) -> None:
    """Makes the parameters of the stages that a call does not reach."""
    for other, side in enumerate(self.stage_sides):
      if other == stage:
        continue
      x = jnp.zeros((1, side, side, self.stage_in[other]))
      coarse = None
      if self.self_context and other > 0:
        coarse = jnp.zeros((1, side, side, self.stage_out[other]))
      self._stage_head(self._embed_stage(x, other, coarse), other)
