"""What follows the colon of `--config=FILE.py:variant,...`."""

from typing import Any

from pyramid_jax.config import names as names_lib


def parse_variants(
  arg: str | None, **known: bool | tuple[str, ...]
) -> dict[str, Any]:
  """Parses 'debug,layout', what follows the colon of `--config`.

  Args:
    arg: names separated by commas.
    **known: `name=False` is a switch that its name turns on;
      `name=('a', 'b')` is a choice that 'a' or 'b' makes, 'a' by default.

  Returns:
    {name: bool or the chosen string}.

  Raises:
    ValueError: a name is not known, or two make the same choice.
  """
  values = {k: v[0] if isinstance(v, tuple) else v for k, v in known.items()}
  owner = {}
  for name, value in known.items():
    names = value if isinstance(value, tuple) else (name,)
    owner.update(dict.fromkeys(names, name))
  chosen: dict[str, str] = {}
  for word in filter(None, (arg or '').split(',')):
    if word not in owner:
      raise ValueError(
        f'unknown config variant {word!r}{names_lib.nearest(word, owner)} '
        f'Known: {", ".join(owner) or "none"}.'
      )
    name = owner[word]
    if chosen.setdefault(name, word) != word:
      raise ValueError(
        f'config variants {chosen[name]!r} and {word!r} exclude each other.'
      )
    values[name] = word if isinstance(known[name], tuple) else True
  return values
