"""The vector of noise level, class and augmentation of networks of EDM.

NVlabs/edm: training/networks.py, SongUNet, "Mapping". Its layers belong to the
module in whose compact method `make` is called.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.networks.layers import affine
from pyramid_jax.networks.layers import embeddings


EMBEDDINGS = ('positional', 'fourier')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
  """What a network is conditioned on beside the noise level.

  Attributes:
    num_classes: 0 for none; class `num_classes` means no class.
    augment_dim: channels of the augmentation labels, 0 for none.
    classes: (B,) ids in [0, num_classes], None for none at all.
    augment: (B, augment_dim) how images were augmented, None = not at all.
  """

  num_classes: int
  augment_dim: int
  classes: jax.Array | None
  augment: jax.Array | None

  def check(self, batch: int) -> None:
    """Raises ValueError for labels that the network or the batch lacks."""
    for name, labels, wanted, size, value in (
      ('class_labels', self.classes, (batch,), 'num_classes', self.num_classes),
      (
        'augment_labels',
        self.augment,
        (batch, self.augment_dim),
        'augment_dim',
        self.augment_dim,
      ),
    ):
      if labels is not None and (labels.shape != wanted or not value):
        raise ValueError(
          f'{name} of shape {labels.shape} need shape {wanted} and {size} > 0;'
          f' {size} = {value}.'
        )


def embedded_level(
  embedding: str,
  noise_label: jax.Array,
  dim: int,
  frequencies: jax.Array | None = None,
) -> jax.Array:
  """Returns sines, then cosines, of noise labels (B,), (B, dim) float32.

  Args:
    embedding: 'positional' or 'fourier', with random frequencies.
    noise_label: what the preconditioning calls c_noise.
    dim: the number of channels, even.
    frequencies: (dim / 2,), see `embeddings.random_fourier_features`.
  """
  if embedding == 'positional':
    emb = embeddings.timestep_embedding(noise_label, dim, endpoint=True)
  else:
    emb = embeddings.random_fourier_features(
      noise_label, dim, frequencies=frequencies
    )
  return jnp.roll(emb, dim // 2, axis=-1)


def make(emb: jax.Array, labels: Labels, width: int) -> jax.Array:
  """Adds labels to embedded levels (B or 1, dim); returns (B or 1, width)."""
  dim = emb.shape[-1]
  layer = lambda name, features, use_bias=True: affine.Linear(
    features, use_bias=use_bias, name=name, **affine.xavier()
  )
  if labels.num_classes:
    ids = labels.classes
    if ids is None:
      ids = jnp.full(1, labels.num_classes)
    one_hot = jax.nn.one_hot(ids, labels.num_classes)
    scale = np.sqrt(labels.num_classes)
    emb = emb + layer('map_label', dim)(one_hot * scale)
  if labels.augment_dim:
    moves = labels.augment
    if moves is None:
      moves = jnp.zeros((1, labels.augment_dim))
    emb = emb + layer('map_augment', dim, False)(moves)
  for i in range(2):
    emb = nn.silu(layer(f'map_layer_{i}', width)(emb))
  return emb
