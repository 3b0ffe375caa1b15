"""What names a person, a card, an account or a key, taken out of a text before it is stored."""

from service.store.redaction.redactor import Redactor, redact

__all__ = ["Redactor", "redact"]
