"""Reads OTLP's JSON by the classes of OpenTelemetry's own protocol, and tells what it says.

stdin: a list of request bodies. stdout: their resource and their spans.
"""

import base64
import json
import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def with_bytes(node):
    """OTLP writes ids in hex, where JSON of Protobuf has base64: the one difference between the two."""
    if isinstance(node, list):
        return [with_bytes(item) for item in node]
    if not isinstance(node, dict):
        return node
    ids = {"traceId": 16, "spanId": 8, "parentSpanId": 8}
    read = {}
    for key, value in node.items():
        if key in ids:
            value = bytes.fromhex(value)
            assert len(value) == ids[key] and any(value), (key, value)
            read[key] = base64.b64encode(value).decode()
        else:
            read[key] = with_bytes(value)
    return read


def attributes(listed):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in listed}


spans, resource = [], None
for body in json.load(sys.stdin):
    # Unknown fields and values of other types are errors.
    request = json_format.ParseDict(with_bytes(body), ExportTraceServiceRequest())
    for group in request.resource_spans:
        resource = attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano, span
                spans.append({
                    "scope": scope.scope.name,
                    "name": span.name,
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "kind": span.kind,
                    "attributes": attributes(span.attributes),
                    "links": [link.span_id.hex() for link in span.links],
                    "code": span.status.code,
                    "message": span.status.message,
                })
json.dump({"resource": resource, "spans": spans}, sys.stdout)
