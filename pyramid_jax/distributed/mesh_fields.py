"""Fields of the mesh of devices."""

from pyramid_jax.config.field import Field


_REST = '-1 takes the devices that the other axes leave.'
_SIZES = {
  'data': (-1, 'The number of devices that split the batch'),
  'fsdp': (1, 'The number of devices that split the batch and the parameters'),
  'tensor': (
    1,
    'The number of devices that split the weights which the sharding rules'
    ' name',
  ),
}
FIELDS = {
  **{
    f'mesh.{axis}': Field(
      size, f'{doc}; {_REST}', low=1, also=(-1,), resumable=True
    )
    for axis, (size, doc) in _SIZES.items()
  },
  'mesh.fsdp_min_size': Field(
    2**16,
    'The number of values from which on a weight is split over fsdp.',
    low=1,
    resumable=True,
  ),
}
