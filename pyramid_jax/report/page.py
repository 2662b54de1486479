"""The page of a run, from its records."""

import base64
from collections.abc import Mapping
from collections.abc import Sequence
import importlib.util
import shlex
from typing import Any

from pyramid_jax import config as config_lib
from pyramid_jax.metrics import score_directions
from pyramid_jax.report import curves
from pyramid_jax.report import elements
from pyramid_jax.report import records as records_lib
from pyramid_jax.report import style
from pyramid_jax.report.elements import Html
from pyramid_jax.report.elements import tag
from pyramid_jax.runs import throughput


_COMMANDS = 'pyramid_jax.commands.'
_MOST_CURVES = 48
_LONGEST = 300  # characters of a value of the config
# No script, and nothing from elsewhere, whatever a name says.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_LEFT_OUT = ('seconds',)
_SPEED = ('images_per_sec', 'checkpoint_secs', 'checkpoint_blocking_secs')
_SCORE = 'eval/'
# Systems whose runs make no samples of their own.
_UNSAMPLED = ('autoencoder', 'classifier', 'hdr', 'sketch')
_ENDS = {
  throughput.FINISHED: 'finished',
  throughput.STOPPED: 'stopped by a signal',
  throughput.RUNNING: 'running, or ended without a word',
}


def of(found: records_lib.Records, made: str) -> str:
  """Returns the whole page as text, at most about 3 MB.

  Args:
    found: what a run left.
    made: when the page was made, in words.
  """
  title = f'{_name(found)}: report'
  head = tag(
    'head',
    Html('<meta charset="utf-8">'),
    Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
    Html('<meta name="viewport" content="width=device-width">'),
    tag('title', title),
    tag('style', Html(style.CSS)),
  )
  body = tag(
    'body',
    _headline(found, made),
    _scores(found),
    _images(found),
    _curves(found),
    _speed(found),
    _config(found),
    _origin(found),
    _commands(found),
  )
  return f'<!DOCTYPE html>\n{tag("html", head, body, lang="en")}\n'


def _name(found: records_lib.Records) -> str:
  config = found.config
  if config is None:
    return found.workdir
  return config.name or config.system.name


def _section(title: str, *parts: Any) -> Html:
  return tag('section', tag('h2', title), *parts)


def _last_step(found: records_lib.Records) -> int:
  steps = [start.last_step for start in found.starts]
  steps += [points[-1][0] for points in found.curves.values() if points]
  return max([*steps[-1:], *found.checkpoints], default=0)


def _headline(found: records_lib.Records, made: str) -> Html:
  state, total = 'no start is recorded', throughput.summary(found.starts)
  if found.starts:
    state = _ENDS.get(found.starts[-1].end, found.starts[-1].end)
  planned = None if found.config is None else found.config.train.steps
  step = _last_step(found)
  tiles = [
    ('steps', f'{step:,} of {planned:,}' if planned else f'{step:,}'),
    ('images seen', f'{total["images"]:,}'),
    ('all starts took', elements.duration(total['secs'])),
    ('images/s while training', elements.number(total['images_per_sec'])),
    ('MFU', _percent(total['mfu'])),
    ('goodput', _percent(total['goodput'])),
  ]
  boxes = (tag('div', tag('b', x), tag('span', name)) for name, x in tiles)
  system = '' if found.config is None else f'{found.config.system.name}, '
  first = ''
  if found.has_first_stage:
    link = tag('a', 'first stage', href='first_stage/report.html')
    first = tag('p', 'The ', link, ' has a report of its own.')
  return tag(
    'header',
    tag('h1', _name(found)),
    tag('p', f'{system}{state}; {found.workdir}', class_='soft'),
    tag('div', *boxes, class_='tiles') if found.starts else '',
    first,
    *(tag('p', note, class_='note') for note in found.notes),
    tag('p', f'Made {made}.', class_='soft'),
  )


def _percent(value: float | None) -> str:
  return '-' if value is None else f'{value:.1%}'


