"""The multi-scale vector-quantised autoencoder of Frido (arXiv:2208.13753).

Reference: davidhalladay/Frido, taming/models/msvqgan.py, MSFPNVQModel and
VQModelInterface, and MSEncoder of taming/modules/diffusionmodules/model.py.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.networks import autoencoder
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import norms
from pyramid_jax.networks.layers import quantizers
from pyramid_jax.networks.layers import resampling


class MSEncoder(autoencoder.Levels, kw_only=True):
  """An encoder with one head on each of its last levels."""

  z_channels: tuple[int, ...]  # FINEST head first, as in the reference.
  double_z: bool = False  # whether the heads have twice the channels

  def setup(self):
    scales = len(self.z_channels)
    if not 0 < scales <= len(self.ch_mult):
      raise ValueError(
        f'z_channels {self.z_channels} must name between 1 and '
        f'{len(self.ch_mult)} scales, one of each of the last levels of '
        f'ch_mult {self.ch_mult}.'
      )
    self.conv_in = affine.Conv(self.ch, dtype=self.dtype)
    self.down = self.down_levels()
    self.mid_ms = [self.middle() for _ in range(scales)]
    self.norm_out_ms = [
      norms.GroupNorm(autoencoder.EPS, dtype=self.dtype) for _ in range(scales)
    ]
    self.conv_out_ms = [
      affine.Conv((1 + self.double_z) * z) for z in self.z_channels
    ]

  def __call__(self, image: jax.Array) -> list[jax.Array]:
    """Maps (B, H, W, 3) in [-1, 1] to features, float32, FINEST first."""
    features = self.run_down(image)[-len(self.z_channels) :]
    heads = zip(
      self.mid_ms, self.norm_out_ms, self.conv_out_ms, features, strict=True
    )
    return [conv(nn.swish(norm(mid(x)))) for mid, norm, conv, x in heads]


class MSVQGAN(autoencoder.FirstStage, kw_only=True):
  """Codes an image at several scales, each with a codebook of its own.

  A scale is encoded knowing the codes of the coarser ones; every scale has
  twice the height and width of the one before. All lists are COARSE FIRST,
  but for `edconfig['z_channels']`.
  """

  # Fields of `MSEncoder`, as `ddconfig` has those of the decoder and
  # `z_channels`, the channels of its input; both but for `common_fields`.
  edconfig: Mapping[str, Any]
  embed_dim: tuple[int, ...]  # channels of the latent of each scale
  n_embed: tuple[int, ...]  # entries of the codebook of each scale
  quant_beta: float = 0.25  # `beta` of `quantizer.VectorQuantizer`
  legacy: bool = True  # `legacy` of `quantizer.VectorQuantizer`
  init_normal: bool = False  # `init_normal` of `quantizer.VectorQuantizer`
  # What latents are replaced by: one of `quantizers.CODEBOOKS`. The codes of a
  # `grid` are a number of levels to the power of `embed_dim`.
  codebook: str = 'table'
  gradient: str = 'straight'  # `gradient` of `quantizer.VectorQuantizer`
  entropy_weight: float = 0.0  # that of `quantizer.VectorQuantizer`
  # Channels, and residual blocks, of the networks that merge finished scales
  # into the next; these values in the reference.
  shared_ch: int = 128
  shared_num_res_blocks: int = 2

  family = 'frido.msvqgan'

  @property
  def coarsest_factor(self) -> int:
    return 2 ** (len(self.edconfig['ch_mult']) - 1)

  @property
  def latent_channels(self) -> tuple[int, ...]:
    return tuple(self.embed_dim)

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    return tuple(self.n_embed)

  @property
  def codebook_names(self) -> tuple[str, ...]:
    if self.codebook != 'table':
      return ()
    return tuple(f'ms_quantize_{i}' for i in range(len(self.n_embed)))

  def setup(self):
    z_channels = self.edconfig['z_channels']
    scales = len(self.embed_dim)
    if not len(z_channels) == len(self.n_embed) == scales:
      raise ValueError(
        'edconfig.z_channels, embed_dim and n_embed must have one entry a '
        f'scale, got {tuple(z_channels)}, {self.embed_dim}, {self.n_embed}.'
      )
    common = self.common_fields()
    decoder = dict(self.ddconfig)
    pointwise = lambda features: affine.Conv(features, 1)
    between = range(scales - 1)
    self.encoder = MSEncoder(**self.edconfig, **common)
    self.ms_quant_conv = [pointwise(c) for c in self.embed_dim]
    of_codebook = {
      'gradient': self.gradient,
      'entropy_weight': self.entropy_weight,
      'beta': self.quant_beta,
      'legacy': self.legacy,
      'init_normal': self.init_normal,
    }
    self.ms_quantize = [
      quantizers.create(self.codebook, n, c, **of_codebook)
      for n, c in zip(self.n_embed, self.embed_dim, strict=True)
    ]
    self.upsample = [
      nn.ConvTranspose(
        self.embed_dim[0],
        (4, 4),
        strides=(2, 2),
        padding='SAME',
        kernel_init=affine.torch_kernel,
        bias_init=affine.torch_bias(16 * self.embed_dim[0]),
      )
      for _ in between
    ]
    self.shared_post_quant_conv = [pointwise(z_channels[0]) for _ in between]
    self.shared_decoder = [
      autoencoder.Decoder(
        ch=self.shared_ch,
        ch_mult=(1,),
        num_res_blocks=self.shared_num_res_blocks,
        out_ch=self.embed_dim[0],
        **common,
      )
      for _ in between
    ]
    self.post_quant_conv = pointwise(decoder.pop('z_channels'))
    self.decoder = autoencoder.Decoder(**decoder, **common)

  def __call__(
    self, image: jax.Array, noise: jax.Array | None = None
  ) -> dict[str, Any]:
    """Encodes, quantises and decodes, in training.

    Returns what `reconstructed` does, and one of the `codes` (B, h, w) int32
    and of the scalars `codebook_losses` a scale.
    """
    del noise
    latents, entries, codes, losses = self._encode(image)
    return self.reconstructed(
      latents, entries, codes=codes, codebook_losses=losses
    )

  def encode(
    self, image: jax.Array, noise: jax.Array | None = None
  ) -> list[jax.Array]:
    del noise
    return self._encode(image)[0]

  def _encode(self, image: jax.Array) -> tuple[list[Any], ...]:
    results = []
    finished: list[jax.Array] = []  # coarser scales, brought to this grid
    for i, x in enumerate(reversed(self.encoder(image))):
      if i:
        upsample = self.upsample[i - 1]
        conv = self.shared_post_quant_conv[i - 1]
        finished = [conv(upsample(p)) for p in finished]
        x = self.shared_decoder[i - 1](jnp.concatenate([*finished, x], -1))
      z = self.ms_quantize[i].bounded(self.ms_quant_conv[i](x))
      entries, codes, loss = self.ms_quantize[i](z)
      finished.append(entries)
      results.append((z, entries, codes, loss))
    return tuple(list(column) for column in zip(*results, strict=True))

  def quantize(
    self, zs: Sequence[jax.Array]
  ) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
    """Quantises one latent (B, h, w, embed_dim) a scale, on its own grid.

    Returns:
      The entries, with gradients straight to zs; the codes, (B, h, w) int32;
      and the codebook losses, scalars.
    """
    self._check(zs)
    pairs = zip(self.ms_quantize, zs, strict=True)
    results = zip(*(quantize(z) for quantize, z in pairs), strict=True)
    entries, codes, losses = map(list, results)
    return entries, codes, losses

  def decode_features(
    self, zs: Sequence[jax.Array], quantize: bool = True
  ) -> jax.Array:
    self._check(zs)
    if quantize:  # on the grids as given: lookups commute with repetition
      zs, _, _ = self.quantize(zs)
    _, height, width, _ = zs[-1].shape
    zs = [resampling.nearest(z, (height, width)) for z in zs]
    z = self.post_quant_conv(jnp.concatenate(zs[::-1], -1))
    return self.decoder.features(z)

  def _check(self, zs: Sequence[jax.Array]) -> None:
    got = [z.shape for z in zs]
    if [shape[-1] for shape in got] != list(self.embed_dim):
      raise ValueError(
        f'latents must have {self.embed_dim} channels, coarse to fine, got '
        f'shapes {got}.'
      )
    height, width = got[-1][1:3]
    if any(height % h or width % w for _, h, w, _ in got):
      raise ValueError(
        'the grid of the last latent must be a multiple of every other, got '
        f'shapes {got}.'
      )
