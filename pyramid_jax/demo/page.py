"""The page: widgets of gradio around `form.read` and `making.make`.

All that a browser sends reaches `form` as it came, without gradio's own
conversions, so that one place checks it.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

from absl import logging

from pyramid_jax import errors
from pyramid_jax.conditioning import camera
from pyramid_jax.data.pixels import given_images
from pyramid_jax.demo import cards
from pyramid_jax.demo import controls as controls_lib
from pyramid_jax.demo import examples
from pyramid_jax.demo import form
from pyramid_jax.demo import making


HERE = pathlib.Path(__file__).parent
TITLE = 'pyramid_jax'
_BUG = 'The server failed; its log says why.'
_RAW: Mapping[str, Any] = {'preprocess': False, 'api_visibility': 'private'}
_EMPTY_CANVAS: Mapping[str, Any] = {'boxes': [], 'sketch': [], 'mask': []}
_TEXT_HELP = {
  'prompt': ('Caption', 'a red circle left of a blue square'),
  'labels': ('Objects, separated by commas', 'red circle, blue square'),
  'graph': ('Relations', 'red circle, left of, blue square; ...'),
}
_UPLOADS = {
  'image': ('Upload an image', ['image']),
  'map': ('Upload a map', ['image']),
  'sketch': ('Upload a sketch', ['image', '.svg']),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tab:
  """A model with its examples, and where the server keeps uploads."""

  model: making.Model
  samples: Sequence[Mapping[str, Any]]
  uploads: pathlib.Path

  @property
  def controls(self) -> controls_lib.Controls:
    return self.model.controls


def answers(tab: Tab, values: Sequence[Any]) -> Iterator[tuple[str, str, Any]]:
  """Yields (status, results, seed) while a request is served; never raises.

  Args:
    tab: of the page.
    values: those of `form.fields`, as a browser sent them.
  """
  results, seed, controls = '', None, tab.controls
  try:
    yield cards.status('Reading the request'), results, seed
    named = dict(zip(form.fields(controls), values, strict=True))
    asked = form.read(named, controls, tab.uploads)
    seed = asked.request.seed
    record = {'model': controls.title, **asked.record}
    for state in making.make(tab.model, asked):
      if state.images:
        results = cards.results(state, record, controls.stages)
      is_whole = state.done == state.total
      share = None if is_whole else state.done / state.total
      yield cards.status(_said(state), share), results, seed
  except errors.UserError as error:
    yield cards.status(str(error), is_error=True), results, seed
  except Exception:
    logging.exception('a request failed')
    yield cards.status(_BUG, is_error=True), results, seed


def _said(state: making.State) -> str:
  """Returns the line that says how far a request is."""
  if state.is_compiling:
    return (
      'Compiling for these settings; the next request with them begins at once'
    )
  if state.done == state.total:
    count = len(state.images)
    each = f', {state.secs / count:.2f} s each' if count > 1 else ''
    return f'Made in {state.secs:.2f} s{each}'
  return f'{state.done} of {state.total} stages, {state.secs:.1f} s'


def shown(tab: Tab, name: str, value: Any) -> tuple[str, str, float]:
  """Returns (status, URL of a preview, its height over its width) of an upload.

  Args:
    tab: of the page.
    name: 'image', 'map' or 'sketch'.
    value: what a browser sent.
  """
  try:
    path = form.upload(value, name, tab.uploads)
    if path is None:
      return cards.status(''), '', 1.0
    read = given_images.sketch if name == 'sketch' else given_images.image
    pixels = read(path.as_posix(), name)
    if pixels.shape[-1] == 4:
      pixels = given_images.image(pixels, name)
    height, width = pixels.shape[:2]
    text = f'{path.name}: {width} x {height} px'
    return cards.status(text), cards.preview(pixels), height / width
  except errors.UserError as error:
    return cards.status(str(error), is_error=True), '', 1.0
  except Exception:
    logging.exception('an upload failed')
    return cards.status(_BUG, is_error=True), '', 1.0


def build(tabs: Sequence[Tab]) -> Any:
  """Returns the page, a `gradio.Blocks`."""
  import gradio as gr

  with gr.Blocks(
    title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)
  ) as page:
    gr.HTML(_heading(tabs))
    if len(tabs) == 1:
      _Builder(gr, tabs[0]).fill()
    else:
      with gr.Tabs():
        for tab in tabs:
          with gr.Tab(tab.controls.title):
            _Builder(gr, tab).fill()
  return page


class _Builder:
  """Puts the widgets of a tab on the page, and connects them."""

  def __init__(self, gr: Any, tab: Tab):
    self.gr, self.tab, self.controls = gr, tab, tab.controls
    self.widgets: dict[str, Any] = {}  # by the names of `form.fields`

  def fill(self) -> None:
    """Adds the tab to the page that is being built."""
    gr, widgets = self.gr, self.widgets
    with gr.Row():
      with gr.Column(scale=5, min_width=360):
        self._conditions()
        buttons = self._examples()
      with gr.Column(scale=6, min_width=360):
        with gr.Row():
          make = gr.Button('Make images', variant='primary', elem_id='pj-make')
          cancel = gr.Button('Cancel', elem_id='pj-cancel')
          clear = gr.Button('Clear all', elem_id='pj-clear-all')
        self._settings()
        status = gr.HTML(cards.status(''), elem_id='pj-status')
        results = gr.HTML(_welcome(self.controls), elem_id='pj-results')
    inputs = [widgets[name] for name in form.fields(self.controls)]
    outputs = [status, results, widgets['seed']]
    made = make.click(
      self._answers,
      inputs,
      outputs,
      show_progress='hidden',
      concurrency_limit=1,
      concurrency_id='device',
      **_RAW,
    )
    cancel.click(
      lambda: cards.status('Cancelled'), None, status, cancels=[made], **_RAW
    )
    self._uploads(status)
    self._connect_examples(buttons, clear)

  def _answers(self, *values: Any) -> Iterator[tuple[Any, Any, Any]]:
    skip = self.gr.skip()
    for status, results, seed in answers(self.tab, values):
      yield status, results or skip, skip if seed is None else seed

  def _conditions(self) -> None:
    gr, has = self.gr, self.controls.has
    if self.controls.tools:
      self.widgets['canvas'] = gr.HTML(
        dict(_EMPTY_CANVAS),
        html_template=_file('canvas.html'),
        js_on_load=_file('canvas.js'),
        apply_default_css=False,
        elem_id='pj-canvas',
        tools=list(self.controls.tools),
        labels=list(self.controls.labels),
        background='',
        ratio=1.0,
      )
    with gr.Row():
      for name, (words, kinds) in _UPLOADS.items():
        if has(name):
          key = form.field_of(name)
          self.widgets[key] = gr.UploadButton(
            words, file_types=kinds, size='sm', elem_id=f'pj-{key}'
          )
    for name, (label, example) in _TEXT_HELP.items():
      if has(name):
        self.widgets[name] = gr.Textbox(
          label=label,
          placeholder=example,
          lines=2,
          max_length=form.MAX_TEXT,
          elem_id=f'pj-{name}',
        )
    if has('graph'):
      self._relations()
    if has('label'):
      self._class()
    for name, allowed in camera.ATTRIBUTES.items():
      if has(name):
        title = f'Camera: {name.replace("_", " ")}'
        self.widgets[name] = gr.Dropdown(
          ['', *allowed], value='', label=title, elem_id=f'pj-{name}'
        )

  def _class(self) -> None:
    gr, labels = self.gr, self.controls.labels
    if labels:
      widget = gr.Dropdown(
        [('any', ''), *labels], value='', label='Class', elem_id='pj-label'
      )
    else:
      widget = gr.Textbox(
        label='Number of the class, from 1; empty for any', elem_id='pj-label'
      )
    self.widgets['label'] = widget

  def _relations(self) -> None:
    """Adds words from which relations are put together."""
    gr, controls = self.gr, self.controls
    with gr.Row():
      words = (controls.labels, controls.predicates, controls.labels)
      titles = ('Object', 'Relation', 'Object')
      parts = [
        gr.Dropdown(list(x), value=None, label=title, min_width=90)
        for x, title in zip(words, titles, strict=True)
      ]
      add = gr.Button('Add', size='sm', min_width=60, elem_id='pj-add')

    def added(text: Any, *chosen: Any) -> Any:
      try:
        return form.with_relation(text, chosen)
      except errors.UserError:
        return gr.skip()

    graph = self.widgets['graph']
    add.click(added, [graph, *parts], graph, **_RAW)

  def _settings(self) -> None:
    gr, controls, widgets = self.gr, self.controls, self.widgets
    most = controls_lib.MAX_COUNT
    with gr.Row():
      widgets['count'] = gr.Slider(
        1, most, value=1, step=1, label='Images', elem_id='pj-count'
      )
      widgets['seed'] = gr.Number(
        value=0, precision=0, label='Seed', min_width=100, elem_id='pj-seed'
      )
      widgets['is_new_seed'] = gr.Checkbox(
        value=True, label='New seed each time', elem_id='pj-new-seed'
      )
    with gr.Accordion('Sampling', open=False, elem_id='pj-sampling'):
      if controls.steps:
        widgets['steps'] = gr.Dropdown(
          list(controls.steps),
          value=controls.own_steps,
          label='Steps',
          info='another number compiles a program, once',
          elem_id='pj-steps',
        )
      if controls.guidance is not None:
        most_guided = controls_lib.MAX_GUIDANCE
        widgets['guidance'] = gr.Slider(
          1,
          most_guided,
          value=min(max(controls.guidance, 1.0), most_guided),
          step=0.1,
          label='Guidance; 1 is none',
          elem_id='pj-guidance',
        )
      if controls.has(controls_lib.STRENGTH):
        widgets['strength'] = gr.Dropdown(
          list(controls_lib.STRENGTHS),
          value=form.OWN_STRENGTH,
          label='Strength on an image',
          info='the share of the steps that it goes through; 1 keeps nothing',
          elem_id='pj-strength',
        )
      if controls.sketch:
        widgets['sketch_strength'] = gr.Slider(
          0,
          controls_lib.MAX_SKETCH,
          value=1,
          step=0.1,
          label='Strength of the sketch; 1 is that of the run',
          elem_id='pj-sketch-strength',
        )

  def _examples(self) -> list[Any]:
    gr = self.gr
    if not self.tab.samples:
      return []
    gr.Markdown('Examples')
    with gr.Row():
      return [
        gr.Button(examples.title(x), size='sm', min_width=120)
        for x in self.tab.samples
      ]

  def _connect_examples(self, buttons: Sequence[Any], clear: Any) -> None:
    """Makes a click set all conditions: those of an example, or none."""
    fixed = ('count', 'seed', 'is_new_seed', 'steps', 'guidance', 'strength')
    names = [
      name for name in self.widgets if name not in (*fixed, 'sketch_strength')
    ]
    widgets = [self.widgets[name] for name in names]
    if not widgets:
      return
    samples: list[Mapping[str, Any]] = [*self.tab.samples, {}]
    for button, values in zip([*buttons, clear], samples, strict=True):
      button.click(self._setter(names, values), None, widgets, **_RAW)

  def _setter(
    self, names: Sequence[str], values: Mapping[str, Any]
  ) -> Callable[[], Any]:
    def value(name: str) -> Any:
      if name == 'canvas':
        drawn = {**_EMPTY_CANVAS, **(values.get('canvas') or {})}
        return self.gr.HTML(value=drawn, background='', ratio=1.0)
      is_file = name in map(form.field_of, _UPLOADS)
      return values.get(name, None if is_file else '')

    def found() -> Any:
      all_values = [value(name) for name in names]
      return all_values if len(all_values) > 1 else all_values[0]

    return found

  def _uploads(self, status: Any) -> None:
    """Shows what is uploaded below the strokes of the canvas."""
    for name in _UPLOADS:
      button = self.widgets.get(form.field_of(name))
      if button is None:
        continue
      canvas = self.widgets.get('canvas')
      outputs = [status] if canvas is None else [status, canvas]

      def seen(value: Any, name: str = name, canvas: Any = canvas) -> Any:
        text, url, ratio = shown(self.tab, name, value)
        if canvas is None:
          return text
        return text, self.gr.HTML(background=url, ratio=ratio)

      button.upload(seen, button, outputs, **_RAW)


def _heading(tabs: Sequence[Tab]) -> str:
  """Returns the title of the page, with the model if there is one alone."""
  name = tabs[0].controls.title if len(tabs) == 1 else f'{len(tabs)} models'
  words = f'{TITLE} <small>{cards.escaped(name)}</small>'
  return f'<h1 class="pj-title">{words}</h1>'


def _welcome(controls: controls_lib.Controls) -> str:
  """Returns what stands in the place of the results of the first request."""
  needed = [controls_lib.MISSING[name] for name in controls.needs]
  words = ' and '.join(needed) or 'choose what is made'
  text = f'{words[0].upper()}{words[1:]}, then Make images.'
  return f'<div class="pj-empty">{cards.escaped(text)}</div>'


def _file(name: str) -> str:
  return (HERE / name).read_text()
