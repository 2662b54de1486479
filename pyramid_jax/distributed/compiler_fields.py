"""Fields of the compiler's options."""

import re

from pyramid_jax.config import field as field_lib
from pyramid_jax.config.field import Field


_OPTION = re.compile(r'\w+=\S*', re.ASCII)

FIELDS = {
  'compiler.defaults': Field(
    True,
    'Whether programs for TPUs and GPUs are compiled with the options of'
    ' pyramid_jax/distributed/flags.py for their chip.',
    resumable=True,
  ),
  'compiler.options': Field(
    (),
    'More options of XLA for the programs of training and sampling, each'
    " 'name=value'; they take precedence over those of the chip.",
    resumable=True,
  ),
}


def _named(values: field_lib.Values) -> field_lib.Broken | None:
  bad = [x for x in values['compiler.options'] if not _OPTION.fullmatch(x)]
  if not bad:
    return None
  return field_lib.Broken(
    'compiler.options',
    f"of texts 'name=value' without blanks and hyphens; {bad[0]!r} is none",
  )


CHECKS = (_named,)
