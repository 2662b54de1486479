"""Makes the images of docs/demo.md in Chromium, and measures the page.

  python docs/images/demo.py [--output=docs/images]

Starts the demo with the model that comes with the package, draws with the
mouse, and prints seconds. It needs the extra `browser`, and Chromium.
"""

import argparse
import base64
import pathlib
import shutil
import subprocess
import sys
import time

from playwright import sync_api


PORT = 7865
URL = f'http://127.0.0.1:{PORT}'
PATIENCE_SECS = 300


def start() -> subprocess.Popen:
  """Starts the demo; returns its process when the page can be opened."""
  command = [sys.executable, '-m', 'pyramid_jax.commands.demo']
  process = subprocess.Popen(
    [*command, '--workdir=shapes', f'--port={PORT}'],
    stdout=subprocess.PIPE,
    text=True,
  )
  for line in process.stdout:
    if 'page is at' in line:
      return process
  raise SystemExit('the demo did not start')


def drag(page: sync_api.Page, *places: tuple[float, float]) -> None:
  """Moves the pressed mouse over places of the canvas, shares of its sides."""
  area = page.locator('#pj-canvas canvas').bounding_box()
  left, top, width, height = (area[x] for x in ('x', 'y', 'width', 'height'))
  points = [(left + x * width, top + y * height) for x, y in places]
  page.mouse.move(*points[0])
  page.mouse.down()
  for point in points[1:]:
    page.mouse.move(*point, steps=8)
  page.mouse.up()


def draw(page: sync_api.Page, label: str, *places: tuple[float, float]) -> None:
  """Draws a box."""
  page.select_option('#pj-canvas select', label)
  drag(page, *places)


def make(page: sync_api.Page) -> float:
  """Makes images; returns the seconds from the click to the last of them."""
  page.evaluate("document.querySelector('#pj-status p').innerText = ''")
  begin = time.perf_counter()
  page.click('#pj-make')
  page.wait_for_function(
    "document.querySelector('#pj-status').innerText.includes('Made in')",
    timeout=1e3 * PATIENCE_SECS,
  )
  return time.perf_counter() - begin


def show(page: sync_api.Page, output: pathlib.Path) -> dict[str, float]:
  """Makes the images; returns seconds by what was measured."""
  secs = {}
  begin = time.perf_counter()
  page.goto(URL)
  page.wait_for_selector('#pj-canvas canvas')
  secs['from the address to the open page'] = time.perf_counter() - begin
  draw(page, 'red circle', (0.10, 0.12), (0.38, 0.40))
  draw(page, 'blue square', (0.55, 0.55), (0.86, 0.86))
  draw(page, 'yellow triangle', (0.58, 0.10), (0.88, 0.40))
  secs['the first image'] = make(page)
  secs['the second image'] = make(page)
  page.fill('#pj-count input[type=number]', '4')
  page.keyboard.press('Tab')
  secs['four images'] = make(page)
  page.wait_for_timeout(400)
  page.screenshot(path=output / 'demo_boxes.png')
  url = page.get_attribute('#pj-results a', 'href')
  data = base64.b64decode(url.partition(',')[2])
  with page.expect_file_chooser() as chooser:
    page.click('#pj-image')
  file = {'name': 'shapes.png', 'mimeType': 'image/png', 'buffer': data}
  chooser.value.set_files(file)
  page.wait_for_function(
    "document.querySelector('#pj-status').innerText.includes('32 x 32 px')"
  )
  page.click('[data-tool=mask]')
  drag(page, (0.72, 0.12), (0.72, 0.40))
  secs['four images with a mask, which compiles'] = make(page)
  secs['four images with a mask, again'] = make(page)
  page.wait_for_timeout(400)
  page.screenshot(path=output / 'demo_mask.png')
  return secs


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--output', type=pathlib.Path, default='docs/images')
  output = parser.parse_args().output
  begin = time.perf_counter()
  process = start()
  found = {'from the command to the page': time.perf_counter() - begin}
  chromium = shutil.which('chromium') or shutil.which('chromium-browser')
  try:
    with sync_api.sync_playwright() as play:
      browser = play.chromium.launch(
        executable_path=chromium, args=['--no-sandbox']
      )
      page = browser.new_page(viewport={'width': 1280, 'height': 1000})
      found |= show(page, output)
      browser.close()
  finally:
    process.terminate()
    process.wait(timeout=30)
  for what, secs in found.items():
    sys.stdout.write(f'| {what} | {secs:.2f} |\n')


if __name__ == '__main__':
  main()
