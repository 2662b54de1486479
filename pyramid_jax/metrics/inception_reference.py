"""Files of reference statistics for FID and related scores.

Read and written: those of openai/guided-diffusion (`VIRTUAL_*.npz`: mu, sigma,
mu_s, sigma_s, and images arr_0 for precision and recall), of NVlabs/edm and
pytorch-fid (mu, sigma), and ours, which say what they were computed with. Read
alone: the pickles of NVlabs/edm2.
"""

from collections.abc import Mapping
import dataclasses
import os

import numpy as np

from pyramid_jax.data.pixels import images as images_lib
from pyramid_jax.files import arrays
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.interop import pickled_arrays
from pyramid_jax.metrics import frechet
from pyramid_jax.metrics import inception_input


FEATURE = 'inception-2015-12-05'
OWN, ADM, EDM = 'own', 'adm', 'edm'
LAYOUTS = (OWN, ADM, EDM)  # of files that are written
PICKLE = '.pkl'
_PICKLED = 'fid'  # the entry of a pickle
# What clean-fid has in the names of its files, NAME_clean_SPLIT_SIZE.npz, and
# nothing in them.
_CLEAN = '_clean_'

Path = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
  """What images are compared with; None where it is not known."""

  pool: frechet.Fit  # The moments of the 2048 averages.
  spatial: frechet.Fit | None = None  # Those of the spatial features.
  features: np.ndarray | None = None  # (M, 2048) averages
  # (M, H, W, 3) uint8, to be made into `features`
  images: np.ndarray | None = None
  count: int | None = None  # images behind the Gaussians
  own: bool = True  # whether our network made it, not others'
  digest: str = ''  # see `image_sets.Contents`; '' of a file
  resize: str = inception_input.TF1  # how its images became 299 x 299


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
  """What a file has, in its own types; None where it has it not."""

  mu: np.ndarray  # (2048,)
  sigma: np.ndarray  # (2048, 2048)
  mu_s: np.ndarray | None = None  # (2023,)
  sigma_s: np.ndarray | None = None  # (2023, 2023)
  images: np.ndarray | None = None  # (M, H, W, 3) uint8
  features: np.ndarray | None = None  # (M, 2048), the averages of `images`
  count: int | None = None  # all images
  source: str = ''  # SHA-256 of all images
  own: bool = True  # whether our network made it, not others'
  resize: str = inception_input.TF1


def read(path: Path, resize: str = inception_input.TF1) -> Reference:
  """Reads a file of statistics.

  Raises:
    ValueError: one line with the path: another kind of file, damage, or
      statistics of other features or of images that were resized otherwise.
    OSError: the file cannot be opened.
  """
  try:
    found = _statistics(path)
    if found.resize != resize:
      raise ValueError(
        f'resize is {found.resize!r}, config.evaluate.resize is {resize!r}'
      )
    return _reference(found)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def statistics(path: Path) -> Statistics:
  """Returns what a file has; see `read`."""
  try:
    return _statistics(path)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _statistics(path: Path) -> Statistics:
  name = os.path.basename(os.fspath(path))
  if name.endswith(PICKLE):
    pickled = pickled_arrays.read(path)
    if f'{_PICKLED}/mu' not in pickled:
      raise ValueError(f'no {_PICKLED}; it holds {", ".join(sorted(pickled))}')
    own = {n: pickled[f'{_PICKLED}/{n}'] for n in ('mu', 'sigma')}
    return _of_entries(own, name)
  with arrays.opened(path) as file:
    return _of_entries(file, name)


