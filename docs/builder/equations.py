"""Equations as MathML, which browsers draw without scripts or fonts."""

import html
import re

from latex2mathml import converter


_MATH = re.compile(
  r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)


def drawn(page: str) -> str:
  """Returns the HTML of a page with MathML in place of TeX."""

  def one(match: re.Match[str]) -> str:
    tag, tex = match[1], html.unescape(match[2]).strip()
    display = 'block' if tag == 'div' else 'inline'
    return converter.convert(tex, display=display)

  return _MATH.sub(one, page)
