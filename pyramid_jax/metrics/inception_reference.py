"""Files of reference statistics for FID and its kin.

Read: those of openai/guided-diffusion (`VIRTUAL_*.npz`: mu, sigma, mu_s,
sigma_s, and pictures arr_0 for precision and recall), of NVlabs/edm and
pytorch-fid (mu, sigma), and ours, which say what they were computed with.
"""

import dataclasses
import os
import pathlib
import zipfile

import numpy as np

from pyramid_jax.metrics import frechet


FEATURE = 'inception-2015-12-05'
RESIZE = 'tf1'  # how pictures become 299 x 299
_OURS = {'feature': FEATURE, 'resize': RESIZE}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
  """What pictures are compared with.

  Attributes:
    pool: Gaussian of the 2048 averages.
    spatial: Gaussian of the 2023 spatial features, None if unknown.
    features: (M, 2048) averages, for precision and recall; None if unknown.
    images: (M, H, W, 3) uint8 whose averages those are, still to be computed;
      None without.
    count: pictures behind the Gaussians, None if unknown.
  """

  pool: frechet.Fit
  spatial: frechet.Fit | None = None
  features: np.ndarray | None = None
  images: np.ndarray | None = None
  count: int | None = None


def read(path: str | os.PathLike[str]) -> Reference:
  """Reads a file of statistics.

  Raises:
    ValueError: one line with the path: another kind of file, damage, or
      statistics of other features.
    OSError: the file cannot be opened.
  """
  try:
    with np.load(path, allow_pickle=False) as file:
      return _reference(file)
  except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(f'{path}: {error}') from error


def _reference(file: np.lib.npyio.NpzFile) -> Reference:
  for name, want in _OURS.items():
    if name in file and str(file[name]) != want:
      raise ValueError(f'{name} is {str(file[name])!r}, needed {want!r}')
  pool = _fit(file, 'mu', 'sigma')
  if pool is None:
    raise ValueError(
      f'no mu and sigma; it holds {", ".join(sorted(file.files))}'
    )
  return Reference(
    pool=pool,
    spatial=_fit(file, 'mu_s', 'sigma_s'),
    features=file.get('features'),
    images=file.get('arr_0'),
    count=int(file['n']) if 'n' in file else None,
  )


def _fit(
  file: np.lib.npyio.NpzFile, mean: str, covariance: str
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
  source: str,
) -> None:
  """Writes statistics; the file appears under its name when it is whole.

  Args:
    path: of the file, which ends in .npz.
    pool: moments of the averages.
    spatial: moments of the spatial features.
    features: (M, 2048) averages for precision and recall.
    source: hash of what the pictures were.
  """
  path = pathlib.Path(path)
  part = path.with_name(path.name + '.part')
  with open(part, 'wb') as file:
    np.savez(
      file,
      mu=pool.mean,
      sigma=pool.covariance,
      mu_s=spatial.mean,
      sigma_s=spatial.covariance,
      features=features,
      n=np.int64(round(pool.count)),
      source_sha256=np.str_(source),
      feature=np.str_(FEATURE),
      resize=np.str_(RESIZE),
    )
    file.flush()
    os.fsync(file.fileno())
  os.replace(part, path)
