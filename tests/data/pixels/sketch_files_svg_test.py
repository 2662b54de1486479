"""Shapes of SVG where arithmetic puts them."""

import numpy as np
import pytest
import resvg_py
from scipy import ndimage

from pyramid_jax import limits
from pyramid_jax.data.pixels import sketch_files


@pytest.fixture
def in_process(monkeypatch):
  """Renders here, which saves the start of a process."""

  def rendered(text):
    return resvg_py.svg_to_bytes(svg_string=text, skip_system_fonts=True)

  monkeypatch.setattr(sketch_files, '_rendered', rendered)


def document(body, frame='viewBox="0 0 100 100"'):
  space = 'xmlns="http://www.w3.org/2000/svg"'
  return f'<svg {space} {frame}>{body}</svg>'.encode()


def ink(body, side=100, **kwargs):
  """Returns where something is drawn."""
  return sketch_files.rasterize(document(body, **kwargs), side)[..., 3] >= 128


def stroked(body, width=3):
  return f'<g fill="none" stroke="black" stroke-width="{width}">{body}</g>'


def same(a, b):
  """Whether two renderings agree except for pixels at their rims."""
  differ = a ^ b
  return not ndimage.binary_erosion(differ, np.ones((2, 2))).any()


def test_a_circle_is_round(in_process):
  y, x = np.mgrid[:200, :200] + 0.5
  r = np.hypot(x - 80, y - 100) / 2
  got = ink(stroked('<circle cx="40" cy="50" r="30"/>', 4), 200)
  assert got[np.abs(r - 30) < 1.3].all()
  assert not got[np.abs(r - 30) > 2.8].any()
  full = ink('<ellipse cx="40" cy="50" rx="30" ry="30"/>', 200)
  assert same(full, r < 30)


@pytest.mark.parametrize(
  ('path', 'other'),
  [
    ('M10 20 L60 20 L60 70 Z', '<polygon points="10,20 60,20 60,70"/>'),
    ('m10,20 50,0 0,50 z', '<polygon points="10 20 60 20 60 70"/>'),
    ('M10 20h50v50L10 20', '<polyline points="10,20 60,20 60,70 10,20"/>'),
    ('M10 20H60V70', '<polyline points="10,20,60,20,60,70"/>'),
    ('M10 20 60 70', '<line x1="10" y1="20" x2="60" y2="70"/>'),
    ('M10-2e1 60 7.0e1', '<line x1="10" y1="-20" x2="60" y2="70"/>'),
    ('M10 20h40v30h-40z', '<rect x="10" y="20" width="40" height="30"/>'),
    (  # flags may stand close together
      'M70 50a30 30 0 11-60 0 30 30 0 0160 0z',
      '<circle cx="40" cy="50" r="30"/>',
    ),
    (  # too small to reach: enlarged
      'M10 50A3 1.5 0 0 1 70 50A30 15 0 0 1 10 50Z',
      '<ellipse cx="40" cy="50" rx="30" ry="15"/>',
    ),
    (
      'M20 20h40a10 10 0 0 1 10 10v20a10 10 0 0 1-10 10h-40'
      'a10 10 0 0 1-10-10v-20a10 10 0 0 1 10-10z',
      '<rect x="10" y="20" width="60" height="40" rx="10"/>',
    ),
  ],
)
def test_paths_are_the_shapes_that_they_describe(in_process, path, other):
  for wrap in (stroked, lambda body: body):
    got, want = ink(wrap(f'<path d="{path}"/>'), 200), ink(wrap(other), 200)
    assert want.any() or 'line' in other
    assert same(got, want), path


def test_curves_pass_where_their_polynomials_do(in_process):
  p = np.array([[10, 80], [20, 10], [70, 0], [90, 60]], float)
  t = np.linspace(0, 1, 200)[:, None]
  cubic = (
    (1 - t) ** 3 * p[0]
    + 3 * t * (1 - t) ** 2 * p[1]
    + 3 * t**2 * (1 - t) * p[2]
    + t**3 * p[3]
  )
  square = (1 - t) ** 2 * p[0] + 2 * t * (1 - t) * p[1] + t**2 * p[3]

  def farthest(data, curve):
    """Returns how far lines lie from a curve, and the curve from them."""
    line = ink(stroked(f'<path d="{data}"/>', 0.5), 200)
    y, x = np.nonzero(line)
    points = (np.stack([x, y], 1) + 0.5) / 2
    gaps = np.linalg.norm(points[:, None] - curve[None], axis=-1)
    return max(gaps.min(0).max(), gaps.min(1).max())

  assert farthest('M10 80C20 10 70 0 90 60', cubic) < 1
  assert farthest('m10 80c10-70 60-80 80-20', cubic) < 1
  assert farthest('M10 80Q20 10 90 60', square) < 1


