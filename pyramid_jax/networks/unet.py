"""The denoiser of LDM: a U-Net with attention to a context."""

from collections.abc import Sequence

from flax import linen as nn
import jax

from pyramid_jax.networks import unet_trunk
from pyramid_jax.networks.layers import features as features_lib
from pyramid_jax.networks.layers import transformer


class UNet(unet_trunk.Trunk):
  """Predicts the noise (or what else is learned) of a latent.

  CompVis/latent-diffusion: ldm/modules/diffusionmodules/openaimodel.py,
  UNetModel; the attributes are its constructor's arguments.

  Attributes, beside those of `unet_trunk.Trunk`:
    in_channels: of x, conditions that are concatenated to it included.
  """

  in_channels: int = 3

  def heads(self, channels: int, up: bool = False) -> tuple[int, int]:
    """Returns number and width of the heads of an attention.

    The rule of the official constructor. `legacy` matters in two cases only:
    a transformer whose `num_head_channels` does not divide the channels, and
    self-attention with `num_head_channels` = -1 on the way up, which then has
    `num_heads_upsample` heads.
    """
    count, width = self.num_heads, self.num_head_channels
    if self.use_spatial_transformer:
      if width != -1:
        count = channels // width
      if count and (width == -1 or self.legacy):
        width = channels // count
      fits = True  # the projections allow heads that do not fill the channels
    else:
      if width == -1 and self.legacy:
        above = self.num_heads_upsample
        count = above if up and above != -1 else count
        width = channels // count
      else:
        width = channels // count if width == -1 else width
        count = channels // width if width else 0
      fits = count * width == channels
    if not (fits and count > 0 and width > 0):
      raise self._bad_heads(channels)
    return count, width

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    context: transformer.Context | None = None,
    y: jax.Array | None = None,
    *,
    train: bool = False,
    features: Sequence[str] = (),
    control: Sequence[jax.Array] | jax.Array | None = None,
    concat_noise: jax.Array | None = None,
    aspect: jax.Array | None = None,
  ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the prediction, and the activations of `features` if there are.

    Keys and values of the context go through `caching.cached`.

    Args:
      x: (B, H, W, in_channels), any grid.
      t: (B,), or (1,) if the whole batch shares it; index of the noise level,
        which may be fractional.
      context: (B, S, context_dim), or such tokens with their places, or
        None, which makes transformers attend to the map itself.
      y: (B,) class ids if `num_classes`.
      train: whether dropout is active, which needs a 'dropout' key.
      features: names of activations, see `Trunk.walk`.
      control: see `unet_trunk.Trunk.walk`.
      concat_noise: (B,), logarithm of the deviation of the noise on a picture
        among the channels of x, or None.
      aspect: (B, 2), see `Trunk.embed_aspect`, or None.

    Returns:
      (B, H, W, out_channels) float32, or n_embed channels, with `features` in
      a pair with {name: activation}.

    Raises:
      ValueError: options that contradict each other, or arguments that do
        not fit them.
    """
    self.check_options()
    if x.ndim != 4 or x.shape[-1] != self.in_channels:
      raise ValueError(
        f'x must be (B, H, W, {self.in_channels}), got shape {x.shape}.'
      )
    y_shape = None if self.num_classes is None else x.shape[:1]
    self.check_conditions(context, y, y_shape)
    emb = self.embed_context(self.embed_level(t), context)
    if y is not None:
      emb += self.embed_label(y)
    if concat_noise is not None:
      emb += self.embed_concat_noise(concat_noise)
    if aspect is not None:
      emb += self.embed_aspect(aspect)
    # Every block begins with the SiLU: done once.
    inputs = unet_trunk.BlockInputs(
      emb=nn.silu(emb), context=context, train=train
    )
    found: dict[str, jax.Array] = {}
    h = self.walk(x, inputs, found=found, control=control)
    out = self.whole_head(h)
    return features_lib.with_features(out, found, features)

  def contradictions(self) -> dict[str, bool]:
    return super().contradictions() | {
      'out_channels is needed': self.out_channels is None,
    }
