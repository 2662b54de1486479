"""Latent DiffiT: a plain transformer on the patches of a latent.

NVlabs/DiffiT: diffit/diffit.py, DiffiT; arXiv:2312.02139, section 3.3. The
noise level and the class act through TMSA alone (`layers/tmsa.py`).
"""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks import diffit_trunk
from pyramid_jax.networks.layers import embeddings
from pyramid_jax.networks.layers import features as features_lib


class LatentDiffiT(diffit_trunk.Trunk):
  """Predicts the noise of a latent, and what its variance is.

  The defaults are the released model for images of 256 pixels; that for 512
  has `input_size` 64. The tables of positions and of relative biases fit one
  size only.
  """

  family = 'diffit.latent'  # of its released weights

  input_size: int = 32  # side of the latent, a multiple of `patch_size`
  in_channels: int = 4  # The channels of the latent.
  # Rate in training at which a label is replaced by the null class, the one
  # after the last; 0 leaves the null class out.
  class_dropout_prob: float = 0.1
  learn_sigma: bool = True  # whether raw values of the variance are predicted

  @property
  def grid(self) -> int:
    """The number of tokens of a side."""
    return self.input_size // self.patch_size

  @property
  def out_channels(self) -> int:
    """Channels of the result."""
    return self.in_channels * (2 if self.learn_sigma else 1)

  def check_options(self) -> None:
    super().check_options()
    if not 0 <= self.class_dropout_prob < 1:
      raise ValueError(
        f'class_dropout_prob = {self.class_dropout_prob} must be in [0, 1).'
      )

  def check_sides(self) -> None:
    if self.patch_size < 1 or self.input_size % self.patch_size:
      raise ValueError(
        f'patch_size = {self.patch_size} must divide input_size = '
        f'{self.input_size}.'
      )

  def _check_inputs(self, x: jax.Array, y: jax.Array | None) -> None:
    wanted = (self.input_size, self.input_size, self.in_channels)
    labels = None if y is None else y.shape
    fits = labels == (x.shape[:1] if self.num_classes else None)
    if x.ndim != 4 or x.shape[1:] != wanted or not fits:
      raise ValueError(
        f'x must be (B, {", ".join(map(str, wanted))}) with y '
        f'{"(B,)" if self.num_classes else None}, got {x.shape} and {labels}.'
      )

  def finish(self, h: jax.Array, cond: jax.Array) -> jax.Array:
    """Maps (B, grid, grid, hidden_size) to the prediction.

    `cond` (B or 1, hidden_size) embeds the noise level and labels.
    """
    del cond
    return self.head(h, self.out_channels, 'final_layer_linear')

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    t: jax.Array,
    y: jax.Array | None = None,
    *,
    train: bool = False,
    features: Sequence[str] = (),
  ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the prediction.

    Args:
      x: (B, input_size, input_size, in_channels).
      y: (B,) class ids in [0, num_classes], num_classes being the null class;
        None for a network without classes.
      train: whether labels are dropped, which needs a 'dropout' key.
      features: `block0` is the input of the first block, `block1` its result,
        and so on up to `depth`, each (B, grid, grid, hidden_size).

    Returns:
      (B, input_size, input_size, out_channels) float32: the noise, then the
      raw values of the variance.
    """
    self.check_options()
    self._check_inputs(x, y)
    h = self.embed_patches(x, 'x_embedder_proj')
    positions = embeddings.sincos_table(self.hidden_size, self.grid)
    h = h + positions.astype(self.dtype)
    self.sow('intermediates', 'tokens', h)
    cond = self.embed_level(t)
    if y is not None:
      if train and self.class_dropout_prob > 0:
        key = self.make_rng('dropout')
        drop = jax.random.bernoulli(key, self.class_dropout_prob, y.shape)
        y = jnp.where(drop, self.num_classes, y)
      rows = self.num_classes + (self.class_dropout_prob > 0)  # with the null
      cond = cond + self.embed_id(y, rows, 'y_embedder')
    self.sow('intermediates', 'cond', cond)
    found = {'block0': h}
    h = self.walk(h, cond, self.grid, found=found if features else None)
    out = self.finish(h, cond)
    return features_lib.with_features(out, found, features)