@pytest.mark.parametrize(
  ('joined', 'written'),
  [  # smooth joints mirror the last control point; without one it is the place
    (
      'M9 50C9 60 19 60 19 50S29 40 29 50',
      'M9 50C9 60 19 60 19 50C19 40 29 40 29 50',
    ),
    ('M9 50q5 10 10 0t10 0', 'M9 50q5 10 10 0q5-10 10 0'),
    ('M9 50L15 55T30 70', 'M9 50L30 70'),
  ],
)
def test_smooth_joints(in_process, joined, written):
  got, want = (ink(stroked(f'<path d="{d}"/>'), 200) for d in (joined, written))
  assert want.sum() > 100
  assert same(got, want)


@pytest.mark.parametrize('large', [0, 1])
@pytest.mark.parametrize('sweep', [0, 1])
def test_arcs_take_the_side_that_their_flags_say(in_process, large, sweep):
  path = f'<path d="M60 40A20 20 0 {large} {sweep} 40 60"/>'
  line = ink(stroked(path, 1), 200)
  y, x = (np.stack(np.nonzero(line)) + 0.5) / 2
  # Angles grow clockwise on the screen: from (60, 40) round (40, 40).
  centre = (40, 40) if large != sweep else (60, 60)
  np.testing.assert_allclose(np.hypot(x - centre[0], y - centre[1]), 20, atol=1)
  length = line.sum() / 4  # of a line of width 1
  assert length == pytest.approx(np.pi * 20 * (1.5 if large else 0.5), rel=0.1)
  # A turned ellipse is the turned picture of one.
  turned = f'<path d="M30 30A40 20 30 {large} {sweep} 80 40"/>'
  end = np.exp(-1j * np.pi / 6) * (50 + 10j)
  level = (
    f'<path transform="translate(30 30) rotate(30)"'
    f' d="M0 0A40 20 0 {large} {sweep} {end.real} {end.imag}"/>'
  )
  assert same(ink(stroked(turned), 200), ink(stroked(level), 200))


@pytest.mark.parametrize(
  ('transform', 'points'),
  [
    ('translate(10,20)', '20,30 50,30'),
    ('translate(10)', '20,10 50,10'),
    ('scale(2)', '20,20 80,20'),
    ('scale(2 3)', '20,30 80,30'),
    ('rotate(90)translate(0 -40)', '30,10 30,40'),
    ('rotate(90 10 10)', '10,10 10,40'),
    ('matrix(0 1 1 0 5 6)', '15,16 15,46'),
    ('skewY(45)', '10,20 40,50'),
    ('translate(10,20), scale(2)', '30,40 90,40'),
  ],
)
def test_transforms(in_process, transform, points):
  line = f'<g transform="{transform}"><path d="M10 10H40"/></g>'
  got = ink(stroked(line, 0.1), 200)
  want = ink(stroked(f'<polyline points="{points}"/>', 0.1), 200)
  assert want.sum() > 40
  assert not (got & ~ndimage.binary_dilation(want, np.ones((3, 3)))).any()
  assert not (want & ~ndimage.binary_dilation(got, np.ones((3, 3)))).any()


def test_ends_and_joints(in_process):
  line = '<path d="M50 50h0" stroke-linecap="round"/>'
  dot = ink(stroked(line, 20), side=200)
  y, x = np.mgrid[:200, :200] + 0.5
  assert same(dot, np.hypot(x - 100, y - 100) < 20)
  line = '<path d="M35 90L50 40L65 90" stroke-linejoin="{}"/>'
  assert not ink(stroked(line.format('round'), 10), side=200)[:68].any()
  assert ink(stroked(line.format('miter'), 10), side=200)[:60].any()


def test_widths_grow_with_transforms(in_process):
  line = '<line x1="0" y1="10" x2="20" y2="10" transform="scale(5)"/>'
  assert ink(stroked(line, 2))[:, 50].sum() == pytest.approx(10, abs=1)


