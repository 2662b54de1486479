"""Which page of the site a file of the repository is, and links to it."""

from collections.abc import Mapping
import os
import pathlib
import posixpath
import re


ROOT = pathlib.Path(__file__).parents[2]
DOCS = 'docs/'
# A file outside of docs/ -> the page that shows it.
PAGES: Mapping[str, str] = {
  'README.md': 'index.md',
  'CONTRIBUTING.md': 'contributing.md',
  'CHANGELOG.md': 'changelog.md',
  'configs/README.md': 'experiments.md',
}
_LINK = re.compile(r'(\]\()([^)\s#]+)((?:#[^)\s]*)?\))')
_ELSEWHERE = re.compile(r'^[a-z]+:')


def generated() -> dict[str, str]:
  """Returns the text of the pages that are made of files, by the page's path.

  These are the files of `PAGES`, with links that hold on the site, and one
  page for each config.
  """
  found = {}
  for source, page in PAGES.items():
    text = (ROOT / source).read_text()
    found[page] = rewritten(text, source, page)
  for file in sorted((ROOT / 'configs').glob('*.py')):
    name = f'configs/{file.name}'
    found[page_of(name)] = f'# {name}\n\n```python\n{file.read_text()}```\n'
  return found


def page_of(source: str) -> str:
  """Returns the path on the site of a file of the repository.

  Raises:
    ValueError: a file that the site does not have.
  """
  if source in PAGES:
    return PAGES[source]
  if re.fullmatch(r'configs/\w+\.py', source):
    return f'{source.removesuffix(".py")}.md'
  if source.startswith(DOCS):
    return source.removeprefix(DOCS)
  if re.fullmatch(r'notebooks/\w+\.ipynb', source):
    return source
  raise ValueError(f'{source} is no page of the site')


def rewritten(text: str, source: str, page: str) -> str:
  """Returns a text whose links hold on the site.

  Args:
    text: in Markdown; fenced blocks stay as they are.
    source: the path of its file in the repository, to which links are relative.
    page: its path on the site.

  Raises:
    ValueError: a link to a file that is not there, or not on the site.
  """

  def one(match: re.Match[str]) -> str:
    before, target, after = match.groups()
    if _ELSEWHERE.match(target):
      return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if not (ROOT / path).is_file():
      raise ValueError(f'{source}: {target} is not there')
    to = os.path.relpath(page_of(path), posixpath.dirname(page) or '.')
    return f'{before}{to}{after}'

  parts = re.split(r'(^```.*?^```$)', text, flags=re.DOTALL | re.MULTILINE)
  parts[::2] = [_LINK.sub(one, part) for part in parts[::2]]
  return ''.join(parts)
