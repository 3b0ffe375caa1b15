"""POST /v1/responses: the part of OpenAI's Responses API that agents use, as a translation to chat and back."""
