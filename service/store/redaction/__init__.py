"""What names a person, a card, an account or a key, taken out of a text before it is stored."""

from service.store.redaction.redactor import Redactor, redact, redact_note, redactor_of

__all__ = ["Redactor", "redact", "redact_note", "redactor_of"]
