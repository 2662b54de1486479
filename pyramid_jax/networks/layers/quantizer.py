"""Vector quantisation, and measures of how a codebook is used."""

from einops import rearrange
from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from pyramid_jax import placement
from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import options
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
  # Whether entries are a trained linear map of a table that stays as it was
  # drawn, so that every step moves all of them (SimVQ, arXiv:2411.02038).
  linear: bool = False
  gradient: str = 'straight'  # a key of `GRADIENTS`
  entropy_weight: float = 0.0  # that of `entropy_loss`

  def setup(self):
    options.check(self, gradient=GRADIENTS)
    initial = affine.symmetric_uniform(1 / self.num_codes)
    if self.init_normal or self.linear:
      deviation = self.features**-0.5 if self.linear else 1.0
      initial = nn.initializers.normal(deviation)
    shape = (self.num_codes, self.features)
    self.embedding = parameters.get(self, 'embedding', initial, shape)
    if self.linear:
      self.projection = affine.Linear(self.features)

  def entries(self) -> jax.Array:
    """Returns the codebook (num_codes, features), float32."""
    table = placement.whole(self.embedding)
    return self.projection(lax.stop_gradient(table)) if self.linear else table

  def bounded(self, z: jax.Array) -> jax.Array:
    """Returns the vectors that a first stage calls latents: z itself."""
    return z

  def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Quantises z (..., features).

    Returns:
      The entries, float32 of z's shape, whose gradient goes to z as `gradient`
      says; their indices, (...) int32; and the codebook loss, a scalar.
    """
    if z.shape[-1] != self.features:
      raise ValueError(
        f'the codebook has entries of {self.features} channels, got z of '
        f'shape {z.shape}.'
      )
    z = z.astype(jnp.float32)
    codebook = self.entries()
    codes = nearest_code(lax.stop_gradient(z), codebook)
    entries = placement.rows(jnp.take(codebook, codes, axis=0))

    towards_entry = jnp.mean((lax.stop_gradient(entries) - z) ** 2)
    towards_z = jnp.mean((entries - lax.stop_gradient(z)) ** 2)
    if self.legacy:
      loss = towards_entry + self.beta * towards_z
    else:
      loss = self.beta * towards_entry + towards_z
    if self.entropy_weight:
      loss += self.entropy_weight * entropy_loss(z, codebook)
    return GRADIENTS[self.gradient](z, entries), codes, loss


def straight(z: jax.Array, entries: jax.Array) -> jax.Array:
  """Returns the entries; their gradient becomes that of z unchanged."""
  return z + lax.stop_gradient(entries - z)


def rotated(z: jax.Array, entries: jax.Array) -> jax.Array:
  """Returns the entries as a rotation and a scaling of z, which are constants.

  So the gradient is turned with the vector, and vectors of one cell are drawn
  together or apart. The rotation trick, arXiv:2410.06424, equation 4.

  Args:
    z: (..., D).
    entries: (..., D), the one of each vector.
  """
  q, e = lax.stop_gradient(entries), lax.stop_gradient(z)
  tiny = 1e-6
  size = lambda x: jnp.linalg.norm(x, axis=-1, keepdims=True)
  to_unit = lambda x: x / jnp.maximum(size(x), tiny)
  dot = lambda x, y: jnp.sum(x * y, -1, keepdims=True)
  old, new = to_unit(e), to_unit(q)
  middle = to_unit(old + new)
  turned = z - 2 * dot(z, middle) * middle + 2 * dot(z, old) * new
  turned *= size(q) / jnp.maximum(size(e), tiny)
  return turned + lax.stop_gradient(entries - turned)  # without its rounding


# (z, entries) -> the entries with a gradient for z.
GRADIENTS = {'straight': straight, 'rotated': rotated}


def entropy_loss(
  z: jax.Array, codebook: jax.Array, temperature: float = 0.01
) -> jax.Array:
  """Returns a scalar that is low where all codes are used, each with certainty.

  The mean entropy of the codes of single vectors less the entropy of all codes
  together, in nats; a vector has a code with a probability that falls with
  their squared distance. google-research/maskgit: maskgit/nets/losses.py
  (`entropy_loss`), arXiv:2310.05737, equation 5. It keeps N x K floats.

  Args:
    z: (..., D), N vectors.
    codebook: (K, D).
    temperature: squared distance over which a probability falls to 1 / e.
  """
  rows = z.reshape(-1, z.shape[-1])
  log_p = jax.nn.log_softmax(-_distances(rows, codebook) / temperature)
  p = jnp.exp(log_p)
  each = -jnp.mean(jnp.sum(p * log_p, -1))
  mean = jnp.mean(p, 0)
  return each + jnp.sum(mean * jnp.log(mean + 1e-10))


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
