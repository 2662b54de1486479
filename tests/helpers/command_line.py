"""The command line without a process of its own."""

import contextlib
import io
import sys
from typing import Any
from unittest import mock

from absl import flags

from pyramid_jax import main
from pyramid_jax.commands import options


def call(*args: Any) -> tuple[int, str]:
  """Runs `python -m pyramid_jax.main ARGS` here.

  Args:
    *args: of the command line; their texts are taken.

  Returns:
    Its exit code, and what it wrote to stderr; logs are left out.
  """
  _forget()
  written = io.StringIO()
  argv = ['main', *map(str, args)]
  try:
    with (
      mock.patch.object(sys, 'argv', argv),
      contextlib.redirect_stderr(written),
    ):
      code: Any = main.run()
  except SystemExit as ended:
    code = ended.code
  finally:
    _forget()
    flags.FLAGS.mark_as_parsed()
  return code or 0, written.getvalue()


def _forget() -> None:
  """Sets all flags of the package back."""
  flags.FLAGS.unparse_flags()
  for flag in flags.FLAGS.flags_by_module_dict()[options.__name__]:
    flag.unparse()
