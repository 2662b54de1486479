"""The command line without a process of its own."""

import contextlib
import io
from typing import Any

from pyramid_jax import main


def call(*args: Any) -> tuple[int, str]:
  """Runs `python -m pyramid_jax.main ARGS` here.

  Args:
    *args: of the command line; their texts are taken.

  Returns:
    Its exit code, and what it wrote to stderr; logs are left out.
  """
  written = io.StringIO()
  with contextlib.redirect_stderr(written):
    code = main.run([str(arg) for arg in args])
  return code, written.getvalue()
