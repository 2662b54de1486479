"""Autoencoders of one scale: Kullback-Leibler and vector quantised.

CompVis/latent-diffusion: ldm/models/autoencoder.py, AutoencoderKL, VQModel and
VQModelInterface (arXiv:2112.10752, section 3.1).
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pyramid_jax.networks import autoencoder
from pyramid_jax.networks import msvqgan
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import quantizers


# The logarithm of a posterior's variance is clamped to these.
LOGVAR_RANGE = (-30.0, 20.0)


class OneScale(autoencoder.FirstStage, kw_only=True):
  """What autoencoders of one scale have in common.

  `ddconfig` has the fields of `autoencoder.Encoder` and `autoencoder.Decoder`
  in one, but for `common_fields`, and `in_channels` (3 unless given).
  """

  embed_dim: int  # channels of a latent

  @property
  def latent_channels(self) -> tuple[int, ...]:
    return (self.embed_dim,)

  def setup_networks(self, double_z: bool) -> None:
    """Adds the submodules; refuses another `ddconfig.double_z`."""
    fields = dict(self.ddconfig)
    fields.pop('in_channels', None)
    if fields.pop('double_z', double_z) != double_z:
      raise ValueError(
        f'ddconfig.double_z is {not double_z}, must be {double_z} in '
        f'{type(self).__name__}.'
      )
    z_channels = fields.pop('z_channels')
    own = fields.keys() & {'out_ch', 'tanh_out'}
    of_decoder = {name: fields.pop(name) for name in own}
    fields |= self.common_fields()
    self.encoder = autoencoder.Encoder(
      **fields, z_channels=z_channels, double_z=double_z
    )
    self.quant_conv = affine.Conv((1 + double_z) * self.embed_dim, 1)
    self.post_quant_conv = affine.Conv(z_channels, 1)
    self.decoder = autoencoder.Decoder(**fields, **of_decoder)

  def features_of(self, image: jax.Array) -> jax.Array:
    """Maps (B, H, W, in_channels) to what the regulariser takes, float32."""
    channels = self.ddconfig.get('in_channels', 3)
    if image.shape[-1] != channels:
      raise ValueError(
        f'the image must have {channels} channels, got shape {image.shape}.'
      )
    return self.quant_conv(self.encoder(image))

  def decode_features(
    self, zs: Sequence[jax.Array], quantize: bool = True
  ) -> jax.Array:
    got = [z.shape for z in zs]
    if [shape[-1] for shape in got] != [self.embed_dim]:
      raise ValueError(
        f'needed one latent of {self.embed_dim} channels, got shapes {got}.'
      )
    z = self.entries(zs[0]) if quantize else zs[0]
    return self.decoder.features(self.post_quant_conv(z))

  def entries(self, z: jax.Array) -> jax.Array:
    """Returns the entries of the codebook for a latent (B, h, w, C)."""
    return z


class AutoencoderKL(OneScale, kw_only=True):
  """An autoencoder whose latents are drawn from a Gaussian."""

  family = 'ldm.autoencoder_kl'
  is_stochastic = True

  def setup(self):
    self.setup_networks(double_z=True)

  def __call__(
    self, image: jax.Array, noise: jax.Array | None = None
  ) -> dict[str, Any]:
    """Encodes, draws a latent and decodes, in training.

    Returns what `reconstructed` does, the divergence `kl` (B,), and `mean` and
    `logvar` of the posterior.
    """
    mean, logvar = self.posterior(image)
    z = [draw(mean, logvar, noise)]
    kl = divergence(mean, logvar)
    return self.reconstructed(z, z, kl=kl, mean=mean, logvar=logvar)

  def posterior(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps (B, H, W, 3) to mean and clamped log variance, float32."""
    return split_moments(self.features_of(image))

  def encode(
    self, image: jax.Array, noise: jax.Array | None = None
  ) -> list[jax.Array]:
    return [draw(*self.posterior(image), noise)]


class VQModel(OneScale, kw_only=True):
  """An autoencoder whose decoder quantises latents by a codebook."""

  n_embed: int  # entries of the codebook
  beta: float = 0.25  # `beta` of `quantizer.VectorQuantizer`
  legacy: bool = True  # `legacy` of `quantizer.VectorQuantizer`
  # What latents are replaced by: one of `quantizers.CODEBOOKS`. The codes of a
  # `grid` are a number of levels to the power of `embed_dim`.
  codebook: str = 'table'
  gradient: str = 'straight'  # `gradient` of `quantizer.VectorQuantizer`
  entropy_weight: float = 0.0  # that of `quantizer.VectorQuantizer`

  family = 'ldm.vq'

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return (self.n_embed,)

  @property
  def codebook_names(self) -> tuple[str, ...]:
    return ('quantize',) if self.codebook == 'table' else ()

  def setup(self):
    self.setup_networks(double_z=False)
    self.quantize = quantizers.create(
      self.codebook,
      self.n_embed,
      self.embed_dim,
      beta=self.beta,
      legacy=self.legacy,
      gradient=self.gradient,
      entropy_weight=self.entropy_weight,
    )

  def __call__(
    self, image: jax.Array, noise: jax.Array | None = None
  ) -> dict[str, Any]:
    """Encodes, quantises and decodes, in training.

    Returns what `reconstructed` does, a list of one (B, h, w) int32 as `codes`
    and one of a scalar as `codebook_losses`.
    """
    (z,) = self.encode(image, noise)
    entries, codes, loss = self.quantize(z)
    return self.reconstructed(
      [z], [entries], codes=[codes], codebook_losses=[loss]
    )

  def encode(
    self, image: jax.Array, noise: jax.Array | None = None
  ) -> list[jax.Array]:
    del noise
    return [self.quantize.bounded(self.features_of(image))]

  def entries(self, z: jax.Array) -> jax.Array:
    return self.quantize(z)[0]


# Any first stage.
Network = msvqgan.MSVQGAN | AutoencoderKL | VQModel

# By its name in a config, the class whose fields are `config.network`.
NETWORKS: Mapping[str, Callable[..., Network]] = {
  'msvqgan': msvqgan.MSVQGAN,
  'kl': AutoencoderKL,
  'vq': VQModel,
}


def split_moments(moments: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Splits (B, h, w, 2 C) into means and clamped log variances."""
  mean, logvar = jnp.split(moments, 2, axis=-1)
  return mean, jnp.clip(logvar, *LOGVAR_RANGE)


def draw(
  mean: jax.Array, logvar: jax.Array, noise: jax.Array | None
) -> jax.Array:
  """Returns mean + standard deviation * noise of its shape, or the mean."""
  if noise is None:
    return mean
  if noise.shape != mean.shape:
    raise ValueError(
      f'the noise must have the shape {mean.shape} of the latent, got '
      f'{noise.shape}.'
    )
  return mean + jnp.exp(0.5 * logvar) * noise


def divergence(mean: jax.Array, logvar: jax.Array) -> jax.Array:
  """Maps mean and logvar (B, ...) to the divergence from N(0, 1), (B,) nats."""
  terms = mean**2 + jnp.exp(logvar) - 1.0 - logvar
  return 0.5 * terms.sum(tuple(range(1, mean.ndim)))
