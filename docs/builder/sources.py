"""Code of the package inside of a page, as it is in the sources.

A line `{{ pyramid_jax.systems.frido.stage_input }}` becomes that definition,
without its docstring.
"""

import ast
import pathlib
import re


ROOT = pathlib.Path(__file__).parents[2]
LINE = re.compile(r'^\{\{ (pyramid_jax(?:\.\w+)+) \}\}$', re.MULTILINE)


def included(text: str) -> str:
  """Returns a page with the code that it names.

  Raises:
    ValueError: a definition that is not there.
  """
  return LINE.sub(lambda match: _block(match[1]), text)


def _block(name: str) -> str:
  file, parts = _file(name)
  code = definition(file.read_text(), parts, name)
  title = file.relative_to(ROOT).as_posix()
  return f'```python title="{title}"\n{code}\n```'


def _file(name: str) -> tuple[pathlib.Path, list[str]]:
  """Returns the file of a dotted name, and the names inside of it."""
  parts = name.split('.')
  for count in range(len(parts) - 1, 0, -1):
    file = ROOT.joinpath(*parts[:count]).with_suffix('.py')
    if file.is_file():
      return file, parts[count:]
  raise ValueError(f'{name}: no module of the package')


def definition(text: str, parts: list[str], name: str) -> str:
  """Returns the code of a function, a class or a method.

  Args:
    text: of a module.
    parts: the names from the module to it.
    name: of it, for the message.

  Raises:
    ValueError: it is not there.
  """
  node: ast.AST = ast.parse(text)
  for part in parts:
    inside = [
      child
      for child in ast.iter_child_nodes(node)
      if getattr(child, 'name', None) == part
    ]
    if not inside:
      raise ValueError(f'{name}: {part} is not defined there')
    node = inside[0]
  assert isinstance(node, ast.FunctionDef | ast.ClassDef)
  lines = text.splitlines()
  first = min([node.lineno, *(x.lineno for x in node.decorator_list)]) - 1
  kept = list(range(first, node.end_lineno or node.lineno))
  for inner in ast.walk(node):
    if isinstance(inner, ast.FunctionDef | ast.ClassDef):
      words = inner.body[0]
      if ast.get_docstring(inner) is not None and len(inner.body) > 1:
        gone = range(words.lineno - 1, words.end_lineno or words.lineno)
        kept = [number for number in kept if number not in gone]
  indent = len(lines[first]) - len(lines[first].lstrip())
  return '\n'.join(lines[number][indent:] for number in kept)
