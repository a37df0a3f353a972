"""What a request wants its answer to be: from tools, tool_choice and response_format to the grammar's ingredients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelyard.api.errors import InvalidRequest

from modelyard_runtime.models.prompt import Ending
from modelyard_runtime.models.tools.grammars import Wanted
from modelyard_runtime.structured.grammar import ANY_OBJECT, json_rule
from modelyard_runtime.structured.schema import SchemaRefused, normalised

if TYPE_CHECKING:
    from modelyard_runtime.api.chat_body import ChatBody
    from modelyard_runtime.api.tools import Tool

_FORMAT = "response_format.json_schema.schema"
#: Keywords that may speak of properties which the schema itself does not list.
_MORE_PROPERTIES = {"$ref", "anyOf", "oneOf", "allOf", "if", "dependentSchemas", "patternProperties", "propertyNames"}


def wanted_of(body: ChatBody) -> Wanted | None:
    """Returns what bounds an answer; None when nothing does. May take some 10 ms with large schemas. Raises InvalidRequest."""
    answer = _answer(body)
    tools = body.callable_tools
    forced = body.tool_choice not in {None, "none", "auto"}
    if answer is None and not forced and not any(tool.function.strict for tool in tools):
        return None
    if body.ending is Ending.CONTINUE:
        text = "An answer that a schema or a choice of tools bounds begins anew. Leave out the last message, which is the assistant's."
        raise InvalidRequest(text, param="messages", code="invalid_value")
    schemas = {tool.function.name: _arguments(body, tool) for tool in tools}
    return Wanted(schemas, forced, body.parallel_tool_calls is not False, answer)


def param_of(body: ChatBody) -> str:
    """Returns the field that a grammar comes from, where it does not compile."""
    return _FORMAT if body.response_format and body.response_format.json_schema else "tools" if body.callable_tools else "response_format"


def _answer(body: ChatBody) -> str | None:
    form = body.response_format
    if form is None or form.type == "text":
        return None
    if form.json_schema is None:
        return json_rule(ANY_OBJECT)
    return json_rule(_checked(form.json_schema.schema_, _FORMAT, lenient=False))


def _arguments(body: ChatBody, tool: Tool) -> dict[str, Any]:
    """Returns the schema of a tool's arguments. One that is not strict is kept as far as a grammar can, as it promises no more.

    Where it lists the arguments there are and is silent on others, none are made up: that satisfies the schema too.
    """
    param = f"tools[{(body.tools or []).index(tool)}].function.parameters"
    given = tool.schema_of_arguments
    schema = _checked(given, param, lenient=not tool.function.strict)
    if "properties" in given and not _MORE_PROPERTIES & set(given):
        schema.setdefault("additionalProperties", False)
    return schema if {"$ref", "anyOf", "oneOf", "allOf", "type"} & set(given) else {"type": "object", **schema}


def _checked(schema: dict[str, Any], param: str, *, lenient: bool) -> dict[str, Any]:
    try:
        return normalised(schema, lenient=lenient)
    except SchemaRefused as refused:
        where = f"{param}{refused.path}"[:400]
        raise InvalidRequest(f"Invalid '{where}': {refused}.", param=where, code="invalid_value") from refused
