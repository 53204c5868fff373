"""Secrets that follow from the key file, so that they need not be kept anywhere.

HMAC-SHA256 as a key derivation function (RFC 5869 section 2.3).
"""

import base64
import hashlib
import hmac
import json
from pathlib import Path

from kennel_core.errors import ConfigError


def digest(key_file: Path, purpose: str) -> bytes:
    """Derive 32 bytes that are for `purpose` alone.

    Raises:
        ConfigError: the key file is missing, unreadable or too short.
    """
    try:
        key = key_file.read_bytes().strip()
    except OSError as exc:
        raise ConfigError(f"{key_file}: {exc.strerror}; `kennel migrate` creates it") from exc
    if len(key) < 32:
        raise ConfigError(f"{key_file}: holds less than 32 characters; restore it from the backup")
    return hmac.new(key, purpose.encode(), hashlib.sha256).digest()


def password(key_file: Path, *parts: str) -> str:
    """Derive the password of what `parts` name: 43 letters, digits, ``-`` and ``_``.

    Raises:
        ConfigError: the key file is missing, unreadable or too short.
    """
    value = digest(key_file, f"password:{json.dumps(parts)}")
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
