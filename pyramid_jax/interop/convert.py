"""Official checkpoints to ours, and back.

  python -m pyramid_jax.interop.convert --family=frido \
      --config=configs/frido_coco.py:text --checkpoint=model.ckpt --workdir=DIR

writes a workdir that `--mode=sample` reads; so do `--family=ldm` and
`--family=latent_diffit`, which takes the files of the network and of the first
stage. The other families are single networks and write DIR/params.safetensors,
which a config can name as weights: `lpips`, `clip_text`, `t5`, `inception`,
`pidinet` and `diffit.latent` need no config; several files are joined by
commas, and those that a `model.safetensors.index.json` lists are named by it.
`--export=FILE.safetensors` instead of `--checkpoint` goes the other way; with
`--layout=diffusers` a first stage or a U-Net of LDM is written under the names
of that library. Both layouts are read.

Exit codes: 0 done, 64 a wrong command line or config, 65 a file that is
damaged or lacks keys, 66 a file that is not there, 73 DIR holds a run already.
"""

import argparse
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import hashlib
import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.distributed import initial
from pyramid_jax.interop import command_line
from pyramid_jax.interop import diffit_workdir
from pyramid_jax.interop import latent_workdir
from pyramid_jax.interop import mapping
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop import weight_file
from pyramid_jax.interop.families import latent_diffit
from pyramid_jax.interop.families import pidinet
from pyramid_jax.interop.families import t5
from pyramid_jax.networks import inception
from pyramid_jax.networks import lpips
from pyramid_jax.networks import text_encoders
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import autoencoder
from pyramid_jax.systems import frido
from pyramid_jax.systems import ldm
from pyramid_jax.systems.diffit import latent as latent_diffit_system
from pyramid_jax.systems.sketch import sketch


# The single networks; `load_part` reads one from a foreign or converted file.
FAMILIES = parts.FAMILIES
load_part = parts.load_part

# --family of a whole checkpoint -> how it becomes a workdir
WHOLE = {
  family: module
  for module in (latent_workdir, diffit_workdir)
  for family in module.SYSTEMS
}
PARAMS = 'params.safetensors'
RECORD = 'params.json'


def convert(flags: argparse.Namespace, config: ConfigDict | None) -> None:
  """Reads an official checkpoint and writes DIR.

  Raises:
    UserError: anything that the user can mend.
  """
  workdir = pathlib.Path(flags.workdir)
  latent_workdir.refuse_used(workdir, [PARAMS])
  with errors.user_errors(value=errors.DATA):
    state = _read_files(flags.checkpoint)
  if flags.family in WHOLE:
    system, whole = _whole_system(flags.family, config), WHOLE[flags.family]
    with errors.user_errors(value=errors.DATA):
      trees, report = whole.from_official(
        state, system, keep_initial=flags.allow_missing
      )
    _account(report, flags.allow_missing, whole is diffit_workdir)
    whole.write(workdir, config, trees)
    return
  template = _template(flags.family, config, flags.allow_missing, state)
  heads = None
  if flags.family == 'ldm.unet':
    heads = parts.Heads.of(_system(config).unet)
  with errors.user_errors(value=errors.DATA):
    params, report = parts.to_flax(flags.family, state, template, heads)
  _account(report, flags.allow_missing, parts.part(flags.family).strict)
  record = {
    'family': flags.family,
    'files': {path: _sha256(path) for path in flags.checkpoint.split(',')},
    'tensors': len(report.matched),
    'missing': list(report.missing),
    'unused': list(report.unused),
  }
  with errors.user_errors(missing=errors.OUTPUT):
    workdir.mkdir(parents=True, exist_ok=True)
    parts.write(flags.family, workdir / PARAMS, params, heads)
    (workdir / RECORD).write_text(json.dumps(record, indent=2) + '\n')


