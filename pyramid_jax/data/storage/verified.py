"""Images of a folder that are compared with a list whenever they are read."""

from collections.abc import Iterable
from collections.abc import Sequence

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.data.storage import checksums
from pyramid_jax.data.storage import image_stores


class _Verified:
  """The files of a folder, as a list says (see `image_stores.Store`)."""

  def __init__(self, folder: image_stores.Folder, sums: checksums.Checksums):
    self._folder, self._sums = folder, sums

  @property
  def names(self) -> Sequence[str]:
    return self._folder.names

  def where(self, row: int) -> str:
    return self._folder.where(row)

  def load(self, row: int) -> bytes:
    data = self._folder.load(row)
    self._sums.check(self.names[row], self._folder.path / self.names[row], data)
    return data

  def head(self, row: int, count: int) -> bytes:
    return self._folder.head(row, count)

  def sizes(self, rows: Iterable[int]) -> dict[str, int | None]:
    return self._folder.sizes(rows)


def verified(
  config: ConfigDict, store: image_stores.Store
) -> image_stores.Store:
  """Returns a store whose files are those of `config.data.checksums`.

  It is the store itself where no list is configured.

  Raises:
    UserError: the list lacks files or cannot be read, or the images are in
      archives, which are verified as a whole.
  """
  path = checksums.path_of(config)
  if path is None:
    return store
  if not isinstance(store, image_stores.Folder):
    raise errors.UserError(
      f'{checksums.FIELD} is {path}, must be empty where images are in'
      ' archives: `sha256sum --check` verifies these as a whole.'
    )
  listed = checksums.Checksums(config, store.path, store.names)
  return _Verified(store, listed)