def _scores(found: records_lib.Records) -> Html:
  if not found.tables:
    text = 'No evaluation has been written yet; the last section has its'
    return _section('Scores', tag('p', f'{text} command.'))
  parts: list[Html] = []
  for table in found.tables:
    rows = []
    for name, score in table.scores.items():
      low, high = score.get('low'), score.get('high')
      limits = score.get('floor'), score.get('ceiling')
      known = None not in (low, high)
      interval = f'{low:.4g} .. {high:.4g}' if known else '-'
      better = score_directions.lower_is_better(name)
      rows.append(
        (
          f'{name} ({"lower" if better else "higher"} is better)',
          elements.number(score['value']),
          interval,
          curves.interval(score['value'], (low, high), limits),
          *(elements.number(x) for x in limits),
          elements.number(score.get('n')),
        )
      )
    head = ('score', 'value', '95 % interval', '', 'floor', 'ceiling', 'n')
    parts += [tag('p', table.about, class_='soft'), elements.table(head, rows)]
  return _section('Scores', *parts)


def _images(found: records_lib.Records) -> Html:
  if not found.grids:
    return _section('Images', tag('p', 'The run has saved no images.'))
  figures = []
  for grid in found.grids:
    data = base64.b64encode(grid.jpeg).decode()
    width, height = grid.size
    figures.append(
      tag(
        'figure',
        tag('figcaption', tag('b', grid.title)),
        Html(
          f'<img src="data:image/jpeg;base64,{data}" width="{width}"'
          f' height="{height}" alt="{elements.text(grid.title)}">'
        ),
      )
    )
  words = 'Reduced; the newest preview first, then earlier ones.'
  return _section(
    'Images',
    tag('p', words, class_='soft'),
    tag('div', *figures, class_='grids'),
  )


def group(name: str) -> str:
  """Returns the heading under which the curve of a metric is drawn."""
  last = name.split('/')[-1]
  if name.startswith(_SCORE):
    return 'Scores of the validation split'
  if last.endswith('grad_norm'):
    return 'Gradient norms'
  if last.endswith('learning_rate'):
    return 'Learning rates'
  if last in _SPEED:
    return 'Speed'
  return 'Losses' if 'loss' in last else 'Other metrics'


def _curves(found: records_lib.Records) -> Html:
  headings = (
    'Losses',
    'Scores of the validation split',
    'Gradient norms',
    'Learning rates',
    'Speed',
    'Other metrics',
  )
  names = [name for name in found.curves if name not in _LEFT_OUT]
  by_heading = {h: [x for x in names if group(x) == h] for h in headings}
  marks = sorted({start.first_step for start in found.starts[1:]})
  parts, left = [], _MOST_CURVES
  for heading, members in by_heading.items():
    figures = [
      curves.chart(name.removeprefix(_SCORE), found.curves[name], marks)
      for name in members[:left]
    ]
    left -= len(figures)
    if figures:
      parts.append(tag('h3', heading))
      parts.append(tag('div', *figures, class_='curves'))
  if not parts:
    return _section('Curves', tag('p', 'No step has been logged yet.'))
  words = (
    'By training step. "mean of 21" is a running mean over 21 logged steps,'
    ' of fewer at both ends; the area behind it is between the least and the'
    ' largest logged values. Without it the line has the logged values.'
  )
  words += ' Dashed lines: the run was resumed.' if marks else ''
  more = len(names) - _MOST_CURVES
  words += f' {more} more metrics are in metrics.jsonl.' if more > 0 else ''
  return _section('Curves', tag('p', words, class_='soft'), *parts)


def _speed(found: records_lib.Records) -> Html:
  if not found.starts:
    return Html('')
  total = throughput.summary(found.starts)
  spent = {
    'steps that count': total['secs'] - sum(total['badput_secs'].values())
  }
  spent |= total['badput_secs']
  whole = total['secs'] or 1
  rows = [
    (name.replace('_', ' '), elements.duration(secs), f'{secs / whole:.1%}')
    for name, secs in spent.items()
  ]
  steps = [
    (name, elements.duration(secs) if secs is not None else '-')
    for name, secs in (
      ('median step', total['step_secs_p50']),
      ('95 % of the steps are below', total['step_secs_p95']),
      ('the compiler took', total['compile_secs']),
    )
  ]
  return _section(
    'Where the time went',
    elements.table(('of all time', 'took', 'share'), rows),
    elements.table(('durations', ''), steps),
  )


