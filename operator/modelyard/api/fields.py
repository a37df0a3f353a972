"""The kinds of values that fields of the resources hold: their bounds, and the rules that name the remedy.

A text's form is checked by a CEL rule rather than by the schema's ``pattern``, whose message would show a regular expression. The
expressions are written in what Python's and Go's (RE2) syntax share.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema

from modelyard.api.markers import RULES, Rule

NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
SOURCE = (
    r"^(hf://[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}(@[A-Za-z0-9][A-Za-z0-9_./-]{0,127})?"
    r"|(s3|gs)://[a-z0-9][a-z0-9._-]{1,220}(/[^/\s]+)*"
    r"|pvc://[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?(/[^/\s]+)*|file://(/[^/\s]+)+|builtin://[a-z0-9][a-z0-9._-]{0,95})$"
)
FORMS = "hf://org/name[@revision], s3://bucket/path, gs://bucket/path, pvc://claim/path, file:///path or builtin://name"
OWNED_FLAGS = (
    "model|served-model-name|capability|dtype|max-model-length|max-concurrent-sequences|max-concurrency|max-queue|queue-timeout|"
    "request-timeout|max-prompt-tokens|max-new-tokens|quantization|quantize-above|trust-remote-code|adapter|temperature|top-p|top-k|min-p|repetition-penalty|"
    "default-max-tokens|generation-config|tool-parser|reasoning-parser|chat-template-kwargs|max-choices|max-body-bytes|"
    "kv-cache-tokens|prefix-caching|speculative-tokens|max-batch-tokens|embedding-cache-bytes|report-usage|beam-size|vllm-metric-names|"
    "media-hosts|media-timeout|max-media-bytes|max-images|max-image-pixels|max-audio-bytes|max-audio-seconds|audio-timeout|"
    "warmup|warmup-skip|warmup-steps|warmup-batch|warmup-memory|drain-timeout|host|port|metrics-port|cache-dir|model-dir|token-file|termination-log"
)
OWNED_LABELS = "^(modelyard[.]dev/.*|app[.]kubernetes[.]io/(name|instance|component|managed-by|version)|pod-template-hash)$"
OWNED_VARIABLES = f"HOME|TMPDIR|MODELYARD_({OWNED_FLAGS.replace('-', '_').upper()})"


def quantity(test: str, message: str) -> Rule:
    """Returns the rule that a quantity, written as text or as a number, parses and passes ``test`` (on ``value``)."""
    value = "quantity(string(self))"
    return Rule(f"isQuantity(string(self)) && {test.replace('value', value)}", message)


def text(pattern: str, message: str) -> Rule:
    """Returns the rule that a text matches, said in words rather than by the pattern."""
    return Rule(f"self.matches(r'{pattern}')", message)


def keys(pattern: str, message: str) -> Rule:
    """Returns the rule that all keys of a map match."""
    return Rule(f"self.all(key, key.matches(r'{pattern}'))", message)


def _sized(least: str, most: str) -> Rule:
    """Returns the rule that a size in bytes lies within two bounds, themselves included."""
    bounds = f"!value.isLessThan(quantity('{least}')) && !value.isGreaterThan(quantity('{most}'))"
    return quantity(bounds, f"must be a size with a unit, such as 16Mi, from {least} to {most}")


_SIZE = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True, "maxLength": 32}
_Size = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value), WithJsonSchema(_SIZE)]
Cores = Annotated[
    _Size,
    quantity(
        "value.isGreaterThan(quantity('0')) && !value.isGreaterThan(quantity('1024'))",
        "must be processor cores, such as 500m or 4, 1024 at most",
    ),
]
Bytes = Annotated[
    _Size,
    quantity("!value.isLessThan(quantity('1Mi'))", "must be an amount of memory with a unit, such as 512Mi or 16Gi, 1Mi at least"),
]
CacheSize = Annotated[_Size, _sized("0", "1Ti")]
UploadSize = Annotated[_Size, _sized("1Ki", "1Gi")]
Text = Annotated[str, Field(max_length=1024)]
Name = Annotated[
    str, Field(min_length=1, max_length=253), text(NAME, "must be the name of an object: lower-case letters, digits, '-' and '.'")
]
_KEYS = keys(LABEL_KEY, "keys must be label keys such as team or example.com/team")
LabelValue = Annotated[
    str,
    Field(max_length=63),
    text(LABEL_VALUE, "must be a label value: letters, digits, '-', '_' and '.', beginning and ending with a letter or digit"),
]
NodeLabels = Annotated[dict[str, LabelValue], Field(max_length=32), _KEYS]
_OURS = Rule(
    f"self.all(key, !key.matches('{OWNED_LABELS}'))",
    "modelyard.dev/* and the app.kubernetes.io/* labels that Modelyard sets cannot be overridden",
    reason="FieldValueForbidden",
)
PodLabels = Annotated[dict[str, LabelValue], Field(max_length=32), _KEYS, _OURS]
PodAnnotations = Annotated[dict[str, Text], Field(max_length=32), _KEYS, _OURS]


Source = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    Rule(f"self.matches(r'{SOURCE}')", f"must be {FORMS}"),
    Rule("!self.matches(r'/[.][.]?(/|$)')", "must not contain the path segments . and .."),
]
Alias = Annotated[
    str,
    Field(min_length=1, max_length=253),
    text("^[A-Za-z0-9][A-Za-z0-9._:-]*$", "must be letters, digits, '.', '_', ':' and '-' (a slash would read as namespace/name)"),
]


#: A host that media are fetched from, for the runtime too.
MEDIA_HOST = r"([*]|([*][.])?[a-z0-9_-]+([.][a-z0-9_-]+)*)(:[1-9][0-9]{0,4})?"
MediaHost = Annotated[
    str,
    Field(min_length=1, max_length=300),
    text(f"^{MEDIA_HOST}$", "must be a host's name in small letters, *.domain or *, with :port or without"),
]
#: Names in chat templates that decide what is rendered, or are the template's own; those that end with _token or _tokens are too.
RESERVED_VARIABLES = (
    *("conversation", "conversations", "messages", "tools", "documents", "chat_template", "tokenize"),
    *("add_generation_prompt", "continue_final_message", "return_assistant_tokens_mask"),
    *("raise_exception", "strftime_now", "namespace", "range", "dict", "lipsum", "cycler", "joiner", "loop", "self"),
)
TemplateVariable = Annotated[
    str,
    Field(min_length=1, max_length=64),
    text("^[A-Za-z][A-Za-z0-9_]*$", "must be letters, digits and '_', beginning with a letter"),
    Rule(
        f"!self.matches('^({'|'.join(RESERVED_VARIABLES)})$|_tokens?$')",
        "is not for requests to set: it decides what is rendered",
        reason="FieldValueForbidden",
    ),
]


Image = Annotated[
    str,
    Field(min_length=1, max_length=512),
    text("^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", "must be an image reference such as registry.example.com/team/runtime:1.2"),
]
Argument = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    Rule(f"!self.matches('^--({OWNED_FLAGS})(=|$)')", "is set by a field of the spec: use that field", reason="FieldValueForbidden"),
]


DeviceResource = Annotated[
    str,
    Field(min_length=1, max_length=253),
    text(
        "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
        "must be a device plugin's resource such as nvidia.com/gpu",
    ),
]


LabelKey = Annotated[str, Field(min_length=1, max_length=317), text(LABEL_KEY, "must be a label key such as team or example.com/team")]
VariableName = Annotated[
    str,
    Field(min_length=1, max_length=256),
    text("^[A-Za-z_][A-Za-z0-9_]*$", "must be letters, digits and '_', not beginning with a digit"),
    Rule(f"!self.matches('^({OWNED_VARIABLES})$')", "is set by Modelyard: use the field of the same meaning", reason="FieldValueForbidden"),
]


class Part(BaseModel):
    """A part of a resource: camelCase on the wire, unknown fields refused, values frozen. ``rules`` compare its fields."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core))
        return schema | ({RULES: [rule.to_dict() for rule in cls.rules]} if cls.rules else {})