def test_styles():
  body = (
    '<g style="stroke:red; fill:none" stroke="blue">'
    '<path d="M0 10H100" style="stroke-width:4px"/>'
    '<path d="M0 30H100" stroke="#00ff00"/>'
    '<path d="M0 50H100" visibility="hidden"/>'
    '<g display="none"><path d="M0 50H100"/></g>'
    '<path d="M0 50H100" stroke="none" />'
    '<path d="M0 50H100" stroke-opacity="0"/>'
    '</g><path d="M0 70H100V90H0z"/>'
  )
  picture = sketch_files.rasterize(document(body), 100)
  assert picture[10, 50].tolist() == [255, 0, 0, 255]
  assert picture[29:31, 50].max(0).tolist() == [0, 255, 0, 128]
  assert picture[80, 50].tolist() == [0, 0, 0, 255]  # filled by default
  assert not picture[35:65, :, 3].any()
  assert picture[:25, 50, 3].sum() == pytest.approx(4 * 255, abs=255)


def test_holes(in_process):
  hole = 'M10 10H90V90H10z M30 30{}z'
  around, against = hole.format('H70V70H30'), hole.format('V70H70V30')
  for path, rule, filled in (
    (around, 'nonzero', True),
    (against, 'nonzero', False),
    (around, 'evenodd', False),
    (against, 'evenodd', False),
  ):
    got = ink(f'<path fill-rule="{rule}" d="{path}"/>')
    assert got[20, 20]
    assert got[50, 50] == filled, (path, rule)


def test_the_frame():
  body = stroked('<path d="M10 10H20"/>')
  shifted = ink(body, frame='viewBox="5 5 20 10"', side=40)
  assert shifted.shape == (20, 40)
  assert shifted[10, 11:29].all()
  assert not shifted[:, 34:].any()
  for size, shape in (
    ('width="40mm" height="20mm"', (20, 40)),
    ('width="1in" height="192"', (40, 20)),
    ('width="100%" height="100%" viewBox="0 0 20 10"', (20, 40)),
    ('width="1em" height="1em" viewBox="0 0 24 24"', (40, 40)),
    ('width="50" viewBox="0 0 20 10"', (20, 40)),
  ):
    assert ink(body, frame=size, side=40).shape == shape
  # In a square, a wide view lies in the middle, is stretched or is cut.
  whole = '<path d="M0 0h20v10h-20z"/>'
  frame = 'width="8" height="8" viewBox="0 0 20 10" preserveAspectRatio="{}"'
  for ratio, rows in (('xMidYMid', 20), ('none', 40), ('xMinYMin slice', 40)):
    got = ink(whole, frame=frame.format(ratio), side=40)
    assert got[:, 20].sum() == rows


def test_what_is_beside_the_drawing_does_not_matter(in_process):
  body = (
    '<title>a</title><metadata><b xmlns="c"><text/></b></metadata>'
    '<defs><clipPath id="a"><circle r="3"/></clipPath></defs>'
    '<x:grid xmlns:x="http://inkscape"><x:text/></x:grid>'
  )
  line = stroked('<path d="M10 10H90"/>')
  np.testing.assert_array_equal(ink(body + line), ink(line))
  kind = '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "svg11.dtd">'
  data = b'<?xml version="1.0"?>' + kind.encode() + document(line)
  np.testing.assert_array_equal(
    sketch_files.rasterize(data, 100)[..., 3] >= 128, ink(line)
  )


BOMB = (
  b'<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'
  b'<svg viewBox="0 0 1 1"><title>&b;</title></svg>'
)


