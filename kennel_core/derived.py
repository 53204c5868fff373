"""Passwords that follow from the key file, so that nothing has to hold them."""

import base64
import hashlib
import hmac
import json
from pathlib import Path

from kennel_core.errors import ConfigError


def password(key_file: Path, *parts: str) -> str:
    """Derive the password of what `parts` name: 43 letters, digits, ``-`` and ``_``; always the same.

    HMAC-SHA256 as a key derivation function, RFC 5869 section 2.3. Different lists of parts give different
    passwords, however they are split.

    Raises:
        ConfigError: the key file is missing, unreadable or too short.
    """
    try:
        key = key_file.read_bytes().strip()
    except OSError as exc:
        raise ConfigError(f"{key_file}: {exc.strerror}; `kennel migrate` creates it") from exc
    if len(key) < 32:
        raise ConfigError(f"{key_file}: holds less than 32 characters; restore it from the backup")
    purpose = json.dumps(["password", *parts])
    digest = hmac.new(key, purpose.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