def _config(found: records_lib.Records) -> Html:
  if found.config is None:
    return Html('')
  rows = [(name, _value(now), _value(was)) for name, was, now in found.changes]
  changed = elements.table(('field', 'this run', 'there'), rows, numbers=False)
  flat = config_lib.flatten(found.config)
  every = elements.table(
    ('field', 'value'),
    [(name, _value(value)) for name, value in sorted(flat.items())],
    numbers=False,
  )
  text = f'What differs from {found.compared}:' if rows else ''
  return _section(
    'Config',
    tag('p', text or f'Nothing differs from {found.compared}.'),
    changed if rows else '',
    tag('details', tag('summary', f'All {len(flat)} fields'), every),
  )


def _value(value: Any) -> str:
  words = value if isinstance(value, str) and value else repr(value)
  return words if len(words) <= _LONGEST else f'{words[:_LONGEST]} ...'


def _origin(found: records_lib.Records) -> Html:
  rows: list[tuple[str, ...]] = []
  for start in found.starts[-1:]:
    devices = f'{start.devices} x {start.device_kind} ({start.platform})'
    rows += [
      ('devices', f'{devices} in {start.processes} process(es)'),
      ('host', start.host or 'not recorded'),
      ('activations', start.dtype),
    ]
  rows += [('memory of a device', _memory(row)) for row in found.memory[:1]]
  rows += [(name, version) for name, version in found.versions.items()]
  if found.config is not None:
    rows.append(('data', found.config.data.name))
  for split, parts in found.data.items():
    rows += [(f'data, {split}', words) for words in _facts(parts)]
  steps = ', '.join(f'{x:,}' for x in found.checkpoints)
  rows.append(('checkpoints', steps or 'none'))
  starts = [
    (
      start.began,
      f'{start.first_step:,}',
      f'{start.last_step:,}',
      _ENDS.get(start.end, start.end),
    )
    for start in found.starts[-20:]
  ]
  head = ('start', 'after step', 'to step', 'end')
  return _section(
    'Hardware, versions, data',
    elements.table(('', ''), rows, numbers=False),
    elements.table(head, starts, numbers=False) if starts else '',
  )


def _memory(row: Mapping[str, Any]) -> str:
  words = (
    'unknown' if x is None else f'{x / 2**30:.2f} GiB'
    for x in (row['in_use'], row['peak'], row['limit'])
  )
  return '{} after the first step, {} at most, of {}'.format(*words)


def _facts(parts: Any) -> list[str]:
  """Returns 'images: 118,287 entries, SHA-256 e2c7...' of each part."""
  if not isinstance(parts, dict):
    return []
  return [
    f'{part}: {facts.get("count")} entries, SHA-256 {facts.get("sha256")}'
    for part, facts in parts.items()
    if isinstance(facts, dict)
  ]


def commands(found: records_lib.Records) -> Sequence[tuple[str, str]]:
  """Returns (what for, command) of what can be done with the run now."""
  workdir = f'--workdir={shlex.quote(found.workdir)}'
  program = f'python -m pyramid_jax.main {workdir}'
  config = found.config
  if config is None:
    return []
  result = []
  if _last_step(found) < config.train.steps:
    result.append(('go on with the training', program))
  else:
    longer = f'{program} --config.train.steps={2 * config.train.steps}'
    result.append(('train longer', longer))
  if config.system.name not in _UNSAMPLED:
    sample = f'{program} --mode=sample --count=16'
    if config.condition.task == 'text':
      sample += " --prompt='...'"
    result.append(('make samples', sample))
  result.append(('compute scores', f'{program} --mode=evaluate'))
  name = f'python -m {_COMMANDS}'
  has_demo = importlib.util.find_spec(f'{_COMMANDS}demo') is not None
  if has_demo and config.system.name not in _UNSAMPLED:
    result.append(('try it in a browser', f'{name}demo {workdir}'))
  result.append(('make this page again', f'{name}report {workdir}'))
  return result


def _commands(found: records_lib.Records) -> Html:
  parts = [
    tag('div', tag('h3', what), tag('pre', command))
    for what, command in commands(found)
  ]
  return _section('Commands to go on', *parts) if parts else Html('')
