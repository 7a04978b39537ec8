"""Makes events anew by the classes of OpenLineage's own client, which check what they take, and compares.

stdin: a list of events as they were received. stdout: nothing; a difference is an error.
"""

import json
import sys

from openlineage.client import event_v2
from openlineage.client.generated import (
    documentation_job,
    error_message_run,
    job_type_job,
    nominal_time_run,
    parent_run,
    processing_engine_run,
)
from openlineage.client.serde import Serde

RUN = {
    "nominalTime": nominal_time_run.NominalTimeRunFacet,
    "processing_engine": processing_engine_run.ProcessingEngineRunFacet,
    "errorMessage": error_message_run.ErrorMessageRunFacet,
    "parent": lambda run, job, producer: parent_run.ParentRunFacet(
        run=parent_run.Run(**run), job=parent_run.Job(**job), producer=producer
    ),
}
JOB = {
    "jobType": job_type_job.JobTypeJobFacet,
    "documentation": documentation_job.DocumentationJobFacet,
}


def facets(received, kinds):
    made = {}
    for name, facet in received.items():
        fields = {key: value for key, value in facet.items() if not key.startswith("_")}
        made[name] = kinds[name](**fields, producer=facet["_producer"])
    return made


def form(url):
    """The form of a facet without its version: the client may know a later one."""
    return url.rsplit("/", 3)[-1]


def without_versions(node):
    if isinstance(node, list):
        return [without_versions(item) for item in node]
    if isinstance(node, dict):
        return {
            key: form(value) if key in ("_schemaURL", "schemaURL") else without_versions(value)
            for key, value in node.items()
            # Absent and empty are the same to the client.
            if value not in ({}, [], None)
        }
    return node


for event in json.load(sys.stdin):
    made = event_v2.RunEvent(
        eventType=event_v2.RunState[event["eventType"]],
        eventTime=event["eventTime"],
        producer=event["producer"],
        run=event_v2.Run(runId=event["run"]["runId"], facets=facets(event["run"]["facets"], RUN)),
        job=event_v2.Job(
            namespace=event["job"]["namespace"],
            name=event["job"]["name"],
            facets=facets(event["job"]["facets"], JOB),
        ),
        inputs=[event_v2.InputDataset(**dataset) for dataset in event["inputs"]],
        outputs=[event_v2.OutputDataset(**dataset) for dataset in event["outputs"]],
    )
    ours, theirs = without_versions(event), without_versions(json.loads(Serde.to_json(made)))
    assert ours == theirs, f"{ours}\n{theirs}"
