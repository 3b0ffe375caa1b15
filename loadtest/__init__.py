"""Load tests of a chat endpoint: an HTTP client that knows nothing of the packages it measures.

The loop is our own. What must hold is an open loop (arrivals never wait for answers) with latency counted
from the scheduled send time, so that a stalled server cannot hide its stall ("coordinated omission").
Locust has no such loop: its users wait for their answer before they go on. GuideLLM has Poisson arrivals but
times a request from when it was really sent, cannot read our `rerank` object, and asks for transformers and
datasets. The loop itself is forty lines over aiohttp (`run.py`), and aiohttp is a dependency already.
"""
