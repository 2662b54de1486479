"""Official checkpoints to ours, and back: the work of `commands/convert.py`."""

if __name__ == '__main__':  # the old name of the command
  from pyramid_jax.runs import entry

  entry.run('pyramid_jax.commands.convert')

import argparse
from collections.abc import Callable
from collections.abc import Mapping
import json
import sys
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import files
from pyramid_jax.distributed import initial
from pyramid_jax.files import digests
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.interop import edm_workdir
from pyramid_jax.interop import latent_workdir
from pyramid_jax.interop import mapping
from pyramid_jax.interop import network_workdir
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop import trained_parts
from pyramid_jax.interop import weight_file
from pyramid_jax.interop import weight_sets
from pyramid_jax.interop.families import clip_vision
from pyramid_jax.interop.families import dinov2
from pyramid_jax.interop.families import latent_diffit
from pyramid_jax.interop.families import pidinet
from pyramid_jax.interop.families import t5
from pyramid_jax.networks import inception
from pyramid_jax.networks import lpips
from pyramid_jax.networks import text_encoders
from pyramid_jax.networks import vgg
from pyramid_jax.runs import stopping
from pyramid_jax.runs import workdir as workdir_lib


State = parts.State

# The single networks; `load_part` reads one from any file.
FAMILIES = parts.FAMILIES
load_part = parts.load_part

# The whole systems, which become workdirs.
WHOLE = (
  *latent_workdir.DENOISERS,
  *network_workdir.NETWORKS,
  edm_workdir.FAMILY,
)
PARAMS = 'params.safetensors'
RECORD = 'params.json'
# Families whose sizes the weights say -> what reads them, and what gives the
# arguments of the network's `init`.
_IMAGE = np.zeros((1, 32, 32, 3), np.float32)
_LARGE = np.zeros((1, inception.SIDE, inception.SIDE, 3), np.float32)
_MIDDLE = np.zeros((1, vgg.SIDE, vgg.SIDE, 3), np.float32)
_TOKENS = np.zeros((1, 8), np.int32)


def _patches(network: Any) -> tuple[np.ndarray]:
  """Returns an image of the smallest size."""
  return (np.zeros((1, network.patch, network.patch, 3), np.float32),)


_SIZED: Mapping[str, tuple[Callable[[State], Any], Callable[[Any], Any]]] = {
  'lpips': (lambda _: lpips.LPIPS(), lambda _: (_IMAGE, _IMAGE)),
  'pidinet': (pidinet.infer, lambda _: (_IMAGE,)),
  'clip_text': (
    lambda _: text_encoders.CLIPTextEncoder(),
    lambda _: (_TOKENS,),
  ),
  'inception': (lambda _: inception.InceptionV3(), lambda _: (_LARGE,)),
  'clip_vision': (clip_vision.infer, _patches),
  'dinov2': (dinov2.infer, _patches),
  'vgg16': (lambda _: vgg.VGG16(), lambda _: (_MIDDLE,)),
  't5': (t5.infer, lambda _: (_TOKENS,)),
  'diffit.latent': (latent_diffit.infer, latent_diffit.nothing),
}
_IN_NO_CONFIG = (
  *('inception', 'lpips', 'pidinet', 'clip_vision', 'dinov2', 'vgg16'),
)


def convert(flags: argparse.Namespace, config: ConfigDict | None) -> None:
  """Reads an official checkpoint and writes DIR.

  Raises:
    UserError: anything that the user can correct.
  """
  workdir = flags.workdir
  latent_workdir.refuse_used(workdir, [PARAMS])
  paths = files.local_all(flags.checkpoint, '--checkpoint')
  with errors.user_errors(value=errors.DATA):
    state = weight_file.read_all(paths)
  stopping.check()
  if flags.family == edm_workdir.FAMILY:
    _convert_edm(flags, config, state, workdir)
    return
  if flags.family in WHOLE:
    _convert_whole(flags, config, state, workdir)
    return
  template = _template(flags.family, config, flags.allow_missing, state)
  heads = None
  if flags.family == 'ldm.unet':
    heads = parts.Heads.of(_system(config).unet)
  with errors.user_errors(value=errors.DATA):
    params, report = parts.to_flax(
      flags.family, state, template, heads, flags.weights
    )
  _account(report, flags.allow_missing, parts.part(flags.family).strict)
  record = {
    'family': flags.family,
    'files': {str(path): digests.sha256(path) for path in paths},
    'notes': report.notes,
    'tensors': len(report.matched),
    'missing': list(report.missing),
    'unused': list(report.unused),
  }
  stopping.check()
  whole_files.make_folder(workdir)
  whole_files.save_text(workdir / RECORD, json.dumps(record, indent=2) + '\n')
  parts.write(flags.family, workdir / PARAMS, params, heads)


