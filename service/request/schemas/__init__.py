"""What clients send: OpenAI's chat request, its messages and tools, and the `rerank` object beside them."""

from service.request.schemas.chat import ChatRequest, parse_chat_request, to_chat_request
from service.request.schemas.json_body import read_object
from service.request.schemas.messages import ChatMessage
from service.request.schemas.parameters import ParameterRules
from service.request.schemas.problems import describe, parse, validate
from service.request.schemas.rerank import RerankOptions

__all__ = [
    "ChatMessage",
    "ChatRequest",
    "ParameterRules",
    "RerankOptions",
    "describe",
    "parse",
    "parse_chat_request",
    "read_object",
    "to_chat_request",
    "validate",
]
