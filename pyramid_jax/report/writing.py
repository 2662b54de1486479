"""Reads what a run left and writes its page."""

import datetime

from absl import logging

from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.report import page
from pyramid_jax.report import records
from pyramid_jax.runs import pretrained


FILE = 'report.html'


def write(workdir: stores.Path) -> stores.Path:
  """Writes the report of a run, and of its first stage; returns its path.

  Each appears when it is whole. One process calls it.

  Raises:
    UserError: no run is there, or the file cannot be written.
  """
  found = records.read(workdir)
  if found.has_first_stage:
    write(workdir / pretrained.FIRST_STAGE)
  now = datetime.datetime.now(datetime.UTC).isoformat(' ', 'minutes')
  path = workdir / FILE
  whole_files.save_text(path, page.of(found, now))
  return path


def write_last(workdir: stores.Path | str) -> None:
  """Writes the report of a run that has ended, and says where it is.

  What goes wrong is logged, for the run is done.
  """
  try:
    logging.info('report: %s', write(stores.path(workdir)))
  except Exception as error:
    logging.exception('there is no report: %s', error)
