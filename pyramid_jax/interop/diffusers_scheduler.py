"""The scheduler of a diffusers folder, as fields of our own config.

huggingface/diffusers: schedulers/. The chain of noise levels is part of the
model: one that is not served is refused. The solver is a choice of whoever
samples: where the folder's has no counterpart, the nearest one is taken, and a
warning says so.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from absl import logging

from pyramid_jax.interop import diffusers_options


Options = diffusers_options.Options

# prediction_type, beta_schedule -> what we call it.
_PREDICTIONS = {'epsilon': 'eps', 'v_prediction': 'v', 'sample': 'x0'}
_SCHEDULES = {
  'scaled_linear': 'scaled_linear',
  'linear': 'linear',
  'squaredcos_cap_v2': 'cosine',
}
# Options of the chain, and the values that are served.
_CHAIN: Mapping[str, tuple[Any, ...]] = {
  'rescale_betas_zero_snr': (False,),
  'trained_betas': (None,),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
  """What we have for a class of schedulers.

  Attributes:
    solver: the value of `sample.solver`.
    spacings: timestep_spacing -> `sample.spacing`; the first is the default.
    ends_clean: the option that decides whether the steps end clean, its default
      and the value for which they do; '' if they always do.
    needs: options of the solver -> (default, the value that it has here).
  """

  solver: str
  spacings: Mapping[str, str]
  ends_clean: tuple[str, Any, Any] = ('', None, None)
  needs: Mapping[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)


_LEADING = {'leading': 'leading', 'trailing': 'trailing', 'linspace': 'exact'}
_BY_SIGMA = {'linspace': 'exact', 'leading': 'leading', 'trailing': 'trailing'}
_MULTISTEP = {
  'linspace': 'linspace',
  'leading': 'leading_inner',
  'trailing': 'trailing',
}
_FINAL_SIGMA = ('final_sigmas_type', 'zero', 'zero')
_SIGMAS = {
  'use_exponential_sigmas': (False, False),
  'use_beta_sigmas': (False, False),
  'use_flow_sigmas': (False, False),
}

KINDS = {
  'PNDMScheduler': Kind(
    solver='plms',
    spacings=_LEADING,
    ends_clean=('set_alpha_to_one', False, True),
    needs={'skip_prk_steps': (False, True)},
  ),
  'DDIMScheduler': Kind(
    solver='ddim',
    spacings=_LEADING,
    ends_clean=('set_alpha_to_one', True, True),
    needs={'thresholding': (False, False)},
  ),
  'DDPMScheduler': Kind(
    solver='ddpm',
    spacings=_LEADING,
    needs={
      'thresholding': (False, False),
      'variance_type': ('fixed_small', 'fixed_small'),
    },
  ),
  'DPMSolverMultistepScheduler': Kind(
    solver='dpmpp_2m',
    spacings=_MULTISTEP,
    ends_clean=_FINAL_SIGMA,
    needs={
      **_SIGMAS,
      'algorithm_type': ('dpmsolver++', 'dpmsolver++'),
      'euler_at_final': (False, False),
      'solver_order': (2, 2),
      'solver_type': ('midpoint', 'midpoint'),
      'thresholding': (False, False),
    },
  ),
  'UniPCMultistepScheduler': Kind(
    solver='unipc',
    spacings=_MULTISTEP,
    ends_clean=_FINAL_SIGMA,
    needs={
      **_SIGMAS,
      'predict_x0': (True, True),
      'solver_order': (2, 2),
      'solver_type': ('bh2', 'bh2'),
      'thresholding': (False, False),
    },
  ),
  'EulerDiscreteScheduler': Kind(
    solver='euler',
    spacings=_BY_SIGMA,
    ends_clean=_FINAL_SIGMA,
    needs={**_SIGMAS, 'interpolation_type': ('linear', 'linear')},
  ),
  'HeunDiscreteScheduler': Kind(
    solver='heun', spacings=_BY_SIGMA, needs=_SIGMAS
  ),
}
_INSTEAD = KINDS['DDIMScheduler']


def fields(options: Options) -> dict[str, Any]:
  """Returns {name: value} of fields in `config.diffusion` and `config.sample`.

  The noise levels are counted as the pipeline of Stable Diffusion does,
  whatever the file says: from 1 (`steps_offset`), and without `clip_sample`.

  Raises:
    UserError: a chain that is not served.
  """
  for name, allowed in _CHAIN.items():
    options.choice(name, allowed[0], allowed)
  schedules, predictions = tuple(_SCHEDULES), tuple(_PREDICTIONS)
  schedule = options.choice('beta_schedule', 'linear', schedules)
  prediction = options.choice('prediction_type', 'epsilon', predictions)
  return {
    'diffusion.timesteps': options.integer('num_train_timesteps', 1000),
    'diffusion.beta_schedule': _SCHEDULES[schedule],
    'diffusion.linear_start': options.number('beta_start', 0.0001),
    'diffusion.linear_end': options.number('beta_end', 0.02),
    'diffusion.parameterization': _PREDICTIONS[prediction],
    **_solver(options),
  }


def _solver(options: Options) -> dict[str, Any]:
  """Returns the fields that say how samples are made by default."""
  name = options.text('_class_name', '')
  kind, others = KINDS.get(name, _INSTEAD), []
  if name not in KINDS:
    others.append(f'_class_name {name!r}')
  for option, (default, here) in kind.needs.items():
    value = options.get(option, default)
    if value != here:
      others.append(f'{option} {value!r}')
  predicted = options.get('prediction_type', 'epsilon')
  if kind.solver == 'plms' and predicted != 'epsilon':
    others.append(f'multistep integration of {predicted!r}')
  spacing = options.text('timestep_spacing', next(iter(kind.spacings)))
  if options.get('use_karras_sigmas', False):
    spacing = 'karras'
  elif options.get('use_lu_lambdas', False):
    spacing = 'log_snr'
  elif spacing not in kind.spacings:
    others.append(f'timestep_spacing {spacing!r}')
    spacing = next(iter(kind.spacings.values()))
  else:
    spacing = kind.spacings[spacing]
  option, default, clean = kind.ends_clean
  ends_clean = not option or options.get(option, default) == clean
  if others:
    logging.warning(
      '%s: %s is not here; sampling takes %s unless another'
      ' config.sample.solver is chosen',
      options.file,
      ', '.join(others),
      kind.solver,
    )
  return {
    'sample.solver': kind.solver,
    'sample.spacing': spacing,
    'sample.end': 'clean' if ends_clean else 'first',
  }
