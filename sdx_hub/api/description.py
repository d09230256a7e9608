"""The OpenAPI document, with what the layers around the handlers add to all of them.

A handler declares what its service refuses (`problems.refuses`). That a token may be missing, a parameter malformed, a
body too large or the hub too busy is not the handler's to say: it follows here, from what the operation takes.
"""

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import OpenAPI, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.plugins import OpenAPISchemaPlugin
from litestar.typing import FieldDefinition
from msgspec import Struct

from sdx_hub.api.problems import MEDIA_TYPE

if TYPE_CHECKING:
    # The framework hands it to plugins, and exports it nowhere.
    from litestar._openapi.schema_generation import SchemaCreator

_TEXT = {"type": "string"}
_HEADERS = {
    HTTPStatus.UNAUTHORIZED: {"www-authenticate": {"description": "How to authenticate.", "schema": _TEXT}},
    HTTPStatus.SERVICE_UNAVAILABLE: {"retry-after": {"description": "Seconds to wait.", "schema": {"type": "integer"}}},
}


class Described(OpenAPIConfig):
    """A configuration whose document is completed when somebody asks for it first."""

    def to_openapi_schema(self) -> OpenAPI:
        return _Document(**vars(super().to_openapi_schema()))


class StrictBodies(OpenAPISchemaPlugin):
    """Says of a struct that refuses unknown members that it does."""

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        kind = field_definition.annotation
        return isinstance(kind, type) and issubclass(kind, Struct) and kind.__struct_config__.forbid_unknown_fields

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: "SchemaCreator") -> Schema:
        usual = next(
            plugin
            for plugin in schema_creator.plugins
            if isinstance(plugin, OpenAPISchemaPlugin)
            and plugin is not self
            and plugin.is_plugin_supported_field(field_definition)
        )
        schema = usual.to_openapi_schema(field_definition, schema_creator)
        schema.additional_properties = False
        return schema


class Tuples(OpenAPISchemaPlugin):
    """Describes `tuple[T, ...]`, whose dots the framework takes for one more type where its length is bounded."""

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        inner = field_definition.inner_types
        return field_definition.origin is tuple and len(inner) == 2 and inner[1].annotation is Ellipsis

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: "SchemaCreator") -> Schema:
        items = schema_creator.for_field_definition(field_definition.inner_types[0])
        return Schema(type=OpenAPIType.ARRAY, items=items)


class _Document(OpenAPI):
    def to_schema(self) -> dict[str, Any]:
        document = super().to_schema()
        for path in document["paths"].values():
            for operation in path.values():
                _complete(operation)
        return document


def _complete(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    for status in _refused_before_the_handler(operation):
        responses.setdefault(str(int(status)), {})
    for code, response in responses.items():
        status = HTTPStatus(int(code))
        if status >= HTTPStatus.BAD_REQUEST:
            responses[code] = _problem(status)
            continue
        response["description"] = status.phrase
        for header in response.get("headers", {}).values():
            header.setdefault("schema", _TEXT)


def _refused_before_the_handler(operation: dict[str, Any]) -> list[HTTPStatus]:
    found = [HTTPStatus.SERVICE_UNAVAILABLE]
    if operation.get("security"):
        found += [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN]
    if operation.get("parameters") or operation.get("requestBody"):
        found.append(HTTPStatus.BAD_REQUEST)
    if operation.get("requestBody"):
        found.append(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return found


def _problem(status: HTTPStatus) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": status.phrase, "headers": _HEADERS.get(status, {}), "content": content}
