#!/usr/bin/env bash
# source: thorvg/thorvg#702; the default SVG export of Illustrator
# expected: a style sheet is obeyed or refused by name, also inside of <defs>
source "$(dirname "$0")/../lib.sh"
cat > "$work/a.svg" <<'S'
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100"><defs><style>.cls-1{fill:none;stroke:#000;stroke-width:2px;}</style></defs><circle class="cls-1" cx="40" cy="40" r="20"/></svg>
S
api "$work/a.svg" <<'P'
import sys
from pyramid_jax.conditioning import sketches
from pyramid_jax.data.pixels import images, sketch_files
try: s = sketches.from_image(sketch_files.read(sys.argv[1]), 64)['sketch'][0] > 0
except images.BrokenImage as e: print(e); sys.exit(0)
print('centre of the outline is ink:', bool(s[25, 25])); sys.exit(bool(s[25, 25]))
P
verdict $? 'an outline became a filled disc, in silence'
