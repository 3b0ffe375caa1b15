"""Requests that front-ends make for themselves, in the shapes they use; and what only looks like one."""

from __future__ import annotations

import pytest

from routing.router import BACKGROUND, Router
from routing.settings import RouterSettings
from routing.text.background import background_task

BILL = "I was charged twice for my subscription. What should I do?"
HISTORY = f"<chat_history>\nUSER: {BILL}\nASSISTANT: Please check the statement.\n</chat_history>"

OPEN_WEBUI = [
    # The trial's words.
    "### Task:\nWrite a title of three to five words for this chat.\n### Output:\n"
    f'JSON: {{ "title": "..." }}\n{HISTORY}',
    "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n### Guidelines:\n"
    '- The title should clearly represent the main theme.\n### Output:\nJSON format: { "title": "..." }\n'
    f"### Chat History:\n{HISTORY}",
    "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history.\n### Output:\n"
    f'JSON format: {{ "tags": ["tag1"] }}\n### Chat History:\n{HISTORY}',
    "### Task:\nSuggest 3-5 relevant follow-up questions or prompts that the user might naturally ask next.\n"
    f"### Output:\nJSON\n### Chat History:\n{HISTORY}\n",
    "### Task:\nAnalyze the chat history to determine the necessity of generating search queries, in the given "
    f"language.\n### Output:\nJSON\n### Chat History:\n{HISTORY}",
    "### Task:\nGenerate a detailed prompt for an image generation task based on the chat.\n### Chat History:\n"
    + HISTORY,
    "### Task:\nYou are an autocompletion system. Continue the text in `<text>`.\n### Context:\n"
    f"{HISTORY}\n<type>search query</type>\n<text>charged twice</text>\n#### Output:\n",
]
LIBRECHAT = [
    "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. Only return the "
    f"title itself.\n\nConversation:\nUser: {BILL}\nAI: Please check.",
    "Analyze this conversation and provide:\n1. The detected language of the conversation\n2. A concise title in the "
    f"detected language (5 words or less, no punctuation or quotation)\n\nUser: {BILL}\nAI: Please check.",
    f"Please generate a concise title (max 40 characters) for a conversation that starts with:\nUser: {BILL}\nTitle:",
]


@pytest.mark.parametrize("text", OPEN_WEBUI + LIBRECHAT)
def test_a_background_request_is_default(router: Router, text: str) -> None:
    decision = router.route([{"role": "user", "content": text}])
    assert (decision.route, decision.high_stakes, decision.rule) == ("default", False, BACKGROUND)


def test_an_instruction_in_the_system_message(router: Router) -> None:
    system = "You are a professional conversation summarizer. Generate a concise title that captures the essence."
    messages = [{"role": "system", "content": system}, {"role": "user", "content": f"user: {BILL}\nassistant: ok"}]
    assert router.route(messages).rule == BACKGROUND
    messages[0]["content"] = "You are a helpful assistant of a shop. Generate concise answers."
    assert router.route(messages).route == "billing"


@pytest.mark.parametrize(
    "text",
    [
        f"### Task: {BILL}",
        f"### Task:\nWrite a title for this chat. {BILL}",
        # Beside the quoted chat, and behind it.
        f"### Task:\nWrite a title for this chat.\n{BILL}\n{HISTORY}",
        f"### Task:\nWrite a title for this chat.\n{HISTORY}\n{BILL}",
        f"{BILL}\n{OPEN_WEBUI[0]}",
        # Retrieval templates ask the user's own question.
        f"### Task:\nRespond to the user query using the provided context.\n<context>doc</context>\n{BILL}",
        f"Provide a concise answer. {BILL}",
    ],
)
def test_a_question_is_not_hidden_by_the_look_of_a_task(router: Router, text: str) -> None:
    decision = router.route([{"role": "user", "content": text}])
    assert (decision.route, decision.rule) == ("billing", None)


def test_only_the_newest_turn_is_the_request(router: Router) -> None:
    messages = [{"role": "user", "content": OPEN_WEBUI[1]}, {"role": "user", "content": BILL}]
    assert router.route(messages).route == "billing"


def test_the_frame_is_what_stands_outside_the_quoted_chat() -> None:
    task = background_task(f"### Task:\nGenerate a title.\n{HISTORY}", "")
    assert task is not None
    assert task.frame == "### Task: Generate a title."


def test_it_can_be_switched_off_and_rules_come_first() -> None:
    messages = [{"role": "user", "content": OPEN_WEBUI[0]}]
    off = Router.load(settings=RouterSettings(background_tasks=False))
    assert off.route(messages).route == "billing"
    rule = {"name": "titles", "route": "titles", "pattern": "^### Task:"}
    ruled = Router.load(settings=RouterSettings.model_validate({"rules": [rule]}))
    assert (ruled.route(messages).route, ruled.route(messages).rule) == ("titles", "titles")
