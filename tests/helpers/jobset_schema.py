"""JSON schema of the JobSets that `launch/gke` makes, as the API publishes it.

It has the fields that are used, and refuses all others: a field that is spelt
wrong, or that stands in the wrong place, is an error. The sources are the types
jobset.x-k8s.io/v1alpha2 (JobSet 0.10 and later), batch/v1 and core/v1.
"""

NAME = {
  'type': 'string',
  'pattern': r'^[a-z]([-a-z0-9]*[a-z0-9])?$',
  'maxLength': 63,
}
TEXT = {'type': 'string', 'minLength': 1}
TEXTS = {'type': 'object', 'additionalProperties': {'type': 'string'}}
FLAG = {'type': 'boolean'}
COUNT = {'type': 'integer', 'minimum': 0, 'maximum': 2**31 - 1}


def record(needed=(), **properties):
  """Returns the schema of an object with these properties and no others."""
  return {
    'type': 'object',
    'additionalProperties': False,
    'required': list(needed),
    'properties': properties,
  }


def items(schema, **more):
  """Returns the schema of a list."""
  return {'type': 'array', 'items': schema, 'minItems': 1, **more}


def one_of(*values):
  """Returns the schema of a text that is one of these."""
  return {'enum': list(values)}


# -- core/v1 ----------------------------------------------------------------

TOLERATION = record(
  key=TEXT,
  operator=one_of('Exists', 'Equal'),
  value={'type': 'string'},
  effect=one_of('NoSchedule', 'PreferNoSchedule', 'NoExecute'),
)
CONTAINER = record(
  ('name', 'image'),
  name=NAME,
  image=TEXT,
  command=items(TEXT),
  env=items(
    record(
      ('name',),
      name={'type': 'string', 'pattern': '^[A-Za-z_][A-Za-z0-9_]*$'},
      value={'type': 'string'},
    )
  ),
  ports=items(
    record(
      ('containerPort',),
      containerPort={'type': 'integer', 'minimum': 1, 'maximum': 65535},
    )
  ),
  resources=record(
    limits={
      'type': 'object',
      'minProperties': 1,
      'propertyNames': {'enum': ['google.com/tpu', 'nvidia.com/gpu']},
      'additionalProperties': {'type': 'integer', 'minimum': 1},
    }
  ),
  securityContext=record(privileged=FLAG),
  terminationMessagePolicy=one_of('File', 'FallbackToLogsOnError'),
  volumeMounts=items(record(('name', 'mountPath'), name=NAME, mountPath=TEXT)),
)
POD = record(
  ('containers', 'restartPolicy'),
  containers=items(CONTAINER),
  dnsPolicy=one_of('ClusterFirst', 'ClusterFirstWithHostNet', 'Default'),
  hostNetwork=FLAG,
  nodeSelector=TEXTS,
  restartPolicy=one_of('Always', 'Never', 'OnFailure'),
  serviceAccountName=NAME,
  shareProcessNamespace=FLAG,
  terminationGracePeriodSeconds=COUNT,
  tolerations=items(TOLERATION),
  volumes=items(
    record(('name',), name=NAME, emptyDir=record(medium=one_of('', 'Memory')))
  ),
)

# -- batch/v1 ---------------------------------------------------------------

POD_FAILURE_RULE = {
  **record(
    ('action',),
    action=one_of('FailJob', 'FailIndex', 'Ignore', 'Count'),
    onExitCodes=record(
      ('operator', 'values'),
      containerName=NAME,
      operator=one_of('In', 'NotIn'),
      values=items(
        {'type': 'integer', 'minimum': 0, 'maximum': 255},
        maxItems=255,
        uniqueItems=True,
      ),
    ),
    onPodConditions=items(
      record(
        ('type', 'status'), type=TEXT, status=one_of('True', 'False', 'Unknown')
      ),
      maxItems=20,
    ),
  ),
  'oneOf': [{'required': ['onExitCodes']}, {'required': ['onPodConditions']}],
}
JOB = record(
  ('template',),
  parallelism=COUNT,
  completions=COUNT,
  completionMode=one_of('Indexed', 'NonIndexed'),
  backoffLimit=COUNT,
  podFailurePolicy=record(
    ('rules',), rules=items(POD_FAILURE_RULE, maxItems=20)
  ),
  template=record(('spec',), spec=POD),
)

# -- jobset.x-k8s.io/v1alpha2 -----------------------------------------------

FAILURE_RULE = record(
  ('name', 'action'),
  name={
    'type': 'string',
    'pattern': '^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$',
    'maxLength': 128,
  },
  action=one_of(
    'FailJobSet', 'RestartJobSet', 'RestartJobSetAndIgnoreMaxRestarts'
  ),
  onJobFailureReasons=items(
    one_of(
      *('BackoffLimitExceeded', 'DeadlineExceeded', 'FailedIndexes'),
      *('MaxFailedIndexesExceeded', 'PodFailurePolicy'),
    ),
    uniqueItems=True,
  ),
  onJobFailureMessagePatterns=items(TEXT, uniqueItems=True),
  targetReplicatedJobs=items(NAME),
)
JOBSET = record(
  ('apiVersion', 'kind', 'metadata', 'spec'),
  apiVersion={'const': 'jobset.x-k8s.io/v1alpha2'},
  kind={'const': 'JobSet'},
  metadata=record(('name',), name=NAME, labels=TEXTS, annotations=TEXTS),
  spec=record(
    ('replicatedJobs',),
    failurePolicy=record(
      maxRestarts=COUNT,
      restartStrategy=one_of('Recreate', 'BlockingRecreate'),
      rules=items(FAILURE_RULE),
    ),
    network=record(
      enableDNSHostnames=FLAG, publishNotReadyAddresses=FLAG, subdomain=NAME
    ),
    replicatedJobs=items(
      record(
        ('name', 'template'),
        name=NAME,
        replicas=COUNT,
        template=record(('spec',), spec=JOB),
      )
    ),
    ttlSecondsAfterFinished=COUNT,
  ),
)
