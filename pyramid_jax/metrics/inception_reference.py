"""Files of reference statistics for FID and related scores.

Read: those of openai/guided-diffusion (`VIRTUAL_*.npz`: mu, sigma, mu_s,
sigma_s, and images arr_0 for precision and recall), of NVlabs/edm and
pytorch-fid (mu, sigma), and ours, which say what they were computed with.
"""

import dataclasses
import os

import numpy as np

from pyramid_jax.data.pixels import images as images_lib
from pyramid_jax.files import arrays
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.metrics import frechet


FEATURE = 'inception-2015-12-05'
RESIZE = 'tf1'  # how images become 299 x 299
_OURS = {'feature': FEATURE, 'resize': RESIZE}


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


def read(path: str | os.PathLike[str]) -> Reference:
  """Reads a file of statistics.

  Raises:
    ValueError: one line with the path: another kind of file, damage, or
      statistics of other features.
    OSError: the file cannot be opened.
  """
  try:
    with arrays.opened(path) as file:
      return _reference(file)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _reference(file: arrays.Archive) -> Reference:
  for name, want in _OURS.items():
    if name in file and str(file[name]) != want:
      raise ValueError(f'{name} is {str(file[name])!r}, needed {want!r}')
  pool = _fit(file, 'mu', 'sigma')
  if pool is None:
    raise ValueError(f'no mu and sigma; it holds {", ".join(sorted(file))}')
  images = None
  if 'arr_0' in file and 'features' not in file:
    images = images_lib.check_batch(file['arr_0'])
  return Reference(
    pool=pool,
    spatial=_fit(file, 'mu_s', 'sigma_s'),
    features=file.get('features'),
    images=images,
    count=int(file['n']) if 'n' in file else None,
    own='feature' in file,
  )


def _fit(
  file: arrays.Archive, mean: str, covariance: str
) -> frechet.Fit | None:
  """Returns the Gaussian of two entries, None where they are not there."""
  if mean not in file or covariance not in file:
    return None
  mu, sigma = file[mean], file[covariance]
  if mu.ndim != 1 or sigma.shape != 2 * mu.shape:
    raise ValueError(
      f'{mean} is {mu.shape} and {covariance} {sigma.shape}; needed (D,) and '
      '(D, D)'
    )
  if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
    raise ValueError(f'{mean} or {covariance} is not finite')
  return frechet.fit_covariance(mu, sigma)


def write(
  path: str | os.PathLike[str],
  pool: frechet.Moments,
  spatial: frechet.Moments,
  features: np.ndarray,
  images: np.ndarray,
  source: str,
) -> None:
  """Writes statistics; the file appears under its name when it is whole.

  Programs that read the files of ADM read it too. Precision and recall need the
  averages `features` (M, 2048) of `images` (M, H, W, 3) uint8; `source` is the
  hash of all images.

  Raises:
    FileExistsError: the file is there.
    UserError: it cannot be written.
  """
  is_object = stores.is_remote(path) and stores.path(path).exists()
  if is_object or os.path.lexists(path):  # since the images were read
    raise FileExistsError(f'{path} is there, and is not overwritten.')
  entries = {
    'mu': pool.mean,
    'sigma': pool.covariance,
    'mu_s': spatial.mean,
    'sigma_s': spatial.covariance,
    'features': features,
    'arr_0': images,
    'n': np.asarray(round(pool.count)),
    'source_sha256': np.asarray(source),
    'feature': np.asarray(FEATURE),
    'resize': np.asarray(RESIZE),
  }
  whole_files.save_arrays(path, entries)
