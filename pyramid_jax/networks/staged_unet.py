"""One U-Net for all resolutions of a pyramid."""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks import unet
from pyramid_jax.networks import unet_trunk
from pyramid_jax.networks.layers import features as features_lib
from pyramid_jax.networks.layers import transformer


class StagedUNet(unet.UNet):
  """A U-Net whose stages share all but their ends.

  Every stage has its own first and last convolution and a learned vector
  beside the noise level's. Ours: the report on LaDM (arXiv:2411.07126) shows
  several denoisers; this one is cheaper.

  Attributes, beside those of `unet.UNet`, whose `in_channels` and
  `out_channels` are not read:
    stage_in: channels of x of each stage, coarse first.
    stage_out: channels of the result of each stage, likewise.
  """

  stage_in: Sequence[int] = ()
  stage_out: Sequence[int] = ()

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
    control: Sequence[jax.Array] | jax.Array | None = None,
    concat_noise: jax.Array | None = None,
    aspect: jax.Array | None = None,
  ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the prediction of a stage.

    Keys and values of the context go through `caching.cached`.

    Args:
      x: (B, H, W, stage_in[stage]), any grid.
      t: (B,), or (1,) if the whole batch shares it; the noise level.
      context: as of `unet.UNet`.
      y: likewise.
      stage: which, 0 = coarsest.
      train: whether dropout is active, which needs a 'dropout' key.
      features: names of activations, see `Trunk.walk`; the same for all stages.
      control: see `Trunk.walk`.
      concat_noise: as of `unet.UNet`.
      aspect: likewise.

    Returns:
      (B, H, W, stage_out[stage]) float32, with `features` in a pair with
      {name: activation}.

    Raises:
      ValueError: options that contradict each other, or arguments that do
        not fit them.
    """
    self.check_options()
    self._check_stage(x, stage)
    y_shape = None if self.num_classes is None else x.shape[:1]
    self.check_conditions(context, y, y_shape)
    emb = self.embed_context(self.embed_level(t), context)
    if y is not None:
      emb += self.embed_label(y)
    if concat_noise is not None:
      emb += self.embed_concat_noise(concat_noise)
    if aspect is not None:
      emb += self.embed_aspect(aspect)
    emb += nn.Embed(
      len(self.stage_in),
      emb.shape[-1],
      embedding_init=nn.initializers.normal(1.0),
      name='stage_emb',
    )(jnp.full((1,), stage))
    if self.is_initializing():
      self._touch_other_stages(x, stage)
    h = self.conv(f'stem_{stage}')(x)
    inputs = unet_trunk.BlockInputs(
      emb=nn.silu(emb), context=context, train=train
    )
    found: dict[str, jax.Array] = {}
    h = self.walk(h, inputs, stem=False, found=found, control=control)
    out = self.stage_head(h, stage)
    return features_lib.with_features(out, found, features)

  def _touch_other_stages(self, x: jax.Array, stage: int) -> None:
    for other, channels in enumerate(self.stage_in):
      if other != stage:
        zeros = jnp.zeros((*x.shape[:3], channels), x.dtype)
        h = self.conv(f'stem_{other}')(zeros)
        self.stage_head(h, other)

  def stage_head(self, h: jax.Array, stage: int) -> jax.Array:
    """Returns what a stage predicts."""
    return self.out(h, f'out_{stage}', self.stage_out[stage])

  def _check_stage(self, x: jax.Array, stage: int) -> None:
    count = len(self.stage_in)
    if not isinstance(stage, int) or not 0 <= stage < count:
      raise ValueError(
        f'stage must be a Python int in [0, {count}), got {stage!r}.'
      )
    if x.ndim != 4 or x.shape[-1] != self.stage_in[stage]:
      raise ValueError(
        f'x must be (B, H, W, {self.stage_in[stage]}) at stage {stage}, got'
        f' shape {x.shape}.'
      )

  def contradictions(self) -> dict[str, bool]:
    counts = {len(self.stage_in), len(self.stage_out)}
    return {
      name: bad
      for name, bad in super().contradictions().items()
      if name != 'out_channels is needed'
    } | {
      'stage_in and stage_out must be of as many stages': (
        len(counts) > 1 or not self.stage_in
      ),
    }
