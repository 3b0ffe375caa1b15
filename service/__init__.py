"""The gateway: OpenAI's chat API over best-of-N with a reward model. Start reading at `request/pipeline.py`."""
