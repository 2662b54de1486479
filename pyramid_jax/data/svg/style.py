"""Style sheets of SVG: which properties each element gets.

Rules of types, classes, ids and attributes are read, joined by spaces and `>`.
What else would change what is seen is refused by name: another selector, a
sheet in another file, a rule that depends on the screen.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
from typing import Any
from xml.etree import ElementTree

import tinycss2

from pyramid_jax import limits


# Rules of these cannot change what is seen in an image without text that stands
# still.
_IDLE_RULES = ('charset', 'font-face', 'keyframes', '-webkit-keyframes', 'page')
# What is never so in an image.
_NEVER = (
  *('hover', 'active', 'focus', 'focus-within', 'focus-visible', 'visited'),
  *('target', 'checked', 'disabled', 'before', 'after', 'selection'),
)
Element = ElementTree.Element
Style = dict[str, str]


def local(element: Element) -> str:
  """Returns the name of an element without its namespace."""
  return element.tag.rpartition('}')[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Compound:
  """The conditions on one element."""

  names: tuple[str, ...] = ()  # of its type
  ids: tuple[str, ...] = ()
  classes: tuple[str, ...] = ()
  attributes: tuple[tuple[str, str | None], ...] = ()  # None: any value
  places: tuple[str, ...] = ()  # 'root', 'first-child', 'last-child'

  @property
  def weights(self) -> tuple[int, int, int]:
    """The specificity."""
    middle = len(self.classes) + len(self.attributes) + len(self.places)
    return len(self.ids), middle, len(self.names)

  def holds(self, element: Element, places: Sequence[str]) -> bool:
    """Whether an element that is at some places meets the conditions."""
    return (
      all(local(element) == name for name in self.names)
      and all(element.get('id') == name for name in self.ids)
      and all(name in element.get('class', '').split() for name in self.classes)
      and all(
        element.get(name) is not None and value in (None, element.get(name))
        for name, value in self.attributes
      )
      and all(place in places for place in self.places)
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Rule:
  """One selector with its declarations.

  Attributes:
    parts: conditions on an element, the outermost first.
    is_child: of each part, whether it is a child of the part before, or else
      any descendant.
    declarations: name, value and whether it is important.
  """

  parts: tuple[_Compound, ...]
  is_child: tuple[bool, ...]
  declarations: tuple[tuple[str, str, bool], ...]

  @property
  def weight(self) -> tuple[int, ...]:
    """The specificity of all parts."""
    return tuple(map(sum, zip(*(p.weights for p in self.parts), strict=True)))


def declared(text: str) -> tuple[tuple[str, str, bool], ...]:
  """Returns (name, value, is important) of declarations 'name: value; ...'.

  Raises:
    ValueError: they cannot be read.
  """
  return _declarations(
    tinycss2.parse_blocks_contents(
      text, skip_comments=True, skip_whitespace=True
    )
  )


def _declarations(nodes: Iterable[Any]) -> tuple[tuple[str, str, bool], ...]:
  found = []
  for node in nodes:
    if node.type != 'declaration':
      raise ValueError(f'the style {_text([node])!r} is not read')
    value = _text(node.value, 1 << 20)
    found.append((node.lower_name, value, bool(node.important)))
  return tuple(found)


def _text(nodes: Sequence[Any], most: int = 40) -> str:
  kept = [node for node in nodes if node.type != 'comment']
  try:
    return tinycss2.serialize(kept).strip()[:most]
  except TypeError:  # of a node that is an error
    return getattr(nodes[0], 'message', '')[:most]


def rules(text: str) -> Iterator[_Rule]:
  """Yields the rules of a style sheet; what is not read is a ValueError."""
  sheet = tinycss2.parse_stylesheet(
    text, skip_comments=True, skip_whitespace=True
  )
  for node in sheet:
    if node.type == 'at-rule' and node.lower_at_keyword in _IDLE_RULES:
      continue
    if node.type == 'at-rule':
      raise ValueError(f'the rule @{node.at_keyword} of <style> is not read')
    if node.type != 'qualified-rule':
      raise ValueError(f'the element <style> is not read: {_text([node])!r}')
    contents = tinycss2.parse_blocks_contents(
      node.content, skip_comments=True, skip_whitespace=True
    )
    declarations = _declarations(contents)
    for selector in _separated(node.prelude):
      parts, is_child = _selector(selector)
      if parts:
        yield _Rule(parts=parts, is_child=is_child, declarations=declarations)


def _separated(nodes: Sequence[Any]) -> Iterator[list[Any]]:
  """Yields the selectors between commas."""
  part: list[Any] = []
  for node in nodes:
    if node == ',':
      yield part
      part = []
    elif node.type != 'comment':
      part.append(node)
  yield part


def _selector(
  nodes: list[Any],
) -> tuple[tuple[_Compound, ...], tuple[bool, ...]]:
  """Returns the parts of a selector; none if it never holds in an image."""
  groups: list[list[Any]] = [[]]
  is_child = [False]
  joint = ''
  for node in nodes:
    if node.type == 'whitespace' or node == '>':
      joint = '>' if node == '>' else joint or ' '
      continue
    if joint and groups[-1]:
      groups.append([])
      is_child.append(joint == '>')
    joint = ''
    groups[-1].append(node)
  parts = [_compound(group, _text(nodes)) for group in groups]
  if any(part is None for part in parts):
    return (), ()
  return tuple(part for part in parts if part is not None), tuple(is_child)


def _compound(nodes: list[Any], whole: str) -> _Compound | None:
  """Returns the conditions on one element, None if they never hold."""
  found: dict[str, list[Any]] = {
    name: [] for name in ('names', 'ids', 'classes', 'attributes', 'places')
  }
  refused = ValueError(f'the selector {whole!r} of <style> is not read')
  rest = list(nodes)
  if not rest:
    raise refused
  while rest:
    node = rest.pop(0)
    after = rest[0] if rest else None
    is_name = after is not None and after.type == 'ident'
    if node.type == 'ident':
      found['names'].append(node.value)
    elif node.type == 'hash':
      found['ids'].append(node.value)
    elif node.type == '[] block':
      found['attributes'].append(_attribute(node.content, refused))
    elif node == '.' and is_name:
      found['classes'].append(rest.pop(0).value)
    elif node == ':' and after == ':':
      continue
    elif node == ':' and is_name:
      place = rest.pop(0).lower_value
      if place in _NEVER:
        return None
      if place not in ('root', 'first-child', 'last-child'):
        raise refused
      found['places'].append(place)
    elif node != '*':
      raise refused
  return _Compound(**{name: tuple(value) for name, value in found.items()})


def _attribute(nodes: list[Any], refused: ValueError) -> tuple[str, str | None]:
  """Returns name and value of [name] or [name=value]."""
  kept = [node for node in nodes if node.type != 'whitespace']
  if [node.type for node in kept] == ['ident']:
    return kept[0].value, None
  if (
    len(kept) == 3
    and kept[0].type == 'ident'
    and kept[1] == '='
    and kept[2].type in ('ident', 'string')
  ):
    return kept[0].value, kept[2].value
  raise refused


def of_elements(root: Element, sheets: Sequence[str]) -> dict[Element, Style]:
  """Returns the declared properties of every element, by cascade.

  Presentation attributes are not among them, for they come first.

  Args:
    root: a document.
    sheets: its style sheets in their order.

  Raises:
    ValueError: a style that is not read, or too many rules and elements.
  """
  known = [rule for text in sheets for rule in rules(text)]
  order = sorted(range(len(known)), key=lambda i: (known[i].weight, i))
  ordered = [known[i] for i in order]
  tests = sum(len(rule.parts) for rule in known)
  if tests * sum(1 for _ in root.iter()) > limits.SVG_SELECTORS:
    raise ValueError(f'{tests} parts of selectors are too many')
  found: dict[Element, Style] = {}
  none = [0] * len(ordered)
  _walk(root, ('root',), ordered, (none, none), found)
  return found


def _walk(
  element: Element,
  places: Sequence[str],
  ordered: Sequence[_Rule],
  met: tuple[list[int], list[int]],
  found: dict[Element, Style],
) -> None:
  """Adds the styles of an element and of what is in it.

  `met` has for each rule, as bits, which of its parts hold for an element
  above, and which for the parent.
  """
  above, parent = met
  own, plain, important = [], Style(), Style()
  for k, rule in enumerate(ordered):
    bits = 0
    for i, part in enumerate(rule.parts):
      before = parent[k] if rule.is_child[i] else above[k]
      if (i == 0 or before >> (i - 1) & 1) and part.holds(element, places):
        bits |= 1 << i
    own.append(bits)
    if bits >> (len(rule.parts) - 1) & 1:
      _add(rule.declarations, plain, important)
  inline = Style(), Style()
  _add(declared(element.get('style', '')), *inline)
  found[element] = plain | inline[0] | important | inline[1]
  below = ([a | b for a, b in zip(above, own, strict=True)], own)
  last = len(element) - 1
  for i, child in enumerate(element):
    at = ('first-child',) * (i == 0) + ('last-child',) * (i == last)
    _walk(child, at, ordered, below, found)


def _add(
  declarations: Iterable[tuple[str, str, bool]], plain: Style, important: Style
) -> None:
  for name, value, is_important in declarations:
    (important if is_important else plain)[name] = value
