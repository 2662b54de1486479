"""What a run has left on disk, to be compared with another run."""

import json

from pyramid_jax.runs import restoring
from pyramid_jax.runs import step_folders
from pyramid_jax.runs import step_meta


def arrays(workdir, step):
  """Returns the hashes of all arrays of a checkpoint, which are verified."""
  path = step_folders.of_step(workdir, step)
  restoring.verify(path)
  tree = step_meta.read(path)['tree']
  return {item: {k: x[2] for k, x in v.items()} for item, v in tree.items()}


def losses(workdir):
  """Returns (step, loss) of all lines of the metrics, which are whole."""
  text = (workdir / 'metrics.jsonl').read_text()
  assert text.endswith('\n')
  rows = [json.loads(line) for line in text.splitlines()]
  return [(row['step'], row['loss']) for row in rows]


def names(workdir):
  """Returns the names in the folder of the checkpoints."""
  return sorted(p.name for p in step_folders.directory(workdir).iterdir())
