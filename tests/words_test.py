"""The field's words in the package, the configs, the benchmarks and the docs.

A name or a phrase that was replaced stays replaced: docs/glossary.md has the
few terms that are our own. Run as a program, this prints what is found.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import pathlib
import re
import sys
import tokenize

import pytest


ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ('pyramid_jax', 'configs', 'benchmarks', 'launch', 'docs')
FILES = ('README.md', 'CONTRIBUTING.md', 'setup.py')
SUFFIXES = ('.py', '.md', '.sh')

# What is not written, and what is written in its place.
WORDS: Mapping[str, str] = {
  # Phrases that lean on another sentence, or are no English.
  r'(?i)\blikewise\b': 'what holds, in full',
  r'(?i)\bas of `': 'what holds, in full',
  r'(?i)\bfor who\b': 'for callers that',
  r'(?i)\bbeside those of\b': 'in addition to those of',
  r'(?i)\bsee the others\b': 'what holds, in full',
  # Words that have a standard one.
  r'(?i)\btold\b(?! (apart|from))': 'given, or conditioned on',
  r'(?i)\bobedien\w*': 'condition alignment',
  r'(?i)\bsteer\w*': 'guide, sketch guidance',
  r'(?i)\bpictures?\b': 'image',
  r'(?i)\b(a|an|the|of) drawing\b(?! program)|\bdrawings\b': 'sketch',
  r'(?i)\bnoise laws?\b|\blaws? of\b': 'distribution of noise levels',
  r'(?i)\bsmall images?\b': 'low-resolution image',
  r'(?i)\badversarial game\b': 'adversarial training',
  # Names that were replaced.
  r'\b(Law|LAWS|_LAWS|make_law|_law)\b': 'NoiseDistribution',
  r'\bMoves\b(?! )': 'AugmentParams',
  r'\b(churned|length_of_step)\b': 't_hat, h',
  r'\b(_FOREIGN|foreign=)|--foreign\b': 'shuffled_condition',
  r'\b(taps=|tap_norm)|\.taps\b': 'features',
  r'\bplayers?\b': 'the name of the loss',
  r'\bimport job\b': 'setup',
}

# File: {what it may say: why}. It is as short as it can be.
ALLOWED: Mapping[str, Mapping[str, str]] = {
  'benchmarks/paired_process.py': {'import job': 'the name in commit 0679d39'},
  'pyramid_jax/config/formats.py': {
    'tap_norm': 'the names of recorded configs',
    'taps': 'the names of recorded configs',
  },
  'pyramid_jax/data/synthetic/text.py': {'picture': 'a word of the captions'},
}


def files() -> Iterator[pathlib.Path]:
  """Yields the files whose words are checked."""
  for folder in FOLDERS:
    for path in sorted((ROOT / folder).rglob('*')):
      if path.suffix in SUFFIXES:
        yield path
  for name in FILES:
    yield ROOT / name


def found(text: str, allowed: Mapping[str, str]) -> Iterator[tuple[int, str]]:
  """Yields (line number, words: what to write instead) of a text."""
  for number, line in enumerate(text.splitlines(), 1):
    for pattern, instead in WORDS.items():
      for match in re.finditer(pattern, line):
        if not any(word in line for word in allowed):
          yield number, f'{match[0]!r}: write {instead}'


def comments(path: pathlib.Path) -> Iterator[tuple[int, str]]:
  """Yields (line number, text) of the comments of a file.

  Comments that stand alone on consecutive lines are one comment.
  """
  block: list[str] = []
  with tokenize.open(path) as file:
    for token in tokenize.generate_tokens(file.readline):
      if token.type == tokenize.COMMENT:
        words = token.string.lstrip('# ')
        if token.line.strip().startswith('#'):
          block.append(words)
          continue
        yield token.start[0], words
      elif block and token.type != tokenize.NL:
        yield token.start[0] - 1, ' '.join(block)
        block = []


def report() -> list[str]:
  """Returns a line for each word that is found."""
  return [
    f'{name}:{number}: {words}'
    for path in files()
    for name in [str(path.relative_to(ROOT))]
    for number, words in found(path.read_text(), ALLOWED.get(name, {}))
  ]


def test_words_are_those_of_the_field():
  assert not report(), '\n'.join(report())


@pytest.mark.parametrize(
  'path', sorted((ROOT / 'configs').glob('*.py')), ids=lambda path: path.stem
)
def test_comments_of_configs_are_sentences(path):
  for number, words in comments(path):
    is_sentence = not words[0].islower() and words.endswith(('.', ':'))
    assert is_sentence or words.startswith('config.'), f'{number}: {words}'


def test_allowed_words_are_needed():
  for name, words in ALLOWED.items():
    lines = (ROOT / name).read_text()
    for word in words:
      kept = {k: v for k, v in words.items() if k != word}
      assert len(list(found(lines, kept))) > len(list(found(lines, words)))


@pytest.mark.parametrize(
  'line', ['  b: likewise.', 'x = churned(t)', 'A picture of a cat.']
)
def test_words_are_found(line):
  assert len(list(found(line, {}))) == 1


if __name__ == '__main__':
  sys.stdout.write('\n'.join([*report(), '']))
