"""Holds files of a batch against the types of OpenAI's own Python package: pip install openai==3.54.0

    openai_types.py KIND=FILE...

KIND is batch (one batch object), or input, output or errors (JSON Lines). Prints how many objects of
each file were looked at, then what is wrong with them, one finding a line, and exits 1 if there is any.

Types must be right without conversion and required members there. The batch object and the envelopes
of lines must have no other members, and the batch object all that OpenAI's has; answers may have more,
as vLLM's do. The package has no types for lines: those below are "The per-line object of the batch input
file" and its like in OpenAI's API reference.
"""

import functools
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Optional, get_type_hints

from openai.types import Batch, Completion, CreateEmbeddingResponse, batch_create_params
from openai.types.chat import ChatCompletion, completion_create_params as chat_params
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.responses import Response
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import Literal, NotRequired, TypedDict

EXACT = ConfigDict(extra="forbid", strict=True)

ENDPOINTS = {
    "/v1/chat/completions": (chat_params.CompletionCreateParamsNonStreaming, ChatCompletion),
    "/v1/completions": (CompletionCreateParamsNonStreaming, Completion),
    "/v1/embeddings": (EmbeddingCreateParams, CreateEmbeddingResponse),
    "/v1/responses": (ResponseCreateParamsNonStreaming, Response),
}
OBJECTS = {
    "chat.completion": ChatCompletion,
    "text_completion": Completion,
    "list": CreateEmbeddingResponse,
    "response": Response,
}


class InputLine(TypedDict):
    __pydantic_config__ = EXACT
    custom_id: str
    method: Literal["POST"]
    url: get_type_hints(batch_create_params.BatchCreateParams)["endpoint"]
    body: dict[str, Any]


class LineResponse(TypedDict):
    __pydantic_config__ = EXACT
    status_code: int
    request_id: str
    body: dict[str, Any]


class LineError(TypedDict):
    __pydantic_config__ = EXACT
    code: str
    message: str


class OutputLine(TypedDict):
    __pydantic_config__ = EXACT
    id: str
    custom_id: Optional[str]  # null: a bad line may have none, where OpenAI rejects the whole file
    response: Optional[LineResponse]
    error: Optional[LineError]
    spool: NotRequired[dict[str, Any]]  # spool's own


adapter = functools.cache(TypeAdapter)


def mistakes(kind: Any, value: Any) -> Iterator[str]:
    """Yields what pydantic says against value as a kind."""
    try:
        exhaust(adapter(kind).validate_python(value, strict=True))
    except ValidationError as e:
        for error in e.errors(include_url=False, include_input=False):
            yield f"{'.'.join(map(str, error['loc']))}: {error['msg']}"


def exhaust(value: Any) -> None:
    """Reads value to the end: pydantic looks at what is typed as Iterable only while it is read."""
    if isinstance(value, Mapping):
        value = value.values()
    elif isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        return
    for item in value:
        exhaust(item)


def additions(path: str, value: Any) -> Iterator[str]:
    """Yields the members of a model that its type does not know."""
    if isinstance(value, BaseModel):
        for name in value.model_extra or {}:
            yield f"{path}{name}: not a member of {type(value).__name__}"
        for name in type(value).model_fields:
            yield from additions(f"{path}{name}.", getattr(value, name))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from additions(f"{path}{i}.", item)


def check_batch(value: Any) -> Iterator[str]:
    wrong = list(mistakes(Batch, value))
    yield from wrong
    if wrong:
        return
    yield from additions("", Batch.model_validate(value))
    for name in Batch.model_fields.keys() - value.keys():
        yield f"{name}: missing"
    metadata = value["metadata"] or {}
    if len(metadata) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in metadata.items()):
        yield "metadata: more than 16 pairs, 64 characters a key or 512 a value"


def check_input(line: Any) -> Iterator[str]:
    wrong = list(mistakes(InputLine, line))
    yield from wrong
    if wrong or line["url"] not in ENDPOINTS:
        return
    params, _ = ENDPOINTS[line["url"]]
    yield from mistakes(params, line["body"])
    for name in line["body"].keys() - get_type_hints(params).keys():
        yield f"body.{name}: not a parameter of {line['url']}"


def check_output(line: Any) -> Iterator[str]:
    wrong = list(mistakes(OutputLine, line))
    yield from wrong
    if wrong:
        return
    response = line["response"]
    if response is None or line["error"] is not None or response["status_code"] != 200:
        yield "response: not a success"
        return
    answer = OBJECTS.get(response["body"].get("object"))
    if answer is None:
        yield f"response.body.object: {response['body'].get('object')!r}"
        return
    yield from mistakes(answer, response["body"])


def check_errors(line: Any) -> Iterator[str]:
    wrong = list(mistakes(OutputLine, line))
    yield from wrong
    if wrong:
        return
    if (line["response"] is None) == (line["error"] is None):
        yield "response, error: want exactly one of them"
    elif line["response"] is not None and 200 <= line["response"]["status_code"] < 300:
        yield "response: a success"


CHECKS = {"batch": check_batch, "input": check_input, "output": check_output, "errors": check_errors}


def main(arguments: list[str]) -> int:
    findings = []
    for argument in arguments:
        kind, path = argument.split("=", 1)
        with open(path, encoding="utf-8") as file:
            objects = [json.load(file)] if kind == "batch" else [json.loads(line) for line in file]
        print(f"{kind}={path}: {len(objects)}")
        for number, value in enumerate(objects, 1):
            findings += [f"{path}:{number}: {finding}" for finding in CHECKS[kind](value)]
    print("\n".join(findings))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
