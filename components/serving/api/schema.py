"""What clients may send: the fields of OpenAI's API that have an effect here, and a few extensions.

A field that would be ignored is refused instead; those that change no answer (``user``, ``metadata``, ...) are taken.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_CHOICES = 64
"""Answers that one request may ask for."""
MAX_INPUTS = 2048
"""Texts that one request may have embedded."""
_Stop = Annotated[str, Field(min_length=1, max_length=1000)]
_Token = Annotated[int, Field(ge=0, lt=2**31)]
_Tokens = Annotated[list[_Token], Field(min_length=1)]
_Text = Annotated[str, Field(min_length=1)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


class StreamOptions(_Body):
    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class _Asked(_Body):
    """Fields that all requests share."""

    @model_validator(mode="before")
    @classmethod
    def _is_unicode(cls, values: Any) -> Any:
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("the text holds half of a surrogate pair, which is no Unicode") from None
        except (TypeError, ValueError):
            pass  # what else is wrong with it, its fields say
        return values

    model: str
    # taken, without effect on an answer
    user: str | None = None
    safety_identifier: str | None = None


class _Sampled(_Asked):
    """Fields that both kinds of completion share."""

    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="answers to each prompt; default 1")
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    temperature: float | None = Field(None, ge=0, le=2, description="default 1; 0 is greedy")
    top_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # extensions, by the names that other servers give them
    top_k: int = Field(0, ge=0, lt=2**31, description="keep the likeliest; 0 keeps all")
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    ignore_eos: bool = Field(False, description="write until max_tokens, whatever the model says")
    # taken, without effect on an answer
    prompt_cache_key: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> "_Sampled":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self


class CompletionBody(_Sampled):
    """``POST /v1/completions``."""

    prompt: (
        str
        | _Tokens
        | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
        | Annotated[list[_Tokens], Field(min_length=1, max_length=MAX_CHOICES)]
    ) = Field(description="a text, its token ids, or a list of either")
    logprobs: int | None = Field(None, ge=0, le=20, description="alternatives to report for each token")
    echo: Literal[False] | None = None


class EmbeddingBody(_Asked):
    """``POST /v1/embeddings``."""

    input: (
        _Text
        | _Tokens
        | Annotated[list[_Text], Field(min_length=1, max_length=MAX_INPUTS)]
        | Annotated[list[_Tokens], Field(min_length=1, max_length=MAX_INPUTS)]
    ) = Field(description="a text, its token ids, or a list of either")
    encoding_format: Literal["float", "base64"] | None = Field(None, description="default float; base64 of float32")


class TextPart(_Body):
    type: Literal["text"]
    text: str


class CalledFunction(_Body):
    name: str
    arguments: str


class Call(_Body):
    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction


Content = str | list[TextPart]


class SystemMessage(_Body):
    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(_Body):
    role: Literal["user"]
    content: Content
    name: str | None = None


class AssistantMessage(_Body):
    role: Literal["assistant"]
    content: Content | None = None
    refusal: None = None
    tool_calls: list[Call] | None = None
    name: str | None = None
    # what an earlier answer carried and a client sends back as it came
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class ToolMessage(_Body):
    role: Literal["tool"]
    content: Content
    tool_call_id: str


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(_Body):
    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="JSON schema of the arguments")
    strict: bool | None = None


class Tool(_Body):
    type: Literal["function"]
    function: Function


class FunctionName(_Body):
    name: str


class NamedTool(_Body):
    type: Literal["function"]
    function: FunctionName


class NamedSchema(_Body):
    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = Field(None, description="taken; a schema is always kept to")


class TextFormat(_Body):
    type: Literal["text"]


class JsonFormat(_Body):
    type: Literal["json_object"]


class SchemaFormat(_Body):
    type: Literal["json_schema"]
    json_schema: NamedSchema


class ChatBody(_Sampled):
    """``POST /v1/chat/completions``."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")] | None = None
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = Field(
        None, description="false: at most one call; a required choice gives one in any case"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "ChatBody":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        names = [tool.function.name for tool in self.tools or ()]
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names a function that is not among the tools {names}")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice 'required' needs tools")
        if len(set(names)) < len(names):
            raise ValueError(f"two tools have the same name: {names}")
        constrained = self.response_format is not None and self.response_format.type != "text"
        if constrained and names and self.tool_choice != "none":
            raise ValueError("response_format and tools exclude each other, but with tool_choice 'none'")
        return self
