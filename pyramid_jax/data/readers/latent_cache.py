"""Latents computed beforehand: how they lie on disk, and their reader.

A folder holds `manifest.json`, which says what the latents are of and which
autoencoder made them, and the shards of `records`: `train-00000.records`. A
record has `latent_mean_S` (h, w, C) float16 of every scale S, coarse first;
`latent_std_0` of a Kullback-Leibler autoencoder; and whatever else the examples
have for the networks. Where mirrored images are asked for, an image has two
records, its own and then that of its mirror image.
`pyramid_jax.commands.cache_latents` writes it.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.conditioning import hashing
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.data import id_ranges
from pyramid_jax.data import identity
from pyramid_jax.data import reader as reader_lib
from pyramid_jax.data.caches import fixed_records
from pyramid_jax.data.caches import manifests
from pyramid_jax.data.pixels import buckets as buckets_lib
from pyramid_jax.files import stores
from pyramid_jax.networks import first_stages
from pyramid_jax.networks import params as params_lib


FORMAT = 2
SPLIT = 'train'
FLIPPED = 'flipped_'
LATENTS = ('latent_mean_', 'latent_std_')
# Fields that a cache fixes; a run that uses it must have the same.
FIXED = {
  'data': (
    *('image_size', 'level', 'crop', 'resize'),
    *('max_objects', 'lr_factor', 'maps'),
  ),
  'condition': (
    *('task', 'also', 'encoder', 'max_length'),
    *('max_objects', 'no_tokens', 'encode_crop', 'shift'),
  ),
}
# Images that are encoded with the condition cannot be cached; places would
# have to be mirrored with the image.
UNSERVED = ('inpaint',)
FLIPPABLE = ('none', 'class')
_STREAM = 300  # word of the hash that mirrors


def fixed_fields(config: ConfigDict) -> dict[str, Any]:
  """Returns the fields that a cache fixes, those that are not empty."""
  d, c = config.data, config.condition
  fields = {
    f'{section}.{field}': config[section][field]
    for section, fields in FIXED.items()
    for field in fields
    if config[section].get(field, ()) != ()
  }
  if c.task in reader_lib.LABELLED:
    fields['data.category_file'] = d.category_file
    fields['data.unlisted_categories'] = d.unlisted_categories
  if c.task in tokenizers.TEXT_TASKS:
    fields['condition.drop_full_stops'] = c.drop_full_stops
  return fields


def encoded(
  network: first_stages.Network, params: Any, image: jax.Array
) -> dict[str, jax.Array]:
  """Returns the latents of images (B, H, W, 3) in [-1, 1] as shards have them.

  Args:
    network: the first stage.
    params: its weights.
    image: the images.
  """
  apply = lambda method: params_lib.apply(network, params, image, method=method)
  if network.is_stochastic:
    mean, logvar = apply('posterior')
    arrays = {'latent_mean_0': mean, 'latent_std_0': jnp.exp(0.5 * logvar)}
  else:
    arrays = {f'latent_mean_{s}': z for s, z in enumerate(apply('encode'))}
  return {k: v.astype(jnp.float16) for k, v in arrays.items()}


def shards(
  folder: stores.Path, manifest: Mapping[str, Any]
) -> fixed_records.Shards:
  """Returns the shards of a cache, given its manifest.

  Raises:
    ValueError: a layout that is none.
  """
  layout = fixed_records.Layout.of_json(manifest['layout'])
  versions = 1 + manifest['flips']
  size, count = manifest['shard_size'], manifest['count']
  return fixed_records.Shards(
    folder, SPLIT, layout, size * versions, count * versions
  )


def rows_of(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the arrays of records (R, ...) of those of N images.

  There are two records an image where there are mirrored latents.

  Args:
    arrays: (N, ...) each; mirrored latents have `FLIPPED` before their name.
  """
  plain = {k: np.asarray(v) for k, v in arrays.items()}
  flipped = [k for k in plain if k.startswith(FLIPPED)]
  mirrored = {k.removeprefix(FLIPPED): plain.pop(k) for k in flipped}
  if not mirrored:
    return plain
  both = {k: np.stack([v, mirrored.get(k, v)], 1) for k, v in plain.items()}
  return {k: v.reshape(-1, *v.shape[2:]) for k, v in both.items()}