def export(flags: argparse.Namespace) -> None:
  """Writes the weights of DIR in the official layout.

  Raises:
    UserError: DIR holds no such weights, or they have no such layout.
  """
  workdir = pathlib.Path(flags.workdir)
  if flags.family in WHOLE:
    if flags.layout != 'official':
      raise errors.UserError(
        f'--layout={flags.layout} is one of single networks, not of'
        f' --family={flags.family}; export it, convert the part that is wanted'
        ' out of that file, and export the part.'
      )
    state = WHOLE[flags.family].to_official(flags.family, workdir)
  else:
    with errors.user_errors(value=errors.DATA):
      family, params = parts.read_own(workdir / PARAMS)
      if family != flags.family:
        raise ValueError(f'{workdir} holds {family!r}, not {flags.family!r}')
      heads = parts.read_heads(workdir / PARAMS)
      state = parts.to_official(family, params, flags.layout, heads)
  target = pathlib.Path(flags.export)
  if target.exists():
    raise errors.UserError(f'{target} exists already.', errors.OUTPUT)
  with errors.user_errors(missing=errors.OUTPUT):
    safetensors_file.write(target, state, {'format': 'pt'})
  sys.stdout.write(f'{len(state)} tensors written to {target}\n')


def _read_files(paths: str) -> dict[str, np.ndarray]:
  state: dict[str, np.ndarray] = {}
  for path in paths.split(','):
    state |= weight_file.read(path)
  return state


def _account(
  report: mapping.Report, allow_missing: bool, strict: bool = False
) -> None:
  """Prints what became of the keys; raises when that is not enough."""
  sys.stdout.write('\n'.join(report.lines()) + '\n')
  sys.stdout.flush()
  missing = {} if allow_missing else report.missing
  problems = [f'{len(missing)} missing keys'] if missing else []
  if report.mismatched:
    problems.append(f'{len(report.mismatched)} keys of another shape')
  if strict and report.unused:
    problems.append(f'{len(report.unused)} unknown keys')
  if not report.matched:
    problems = ['no key fits: another family, or another checkpoint']
  if problems:
    hint = '; --allow_missing keeps initial values' if missing else ''
    raise errors.UserError(
      f'not converted: {" and ".join(problems)} (listed above){hint}.',
      errors.DATA,
    )


def _whole_system(family: str, config: ConfigDict | None) -> Any:
  """Returns the system of a config, which must be that of the family."""
  system = _system(config)
  if not isinstance(system, WHOLE[family].SYSTEMS[family]):
    raise errors.UserError(
      f'--family={family} needs a config of the system {family}, '
      f'not {type(system).__name__}.'
    )
  return system


def _system(config: ConfigDict | None) -> Any:
  if config is None:
    raise errors.UserError('--config=FILE.py[:variant] must be given.')
  with errors.user_errors():
    return workdir_lib.create_system(config)


def _template(
  family: str,
  config: ConfigDict | None,
  keep_initial: bool,
  state: Mapping[str, np.ndarray] | None = None,
) -> Any:
  """Returns the shapes of a single network, or its initial values.

  Args:
    family: of the network.
    config: whose network it is, None where the family needs none.
    keep_initial: whether initial values are wanted.
    state: the official weights, which the sizes can be read off.
  """
  key = jax.random.key(0)
  evaluate = initial.evaluate if keep_initial else jax.eval_shape
  if family == 'lpips':
    image = jnp.zeros((1, 32, 32, 3))
    return evaluate(lpips.LPIPS().init, key, image, image)['params']
  if family == 'inception':
    image = jnp.zeros((1, inception.SIDE, inception.SIDE, 3))
    return evaluate(inception.InceptionV3().init, key, image)
  if family == 'pidinet' and state is not None:
    with errors.user_errors(value=errors.DATA):
      edges = pidinet.infer(state)
    return evaluate(edges.init, key, jnp.zeros((1, 16, 16, 3)))['params']
  if family == 'clip_text' and config is None:
    network = text_encoders.CLIPTextEncoder()
    return evaluate(network.init, key, jnp.zeros((1, 8), jnp.int32))['params']
  if family == 't5' and config is None and state is not None:
    with errors.user_errors(value=errors.DATA):
      encoder = t5.infer(state)
    return evaluate(encoder.init, key, jnp.zeros((1, 8), jnp.int32))['params']
  if family == 'diffit.latent' and config is None and state is not None:
    with errors.user_errors(value=errors.DATA):
      diffit = latent_diffit.infer(state)
    return evaluate(diffit.init, key, *latent_diffit.nothing(diffit))['params']
  inits = _inits(_system(config))
  if family not in inits:
    raise errors.UserError(
      f'the config has no part {family!r}; it has {", ".join(sorted(inits))}.'
    )
  return evaluate(inits[family], key)


