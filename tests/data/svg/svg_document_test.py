"""What changes what is seen of an SVG is obeyed, or refused by name."""

import base64
import io
import time

import numpy as np
from PIL import Image
import pytest
import resvg_py

from pyramid_jax import limits
from pyramid_jax.data.pixels import sketch_files
from pyramid_jax.data.svg import document as svg_document


SVG = 'http://www.w3.org/2000/svg'
SPACES = f'xmlns="{SVG}" xmlns:xlink="http://www.w3.org/1999/xlink"'
DISC = '<circle cx="50" cy="50" r="30"/>'
RING = '<circle cx="50" cy="50" r="30" fill="none" stroke="black"/>'
LEFT = '<path d="M20 20h30v60h-30z"/>'
BOX = '<path d="M20 20h60v60h-60z"/>'


def document(body, frame='viewBox="0 0 100 100"'):
  return f'<svg {SPACES} {frame}>{body}</svg>'.encode()


def drawn(body, **kwargs):
  """Renders here, which saves the start of a process."""
  text = svg_document.rewritten(document(body, **kwargs), 100)
  png = resvg_py.svg_to_bytes(svg_string=text, skip_system_fonts=True)
  return np.asarray(Image.open(io.BytesIO(png)).convert('RGBA')).astype(int)


def sheet(rules, body, wrap='{}'):
  return wrap.format(f'<style>{rules}</style>') + body


