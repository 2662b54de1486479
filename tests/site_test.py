"""The documentation builds without a warning, and all of it is there."""

import html.parser
import os
import pathlib
import re
import subprocess
import sys
import urllib.parse

import pytest

from docs.builder import equations
from docs.builder import links
from docs.builder import plots
from docs.builder import sources


ROOT = pathlib.Path(__file__).parents[1]
SECONDS = 30  # of a build
TABLE = """\
| score | value | 95 % interval | ceiling | floor |
|---|---|---|---|---|
| layout_recall | 0.965 | 0.957 .. 0.973 | 1.000 | 0.023 |
| mIoU | 0.701 | 0.694 .. 0.708 | 0.854 | 0.015 |
| shape_fd | 0.82 | 0.81 .. 0.83 | 0.043 | - |
| psnr | 30.3 | 30.1 .. 30.5 | - | - |
"""
CURVE = """\
| step | images | seconds | layout_recall |
|---|---|---|---|
| 10 | 1,000 | 5 | 0.1 |
| 20 | 2,000 | 9 | 0.5 |
| 30 | 3,000 | 14 | 0.9 |
"""


class Page(html.parser.HTMLParser):
  """What a page has and what it asks for."""

  def __init__(self, text):
    super().__init__()
    self.ids, self.links, self.fetched = set(), [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    given = dict(attrs)
    self.ids |= {given[x] for x in ('id', 'name') if given.get(x)}
    if tag == 'a' and given.get('href'):
      self.links.append(given['href'])
    if tag == 'link' and given.get('rel') not in ('canonical', 'next', 'prev'):
      self.fetched.append(given['href'])
    if given.get('src'):
      self.fetched.append(given['src'])


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """Returns the folder of the site, built as CI builds it."""
  folder = tmp_path_factory.mktemp('site')
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet'),
      *('--site-dir', str(folder)),
    ],
    cwd=ROOT,
    env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'},
    capture_output=True,
    text=True,
    timeout=10 * SECONDS,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert 'WARNING ' not in done.stderr
  return folder


@pytest.fixture(scope='module')
def pages(site):
  return {p: Page(p.read_text()) for p in sorted(site.rglob('*.html'))}


@pytest.mark.slow
def test_every_link_and_image_resolves(site, pages):
  assert len(pages) > 60
  for path, page in pages.items():
    if path.name == '404.html':
      continue
    for target in [*page.links, *page.fetched]:
      parts = urllib.parse.urlsplit(target)
      if parts.scheme in ('http', 'https', 'mailto'):
        continue
      there = path.parent / urllib.parse.unquote(parts.path)
      there = (there if parts.path else path).resolve()
      there = there / 'index.html' if there.is_dir() else there
      assert there.is_relative_to(site.resolve()), (path, target)
      assert there.is_file(), (path, target)
      is_anchor = parts.fragment and there.suffix == '.html'
      if is_anchor and not parts.fragment.startswith('__'):
        ids = pages[site / there.relative_to(site.resolve())].ids
        assert urllib.parse.unquote(parts.fragment) in ids, (path, target)


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(pages):
  for path, page in pages.items():
    for target in page.fetched:
      assert not urllib.parse.urlsplit(target).netloc, (path, target)


@pytest.mark.slow
def test_pages_have_equations_code_and_plots(site):
  for name in ('ldm', 'frido', 'diffit', 'ladm', 'sketch'):
    text = (site / 'systems' / f'{name}.html').read_text()
    assert '<math' in text, name
    assert 'class="arithmatex"' not in text, name
    assert '{{ pyramid_jax' not in text, name
    assert 'class="highlight"' in text, name
  results = (site / 'results.html').read_text()
  assert results.count('<svg class="plot"') > 20
  for name in ('pyramid_jax.pipeline.opening.load', 'pyramid_jax.systems.ldm'):
    found = [p for p in site.rglob('*.html') if f'id="{name}"' in p.read_text()]
    assert found, name


# -- The parts of the builder -----------------------------------------------


def test_code_is_that_of_the_sources():
  text = '{{ pyramid_jax.diffusion.gaussian.q_sample }}\n'
  found = sources.included(text)
  assert 'pyramid_jax/diffusion/gaussian.py' in found
  assert 'return per_example(alpha, x0) * x0' in found
  assert 'DDPM eq. 4' not in found  # of the docstring
  found = sources.included('{{ pyramid_jax.diffusion.solvers.ddim.DDIM.step }}')
  assert '\ndef step(self' in found
  assert found.count('\n  prediction = ') == 1


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('nothing.there', 'no module'),
    ('diffusion.gaussian.f', 'f is not defined'),
  ],
)
def test_code_that_is_gone_is_refused(name, message):
  with pytest.raises(ValueError, match=message):
    sources.included(f'{{{{ pyramid_jax.{name} }}}}')


def test_links_hold_on_the_site():
  text = '[a](docs/data.md#coco) [b](configs/README.md) [c](https://x.y)'
  found = links.rewritten(text, 'README.md', 'index.md')
  assert found == '[a](data.md#coco) [b](experiments.md) [c](https://x.y)'
  text = '[a](../../README.md) ![b](../images/shapes.png)'
  found = links.rewritten(text, 'docs/systems/ldm.md', 'systems/ldm.md')
  assert found == '[a](../index.md) ![b](../images/shapes.png)'
  for target, message in (('docs/no.md', 'not there'), ('setup.py', 'no page')):
    with pytest.raises(ValueError, match=message):
      links.rewritten(f'[a]({target})', 'README.md', 'index.md')


def test_equations_become_mathml():
  found = equations.drawn('<div class="arithmatex">\\[ a &lt; b^2 \\]</div>')
  assert 'display="block"' in found
  assert '<msup>' in found
  assert '&lt;' in found or '&#x0003C;' in found


def test_scores_are_read_with_their_intervals():
  first, second = plots.scores(plots.cells(TABLE))  # others are no shares
  assert first.name == 'layout_recall'
  assert (first.value, first.interval) == (0.965, (0.957, 0.973))
  assert (first.floor, first.ceiling) == (0.023, 1.0)
  assert second.value == 0.701


def test_tables_are_below_their_plots():
  found = plots.drawn(TABLE)
  assert found.startswith('<svg')
  circles = [float(x) for x in re.findall(r'cx="([\d.]+)"', found)]
  assert circles == [575.3, 464.4]  # 170 + 420 * value
  assert found.index('</svg>') < found.index('    | score | value')
  found = plots.drawn(CURVE)
  (points,) = re.findall(r'points="([^"]*)"', found)
  xs = [float(pair.split(',')[0]) for pair in points.split()]
  assert xs == [310.0, 450.0, 590.0]
  plain = '| a | b |\n|---|---|\n| 1 | 2 |\n'
  assert plots.drawn(plain) == plain