def _inits(system: Any) -> dict[str, Callable[[jax.Array], Any]]:
  """Returns how each single network of a system is initialised."""

  def trained(loss_name: str, name: str = '') -> Callable[[jax.Array], Any]:
    def init(key):
      tree = system.init(key, {})[0][loss_name]
      return tree[name] if name else tree

    return init

  def judge(key):
    params, extra = system.init(key, {})
    return {'params': params['discriminator'], **extra}

  def predictor(key):
    params, extra = system.init(key, {})
    statistics = extra['batch_stats']['0']
    return {'params': params['generator']['0'], 'batch_stats': statistics}

  # A part without a family is a run, not a network.
  parts = system.frozen_parts().values()
  inits = {part.family: part.init for part in parts if part.family}
  if isinstance(system, frido.Frido | ldm.LDM):
    is_frido = isinstance(system, frido.Frido)
    inits['frido.pyunet' if is_frido else 'ldm.unet'] = trained(
      'generator', 'unet'
    )
    if system.encoder.family:
      inits[system.encoder.family] = trained('generator', 'condition')
  elif isinstance(system, latent_diffit_system.LatentDiffiT):
    inits['diffit.latent'] = trained('generator', 'network')
  elif isinstance(system, sketch.Sketch):
    if len(system.predictors) == 1:
      inits['lgp.mlp'] = predictor
  elif isinstance(system, autoencoder.Autoencoder):
    inits[system.model.family] = trained('generator')
    if system.discriminator is not None:
      inits['discriminator'] = judge
  return inits


def _sha256(path: str) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _parse(
  arguments: Sequence[str] | None,
) -> tuple[argparse.Namespace, Mapping[str, str]]:
  parser = command_line.Parser(
    prog='python -m pyramid_jax.interop.convert',
    description='Converts official checkpoints, in both directions.',
  )
  families = [*WHOLE, *FAMILIES]
  parser.add_argument('--family', required=True, choices=families)
  parser.add_argument('--config', help='FILE.py[:variant,...]')
  parser.add_argument('--checkpoint', help='PyTorch, safetensors or npz')
  parser.add_argument('--workdir', required=True, help='folder to write')
  parser.add_argument(
    '--allow_missing',
    action='store_true',
    help='keep initial values for what the checkpoint lacks',
  )
  parser.add_argument('--export', help='FILE.safetensors to write from DIR')
  parser.add_argument(
    '--layout',
    choices=parts.LAYOUTS,
    default=parts.LAYOUTS[0],
    help='names of the tensors that --export writes',
  )
  flags, rest = parser.parse_known_args(arguments)
  overrides = command_line.overrides(parser, rest)
  if bool(flags.checkpoint) == bool(flags.export):
    parser.error('give either --checkpoint=FILE or --export=FILE')
  return flags, overrides


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs a command line and returns the exit code."""
  flags, overrides = _parse(arguments)
  try:
    if flags.export:
      export(flags)
      return errors.OK
    config = config_lib.load(flags.config) if flags.config else None
    if config is not None:
      config_lib.override(config, overrides)
      config_lib.validate(config)
    convert(flags, config)
  except errors.UserError as error:
    sys.stderr.write(f'error: {error}\n')
    return error.code
  return errors.OK


if __name__ == '__main__':
  sys.exit(main())