OUTLINE = 'fill:none;stroke:#000'
CIRCLE = '<circle class="a b" id="c" cx="50" cy="50" r="30"/>'
SAME = {
  'a sheet in defs': (
    sheet(f'.a{{{OUTLINE}}}', CIRCLE, '<defs>{}</defs>'),
    RING,
  ),
  'a sheet after': (CIRCLE + sheet(f'.a{{{OUTLINE}}}', ''), RING),
  'a sheet as CDATA': (
    f'<style type="text/css"><![CDATA[ .b{{{OUTLINE}}} ]]></style>{CIRCLE}',
    RING,
  ),
  'an id': (sheet(f'#c{{{OUTLINE}}}', CIRCLE), RING),
  'a type': (sheet(f'circle , x{{{OUTLINE}}}', CIRCLE), RING),
  'an attribute': (sheet(f'[id="c"]{{{OUTLINE}}}', CIRCLE), RING),
  'two classes': (sheet(f'.a.b{{{OUTLINE}}} .a.x{{fill:red}}', CIRCLE), RING),
  'a descendant': (
    sheet(f'.g circle{{{OUTLINE}}}', f'<g class="g"><g>{CIRCLE}</g></g>'),
    RING,
  ),
  'no child': (
    sheet(f'.g>circle{{{OUTLINE}}}', f'<g class="g"><g>{CIRCLE}</g></g>'),
    DISC,
  ),
  'a child': (
    sheet(f'svg>g > .a{{{OUTLINE}}}', f'<g class="g">{CIRCLE}</g>'),
    RING,
  ),
  'what is never so': (sheet(f'.a:hover{{{OUTLINE}}}', CIRCLE), DISC),
  'specificity': (
    sheet(f'#c{{{OUTLINE}}} .a{{fill:red;stroke:red}}', CIRCLE),
    RING,
  ),
  'importance': (
    sheet(f'.a{{{OUTLINE};fill:none!important}} #c{{fill:red}}', CIRCLE),
    RING,
  ),
  'an attribute is weaker': (
    sheet('*{fill:none}', '<g stroke="black">' + DISC + '</g>'),
    RING,
  ),
  'a style is stronger': (
    sheet('#c{fill:red}', CIRCLE.replace('id=', f'style="{OUTLINE}" id=')),
    RING,
  ),
  'inherited style': (
    f'<g style="{OUTLINE}">{DISC}</g>',
    RING,
  ),
  'currentColor': (
    '<g color="#000"><g fill="none" stroke="currentColor">' + DISC + '</g></g>',
    RING,
  ),
  'display in a sheet': (sheet('.a{display:none}', CIRCLE), ''),
  'opacity': (sheet('.a{opacity:0}', CIRCLE), ''),
  'a share of opacity': (
    sheet('.a{opacity:50%}', CIRCLE),
    f'<g fill="#00000080">{DISC}</g>',
  ),
  'visibility': (f'<g visibility="hidden">{DISC}</g>', ''),
  'use': (f'<defs><g id="d">{DISC}</g></defs><use xlink:href="#d"/>', DISC),
  'use with href': (
    '<defs><circle id="d" r="30"/></defs><use href="#d" x="50" y="50"/>',
    DISC,
  ),
  'use of what is not displayed': (
    f'<defs><symbol id="d" viewBox="0 0 50 50">{DISC}</symbol></defs>',
    '',
  ),
  'a symbol': (
    '<symbol id="d" viewBox="0 0 10 10"><path d="M2 2h6v6h-6z"/></symbol>'
    '<use href="#d" width="100" height="100"/>',
    BOX,
  ),
  'a nested svg': (
    '<svg x="20" y="20" width="60" height="60" viewBox="0 0 6 6">'
    '<path d="M-9 0H9V6H-9z"/></svg>',
    BOX,
  ),
  'a clip': (
    '<clipPath id="d"><rect x="20" y="20" width="30" height="60"/></clipPath>'
    f'<g clip-path="url(#d)">{BOX}</g>',
    LEFT,
  ),
  'a clip of a style': (
    '<defs><clipPath id="d"><path d="M0 0h50v99h-50z"/></clipPath></defs>'
    f'<g style="clip-path:url(\'#d\')">{BOX}</g>',
    LEFT,
  ),
  'a mask': (
    '<mask id="d"><rect width="50" height="100" fill="white"/></mask>'
    f'<g mask="url(#d)">{BOX}</g>',
    LEFT,
  ),
  'a filter': (
    '<filter id="d" filterUnits="userSpaceOnUse" x="0" y="0" width="100"'
    ' height="100"><feOffset dx="10"/></filter>'
    '<path filter="url(#d)" d="M10 20h30v60h-30z"/>',
    LEFT,
  ),
  'a pattern': (
    '<pattern id="d" width="100" height="100" patternUnits="userSpaceOnUse">'
    f'{LEFT}</pattern><rect width="100" height="100" fill="url(#d)"/>',
    LEFT,
  ),
  'a gradient': (
    '<linearGradient id="e"><stop offset=".5" stop-color="#000"/><stop'
    ' offset=".5" style="stop-color:#000;stop-opacity:0"/></linearGradient>'
    '<linearGradient id="d" xlink:href="#e"/><g fill="url(#d)">'
    f'{BOX}</g>',
    LEFT,
  ),
  'a marker': (
    '<marker id="d" markerUnits="userSpaceOnUse" markerWidth="60" refX="0"'
    ' markerHeight="60" overflow="visible"><path d="M0 0h30v60h-30z"/></marker>'
    '<path d="M20 20h0" style="marker:url(#d);'
    'marker-mid:none;marker-end:none"/>',
    LEFT,
  ),
  'shares': ('<rect x="20%" y="20%" width="60%" height="60%"/>', BOX),
  'units': (
    '<rect x="15pt" y="20px" width="30" height="15.875mm"/>',
    LEFT.replace('h30v60', 'h30v60'),
  ),
  'transforms of CSS': (
    '<g style="transform: translate(20px, 20px) rotate(90deg) scaleY(-1)">'
    '<path d="M0 0h60v30h-60z"/></g>',
    LEFT,
  ),
  'a transform about a point': (
    '<path d="M20 20h30v60h-30z" style="transform:rotate(.5turn);'
    'transform-origin:35px 50px"/>',
    LEFT,
  ),
  'a transform of a sheet': (
    sheet('.t{transform:translateX(20px)}', f'<g class="t">{BOX}</g>'),
    f'<g transform="translate(20)">{BOX}</g>',
  ),
  'sizes in a sheet': (
    sheet('rect{x:20px;y:20px;width:30px;height:60px}', '<rect/>'),
    LEFT,
  ),
  'dashes': (
    '<path d="M0 50H100" stroke="#000" stroke-width="8"'
    ' style="stroke-dasharray:10px, 40"/>',
    '<path d="M0 46h10v8H0zM50 46h10v8H50z"/>',
  ),
  'a fixed width': (
    '<g transform="scale(10)"><path d="M0 5H10" stroke="#000"'
    ' vector-effect="non-scaling-stroke" stroke-width="8"/></g>',
    '<path d="M0 46H100v8H0z"/>',
  ),
  'colours': (
    '<g fill="rgb(0 0 0 / 100%)">' + BOX + '</g>',
    '<g fill="hsl(0, 0%, 0%)">' + BOX + '</g>',
  ),
  'colours beyond their range': (
    f'<g fill="rgb(-5 0 1e999)">{BOX}</g>',
    f'<g fill="#00f">{BOX}</g>',
  ),
  'a switch': (
    '<switch><foreignObject requiredExtensions="http://ns.adobe.com/x"/>'
    f'<g>{BOX}</g></switch>',
    BOX,
  ),
  'what drawing programs add': (
    '<title>t</title><desc>d</desc>'
    '<metadata><x xmlns="y"><text/></x></metadata>'
    '<g data-name="Layer (1): a" font-size="3" style="-inkscape-stroke:none;'
    'font-size:medium;line-height:normal;mix-blend-mode:normal">'
    f'{BOX}</g>',
    BOX,
  ),
}


@pytest.mark.parametrize('kind', SAME)
def test_what_is_obeyed(kind):
  body, other = SAME[kind]
  got, want = drawn(body), drawn(other)
  assert np.abs(got - want)[want[..., 3] > 250].max(initial=0) <= 3
  assert np.abs(got[..., 3] - want[..., 3]).max() <= 3
  assert bool(want[..., 3].any()) == bool(other)


