"""The commands of docs/scaling.md do what the page says, as far as they go.

Launchers are run with `--dry-run`, and what they would start is parsed by the
command line. Programs of others are known by name.
"""

import json
import re
import shlex

import pytest

from tests import docs_test
from tests.launch import shell


PAGE = (shell.ROOT / 'docs' / 'scaling.md').read_text()
OTHERS = ('gcloud', 'kubectl')


def lines():
  """Returns the lines of all blocks of commands."""
  blocks = re.findall(r'^```\n(.*?)^```$', PAGE, re.M | re.S)
  return [x for block in blocks for x in block.splitlines() if x.strip()]


def launched():
  return [line for line in lines() if line.startswith('bash launch/')]


def dry(line):
  """Returns a command of a launcher with `--dry-run`, as words."""
  bash, script, *words = shlex.split(line.partition(' #')[0])
  if script == 'launch/gke/job.sh':
    return [bash, script, *words[:2], '--dry-run', *words[2:]]
  return [bash, script, '--dry-run', *words]


def printed(line, folder):
  """Returns what a launcher prints; it may start none of the others."""
  fakes = shell.Fakes(folder / 'fakes')
  for name in (*OTHERS, 'xpk', 'docker', 'srun', 'scontrol'):
    fakes.add(name, 'exit 99')
  bash, script, *words = dry(line)
  code, text, problems = fakes.run_program(
    bash, str(shell.ROOT / script), *words
  )
  assert (code, problems, fakes.calls()) == (0, '', [])
  return text


def started(text):
  """Returns the arguments of `pyramid_jax.main` that a launcher would start."""
  if '\n{\n' in text:  # a manifest
    manifest = json.loads(text[text.index('\n{\n') : text.rindex('}') + 1])
    (job,) = manifest['spec']['replicatedJobs']
    (container,) = job['template']['spec']['template']['spec']['containers']
    words = [container['command']]
  else:
    words = [shlex.split(line) for line in text.splitlines()]
  found = [line for line in words if 'pyramid_jax.main' in line]
  return [line[line.index('pyramid_jax.main') + 1 :] for line in found]


def test_every_line_is_checked():
  known = ('bash launch/', 'python -m pyramid_jax', 'xpk ')
  for line in lines():
    assert line.startswith((*known, *(f'{x} ' for x in OTHERS))), line
  assert len(launched()) > 5


@pytest.mark.parametrize('line', launched())
def test_a_launcher_takes_its_line(line, tmp_path):
  text = printed(line, tmp_path)
  assert text
  commands = started(text)
  assert bool(commands) == ('--workdir=' in line and '--xpk' not in line)
  for arguments in commands:
    # A pod's number is known where it runs, and so is its bucket.
    args = [x.replace('$(JOB_COMPLETION_INDEX)', '0') for x in arguments]
    args = [x.replace('gs://BUCKET', str(tmp_path)) for x in args]
    with pytest.raises(docs_test.Parsed):
      docs_test.parse('pyramid_jax.main', args)


def test_the_line_for_xpk_is_what_is_printed(tmp_path):
  (line,) = (x for x in launched() if '--xpk=' in x)
  assert printed(line, tmp_path).strip() in lines()
