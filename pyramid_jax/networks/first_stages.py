"""Autoencoders of one scale: Kullback-Leibler and vector quantised.

CompVis/latent-diffusion: ldm/models/autoencoder.py, AutoencoderKL, VQModel and
VQModelInterface (arXiv:2112.10752, section 3.1). Both speak to a diffusion
model as `msvqgan.MSVQGAN` does: `encode` gives a list of one latent, unscaled,
and `decode` takes it.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks import autoencoder
from pyramid_jax.networks import msvqgan
from pyramid_jax.networks.layers import convolution
from pyramid_jax.networks.layers import quantizer


# The logarithm of a posterior's variance is clamped to these.
LOGVAR_RANGE = (-30.0, 20.0)


class FirstStage(nn.Module, kw_only=True):
  """What autoencoders of one scale have in common.

  Attributes:
    ddconfig: fields of `autoencoder.Encoder` and `autoencoder.Decoder` in one,
      but for dtype and remat, and `in_channels` (3 unless given).
    embed_dim: channels of a latent.
    dtype: of the activations; latents and images are float32.
    remat: recompute the blocks' activations in the backward pass.
  """

  ddconfig: Mapping[str, Any]
  embed_dim: int
  dtype: jnp.dtype = jnp.float32
  remat: bool = False

  @property
  def factor(self) -> int:
    """Pixels of a side of a cell of the latent."""
    return 2 ** (len(self.ddconfig['ch_mult']) - 1)

  @property
  def coarsest_factor(self) -> int:
    """Number whose multiples the sides of an image must be, px."""
    return self.factor

  @property
  def latent_channels(self) -> tuple[int, ...]:
    """Channels of the latent of each scale, of which there is one."""
    return (self.embed_dim,)

  def setup_networks(self, double_z: bool) -> None:
    """Adds encoder, decoder and the two pointwise convolutions.

    Raises:
      ValueError: `ddconfig.double_z` is not what the regulariser needs.
    """
    fields = dict(self.ddconfig)
    fields.pop('in_channels', None)
    if fields.pop('double_z', double_z) != double_z:
      raise ValueError(
        f'ddconfig.double_z is {not double_z}, must be {double_z} in '
        f'{type(self).__name__}.'
      )
    z_channels = fields.pop('z_channels')
    of_decoder = {
      name: fields.pop(name)
      for name in ('out_ch', 'tanh_out')
      if name in fields
    }
    fields |= {'dtype': self.dtype, 'remat': self.remat}
    twice = 2 if double_z else 1
    self.encoder = autoencoder.Encoder(
      **fields, z_channels=z_channels, double_z=double_z
    )
    self.quant_conv = convolution.Conv(twice * self.embed_dim, 1)
    self.post_quant_conv = convolution.Conv(z_channels, 1)
    self.decoder = autoencoder.Decoder(**fields, **of_decoder)

  def features_of(self, image: jax.Array) -> jax.Array:
    """Returns what the regulariser is fed, (B, h, w, C) float32.

    Raises:
      ValueError: the image has other channels than `in_channels`.
    """
    channels = self.ddconfig.get('in_channels', 3)
    if image.shape[-1] != channels:
      raise ValueError(
        f'the image must have {channels} channels, got shape {image.shape}.'
      )
    return self.quant_conv(self.encoder(image))

  def one_latent(self, zs: Sequence[jax.Array]) -> jax.Array:
    """Returns the only latent of a list.

    Raises:
      ValueError: it is not the only one, or has not `embed_dim` channels.
    """
    got = [z.shape for z in zs]
    if [shape[-1] for shape in got] != [self.embed_dim]:
      raise ValueError(
        f'needed one latent of {self.embed_dim} channels, got shapes {got}.'
      )
    return zs[0]

  def last_conv(self, features: jax.Array) -> jax.Array:
    """Maps the result of `decode_features` to the image (B, H, W, 3)."""
    return self.decoder.last_conv(features)


class AutoencoderKL(FirstStage, kw_only=True):
  """An autoencoder whose latents are drawn from a Gaussian.

  Its divergence from a standard normal distribution is held small in training.
  """

  @property
  def family(self) -> str:
    """Converter family of the weights, a key of `interop.parts.FAMILIES`."""
    return 'ldm.autoencoder_kl'

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    """Entries of the codebook of each scale; there is no codebook."""
    return ()

  @property
  def is_stochastic(self) -> bool:
    """Whether `encode` draws latents where it is given noise."""
    return True

  def setup(self):
    self.setup_networks(double_z=True)

  def __call__(
    self, image: jax.Array, noise: jax.Array | None = None
  ) -> dict[str, Any]:
    """Encodes, draws a latent and decodes: the path of training.

    Args:
      image: (B, H, W, 3) in [-1, 1], sides divisible by the largest halving.
      noise: as of `encode`.

    Returns:
      `reconstruction` (B, H, W, 3) float32; `features`, from which `last_conv`
      made it; `latents` as from `encode`; `kl` (B,), see `divergence`; and
      `mean` and `logvar` of the posterior.
    """
    mean, logvar = self.posterior(image)
    z = draw(mean, logvar, noise)
    features = self.decode_features([z])
    return {
      'reconstruction': self.last_conv(features),
      'features': features,
      'latents': [z],
      'kl': divergence(mean, logvar),
      'mean': mean,
      'logvar': logvar,
    }

  def posterior(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mean and clamped log variance of the latent of an image.

    Args:
      image: (B, H, W, 3) in [-1, 1].

    Returns:
      Two (B, h, w, embed_dim) float32.
    """
    return split_moments(self.features_of(image))

  def encode(
    self, image: jax.Array, noise: jax.Array | None = None
  ) -> list[jax.Array]:
    """Returns the latent, which diffusion models.

    Args:
      image: (B, H, W, 3) in [-1, 1].
      noise: standard normal, (B, h, w, embed_dim), which makes the latent one
        drawn from the posterior; None gives the posterior's mean.

    Returns:
      [(B, h, w, embed_dim) float32].
    """
    return [draw(*self.posterior(image), noise)]

  def decode(self, zs: Sequence[jax.Array]) -> jax.Array:
    """Maps [(B, h, w, embed_dim)] to (B, H, W, 3) float32, about [-1, 1]."""
    return self.last_conv(self.decode_features(zs))

  def decode_features(self, zs: Sequence[jax.Array]) -> jax.Array:
    """Returns what `decode` computes before its last convolution."""
    return self.decoder.features(self.post_quant_conv(self.one_latent(zs)))