def layout_of(shapes: Mapping[str, Any]) -> fixed_records.Layout:
  """Returns the layout of records, given shapes of the arrays of `rows_of`."""
  kept = {k: x for k, x in shapes.items() if not k.startswith(FLIPPED)}
  return fixed_records.Layout.of(kept)


def _manifest(folder: stores.Path) -> dict[str, Any]:
  """Returns the manifest of a cache; one that is none is a UserError."""
  command = (
    'python -m pyramid_jax.commands.cache_latents --config=CONFIG'
    ' --first_stage=DIR --output=NEW'
  )
  return manifests.read(folder, FORMAT, _FIELDS, command)


def _is_source(value: Any) -> bool:
  names = ('name', 'root')
  is_text = lambda name: isinstance(value.get(name), str)
  return isinstance(value, dict) and all(map(is_text, names))


def _are_texts(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(x, str) for x in value)


_FIELDS: manifests.Fields = {
  **manifests.COMMON,
  'autoencoder': ('a text', lambda x: isinstance(x, str)),
  'data': ('the fields of the data', _is_source),
  'label_names': ('a list of texts', _are_texts),
  'flips': ('true or false', lambda x: isinstance(x, bool)),
}


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = (SPLIT,)
) -> list[str]:
  """Returns 'path (what it is)' of what is not there."""
  del splits
  if not config.data.root:
    return ['the folder of latents (config.data.root is empty)']
  file = stores.path(config.data.root).expanduser() / manifests.NAME
  return [] if file.is_file() else [f'{file} (latents, config.data.root)']


def source(config: ConfigDict) -> ConfigDict:
  """Returns the config of the data that a cache was made of.

  Raises:
    UserError: the cache cannot be read.
  """
  folder = stores.path(config.data.root).expanduser()
  fields = _manifest(folder)['data']
  copy = ConfigDict(config.to_dict())
  copy.data.name, copy.data.root = fields['name'], fields['root']
  return copy


class LatentReader:
  """Reads a cache in place of the training images (see `reader.Reader`).

  Examples have the latents, and all that the networks are conditioned on, but
  not the image. Every record is compared with its checksum when it is read.
  """

  buckets: buckets_lib.Buckets | None = None  # all images have one shape

  def __init__(self, config: ConfigDict, split: str):
    """Opens a cache of the training split; others are read from the source.

    Raises:
      UserError: a cache that is damaged, incomplete or of another config.
    """
    if split != SPLIT:
      raise ValueError(f'latents are cached for train only, not for {split}.')
    self._folder = stores.path(config.data.root).expanduser()
    manifest = _manifest(self._folder)
    manifests.check_fixed(self._folder, manifest, fixed_fields(config))
    self.made_by = {'first_stage': manifest['autoencoder']}
    self.label_names = tuple(manifest['label_names'])
    self.id_counts = id_ranges.counts(config, self.label_names, None)
    self.report: dict[str, int] = {}
    self._flips: bool = manifest['flips']
    self._length: int = manifest['count']
    self._shards = shards(self._folder, manifest)
    self._bytes = self._shards.check()

  def identity(self) -> identity.Identity:
    """Returns the shards and what they are of; see `reader.Reader`."""
    return {
      identity.SHARDS: self._bytes,
      identity.FILES: manifests.identity(self._folder),
      identity.SOURCE: {
        'autoencoder': self.made_by['first_stage'],
        'images': self._length,
        'flips': self._flips,
      },
    }

  def __len__(self) -> int:
    return self._length

  def batch(
    self, indices: np.ndarray, draws: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Returns stacked examples; `draws` decides which are mirrored."""
    indices = np.asarray(indices, np.int64)
    if not self._flips:
      return self._shards.read(indices)
    flips = hashing.below(2, np.asarray(draws), _STREAM) == 1
    return self._shards.read(2 * indices + flips)

  def finish(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the batch: its arrays were finished before they were stored."""
    return dict(batch)