def _of_entries(file: Mapping[str, np.ndarray], name: str) -> Statistics:
  feature = str(file['feature']) if 'feature' in file else FEATURE
  if feature != FEATURE:
    raise ValueError(f'feature is {feature!r}, needed {FEATURE!r}')
  if 'mu' not in file or 'sigma' not in file:
    raise ValueError(f'no mu and sigma; it holds {", ".join(sorted(file))}')
  # Files of others are of TensorFlow's resize, but for those of clean-fid.
  resize = inception_input.TF1
  if _CLEAN in name and 'mu_s' not in file:
    resize = inception_input.CLEAN
  if 'resize' in file:
    resize = str(file['resize'])
  return Statistics(
    mu=file['mu'],
    sigma=file['sigma'],
    mu_s=file.get('mu_s'),
    sigma_s=file.get('sigma_s'),
    features=file.get('features'),
    images=file.get('arr_0'),
    count=int(file['n']) if 'n' in file else None,
    source=str(file['source_sha256']) if 'source_sha256' in file else '',
    own='feature' in file,
    resize=resize,
  )


def _reference(found: Statistics) -> Reference:
  images = None
  if found.images is not None and found.features is None:
    images = images_lib.check_batch(found.images)
  spatial = None
  if found.mu_s is not None and found.sigma_s is not None:
    spatial = _fit('mu_s', found.mu_s, 'sigma_s', found.sigma_s)
  return Reference(
    pool=_fit('mu', found.mu, 'sigma', found.sigma),
    spatial=spatial,
    features=found.features,
    images=images,
    count=found.count,
    own=found.own,
    resize=found.resize,
  )


def _fit(
  mean: str, mu: np.ndarray, covariance: str, sigma: np.ndarray
) -> frechet.Fit:
  """Returns the Gaussian of two entries with these names."""
  if mu.ndim != 1 or sigma.shape != 2 * mu.shape:
    raise ValueError(
      f'{mean} is {mu.shape} and {covariance} {sigma.shape}; needed (D,) and '
      '(D, D)'
    )
  if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
    raise ValueError(f'{mean} or {covariance} is not finite')
  return frechet.fit_covariance(mu, sigma)


def write(path: Path, found: Statistics, layout: str = OWN) -> None:
  """Writes statistics; the file appears under its name when it is whole.

  Programs that read the files of ADM read `OWN` too. `ADM` has the names and
  types that openai/guided-diffusion: evaluations/evaluator.py computes of
  float32 features (mu in float32, sigma in float64), and `EDM` those that
  NVlabs/edm: fid.py writes. Both have entries in the order of their names here;
  entries that are not known are left out.

  Raises:
    FileExistsError: the file is there.
    ValueError: the layout of another resize.
    UserError: it cannot be written.
  """
  if layout != OWN and found.resize != inception_input.TF1:
    raise ValueError(
      f'the layout {layout!r} is that of the resize {inception_input.TF1!r}, '
      f'config.evaluate.resize is {found.resize!r}.'
    )
  is_object = stores.is_remote(path) and stores.path(path).exists()
  if is_object or os.path.lexists(path):  # since the images were read
    raise FileExistsError(f'{path} is there, and is not overwritten.')
  entries = _entries(found, layout).items()
  there = {name: x for name, x in entries if x is not None}
  whole_files.save_arrays(path, there)


def _entries(found: Statistics, layout: str) -> dict[str, np.ndarray | None]:
  pool = {'mu': found.mu, 'sigma': found.sigma}
  if layout == EDM:
    return {name: np.asarray(x, np.float64) for name, x in pool.items()}
  spatial = {'mu_s': found.mu_s, 'sigma_s': found.sigma_s}
  every: dict[str, np.ndarray | None] = {**pool, **spatial}
  if layout == ADM:
    types = {'mu': np.float32, 'mu_s': np.float32}
    of_adm = {
      name: None if x is None else np.asarray(x, types.get(name, np.float64))
      for name, x in every.items()
    }
    return {**of_adm, 'arr_0': found.images}
  return {
    **every,
    'features': found.features,
    'arr_0': found.images,
    'n': None if found.count is None else np.asarray(found.count),
    'source_sha256': np.asarray(found.source),
    'feature': np.asarray(FEATURE),
    'resize': np.asarray(found.resize),
  }