class VQModel(FirstStage, kw_only=True):
  """An autoencoder whose latents are quantised by a codebook.

  The quantiser belongs to the decoder: `encode` gives latents before it.

  Attributes:
    n_embed: entries of the codebook.
    beta: of the quantiser.
    legacy: of the quantiser.
  """

  n_embed: int
  beta: float = 0.25
  legacy: bool = True

  @property
  def family(self) -> str:
    """Converter family of the weights, a key of `interop.parts.FAMILIES`."""
    return 'ldm.vq'

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    """Entries of the codebook of each scale, of which there is one."""
    return (self.n_embed,)

  @property
  def is_stochastic(self) -> bool:
    """Whether `encode` draws latents where it is given noise."""
    return False

  def setup(self):
    self.setup_networks(double_z=False)
    self.quantize = quantizer.VectorQuantizer(
      self.n_embed, self.embed_dim, self.beta, self.legacy
    )

  def __call__(
    self, image: jax.Array, noise: jax.Array | None = None
  ) -> dict[str, Any]:
    """Encodes, quantises and decodes: the path of training.

    Args:
      image: (B, H, W, 3) in [-1, 1], sides divisible by the largest halving.
      noise: not used.

    Returns:
      `reconstruction` (B, H, W, 3) float32; `features`, from which `last_conv`
      made it; `latents` as from `encode`; `codes`, one (B, h, w) int32; and
      `codebook_losses`, one scalar.
    """
    (z,) = self.encode(image, noise)
    entries, codes, loss = self.quantize(z)
    features = self.decode_features([entries], quantize=False)
    return {
      'reconstruction': self.last_conv(features),
      'features': features,
      'latents': [z],
      'codes': [codes],
      'codebook_losses': [loss],
    }

  def encode(
    self, image: jax.Array, noise: jax.Array | None = None
  ) -> list[jax.Array]:
    """Returns the latent before quantisation, which diffusion models.

    Args:
      image: (B, H, W, 3) in [-1, 1].
      noise: not used: these latents are not drawn.

    Returns:
      [(B, h, w, embed_dim) float32].
    """
    del noise
    return [self.features_of(image)]

  def decode(self, zs: Sequence[jax.Array], quantize: bool = True) -> jax.Array:
    """Maps a latent to an image.

    Args:
      zs: [(B, h, w, embed_dim)].
      quantize: False where it is made of entries of the codebook already.

    Returns:
      (B, H, W, 3) float32, about [-1, 1].
    """
    return self.last_conv(self.decode_features(zs, quantize))

  def decode_features(
    self, zs: Sequence[jax.Array], quantize: bool = True
  ) -> jax.Array:
    """Returns what `decode` computes before its last convolution."""
    z = self.one_latent(zs)
    if quantize:
      z, _, _ = self.quantize(z)
    return self.decoder.features(self.post_quant_conv(z))


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
  """Returns mean + standard deviation * noise; without noise the mean.

  Raises:
    ValueError: noise of another shape.
  """
  if noise is None:
    return mean
  if noise.shape != mean.shape:
    raise ValueError(
      f'the noise must have the shape {mean.shape} of the latent, got '
      f'{noise.shape}.'
    )
  return mean + jnp.exp(0.5 * logvar) * noise


def divergence(mean: jax.Array, logvar: jax.Array) -> jax.Array:
  """Returns the divergence from N(0, 1) of every example, (B,), in nats.

  Args:
    mean: (B, ...).
    logvar: the same shape.
  """
  terms = mean**2 + jnp.exp(logvar) - 1.0 - logvar
  return 0.5 * terms.sum(tuple(range(1, mean.ndim)))
