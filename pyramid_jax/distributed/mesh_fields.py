"""Fields of the mesh of devices."""

from pyramid_jax.config.field import Field


FIELDS = {
  'mesh.data': Field(
    -1,
    'The number of devices that split the batch; -1 takes the devices that'
    ' the other axes leave.',
    low=1,
    also=(-1,),
    resumable=True,
  ),
  'mesh.fsdp': Field(
    1,
    'The number of devices that split the batch and the parameters; -1 takes'
    ' the devices that the other axes leave.',
    low=1,
    also=(-1,),
    resumable=True,
  ),
  'mesh.tensor': Field(
    1,
    'The number of devices that split the weights which the sharding rules'
    ' name; -1 takes the devices that the other axes leave.',
    low=1,
    also=(-1,),
    resumable=True,
  ),
  'mesh.fsdp_min_size': Field(
    2**16,
    'The number of values from which on a weight is split over fsdp.',
    low=1,
    resumable=True,
  ),
}