def test_pictures_inside():
  pixels = np.zeros((2, 2, 4), np.uint8)
  pixels[:, 0] = 0, 0, 0, 255
  data = io.BytesIO()
  Image.fromarray(pixels).save(data, 'PNG')
  text = base64.b64encode(data.getvalue()).decode()
  body = (
    '<image x="20" y="20" width="60" height="60" image-rendering='
    f'"optimizeSpeed" xlink:href="data:image/png;base64,{text}"/>'
  )
  got = drawn(body)[..., 3]
  assert got[20:80, 20:40].min() > 200
  assert got[20:80, 65:80].max() < 100
  assert got.sum() == got[20:80, 20:80].sum()


def test_paper_of_a_style():
  frame = 'viewBox="0 0 100 100" style="background:#000"'
  got = drawn('<path d="M0 0h50v100h-50z" fill="#fff"/>', frame=frame)
  assert got[50, 20].tolist() == [255, 255, 255, 255]
  assert got[50, 70].tolist() == [0, 0, 0, 255]


REFUSED = {
  '<style>@import url(a.css);</style>': 'the rule @import of <style>',
  '<style>@media print{a{fill:red}}</style>': 'the rule @media of <style>',
  '<style>a ~ b{fill:red}</style>': "the selector 'a ~ b' of <style>",
  '<style>a:nth-child(2){fill:red}</style>': 'the selector',
  '<style>a{fill:var(--x)}</style><a/>': r"colour 'var\(--x\)' is not read",
  '<style>a{r:calc(1px)}</style><circle class="x"/>': None,
  '<style>circle{r:calc(1px)}</style><circle/>': r"'calc\(1px\)' is not a len",
  '<style media="print">a{}</style>': "<style> of 'print' is not read",
  '<style type="text/less">a{}</style>': "<style> of 'text/less' is not read",
  '<style>a{fill}</style>': 'is not read',
  '<g style="clip-path: circle(40%)"/>': r"clip-path 'circle\(40%\)' is not r",
  '<g style="filter: blur(3px)"/>': r"filter 'blur\(3px\)' is not read",
  '<g style="transform: rotate3d(1,1,1,4deg)"/>': 'transform rotate3d',
  '<g style="transform: translate(50%)"/>': 'transform translate',
  '<g transform="scale(2)" style="transform-origin:center"/>': "'center' is no",
  '<g style="animation: spin 2s"/>': "animation 'spin 2s' is not one of none",
  '<g style="fill: url(a.svg#b)"/>': r"colour 'url\(a.svg#b\)' is not read",
  '<g mask="url(http://a/b#c)"/>': "mask 'url",
  '<g style="rotate: 40deg"/>': "the property 'rotate' is not read",
  '<path style="d: path(1)"/>': "the property 'd' is not read",
  '<use href="a.svg#b"/>': "the <use> of 'a.svg#b' is not read",
  '<use href="#b"/>': 'refers to #b, which is not there',
  '<image href="a.png"/>': "the <image> of 'a.png' is not read",
  '<image href="file:///etc/passwd"/>': 'the <image> of',
  '<image href="data:image/svg+xml;base64,AAAA"/>': 'the <image> of',
  '<filter id="a"><feImage href="a.png"/></filter>': '<feImage> is not read',
  '<defs><text>a</text></defs>': '<text> is not read',
  '<script>1</script>': '<script> is not read',
  '<foreignObject/>': '<foreignObject> is not read',
  '<animate/>': '<animate> is not read',
  '<path d="M0 0"><set/></path>': '<set> is not read',
  '<meshgradient/>': '<meshgradient> is not read',
  '<link xmlns="http://www.w3.org/1999/xhtml" href="a.css"/>': '<link> is not',
  '<rect width="2em"/>': "'2em' is not a length",
  '<linearGradient x1="url(http://a)"/>': 'is not read',
}


@pytest.mark.parametrize('body', REFUSED)
def test_what_is_refused_by_name(body):
  words = REFUSED[body]
  if words is None:
    drawn(body)
    return
  with pytest.raises(ValueError, match=words) as error:
    drawn(body)
  assert '\n' not in str(error.value)


def test_style_sheets_of_other_files_are_refused():
  data = b'<?xml-stylesheet href="a.css"?>' + document(BOX)
  with pytest.raises(ValueError, match="style sheet 'href=.*' is not read"):
    svg_document.rewritten(data, 100)


def test_time_is_bounded(monkeypatch):
  began = time.monotonic()
  many = ''.join(f'.c{i} g g g g{{fill:red}}' for i in range(2000))
  deep = '<g class="c1">' * 150 + '<path/>' * 5000 + '</g>' * 150
  with pytest.raises(ValueError, match='parts of selectors are too many'):
    svg_document.rewritten(document(f'<style>{many}</style>{deep}'), 100)
  few = ' '.join(['g'] * 100) + ' path{fill:red}'
  svg_document.rewritten(document(f'<style>{few}</style>{deep}'), 100)
  bomb = '<g id="a0"><path d="M0 0h9v9"/></g>' + ''.join(
    f'<g id="a{i + 1}">' + f'<use href="#a{i}"/>' * 10 + '</g>'
    for i in range(9)
  )
  monkeypatch.setattr(limits, 'RENDERER_SECS', 1)
  with pytest.raises(ValueError, match='cannot be rendered in 1 s'):
    sketch_files.rasterize(document(bomb))
  assert time.monotonic() - began < 20
