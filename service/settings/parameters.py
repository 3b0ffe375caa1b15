"""Which request parameters beyond OpenAI's pass on to the policy."""

from __future__ import annotations

# vLLM's sampling parameters. They change a reply, not who gives it, nor what it costs beyond the token limit.
PASSED_PARAMETERS = (
    "allowed_token_ids",
    "bad_words",
    "chat_template_kwargs",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "ignore_eos",
    "include_reasoning",
    "include_stop_str_in_output",
    "min_tokens",
    "reasoning_effort",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stop_token_ids",
    "structured_outputs",
    "thinking_token_budget",
)

# They choose the model, the tenant's cache, the place in the queue or the shape of the policy's answer.
NEVER_PASSED = frozenset(
    {
        "cache_salt",
        "ec_transfer_params",
        "kv_transfer_params",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "model",
        "n",
        "priority",
        "prompt_logprobs",
        "request_id",
        "rerank",
        "seed",
        "stream",
        "stream_options",
        "temperature",
        "use_beam_search",
    }
)
