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
OTHERS = ('docker', 'gcloud', 'kubectl', 'scancel', 'squeue', 'tail', 'xpk')
# Launchers whose first argument, and whose first two, stand before flags.
VERBS = {'launch/tpu_pod.sh': 1, 'launch/gke/job.sh': 2}
MAIN = 'pyramid_jax.main'
# What is known where a process runs.
THERE = {'$(JOB_COMPLETION_INDEX)': '0', ':PORT': ':8482'}


def lines():
  """Returns the lines of all blocks of commands."""
  blocks = re.findall(r'^```\n(.*?)^```$', PAGE, re.M | re.S)
  return [x for block in blocks for x in block.splitlines() if x.strip()]


def launched():
  return [x for x in lines() if re.match(r'bash launch/|(\w+=\w+ )?sbatch ', x)]


def dry(line):
  """Returns the words of a launcher's command with `--dry-run`."""
  words = shlex.split(line)
  at = next(n for n, word in enumerate(words) if word.startswith('launch/'))
  variables = [word for word in words[:at] if re.match(r'\w+=', word)]
  script, words = words[at], words[at + 1 :]
  verbs = VERBS.get(script, 0)
  words[verbs:verbs] = ['--dry-run']
  return ['env', *variables, 'bash', str(shell.ROOT / script), *words]


def printed(line, folder):
  """Returns what a launcher prints; it may start none of the others."""
  fakes = shell.Fakes(folder / 'fakes')
  for name in {*OTHERS, 'srun', 'sbatch'} - {'tail'}:
    fakes.add(name, 'exit 99')
  code, text, problems = fakes.run_program(*dry(line))
  assert (code, problems, fakes.calls()) == (0, '', [])
  return text


def started(text):
  """Returns the arguments of `pyramid_jax.main` that a launcher would start."""
  if '\n{\n' in text:  # a manifest
    manifest = json.loads(text[text.index('\n{\n') : text.rindex('}') + 1])
    (job,) = manifest['spec']['replicatedJobs']
    (container,) = job['template']['spec']['template']['spec']['containers']
    found = [container['command']]
  else:
    found = [shlex.split(line) for line in text.splitlines()]
    # A command for another host is one word.
    found += [
      shlex.split(w) for line in found for w in line if f' {MAIN} ' in w
    ]
  return [line[line.index(MAIN) + 1 :] for line in found if MAIN in line]


def test_every_line_is_checked():
  for line in set(lines()) - set(launched()):
    assert line.split()[0] in (*OTHERS, 'python'), line
  scripts = {word for line in launched() for word in line.split()}
  assert scripts > {'launch/restart.sh', 'launch/slurm.sbatch', *VERBS}


def understood(arguments, folder):
  """Asserts that the command line understands arguments."""
  args = [x.replace('gs://BUCKET', str(folder)) for x in arguments]
  for name, value in THERE.items():
    args = [x.replace(name, value) for x in args]
  with pytest.raises(docs_test.Parsed):
    docs_test.parse(MAIN, args)


@pytest.mark.parametrize('line', launched())
def test_a_launcher_takes_its_line(line, tmp_path):
  text = printed(line, tmp_path)
  assert text
  commands = started(text)
  assert bool(commands) == ('--workdir=' in line)
  for arguments in commands:
    understood(arguments, tmp_path)


def test_an_image_runs_the_command(tmp_path):
  (line,) = (x for x in lines() if x.startswith('docker run '))
  (arguments,) = started(line)
  understood(arguments, tmp_path)


def test_the_line_for_xpk_is_what_is_printed(tmp_path):
  (line,) = (x for x in launched() if '--xpk=' in x)
  assert printed(line, tmp_path).strip() in lines()


def test_images_are_targets_of_the_dockerfile():
  text = (shell.ROOT / 'launch' / 'Dockerfile').read_text()
  targets = re.findall(r'--target (\w+)', PAGE)
  assert targets
  for target in targets:
    assert re.search(rf'^FROM \w+ AS {target}$', text, re.M)


def test_numbers_of_restarts_are_those_of_the_scripts():
  text = (shell.ROOT / 'launch' / 'restarts.sh').read_text()
  for name, value in re.findall(r'`(RESTARTS|HEALTHY_SECS)` \((\d+)\)', PAGE):
    assert f'{name}="${{{name}:-{value}}}"' in text
