"""Which checkpoints of a run stay."""

from collections.abc import Iterable
import dataclasses
import math

from ml_collections import ConfigDict

from pyramid_jax.metrics import score_directions


_HOUR_SECS = 3600.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
  """A checkpoint, as its record says."""

  step: int
  time: float | None = None  # of the save, seconds since 1970; None: not known
  score: float | None = None  # the one that decides which are best


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
  """A checkpoint stays if one of the rules wants it."""

  newest: int  # how many of the newest
  every_hours: float = 0.0  # one after so many hours, 0 for none
  best: str = ''  # a score of the validation split, '' for none
  best_count: int = 1  # how many of the best by it
  lower_is_better: bool = False  # whether a lower score is better

  @classmethod
  def of_config(cls, train: ConfigDict) -> 'Rules':
    """Returns the rules of the section `train` of a config."""
    return cls(
      newest=train.keep,
      every_hours=train.keep_every_hours,
      best=train.keep_best,
      best_count=train.keep_best_count,
      lower_is_better=score_directions.lower_is_better(train.keep_best),
    )

  def kept(self, saved: Iterable[Saved]) -> set[int]:
    """Returns the steps of those that stay.

    Hours are between the times in the records; a clock that was set back in
    between counts as one that has gone on.
    """
    there = sorted(saved, key=lambda x: x.step)
    stay = {x.step for x in there[-self.newest :]}
    last = None
    for x in there:
      if self.every_hours and x.time is not None:
        away = math.inf if last is None else abs(x.time - last)
        if away >= self.every_hours * _HOUR_SECS:
          stay.add(x.step)
          last = x.time
    sign = -1 if self.lower_is_better else 1
    ranked = sorted(
      (sign * x.score, x.step) for x in there if x.score is not None
    )
    return stay | {step for _, step in ranked[-self.best_count :]}