@pytest.mark.parametrize(
  ('data', 'words'),
  [
    (document('<text x="1">a</text>'), '<text> is not read; read are path, '),
    (document('<style>a</style>'), '<style> is not read'),
    (document('<path d="M1 1" stroke="url(#a)"/>'), 'refers to #a, which is n'),
    (document('<path d="L1 1"/>'), "begin with M, got 'L'"),
    (document('<path d="M1 1 X2"/>'), "from 'X2' on"),
    (document('<path d="M1 1 L2"/>'), "from 'L2' on"),
    (document('<path d="M1 1 A1 1 0 2 1 4 4"/>'), "from 'A1 1 0 2 1 4 4' on"),
    (document('<path d="M1 1 2 2z 3"/>'), "from '3' on"),
    (document('<rect width="5vw" height="1"/>'), "'5vw' is not a length"),
    (document('<g transform="spin(3)"/>'), r'transform spin\(3.0,\)'),
    (document('<g transform="??"/>'), r"transform '\?\?' is not read"),
    (document('', frame=''), 'no viewBox, and no width and height'),
    (document('', frame='viewBox="0 0 0 5"'), 'no viewBox'),
    (b'<html></html>', 'not an SVG sketch'),
    (b'<g></g>', 'not an SVG sketch'),
    (b'<svg viewBox="0 0 1 1">', 'not XML'),
    (BOMB, "declares the entity 'a'"),
    (b'<' * (limits.SVG_BYTES + 1), 'at most 4194304 are read'),
    (document('<g>' * 300 + '</g>' * 300), 'nested more than 200 deep'),
    (document('', frame='viewBox="0 0 1e-320 1e-320"'), 'no viewBox'),
    (document('<path/>' * 10_001), '10001 shapes of SVG, at most 10000'),
    (document('<g/>' * 60_000), 'more than 50000 elements of SVG'),
    (
      document(f'<style>{".a{fill:red}" * 30_000}</style>'),
      '360000 characters of style sheets, at most 262144 are read',
    ),
    (
      document(f'<g class="{"a" * 65_537}"/>'),
      "in the attribute 'class'",
    ),
    (document(f'<g style="fill:{"(" * 9_000}"/>'), 'nested too deeply'),
    (document(f'<path d="M0 0{"z" * 3_000_000}"/>'), 'cannot be rendered in'),
    (
      b'<?xml version="1.0" encoding="martian"?>' + document(''),
      'not XML: unknown encoding: martian',
    ),
    *(
      (f'<?xml version="1.0" encoding="{kind}"?>'.encode() + document(''), '.')
      for kind in ('idna', 'rot13', 'utf-7', 'hex')
    ),
    (document(f'<g fill="rgb({"9" * 20},0,0)" class=""'), 'not XML'),
  ],
  ids=lambda x: ascii(x)[:60],  # the name of a test is an environment variable
)
def test_what_is_refused(data, words):
  with pytest.raises(ValueError, match=words) as error:
    sketch_files.rasterize(data)
  assert '\n' not in str(error.value)


def test_absurd_numbers_do_no_harm(in_process):
  for number in ('9' * 20, '-9e99', '1e999'):
    body = f'<g fill="rgb({number},0,0)"><rect width="9" height="9"/></g>'
    assert ink(body).sum() == 81
  for number in ('1e9', '-1e9', '1e-9', '0'):
    body = stroked(f'<path d="M{number} 5L10 {number}A9 9 0 0 1 50 50"/>', 1)
    assert ink(body + stroked(f'<circle r="{number}"/>', number)).shape
  for number in ('1e300', '-1e999'):
    for body in (f'<path d="M{number} 5"/>', f'<circle r="{number}"/>'):
      with pytest.raises(ValueError, match='is not at most 1e'):
        ink(body)
  with pytest.raises(ValueError, match='number nan is not at most'):
    ink('<g transform="scale(nan)"/>')


@pytest.mark.parametrize(
  'program', ['import os; os.abort()', 'while True: pass']
)
def test_a_renderer_that_crashes_or_hangs(monkeypatch, program):
  monkeypatch.setattr(sketch_files, '_RENDER', program)
  monkeypatch.setattr(limits, 'RENDERER_WAIT_SECS', 1)
  with pytest.raises(
    ValueError, match='cannot be rendered in 4 s and 1536 MiB'
  ):
    sketch_files.rasterize(document('<path d="M0 0"/>'))


def test_a_renderer_that_is_not_there_is_no_fault_of_the_file(monkeypatch):
  monkeypatch.setattr(sketch_files, '_RENDER', 'import no_renderer')
  with pytest.raises(RuntimeError, match="No module named 'no_renderer'"):
    sketch_files.rasterize(document('<path d="M0 0"/>'))


@pytest.mark.parametrize(
  ('name', 'most', 'body'),
  [
    ('RENDERER_SECS', 1, '<g opacity=".5">' * 150 + '<circle r="99"/>'),
    ('RENDERER_BYTES', 1 << 27, '<g opacity=".5">' * 60 + '<circle r="99"/>'),
  ],
)
def test_limits_of_the_renderer_hold(monkeypatch, name, most, body):
  monkeypatch.setattr(limits, name, most)
  data = document(body + '</g>' * body.count('<g'))
  with pytest.raises(ValueError, match='cannot be rendered in'):
    sketch_files.rasterize(data)


def test_strokes_thinner_than_a_pixel_are_one():
  body = (
    '<g fill="none" stroke="red"><path d="M0 10.5H100" stroke-width="0.05"/>'
    '<path d="M0 305H1000" transform="scale(.1)" stroke-width=".001"/>'
    '<path d="M0 50.5H100" stroke-width="0"/>'
    '<path d="M0 70.5H100" stroke-width="1" opacity="0.5"/></g>'
  )
  pixels = sketch_files.rasterize(document(body), 100)[..., 3]
  assert pixels[:, 50].nonzero()[0].tolist() == [10, 30, 70]
  assert pixels[[10, 30, 70], 50] == pytest.approx([255, 255, 128], abs=2)
