// The canvas of the page: boxes with labels, strokes of a sketch and of a mask.
// Its value is described in canvas.py. `props.background` is an image below the
// strokes, `props.ratio` its height over its width.
const board = element.querySelector('canvas');
const pen = board.getContext('2d');
const find = (name) => element.querySelector(name);
const MOST_UNDONE = 50;
const LEAST_SIDE = 0.02; // of a box, else it was a click
const WIDTHS = {sketch: 0.015, mask: 0.08};
let tool = props.tools[0];
let start = null; // where the pointer went down
let draft = null; // a box or a stroke that is being drawn
let chosen = -1; // the number of a box
let picture = null;
const undone = [];

const value = () =>
    ({boxes: [], sketch: [], mask: [], ...(props.value || {})});
const keep = (next, isUndo = false) => {
  if (!isUndo) undone.push(JSON.stringify(value()));
  if (undone.length > MOST_UNDONE) undone.shift();
  props.value = next;
  show();
};
const round = (x) => Math.round(Math.min(1, Math.max(0, x)) * 1e4) / 1e4;
const place = (event) => {
  const area = board.getBoundingClientRect();
  return [
    round((event.clientX - area.left) / area.width),
    round((event.clientY - area.top) / area.height),
  ];
};
const colour = (label, index) => {
  const word = String(label).split(' ')[0];
  return CSS.supports('color', word) ? word : `hsl(${index * 137} 70% 45%)`;
};
const boxOf = ([a, b], [c, d]) =>
    [Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)];

const stroke = ({width, points}, paint) => {
  pen.strokeStyle = paint;
  pen.lineWidth = width * board.width;
  pen.lineCap = pen.lineJoin = 'round';
  pen.beginPath();
  for (let i = 0; i < points.length; i += 2) {
    pen.lineTo(points[i] * board.width, points[i + 1] * board.height);
  }
  if (points.length === 2) {
    pen.lineTo(points[0] * board.width + 0.1, points[1] * board.height);
  }
  pen.stroke();
};
const drawBox = ({label, box}, index) => {
  const [x0, y0, x1, y1] = box.map(
      (x, i) => x * (i % 2 ? board.height : board.width));
  const paint = colour(label, index);
  pen.globalAlpha = 0.22;
  pen.fillStyle = paint;
  pen.fillRect(x0, y0, x1 - x0, y1 - y0);
  pen.globalAlpha = 1;
  pen.lineWidth = index === chosen ? 7 : 5;
  pen.strokeStyle = '#1f2430';
  pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  pen.lineWidth = 3;
  pen.strokeStyle = paint;
  pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  pen.font = '600 22px system-ui, sans-serif';
  const wide = pen.measureText(label).width + 14;
  const top = y0 > 30 ? y0 - 30 : y0;
  const left = Math.min(x0, Math.max(0, board.width - wide));
  pen.fillStyle = '#1f2430';
  pen.fillRect(left, top, wide, 30);
  pen.fillStyle = 'white';
  pen.fillText(label, left + 7, top + 22);
};
const show = () => {
  const {boxes, sketch, mask} = value();
  const height = Math.round(board.width * (props.ratio || 1));
  if (board.height !== height) board.height = height;
  pen.fillStyle = 'white';
  pen.fillRect(0, 0, board.width, board.height);
  if (picture) pen.drawImage(picture, 0, 0, board.width, board.height);
  const drawn = (layer) =>
      draft && tool === layer ? [...value()[layer], draft] : value()[layer];
  pen.globalAlpha = 0.55;
  drawn('mask').forEach((x) => stroke(x, '#d6249f'));
  pen.globalAlpha = 1;
  drawn('sketch').forEach((x) => stroke(x, 'black'));
  drawn('boxes').forEach(drawBox);
  find('.pj-list').replaceChildren(...boxes.map(row));
  const empty = !(boxes.length + sketch.length + mask.length + !!draft);
  find('.pj-hint').hidden = !empty || !!picture;
};
const row = ({label, box}, index) => {
  const item = document.createElement('li');
  const mark = document.createElement('i');
  mark.style.background = colour(label, index);
  const words = document.createElement('span');
  words.textContent =
      `${label} (${box.map((x) => Number(x).toFixed(2)).join(', ')})`;
  const close = document.createElement('button');
  close.textContent = '×';
  close.setAttribute('aria-label', `Remove ${label}`);
  close.onclick = () => remove(index);
  item.append(mark, words, close);
  item.classList.toggle('pj-chosen', index === chosen);
  return item;
};
const remove = (index) => {
  chosen = -1;
  keep({...value(), boxes: value().boxes.filter((_, i) => i !== index)});
};
const hit = ([x, y]) => value().boxes.findLastIndex(
    ({box: [x0, y0, x1, y1]}) => x0 <= x && x <= x1 && y0 <= y && y <= y1);
const use = (name) => {
  tool = name;
  element.querySelectorAll('[data-tool]').forEach((x) =>
    x.setAttribute('aria-pressed', String(x.dataset.tool === tool)));
  find('.pj-label').hidden = tool !== 'boxes';
  find('.pj-width').hidden = tool === 'boxes';
  find('.pj-width input').value = WIDTHS[tool] || 0.015;
};
const undo = () => {
  if (undone.length) keep(JSON.parse(undone.pop()), true);
};

board.addEventListener('pointerdown', (event) => {
  board.setPointerCapture(event.pointerId);
  start = place(event);
  if (tool === 'boxes') return;
  draft = {width: Number(find('.pj-width input').value), points: [...start]};
  show();
});
board.addEventListener('pointermove', (event) => {
  if (!start) return;
  const here = place(event);
  if (tool === 'boxes') {
    draft = {label: find('.pj-label select').value, box: boxOf(start, here)};
  } else {
    const [x, y] = draft.points.slice(-2);
    if (Math.hypot(here[0] - x, here[1] - y) < 0.004) return;
    draft.points.push(...here);
  }
  show();
});
board.addEventListener('pointerup', (event) => {
  if (!start) return;
  const [x0, y0, x1, y1] = boxOf(start, place(event));
  const done = draft;
  const isBox = tool === 'boxes';
  const isClick = Math.min(x1 - x0, y1 - y0) < LEAST_SIDE;
  start = draft = null;
  if (isBox && (isClick || !done)) {
    chosen = hit([x1, y1]);
    show();
  } else {
    keep({...value(), [tool]: [...value()[tool], done]});
  }
});
board.addEventListener('pointercancel', () => {
  start = draft = null;
  show();
});
board.addEventListener('keydown', (event) => {
  if (event.key === 'Delete' && chosen >= 0) remove(chosen);
  if (event.key === 'z' && (event.ctrlKey || event.metaKey)) undo();
});
find('.pj-undo').onclick = undo;
find('.pj-clear').onclick = () => keep({boxes: [], sketch: [], mask: []});
find('.pj-label select').onchange = (event) => {
  if (chosen < 0) return;
  const boxes = value().boxes.map(
      (x, i) => i === chosen ? {...x, label: event.target.value} : x);
  keep({...value(), boxes});
};
element.querySelectorAll('[data-tool]').forEach((x) => {
  x.hidden = !props.tools.includes(x.dataset.tool) || props.tools.length < 2;
  x.onclick = () => use(x.dataset.tool);
});
find('.pj-label select').replaceChildren(
    ...props.labels.map((label) => new Option(label)));
watch(['value', 'background', 'ratio'], () => {
  chosen = -1;
  picture = null;
  show();
  if (!props.background) return;
  const loaded = new Image();
  loaded.onload = () => {
    picture = loaded;
    show();
  };
  loaded.src = props.background;
});
use(tool);
show();
