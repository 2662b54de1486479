"""Writes the address of a repository into the notebooks of this folder.

  python notebooks/address.py https://github.com/OWNER/NAME

Badges then open the notebooks of that repository, and their first cell installs
the package from there. A fork does this once.
"""

import json
import pathlib
import re
import sys


FOLDER = pathlib.Path(__file__).parent
COLAB = 'https://colab.research.google.com/github/'
GITHUB = re.compile(r'https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?')


def with_address(text: str, address: str, name: str) -> str:
  """Returns the text of a notebook with an address.

  Args:
    text: the notebook, JSON.
    address: 'https://github.com/OWNER/NAME'.
    name: the file of the notebook.

  Raises:
    ValueError: an address of another form.
  """
  match = GITHUB.fullmatch(address)
  if match is None:
    raise ValueError(f'{address}: must be https://github.com/OWNER/NAME.')
  notebook = json.loads(text)
  badge = f'{COLAB}{match[1]}/blob/main/notebooks/{name}'
  for cell in notebook['cells']:
    cell['source'] = [
      re.sub(
        r"^REPOSITORY = '[^']*'",
        f"REPOSITORY = 'https://github.com/{match[1]}'",
        re.sub(rf'\({re.escape(COLAB)}[^)]*\)', f'({badge})', line),
      )
      for line in cell['source']
    ]
  return json.dumps(notebook, indent=1, ensure_ascii=False) + '\n'


def main(arguments: list[str]) -> int:
  if len(arguments) != 1:
    sys.stderr.write(__doc__ or '')
    return 64
  for path in sorted(FOLDER.glob('*.ipynb')):
    path.write_text(with_address(path.read_text(), arguments[0], path.name))
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
