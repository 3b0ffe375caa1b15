"""The tables. Times are UTC in ms since 1970; texts are redacted before they come here."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# The longest `user`; also in the migrations.
USER_ROOM = 256

responses = Table(
    "responses",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("at_ms", BigInteger, nullable=False, index=True),
    Column("tenant", String(64), nullable=False),
    # OpenAI's `user`, by which an application asks for deletion.
    Column("user", String(USER_ROOM)),
    Column("route", String(32), nullable=False),
    Column("route_probability", Float),
    Column("route_rule", String(200)),
    Column("route_truncated", Boolean),
    Column("locale", String(32)),
    Column("decision", String(16), nullable=False),
    Column("stop_reason", String(32), nullable=False),
    Column("degraded", String(64)),
    Column("sent", String(32), nullable=False),
    Column("winner", Integer),
    Column("score", Float),
    Column("probability", Float),
    Column("n", Integer, nullable=False),
    Column("n_completed", Integer, nullable=False),
    Column("n_scored", Integer, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    # Null where prompts are not stored.
    Column("prompt", JSON(none_as_null=True)),
    Column("parameters", JSON, nullable=False),
    Column("versions", JSON, nullable=False),
    Column("calibrator", JSON(none_as_null=True)),
    Column("timings_ms", JSON, nullable=False),
    # What was taken out of prompt or candidates: such a record cannot be replayed exactly.
    Column("redacted", JSON, nullable=False),
    # How likely it was that a person sees it.
    Column("review_chance", Float, nullable=False, server_default="0"),
    Index("ix_responses_tenant_user", "tenant", "user"),
)

candidates = Table(
    "candidates",
    metadata,
    Column("response_id", String(64), ForeignKey("responses.id", ondelete="CASCADE"), primary_key=True),
    Column("index", Integer, primary_key=True),
    Column("score", Float),
    Column("probability", Float),
    Column("disagreement", Float),
    Column("finish_reason", String(32)),
    Column("stopped", Boolean, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    # Null where texts are not stored.
    Column("content", Text),
    Column("tool_calls", JSON(none_as_null=True)),
)

reviews = Table(
    "reviews",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("response_id", String(64), ForeignKey("responses.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("route", String(32), nullable=False),
    Column("reason", String(64), nullable=False),
    # How likely such an answer was to come here: what is learnt from verdicts is weighted by its inverse.
    Column("chance", Float, nullable=False),
    Column("status", String(16), nullable=False),
    Column("claimed_by", String(64)),
    Column("claimed_until_ms", BigInteger),
    Column("decided_by", String(64)),
    Column("decided_at_ms", BigInteger),
    Column("verdict", String(16)),
    # Whether the winner could be sent as it stands, whatever was sent.
    Column("acceptable", Boolean),
    Column("chosen", Integer),
    Column("text", Text),
    Column("reasons", JSON(none_as_null=True)),
    Column("note", Text),
    Index("ix_reviews_status_at_ms", "status", "at_ms"),
)

# The messages of an answer that a person decides, exactly as they were sampled: what is approved is what is sent.
# Index -1 is what a reviewer wrote instead. Sealed where the settings have a key; gone once delivered.
held_messages = Table(
    "held_messages",
    metadata,
    Column("response_id", String(64), ForeignKey("responses.id", ondelete="CASCADE"), primary_key=True),
    Column("index", Integer, primary_key=True),
    Column("message", LargeBinary, nullable=False),
    # When the application first fetched what was decided.
    Column("delivered_at_ms", BigInteger, index=True),
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", String(64), primary_key=True),
    # No foreign key: an application may be quicker than the history, which is written behind the requests.
    Column("response_id", String(64), nullable=False, index=True),
    Column("tenant", String(64), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("thumb", String(8)),
    Column("rating", Integer),
    Column("preferred", Integer),
    Column("rejected", Integer),
    Column("comment", Text),
    # Greedy answers are not stored: without it their feedback would survive the user's deletion.
    Column("user", String(USER_ROOM)),
    Index("ix_feedback_tenant_user", "tenant", "user"),
)

# Users whose answers were deleted, by digest: each gateway clears its memory, and what was under way, by it.
forgotten = Table(
    "forgotten",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("at_ms", BigInteger, nullable=False, index=True),
    Column("tenant", String(64), nullable=False),
    Column("user_digest", String(64), nullable=False),
)

# Events that other systems are told of: written in one transaction with what they tell, sent until somebody takes them.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("body", JSON, nullable=False),
    Column("tries", Integer, nullable=False),
    # Null once it was taken or given up.
    Column("next_at_ms", BigInteger, index=True),
    Column("last_error", Text),
)

# A random sample of answers that people judge blind.
audits = Table(
    "audits",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("since_ms", BigInteger, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
    Column("seed", BigInteger, nullable=False),
    # How many answers each stratum has, and how many of them were drawn.
    Column("strata", JSON, nullable=False),
    # Answers of the time that could not be drawn, by why.
    Column("left_out", JSON, nullable=False),
)

audit_items = Table(
    "audit_items",
    metadata,
    # Says nothing of the answer: it is all that an annotator sees beside the texts.
    Column("id", String(64), primary_key=True),
    Column("audit_id", String(64), ForeignKey("audits.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("response_id", String(64), ForeignKey("responses.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("stratum", String(64), nullable=False),
    # Answers that this one stands for.
    Column("weight", Float, nullable=False),
    Column("winner_left", Boolean, nullable=False),
    # What the winner is held against: another candidate, or the policy's greedy answer.
    Column("other", Integer),
    Column("greedy", Text),
    Column("labels_wanted", Integer, nullable=False),
    Column("held_by", String(64)),
    Column("held_until_ms", BigInteger),
    Index("ix_audit_items_audit_id_position", "audit_id", "position"),
)

audit_labels = Table(
    "audit_labels",
    metadata,
    Column("item_id", String(64), ForeignKey("audit_items.id", ondelete="CASCADE"), primary_key=True),
    Column("annotator", String(64), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("choice", String(8), nullable=False),
    Column("left_acceptable", Boolean),
    Column("right_acceptable", Boolean),
    Column("dimensions", JSON, nullable=False),
    Column("note", Text),
)

# What operators did: written in one transaction with what they did. Triggers refuse to change or delete a row.
actions = Table(
    "actions",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("subject", String(80), nullable=False),
    Column("details", JSON, nullable=False),
)
