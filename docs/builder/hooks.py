"""What is done to pages when mkdocs builds the site (mkdocs.yml).

Files of the repository become pages (links.py), code is taken from the sources
(sources.py), equations become MathML (equations.py), and tables of results are
drawn (plots.py).
"""

import pathlib

import equations
import links
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
import plots
import sources


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Adds what does not lie in docs/."""
  for path, text in _refused(links.generated):
    files.append(File.generated(config, path, content=text))
  for file in sorted((links.ROOT / 'notebooks').glob('*.ipynb')):
    path = f'notebooks/{file.name}'
    files.append(File.generated(config, path, abs_src_path=str(file)))
  return files


def on_page_markdown(
  markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
  """Completes a page before it is rendered."""
  del config, files
  path = page.file.src_uri
  if page.file.generated_by is None:
    source = f'{links.DOCS}{path}'
    (markdown,) = _refused(
      lambda: [sources.included(links.rewritten(markdown, source, path))]
    )
  return (
    plots.drawn(markdown)
    if pathlib.Path(path).stem == 'results'
    else (markdown)
  )


def on_page_content(
  html: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
  """Completes a page after it is rendered."""
  del page, config, files
  return equations.drawn(html)


def _refused(function):
  """Calls a function; what it refuses ends the build with one line."""
  try:
    found = function()
  except ValueError as error:
    raise PluginError(str(error)) from error
  return found.items() if isinstance(found, dict) else found