def _convert_whole(
  flags: argparse.Namespace,
  config: ConfigDict | None,
  state: State,
  workdir: stores.Path,
) -> None:
  """Writes the workdir of a whole system."""
  _system(config)
  assert config is not None
  if config.system.name != flags.family:
    raise errors.UserError(
      f'--family={flags.family} needs a config of the system {flags.family}, '
      f'not {config.system.name}.'
    )
  if flags.family in network_workdir.NETWORKS:
    _convert_network(flags, config, state, workdir)
    return
  config = latent_workdir.fitted(config, state)
  system = _system(config)
  with errors.user_errors(value=errors.DATA):
    weights, report = latent_workdir.from_official(
      flags.family, state, system, flags.allow_missing, flags.weights
    )
  if config.condition.pooled:
    report.notes.append('condition: one token of CLIP, by the keys of OpenAI')
  is_strict = flags.family == latent_workdir.TWO_FILES
  _account(report, flags.allow_missing, is_strict)
  stopping.check()
  latent_workdir.write(workdir, config, weights)


def _convert_network(
  flags: argparse.Namespace,
  config: ConfigDict,
  state: State,
  workdir: stores.Path,
) -> None:
  """Writes the workdir of a system that is one network."""
  with errors.user_errors(value=errors.DATA):
    tree, report = network_workdir.from_official(
      flags.family, state, _system(config), flags.allow_missing, flags.weights
    )
  _account(report, flags.allow_missing)
  stopping.check()
  network_workdir.write(workdir, config, tree)


def _convert_edm(
  flags: argparse.Namespace,
  config: ConfigDict | None,
  state: State,
  workdir: stores.Path,
) -> None:
  """Writes the workdir of a network of EDM."""
  system = _system(config)
  assert config is not None
  with errors.user_errors():
    edm_workdir.check(config, system)
  with errors.user_errors(value=errors.DATA):
    tree, report = edm_workdir.from_official(
      state, system, flags.allow_missing, flags.weights
    )
  _account(report, flags.allow_missing, strict=True)
  stopping.check()
  edm_workdir.write(workdir, config, tree)


def export(flags: argparse.Namespace) -> None:
  """Writes the weights of DIR in the official layout.

  Raises:
    UserError: DIR holds no such weights, or they have no such layout.
  """
  workdir, target = flags.workdir, stores.path(flags.export)
  if target.exists():
    raise errors.UserError(f'{target} exists already.', errors.OUTPUT)
  if flags.family in WHOLE:
    if flags.layout != 'official':
      raise errors.UserError(
        f'--layout={flags.layout} is one of single networks, not of'
        f' --family={flags.family}; a part of it has its own family, such as'
        f' {_networks()[flags.family][0]}.'
      )
    if flags.family == edm_workdir.FAMILY:
      state = edm_workdir.to_official(workdir)
    elif flags.family in network_workdir.NETWORKS:
      state = network_workdir.to_official(flags.family, workdir)
    else:
      state = latent_workdir.to_official(flags.family, workdir)
  elif (workdir / PARAMS).is_file():
    with errors.user_errors(value=errors.DATA):
      family, params, heads = parts.read_own(workdir / PARAMS)
      if family != flags.family:
        raise ValueError(f'{workdir} holds {family!r}, not {flags.family!r}')
      state = parts.to_official(family, params, flags.layout, heads)
  else:
    params, heads = trained_parts.read(flags.family, workdir)
    with errors.user_errors(value=errors.DATA):
      state = parts.to_official(flags.family, params, flags.layout, heads)
  stopping.check()
  safetensors_file.write(target, state, {'format': 'pt'})
  sys.stdout.write(f'{len(state)} tensors written to {target}\n')


def _networks() -> Mapping[str, tuple[str, str]]:
  """Returns family and name of the network of each whole system."""
  return {
    **latent_workdir.DENOISERS,
    **network_workdir.NETWORKS,
    edm_workdir.FAMILY: ('edm.song_unet', 'network'),
  }


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


def _system(config: ConfigDict | None) -> Any:
  if config is None:
    raise errors.UserError('--config=FILE.py[:variant] must be given.')
  with errors.user_errors():
    return workdir_lib.create_system(config)


def _template(
  family: str, config: ConfigDict | None, keep_initial: bool, state: State
) -> Any:
  """Returns the shapes of a single network, or its initial values."""
  key = jax.random.key(0)
  evaluate = initial.evaluate if keep_initial else jax.eval_shape
  if family in _SIZED and (config is None or family in _IN_NO_CONFIG):
    infer, arguments = _SIZED[family]
    with errors.user_errors(value=errors.DATA):
      network = _inferred(infer, state)
    variables = evaluate(network.init, key, *arguments(network))
    return variables if family == 'inception' else variables['params']
  system = _system(config)
  assert config is not None
  inits = trained_parts.inits(config, system)
  if family not in inits:
    raise errors.UserError(
      f'the config has no part {family!r}; it has {", ".join(sorted(inits))}.'
    )
  return evaluate(inits[family], key)


def _inferred(infer: Callable[[State], Any], state: State) -> Any:
  """Returns the network whose sizes the weights say, whatever their prefix."""
  problem: ValueError | None = None
  for root in weight_sets.roots(state, len(state) // 4):
    try:
      return infer(weight_sets.stripped(state, root))
    except ValueError as error:
      problem = problem or error
  assert problem is not None
  raise problem
