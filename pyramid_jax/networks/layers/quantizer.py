"""Vector quantisation, and measures of how a codebook is used."""

from einops import rearrange
from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from pyramid_jax import placement
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import parameters


# Distances are computed to this many codes at a time: tokens x codes floats
# would be gigabytes for a batch of training.
CODES_AT_ONCE = 1024


class VectorQuantizer(nn.Module):
  """Replaces vectors by the nearest entries of a codebook.

  arXiv:1711.00937; CompVis/taming-transformers: taming/modules/vqvae/
  quantize.py, VectorQuantizer2. Everything is float32.
  """

  num_codes: int  # entries of the codebook
  features: int  # channels of an entry
  beta: float = 0.25  # weight of one of the two terms of the loss
  # Whether beta weighs the term that moves the codebook, as in all published
  # models, instead of the one that moves the encoder.
  legacy: bool = True
  init_normal: bool = False  # N(0, 1) at first, not U(+-1 / num_codes)

  def setup(self):
    initial = affine.symmetric_uniform(1 / self.num_codes)
    if self.init_normal:
      initial = nn.initializers.normal(1.0)
    shape = (self.num_codes, self.features)
    self.embedding = parameters.get(self, 'embedding', initial, shape)

  def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Quantises z (..., features).

    Returns:
      The entries, float32 of z's shape, whose gradient goes straight to z;
      their indices, (...) int32; and the codebook loss, a scalar.
    """
    if z.shape[-1] != self.features:
      raise ValueError(
        f'the codebook has entries of {self.features} channels, got z of '
        f'shape {z.shape}.'
      )
    z = z.astype(jnp.float32)
    embedding = placement.whole(self.embedding)
    codes = nearest_code(lax.stop_gradient(z), embedding)
    entries = placement.rows(jnp.take(embedding, codes, axis=0))

    towards_entry = jnp.mean((lax.stop_gradient(entries) - z) ** 2)
    towards_z = jnp.mean((entries - lax.stop_gradient(z)) ** 2)
    if self.legacy:
      loss = towards_entry + self.beta * towards_z
    else:
      loss = self.beta * towards_entry + towards_z
    return z + lax.stop_gradient(entries - z), codes, loss


def nearest_code(z: jax.Array, codebook: jax.Array) -> jax.Array:
  """Returns the index of the entry nearest to every vector, first on ties.

  Vectors z (..., D) and codebook (K, D) give (...) int32 in [0, K).
  """
  codebook = lax.stop_gradient(codebook)
  if len(codebook) <= CODES_AT_ONCE:
    return jnp.argmin(_distances(z, codebook), -1).astype(jnp.int32)
  blocks = -(-len(codebook) // CODES_AT_ONCE)
  missing = blocks * CODES_AT_ONCE - len(codebook)
  # Repeats of the first entry never win a tie against it.
  padded = jnp.concatenate([codebook, jnp.tile(codebook[:1], (missing, 1))])
  entries = rearrange(padded, '(b k) d -> b k d', b=blocks)
  firsts = np.arange(blocks, dtype=np.int32) * CODES_AT_ONCE

  def nearest(block):
    entries, first = block
    distances = _distances(z, entries)
    index = jnp.argmin(distances, -1).astype(jnp.int32)
    return jnp.min(distances, -1), first + index

  distances, codes = lax.map(nearest, (entries, firsts))
  is_nearest = distances == jnp.min(distances, 0)
  return jnp.min(jnp.where(is_nearest, codes, len(codebook) - 1), 0)


def _distances(z: jax.Array, entries: jax.Array) -> jax.Array:
  # |z|^2 is left out: it is the same for all entries and only adds rounding.
  # Lower precision, the default of accelerators, would flip codes.
  inner = jnp.einsum(
    '...d,kd->...k', z, entries, precision=lax.Precision.HIGHEST
  )
  return jnp.sum(entries**2, -1) - 2 * inner


def code_counts(codes: jax.Array, num_codes: int) -> jax.Array:
  """Counts how often each of the codes [0, num_codes) occurs, int32."""
  return jnp.bincount(codes.reshape(-1), length=num_codes).astype(jnp.int32)


def perplexity(counts: jax.Array) -> jax.Array:
  """Returns exp of the entropy of `code_counts` (K,), in [1, K].

  CompVis/latent-diffusion: ldm/modules/losses/vqperceptual.py.
  """
  p = counts / jnp.maximum(counts.sum(), 1)
  return jnp.exp(-jnp.sum(p * jnp.log(p + 1e-10)))


def dead_codes(counts: jax.Array) -> jax.Array:
  """Returns how many of `code_counts` (K,) are zero, int32."""
  return jnp.sum(counts == 0, dtype=jnp.int32)
