"""What there is to set: the configs that come along, and the fields of one."""

import ast
from collections.abc import Iterator
import pathlib
import textwrap
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax.config import field as field_lib
from pyramid_jax.config import files
from pyramid_jax.config import names
from pyramid_jax.config import sections


_WIDTH = 80
_VARIANTS = 'Variants:\n'


def configs() -> str:
  """Returns the shipped configs with their purposes and variants, as text.

  The files are read and not executed.
  """
  return '\n\n'.join(
    _of_file(file)
    for file in files.shipped()
    if 'def get_config(' in file.read_text()
  )


def shipped_name(named: str) -> str | None:
  """Returns 'NAME:variant,...' of a `--config` that comes along, else None."""
  path, _, arg = named.partition(':')
  folder, _, name = path.removesuffix('.py').rpartition('/')
  known = [file.stem for file in files.shipped()]
  is_ours = folder in ('', 'configs') and name in known
  return f'{name}:{arg}' if is_ours else None


def _of_file(file: pathlib.Path) -> str:
  words = ast.get_docstring(ast.parse(file.read_text())) or ''
  purpose = ' '.join(words.partition('\n\n')[0].split())
  variants = words.partition(_VARIANTS)[2].partition('\n\n')[0].rstrip()
  lines = [f'configs/{file.name}']
  lines += [f'  {line}' for line in textwrap.wrap(purpose, _WIDTH - 2)]
  for line in textwrap.dedent(variants).splitlines():
    lines.append(f'     {line}' if line.startswith(' ') else f'    :{line}')
  return '\n'.join(lines)


def fields(config: ConfigDict) -> str:
  """Returns every field of a config by section, as text.

  A field has its value, its default where that differs, its type and range, and
  its meaning. The fields of networks are arguments of their constructors.
  """
  values = names.flatten(config)
  lines: list[str] = []
  sections_of = {name: name.rpartition('.')[0] for name in values}
  for section in dict.fromkeys(sorted(sections_of.values())):
    lines += ['', f'[{section or "whole"}]']
    for name, value in values.items():
      if sections_of[name] == section:
        lines += _of_field(name, value, values)
  return '\n'.join(lines[1:])


def _of_field(name: str, value: Any, values: field_lib.Values) -> Iterator[str]:
  """Yields the lines about a field."""
  field = sections.find(values, name)
  yield f'--config.{name}={_text(value)}'
  if field is None:
    kind = sections.network_type(values, name)
    shown = getattr(kind, '__name__', str(kind))
    is_known = kind is not None and not hasattr(kind, '__args__')
    kind = shown if is_known else str(kind or type(value).__name__)
    yield f'    {kind}, of the network.'
    return
  about = [field.type_name, field.range]
  if field.path:
    about[0] = 'path'
  if value != field.default:
    about.append(f'by default {_text(field.default)}')
  text = f'{field.doc} ({"; ".join(filter(None, about))})'
  yield from textwrap.wrap(
    text, _WIDTH, initial_indent='    ', subsequent_indent='    '
  )


def _text(value: Any) -> str:
  """Returns a value as the command line takes it."""
  if isinstance(value, tuple):
    return f'({",".join(map(_text, value))})'
  return str(value)
