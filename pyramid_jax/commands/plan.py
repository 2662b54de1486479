"""`--mode=plan`: a config and a topology in, what its programs need out."""

from collections.abc import Mapping
import json
import pathlib
import sys
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.files import whole_files
from pyramid_jax.planning import compiling
from pyramid_jax.planning import report
from pyramid_jax.planning import topologies
from pyramid_jax.runs import stopping
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib


FILE = 'plan.json'
TRAIN, SAMPLER = compiling.DRAFTS


def run(
  config: ConfigDict, workdir: pathlib.Path | None, options: Mapping[str, Any]
) -> None:
  """Prints the plan of a config, and writes `FILE` into a workdir.

  Args:
    config: of the run.
    workdir: None to print only.
    options: of the command line: `topology`, `slices`, `programs`, `until`,
      `one_batch`; `config` names the config.

  Raises:
    UserError: a topology that is not there, a mesh or a batch that does not fit
      it, or a config that fits no system.
  """
  topology = topologies.of_options(options)
  name = options['config'] or str(workdir)
  asked = _programs(config, options['programs'])
  until = options['until'] or compiling.END
  if until not in compiling.STAGES:
    raise errors.UserError(
      f'--until={until}: must be {" or ".join(compiling.STAGES)}.'
    )
  plans = {}
  with stopping.listening():
    for program in asked:
      task = compiling.Task(config=config, topology=topology, program=program)
      plans[program] = report.plan(task, until, not options['one_batch'])
  sys.stdout.write(report.table(name, plans))
  if workdir is not None:
    workdir_lib.make(workdir)
    text = json.dumps(report.as_json(name, plans), indent=2)
    whole_files.save_text(workdir / FILE, f'{text}\n')


def _programs(config: ConfigDict, given: str | None) -> list[str]:
  """Returns the programs to compile; not all systems have a sampler."""
  allowed = [TRAIN, SAMPLER]
  system = workdir_lib.create_system(config)
  if system.outputs in (system_lib.RECONSTRUCTIONS, system_lib.CLASSES):
    allowed.remove(SAMPLER)
  asked = allowed if given is None else given.split(',')
  unknown = [name for name in asked if name not in allowed]
  if unknown:
    raise errors.UserError(
      f'--programs={given}: {unknown[0]!r} is none of {", ".join(allowed)} of'
      f' the system {config.system.name!r}.'
    )
  return list(dict.fromkeys(asked))
